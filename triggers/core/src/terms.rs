//! How a queued event is kept and run, where it says so itself.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The lowest and the highest priority of an event; 0 is that of one that says nothing.
pub const PRIORITIES: std::ops::RangeInclusive<i8> = -100..=100;

/// What an event asks of the queue beyond its payload and its moment. Without any it is run as its function's
/// definition says, in the order of the moments at which events are due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Higher runs first. One step is worth a minute of waiting: a row overtakes those of a step less that have waited
    /// up to a minute longer, and nothing waits for ever.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// Which events it must not overtake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Ordering>,
    /// Which events it is the same as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
    /// Retries after the first attempt, in place of the definition's `retry_count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u32>,
    /// No attempt begins after this moment: the event is given up on (`age_exceeded`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How long the result is kept for those who ask, in seconds, in place of the engine's setting; 0 keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ttl_seconds: Option<u32>,
    /// Why a schedule's event was made: it leaves a row among the fires of its trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fire: Option<FireCause>,
    /// What the event says, by which one that is sent again is told from another one with the same `idempotency_key`.
    /// It is kept with the key and not with the event.
    #[serde(skip)]
    pub fingerprint: Option<Fingerprint>,
}

/// The beginning of a SHA-256 over what an event says.
pub type Fingerprint = [u8; 16];

fn is_zero(priority: &i8) -> bool {
    *priority == 0
}

/// Events of one trigger with the same key run one after another, in the order in which they were accepted, over all
/// their attempts. Those of other keys are not held up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordering {
    /// The key.
    pub key: Box<str>,
    /// The most events of the key that may be queued or running together: one more is skipped (`overlap`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Events of one trigger with the same key are the same event, as long as the first of them counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// The key.
    pub key: Box<str>,
    /// How long an earlier one counts.
    pub scope: UniqueScope,
    /// What happens to an earlier one that counts and has not begun.
    #[serde(default)]
    pub conflict: UniqueConflict,
}

/// How long an event holds its unique key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UniqueScope {
    /// Until its first attempt begins.
    Queued,
    /// Until it has ended.
    #[default]
    Live,
    /// For this many seconds after it was accepted, whatever becomes of it.
    Period(u32),
}

/// Which of two events with one unique key stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UniqueConflict {
    /// The earlier one: the later is answered with its id.
    #[default]
    Keep,
    /// The later one, where the earlier has not begun: that one is cancelled.
    Replace,
}

/// Why a schedule's event was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FireCause {
    /// Its moment came.
    Due,
    /// Its moment came while no engine was there to see it.
    CatchUp,
    /// Somebody asked for a range of past moments.
    Backfill,
    /// Somebody asked for one now: its moment is the one at which it was asked for.
    Manual,
}

impl FireCause {
    /// The cause's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            FireCause::Due => "due",
            FireCause::CatchUp => "catch_up",
            FireCause::Backfill => "backfill",
            FireCause::Manual => "manual",
        }
    }

    /// Whether somebody asked for it. Such a fire has a row of its own beside that of its moment, which may say why the
    /// schedule's own was not made.
    pub const fn is_asked_for(self) -> bool {
        matches!(self, FireCause::Backfill | FireCause::Manual)
    }

    /// The cause whose word this is.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Due, Self::CatchUp, Self::Backfill, Self::Manual].into_iter().find(|cause| cause.as_str() == word)
    }
}
