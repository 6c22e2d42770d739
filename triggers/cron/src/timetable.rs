//! A trigger's instants and events, for those who ask before they are due.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use trigger_core::{Binding, FireCause, InvocationContext, Timetable};

use crate::event::{Events, Fire};
use crate::plan::Plan;
use crate::policy::Overlap;

/// One trigger's.
pub(crate) struct CronTimetable {
    pub(crate) plan: Arc<Plan>,
    pub(crate) overlap: Overlap,
}

impl Timetable for CronTimetable {
    fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.plan.next_after(after)
    }

    fn backfill(&self, binding: &Arc<Binding>, instant: DateTime<Utc>, now: DateTime<Utc>) -> InvocationContext {
        let fire = Fire { instant: instant.timestamp(), missed: 0, cause: FireCause::Backfill };
        Events::at(now).event(binding, &self.plan, self.overlap, fire)
    }

    fn run_now(&self, binding: &Arc<Binding>, now: DateTime<Utc>) -> InvocationContext {
        Events::at(now).run_now(binding, &self.plan, self.overlap)
    }

    fn timezone(&self) -> &str {
        self.plan.timezone()
    }

    fn local(&self, moment: DateTime<Utc>) -> String {
        let zone: Tz = self.plan.timezone().parse().unwrap_or(Tz::UTC);
        moment.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}
