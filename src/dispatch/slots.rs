//! Who may run now: slots of the engine and of each function, and a bounded wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The most slots that the engine or a function may have.
pub const MAX_SLOTS: usize = 10_000;

/// How many attempts may run in the place of callers that wait for them, on an engine of so many slots.
pub fn nested(slots: usize) -> usize {
    (slots / 8).max(32)
}

/// A function's own slots, where its definition limits them.
#[derive(Debug)]
pub struct FunctionSlots {
    inner: Mutex<Option<Limited>>,
    /// Whether there is a limit: read on every attempt, so that a function without one pays no lock.
    limited: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Limited {
    semaphore: Arc<Semaphore>,
    size: usize,
}

impl FunctionSlots {
    /// Slots for this many attempts at once, or no limit.
    pub fn new(concurrency: Option<u32>) -> Self {
        let slots = Self { inner: Mutex::new(None), limited: false.into() };
        slots.resize(concurrency);
        slots
    }

    /// Changes the limit. Attempts under way end as they are; the new limit holds once enough of them have.
    pub fn resize(&self, concurrency: Option<u32>) {
        let mut inner = self.inner.lock();
        let size = concurrency.map(|size| (size as usize).clamp(1, MAX_SLOTS));
        match (inner.as_mut(), size) {
            (Some(limited), Some(size)) if size >= limited.size => {
                limited.semaphore.add_permits(size - limited.size);
                limited.size = size;
            }
            (Some(limited), Some(size)) => {
                // `forget_permits` takes only those that are free; what is missing is taken back as attempts end,
                // by a fresh semaphore that old permits no longer return to.
                let forgotten = limited.semaphore.forget_permits(limited.size - size);
                if forgotten < limited.size - size {
                    *inner = Some(Limited { semaphore: Arc::new(Semaphore::new(size)), size });
                } else {
                    limited.size = size;
                }
            }
            (_, None) => *inner = None,
            (None, Some(size)) => *inner = Some(Limited { semaphore: Arc::new(Semaphore::new(size)), size }),
        }
        self.limited.store(inner.is_some(), Ordering::Release);
    }

    fn semaphore(&self) -> Option<Arc<Semaphore>> {
        if !self.limited.load(Ordering::Acquire) {
            return None;
        }
        self.inner.lock().as_ref().map(|limited| limited.semaphore.clone())
    }

    /// Whether an attempt could begin now without waiting for this function's slots.
    pub fn free(&self) -> bool {
        self.semaphore().is_none_or(|semaphore| semaphore.available_permits() > 0)
    }
}

/// The engine's slots.
#[derive(Debug)]
pub struct Slots {
    engine: Arc<Semaphore>,
    /// For attempts whose callers, attempts themselves, wait for them.
    nested: Arc<Semaphore>,
    size: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    max_wait: Duration,
}

/// The right to make one attempt. Returned when dropped.
#[derive(Debug)]
pub struct Slot {
    _engine: OwnedSemaphorePermit,
    _function: Option<OwnedSemaphorePermit>,
}

/// No slot came free in time, or too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Slots {
    /// `size` attempts at once; at most `max_waiting` wait, each for at most `max_wait`.
    pub fn new(size: usize, max_waiting: usize, max_wait: Duration) -> Self {
        let size = size.clamp(1, MAX_SLOTS);
        let nested = Arc::new(Semaphore::new(nested(size)));
        let engine = Arc::new(Semaphore::new(size));
        Self { engine, nested, size, waiting: AtomicUsize::new(0), max_waiting, max_wait }
    }

    /// How many attempts run now.
    pub fn running(&self) -> usize {
        self.size - self.engine.available_permits()
    }

    /// A slot that is free now, if there is one.
    pub fn try_acquire(&self, function: &FunctionSlots) -> Option<Slot> {
        let of_function = match function.semaphore() {
            Some(semaphore) => Some(semaphore.try_acquire_owned().ok()?),
            None => None,
        };
        let engine = self.engine.clone().try_acquire_owned().ok()?;
        Some(Slot { _engine: engine, _function: of_function })
    }

