//! Pulling: asks for as many messages as there is room for, and keeps the books of what was asked.
//!
//! The client library's own stream asks ahead of the work, whatever the room; here a message that arrives finds its
//! place free. The price is this file: the protocol's status messages (ADR-13) are read here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use trigger_core::Bus;

use super::Ended;
use super::deliver::Deliverer;
use crate::config::StreamSettings;

/// How long a request stands at the server.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server gives a sign of life on a request that waits.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// After this without a word from the server, what was asked is taken for lost and asked again.
const SILENCE: Duration = Duration::from_secs(11);

/// How often the connection is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long to wait after the server refused a request.
const REFUSED: Duration = Duration::from_millis(250);

/// How long messages on their way may take when pulling ends.
const LEAVE: Duration = Duration::from_secs(1);

/// Messages taken between two looks while there is always one.
const BETWEEN_LOOKS: u32 = 256;

/// One subscription to what was asked for.
pub(super) struct Puller {
    bus: Arc<dyn Bus>,
    client: Client,
    subscriber: Subscriber,
    inbox: String,
    next: String,
    asked: Asked,
    heard: Instant,
    connects: u64,
    not_before: Option<Instant>,
}

/// How many messages were asked for and have not come.
#[derive(Debug)]
struct Asked {
    batch: usize,
    outstanding: usize,
}

impl Asked {
    /// How many to ask for now, when there is room for `free` more. In portions, so that a request is not sent for
    /// each message.
    fn more(&self, free: usize) -> Option<usize> {
        let room = free.saturating_sub(self.outstanding).min(self.batch);
        let worth = self.outstanding == 0 || (self.outstanding <= self.batch / 2 && room >= self.batch.div_ceil(2));
        (room > 0 && worth).then_some(room)
    }
}

/// What a message on the inbox says.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// A message of the stream.
    Message,
    /// The server lives.
    Heartbeat,
    /// A request ended; so many of its messages will not come (all that were asked for, if it does not say).
    Over { missing: Option<usize>, refused: bool },
    /// There is nothing to pull from.
    Gone(&'static str),
}

fn read(message: &Message) -> Word {
    let Some(status) = message.status else { return Word::Message };
    let description = message.description.as_deref().unwrap_or_default();
    let missing = || message.headers.as_ref()?.get("Nats-Pending-Messages")?.as_str().parse().ok();
    match status {
        StatusCode::OK => Word::Message,
        StatusCode::IDLE_HEARTBEAT => Word::Heartbeat,
        StatusCode::NO_RESPONDERS => Word::Gone("the consumer does not answer"),
        _ if description == "Consumer Deleted" => Word::Gone("the consumer was deleted"),
        _ if description == "Consumer is push based" => Word::Gone("the consumer pushes; choose another name"),
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Word::Over { missing: missing(), refused: false },
        _ => Word::Over { missing: missing(), refused: true },
    }
}

