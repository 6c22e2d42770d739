//! What a trigger does about clocks that change, fires that were missed and runs that overlap: as typed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a wall time that the clock jumps over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It has no instant on that day.
    Skip,
    /// Its instant is the first one after the gap.
    Shift,
}

/// What becomes of a wall time that the clock shows twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Its instant is the first of the two.
    First,
    /// Its instant is the second of the two.
    Last,
    /// It has two instants.
    Both,
}

/// What becomes of instants that passed while nobody could make their fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Missed {
    /// `"skip"` or `"one"`.
    Word(MissedWord),
    /// The latest of them, within bounds.
    CatchUp(CatchUp),
}

/// The policies that have no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedWord {
    /// None of them is made.
    Skip,
    /// The latest of them is made, however late it is.
    One,
}

/// Missed fires that are made all the same, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatchUp {
    /// How many at most: the latest ones, from 1 to 1,000.
    #[schemars(range(min = 1, max = 1_000))]
    pub max: u32,
    /// Only those that were due at most this many seconds ago, from 1 to 31,536,000 (365 days). Any, if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub window_seconds: Option<u32>,
}

impl Default for Missed {
    fn default() -> Self {
        Self::Word(MissedWord::One)
    }
}

impl Missed {
    /// How many of the missed fires are made at most, and from how many seconds ago.
    pub(crate) fn bounds(self) -> Bounds {
        match self {
            Self::Word(MissedWord::Skip) => Bounds { max: 0, window_seconds: u32::MAX },
            Self::Word(MissedWord::One) => Bounds { max: 1, window_seconds: u32::MAX },
            Self::CatchUp(CatchUp { max, window_seconds }) => {
                Bounds { max, window_seconds: window_seconds.unwrap_or(u32::MAX) }
            }
        }
    }
}

/// A policy for missed fires, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) max: u32,
    /// `u32::MAX` is any time.
    pub(crate) window_seconds: u32,
}

/// What becomes of a fire whose trigger's earlier one has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped.
    Skip,
    /// It waits, unless one waits already: then it is skipped.
    BufferOne,
    /// It waits, behind all that wait already.
    BufferAll,
    /// The earlier ones are cancelled, and it runs.
    CancelOther,
    /// It runs beside them.
    #[default]
    Allow,
}
