//! What the queue takes, hands out and takes back.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, InvocationContext, Message, Progress, Response, SkipReason};
use uuid::Uuid;

use super::{DeadLetter, FailedAttempt};

/// What one step of priority is worth: a row overtakes those of a step less that have been due this much longer.
pub const PRIORITY_STEP: TimeDelta = TimeDelta::minutes(1);

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

impl QueuedInvocation {
    /// A new event: it waits until it was scheduled for, or runs at once.
    pub fn new(invocation: InvocationContext) -> Self {
        let run_at = invocation.scheduled_at.unwrap_or(invocation.received_at);
        Self { invocation, run_at, attempts: Vec::new(), redrive_count: 0 }
    }

    /// Where it stands among those that are due: the lowest goes first. Priority is paid in time, so that it is the
    /// same order whenever one looks and nothing has to be written for a row to grow older.
    pub fn rank(&self) -> DateTime<Utc> {
        self.run_at - PRIORITY_STEP * i32::from(self.invocation.priority())
    }
}

/// A list of new events.
#[derive(Clone, Debug, Default)]
pub struct Accept {
    /// The events.
    pub queued: Vec<QueuedInvocation>,
    /// With it, those that could run at once are claimed with it right away. The caller sees to it that none of them
    /// overtakes what waits.
    pub lease: Option<Lease>,
    /// The most events of each one's trigger that may be queued or running; one more is not taken.
    pub max_backlog: Option<u64>,
    /// Until when it is kept that an event was cancelled for one with its unique key; `None` for not at all.
    pub keep_until: Option<DateTime<Utc>>,
}

/// What was asked for together, to be kept once.
#[derive(Clone, Debug)]
pub struct Release {
    /// Names it.
    pub id: Uuid,
    /// Messages for the outbox.
    pub messages: Vec<Message>,
    /// Events for the queue.
    pub events: Vec<QueuedInvocation>,
    /// Until when it is kept that an event was cancelled for one with its unique key; `None` for not at all.
    pub keep_until: Option<DateTime<Utc>>,
}

/// A claim to be: its token, and until when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names it.
    pub token: Uuid,
    /// Until when it holds.
    pub until: DateTime<Utc>,
}

/// What became of a new event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is in the queue.
    New {
        /// Whether it was claimed with the lease that came along.
        claimed: bool,
        /// The event that held its unique key and was cancelled for it.
        replaced: Option<Uuid>,
    },
    /// It is an event that was accepted before, under this id.
    Duplicate(Uuid),
    /// It does not run: this was counted, nothing waits.
    Skipped(SkipReason),
    /// Its trigger's backlog is full. Nothing was kept.
    Full,
}

/// Which rows to claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Rows due at this moment.
    pub now: DateTime<Utc>,
    /// How long the claim holds.
    pub lease_until: DateTime<Utc>,
    /// At most this many rows.
    pub limit: u32,
    /// At most this many rows of some triggers; 0 for none now.
    pub limits: Vec<(Arc<Binding>, u32)>,
}

/// A claim: the right to run a row and to say how that ended, until its lease runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The row.
    pub invocation_id: Uuid,
    /// Names the claim.
    pub token: Uuid,
    /// Whether others wait behind the row for their turn, or may.
    pub ordered: bool,
}

/// A row of the queue, claimed for one attempt.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What to run.
    pub queued: QueuedInvocation,
    /// The claim.
    pub claim: Claim,
}

/// What became of claims when they were to be prolonged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Those that are still held.
    pub held: Vec<Uuid>,
    /// Those of them that somebody wants cancelled.
    pub cancel: Vec<Uuid>,
}

/// How a claimed row ends.
#[derive(Clone, Debug)]
pub enum Settle {
    /// It ended well: the result is kept for those who ask, the effects go to the outbox, the row is removed.
    Ok {
        /// The guest's answer.
        response: Response,
        /// Until when the answer is kept; `None` for not at all.
        keep_until: Option<DateTime<Utc>>,
        /// Messages that the guest published.
        effects: Vec<Message>,
        /// Events that the guest put in the queue.
        events: Vec<QueuedInvocation>,
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
    /// Somebody wanted it cancelled, and its attempt was cut.
    Cancelled {
        /// Until when that is kept for those who ask.
        keep_until: Option<DateTime<Utc>>,
    },
    /// The attempt was cut by shutdown: due again at once, and not counted.
    HandBack,
}

/// A trigger's pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, as whoever paused it said.
    pub note: String,
}

