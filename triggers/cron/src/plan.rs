//! All instants of one trigger: those of its expressions, within its bounds. Triggers that say the same share one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::config::Timing;
use crate::{Config, Error, Schedule};

/// The instants of a trigger. An instant that two expressions name is one.
#[derive(Debug)]
pub struct Plan {
    timing: Timing,
    schedules: Vec<Schedule>,
    /// No instant lies before it or after the other, in seconds since the Unix epoch.
    start: i64,
    end: i64,
    /// The last question and its answer: many triggers share a plan and ask the same.
    last: Mutex<Option<(i64, Option<i64>)>>,
}

impl Plan {
    pub(crate) fn new(timing: Timing, schedules: Vec<Schedule>, start: Option<i64>, end: Option<i64>) -> Self {
        let (start, end) = (start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX));
        Self { timing, schedules, start, end, last: Mutex::default() }
    }

    /// The first instant strictly after `after`: a whole second. `None` when there is none left.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.next_second(after.timestamp())?, 0)
    }

    /// The latest instant after `after` and not after `until`.
    pub fn latest(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.latest_second(after.timestamp(), until.timestamp())?, 0)
    }

    /// How many instants lie between two moments, both left out; counts no further than `limit`.
    pub fn count_between(&self, after: DateTime<Utc>, before: DateTime<Utc>, limit: u32) -> u32 {
        // A moment within a second lies after that second's beginning.
        let before = before.timestamp() + i64::from(before.timestamp_subsec_nanos() > 0);
        self.count(after.timestamp(), before, limit)
    }

    /// Every instant after `after` and not after `until`, in order.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        let next = move |after| self.next_after(after).filter(|next| *next <= until);
        std::iter::successors(next(after), move |last| next(*last))
    }

    /// The text of the expression that names an instant: the first, where several do.
    pub(crate) fn expression_of(&self, instant: i64) -> &str {
        let named = self.schedules.iter().position(|schedule| schedule.next_second(instant - 1) == Some(instant));
        self.timing.schedule.texts().nth(named.unwrap_or(0)).unwrap_or_default()
    }

    pub(crate) fn timezone(&self) -> &str {
        &self.timing.timezone
    }

    pub(crate) fn next_second(&self, after: i64) -> Option<i64> {
        if let Some((asked, answer)) = *self.last.lock()
            && asked == after
        {
            return answer;
        }
        let from = after.max(self.start.saturating_sub(1));
        let next = self.schedules.iter().filter_map(|schedule| schedule.next_second(from)).min();
        let next = next.filter(|next| *next <= self.end);
        *self.last.lock() = Some((after, next));
        next
    }

    /// Found by bisection: after a suspend, a schedule of seconds has millions of instants to step over.
    pub(crate) fn latest_second(&self, after: i64, until: i64) -> Option<i64> {
        let comes_after = |moment| self.next_second(moment).filter(|next| *next <= until);
        let first = comes_after(after)?;
        let Some(mut latest) = comes_after(first) else { return Some(first) };
        // Something comes after `low` and nothing after `high`.
        let (mut low, mut high) = (first, until);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match comes_after(middle) {
                Some(next) => (low, latest) = (middle, next),
                None => high = middle,
            }
        }
        Some(latest)
    }

    pub(crate) fn count(&self, after: i64, before: i64, limit: u32) -> u32 {
        let mut moment = after;
        for count in 0..limit {
            match self.next_second(moment) {
                Some(next) if next < before => moment = next,
                _ => return count,
            }
        }
        limit
    }

    /// The shortest time between two of the next instants after `after`, looked for among some hundreds.
    pub(crate) fn shortest_distance(&self, after: DateTime<Utc>) -> Option<TimeDelta> {
        let instants: Vec<_> = self.between(after, DateTime::<Utc>::MAX_UTC).take(500).collect();
        instants.windows(2).map(|pair| pair[1] - pair[0]).min()
    }
}

/// The plans in use, so that equal ones are one: a parsed expression takes 6 KB.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_hash: HashMap<u64, Vec<Weak<Plan>>>,
    /// Plans that nobody uses any more are forgotten when this many have been added.
    sweep_at: usize,
}

