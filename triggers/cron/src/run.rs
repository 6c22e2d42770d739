//! The loop of one cron trigger: look at the clock, hand over what is due, wait.
//!
//! Nothing is computed ahead and kept: every look starts from the wall clock, at least every 30 seconds, since a sleep
//! measures monotonic time and knows nothing of a clock that was set or a machine that was suspended. What is retried
//! here is only the handing over of an event; what becomes of it afterwards is the engine's.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use trigger_core::{Accepted, Custody, InvocationContext, Refused, Trigger, TriggerContext, TriggerError};

use crate::backoff::Backoff;
use crate::progress::{MAX_MISSED, Progress};
use crate::{Clock, Config, Schedule};

/// How long a shutdown waits for the store's answer: a fire cut here would be missed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// One schedule of one function.
pub struct CronTrigger {
    config: Config,
    schedule: Schedule,
    clock: Option<Clock>,
}

/// A fire's payload.
#[derive(Serialize)]
struct Fire<'a> {
    scheduled_at: String,
    fired_at: String,
    schedule: &'a str,
    timezone: &'a str,
    missed: u32,
}

impl Trigger for CronTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let clock = self.clock.clone().map_or_else(|| cx.clock.clone(), trigger_core::Clock::reading);
        let cx = TriggerContext { clock, ..cx };
        let mut sleeper = cx.clock.sleeper(|| cx.binding.path());
        let began = cx.clock.now();
        let mut progress = None;
        let mut backoff = Backoff::default();
        while !cx.shutdown.is_cancelled() {
            let Some(looked) = until_stopped(&cx, self.look(&cx, began, &mut progress)).await else { break };
            let next = match looked {
                Ok(next) => {
                    cx.healthy();
                    backoff = Backoff::default();
                    next
                }
                Err(refused) => {
                    cx.degraded(format!("fires cannot be handed over, trying again: {refused}"));
                    let pause = backoff.delay(refused.retry_after);
                    // Real time: a fire that could not be handed over is still to be, whatever the clock shows.
                    let _ = tokio::time::timeout(pause, cx.shutdown.cancelled()).await;
                    continue;
                }
            };
            tokio::select! {
                () = cx.shutdown.cancelled() => {}
                () = sleeper.until(next) => {}
            }
        }
        Ok(())
    }
}

impl CronTrigger {
    pub(crate) fn new(config: Config, schedule: Schedule, clock: Option<Clock>) -> Self {
        Self { config, schedule, clock }
    }

    /// One look at the clock: hands over what is due and says until when nothing will be.
    async fn look(
        &self,
        cx: &TriggerContext,
        began: DateTime<Utc>,
        progress: &mut Option<Progress>,
    ) -> Result<Option<DateTime<Utc>>, Refused> {
        let progress = match progress {
            Some(progress) => progress,
            None => progress.insert(self.resume(cx, began).await?),
        };
        let now = cx.clock.now();
        if progress.observe(now) {
            tracing::warn!(trigger = %cx.binding.path(), %now, "the clock was set back: going on from its new time");
        }
        if let Some(due) = progress.due(&self.schedule, now) {
            self.fire(cx, progress, due, now).await?;
            return Ok(Some(now));
        }
        Ok(progress.next(&self.schedule))
    }

    /// Finds out what was fired last, by any node. `began` and not the present time counts: an instant that came while
    /// the store was being asked is not missed.
    async fn resume(&self, cx: &TriggerContext, began: DateTime<Utc>) -> Result<Progress, Refused> {
        let last = cx.dispatch.last_scheduled(&cx.binding).await?;
        let mut progress = Progress::resume(last, began);
        let missed = progress.missed(&self.schedule, began);
        if progress.announce(missed) {
            warn_of_missed(cx, missed);
        }
        match progress.next(&self.schedule) {
            Some(next) => tracing::debug!(trigger = %cx.binding.path(), %next, "waiting"),
            None => tracing::warn!(
                trigger = %cx.binding.path(),
                schedule = %self.config.describe(),
                "the schedule is over: it will not fire again"
            ),
        }
        Ok(progress)
    }

    /// Hands over the fire of `due`. When this fails nothing has changed, and the next look tries again.
    async fn fire(
        &self,
        cx: &TriggerContext,
        progress: &mut Progress,
        due: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Refused> {
        if progress.missed(&self.schedule, due) > 0 {
            // Missed by this node, perhaps; the record says whether by all of them.
            progress.learn(cx.dispatch.last_scheduled(&cx.binding).await?, due);
        }
        let missed = progress.missed(&self.schedule, due);
        let Accepted { invocation_id, duplicate, .. } = cx.dispatch.accept(self.event(cx, due, now, missed)).await?;
        if duplicate {
            tracing::debug!(trigger = %cx.binding.path(), %due, %invocation_id, "this fire was accepted before");
        } else if progress.announce(missed) {
            warn_of_missed(cx, missed);
        }
        progress.fired(due);
        Ok(())
    }

    fn event(&self, cx: &TriggerContext, due: DateTime<Utc>, now: DateTime<Utc>, missed: u32) -> InvocationContext {
        let scheduled_at = due.to_rfc3339_opts(SecondsFormat::Secs, true);
        let fire = Fire {
            scheduled_at: scheduled_at.clone(),
            fired_at: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            schedule: &self.config.schedule,
            timezone: &self.config.timezone,
            missed,
        };
        let payload = serde_json::to_vec(&fire).expect("strings and a number always serialize");
        let mut event = cx.event(Custody::Engine, payload.into());
        event.subject = cx.binding.trigger_id.clone();
        event.content_type = Some("application/json".into());
        event.scheduled_at = Some(due);
        event.idempotency_key = Some(scheduled_at.into());
        event.received_at = now;
        event
    }
}

fn warn_of_missed(cx: &TriggerContext, missed: u32) {
    let or_more = if missed == MAX_MISSED { " or more" } else { "" };
    tracing::warn!(
        trigger = %cx.binding.path(),
        missed,
        "{missed}{or_more} fires were missed since the last one on record and will not be run"
    );
}

/// Runs `work` to its end, but only for a short while once a shutdown is asked for.
async fn until_stopped<T>(cx: &TriggerContext, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return Some(done),
        () = cx.shutdown.cancelled() => {}
    }
    tokio::time::timeout(STOP_GRACE, work).await.ok()
}
