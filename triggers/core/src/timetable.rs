//! When a trigger's events are due, for those who ask before they are: previews, runs by hand, past ranges.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{Binding, InvocationContext};

/// The instants of a trigger that has a schedule, and the events of its fires.
pub trait Timetable: Send + Sync {
    /// The first instant strictly after `after`; `None` when there is none left.
    fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>>;

    /// The fire of an instant of the schedule that somebody asked for at `now` as part of a past range. It is the same
    /// event as the fire that came, or would have come, by itself.
    fn backfill(&self, binding: &Arc<Binding>, instant: DateTime<Utc>, now: DateTime<Utc>) -> InvocationContext;

    /// A fire that somebody asked for at `now`, whatever the schedule says: an event of its own.
    fn run_now(&self, binding: &Arc<Binding>, now: DateTime<Utc>) -> InvocationContext;

    /// The time zone in which people read the schedule: an IANA name.
    fn timezone(&self) -> &str;

    /// A moment as clocks in that zone show it, with the offset, in RFC 3339.
    fn local(&self, moment: DateTime<Utc>) -> String;
}

/// The most instants that one question is answered with.
pub const MAX_INSTANTS: usize = 10_000;

impl dyn Timetable {
    /// Instants after `after` and not after `until`, in order: at most `limit`.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>, limit: usize) -> Vec<DateTime<Utc>> {
        let next = |after| self.next_after(after).filter(|next| *next <= until);
        std::iter::successors(next(after), |last| next(*last)).take(limit).collect()
    }

    /// The next `count` instants after `after`.
    pub fn next(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        self.between(after, DateTime::<Utc>::MAX_UTC, count)
    }
}
