//! The engine, as an adapter sees it.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Answer, Binding, BoxFuture, DeadReason, Failure, HttpParts, InvocationContext, Shed};

/// Takes events in, by one of two admissions.
pub trait Dispatch: Send + Sync + 'static {
    /// *Inline*: the source holds the event until the answer. Waits for a slot (bounded; a full wait is
    /// [`Answer::Shed`]), then for the attempt. The first attempt touches no disk.
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer>;

    /// *Queued*: the event is committed to the store when this returns `Ok`; only then may the source be told.
    /// An event with the `idempotency_key` of an earlier one of the same trigger is answered with that one's id.
    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>>;

    /// How an accepted invocation stands; `None` where it is unknown or its result has been forgotten.
    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>>;

    /// When the newest event of this trigger that carried a schedule was due; `None` before the first.
    fn last_scheduled(&self, binding: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>>;

    /// Counts events that a source says it dropped before the adapter saw them.
    fn count_shed(&self, binding: &Binding, reason: Shed, events: u64);
}

/// A committed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its invocation: the first one's, for a duplicate.
    pub invocation_id: Uuid,
    /// Whether the event had been accepted before.
    pub duplicate: bool,
}

/// Why an event could not be taken. Nothing was kept.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The stable reason.
    pub reason: Shed,
    /// For people.
    pub message: Cow<'static, str>,
    /// When to try again.
    pub retry_after: Duration,
}

/// How an accepted invocation stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// The function's namespace and name, so that a caller of one function cannot read another's results.
    pub binding: Binding,
    /// Attempts made or under way.
    pub attempts: u32,
    /// Where it stands.
    pub state: StatusState,
}

/// The states of an accepted invocation.
#[derive(Clone, Debug)]
pub enum StatusState {
    /// Waiting for its first or next attempt, due at this time.
    Queued {
        /// When it is due.
        run_at: DateTime<Utc>,
    },
    /// An attempt is under way.
    Running,
    /// It ended well.
    Ok {
        /// The guest's answer.
        body: Bytes,
        /// Status and headers, when the guest chose them.
        http: Option<Box<HttpParts>>,
    },
    /// It was given up on.
    Dead {
        /// Why.
        reason: DeadReason,
        /// The last failure.
        failure: Failure,
    },
}