impl Plans {
    /// The plan of a section: the one in use, or a new one.
    pub(crate) fn get(&self, config: &Config) -> Result<Arc<Plan>, Vec<Error>> {
        let timing = config.timing();
        let hash = self.hasher.hash_one(&timing);
        let in_use = |known: &Known| {
            let same = known.by_hash.get(&hash)?;
            same.iter().filter_map(Weak::upgrade).find(|plan| plan.timing == timing)
        };
        if let Some(plan) = in_use(&self.known.lock()) {
            return Ok(plan);
        }
        let parsed = Arc::new(config.parse()?);
        let mut known = self.known.lock();
        // Two that came together parse the same: either is good, and one is kept.
        if let Some(plan) = in_use(&known) {
            return Ok(plan);
        }
        if known.by_hash.len() >= known.sweep_at {
            known.by_hash.retain(|_, plans| {
                plans.retain(|plan| plan.strong_count() > 0);
                !plans.is_empty()
            });
            known.sweep_at = (known.by_hash.len() * 2).max(64);
        }
        known.by_hash.entry(hash).or_default().push(Arc::downgrade(&parsed));
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn plan(toml_like: serde_json::Value) -> Plan {
        serde_json::from_value::<Config>(toml_like).unwrap().parse().unwrap()
    }

    fn next(plan: &Plan, after: &str, count: usize) -> Vec<String> {
        let instants = plan.between(at(after), DateTime::<Utc>::MAX_UTC).take(count);
        instants.map(|instant| instant.format("%dT%H:%M:%S").to_string()).collect()
    }

    #[test]
    fn several_expressions_are_one_row_of_instants() {
        let plan = plan(serde_json::json!({ "schedule": ["0 9 * * *", "*/30 8-9 * * *", "@every 12h"] }));
        assert_eq!(
            next(&plan, "2026-05-06T07:00:00Z", 6),
            ["06T08:00:00", "06T08:30:00", "06T09:00:00", "06T09:30:00", "06T12:00:00", "07T00:00:00"],
            "9 o'clock is named twice and comes once"
        );
        let instant = |text| at(text).timestamp();
        assert_eq!(plan.expression_of(instant("2026-05-06T09:00:00Z")), "0 9 * * *", "the first that names it");
        assert_eq!(plan.expression_of(instant("2026-05-06T08:30:00Z")), "*/30 8-9 * * *");
        assert_eq!(plan.expression_of(instant("2026-05-06T12:00:00Z")), "@every 12h");
    }

    #[test]
    fn instants_lie_between_start_and_end_both_included() {
        let plan = plan(serde_json::json!({
            "schedule": "0 * * * *", "start": "2026-05-06T09:00:00+02:00", "end": "2026-05-06T09:00:00Z",
        }));
        assert_eq!(next(&plan, "2026-01-01T00:00:00Z", 9), ["06T07:00:00", "06T08:00:00", "06T09:00:00"]);
        assert_eq!(plan.next_after(at("2026-05-06T09:00:00Z")), None);
    }

    #[test]
    fn the_latest_instant_is_found_without_walking_to_it() {
        let plan = plan(serde_json::json!({ "schedule": "* * * * * *" }));
        let (after, until) = (at("2016-01-01T00:00:00Z"), at("2026-01-01T00:00:00.5Z"));
        assert_eq!(plan.latest(after, until), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(plan.latest(until, until), None);
        assert_eq!(plan.count_between(after, until, 1_000), 1_000);
    }

    #[test]
    fn equal_timings_share_a_plan_as_long_as_one_uses_it() {
        let plans = Plans::default();
        let get = |schedule: &str| {
            let config: Config = serde_json::from_value(serde_json::json!({ "schedule": schedule })).unwrap();
            plans.get(&config).unwrap()
        };
        let one = get("0 9 * * *");
        assert!(Arc::ptr_eq(&one, &get("0 9 * * *")));
        assert!(!Arc::ptr_eq(&one, &get("0 10 * * *")));
        for minute in 0..1_000 {
            get(&format!("{} {} * * *", minute % 60, minute / 60));
        }
        assert!(plans.known.lock().by_hash.len() < 200, "those that nobody uses are forgotten");
        assert!(Arc::ptr_eq(&one, &get("0 9 * * *")));
    }
}
