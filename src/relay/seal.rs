//! Rows that nobody but engines of one store can write, though they lie in databases of strangers.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Headers, InvocationContext, Message};
use uuid::{NoContext, Timestamp, Uuid};

use crate::databases::{self, MAX_SEALED, OutboxRow};
use crate::executor::Effects;
use crate::housekeeping::KEYS_KEPT;
use crate::store::{self, Store};

const MAC_BYTES: usize = blake3::OUT_LEN;
const KEY_BYTES: usize = blake3::KEY_LEN;

/// Bytes that say how long the head is.
const LENGTH_BYTES: usize = size_of::<u32>();

/// What may be between the clocks of engines that share a store, and between two looks at what is old.
const SLACK: TimeDelta = TimeDelta::hours(1);

/// Why a row is not what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refused {
    /// No engine of this store has written it.
    Forged,
    /// Whether it was taken over before is forgotten, so that it may be a copy of one that was.
    Old,
    /// It is of another build of the engine, or the store cannot hold it.
    Unreadable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Forged => "no engine of this store has written them; whoever may write there has",
            Refused::Old => "they were committed so long ago that nobody knows any more whether they were taken over",
            Refused::Unreadable => "they cannot be read, or not be stored; another version of the engine wrote them",
        })
    }
}

/// The key that rows are sealed with, and whose they are.
pub(super) struct Seal {
    key: [u8; KEY_BYTES],
    engine: String,
}

impl Seal {
    /// That of a store. Engines that share the store share it.
    pub(super) async fn of(store: &dyn Store, now: DateTime<Utc>) -> store::Result<Self> {
        let key = store::secret(store, "database_outbox_key", now).await?;
        Ok(Self::new(key))
    }

    fn new(key: [u8; KEY_BYTES]) -> Self {
        let name = blake3::derive_key("tripline: whose rows of tripline_outbox are", &key);
        Self { key, engine: blake3::Hash::from_bytes(name).to_hex()[..16].to_owned() }
    }

    /// Whose rows are sealed with it: engines of another store leave them alone.
    pub(super) fn engine(&self) -> &str {
        &self.engine
    }

    fn mac(&self, id: Uuid, said: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.key).update(id.as_bytes()).update(said).finalize()
    }

    /// A new row that says these effects.
    pub(super) fn close(&self, effects: &Effects, now: DateTime<Utc>) -> databases::Result<OutboxRow> {
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let id = Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.timestamp_subsec_nanos()));
        let said = encode(effects);
        if said.len() + MAC_BYTES > MAX_SEALED {
            let why = format!("what is committed together has {} bytes, the limit is {MAX_SEALED}", said.len());
            return Err(databases::Error::TooLarge(why));
        }
        let sealed = [self.mac(id, &said).as_bytes(), &*said].concat();
        Ok(OutboxRow { id, sealed })
    }

    /// What a row says.
    pub(super) fn open(&self, row: &OutboxRow, now: DateTime<Utc>) -> Result<Effects, Refused> {
        let (mac, said) = row.sealed.split_at_checked(MAC_BYTES).ok_or(Refused::Forged)?;
        // Compares in constant time.
        if blake3::Hash::from_slice(mac).is_ok_and(|mac| self.mac(row.id, said) != mac) {
            return Err(Refused::Forged);
        }
        let (seconds, _) = row.id.get_timestamp().ok_or(Refused::Forged)?.to_unix();
        let made = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        if made.is_none_or(|made| now - made > KEYS_KEPT - SLACK) {
            return Err(Refused::Old);
        }
        decode(said).ok_or(Refused::Unreadable)
    }
}

/// What stands before the payloads: how many bytes, as JSON, and then the payloads one behind the other.
#[derive(Serialize, Deserialize)]
struct Head {
    messages: Vec<MessageHead>,
    events: Vec<EventHead>,
}