    /// A slot for an attempt whose caller is an attempt that waits for it, if there is one. It is not waited for: what
    /// is waited for might be the caller's own.
    pub fn try_nested(&self, function: &FunctionSlots) -> Option<Slot> {
        let of_function = match function.semaphore() {
            Some(semaphore) => Some(semaphore.try_acquire_owned().ok()?),
            None => None,
        };
        let nested = self.nested.clone().try_acquire_owned().ok()?;
        Some(Slot { _engine: nested, _function: of_function })
    }

    /// Waits for a slot: the function's first, so that a crowd for one function holds none of the engine's.
    pub async fn acquire(&self, function: &FunctionSlots) -> Result<Slot, Full> {
        if let Some(slot) = self.try_acquire(function) {
            return Ok(slot);
        }
        let _place = self.place_in_line()?;
        tokio::time::timeout(self.max_wait, self.wait(function)).await.unwrap_or(Err(Full))
    }

    /// Waits for a slot without a bound, for work that is kept elsewhere. `None` once `stop` is cancelled.
    pub async fn acquire_patiently(&self, function: &FunctionSlots, stop: &CancellationToken) -> Option<Slot> {
        if let Some(slot) = self.try_acquire(function) {
            return Some(slot);
        }
        tokio::select! {
            slot = self.wait(function) => slot.ok(),
            () = stop.cancelled() => None,
        }
    }

    async fn wait(&self, function: &FunctionSlots) -> Result<Slot, Full> {
        let of_function = match function.semaphore() {
            Some(semaphore) => semaphore.acquire_owned().await.ok(),
            None => None,
        };
        let engine = self.engine.clone().acquire_owned().await.map_err(|_| Full)?;
        Ok(Slot { _engine: engine, _function: of_function })
    }

    fn place_in_line(&self) -> Result<Place<'_>, Full> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.waiting);
        if before >= self.max_waiting { Err(Full) } else { Ok(place) }
    }
}

/// A place among those who wait; given up when dropped, also when the waiter is.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_wait_is_refused_and_a_long_one_ends() {
        let slots = Slots::new(1, 1, Duration::from_secs(2));
        let function = FunctionSlots::new(None);
        let held = slots.acquire(&function).await.unwrap();
        let (first, second) = tokio::join!(slots.acquire(&function), slots.acquire(&function));
        assert_eq!(first.unwrap_err(), Full, "waited two seconds in vain");
        assert_eq!(second.unwrap_err(), Full, "one may wait, not two");
        drop(held);
        assert!(slots.acquire(&function).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_for_one_function_leaves_the_others_alone() {
        let slots = Slots::new(2, 8, Duration::from_secs(2));
        let (busy, quiet) = (FunctionSlots::new(Some(1)), FunctionSlots::new(None));
        let _held = slots.acquire(&busy).await.unwrap();
        let crowd = async { tokio::join!(slots.acquire(&busy), slots.acquire(&busy)) };
        let other = async {
            tokio::task::yield_now().await;
            slots.try_acquire(&quiet)
        };
        let (_, other) = tokio::join!(crowd, other);
        assert!(other.is_some());
    }

    #[tokio::test]
    async fn a_limit_can_be_changed_under_way() {
        let slots = Slots::new(10, 0, Duration::ZERO);
        let function = FunctionSlots::new(Some(2));
        let held: Vec<_> = (0..2).map(|_| slots.try_acquire(&function).unwrap()).collect();
        assert!(slots.try_acquire(&function).is_none());
        function.resize(Some(3));
        let third = slots.try_acquire(&function).unwrap();
        assert!(slots.try_acquire(&function).is_none());
        function.resize(Some(1));
        drop((held, third));
        let _one = slots.try_acquire(&function).unwrap();
        assert!(slots.try_acquire(&function).is_none());
        function.resize(None);
        assert!(slots.try_acquire(&function).is_some());
    }
}
