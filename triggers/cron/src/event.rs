//! A fire as an event.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use trigger_core::{Binding, Custody, FireCause, InvocationContext, Ordering};

use crate::plan::Plan;
use crate::policy::Overlap;

/// A fire's payload.
#[derive(Serialize)]
struct Payload<'a> {
    scheduled_at: &'a str,
    fired_at: &'a str,
    schedule: &'a str,
    timezone: &'a str,
    missed: u32,
    cause: &'static str,
}

/// Makes events, many of which have their moments in common.
#[derive(Debug)]
pub(crate) struct Events {
    now: DateTime<Utc>,
    fired_at: String,
    /// The last instant and its text.
    scheduled_at: (i64, String),
}

impl Events {
    /// For fires that are made at `now`.
    pub(crate) fn at(now: DateTime<Utc>) -> Self {
        Self { now, fired_at: now.to_rfc3339_opts(SecondsFormat::Millis, true), scheduled_at: (0, text_of(0)) }
    }

    /// The event of one instant. Its identity is the instant.
    pub(crate) fn event(
        &mut self,
        binding: &Arc<Binding>,
        plan: &Plan,
        overlap: Overlap,
        fire: Fire,
    ) -> InvocationContext {
        if self.scheduled_at.0 != fire.instant {
            self.scheduled_at = (fire.instant, text_of(fire.instant));
        }
        let scheduled_at = &self.scheduled_at.1;
        let payload = Payload {
            scheduled_at,
            fired_at: &self.fired_at,
            schedule: plan.expression_of(fire.instant),
            timezone: plan.timezone(),
            missed: fire.missed,
            cause: fire.cause.as_str(),
        };
        let mut event = event(binding, &payload, self.now);
        event.scheduled_at = DateTime::from_timestamp(fire.instant, 0);
        event.idempotency_key = Some(scheduled_at.as_str().into());
        let terms = event.terms_mut();
        terms.fire = Some(fire.cause);
        terms.ordering = ordering(overlap, fire.cause);
        event
    }

    /// A fire that somebody asked for now, which no instant owns.
    pub(crate) fn run_now(&self, binding: &Arc<Binding>, plan: &Plan, overlap: Overlap) -> InvocationContext {
        let payload = Payload {
            scheduled_at: &self.fired_at,
            fired_at: &self.fired_at,
            schedule: plan.expression_of(self.now.timestamp()),
            timezone: plan.timezone(),
            missed: 0,
            cause: FireCause::Manual.as_str(),
        };
        let mut event = event(binding, &payload, self.now);
        event.scheduled_at = Some(self.now);
        let terms = event.terms_mut();
        terms.fire = Some(FireCause::Manual);
        terms.ordering = ordering(overlap, FireCause::Manual);
        event
    }
}

fn event(binding: &Arc<Binding>, payload: &Payload<'_>, now: DateTime<Utc>) -> InvocationContext {
    let payload = serde_json::to_vec(payload).expect("strings and a number always serialize");
    let mut event = InvocationContext::arrived_at(binding.clone(), Custody::Engine, payload.into(), now);
    event.subject = binding.trigger_id.clone();
    event.content_type = Some("application/json".into());
    event
}

/// One fire of a trigger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fire {
    /// Seconds since the Unix epoch.
    pub(crate) instant: i64,
    /// How many instants were skipped between the last fire and this one.
    pub(crate) missed: u32,
    pub(crate) cause: FireCause,
}

/// Which of the trigger's fires one may not overtake: where they do not run side by side, all have one key. Nobody who
/// asks for fires wants them skipped because others run: those wait.
fn ordering(overlap: Overlap, cause: FireCause) -> Option<Ordering> {
    let limit = match overlap {
        Overlap::Allow => return None,
        _ if matches!(cause, FireCause::Manual | FireCause::Backfill) => None,
        Overlap::Skip => Some(1),
        Overlap::BufferOne => Some(2),
        // Those that are cancelled may take a moment to end.
        Overlap::BufferAll | Overlap::CancelOther => None,
    };
    Some(Ordering { key: "fires".into(), limit })
}

fn text_of(instant: i64) -> String {
    DateTime::from_timestamp(instant, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
