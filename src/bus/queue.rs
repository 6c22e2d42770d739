//! The queue between a bus and one subscription: bounded by messages and by bytes.
//!
//! A full queue drops the message that does not fit and counts it: a subscriber that is slow must neither hold up the
//! others nor fill the memory, and whoever reads the count knows what it missed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use trigger_core::clock::Busy;
use trigger_core::{Clock, Message};

/// How many messages wait for one subscription at most, as in NATS's own clients.
pub(super) const MAX_MESSAGES: usize = 65_536;

/// How many bytes of payload they may have together.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// What counts for a message beside its payload, so that empty ones do not count as nothing.
const OVERHEAD: usize = 256;

/// Puts messages in.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::Sender<(Message, Busy)>,
    clock: Clock,
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    dropped: Arc<AtomicU64>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is in the queue.
    Queued,
    /// There was no room.
    Full,
    /// Nobody takes messages from the queue any more.
    Gone,
}

/// Takes messages out; drops `guard` together with itself.
pub(super) struct Receiver<G> {
    messages: mpsc::Receiver<(Message, Busy)>,
    bytes: Arc<AtomicUsize>,
    /// The newest message taken: on its way until the next one is asked for.
    taken: Busy,
    _guard: G,
}

/// A queue of its own for one subscription. What is in it is under way on this clock.
pub(super) fn queue<G>(clock: Clock, max_messages: usize, max_bytes: usize, guard: G) -> (Sender, Receiver<G>) {
    let (tx, rx) = mpsc::channel(max_messages);
    let bytes = Arc::new(AtomicUsize::new(0));
    let sender = Sender { messages: tx, clock, bytes: bytes.clone(), max_bytes, dropped: Arc::default() };
    (sender, Receiver { messages: rx, bytes, taken: Busy::default(), _guard: guard })
}

fn weight(message: &Message) -> usize {
    message.payload.len() + OVERHEAD
}

impl Sender {
    /// Puts a message in, if there is room. `Full` is not counted yet: the caller may have another queue for it.
    pub(super) fn offer(&self, message: impl FnOnce() -> Message) -> Sent {
        let permit = match self.messages.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Full(())) => return Sent::Full,
            Err(mpsc::error::TrySendError::Closed(())) => return Sent::Gone,
        };
        if self.bytes.load(Ordering::Relaxed) >= self.max_bytes {
            return Sent::Full;
        }
        let message = message();
        self.bytes.fetch_add(weight(&message), Ordering::Relaxed);
        let busy = self.clock.busy(|| format!("a message on {}", message.subject));
        permit.send((message, busy));
        Sent::Queued
    }

    /// Counts messages that were dropped.
    pub(super) fn count_dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Ordering::Relaxed);
    }

    /// The count of dropped messages.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Whether nobody takes messages from the queue any more.
    pub(super) fn is_gone(&self) -> bool {
        self.messages.is_closed()
    }
}

impl<G: Unpin> Stream for Receiver<G> {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.taken = Busy::default();
        let Some((message, busy)) = std::task::ready!(self.messages.poll_recv(cx)) else { return Poll::Ready(None) };
        self.bytes.fetch_sub(weight(&message), Ordering::Relaxed);
        self.taken = busy;
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    fn message(bytes: usize) -> Message {
        Message { payload: Bytes::from(vec![0; bytes]), ..Message::default() }
    }

    #[test]
    fn messages_are_bounded_by_number_and_by_bytes() {
        let (tx, mut rx) = queue(Clock::system(), 3, 2_000, ());
        assert_eq!(tx.offer(|| message(1)), Sent::Queued);
        assert_eq!(tx.offer(|| message(2_000)), Sent::Queued, "the last one may go over, it is bounded by itself");
        assert_eq!(tx.offer(|| unreachable!("no room")), Sent::Full);
        assert!(rx.next().now_or_never().flatten().is_some());
        assert!(rx.next().now_or_never().flatten().is_some());
        for _ in 0..3 {
            assert_eq!(tx.offer(|| message(0)), Sent::Queued);
        }
        assert_eq!(tx.offer(|| message(0)), Sent::Full);
        drop(rx);
        assert_eq!(tx.offer(|| message(0)), Sent::Gone);
        assert!(tx.is_gone());
    }
}
