//! The engine, as an adapter sees it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Answer, Binding, BoxFuture, DeadReason, Failure, HttpParts, InvocationContext, Shed, SkipReason};

/// Takes events in, by one of two admissions.
pub trait Dispatch: Send + Sync + 'static {
    /// *Inline*: the source holds the event until the answer. Waits for a slot (bounded; a full wait is
    /// [`Answer::Shed`]), then for the attempt. The first attempt touches no disk.
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer>;

    /// *Queued*: the event is committed to the store when this returns `Ok`; only then may the source be told.
    /// An event with the `idempotency_key` of an earlier one of the same trigger is answered with that one's id, and
    /// where their terms name fingerprints, with whether those differ.
    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>>;

    /// Many of them in one commit; answers are in the order of the question. Fingerprints are not compared.
    fn accept_all(&self, invocations: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>>;

    /// Takes back an accepted event that has not ended. The answer is the truth: what is told to be cancelled has not
    /// run and will not.
    fn cancel(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>>;

    /// The same for the event that holds a unique key of a trigger.
    fn cancel_key(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<Cancelled, Refused>>;

    /// The same for every event of a trigger that is queued or running; answers how many.
    fn cancel_live(&self, binding: &Binding) -> BoxFuture<'_, Result<u64, Refused>>;

    /// The same for every event of a trigger that waits, but the one that holds this unique key; answers how many.
    fn cancel_others(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<u64, Refused>>;

    /// Waits until an accepted invocation has ended, for at most this long, and says how it stands then.
    fn wait(&self, invocation_id: Uuid, at_most: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>>;

    /// Keeps rows about fires that a schedule did not make. One about a moment that has its row already changes
    /// nothing.
    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>>;

    /// Since when a trigger is paused and why; `None` where it is not.
    fn paused(&self, binding: &Binding) -> Option<Arc<str>>;

    /// Bounds what this engine runs and keeps of a trigger's queued events, from now on.
    fn set_gate(&self, binding: &Binding, gate: Gate);

    /// How an accepted invocation stands; `None` where it is unknown or its result has been forgotten.
    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>>;

    /// When the newest event of this trigger that carried a schedule was due; `None` before the first.
    fn last_scheduled(&self, binding: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>>;

    /// Counts events that a source says it dropped before the adapter saw them.
    fn count_shed(&self, binding: &Binding, reason: Shed, events: u64);

    /// Counts a time in which a source that repeats nothing was not listened to: how many events came, nobody knows.
    fn count_gap(&self, binding: &Binding);
}

/// A committed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its invocation: the first one's, for a duplicate.
    pub invocation_id: Uuid,
    /// Whether the event had been accepted before.
    pub duplicate: bool,
    /// Whether the event that was accepted before under this key said something else.
    pub differs: bool,
    /// Why it will not run, where that was decided already. It is counted, and nothing waits.
    pub skipped: Option<SkipReason>,
}

impl Accepted {
    /// A new event, which will run.
    pub const fn new(invocation_id: Uuid) -> Self {
        Self { invocation_id, duplicate: false, differs: false, skipped: None }
    }

    /// The event that was accepted before as this one.
    pub const fn before(invocation_id: Uuid) -> Self {
        Self { duplicate: true, ..Self::new(invocation_id) }
    }
}

/// What became of the wish to take an event back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cancelled {
    /// It waited and is gone: it has not run (since its last attempt) and will not.
    Cancelled,
    /// An attempt is under way and will be cut; it may end before that.
    Asked,
    /// It has ended already.
    Ended,
    /// Nothing of this name is known.
    Unknown,
}

/// Fires of a schedule that were not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedFire {
    /// The schedule's trigger.
    pub binding: Arc<Binding>,
    /// When the first of them was due.
    pub scheduled_at: DateTime<Utc>,
    /// When the last of them was due: the same moment for one.
    pub until: DateTime<Utc>,
    /// How many there are from one to the other.
    pub count: u64,
    /// Why they were not made.
    pub reason: SkipReason,
}

/// What bounds a trigger's queued events on this engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gate {
    /// Attempts at once.
    pub concurrency: Option<u32>,
    /// Attempts begun over time.
    pub rate: Option<Rate>,
    /// Events that may be queued or running before a new one is refused (`backlog`).
    pub max_backlog: Option<u64>,
    /// Whether the trigger pauses when one of its events is given up on.
    pub pause_on_failure: bool,
}

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many.
    pub events: u32,
    /// In how long.
    pub per: Duration,
}

/// How far an attempt says it has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// How much of the work is done, from 0 to 100.
    pub percent: f32,
    /// What is being done, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
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
    Running {
        /// How far it has come, where it says so.
        progress: Option<Progress>,
    },
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
    /// It was taken back before it ended.
    Cancelled,
}
