//! What the engine keeps: one contract, told in the words of the design.
//!
//! Every method that changes something is one commit when it returns. Rows of the queue are claimed with a token and a
//! lease, and every settle names the token: a worker whose lease ran out changes nothing. No method takes a list
//! without a bound on its length or a limit to stop at, and none that lists reads a module's bytes. Moments are kept to
//! the microsecond.
//!
//! An operation whose future is dropped before it ended may or may not have been done, and is never half done.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{
    Binding, BoxFuture, Cancelled, DeadReason, Failure, InvocationContext, Message, Progress, SkippedFire, Status,
};
use uuid::Uuid;

use crate::executor::Abi;
use crate::functions::{Definition, Digest};
use crate::traces::TraceRow;

#[cfg(test)]
mod conformance;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
pub mod postgres;
mod queued;
pub mod sqlite;
#[allow(
    clippy::disallowed_methods,
    reason = "the drivers stamp rows by the machine's clock; what is due is asked with a moment"
)]
mod stored;

pub use queued::{
    Accept, Admitted, BlockedKey, Claim, ClaimRequest, Claimed, FireFilter, FireRow, Lease, LedgerCount, LedgerRow,
    PRIORITY_STEP, Pause, QueueFilter, QueueRow, QueuedInvocation, Renewed, Settle, Tally,
};

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

/// An invocation that was given up on. Its JSON is the dead letter's envelope, payload included.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The invocation as it was at its last attempt, payload included.
    pub invocation: InvocationContext,
    /// The version it ran on last; `None` where none could be found.
    pub version: Option<u32>,
    /// That version's module.
    pub digest: Option<Digest>,
    /// Every failed attempt.
    pub attempts: Vec<FailedAttempt>,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The last failure.
    pub failure: Failure,
    /// When.
    pub died_at: DateTime<Utc>,
    /// How often it had been redriven before.
    pub redrive_count: u32,
    /// What to publish about it, and where; `None` where the definition names no topic or publishing could loop. It
    /// goes to the outbox and is not kept with the dead letter: `None` in one that was read back.
    pub publish: Option<Message>,
}

/// A dead letter as it was kept, and when it was redriven, if it was and has not died again since.
pub type KeptDeadLetter = (DeadLetter, Option<DateTime<Utc>>);

/// A dead letter in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// The invocation's identity, which is the dead letter's too.
    pub invocation_id: Uuid,
    /// Where the event came in.
    #[serde(flatten)]
    pub binding: Binding,
    /// What the event was about.
    pub subject: String,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The last failure.
    pub failure: Failure,
    /// Attempts made.
    pub attempts: u32,
    /// When it was given up on.
    pub died_at: DateTime<Utc>,
    /// When it was redriven, if it was since.
    pub redriven_at: Option<DateTime<Utc>>,
    /// Whether its topic has it: `None` where there is none.
    pub published: Option<bool>,
}

/// Which dead letters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeadLetterFilter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this function.
    pub function_name: Option<String>,
    /// Given up on for this reason.
    pub reason: Option<DeadReason>,
    /// Also those that were redriven since.
    #[serde(default)]
    pub include_redriven: bool,
    /// Those that died before this moment (for paging: the oldest one's `died_at` of the page before).
    pub before: Option<DateTime<Utc>>,
    /// With `before`: also those that died at that very moment and whose id is lower than this one (for paging: the
    /// last one's `invocation_id` of the page before). Several may die in one microsecond; without it a page's end
    /// among them would lose the rest.
    #[serde(default)]
    pub before_id: Option<Uuid>,
    /// At most this many (and [`MAX_PAGE`]), newest first.
    pub limit: u32,
}

/// What a redrive led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// The event is back in the queue, with its first attempt before it.
    Queued,
    /// It was redriven before and has not died since.
    Already,
    /// No such dead letter.
    Unknown,
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
    /// in [`DeadLetterFilter::before_id`].
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

    /// Dead letters, newest first.
    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetterSummary>>>;

    /// A dead letter with payload and attempts, and when it was redriven.
    fn dead_letter(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<KeptDeadLetter>>>;

    /// Puts a dead letter's event back in the queue: same identity, first attempt, no version pinned.
    fn redrive(&self, invocation_id: Uuid, run_at: DateTime<Utc>) -> BoxFuture<'_, Result<Redriven>>;

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

    /// Removes one bounded step of what is too old; `true` if there may be more.
    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<bool>>;
}

