//! From a message to an event.

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use trigger_core::bus::MESSAGE_ID_HEADER;
use trigger_core::cloud_event::CloudEvents;
use trigger_core::{Custody, Headers, InvocationContext, Message, TriggerContext};
use uuid::Uuid;

/// The longest message id that is kept as an identity; a longer one is none.
const MAX_ID_BYTES: usize = 255;

/// The event of a subject's message.
pub(crate) fn of_subject(cx: &TriggerContext, message: Message, custody: Custody) -> InvocationContext {
    let mut event = cx.event(custody, message.payload);
    event.subject = message.subject;
    event.headers = message.headers;
    if let Some(reply) = message.reply {
        event.attributes.push(("reply".into(), reply.into()));
    }
    told_by_headers(&mut event);
    event
}

/// The event of a stream's message. However often the message is delivered, it is one invocation.
pub(crate) fn of_stream(
    cx: &TriggerContext,
    message: async_nats::Message,
    position: &Position,
    seed: Seed,
) -> InvocationContext {
    let mut event = cx.event(Custody::Source, message.payload);
    event.invocation_id = seed.invocation(position);
    event.attempt = u32::try_from(position.delivered).unwrap_or(u32::MAX).max(1);
    event.subject = message.subject.as_str().into();
    event.headers = message.headers.as_ref().map(headers).unwrap_or_default();
    let timestamp = DateTime::from_timestamp_nanos(position.published_nanos);
    event.attributes = vec![
        ("stream".into(), position.stream.clone()),
        ("consumer".into(), position.consumer.clone()),
        ("sequence".into(), position.sequence.to_string()),
        ("delivered".into(), position.delivered.to_string()),
        ("timestamp".into(), timestamp.to_rfc3339_opts(SecondsFormat::Nanos, true)),
    ];
    told_by_headers(&mut event);
    if event.idempotency_key.is_none() {
        event.idempotency_key = Some(format!("{}:{}", position.stream, position.sequence).into());
    }
    event
}

/// Opens a message that is a CloudEvent; another one stays as it is.
pub(crate) fn open(event: &mut InvocationContext) {
    let read = CloudEvents::read(event.content_type.as_deref(), event.headers.iter(), &event.payload);
    if let Ok(CloudEvents::One(one)) = read {
        one.apply(event);
    }
}

/// What an event of a stream is known by where it is kept: a message that is delivered again is the same one. The time
/// is part of that, since a stream that was deleted and made again counts from 1 again.
pub(crate) fn to_keep(event: &mut InvocationContext, position: &Position) {
    event.custody = Custody::Engine;
    event.attempt = 1;
    let Position { stream, sequence, published_nanos, .. } = position;
    event.idempotency_key = Some(
        message_id(&event.headers).map_or_else(|| format!("{stream}:{sequence}:{published_nanos}").into(), Box::from),
    );
}

fn told_by_headers(event: &mut InvocationContext) {
    if event.headers.is_empty() {
        return;
    }
    event.content_type = event.headers.get_str("Content-Type").map(Box::from);
    event.idempotency_key = message_id(&event.headers).map(Box::from);
    event.adopt_lineage();
}

/// The id by which the publisher knows the message.
fn message_id(headers: &Headers) -> Option<&str> {
    headers.get_str(MESSAGE_ID_HEADER).filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)
}

fn headers(map: &HeaderMap) -> Headers {
    if map.is_empty() {
        return Headers::None;
    }
    let mut list = Vec::with_capacity(map.len());
    for (name, values) in map.iter() {
        let name: &str = name.as_ref();
        list.extend(values.iter().map(|value| {
            let value: &[u8] = value.as_ref();
            (name.to_owned(), Bytes::copy_from_slice(value))
        }));
    }
    Headers::List(list)
}

/// Where a stream's message stands, as its reply subject says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) delivered: u64,
    pub(crate) sequence: u64,
    pub(crate) published_nanos: i64,
}

impl Position {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, or the later
    /// form with domain and account hash before the stream.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let tokens = rest.split('.').count();
        let mut tokens = rest.split('.').skip(if tokens >= 9 { 2 } else { 0 });
        let stream = tokens.next().filter(|name| !name.is_empty())?.to_owned();
        let consumer = tokens.next()?.to_owned();
        let delivered = tokens.next()?.parse().ok()?;
        let sequence = tokens.next()?.parse().ok()?;
        let _consumer_sequence: u64 = tokens.next()?.parse().ok()?;
        let published_nanos = tokens.next()?.parse().ok()?;
        Some(Self { stream, consumer, delivered, sequence, published_nanos })
    }
}

/// What the ids of one trigger's invocations begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u128);

const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// FNV-1a: the same on every engine and in every version, and nobody from outside chooses what goes in.
fn fnv(hash: u128, bytes: &[u8]) -> u128 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME))
}

