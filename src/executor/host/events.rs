//! What `jobs` and `timers` have in common: events that a guest causes, checked now and accepted when its attempt has
//! succeeded.

use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use trigger_core::{Cancelled, EnqueueError, Headers, InvocationContext, Refused, UniqueConflict, subject};
use uuid::Uuid;

use super::bindings::tripline::function::types::{self, Conflict, Moment};
use super::messaging::reserved_header;
use crate::executor::guest::Guest;
use crate::executor::logs::prefix;
use crate::executor::{Effects, Services};

/// Bytes of a name that errors and traces repeat.
pub(super) const SHOWN: usize = 200;

/// Why a guest was not given what it asked for; both interfaces have these cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("denied: {0}")]
    Denied(String),
    #[error("unknown: {0}")]
    Unknown(String),
    #[error("invalid {0}: {1}")]
    Invalid(String, String),
    #[error("too many: {0}")]
    TooMany(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Refusal {
    pub(super) fn invalid(field: &str, why: impl Into<String>) -> Self {
        Refusal::Invalid(field.to_owned(), why.into())
    }
}

impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::UnknownQueue { .. } | EnqueueError::UnknownTimer { .. } => {
                Refusal::Unknown(error.to_string())
            }
            EnqueueError::Invalid { field, why } => Refusal::invalid(field, why),
            EnqueueError::Refused(refused) => refused.into(),
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Refusal::Unavailable(refused.to_string())
    }
}

impl From<Cancelled> for types::Cancelled {
    fn from(cancelled: Cancelled) -> Self {
        match cancelled {
            Cancelled::Cancelled => Self::Cancelled,
            Cancelled::Asked => Self::Asked,
            Cancelled::Ended => Self::Ended,
            Cancelled::Unknown => Self::Unknown,
        }
    }
}

pub(super) fn conflict(conflict: Conflict) -> UniqueConflict {
    match conflict {
        Conflict::Keep => UniqueConflict::Keep,
        Conflict::Replace => UniqueConflict::Replace,
    }
}

/// The moment that a guest means.
pub(super) fn moment(field: &str, moment: Moment, services: &Services) -> Result<DateTime<Utc>, Refusal> {
    let found = match moment {
        Moment::After(millis) => i64::try_from(millis)
            .ok()
            .and_then(TimeDelta::try_milliseconds)
            .and_then(|delay| services.clock.now().checked_add_signed(delay)),
        Moment::At(millis) => i64::try_from(millis).ok().and_then(DateTime::from_timestamp_millis),
    };
    found.ok_or_else(|| Refusal::invalid(field, "no clock ever shows this moment"))
}

/// Headers of an event, without those by which an engine is told things.
pub(super) fn headers(headers: types::Headers) -> Result<Headers, Refusal> {
    match headers.iter().find_map(|(name, _)| reserved_header(name)) {
        Some(why) => Err(Refusal::invalid("headers", why)),
        None if headers.is_empty() => Ok(Headers::None),
        None => Ok(Headers::List(headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect())),
    }
}

/// Bytes of headers.
pub(super) fn header_bytes(headers: &types::Headers) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// A name as errors and traces repeat it.
pub(super) fn shown(name: &str) -> String {
    prefix(name, SHOWN).to_owned()
}

/// A function's name, or a grant of it, with its namespace: without one it is the caller's own.
pub(super) fn qualified(namespace: &str, name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{namespace}.{name}") }
}

impl Guest {
    /// Whether one of the grants under `key` of the definition's `allow` covers a name.
    pub(super) fn granted(&self, key: &str, grants: &[String], name: &str) -> Result<(), Refusal> {
        if grants.iter().any(|grant| subject::matches(grant, name)) {
            return Ok(());
        }
        Err(self.not_granted(key, name))
    }

    /// What is said of a name that none of the grants under `key` covers.
    pub(super) fn not_granted(&self, key: &str, name: &str) -> Refusal {
        let function = &self.version.definition.name;
        Refusal::Denied(format!(
            "the definition does not grant {:?}: add it to functions.{function}.allow.{key}",
            prefix(name, SHOWN)
        ))
    }

    /// Whether there is room for so many more effects of so many bytes.
    pub(super) fn room(&self, count: usize, bytes: usize) -> Result<(), String> {
        let (count, total) = (self.effects.len() + count, self.effect_bytes.saturating_add(bytes));
        let bounds = self.bounds;
        if count > bounds.max_effects || total > bounds.max_effect_bytes {
            return Err(format!(
                "the attempt would have {count} effects (messages, jobs, timers, frames) of {total} bytes, the limits are {} and {}",
                bounds.max_effects, bounds.max_effect_bytes
            ));
        }
        Ok(())
    }

    /// Holds an event back until the attempt has succeeded.
    pub(super) fn hold(&mut self, mut event: InvocationContext, bytes: usize) -> Uuid {
        self.with_invocation(|invocation| event.caused_by(invocation));
        let id = event.invocation_id;
        self.effect_bytes += bytes;
        self.effects.events.push(event);
        id
    }

    /// Lets go of an event that is held back; `false` where it is none.
    pub(super) fn let_go(&mut self, id: Uuid) -> bool {
        let before = self.effects.events.len();
        self.effects.events.retain(|event| event.invocation_id != id);
        self.effects.events.len() < before
    }

    /// Takes what is held back so far, and its bytes, but what is to be done to sockets: that no store keeps, and it stays
    /// with the attempt.
    pub(super) fn take_effects(&mut self) -> (Effects, usize) {
        if let Some(served) = &mut self.served {
            served.timers.clear();
        }
        let sockets = std::mem::take(&mut self.effects.sockets);
        let stays = sockets.iter().map(|effect| effect.command.bytes()).sum();
        let taken = std::mem::replace(&mut self.effects, Effects { sockets, ..Effects::default() });
        let bytes = std::mem::replace(&mut self.effect_bytes, stays);
        (taken, bytes - stays)
    }

    /// Notes what became of a call.
    pub(super) fn asked<T>(
        &mut self,
        op: &'static str,
        target: String,
        began: Instant,
        bytes: usize,
        result: &Result<T, Refusal>,
    ) {
        self.noted(op, target, began, bytes, result.as_ref().err().map(Refusal::to_string));
    }
}
