//! Tells every connection that the listener is closing.
//!
//! A cancellation token would do, but each poll of one takes two locks that all connections share, and a connection is
//! polled for every request. Here a poll is one load of a flag that nobody writes; the wake-up is registered once.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: AtomicBool,
    wake: Notify,
}

impl Drain {
    /// Begins the drain and wakes every connection.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    /// Whether it has begun. Meant to be asked on every poll, after [`woken`](Self::woken) was polled once: whoever
    /// does so either sees the flag or is woken after it was set.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until it has begun.
    pub(super) async fn begins(&self) {
        let woken = self.woken();
        if !self.has_begun() {
            woken.await;
        }
    }

    /// Wakes the task that polls it when the drain begins.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }
}
