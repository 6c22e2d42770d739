//! The bus, in process and over a real NATS server: the same suite for both, then what only NATS can do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use trigger_core::bus::{BusError, Subscription};
use trigger_core::{Bus, Headers, Message};
use tripline::bus::{MemoryBus, NatsBus};

use crate::support::nats::Server;
use crate::support::{eventually, within};

fn message(subject: &str, payload: &str) -> Message {
    Message { subject: subject.into(), payload: Bytes::from(payload.to_owned()), ..Message::default() }
}

fn headers(list: &[(&str, &str)]) -> Headers {
    Headers::List(list.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned()))).collect())
}

async fn nats(server: &Server) -> Arc<NatsBus> {
    let bus = NatsBus::connect(server.url().parse().unwrap()).await.unwrap();
    assert_eq!(bus.degraded(), None);
    Arc::new(bus)
}

/// Runs a story on each bus.
async fn on_both(story: impl AsyncFn(Arc<dyn Bus>)) {
    story(Arc::new(MemoryBus::default())).await;
    let server = Server::own(false);
    story(nats(&server).await).await;
}

/// Ends a subscription and tells what it received.
async fn received(subscription: Subscription) -> Vec<Message> {
    within("the subscription to end", (subscription.stop)()).await;
    within("its messages", subscription.messages.collect()).await
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn wildcards_are_exactly_those_of_nats() {
    on_both(async |bus| {
        let patterns = ["a.b", "a.*", "a.>", "*.b", ">", "*.*", "a.*.c", "a*", "*"];
        let mut subscriptions = Vec::new();
        for pattern in patterns {
            subscriptions.push(bus.subscribe(pattern, None).await.unwrap());
        }
        let subjects = ["a", "a.b", "a.c", "a.b.c", "b.b", "a*", "A.b"];
        for subject in subjects {
            // The last one waits for the server, so that all have arrived.
            bus.publish_durably(message(subject, subject)).await.unwrap();
        }
        for (pattern, subscription) in patterns.into_iter().zip(subscriptions) {
            let expected: Vec<&str> =
                subjects.into_iter().filter(|subject| trigger_core::subject::matches(pattern, subject)).collect();
            let mut received = received(subscription).await;
            // Some patterns also match what the bus itself exchanges with the server.
            received.retain(|message| !message.subject.starts_with(['_', '$']));
            assert_eq!(payloads(&received), expected, "{pattern}");
        }
    })
    .await;
}

#[tokio::test]
async fn members_of_a_queue_group_share_and_others_get_everything() {
    on_both(async |bus| {
        let mut members = Vec::new();
        for pattern in ["work.*", "work.*", "work.>"] {
            members.push(bus.subscribe(pattern, Some("group")).await.unwrap());
        }
        let other_group = bus.subscribe("work.>", Some("other")).await.unwrap();
        let everything = bus.subscribe("work.>", None).await.unwrap();
        for number in 0..300 {
            bus.publish(message("work.item", &number.to_string())).await.unwrap();
        }
        bus.publish_durably(message("flush", "")).await.unwrap();
        let mut shared = Vec::new();
        for member in members {
            let own = payloads(&received(member).await);
            assert!(own.len() > 30, "the work is shared: {} of 300", own.len());
            shared.extend(own);
        }
        shared.sort_by_key(|number| number.parse::<u32>().unwrap());
        let all: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        assert_eq!(shared, all, "each message reaches one member");
        assert_eq!(payloads(&received(other_group).await), all);
        assert_eq!(payloads(&received(everything).await), all);
    })
    .await;
}

#[tokio::test]
async fn headers_and_reply_arrive_as_they_were_sent() {
    on_both(async |bus| {
        let mut subscription = bus.subscribe("a", None).await.unwrap();
        let sent = Message {
            subject: "a".into(),
            reply: Some("answers.here".into()),
            headers: headers(&[
                ("X-Many", "one"),
                ("X-Many", "two"),
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Empty", ""),
            ]),
            payload: Bytes::from_static(b"\x00\xff\r\n"),
        };
        bus.publish(sent.clone()).await.unwrap();
        let got = within("the message", subscription.messages.next()).await.unwrap();
        assert_eq!((&*got.subject, got.reply.as_deref()), ("a", Some("answers.here")));
        assert_eq!(got.payload, sent.payload);
        let sorted = |message: &Message| {
            let mut pairs: Vec<(String, Vec<u8>)> =
                message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            pairs.sort();
            pairs
        };
        assert_eq!(sorted(&got), sorted(&sent));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_by_name() {
    on_both(async |bus| {
        for subject in ["", "a..b", "a b", "a.*", ">"] {
            for refused in [bus.publish(message(subject, "")).await, bus.publish_durably(message(subject, "")).await] {
                assert!(
                    matches!(&refused, Err(BusError::InvalidSubject { subject: told, .. }) if told == subject),
                    "{refused:?}"
                );
            }
        }
        assert!(matches!(bus.subscribe("a.>.b", None).await, Err(BusError::InvalidSubject { .. })));
        assert!(matches!(bus.subscribe("a", Some("a b")).await, Err(BusError::InvalidSubject { .. })));
        let injected = Message { headers: headers(&[("Key", "a\r\nOther: b")]), ..message("a", "") };
        assert!(matches!(bus.publish(injected).await, Err(BusError::InvalidHeader { name, .. }) if name == "Key"));

        let limit = 1 << 20;
        assert!(bus.max_payload_bytes() < limit);
        let mut subscription = bus.subscribe("large", None).await.unwrap();
        bus.publish(message("large", &"x".repeat(limit))).await.unwrap();
        assert_eq!(within("the largest message", subscription.messages.next()).await.unwrap().payload.len(), limit);
        for refused in [
            bus.publish(message("large", &"x".repeat(limit + 1))).await,
            bus.publish_durably(message("large", &"x".repeat(limit + 1))).await,
        ] {
            assert!(
                matches!(refused, Err(BusError::TooLarge { size, limit: told }) if (size, told) == (limit + 1, limit))
            );
        }
        bus.publish(message("large", "after")).await.unwrap();
        assert_eq!(within("the bus to go on", subscription.messages.next()).await.unwrap().payload, "after");
    })
    .await;
}

#[tokio::test]
async fn a_subscription_that_ended_gets_nothing_more() {
    on_both(async |bus| {
        let ended = bus.subscribe("a", None).await.unwrap();
        let mut other = bus.subscribe("a", None).await.unwrap();
        bus.publish_durably(message("a", "1")).await.unwrap();
        let Subscription { messages, stop, .. } = ended;
        stop().await;
        bus.publish_durably(message("a", "2")).await.unwrap();
        assert_eq!(payloads(&within("its messages", messages.collect::<Vec<_>>()).await), ["1"]);
        assert_eq!(other.messages.next().await.unwrap().payload, "1");
        assert_eq!(other.messages.next().await.unwrap().payload, "2");
    })
    .await;
}

#[tokio::test]
async fn a_slow_subscriber_loses_what_does_not_fit_and_every_loss_is_counted() {
    const SENT: usize = 70_000;
    on_both(async |bus| {
        let slow = bus.subscribe("a", None).await.unwrap();
        for _ in 0..SENT {
            bus.publish(message("a", "")).await.unwrap();
        }
        bus.publish_durably(message("flush", "")).await.unwrap();
        let dropped = slow.dropped.clone();
        let kept = received(slow).await.len();
        assert!(kept < SENT);
        assert_eq!(kept + dropped.load(Ordering::Relaxed) as usize, SENT);
    })
    .await;
}

async fn stream(server: &Server, name: &str, subject: &str) -> jetstream::stream::Stream {
    let client = async_nats::connect(server.url()).await.unwrap();
    let config =
        jetstream::stream::Config { name: name.to_owned(), subjects: vec![subject.to_owned()], ..Default::default() };
    jetstream::new(client).create_stream(config).await.unwrap()
}

#[tokio::test]
async fn a_durable_message_is_in_the_stream_when_it_is_taken_and_only_once() {
    let server = Server::own(true);
    let bus = nats(&server).await;
    let mut kept = stream(&server, "KEPT", "kept.>").await;
    for id in ["one", "two", "one"] {
        let identified = Message { headers: headers(&[("Nats-Msg-Id", id)]), ..message("kept.item", id) };
        bus.publish_durably(identified).await.unwrap();
    }
    assert_eq!(kept.info().await.unwrap().state.messages, 2, "the second copy was recognised");
    let got = kept.get_raw_message(2).await.unwrap();
    assert_eq!((&*got.subject, got.payload), ("kept.item", Bytes::from_static(b"two")));

    // Where no stream keeps the subject, the server has seen it.
    let mut listener = bus.subscribe("elsewhere", None).await.unwrap();
    bus.publish_durably(message("elsewhere", "x")).await.unwrap();
    within("the message", listener.messages.next()).await.unwrap();

    // A stream that refuses is a bus that did not take it.
    let full = jetstream::stream::Config {
        name: "FULL".into(),
        subjects: vec!["full".into()],
        max_messages: 1,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    jetstream::new(bus.client()).create_stream(full).await.unwrap();
    bus.publish_durably(message("full", "1")).await.unwrap();
    let refused = bus.publish_durably(message("full", "2")).await.unwrap_err();
    assert!(matches!(&refused, BusError::Unavailable(why) if why.contains("maximum messages exceeded")), "{refused}");

    // A stream that is deleted is noticed by the acknowledgement that does not come.
    jetstream::new(bus.client()).delete_stream("KEPT").await.unwrap();
    bus.publish_durably(message("kept.item", "x")).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_does_not_acknowledge_is_not_waited_for() {
    let server = Server::own(true);
    let bus = nats(&server).await;
    let config = jetstream::stream::Config {
        name: "SILENT".into(),
        subjects: vec!["silent".into()],
        no_ack: true,
        ..Default::default()
    };
    jetstream::new(bus.client()).create_stream(config).await.unwrap();
    bus.publish_durably(message("silent", "x")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_refuses_messages_and_its_subscriptions_come_back() {
    let mut server = Server::own(true);
    let bus = nats(&server).await;
    let mut subscription = bus.subscribe("a.>", None).await.unwrap();
    server.kill();
    eventually("the loss to be noticed", async || bus.degraded().is_some()).await;
    for refused in [bus.publish(message("a.b", "lost")).await, bus.publish_durably(message("a.b", "lost")).await] {
        assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
    }
    let mut late = bus.subscribe("late", None).await.unwrap();
    server.restart();
    eventually("the connection", async || bus.degraded().is_none()).await;
    bus.publish_durably(message("a.b", "after")).await.unwrap();
    assert_eq!(within("the message", subscription.messages.next()).await.unwrap().payload, "after");
    eventually("what was subscribed meanwhile", async || {
        bus.publish_durably(message("late", "x")).await.unwrap();
        let next = tokio::time::timeout(std::time::Duration::from_millis(100), late.messages.next()).await;
        next.is_ok()
    })
    .await;
}

#[tokio::test]
async fn credentials_let_in_and_wrong_ones_are_told_without_being_shown() {
    let server = Server::with(false, &["--user", "me", "--pass", "p@ss word"]);
    let address = server.url().strip_prefix("nats://").unwrap();
    let right = NatsBus::connect(format!("nats://me:p%40ss%20word@{address}").parse().unwrap()).await.unwrap();
    assert_eq!(right.degraded(), None);
    let wrong = NatsBus::connect(format!("nats://me:wr0ng@{address}").parse().unwrap()).await.unwrap();
    let why = wrong.degraded().unwrap();
    assert!(why.contains("authorization violation") && !why.contains("wr0ng"), "{why}");
}
