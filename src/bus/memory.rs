//! The bus in process: every message is handed to every matching subscription before `publish` returns.
//!
//! Nothing is kept: a message without a subscription is gone, as in core NATS, and "durably" means that the
//! subscriptions of this process have it. What must survive the process is kept in the store by those who send it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::RwLock;
use trigger_core::bus::{BusError, Subscription};
use trigger_core::subject::SubjectMap;
use trigger_core::{BoxFuture, Bus, Clock, Message};

use super::queue::{self, Sender, Sent};
use super::{check, check_subscription, payload_limit};

/// The largest message: NATS's default, so that what works here works there.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A bus for one process.
#[derive(Debug)]
pub struct MemoryBus {
    subscribers: Arc<Subscribers>,
    max_messages: usize,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Subscribers {
    map: RwLock<SubjectMap<Entry>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    queue_group: Option<Box<str>>,
    queue: Sender,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self { subscribers: Arc::default(), max_messages: queue::MAX_MESSAGES, clock: Clock::system() }
    }
}

impl MemoryBus {
    /// A bus on which at most this many messages wait for each subscription.
    pub fn with_max_messages(max_messages: usize) -> Self {
        Self { max_messages, ..Self::default() }
    }

    /// A bus whose messages are under way on this clock until their subscribers have taken them.
    pub fn on(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    fn hand_over(&self, message: Message) -> Result<(), BusError> {
        check(&message, MAX_MESSAGE_BYTES)?;
        let map = self.subscribers.map.read();
        let mut groups: Vec<(&str, Vec<&Sender>)> = Vec::new();
        map.for_each_match(&message.subject, |entry| match entry.queue_group.as_deref() {
            None => {
                if entry.queue.offer(|| message.clone()) == Sent::Full {
                    entry.queue.count_dropped(1);
                }
            }
            // A group is known by its name, whatever pattern its members came in by.
            Some(group) => match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, members)) => members.push(&entry.queue),
                None => groups.push((group, vec![&entry.queue])),
            },
        });
        for (_, members) in groups {
            // One member at random; if it has no room, whoever of the others has.
            let first = fastrand::usize(..members.len());
            let (before, after) = members.split_at(first);
            let taken = after.iter().chain(before).any(|queue| queue.offer(|| message.clone()) == Sent::Queued);
            if !taken {
                members[first].count_dropped(1);
            }
        }
        Ok(())
    }

    fn join(&self, pattern: &str, queue_group: Option<&str>) -> Result<Subscription, BusError> {
        check_subscription(pattern, queue_group)?;
        let id = self.subscribers.next_id.fetch_add(1, Ordering::Relaxed);
        let place = Place { subscribers: self.subscribers.clone(), pattern: pattern.into(), id };
        let guard = Membership(place.clone());
        let (sender, receiver) = queue::queue(self.clock.clone(), self.max_messages, queue::MAX_BYTES, guard);
        let dropped = sender.dropped();
        let entry = Entry { id, queue_group: queue_group.map(Box::from), queue: sender };
        self.subscribers.map.write().insert(pattern, entry);
        let stop = Box::new(move || -> BoxFuture<'static, ()> {
            place.leave();
            std::future::ready(()).boxed()
        });
        Ok(Subscription { messages: receiver.boxed(), stop, dropped })
    }
}

/// Where one subscription is in the map.
#[derive(Clone)]
struct Place {
    subscribers: Arc<Subscribers>,
    pattern: Box<str>,
    id: u64,
}

impl Place {
    fn leave(&self) {
        self.subscribers.map.write().remove(&self.pattern, |entry| entry.id == self.id);
    }
}

/// Held by whoever receives: dropping it takes the subscription out of the map.
struct Membership(Place);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Bus for MemoryBus {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        std::future::ready(self.hand_over(message)).boxed()
    }

    fn publish_durably(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        self.publish(message)
    }

    fn subscribe(&self, subject: &str, queue_group: Option<&str>) -> BoxFuture<'_, Result<Subscription, BusError>> {
        std::future::ready(self.join(subject, queue_group)).boxed()
    }

    fn max_payload_bytes(&self) -> usize {
        payload_limit(MAX_MESSAGE_BYTES)
    }

    fn degraded(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(subject: &str, text: &'static str) -> Message {
        Message { subject: subject.into(), payload: Bytes::from_static(text.as_bytes()), ..Message::default() }
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_what_does_not_fit_and_knows_how_much() {
        let bus = MemoryBus::with_max_messages(4);
        let slow = bus.subscribe("a", None).await.unwrap();
        let mut quick = bus.subscribe("a", None).await.unwrap();
        for _ in 0..10 {
            bus.publish(message("a", "x")).await.unwrap();
            quick.messages.next().await.unwrap();
        }
        assert_eq!(slow.dropped.load(Ordering::Relaxed), 6);
        assert_eq!(quick.dropped.load(Ordering::Relaxed), 0);
        (slow.stop)().await;
        assert_eq!(slow.messages.count().await, 4, "what was received is not lost by stopping");
    }

    #[tokio::test]
    async fn a_group_uses_the_room_of_all_its_members() {
        let bus = MemoryBus::with_max_messages(4);
        let one = bus.subscribe("a", Some("g")).await.unwrap();
        let other = bus.subscribe(">", Some("g")).await.unwrap();
        for _ in 0..10 {
            bus.publish(message("a", "x")).await.unwrap();
        }
        assert_eq!(one.dropped.load(Ordering::Relaxed) + other.dropped.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn dropping_a_subscription_leaves_nothing_behind() {
        let bus = MemoryBus::default();
        let one = bus.subscribe("a.*", None).await.unwrap();
        let other = bus.subscribe("a.*", Some("g")).await.unwrap();
        assert!(!bus.subscribers.map.read().is_empty());
        drop(one.messages);
        (other.stop)().await;
        assert!(bus.subscribers.map.read().is_empty());
        bus.publish(message("a.b", "x")).await.unwrap();
    }
}
