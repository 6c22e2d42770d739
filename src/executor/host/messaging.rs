//! `messaging`: what a guest publishes, checked now and sent when its attempt has succeeded.

use std::time::Instant;

use bytes::Bytes;
use trigger_core::bus::{DEPTH_HEADER, MESSAGE_ID_HEADER, PARENT_HEADER};
use trigger_core::{Headers, InvocationContext, Message, subject};

use super::bindings::tripline::function::messaging::{self, Error};
use super::events::{SHOWN, header_bytes};
use crate::bus;
use crate::executor::guest::Guest;
use crate::executor::logs::prefix;

impl messaging::Host for Guest {
    fn publish(&mut self, message: messaging::Message) -> Result<(), Error> {
        self.publish_batch(vec![message])
    }

    /// All of them or none.
    fn publish_batch(&mut self, messages: Vec<messaging::Message>) -> Result<(), Error> {
        let began = Instant::now();
        let total: usize = messages.iter().map(size).sum();
        let checked = messages
            .iter()
            .try_for_each(|message| self.check(message))
            .and_then(|()| self.room(messages.len(), total).map_err(Error::TooLarge));
        for message in &messages {
            let shown = prefix(&message.subject, SHOWN).to_owned();
            self.noted("publish", shown, began, message.payload.len(), checked.as_ref().err().map(told));
        }
        checked?;
        let lineage = self.with_invocation(lineage);
        let outgoing: Vec<Message> = messages.into_iter().map(|message| outgoing(message, &lineage)).collect();
        // What no bus can carry would wait in the outbox for ever.
        for message in &outgoing {
            bus::check(message, usize::MAX).map_err(|error| Error::Denied(error.to_string()))?;
        }
        self.effect_bytes += total;
        self.effects.messages.extend(outgoing);
        Ok(())
    }
}

impl Guest {
    fn check(&self, message: &messaging::Message) -> Result<(), Error> {
        let shown = prefix(&message.subject, SHOWN);
        subject::check_subject(&message.subject).map_err(|why| Error::InvalidSubject(format!("{shown:?}: {why}")))?;
        let grants = &self.version.definition.allow.publish;
        if !grants.iter().any(|grant| is_granted(grant, &message.subject)) {
            let name = &self.version.definition.name;
            return Err(Error::Denied(format!(
                "the definition does not grant {shown:?}: add it to functions.{name}.allow.publish"
            )));
        }
        message.headers.iter().try_for_each(|(name, _)| check_header(name))?;
        let (size, limit) = (size(message), self.bounds.max_message_bytes);
        if size > limit {
            return Err(Error::TooLarge(format!("the message has {size} bytes, the limit is {limit}")));
        }
        Ok(())
    }
}

pub(super) fn told(error: &Error) -> String {
    match error {
        Error::Denied(why) => format!("denied: {why}"),
        Error::InvalidSubject(why) => format!("invalid subject: {why}"),
        Error::TooLarge(why) => format!("too large: {why}"),
    }
}

fn size(message: &messaging::Message) -> usize {
    message.payload.len() + header_bytes(&message.headers)
}

/// Whether a grant covers a subject. Subjects that begin with `$` are a server's own (`$JS`, `$SYS`): a wildcard alone
/// does not grant them.
fn is_granted(grant: &str, subject: &str) -> bool {
    (!subject.starts_with('$') || grant.starts_with('$')) && subject::matches(grant, subject)
}

/// Refuses headers by which an engine or a server is told things.
fn check_header(name: &str) -> Result<(), Error> {
    let lower = name.to_ascii_lowercase();
    let servers = lower.starts_with("nats-") && !lower.eq_ignore_ascii_case(MESSAGE_ID_HEADER);
    match reserved_header(name).or_else(|| servers.then(|| set_by_the_engine(name))) {
        Some(why) => Err(Error::Denied(why)),
        None => Ok(()),
    }
}

/// Why a guest may not set a header, if it may not: an engine is told things by it.
pub(super) fn reserved_header(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let reserved = lower.starts_with("tripline-") || matches!(lower.as_str(), "traceparent" | "tracestate");
    reserved.then(|| set_by_the_engine(name))
}

fn set_by_the_engine(name: &str) -> String {
    format!("header {:?} is set by the engine", prefix(name, SHOWN))
}

/// The headers that say where a message comes from.
fn lineage(invocation: &InvocationContext) -> Vec<(String, Bytes)> {
    let mut headers = vec![
        ("traceparent".to_owned(), Bytes::from(invocation.trace.traceparent())),
        (DEPTH_HEADER.to_owned(), Bytes::from(invocation.depth.saturating_add(1).to_string())),
        (PARENT_HEADER.to_owned(), Bytes::from(invocation.invocation_id.to_string())),
    ];
    if let Some(state) = &invocation.trace.state {
        headers.push(("tracestate".to_owned(), Bytes::copy_from_slice(state.as_bytes())));
    }
    headers
}

fn outgoing(message: messaging::Message, lineage: &[(String, Bytes)]) -> Message {
    let own = message.headers.into_iter().map(|(name, value)| (name, Bytes::from(value)));
    let headers = own.chain(lineage.iter().cloned()).collect();
    Message {
        subject: message.subject.into_boxed_str(),
        reply: None,
        headers: Headers::List(headers),
        payload: message.payload.into(),
    }
}
