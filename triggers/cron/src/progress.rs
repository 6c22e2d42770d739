//! How far a trigger has come through its instants, and what is to be done when its turn comes. Pure: the clock's time
//! comes in as an argument. Moments are seconds since the Unix epoch, where no other unit is named.

use crate::plan::Plan;
use crate::policy::Bounds;
use crate::shift::Shift;

/// Missed instants are counted up to here: more would say no more, and cost time.
pub(crate) const MAX_MISSED: u32 = 10_000;

/// A clock that goes back further than this was corrected, and its new time holds at once; one that goes back less is
/// waited for, so that no instant comes twice. Three hours, as in Vixie cron.
pub(crate) const CORRECTION: i64 = 3 * 60 * 60;

/// A fire that comes this much too late, and no later, is made whatever the policy for missed ones: a restart of the
/// engine at the wrong moment must not cost a nightly run.
const GRACE_MS: i64 = 60_000;

/// Where a trigger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Instants up to this moment have had their turn.
    pub(crate) reached: i64,
    /// The first instant of those up to `reached` that came while the trigger was paused and are not on record yet.
    pub(crate) paused_from: i64,
    /// How many those are.
    pub(crate) paused: u32,
    /// How many instants were skipped since the last fire.
    pub(crate) missed: u32,
}

impl Progress {
    /// A trigger whose instants up to this moment have had their turn.
    pub fn from(reached: i64) -> Self {
        Self { reached, paused_from: 0, paused: 0, missed: 0 }
    }

    /// Begins at `now`, with the newest instant on record. What came due between the two is missed.
    pub(crate) fn resume(last: Option<i64>, now: i64) -> Self {
        // A record from further ahead was written by a clock that was wrong; waiting for it could take years.
        Self::from(last.filter(|last| last - now <= CORRECTION).unwrap_or(now))
    }

    /// Takes note of what is on record, perhaps another node's. True when that is news.
    pub(crate) fn learn(&mut self, last: Option<i64>, now: i64) -> bool {
        let news = last.filter(|last| *last > self.reached && last - now <= CORRECTION);
        if let Some(last) = news {
            *self = Self { reached: last, ..*self };
        }
        news.is_some()
    }

    /// The fire of an instant is on record.
    pub(crate) fn fired(&mut self, instant: i64) {
        (self.reached, self.missed) = (instant, 0);
    }

    /// Instants are on record as skipped.
    pub(crate) fn skipped(&mut self, skipped: Skipped) {
        self.reached = skipped.last;
        self.missed = self.missed.saturating_add(skipped.count).min(MAX_MISSED);
    }

    /// Instants came while the trigger was paused.
    pub(crate) fn paused(&mut self, skipped: Skipped) {
        if self.paused == 0 {
            self.paused_from = skipped.first;
        }
        self.paused = self.paused.saturating_add(skipped.count);
        self.skipped(skipped);
    }

    /// The instants that came while the trigger was paused and are not on record yet.
    pub(crate) fn unrecorded(&self) -> Option<Skipped> {
        (self.paused > 0).then_some(Skipped { first: self.paused_from, last: self.reached, count: self.paused })
    }

    /// They are on record.
    pub(crate) fn recorded(&mut self) {
        self.paused = 0;
    }
}

/// Instants in a row whose fires are not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Up to [`MAX_MISSED`].
    pub(crate) count: u32,
}

/// What is to be done with the instants that have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Those that are missed and not made up for. They lie before all fires.
    pub(crate) skipped: Option<Skipped>,
    /// Those whose fires are made, in order.
    pub(crate) fires: Vec<i64>,
    /// The last of them all.
    pub(crate) latest: i64,
}

impl Turn {
    /// What is to be done at `now_ms`; `None` where no instant has come.
    ///
    /// The latest instant is made unless it comes more than a minute too late; all others are missed, and so is one
    /// that comes later than that. Of the missed, the policy has the latest few made.
    pub(crate) fn take(plan: &Plan, shift: &Shift, bounds: Bounds, reached: i64, now_ms: i64) -> Option<Self> {
        let latest = latest_due(plan, shift, reached, now_ms)?;
        let late_ms = |instant: i64| now_ms - shift.due_ms(instant);
        let in_time = late_ms(latest) <= GRACE_MS;
        if in_time && plan.next_second(reached) == Some(latest) {
            return Some(Self { skipped: None, fires: vec![latest], latest });
        }
        let within = |instant: &i64| {
            (in_time && *instant == latest) || late_ms(*instant) / 1_000 <= i64::from(bounds.window_seconds)
        };
        let wanted = bounds.max.max(u32::from(in_time));
        let mut fires = last_few(plan, reached, latest, wanted);
        fires.retain(within);
        let skipped = skipped_before(plan, reached, fires.first().copied().unwrap_or(latest + 1));
        Some(Self { skipped, fires, latest })
    }