impl Puller {
    pub(super) async fn new(bus: Arc<dyn Bus>, client: Client, settings: &StreamSettings) -> Result<Self, String> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        Ok(Self {
            next: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", settings.stream, settings.consumer),
            connects: connects(&client),
            bus,
            client,
            subscriber,
            inbox,
            asked: Asked { batch: settings.batch as usize, outstanding: 0 },
            heard: Instant::now(),
            not_before: None,
        })
    }

    /// Pulls until asked to stop, or until there is nothing to pull from.
    pub(super) async fn run(&mut self, deliverer: &Arc<Deliverer>, slots: &Arc<Semaphore>) -> Ended {
        let ended = self.pull(deliverer, slots).await;
        if let Ended::Stopped = ended {
            self.leave(deliverer).await;
        }
        ended
    }

    async fn pull(&mut self, deliverer: &Arc<Deliverer>, slots: &Arc<Semaphore>) -> Ended {
        let cx = &deliverer.cx;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = std::pin::pin!(cx.shutdown.cancelled());
        let mut taken = 0u32;
        loop {
            self.ask(slots.available_permits()).await;
            let full = self.asked.outstanding == 0 && slots.available_permits() == 0;
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                () = &mut stopped => return Ended::Stopped,
                _ = look.tick() => {
                    self.look(deliverer);
                    continue;
                }
                // Everything is busy and nothing was asked for: go on when a place is free.
                permit = slots.acquire(), if full => {
                    drop(permit);
                    continue;
                }
            };
            let Some(message) = message else { return Ended::Lost("the connection to NATS was given up".to_owned()) };
            self.heard = Instant::now();
            match read(&message) {
                Word::Message => {
                    self.asked.outstanding = self.asked.outstanding.saturating_sub(1);
                    tokio::select! {
                        biased;
                        slot = slots.clone().acquire_owned() => {
                            deliverer.start(message, slot.expect("nobody closes it"));
                        }
                        // More came than was asked for, as after a reconnection it may.
                        () = &mut stopped => {
                            deliverer.hand_back(&message).await;
                            return Ended::Stopped;
                        }
                    }
                }
                Word::Heartbeat => {}
                Word::Over { missing, refused } => {
                    let missing = missing.unwrap_or(self.asked.outstanding);
                    self.asked.outstanding = self.asked.outstanding.saturating_sub(missing);
                    self.not_before = refused.then(|| Instant::now() + REFUSED);
                }
                Word::Gone(why) => return Ended::Lost(why.to_owned()),
            }
            taken += 1;
            if taken.is_multiple_of(BETWEEN_LOOKS) {
                // With a message always at hand, the branches above are never reached.
                self.look(deliverer);
                if cx.shutdown.is_cancelled() {
                    return Ended::Stopped;
                }
            }
        }
    }

    /// Asks for what there is room for.
    async fn ask(&mut self, free: usize) {
        let Some(number) = self.asked.more(free) else { return };
        if self.not_before.is_some_and(|moment| Instant::now() < moment)
            || self.client.connection_state() != State::Connected
        {
            return;
        }
        let (expires, heartbeat) = (EXPIRES.as_nanos(), HEARTBEAT.as_nanos());
        let request = format!("{{\"batch\":{number},\"expires\":{expires},\"idle_heartbeat\":{heartbeat}}}");
        let sent = self.client.publish_with_reply(self.next.clone(), self.inbox.clone(), Bytes::from(request)).await;
        if sent.is_ok() {
            if self.asked.outstanding == 0 {
                self.heard = Instant::now();
            }
            self.asked.outstanding += number;
        }
    }

    /// Notices a connection that is away, came back, or says nothing.
    fn look(&mut self, deliverer: &Deliverer) {
        if let Some(why) = self.bus.degraded() {
            deliverer.cx.degraded(why);
            return;
        }
        deliverer.cx.healthy();
        let connects = connects(&self.client);
        let silent = self.asked.outstanding > 0 && self.heard.elapsed() > SILENCE;
        if connects != self.connects || silent {
            // What was asked over the old connection is forgotten there.
            self.connects = connects;
            self.asked.outstanding = 0;
        }
    }

    /// Takes no more, and hands back what was on its way.
    async fn leave(&mut self, deliverer: &Deliverer) {
        if self.client.connection_state() == State::Connected && self.subscriber.drain().await.is_ok() {
            let rest = async {
                while let Some(message) = self.subscriber.next().await {
                    hand_back(deliverer, &message).await;
                }
            };
            let _ = tokio::time::timeout(LEAVE, rest).await;
        }
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            hand_back(deliverer, &message).await;
        }
    }
}

async fn hand_back(deliverer: &Deliverer, message: &Message) {
    if read(message) == Word::Message {
        deliverer.hand_back(message).await;
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn status(code: u16, description: &str, pending: Option<&str>) -> Message {
        let headers = pending.map(|pending| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Pending-Messages", pending);
            headers
        });
        Message {
            subject: "_INBOX.1".into(),
            reply: None,
            payload: Bytes::new(),
            headers,
            status: (code != 0).then(|| StatusCode::try_from(code).unwrap()),
            description: Some(description.to_owned()),
            length: 0,
        }
    }

    #[test]
    fn status_messages_are_read() {
        for (message, expected) in [
            (status(0, "", None), Word::Message),
            (status(100, "Idle Heartbeat", None), Word::Heartbeat),
            (status(408, "Request Timeout", Some("7")), Word::Over { missing: Some(7), refused: false }),
            (status(408, "Request Timeout", Some("x")), Word::Over { missing: None, refused: false }),
            (status(409, "Leadership Change", Some("7")), Word::Over { missing: Some(7), refused: true }),
            (status(409, "Exceeded MaxWaiting", None), Word::Over { missing: None, refused: true }),
            (status(400, "Bad Request", None), Word::Over { missing: None, refused: true }),
            (status(409, "Consumer Deleted", None), Word::Gone("the consumer was deleted")),
            (status(503, "", None), Word::Gone("the consumer does not answer")),
        ] {
            assert_eq!(read(&message), expected);
        }
    }

    proptest! {
        #[test]
        fn never_more_is_asked_for_than_there_is_room(batch in 1usize..300, places in 1usize..300, steps in prop::collection::vec(0u8..3, 0..400)) {
            let mut asked = Asked { batch, outstanding: 0 };
            let mut busy = 0;
            for step in steps {
                match step {
                    0 => {
                        if let Some(number) = asked.more(places - busy) {
                            prop_assert!(number <= batch);
                            asked.outstanding += number;
                        }
                        prop_assert!(asked.outstanding > 0 || busy == places, "room is never left unasked for");
                    }
                    1 if asked.outstanding > 0 => {
                        asked.outstanding -= 1;
                        busy += 1;
                    }
                    2 if busy > 0 => busy -= 1,
                    _ => {}
                }
                prop_assert!(asked.outstanding + busy <= places);
            }
        }
    }
}
