//! What the engine keeps: one contract, told in the words of the design.
//!
//! Every method that changes something is one commit when it returns. Rows of the queue are claimed with a token and a
//! lease, and every settle names the token: a worker whose lease ran out changes nothing. No method takes a list
//! without a bound on its length or a limit to stop at, and none that lists reads a module's bytes. Moments are kept to
//! the microsecond.
//!
//! An operation whose future is dropped before it ended may or may not have been done, and is never half done.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Accepted, Binding, BoxFuture, Failure, InvocationContext, Message, Response, Status};
use uuid::Uuid;

use crate::executor::Abi;
use crate::functions::{Definition, Digest};
use crate::traces::TraceRow;

pub use dead_letters::{
    DeadLetter, DeadLetterPage, DeadLetterPosition, DeadLetterSelector, DeadLetterSummary, KeptDeadLetter,
    MAX_SELECTED_IDS, RedriveState, Redriven, SelectedDeadLetter,
};

#[cfg(test)]
mod conformance;
mod dead_letters;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
pub mod postgres;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
pub mod sqlite;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
mod stored;

/// The most rows that one page of a list holds, whatever its filter asks for.
pub const MAX_PAGE: u32 = 1000;

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A store operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or written now; trying again may go better.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store was written by a newer engine, or by something else.
    #[error("the store cannot be used: {0}")]
    Incompatible(String),
    /// What is stored cannot be read back, or what was to be stored contradicts itself; trying again is pointless.
    #[error("{what} is corrupt: {why}")]
    Corrupt {
        /// Which row.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A trigger as it is stored: its section of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggerRow {
    /// Function, namespace, name and kind.
    pub binding: Binding,
    /// The kind's own section.
    pub config: serde_json::Value,
}

/// A function to deploy.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// Its definition: name and namespace are in it.
    pub definition: Definition,
    /// The module's bytes.
    pub module: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// How the module is called.
    pub abi: Abi,
    /// The function's triggers, which replace those it had.
    pub triggers: Vec<TriggerRow>,
}

/// What a deploy led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The function's namespace.
    pub namespace: String,
    /// The function's name.
    pub name: String,
    /// The version that is routed now.
    pub version: u32,
    /// Whether that version is new; `false` where the function had an identical one.
    pub created: bool,
}

/// A stored version.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// The function's identity.
    pub function_id: Uuid,
    /// Its number.
    pub number: u32,
    /// The module's digest.
    pub digest: Digest,
    /// The module's size in bytes.
    pub module_bytes: u64,
    /// How the module is called.
    pub abi: Abi,
    /// The definition.
    pub definition: Definition,
    /// When it was deployed.
    pub created_at: DateTime<Utc>,
    /// Whether the route points here.
    pub routed: bool,
}

/// A function with its routed version and its triggers.
#[derive(Clone, Debug)]
pub struct FunctionRow {
    /// The routed version.
    pub version: VersionRow,
    /// Its triggers.
    pub triggers: Vec<TriggerRow>,
}

/// A failed attempt, as dead letters tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// The version that it ran on.
    pub version: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What went wrong.
    pub failure: Failure,
    /// The delay chosen before the next attempt, in milliseconds; `None` for the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_delay_ms: Option<u64>,
}

/// An invocation to keep in the queue.
#[derive(Clone, Debug)]
pub struct QueuedInvocation {
    /// The invocation; `attempt` is the number of the attempt to make next.
    pub invocation: InvocationContext,
    /// When it is due.
    pub run_at: DateTime<Utc>,
    /// What was tried already.
    pub attempts: Vec<FailedAttempt>,
    /// How often it was redriven.
    pub redrive_count: u32,
}

/// A row of the queue, claimed for one attempt.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What to run.
    pub queued: QueuedInvocation,
    /// Names the claim in [`Store::settle`].
    pub token: Uuid,
}

/// How a claimed row ends.
#[derive(Clone, Debug)]
pub enum Settle {
    /// It ended well: the result is kept for those who ask, the effects go to the outbox, the row is removed.
    Ok {
        /// The guest's answer.
        response: Response,
        /// Messages that the guest published.
        effects: Vec<Message>,
    },
    /// It failed and is due again.
    Retry {
        /// When.
        run_at: DateTime<Utc>,
        /// The attempt that failed.
        attempt: FailedAttempt,
    },
    /// It is given up on: dead letter, outbox row and removal in one transaction.
    Dead(Box<DeadLetter>),
    /// The attempt was cut by shutdown: due again at once, and not counted.
    HandBack,
}

/// A message that must reach the bus.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Identity of the row; also the message's id for the bus.
    pub id: Uuid,
    /// The message.
    pub message: Message,
    /// How often publishing it failed.
    pub failures: u32,
}