impl DeadLetter {
    /// The envelope, as published and exported: a CloudEvent (version 1.0, structured JSON) whose data is the event
    /// with its history.
    pub fn envelope(&self) -> serde_json::Value {
        use base64::Engine as _;
        let invocation = &self.invocation;
        let binding = &invocation.binding;
        let (payload, encoding) = match std::str::from_utf8(&invocation.payload) {
            Ok(text) => (text.to_owned(), "text"),
            Err(_) => (base64::engine::general_purpose::STANDARD.encode(&invocation.payload), "base64"),
        };
        let attributes: BTreeMap<&str, &str> =
            invocation.attributes.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
        serde_json::json!({
            "specversion": "1.0",
            "id": invocation.invocation_id,
            "source": format!("tripline:{}", binding.path()),
            "type": "tripline.dead_letter",
            "subject": invocation.subject,
            "time": self.died_at,
            "datacontenttype": "application/json",
            "traceparent": invocation.trace.traceparent(),
            "data": {
                "id": invocation.invocation_id,
                "namespace": binding.namespace,
                "function": binding.function_name,
                "version": self.version,
                "digest": self.digest,
                "trigger_type": binding.trigger_type,
                "trigger_id": binding.trigger_id,
                "subject": invocation.subject,
                "position": attributes,
                "scheduled_at": invocation.scheduled_at,
                "headers": shown_headers(&invocation.headers),
                "content_type": invocation.content_type,
                "payload": payload,
                "payload_encoding": encoding,
                "payload_bytes": invocation.payload.len(),
                "attempts": self.attempts,
                "reason": self.reason,
                "failure": self.failure,
                "first_seen": invocation.received_at,
                "died_at": self.died_at,
                "depth": invocation.depth,
                "parent": invocation.parent,
                "idempotency_key": invocation.idempotency_token(),
                "redrive_count": self.redrive_count,
                "redriven_from": (self.redrive_count > 0).then_some(invocation.invocation_id),
            },
        })
    }
}

/// What stands in place of a credential.
const MASKED: &str = "(masked)";

/// An event's headers as a dead letter shows them: what proves somebody's identity is masked, since dead letters are
/// read and passed on by others. The kept event has the whole of them, so that a redrive runs it as it came.
fn shown_headers(headers: &trigger_core::Headers) -> serde_json::Value {
    let shown: Vec<(&str, std::borrow::Cow<'_, str>)> = headers
        .iter()
        .map(|(name, value)| match is_credential(name) {
            true => (name, MASKED.into()),
            false => (name, String::from_utf8_lossy(value)),
        })
        .collect();
    serde_json::json!(shown)
}

/// Whether a header of this name carries a credential, by the names that are in use.
fn is_credential(name: &str) -> bool {
    const PARTS: &[&str] =
        &["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "signature"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trigger_core::{Custody, FailureCode, Headers, Kind};

    use super::*;

    #[test]
    fn credentials_in_headers_are_masked_in_a_dead_letter() {
        let binding = Binding {
            namespace: "default".into(),
            function_name: "function".into(),
            trigger_id: "http-1".into(),
            trigger_type: Kind::Http,
        };
        let mut invocation = InvocationContext::new(Arc::new(binding), Custody::Engine, Bytes::new());
        let header = |name: &str, value: &'static str| (name.to_owned(), Bytes::from_static(value.as_bytes()));
        invocation.headers = Headers::List(vec![
            header("Authorization", "Bearer hunter2"),
            header("X-Api-Key", "hunter2"),
            header("cookie", "session=hunter2"),
            header("content-language", "fr"),
        ]);
        let dead = DeadLetter {
            invocation,
            version: None,
            digest: None,
            attempts: Vec::new(),
            reason: DeadReason::Permanent,
            failure: Failure::new(FailureCode::GuestError, "no"),
            died_at: Utc::now(),
            redrive_count: 0,
            publish: None,
        };
        let envelope = dead.envelope().to_string();
        assert!(!envelope.contains("hunter2"), "{envelope}");
        assert!(envelope.contains("content-language") && envelope.contains("\"fr\""), "{envelope}");
    }
}
