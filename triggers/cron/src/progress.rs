//! How far a trigger has come through its schedule. Pure: the clock's time comes in as an argument.

use chrono::{DateTime, TimeDelta, Utc};

use crate::Schedule;

/// Missed instants are counted up to here: more would say no more, and cost time.
pub(crate) const MAX_MISSED: u32 = 1_000;

/// A clock that goes back further than this was corrected, and its new time holds at once; one that goes back less is
/// waited for, so that no instant comes twice. The limit is Vixie cron's.
const CORRECTION: TimeDelta = TimeDelta::hours(3);

/// Where a trigger stands.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Instants up to this moment have had their turn.
    reached: DateTime<Utc>,
    /// The newest fire on record, ours or another node's; before the first one, when the trigger began.
    recorded: DateTime<Utc>,
    /// How many of the missed instants have been logged.
    announced: u32,
}

impl Progress {
    /// Begins at `now`. What came due since the fire on record is missed: it is not run.
    pub(crate) fn resume(last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        // A record from further ahead was written by a clock that was wrong; waiting for it could take years.
        let last = last.filter(|last| *last - now <= CORRECTION).unwrap_or(now);
        Self { reached: last.max(now), recorded: last, announced: 0 }
    }

    /// Takes note of the clock's time; true when the clock was set back so far that its new time holds.
    pub(crate) fn observe(&mut self, now: DateTime<Utc>) -> bool {
        let corrected = self.reached - now > CORRECTION;
        if corrected {
            *self = Self::resume(None, now);
        }
        corrected
    }

    /// The instant whose turn it is. Where several have passed it is the last: the others are missed.
    pub(crate) fn due(&self, schedule: &Schedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        schedule.latest(self.reached, now)
    }

    /// The instant to wait for.
    pub(crate) fn next(&self, schedule: &Schedule) -> Option<DateTime<Utc>> {
        schedule.next_after(self.reached)
    }

    /// How many instants before `before` have not been run since the fire on record, up to [`MAX_MISSED`].
    pub(crate) fn missed(&self, schedule: &Schedule, before: DateTime<Utc>) -> u32 {
        schedule.count_between(self.recorded, before, MAX_MISSED)
    }

    /// Takes note of a fire that may be another node's. One past `due` leaves nothing missed before it.
    pub(crate) fn learn(&mut self, last: Option<DateTime<Utc>>, due: DateTime<Utc>) {
        if let Some(last) = last.filter(|last| *last - due <= CORRECTION) {
            self.recorded = self.recorded.max(last);
        }
    }

    /// `due` is on record.
    pub(crate) fn fired(&mut self, due: DateTime<Utc>) {
        *self = Self { reached: due, recorded: due, announced: 0 };
    }

    /// Whether `missed` says more than the log does already.
    pub(crate) fn announce(&mut self, missed: u32) -> bool {
        let news = missed > self.announced;
        self.announced = self.announced.max(missed);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn every_minute() -> Schedule {
        Schedule::parse("* * * * *", chrono_tz::UTC).unwrap()
    }

    #[test]
    fn a_trigger_without_a_record_has_missed_nothing() {
        let now = at("2026-01-01T12:00:30Z");
        let progress = Progress::resume(None, now);
        assert_eq!(progress.due(&every_minute(), now), None);
        assert_eq!(progress.next(&every_minute()), Some(at("2026-01-01T12:01:00Z")));
        assert_eq!(progress.missed(&every_minute(), at("2026-01-01T12:01:00Z")), 0);
    }

    #[test]
    fn downtime_is_counted_and_not_run() {
        let now = at("2026-01-01T12:00:30Z");
        let progress = Progress::resume(Some(at("2026-01-01T11:57:00Z")), now);
        assert_eq!(progress.due(&every_minute(), now), None);
        assert_eq!(progress.missed(&every_minute(), at("2026-01-01T12:01:00Z")), 3);
        let progress = Progress::resume(Some(at("2020-01-01T00:00:00Z")), now);
        assert_eq!(progress.missed(&every_minute(), now), MAX_MISSED);
    }

    #[test]
    fn a_record_slightly_ahead_is_waited_for_and_one_far_ahead_is_not_believed() {
        let now = at("2026-01-01T12:00:30Z");
        let slightly = Progress::resume(Some(at("2026-01-01T13:00:00Z")), now);
        assert_eq!(slightly.next(&every_minute()), Some(at("2026-01-01T13:01:00Z")));
        let far = Progress::resume(Some(at("2099-01-01T00:00:00Z")), now);
        assert_eq!(far.next(&every_minute()), Some(at("2026-01-01T12:01:00Z")));
    }

    #[test]
    fn a_small_step_back_is_waited_out_and_a_correction_is_followed() {
        let mut progress = Progress::resume(None, at("2026-01-01T12:00:30Z"));
        assert!(!progress.observe(at("2026-01-01T10:00:00Z")));
        assert_eq!(progress.next(&every_minute()), Some(at("2026-01-01T12:01:00Z")));
        assert!(progress.observe(at("2026-01-01T02:00:00Z")));
        assert_eq!(progress.next(&every_minute()), Some(at("2026-01-01T02:01:00Z")));
        assert_eq!(progress.missed(&every_minute(), at("2026-01-01T02:01:00Z")), 0);
    }

    #[test]
    fn what_another_node_fired_is_not_missed() {
        let mut progress = Progress::resume(None, at("2026-01-01T12:00:30Z"));
        let due = at("2026-01-01T12:10:00Z");
        assert_eq!(progress.missed(&every_minute(), due), 9);
        progress.learn(Some(at("2026-01-01T12:07:00Z")), due);
        assert_eq!(progress.missed(&every_minute(), due), 2);
        progress.learn(Some(at("2026-01-01T12:03:00Z")), due);
        assert_eq!(progress.missed(&every_minute(), due), 2, "a record does not go back");
        progress.learn(Some(at("2099-01-01T00:00:00Z")), due);
        assert_eq!(progress.missed(&every_minute(), due), 2, "a wrong clock's record counts for nothing");
        progress.learn(Some(due), due);
        assert_eq!(progress.missed(&every_minute(), due), 0);
    }

    #[test]
    fn missed_instants_are_announced_once() {
        let mut progress = Progress::resume(None, at("2026-01-01T12:00:30Z"));
        assert!(!progress.announce(0));
        assert!(progress.announce(3));
        assert!(!progress.announce(3));
        assert!(progress.announce(4));
        progress.fired(at("2026-01-01T12:10:00Z"));
        assert!(progress.announce(1));
    }
}