    /// Everything that has come, as skipped.
    pub(crate) fn all(&self, plan: &Plan, reached: i64) -> Option<Skipped> {
        skipped_before(plan, reached, self.latest + 1)
    }
}

/// The latest instant after `reached` whose fire is due at `now_ms`.
fn latest_due(plan: &Plan, shift: &Shift, reached: i64, now_ms: i64) -> Option<i64> {
    let mut until = (now_ms - shift.least_ms()).div_euclid(1_000);
    loop {
        let latest = plan.latest_second(reached, until)?;
        // A jitter is less than the distance of two instants: this turns once.
        if shift.due_ms(latest) <= now_ms {
            return Some(latest);
        }
        until = latest - 1;
    }
}

/// The last instants after `reached` up to `latest`, which is one, in order.
fn last_few(plan: &Plan, reached: i64, latest: i64, wanted: u32) -> Vec<i64> {
    // Too many come after `low`, unless it is `reached`; enough or too few after `high`.
    let (mut low, mut high) = (reached, latest);
    if plan.count(low, latest + 1, wanted + 1) > wanted {
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if plan.count(middle, latest + 1, wanted + 1) > wanted { low = middle } else { high = middle }
        }
        low = high;
    }
    std::iter::successors(plan.next_second(low), |last| plan.next_second(*last))
        .take_while(|instant| *instant <= latest)
        .collect()
}