impl Seed {
    pub(crate) fn new(cx: &TriggerContext) -> Self {
        Self(fnv(FNV_OFFSET, cx.binding.path().as_bytes()))
    }

    /// The invocation of a message: the time at which the stream got it, then what tells it from all others. The time
    /// is part of that too, since a stream that was deleted and made again counts from 1 again.
    fn invocation(self, position: &Position) -> Uuid {
        let mut hash = fnv(self.0, position.stream.as_bytes());
        hash = fnv(hash, &position.sequence.to_be_bytes());
        hash = fnv(hash, &position.published_nanos.to_be_bytes());
        let millis = u64::try_from(position.published_nanos / 1_000_000).unwrap_or(0);
        let mut bytes = hash.to_be_bytes();
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        Uuid::new_v8(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trigger_core::Kind;
    use trigger_core::testing::FakeDispatch;

    use super::*;

    fn cx() -> TriggerContext {
        FakeDispatch::echo().context(Kind::Pubsub, "pubsub-1")
    }

    fn position(sequence: u64) -> Position {
        Position::parse(&format!("$JS.ACK.WORK.steer.1.{sequence}.7.1790230470084404000.42")).unwrap()
    }

    #[test]
    fn a_position_is_read_in_both_forms() {
        let expected = Position {
            stream: "WORK".into(),
            consumer: "steer".into(),
            delivered: 3,
            sequence: 100,
            published_nanos: 1_790_230_470_084_404_000,
        };
        for reply in [
            "$JS.ACK.WORK.steer.3.100.7.1790230470084404000.42",
            "$JS.ACK._.szMpdrwD.WORK.steer.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.szMpdrwD.WORK.steer.3.100.7.1790230470084404000.42.token",
        ] {
            assert_eq!(Position::parse(reply).as_ref(), Some(&expected), "{reply}");
        }
        for bad in ["", "_INBOX.x", "$JS.ACK.", "$JS.ACK.a.b.1.2", "$JS.ACK.a.b.x.2.3.4.5", "$JS.ACK.a.b.1.-2.3.4.5"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_message_is_the_same_invocation_whenever_it_is_delivered() {
        let seed = Seed::new(&cx());
        let first = seed.invocation(&position(1));
        let again = Position { delivered: 9, consumer: "other".into(), ..position(1) };
        assert_eq!(seed.invocation(&again), first);
        assert_eq!(first.get_version_num(), 8);
        let recreated = Position { published_nanos: position(1).published_nanos + 1, ..position(1) };
        let elsewhere = Position { stream: "WORK2".into(), ..position(1) };
        let other_trigger = Seed::new(&FakeDispatch::echo().context(Kind::Pubsub, "pubsub-2"));
        let others = [
            seed.invocation(&position(2)),
            seed.invocation(&recreated),
            seed.invocation(&elsewhere),
            other_trigger.invocation(&position(1)),
        ];
        assert!(others.iter().all(|other| *other != first), "{others:?}");
    }

    #[test]
    fn headers_say_type_identity_and_lineage() {
        let message = Message {
            subject: "orders.1.created".into(),
            reply: Some("_INBOX.1".into()),
            headers: Headers::List(vec![
                ("content-type".into(), Bytes::from_static(b"application/json")),
                ("Nats-Msg-Id".into(), Bytes::from_static(b"order-1")),
                ("Tripline-Depth".into(), Bytes::from_static(b"3")),
                ("traceparent".into(), Bytes::from_static(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            ]),
            payload: Bytes::from_static(b"{}"),
        };
        let event = of_subject(&cx(), message, Custody::Engine);
        assert_eq!((&*event.subject, event.content_type.as_deref()), ("orders.1.created", Some("application/json")));
        assert_eq!((event.idempotency_key.as_deref(), event.depth), (Some("order-1"), 3));
        assert_eq!(event.trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(event.attribute("reply"), Some("_INBOX.1"));
    }

    #[test]
    fn a_message_id_that_cannot_be_kept_is_none() {
        for id in [String::new(), "x".repeat(256)] {
            let headers = Headers::List(vec![(MESSAGE_ID_HEADER.into(), Bytes::from(id))]);
            assert_eq!(message_id(&headers), None);
        }
    }

    proptest! {
        #[test]
        fn any_reply_subject_is_a_position_or_none(reply in "(\\$JS\\.ACK\\.)?[a-z0-9_.$-]{0,80}") {
            let _ = Position::parse(&reply);
        }

        #[test]
        fn sequences_do_not_share_invocations(one in any::<u64>(), other in any::<u64>()) {
            prop_assume!(one != other);
            let seed = Seed::new(&cx());
            let at = |sequence| Position { sequence, ..position(1) };
            prop_assert_ne!(seed.invocation(&at(one)), seed.invocation(&at(other)));
        }
    }
}
