//! The cron trigger: a function runs at the instants of its schedules.
//!
//! ```text
//! wall clock ─► scheduler: what is due ─► turn: made or skipped ─► one row per (trigger, scheduled_at) ─► the engine
//! ```
//!
//! This crate owns what a schedule means (fields, zones, clocks that change), when to look at the clock, and what
//! becomes of instants that nobody could make in time. It refuses to know how an event is stored, run or retried, and
//! it elects no leader: every node of a cluster computes the same instants and hands each of them to the engine, where
//! the first insert of (trigger, `scheduled_at`) owns the fire and every other one is told that it came second. A lease
//! would add a failure mode and take none away.

mod backoff;
mod config;
mod error;
mod event;
mod every;
mod fields;
mod handover;
mod offsets;
mod plan;
mod policy;
mod progress;
mod run;
mod schedule;
mod scheduler;
mod shift;
mod timetable;
mod zone;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use trigger_core::{BindError, Binding, Kind, Problem, Problems, Step, Timetable, TriggerKind};

use crate::handover::Handover;
use crate::plan::Plans;
use crate::timetable::CronTimetable;

pub use config::{Config, Expressions};
pub use error::Error;
pub use plan::Plan;
pub use policy::{CatchUp, Gap, Missed, MissedWord, Overlap, Repeat};
pub use progress::Progress;
pub use run::CronTrigger;
pub use schedule::Schedule;
pub use scheduler::{Due, Entry, Place, Scheduler, Sink};

/// Tells the wall clock's time in place of the engine's clock; tests bring their own.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The cron trigger's kind: `type = "cron"`.
#[derive(Clone)]
pub struct Cron {
    clock: Option<Clock>,
    plans: Arc<Plans>,
    scheduler: Arc<Scheduler<Handover>>,
}

impl Cron {
    /// Cron by the engine's clock.
    pub fn new() -> Self {
        Self { clock: None, plans: Arc::default(), scheduler: Arc::new(Scheduler::new(Handover)) }
    }

    /// Cron by another clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock: Some(clock), ..Self::new() }
    }

    /// The instants of a section: those of an equal one in use are shared.
    pub fn plan(&self, config: &Config) -> Result<Arc<Plan>, Vec<Error>> {
        self.plans.get(config)
    }
}

impl Default for Cron {
    fn default() -> Self {
        Self::new()
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
        for Error { key, index, message, help } in config.parse().err().unwrap_or_default() {
            let mut path = problems.at().to_vec();
            path.push(Step::from(key));
            path.extend(index.map(Step::from));
            problems.push(Problem { path, message, help: Some(help) });
        }
    }

    fn describe(&self, config: &Config) -> String {
        config.describe()
    }

    fn timetable(&self, config: &Config) -> Option<Arc<dyn Timetable>> {
        let plan = self.plan(config).ok()?;
        Some(Arc::new(CronTimetable { plan, overlap: config.overlap }))
    }

    async fn bind(&self, config: Config, _binding: Arc<Binding>) -> Result<CronTrigger, BindError> {
        let plan = self.plan(&config).map_err(|errors| {
            let texts: Vec<String> = errors.iter().map(|error| format!("{}: {error}", error.key)).collect();
            BindError(texts.join("; "))
        })?;
        Ok(CronTrigger { config, plan, clock: self.clock.clone(), scheduler: self.scheduler.clone() })
    }
}