fn skipped_before(plan: &Plan, reached: i64, before: i64) -> Option<Skipped> {
    let last = plan.latest_second(reached, before - 1)?;
    let first = plan.next_second(reached)?;
    Some(Skipped { first, last, count: plan.count(reached, before, MAX_MISSED) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Config;
    use crate::policy::{CatchUp, Missed, MissedWord};

    fn plan(schedule: &str) -> Plan {
        Config::new(schedule, "UTC").parse().unwrap()
    }

    const SKIP: Missed = Missed::Word(MissedWord::Skip);
    const ONE: Missed = Missed::Word(MissedWord::One);

    fn up_to(max: u32, window_seconds: Option<u32>) -> Missed {
        Missed::CatchUp(CatchUp { max, window_seconds })
    }

    /// Skipped from the first to the last and how many, and the fires, in minutes.
    type Minutes = (Option<(i64, i64, u32)>, Vec<i64>);

    /// What a schedule of minutes does when it has come to minute 0 and it is `now_s`.
    fn minutes(missed: Missed, now_s: i64) -> Option<Minutes> {
        let none = Shift::of("x", 0, 0);
        let turn = Turn::take(&plan("* * * * *"), &none, missed.bounds(), 0, now_s * 1_000)?;
        let skipped = turn.skipped.map(|skipped| (skipped.first / 60, skipped.last / 60, skipped.count));
        Some((skipped, turn.fires.iter().map(|instant| instant / 60).collect()))
    }

    #[test]
    fn an_instant_in_time_is_made_whatever_the_policy() {
        for policy in [SKIP, ONE, up_to(1, Some(1)), up_to(1_000, None)] {
            assert_eq!(minutes(policy, 59), None);
            assert_eq!(minutes(policy, 60), Some((None, vec![1])));
            assert_eq!(minutes(policy, 119), Some((None, vec![1])));
        }
    }

    #[test]
    fn downtime_is_made_up_for_as_the_policy_says() {
        assert_eq!(minutes(SKIP, 600), Some((Some((1, 9, 9)), vec![10])), "the last of them is in time");
        assert_eq!(minutes(ONE, 600), Some((Some((1, 9, 9)), vec![10])));
        assert_eq!(minutes(up_to(3, None), 600), Some((Some((1, 7, 7)), vec![8, 9, 10])));
        assert_eq!(minutes(up_to(100, None), 600), Some((None, (1..=10).collect())));
        assert_eq!(minutes(up_to(100, Some(120)), 600), Some((Some((1, 7, 7)), vec![8, 9, 10])));
    }

    #[test]
    fn an_instant_that_is_over_a_minute_late_is_missed_as_well() {
        let hours = |missed: Missed, now_s: i64| {
            let none = Shift::of("x", 0, 0);
            Turn::take(&plan("0 * * * *"), &none, missed.bounds(), 0, now_s * 1_000).unwrap()
        };
        let skipped = |turn: &Turn| turn.skipped.map_or(0, |skipped| skipped.count);
        let late = hours(SKIP, 2 * 3_600 + 61);
        assert_eq!((skipped(&late), late.fires.len()), (2, 0));
        let in_time = hours(SKIP, 2 * 3_600 + 60);
        assert_eq!((skipped(&in_time), in_time.fires), (1, vec![7_200]));
        let one = hours(ONE, 2 * 3_600 + 3_599);
        assert_eq!((skipped(&one), one.fires), (1, vec![7_200]));
        let window = hours(up_to(5, Some(3_600)), 2 * 3_600 + 1_800);
        assert_eq!((skipped(&window), window.fires), (1, vec![7_200]));
    }

    #[test]
    fn long_downtime_is_counted_up_to_a_bound() {
        let none = Shift::of("x", 0, 0);
        let turn = Turn::take(&plan("* * * * * *"), &none, ONE.bounds(), 0, 1_000_000_000_000).unwrap();
        assert_eq!(turn.fires, [1_000_000_000]);
        assert_eq!(turn.skipped, Some(Skipped { first: 1, last: 999_999_999, count: MAX_MISSED }));
    }

    #[test]
    fn a_record_slightly_ahead_is_waited_for_and_one_far_ahead_is_not_believed() {
        assert_eq!(Progress::resume(Some(1_000), 0).reached, 1_000);
        assert_eq!(Progress::resume(Some(CORRECTION + 1), 0).reached, 0);
        assert_eq!(Progress::resume(None, 7).reached, 7);
        let mut progress = Progress::from(10);
        assert!(!progress.learn(Some(9), 20) && !progress.learn(None, 20));
        assert!(!progress.learn(Some(CORRECTION + 21), 20), "a wrong clock's record counts for nothing");
        assert!(progress.learn(Some(12), 20) && progress.reached == 12);
    }

    #[test]
    fn paused_instants_are_told_together() {
        let mut progress = Progress::from(0);
        progress.paused(Skipped { first: 60, last: 60, count: 1 });
        progress.paused(Skipped { first: 120, last: 180, count: 2 });
        assert_eq!(progress.unrecorded(), Some(Skipped { first: 60, last: 180, count: 3 }));
        progress.recorded();
        assert_eq!((progress.unrecorded(), progress.missed), (None, 3));
        progress.fired(240);
        assert_eq!(progress.missed, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// However turns fall, each instant is either made or skipped, once and in order, and none before its time.
        #[test]
        fn every_instant_has_one_turn(
            looks in prop::collection::vec(1_i64..3_000, 1..12),
            schedule in prop::sample::select(vec!["* * * * *", "*/7 * * * *", "0 */3 * * *", "@every 90s", "*/20 * * * * *"]),
            policy in prop::sample::select(vec![SKIP, ONE, up_to(3, None), up_to(1_000, Some(600)), up_to(5, Some(30))]),
            spread in 0_u32..10,
            jitter in 0_u32..10,
        ) {
            let plan = plan(schedule);
            let shift = Shift::of("default/f/t", spread, jitter);
            let (mut reached, mut now, mut had) = (0, 0, 0);
            for look in looks {
                now += look;
                let Some(turn) = Turn::take(&plan, &shift, policy.bounds(), reached, now * 1_000) else { continue };
                let mut next = plan.next_second(reached).unwrap();
                if let Some(skipped) = turn.skipped {
                    prop_assert_eq!(skipped.first, next);
                    prop_assert_eq!(skipped.count, plan.count(reached, skipped.last + 1, MAX_MISSED));
                    had += skipped.count;
                    next = plan.next_second(skipped.last).unwrap();
                }
                for fire in &turn.fires {
                    prop_assert_eq!(*fire, next);
                    prop_assert!(shift.due_ms(*fire) <= now * 1_000);
                    next = plan.next_second(next).unwrap();
                    had += 1;
                }
                reached = turn.latest;
                prop_assert!(shift.due_ms(plan.next_second(reached).unwrap()) > now * 1_000, "nothing is left");
            }
            prop_assert_eq!(had, plan.count(0, reached + 1, MAX_MISSED));
        }
    }
}
