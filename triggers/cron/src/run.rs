//! One cron trigger's life: find out how far it has come, give it to the scheduler, take it back at the end.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use trigger_core::{Gate, Trigger, TriggerContext, TriggerError};

use crate::backoff;
use crate::handover::{Fires, Handover, record_paused};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::scheduler::{Entry, Scheduler};
use crate::{Clock, Config};

/// How long a shutdown waits for the store's answer: a fire cut here would be missed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The schedules of one function.
pub struct CronTrigger {
    pub(crate) config: Config,
    pub(crate) plan: Arc<Plan>,
    pub(crate) clock: Option<Clock>,
    pub(crate) scheduler: Arc<Scheduler<Handover>>,
}

impl Trigger for CronTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let clock = self.clock.clone().map_or_else(|| cx.clock.clone(), trigger_core::Clock::reading);
        let cx = TriggerContext { clock, ..cx };
        let resuming = cx.clock.busy(|| cx.binding.path());
        let Some(progress) = cx.shutdown.run_until_cancelled(self.resume(&cx)).await else { return Ok(()) };
        self.announce(&cx, progress);
        let gate = Gate { pause_on_failure: self.config.pause_on_failure, ..Gate::default() };
        cx.dispatch.set_gate(&cx.binding, gate);
        let fires = Fires { cx: cx.clone(), bounds: self.config.missed.bounds(), overlap: self.config.overlap };
        let Config { spread_seconds, jitter_seconds, .. } = self.config;
        let entry = Entry::new(self.plan, &cx.binding.path(), spread_seconds, jitter_seconds, fires);
        drop(self.config);
        let place = self.scheduler.enter(entry, progress, &cx.clock);
        drop(resuming);
        cx.shutdown.cancelled().await;
        let progress = self.scheduler.leave(place, STOP_GRACE).await;
        if let Some(unrecorded) = progress.unrecorded()
            && let Ok(Err(refused)) = tokio::time::timeout(STOP_GRACE, record_paused(&cx, unrecorded)).await
        {
            tracing::warn!(trigger = %cx.binding.path(), "what was skipped while paused is not on record: {refused}");
        }
        Ok(())
    }
}

impl CronTrigger {
    /// Finds out what was fired last, by any node. A trigger without any record begins at the moment at which it was
    /// started, however long the store takes to answer.
    async fn resume(&self, cx: &TriggerContext) -> Progress {
        let began = cx.clock.now();
        for refused_before in 0.. {
            match cx.dispatch.last_scheduled(&cx.binding).await {
                Ok(last) => {
                    cx.healthy();
                    return Progress::resume(last.map(|last| last.timestamp()), began.timestamp());
                }
                Err(refused) => {
                    cx.degraded(format!("fires cannot be handed over, trying again: {refused}"));
                    // Real time: the store is away whatever the clock shows.
                    tokio::time::sleep(backoff::delay(refused_before, refused.retry_after)).await;
                }
            }
        }
        unreachable!("there are more numbers than tries")
    }

    fn announce(&self, cx: &TriggerContext, progress: Progress) {
        match self.plan.next_second(progress.reached).and_then(|next| DateTime::from_timestamp(next, 0)) {
            Some(next) => tracing::debug!(trigger = %cx.binding.path(), %next, "waiting"),
            None => tracing::warn!(
                trigger = %cx.binding.path(),
                schedule = %self.config.describe(),
                "the schedule is over: it will not fire again"
            ),
        }
    }
}
