//! Instances that wait for their version's next attempt, where its definition asks for that.
//!
//! An attempt that succeeded leaves its instance here; one that failed in any way drops it with its store. What waits
//! here is taken from the same pool as everything else, and is the first to give way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::{Engine, Store, component};
use wasmtime_wasi_http::p2::bindings::Proxy;

use super::guest::Guest;
use crate::functions::{Reuse, Version};

/// An instance that may serve again.
pub(super) enum Ready {
    Component(component::Instance),
    Http(Proxy),
    Reactor(wasmtime::Instance),
}

/// Where a guest runs: a store, and once it is made the instance in it.
pub(super) struct Seat {
    pub(super) store: Store<Guest>,
    instance: Option<Ready>,
    /// Attempts that it served.
    uses: u32,
    made: Instant,
}

impl Seat {
    /// A seat for this guest: one that was kept, or a new one.
    pub(super) fn take(kept: Option<Self>, guest: Guest, engine: &Engine) -> Self {
        match kept {
            Some(mut seat) => {
                guest.take_over(&mut seat.store);
                seat
            }
            None => Self { made: guest.began, store: guest.into_store(engine), instance: None, uses: 0 },
        }
    }

    /// The instance of a typed component, if there is one.
    pub(super) fn component(&mut self) -> Option<component::Instance> {
        match self.instance.take() {
            Some(Ready::Component(instance)) => Some(instance),
            _ => None,
        }
    }

    /// The instance of a `wasi:http` component, if there is one.
    pub(super) fn proxy(&mut self) -> Option<Proxy> {
        match self.instance.take() {
            Some(Ready::Http(proxy)) => Some(proxy),
            _ => None,
        }
    }

    /// The instance of a reactor, if there is one.
    pub(super) fn reactor(&mut self) -> Option<wasmtime::Instance> {
        match self.instance.take() {
            Some(Ready::Reactor(instance)) => Some(instance),
            _ => None,
        }
    }

    /// Leaves the seat to the next guest, if there is a shelf for it, this one succeeded, and nothing of it is open.
    pub(super) fn leave(mut self, shelf: Option<&Shelf>, instance: Option<Ready>, succeeded: bool) {
        let Some(shelf) = shelf.filter(|_| succeeded && instance.is_some()) else { return };
        if self.store.data_mut().leave() {
            self.instance = instance;
            shelf.put(self);
        }
    }

    /// Whether it may serve another attempt.
    fn may_serve(&self, reuse: &Reuse) -> bool {
        self.uses < reuse.max_uses && self.made.elapsed() < reuse.max_age()
    }
}

/// What waits, by the version that it is of.
#[derive(Default)]
pub(super) struct Shelf {
    /// By the address of the version, which every guest on the shelf keeps alive.
    kept: Mutex<HashMap<usize, Vec<Seat>>>,
    /// How many there are: most engines have none, and look no further.
    count: AtomicUsize,
}

fn address(version: &Arc<Version>) -> usize {
    Arc::as_ptr(version).addr()
}

impl Shelf {
    /// The instance that was used last, if one waits that may serve again.
    pub(super) fn take(&self, version: &Arc<Version>) -> Option<Seat> {
        let reuse = version.definition.reuse.as_ref()?;
        loop {
            let kept = {
                let mut shelf = self.kept.lock();
                let kept = shelf.get_mut(&address(version))?.pop()?;
                self.count.fetch_sub(1, Ordering::Relaxed);
                kept
            };
            // What is too old is dropped here, outside of the lock.
            if kept.may_serve(reuse) {
                return Some(kept);
            }
        }
    }

    /// Keeps an instance that has served an attempt, if it may serve another.
    pub(super) fn put(&self, mut kept: Seat) {
        let version = kept.store.data().version.clone();
        let Some(reuse) = &version.definition.reuse else { return };
        kept.uses += 1;
        if !kept.may_serve(reuse) {
            return;
        }
        let mut shelf = self.kept.lock();
        let waiting = shelf.entry(address(&version)).or_default();
        if waiting.len() < reuse.max_concurrent as usize {
            waiting.push(kept);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops the one that has waited longest of some version, so that another guest has room. `false` if none waits.
    pub(super) fn give_way(&self) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut shelf = self.kept.lock();
        let longest = shelf.values_mut().max_by_key(|waiting| waiting.len()).filter(|waiting| !waiting.is_empty());
        let given = longest.map(|waiting| waiting.remove(0));
        drop(shelf);
        if given.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        given.is_some()
    }

    /// Drops what is too old, and what is of a version that nobody else knows any more.
    pub(super) fn tidy(&self) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut dropped = Vec::new();
        let mut shelf = self.kept.lock();
        shelf.retain(|_, waiting| {
            let Some(version) = waiting.first().map(|kept| kept.store.data().version.clone()) else { return false };
            // This one, and one for each guest.
            let forgotten = Arc::strong_count(&version) == waiting.len() + 1;
            let reuse = version.definition.reuse.as_ref();
            dropped
                .extend(waiting.extract_if(.., |kept| forgotten || reuse.is_none_or(|reuse| !kept.may_serve(reuse))));
            !waiting.is_empty()
        });
        drop(shelf);
        self.count.fetch_sub(dropped.len(), Ordering::Relaxed);
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Reuse {
    fn max_age(&self) -> Duration {
        Duration::from_secs_f64(self.max_age_seconds)
    }
}
