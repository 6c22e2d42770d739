//! The message bus: what [`trigger_core::Bus`] promises, in process and over NATS.
//!
//! Both refuse the same messages for the same reasons ([`check`]), match subjects by the same rules and share messages
//! between the members of a queue group alike, so that a project moves from one to the other by one setting. What
//! differs is who else is there, and what a lost connection may cost.

pub mod memory;
pub mod nats;
mod queue;

use std::sync::Arc;

use trigger_core::bus::BusError;
use trigger_core::{Bus, Headers, Message, subject};

pub use memory::MemoryBus;
pub use nats::{NatsBus, NatsConfig, NatsPeers};

/// The bus that an engine works on.
#[derive(Clone)]
pub struct Open {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The same bus where it is NATS, for what only NATS has (JetStream).
    pub nats: Option<Arc<NatsBus>>,
}

/// The longest name of a queue group, in bytes.
const MAX_QUEUE_GROUP_BYTES: usize = 255;

/// Whether a bus whose limit for headers and payload together is `limit` bytes can carry this message as it is.
pub fn check(message: &Message, limit: usize) -> Result<(), BusError> {
    for name in std::iter::once(&message.subject).chain(&message.reply) {
        subject::check_subject(name).map_err(|why| BusError::InvalidSubject { subject: shortened(name), why })?;
    }
    check_headers(&message.headers)?;
    let size = message.payload.len() + headers_len(&message.headers);
    if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
}

/// Whether this can be subscribed to.
fn check_subscription(pattern: &str, queue_group: Option<&str>) -> Result<(), BusError> {
    let invalid = |why: String| BusError::InvalidSubject { subject: shortened(pattern), why };
    subject::check_pattern(pattern).map_err(invalid)?;
    match queue_group {
        Some("") => Err(invalid("its queue group is empty".into())),
        Some(group) if group.len() > MAX_QUEUE_GROUP_BYTES => {
            Err(invalid(format!("its queue group has {} bytes, the limit is {MAX_QUEUE_GROUP_BYTES}", group.len())))
        }
        Some(group) if group.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err(invalid(format!("its queue group {group:?} has a space or a control character")))
        }
        _ => Ok(()),
    }
}

/// A subject as errors show it: no error is as long as what a stranger may send.
fn shortened(subject: &str) -> String {
    const SHOWN: usize = 128;
    if subject.chars().count() <= SHOWN {
        subject.to_owned()
    } else {
        subject.chars().take(SHOWN).chain(['…']).collect()
    }
}

/// NATS carries headers as lines of text and trims their values: what would not arrive as it was is refused.
fn check_headers(headers: &Headers) -> Result<(), BusError> {
    for (name, value) in headers.iter() {
        let invalid = |why: &str| Err(BusError::InvalidHeader { name: shortened(name), why: why.to_owned() });
        if name.is_empty() {
            return invalid("it has no name");
        }
        if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return invalid("its name may only have visible ASCII characters without ':'");
        }
        let Ok(text) = std::str::from_utf8(value) else {
            return invalid("its value is not UTF-8");
        };
        if text.contains(['\r', '\n', '\0']) {
            return invalid("its value has a line break or a null character");
        }
        if text.trim() != text {
            return invalid("its value begins or ends with a space");
        }
    }
    Ok(())
}

/// What the headers add to a message's size, as NATS counts it: a first line, a line each, an empty line.
fn headers_len(headers: &Headers) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines: usize = headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len()).sum();
    "NATS/1.0\r\n".len() + lines + "\r\n".len()
}

/// The largest payload to plan with, when headers and payload together may have `limit` bytes: room is left for what
/// the engine adds (trace, depth, parent, message id).
fn payload_limit(limit: usize) -> usize {
    limit - (limit / 4).min(1024)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn with_header(name: &str, value: &[u8]) -> Message {
        let headers = Headers::List(vec![(name.to_owned(), Bytes::copy_from_slice(value))]);
        Message { subject: "a".into(), headers, ..Message::default() }
    }

    #[test]
    fn headers_that_would_not_arrive_as_they_are_are_refused_by_name_and_never_by_value() {
        for (name, value) in [
            ("", &b"v"[..]),
            ("a b", b"v"),
            ("a:b", b"v"),
            ("ü", b"v"),
            ("key", b"secret\r\nInjected: yes"),
            ("key", b"secret\n"),
            ("key", b"\xffsecret"),
            ("key", b" secret"),
            ("key", b"secret\t"),
            ("key", b"sec\0ret"),
        ] {
            let error = check(&with_header(name, value), 1 << 20).unwrap_err();
            assert!(matches!(&error, BusError::InvalidHeader { name: told, .. } if told == name), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        check(&with_header("Key_1", "viele Grüße: \"a\"".as_bytes()), 1 << 20).unwrap();
        check(&with_header("Empty", b""), 1 << 20).unwrap();
    }

    #[test]
    fn headers_count_towards_the_limit() {
        let mut message = with_header("A", b"b");
        let headers = b"NATS/1.0\r\nA: b\r\n\r\n".len();
        message.payload = Bytes::from(vec![0; 100 - headers]);
        check(&message, 100).unwrap();
        let refused = check(&message, 99).unwrap_err();
        assert!(matches!(refused, BusError::TooLarge { size: 100, limit: 99 }), "{refused}");
    }

    #[test]
    fn a_reply_is_a_subject_too() {
        let message = Message { subject: "a".into(), reply: Some("b.*".into()), ..Message::default() };
        let refused = check(&message, 100).unwrap_err();
        assert!(matches!(&refused, BusError::InvalidSubject { subject, .. } if subject == "b.*"), "{refused}");
        let long = Message { subject: "x".repeat(1 << 20).into(), ..Message::default() };
        assert!(check(&long, 100).unwrap_err().to_string().len() < 512);
    }

    #[test]
    fn queue_groups_are_words() {
        for group in ["", "a b", "a\n", &"x".repeat(256)] {
            assert!(check_subscription("a", Some(group)).is_err(), "{group:?}");
        }
        check_subscription("a.>", Some("billing.eu")).unwrap();
        assert!(check_subscription("a.>.b", None).is_err());
    }

    #[test]
    fn a_payload_of_the_planned_size_leaves_room_for_headers() {
        assert_eq!(payload_limit(1 << 20), (1 << 20) - 1024);
        assert_eq!(payload_limit(100), 75);
        assert_eq!(payload_limit(0), 0);
    }
}