/// Which trace rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceFilter {
    /// Of this function.
    pub function_name: Option<String>,
    /// Of this invocation.
    pub invocation_id: Option<Uuid>,
    /// With this outcome's word.
    pub outcome: Option<String>,
    /// That began before this moment.
    pub before: Option<DateTime<Utc>>,
    /// With `before`: also those that began at that very moment and whose invocation's id is lower than this one, as
    /// in [`DeadLetterPosition`].
    #[serde(default)]
    pub before_id: Option<Uuid>,
    /// At most this many (and [`MAX_PAGE`]), newest first.
    pub limit: u32,
}

/// How many rows wait, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depths {
    /// Due now or later, not claimed.
    pub queued: u64,
    /// Claimed.
    pub running: u64,
    /// Dead letters kept (not redriven).
    pub dead: u64,
    /// Messages that the bus has not taken yet.
    pub outbox: u64,
}

/// What to remove when it is old or too much. Steps are bounded; `prune` says whether there is more.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Results older than this moment.
    pub results_before: DateTime<Utc>,
    /// Traces older than this moment.
    pub traces_before: DateTime<Utc>,
    /// Keep at most this many trace rows.
    pub traces_max_rows: u64,
    /// Remembered event keys, and remembered attempts of redelivered events, older than this moment.
    pub keys_before: DateTime<Utc>,
    /// Dead letters that died before this moment.
    pub dead_letters_before: DateTime<Utc>,
    /// Keep at most this many dead letters, redriven ones included: the oldest go first.
    pub dead_letters_max_rows: u64,
}

impl Retention {
    /// Removes nothing.
    pub const NOTHING: Self = Self {
        results_before: DateTime::<Utc>::UNIX_EPOCH,
        traces_before: DateTime::<Utc>::UNIX_EPOCH,
        traces_max_rows: i64::MAX as u64,
        keys_before: DateTime::<Utc>::UNIX_EPOCH,
        dead_letters_before: DateTime::<Utc>::UNIX_EPOCH,
        dead_letters_max_rows: i64::MAX as u64,
    };
}

/// What one step of retention removed, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Results of accepted invocations.
    pub results: u64,
    /// Rows of traces.
    pub traces: u64,
    /// Remembered keys.
    pub keys: u64,
    /// Remembered attempts.
    pub attempts: u64,
    /// Dead letters that were too old.
    pub dead_letters_old: u64,
    /// Dead letters that were too many.
    pub dead_letters_excess: u64,
    /// Whether there may be more to do.
    pub more: bool,
}

