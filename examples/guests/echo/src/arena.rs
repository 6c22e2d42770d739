//! An allocator that hands out the memory after the program's data, front to back.
//!
//! The linker rounds the initial memory up to whole pages, and the usual allocator ignores what that leaves: its first
//! allocation grows the memory. This one uses the rest first (some 60 KiB), so that small payloads grow nothing. It
//! frees everything at once, when nothing is in use any more: that is the end of every call.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

const PAGE_BYTES: usize = 64 << 10;

/// The memory after the program's data.
pub struct Arena {
    /// The first free byte; 0 before the first allocation.
    free: Cell<usize>,
    /// How many allocations are in use.
    used: Cell<usize>,
}

// SAFETY: wasm32-unknown-unknown has one thread.
unsafe impl Sync for Arena {}

unsafe extern "C" {
    /// Where the linker put the end of the program's data.
    static __heap_base: u8;
}

impl Arena {
    /// An arena in which nothing is in use.
    pub const fn new() -> Self {
        Self { free: Cell::new(0), used: Cell::new(0) }
    }
}

/// Makes the memory reach `end`.
fn reach(end: usize) -> bool {
    let pages = core::arch::wasm32::memory_size(0);
    let missing = end.div_ceil(PAGE_BYTES).saturating_sub(pages);
    missing == 0 || core::arch::wasm32::memory_grow(0, missing) != usize::MAX
}

// SAFETY: an allocation starts where the one before it ended, or later, until nothing is in use; none is moved.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let free = if self.used.get() == 0 { &raw const __heap_base as usize } else { self.free.get() };
        let start = free.next_multiple_of(layout.align());
        let Some(end) = start.checked_add(layout.size()).filter(|&end| reach(end)) else {
            return ptr::null_mut();
        };
        self.free.set(end);
        self.used.set(self.used.get() + 1);
        ptr::without_provenance_mut(start)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        self.used.set(self.used.get() - 1);
    }
}
