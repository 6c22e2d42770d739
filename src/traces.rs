//! What is known about every attempt: records in memory, rows in the store.
//!
//! On the calling thread an attempt's record costs a lock and a move into a ring. Everything else happens later and
//! elsewhere: the writer reads the ring by a cursor of its own and puts rows in the store, so it can never hold up a
//! call. What the ring overwrote before the writer came by is counted, not lost in silence. A busy engine keeps every
//! failure and a bounded number of successes a second as rows (`[traces]` in the manifest says how many); the counters
//! of `metrics` are exact all the same.

mod ring;
mod writer;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, DeadReason, Failure, Shed, SkipReason};
use uuid::Uuid;

use crate::executor::Detail;
use crate::functions::Version;

pub use ring::Ring;
pub use writer::{Writer, WriterSettings};

/// How an attempt, or an event that got none, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "outcome_reason")]
pub enum Outcome {
    /// The function ran.
    Ok,
    /// It failed; a waiting caller was told, and no retry was due.
    Failed,
    /// It failed and will be tried again.
    Retry,
    /// It was given up on.
    Dead(DeadReason),
    /// No run was needed.
    Skipped(SkipReason),
    /// It was turned away.
    Shed(Shed),
    /// It was cut by shutdown or by its caller.
    Cancelled,
}

impl Outcome {
    /// The outcome's word, without its reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Retry => "retry",
            Outcome::Dead(_) => "dead",
            Outcome::Skipped(_) => "skipped",
            Outcome::Shed(_) => "shed",
            Outcome::Cancelled => "cancelled",
        }
    }

    /// The reason's word.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Outcome::Dead(reason) => Some(reason.as_str()),
            Outcome::Skipped(reason) => Some(reason.as_str()),
            Outcome::Shed(reason) => Some(reason.as_str()),
            Outcome::Ok | Outcome::Failed | Outcome::Retry | Outcome::Cancelled => None,
        }
    }
}

/// Where an attempt's time went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// From taking the event to having a slot.
    pub wait: u64,
    /// Getting the compiled module.
    pub load: u64,
    /// Making the instance.
    pub instantiate: u64,
    /// Running the guest.
    pub run: u64,
    /// From the guest's end to the end of the attempt: effects, rows.
    pub settle: u64,
}

impl Phases {
    /// The whole of it.
    pub fn total(&self) -> u64 {
        self.wait + self.load + self.instantiate + self.run + self.settle
    }
}

/// The record of one attempt, as the ring holds it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The invocation.
    pub invocation_id: Uuid,
    /// The trigger.
    pub binding: Arc<Binding>,
    /// The version that ran; `None` where none did.
    pub version: Option<Arc<Version>>,
    /// Number of the attempt.
    pub attempt: u32,
    /// Depth of the event.
    pub depth: u32,
    /// The invocation that caused it.
    pub parent: Option<Uuid>,
    /// The distributed trace.
    pub trace_id: u128,
    /// This invocation's span.
    pub span_id: u64,
    /// The span that caused it; 0 for none.
    pub parent_span: u64,
    /// When the event was taken (or the attempt of a queued one began).
    pub started_at: DateTime<Utc>,
    /// Where the time went.
    pub phases: Phases,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of payload.
    pub input_bytes: u64,
    /// Bytes of answer.
    pub output_bytes: u64,
    /// Time on a processor, in nanoseconds.
    pub cpu: u64,
    /// Fuel that was used, where it counts.
    pub fuel_used: Option<u64>,
    /// Peak of the guest's memory, in bytes.
    pub memory_peak_bytes: u64,
    /// What the caller calls the request.
    pub request_id: Option<Box<str>>,
    /// Who called.
    pub caller: Option<Box<str>>,
    /// What the event was about.
    pub subject: Box<str>,
    /// What went wrong, and when the next attempt is due.
    pub failed: Option<Box<Failed>>,
    /// Logs and host operations.
    pub detail: Option<Box<Detail>>,
}

/// How an attempt failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What went wrong.
    pub failure: Failure,
    /// The delay before the next attempt, in milliseconds; `None` where there is none.
    pub retry_delay_ms: Option<u64>,
}

/// An attempt as the store and the API hold it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceRow {
    /// The invocation.
    pub invocation_id: Uuid,
    /// Number of the attempt.
    pub attempt: u32,
    /// The trigger.
    #[serde(flatten)]
    pub binding: Binding,
    /// The version that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<crate::functions::Digest>,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// Where the time went, in nanoseconds.
    pub phases: Phases,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The delay before the next attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_delay_ms: Option<u64>,
    /// Depth of the event.
    pub depth: u32,
    /// The invocation that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
    /// W3C trace id, 32 hexadecimal digits.
    pub trace_id: String,
    /// W3C span id, 16 hexadecimal digits.
    pub span_id: String,
    /// The span that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// Bytes of payload.
    pub input_bytes: u64,
    /// Bytes of answer.
    pub output_bytes: u64,
    /// Time on a processor, in nanoseconds.
    #[serde(default)]
    pub cpu: u64,
    /// Fuel that was used, where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_used: Option<u64>,
    /// Peak of the guest's memory, in bytes.
    pub memory_peak_bytes: u64,
    /// What the caller calls the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Box<str>>,
    /// Who called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Box<str>>,
    /// What the event was about.
    #[serde(default)]
    pub subject: Box<str>,
    /// Logs and host operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

impl From<&Record> for TraceRow {
    fn from(record: &Record) -> Self {
        Self {
            invocation_id: record.invocation_id,
            attempt: record.attempt,
            binding: (*record.binding).clone(),
            version: record.version.as_ref().map(|version| version.number),
            digest: record.version.as_ref().map(|version| version.digest),
            started_at: record.started_at,
            phases: record.phases,
            outcome: record.outcome,
            failure: record.failed.as_ref().map(|failed| failed.failure.clone()),
            retry_delay_ms: record.failed.as_ref().and_then(|failed| failed.retry_delay_ms),
            depth: record.depth,
            parent: record.parent,
            trace_id: format!("{:032x}", record.trace_id),
            span_id: format!("{:016x}", record.span_id),
            parent_span_id: (record.parent_span != 0).then(|| format!("{:016x}", record.parent_span)),
            input_bytes: record.input_bytes,
            output_bytes: record.output_bytes,
            cpu: record.cpu,
            fuel_used: record.fuel_used,
            memory_peak_bytes: record.memory_peak_bytes,
            request_id: record.request_id.clone(),
            caller: record.caller.clone(),
            subject: record.subject.clone(),
            detail: record.detail.clone(),
        }
    }
}
