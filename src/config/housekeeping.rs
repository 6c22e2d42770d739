//! `[engine.dead_letters]` and `[engine.housekeeping]`: as typed, and as meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::days;
use super::{DeadLettersConfig, HousekeepingConfig, WhenFull};
use crate::housekeeping::check_schedule;

/// How long dead letters are kept, and how many.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeadLettersSection {
    /// How long a dead letter is kept after it died.
    #[schemars(range(min = 0.001, max = 36_500))]
    keep_days: f64,
    /// How many there should be, redriven ones included.
    #[schemars(range(min = 1, max = 10_000_000))]
    max_rows: u64,
    /// What happens beyond that: the oldest are removed, or all are kept and the engine says so until there are fewer.
    when_full: WhenFull,
}

/// When the engine does its own chores.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HousekeepingSection {
    /// When what is too old or too much is removed: second, minute, hour, day of the month, month, day of the week, in
    /// UTC.
    retention: String,
    /// When compiled code that is of no use any more is removed from the disk.
    code_cache: String,
    /// When the outbox is looked at in any case, and messages that wait for long are told of.
    outbox: String,
    /// How long compiled code stays on the disk after it was last of use.
    #[schemars(range(min = 0.001, max = 36_500))]
    code_cache_keep_days: f64,
    /// How much of it there may be; what was used longest ago goes first.
    #[schemars(range(min = 1, max = 1_048_576))]
    code_cache_max_mb: u64,
}

impl Default for DeadLettersSection {
    fn default() -> Self {
        Self { keep_days: 90.0, max_rows: 100_000, when_full: WhenFull::DropOldest }
    }
}

impl Default for HousekeepingSection {
    fn default() -> Self {
        Self {
            retention: "0 * * * * *".to_owned(),
            code_cache: "0 23 4 * * *".to_owned(),
            outbox: "30 * * * * *".to_owned(),
            code_cache_keep_days: 30.0,
            code_cache_max_mb: 1024,
        }
    }
}

impl DeadLettersSection {
    pub(super) fn meant(&self) -> DeadLettersConfig {
        DeadLettersConfig { keep: days(self.keep_days), max_rows: self.max_rows, when_full: self.when_full }
    }
}

impl HousekeepingSection {
    /// What is meant; `wrong` is told of each schedule that is none, which has its default then.
    pub(super) fn meant(&self, mut wrong: impl FnMut(&'static str, String, String)) -> HousekeepingConfig {
        let defaults = Self::default();
        let mut schedule = |key: &'static str, typed: &str, default: &str| match check_schedule(typed) {
            Ok(()) => typed.to_owned(),
            Err((message, help)) => {
                wrong(key, message, help);
                default.to_owned()
            }
        };
        HousekeepingConfig {
            retention: schedule("retention", &self.retention, &defaults.retention),
            code_cache: schedule("code_cache", &self.code_cache, &defaults.code_cache),
            outbox: schedule("outbox", &self.outbox, &defaults.outbox),
            code_cache_keep: days(self.code_cache_keep_days),
            code_cache_max_bytes: self.code_cache_max_mb << 20,
        }
    }
}
