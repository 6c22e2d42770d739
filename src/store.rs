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
use trigger_core::{Binding, BoxFuture, Cancelled, Failure, Fingerprint, Message, Progress, SkippedFire, Status};
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
mod kv;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
pub mod postgres;
mod queued;
mod secret;
pub mod sqlite;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
mod stored;
mod tokens;

pub use kv::{
    KvBucket, KvChange, KvDone, KvEntry, KvExpected, KvLimits, KvRefused, KvWrite, KvWritten, MAX_KEYS_PAGE, number,
};
pub use queued::{
    Accept, Admitted, BlockedKey, Claim, ClaimRequest, Claimed, FireFilter, FireRow, Lease, LedgerCount, LedgerRow,
    PRIORITY_STEP, Pause, QueueFilter, QueueRow, QueuedInvocation, Release, Renewed, Settle, Tally,
};
pub use secret::secret;
pub use tokens::{MAX_TOKENS, TokenRow};

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
    /// Results that were to be kept until a moment before this one.
    pub results_before: DateTime<Utc>,
    /// Traces older than this moment.
    pub traces_before: DateTime<Utc>,
    /// Keep at most this many trace rows.
    pub traces_max_rows: u64,
    /// Remembered event keys, and remembered attempts of redelivered events, older than this moment.
    pub keys_before: DateTime<Utc>,
    /// Fires older than this moment.
    pub fires_before: DateTime<Utc>,
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
        fires_before: DateTime::<Utc>::UNIX_EPOCH,
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
    /// Fires of schedules.
    pub fires: u64,
    /// Dead letters that were too old.
    pub dead_letters_old: u64,
    /// Dead letters that were too many.
    pub dead_letters_excess: u64,
    /// Entries of functions that had expired.
    pub kv: u64,
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

    /// Keeps new events, in one commit. One whose `idempotency_key` was accepted before for the same trigger is a
    /// duplicate, and so is one whose unique key is held. What their terms ask for (order, uniqueness, one fire for
    /// each moment) is decided here, in the same commit. Answers are in the order of the question.
    fn accept(&self, accept: Accept) -> BoxFuture<'_, Result<Vec<Admitted>>>;

    /// Keeps what was asked for together, messages and events, in one commit, unless this was done before: the answer is
    /// `None` then. Ids are remembered for as long as events' keys are ([`Retention::keys_before`]).
    fn release(&self, release: Release) -> BoxFuture<'_, Result<Option<Vec<Admitted>>>>;

    /// Keeps an invocation whose inline attempt failed and whose source cannot redeliver. Its keys are not looked at.
    /// One that is in the queue already stays as it is.
    fn keep(&self, queued: QueuedInvocation) -> BoxFuture<'_, Result<()>>;

    /// Claims rows that are due and unclaimed, or whose lease ran out, fewer than the limit where payloads are large.
    /// Every namespace that has such rows gets an equal share, within it every trigger; of a trigger, the lowest rank
    /// goes first. Rows of paused triggers stay, and of an ordering key only the first is given out. An expired claim
    /// costs no attempt. A row that cannot be read does not hold up the others: it becomes a dead letter
    /// (`incompatible`, payload kept) and what was unreadable is parked.
    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claimed>>>;

    /// Prolongs claims; answers those that are still held, and which of them are to be cancelled.
    fn renew(&self, claims: Vec<Claim>, lease_until: DateTime<Utc>) -> BoxFuture<'_, Result<Renewed>>;

    /// Ends a claim. `false` if the claim is no longer the token's: nothing was changed then. The version of a first
    /// failed attempt stays the row's version.
    fn settle(&self, claim: Claim, settle: Settle) -> BoxFuture<'_, Result<bool>>;

    /// Takes back an event that has not ended: one that waits is removed and kept as cancelled until `keep_until`; one
    /// that runs is marked, and whoever renews its claim is told.
    fn cancel(&self, invocation_id: Uuid, keep_until: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Cancelled>>;

    /// What the event said that a key of a trigger was accepted with; `None` where the key is not known (any more), or
    /// nothing was said.
    fn fingerprint(&self, binding: Binding, idempotency_key: String) -> BoxFuture<'_, Result<Option<Fingerprint>>>;

    /// The invocation that holds a trigger's unique key.
    fn unique_holder(&self, binding: Binding, unique_key: String) -> BoxFuture<'_, Result<Option<Uuid>>>;

    /// Keeps what a running attempt says of its progress, while its claim holds.
    fn progress(&self, claim: Claim, progress: Progress) -> BoxFuture<'_, Result<bool>>;

    /// Pauses a trigger (its rows stay, its schedule does not fire) or, with `None`, lets it go on. `false` if no event
    /// of such a trigger was ever seen and it is not deployed.
    fn pause(&self, binding: Binding, pause: Option<Pause>) -> BoxFuture<'_, Result<bool>>;

    /// Every paused trigger.
    fn paused(&self) -> BoxFuture<'_, Result<Vec<(Binding, Pause)>>>;

    /// Rows of the queue, the longest due first.
    fn queue(&self, filter: QueueFilter) -> BoxFuture<'_, Result<Vec<QueueRow>>>;

    /// Ordering keys with events that wait behind one that has failed, the longest due first.
    fn blocked_keys(&self, limit: u32) -> BoxFuture<'_, Result<Vec<BlockedKey>>>;

    /// Adds to the ledger what never was in the queue: each count is accepted and ended at once.
    fn tally(&self, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>>;

    /// Where every event of every trigger is, as one snapshot.
    fn ledger(&self) -> BoxFuture<'_, Result<Vec<LedgerRow>>>;

    /// Keeps rows about fires that were not made. One about a moment that has its row already changes nothing.
    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<()>>;

    /// The fires of a trigger, newest first.
    fn fires(&self, binding: Binding, filter: FireFilter) -> BoxFuture<'_, Result<Vec<FireRow>>>;

    /// When the next row that waits for its moment is due. Those that are due already are not looked at.
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

    /// The entry that a key has at `now`.
    fn kv_get(&self, bucket: KvBucket, key: String, now: DateTime<Utc>) -> BoxFuture<'_, Result<Option<KvEntry>>>;

    /// Writes to keys of a bucket, no key twice: all of them in one commit, or none and the reason. What others write
    /// to the same keys comes before or after. Answers are in the order of the question.
    fn kv_write(
        &self,
        bucket: KvBucket,
        writes: Vec<KvWrite>,
        limits: KvLimits,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<KvWritten>>;

    /// Keys of a bucket that begin with `prefix`, behind `after`, in the order of their bytes: at most `limit` and
    /// [`MAX_KEYS_PAGE`].
    fn kv_keys(
        &self,
        bucket: KvBucket,
        prefix: String,
        after: Option<String>,
        limit: u32,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<String>>>;

    /// Keeps a new bearer token. `false` if its namespace has [`MAX_TOKENS`] already.
    fn add_token(&self, token: TokenRow) -> BoxFuture<'_, Result<bool>>;

    /// The tokens of a namespace, the newest first; at most [`MAX_TOKENS`].
    fn tokens(&self, namespace: String) -> BoxFuture<'_, Result<Vec<TokenRow>>>;

    /// Forgets a token of a namespace. `false` if there is none of this id.
    fn remove_token(&self, namespace: String, id: String) -> BoxFuture<'_, Result<bool>>;

    /// How many rows wait.
    fn depths(&self) -> BoxFuture<'_, Result<Depths>>;

    /// Removes one bounded step of what is too old or too much. Where engines share a store one of them does it at a
    /// time; the others find nothing to do.
    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<Pruned>>;
}