/// Everything that the engine keeps.
pub trait Store: Send + Sync + 'static {
    /// Deploys functions: module, version where it is new, route and triggers, all of them in one transaction.
    /// Functions of `namespace` that are not among them lose their route and triggers; their versions stay.
    ///
    /// A version's identity is its module's digest and its definition's. Deploying a pair that the function has
    /// already, newest or older, moves the route to that version and makes no new number.
    fn deploy(&self, namespace: String, functions: Vec<Deploy>) -> BoxFuture<'_, Result<Vec<Deployed>>>;

    /// Every routed function.
    fn functions(&self) -> BoxFuture<'_, Result<Vec<FunctionRow>>>;

    /// Every version of a function, newest first.
    fn versions(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Vec<VersionRow>>>;

    /// One version of a function.
    fn version(&self, namespace: String, name: String, number: u32) -> BoxFuture<'_, Result<Option<VersionRow>>>;

    /// A module's bytes, as stored.
    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Bytes>>>;

    /// Keeps new events. One whose `idempotency_key` was accepted before for the same trigger is a duplicate and is
    /// answered with the first one's id. Answers are in the order of the question.
    fn accept(&self, queued: Vec<QueuedInvocation>) -> BoxFuture<'_, Result<Vec<Accepted>>>;

    /// Keeps an invocation whose inline attempt failed and whose source cannot redeliver. Its key is not looked at. One
    /// that is in the queue already stays as it is.
    fn keep(&self, queued: QueuedInvocation) -> BoxFuture<'_, Result<()>>;

    /// Claims rows that are due at `now` and unclaimed, or whose lease ran out before it, the longest due first; fewer
    /// than `limit` where payloads are large. An expired claim costs no attempt. A row that cannot be read does not
    /// hold up the others: it becomes a dead letter (`incompatible`, payload kept) and what was unreadable is parked.
    fn claim(&self, now: DateTime<Utc>, lease_until: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<Claimed>>>;

    /// Prolongs claims; answers the ids that are still held by their tokens.
    fn renew(&self, claims: Vec<(Uuid, Uuid)>, lease_until: DateTime<Utc>) -> BoxFuture<'_, Result<Vec<Uuid>>>;

    /// Ends a claim. `false` if the claim is no longer the token's: nothing was changed then. The version of a first
    /// failed attempt stays the row's version.
    fn settle(&self, invocation_id: Uuid, token: Uuid, settle: Settle) -> BoxFuture<'_, Result<bool>>;

    /// When the next unclaimed row is due.
    fn next_due(&self) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>>;

    /// Ends when another engine on the same store has made rows due, or may have. It is a hint: whoever waits for rows
    /// polls as well. What this very store did wakes nobody here. Where there are no others it never ends.
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Keeps the dead letter of an invocation that is not in the queue, and what to publish about it; forgets its
    /// remembered attempts. An older dead letter of the same invocation is replaced.
    fn bury(&self, dead: Box<DeadLetter>) -> BoxFuture<'_, Result<()>>;

    /// Remembers a failed attempt of an event that its source will redeliver.
    fn remember_attempt(&self, invocation_id: Uuid, attempt: FailedAttempt) -> BoxFuture<'_, Result<()>>;

    /// The remembered attempts of an event, in order.
    fn remembered_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Vec<FailedAttempt>>>;

    /// Forgets them.
    fn forget_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<()>>;

    /// How an accepted invocation stands.
    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>>>;

    /// When the newest accepted event of a trigger that carried a schedule was due.
    fn last_scheduled(&self, binding: Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>>;

    /// Dead letters, newest first. One that cannot be read is left out.
    fn dead_letters(&self, page: DeadLetterPage) -> BoxFuture<'_, Result<Vec<DeadLetterSummary>>>;

    /// How many dead letters are selected.
    fn dead_letter_count(&self, selector: DeadLetterSelector) -> BoxFuture<'_, Result<u64>>;

    /// Those that something is to be done about, the oldest first, behind a place in that order; at most `limit` and
    /// [`MAX_PAGE`]. Fewer mean that there are no more.
    fn select_dead_letters(
        &self,
        selector: DeadLetterSelector,
        behind: Option<DeadLetterPosition>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<SelectedDeadLetter>>>;

    /// A dead letter with payload and attempts, and when it was redriven.
    fn dead_letter(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<KeptDeadLetter>>>;

    /// Puts dead letters' events back in the queue: same identities, first attempts, on `version` of their function or,
    /// where none is chosen, on the routed one. Whether there is such a version is not looked at. Answers are in the
    /// order of the question and fewer where the events are large, but for the first one; the rest was not begun.
    fn redrive_all(
        &self,
        invocation_ids: Vec<Uuid>,
        version: Option<u32>,
        run_at: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<Redriven>>>;

    /// Puts a dead letter's event back in the queue, no version chosen.
    fn redrive(&self, invocation_id: Uuid, run_at: DateTime<Utc>) -> BoxFuture<'_, Result<Redriven>> {
        Box::pin(async move {
            let redriven = self.redrive_all(vec![invocation_id], None, run_at).await?;
            Ok(redriven.first().copied().unwrap_or(Redriven::Unknown))
        })
    }

    /// How redriven events stand, in the order of the question.
    fn redrive_states(&self, invocation_ids: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<RedriveState>>>;

    /// Forgets dead letters that still are where they were: one that died again meanwhile stays, and so does one that
    /// was redriven, unless `include_redriven`. Answers how many there were. What is to be published about them is.
    fn purge_dead_letters(
        &self,
        positions: Vec<DeadLetterPosition>,
        include_redriven: bool,
    ) -> BoxFuture<'_, Result<u64>>;

    /// Adds messages to the outbox.
    fn outbox_add(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<()>>;

    /// Messages that are due, the longest due first; fewer than `limit` where they are large. Only one publisher of a
    /// store works at a time, so nothing is claimed from itself; what other engines on the same store publish just now
    /// is left out.
    fn outbox_due(&self, now: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxRow>>>;

    /// Removes messages that the bus has taken, and marks their dead letters as published.
    fn outbox_sent(&self, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>>;

    /// Puts a message off after a failure.
    fn outbox_failed(&self, id: Uuid, retry_at: DateTime<Utc>, error: String) -> BoxFuture<'_, Result<()>>;

    /// Writes a batch of trace rows.
    fn write_traces(&self, rows: Vec<TraceRow>) -> BoxFuture<'_, Result<()>>;

    /// Trace rows, newest first.
    fn traces(&self, filter: TraceFilter) -> BoxFuture<'_, Result<Vec<TraceRow>>>;

    /// How many rows wait.
    fn depths(&self) -> BoxFuture<'_, Result<Depths>>;

    /// Removes one bounded step of what is too old or too much. Where engines share a store one of them does it at a
    /// time; the others find nothing to do.
    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<Pruned>>;
}