#[derive(Serialize, Deserialize)]
struct MessageHead {
    subject: Box<str>,
    reply: Option<Box<str>>,
    headers: Headers,
    payload_bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct EventHead {
    /// As [`InvocationContext::to_stored`] has it.
    context: String,
    payload_bytes: usize,
}

fn encode(effects: &Effects) -> Vec<u8> {
    let messages = effects.messages.iter().map(|message| MessageHead {
        subject: message.subject.clone(),
        reply: message.reply.clone(),
        headers: message.headers.clone(),
        payload_bytes: message.payload.len(),
    });
    let events =
        effects.events.iter().map(|event| EventHead { context: event.to_stored(), payload_bytes: event.payload.len() });
    let head = Head { messages: messages.collect(), events: events.collect() };
    let head = serde_json::to_vec(&head).expect("it has only string keys and no fallible values");
    let length = u32::try_from(head.len()).expect("an attempt's effects are bounded far below");
    let payloads = effects.messages.iter().map(|message| &message.payload);
    let payloads = payloads.chain(effects.events.iter().map(|event| &event.payload));
    let mut said = [&length.to_le_bytes()[..], &head].concat();
    payloads.for_each(|payload| said.extend_from_slice(payload));
    said
}

fn decode(said: &[u8]) -> Option<Effects> {
    let (length, rest) = said.split_first_chunk::<LENGTH_BYTES>()?;
    let (head, payloads) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let mut payloads = Bytes::copy_from_slice(payloads);
    let mut payload = |bytes: usize| (bytes <= payloads.len()).then(|| payloads.split_to(bytes));
    let mut effects = Effects::default();
    for MessageHead { subject, reply, headers, payload_bytes } in head.messages {
        effects.messages.push(Message { subject, reply, headers, payload: payload(payload_bytes)? });
    }
    for EventHead { context, payload_bytes } in head.events {
        effects.events.push(InvocationContext::from_stored(&context, payload(payload_bytes)?).ok()?);
    }
    Some(effects)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trigger_core::{Binding, Clock, Custody, Kind};

    use super::*;

    fn effects() -> Effects {
        let binding = Binding {
            namespace: "default".into(),
            function_name: "mail".into(),
            trigger_id: "mail".into(),
            trigger_type: Kind::Job,
        };
        let mut event = InvocationContext::new(Arc::new(binding), Custody::Engine, Bytes::from_static(&[0, 255]));
        event.depth = 3;
        let headers = Headers::List(vec![("a".to_owned(), Bytes::from_static(b"\xff"))]);
        let message = Message { subject: "a.b".into(), reply: None, headers, payload: Bytes::from_static(b"first") };
        Effects { messages: vec![message], events: vec![event], ..Effects::default() }
    }

    fn now() -> DateTime<Utc> {
        Clock::system().now()
    }

    #[test]
    fn what_was_sealed_comes_back_as_it_was() {
        let (seal, asked) = (Seal::new([7; KEY_BYTES]), effects());
        let row = seal.close(&asked, now()).unwrap();
        let opened = seal.open(&row, now()).unwrap();
        assert_eq!(opened.messages[0].subject, asked.messages[0].subject);
        assert_eq!(opened.messages[0].headers.get("a"), Some(&b"\xff"[..]));
        assert_eq!(opened.messages[0].payload, "first");
        let (opened, asked) = (&opened.events[0], &asked.events[0]);
        assert_eq!((opened.invocation_id, opened.depth), (asked.invocation_id, 3));
        assert_eq!((&opened.binding, &opened.payload), (&asked.binding, &asked.payload));
    }

    #[test]
    fn what_somebody_else_wrote_or_changed_is_forged() {
        let seal = Seal::new([7; KEY_BYTES]);
        let row = seal.close(&effects(), now()).unwrap();
        let refused = |row: &OutboxRow| seal.open(row, now()).unwrap_err();
        for bit in 0..row.sealed.len() * 8 {
            let mut changed = row.clone();
            changed.sealed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(refused(&changed), Refused::Forged, "bit {bit}");
        }
        for length in 0..row.sealed.len() {
            assert_eq!(refused(&OutboxRow { sealed: row.sealed[..length].to_vec(), ..row }), Refused::Forged);
        }
        assert_eq!(refused(&OutboxRow { id: Uuid::now_v7(), ..row.clone() }), Refused::Forged, "as another row");
        let stranger = Seal::new([8; KEY_BYTES]);
        assert_eq!(stranger.open(&row, now()).unwrap_err(), Refused::Forged);
        assert_ne!(stranger.engine(), seal.engine());
    }

    #[test]
    fn a_row_is_taken_no_longer_than_its_id_is_remembered() {
        let seal = Seal::new([7; KEY_BYTES]);
        let row = seal.close(&effects(), now()).unwrap();
        assert!(seal.open(&row, now() + KEYS_KEPT - SLACK - TimeDelta::minutes(1)).is_ok());
        assert_eq!(seal.open(&row, now() + KEYS_KEPT).unwrap_err(), Refused::Old);
    }

    #[test]
    fn more_than_a_row_may_have_is_refused() {
        let mut effects = effects();
        effects.events[0].payload = vec![0; MAX_SEALED].into();
        let error = Seal::new([7; KEY_BYTES]).close(&effects, now()).unwrap_err();
        assert!(matches!(error, databases::Error::TooLarge(_)), "{error}");
    }

    #[test]
    fn nothing_that_is_sealed_and_torn_is_read() {
        let said = encode(&effects());
        for length in 0..said.len() {
            assert!(decode(&said[..length]).is_none(), "{length}");
        }
    }
}
