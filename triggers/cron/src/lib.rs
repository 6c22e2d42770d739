//! The cron trigger: a function runs at the instants of a schedule.
//!
//! ```text
//! wall clock ─► Schedule::latest ─► one queued event per (trigger, scheduled_at) ─► the engine
//! ```
//!
//! This crate owns what a schedule means (fields, zones, daylight saving time) and when to look at the clock. It
//! refuses to know how an event is stored, run or retried, and it elects no leader: every node of a cluster computes
//! the same instants and hands each of them to the engine, where the first insert of (trigger, `scheduled_at`) owns
//! the fire and every other one is told that it came second. A lease would add a failure mode and take none away.

mod backoff;
mod config;
mod error;
mod every;
mod fields;
mod progress;
mod run;
mod schedule;
mod zone;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use trigger_core::{BindError, Binding, Kind, Problems, TriggerKind};

pub use config::Config;
pub use error::Error;
pub use run::CronTrigger;
pub use schedule::Schedule;

/// Tells the wall clock's time in place of the engine's clock; tests bring their own.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The cron trigger's kind: `type = "cron"`.
#[derive(Clone, Default)]
pub struct Cron {
    clock: Option<Clock>,
}

impl Cron {
    /// Cron by the engine's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cron by another clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock: Some(clock) }
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cron").finish_non_exhaustive()
    }
}

impl TriggerKind for Cron {
    const KIND: Kind = Kind::Cron;
    type Config = Config;
    type Trigger = CronTrigger;

    fn check(&self, config: &Config, problems: &mut Problems) {
        for Error { key, message, help } in config.parse().err().unwrap_or_default() {
            problems.add(key, message, help);
        }
    }

    fn describe(&self, config: &Config) -> String {
        config.describe()
    }

    async fn bind(&self, config: Config, _binding: Arc<Binding>) -> Result<CronTrigger, BindError> {
        let schedule = config.parse().map_err(|errors| {
            let texts: Vec<String> = errors.iter().map(|error| format!("{}: {error}", error.key)).collect();
            BindError(texts.join("; "))
        })?;
        Ok(CronTrigger::new(config, schedule, self.clock.clone()))
    }
}