/// A row of the queue in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueRow {
    /// The invocation's identity.
    pub invocation_id: Uuid,
    /// Where the event came in.
    #[serde(flatten)]
    pub binding: Binding,
    /// When it is due.
    pub run_at: DateTime<Utc>,
    /// Number of the attempt to make next, or under way.
    pub attempt: u32,
    /// Its priority.
    pub priority: i8,
    /// Whether an attempt is under way.
    pub running: bool,
    /// Whether an earlier one of its ordering key must end first.
    pub blocked: bool,
    /// Its ordering key.
    pub ordering_key: Option<String>,
    /// Its unique key.
    pub unique_key: Option<String>,
    /// How far it has come.
    pub progress: Option<Progress>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

/// Which rows of the queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueFilter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this function.
    pub function_name: Option<String>,
    /// Of this trigger.
    pub trigger_id: Option<String>,
    /// Of triggers of this kind.
    pub trigger_type: Option<String>,
    /// Due after this one, or at the same moment with a higher id (for paging: the last one of the page before).
    pub after: Option<(DateTime<Utc>, Uuid)>,
    /// At most this many (and [`MAX_PAGE`](super::MAX_PAGE)), the longest due first.
    pub limit: u32,
}

/// An ordering key with events that wait for their turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockedKey {
    /// Where its events came in.
    #[serde(flatten)]
    pub binding: Binding,
    /// The key.
    pub ordering_key: String,
    /// The event that the others wait for.
    pub head: Uuid,
    /// Number of its attempt to make next, or under way.
    pub attempt: u32,
    /// When it is due.
    pub run_at: DateTime<Utc>,
    /// How many wait behind it.
    pub waiting: u64,
}

/// A count for the ledger: events that ended without ever being in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Where they came in.
    pub binding: Arc<Binding>,
    /// How they ended: `ok`, `failed`, `skipped`, `shed`, `cancelled`.
    pub outcome: &'static str,
    /// The word of the reason or code, where the outcome has one.
    pub reason: Option<&'static str>,
    /// How many.
    pub count: u64,
}

/// Where every accepted event of a trigger is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The trigger.
    #[serde(flatten)]
    pub binding: Binding,
    /// Events ever accepted.
    pub accepted: u64,
    /// In the queue, no attempt under way.
    pub queued: u64,
    /// In the queue, an attempt under way.
    pub running: u64,
    /// How many ended, by outcome and reason.
    pub ended: Vec<LedgerCount>,
    /// When the trigger was paused and why, if it is.
    pub paused: Option<Pause>,
    /// When the oldest event that is due and waits was due.
    pub oldest_due: Option<DateTime<Utc>>,
}

/// How many events ended in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCount {
    /// `ok`, `failed`, `dead`, `skipped`, `shed` or `cancelled`.
    pub outcome: String,
    /// The reason's or code's word; empty where the outcome has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How many.
    pub count: u64,
}

impl LedgerRow {
    /// What is accepted and nowhere: 0, unless something was lost (above) or counted twice (below).
    pub fn drift(&self) -> i64 {
        let ended: u64 = self.ended.iter().map(|ended| ended.count).sum();
        let known = self.queued + self.running + ended;
        i64::try_from(self.accepted).unwrap_or(i64::MAX) - i64::try_from(known).unwrap_or(i64::MAX)
    }
}

/// A fire of a schedule, made or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireRow {
    /// When it was due.
    pub scheduled_at: DateTime<Utc>,
    /// For several that were skipped together: when the last of them was due.
    pub until: Option<DateTime<Utc>>,
    /// How many fires the row stands for.
    pub count: u64,
    /// Why it was made: `due`, `catch_up`, `backfill`, `manual`; `None` for one that was not.
    pub cause: Option<String>,
    /// Why it was not made: `overlap`, `missed`, `paused`; `None` for one that was.
    pub skipped: Option<String>,
    /// When it was made, or not.
    pub fired_at: DateTime<Utc>,
    /// The invocation that it became.
    pub invocation_id: Option<Uuid>,
}

/// Which fires of a trigger.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FireFilter {
    /// Due at this moment or later.
    pub from: Option<DateTime<Utc>>,
    /// Due before this moment (for paging: the last one's `scheduled_at` of the page before).
    pub before: Option<DateTime<Utc>>,
    /// Only those that were not made.
    #[serde(default)]
    pub skipped_only: bool,
    /// At most this many (and [`MAX_PAGE`](super::MAX_PAGE)), newest first.
    pub limit: u32,
}

/// The priority that a rank was made of.
pub(super) fn priority_of(run_at: DateTime<Utc>, rank: DateTime<Utc>) -> i8 {
    let steps = (run_at - rank).num_seconds() / PRIORITY_STEP.num_seconds();
    steps.clamp(i8::MIN.into(), i8::MAX.into()) as i8
}

/// Progress as it was kept; what cannot be read is none.
pub(super) fn read_progress(json: Option<&str>) -> Option<Progress> {
    serde_json::from_str(json?).ok()
}
