//! Both policies at each distinct change of a clock from 1970 to 2037 (apart from those within four days of another),
//! three expressions in turn, in all zones of the IANA database, against a
//! definition that looks at every minute and knows only what a wall clock shows before and after a change.

use std::collections::BTreeSet;

use chrono::{DateTime, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use trigger_cron::{Gap, Repeat, Schedule};

const FROM: i64 = 0;
const TO: i64 = 2_145_916_800;
const DAY: i64 = 86_400;
/// How far about a change instants are compared: more than the largest change but one.
const ABOUT: i64 = 3 * 3_600;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn offset(zone: Tz, seconds: i64) -> i64 {
    zone.offset_from_utc_datetime(&time(seconds).naive_utc()).fix().local_minus_utc().into()
}

/// A change of a clock: when, from which offset to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    at: i64,
    from: i64,
    to: i64,
}

fn changes(zone: Tz) -> Vec<Change> {
    let mut found = Vec::new();
    let (mut day, mut held) = (FROM, offset(zone, FROM));
    while day < TO {
        let next = offset(zone, day + DAY);
        if next != held {
            let (mut before, mut at) = (day, day + DAY);
            while at - before > 1 {
                let middle = before + (at - before) / 2;
                if offset(zone, middle) == held { before = middle } else { at = middle }
            }
            found.push(Change { at, from: held, to: next });
        }
        (day, held) = (day + DAY, next);
    }
    found
}

/// The instants in (start, end] of the wall times that `named` names (by minute of the day), by their definition.
fn defined(change: Change, named: &dyn Fn(i64) -> bool, gap: Gap, repeat: Repeat, start: i64, end: i64) -> Vec<i64> {
    let Change { at, from, to } = change;
    let mut instants = BTreeSet::new();
    let named = |wall: i64| named(wall.rem_euclid(DAY) / 60);
    let first_wall = (start + from.min(to) - DAY).div_euclid(60) * 60;
    for wall in (first_wall..end + from.max(to) + DAY).step_by(60).filter(|wall| named(*wall)) {
        // A clock shows it before the change, after the change, both or never.
        let before = Some(wall - from).filter(|instant| *instant < at);
        let after = Some(wall - to).filter(|instant| *instant >= at);
        match (before, after) {
            (Some(first), Some(last)) => match repeat {
                Repeat::First => drop(instants.insert(first)),
                Repeat::Last => drop(instants.insert(last)),
                Repeat::Both => instants.extend([first, last]),
            },
            (Some(only), None) | (None, Some(only)) => drop(instants.insert(only)),
            (None, None) => {
                if gap == Gap::Shift {
                    instants.insert(at);
                }
            }
        }
    }
    instants.into_iter().filter(|instant| (start + 1..=end).contains(instant)).collect()
}

#[test]
fn every_change_of_every_clock_is_handled_as_declared() {
    // What is named, as an expression and by minute of the day.
    type Named = (&'static str, fn(i64) -> bool);
    let expressions: [Named; 3] = [
        ("*/20 * * * *", |minute| minute % 20 == 0),
        ("30 0-3,22,23 * * *", |minute| minute % 60 == 30 && matches!(minute / 60, 0..=3 | 22 | 23)),
        ("7 */2 * * *", |minute| minute % 60 == 7 && (minute / 60) % 2 == 0),
    ];
    let policies = [Gap::Skip, Gap::Shift]
        .into_iter()
        .flat_map(|gap| [Repeat::First, Repeat::Last, Repeat::Both].map(|repeat| (gap, repeat)));
    let policies: Vec<_> = policies.collect();
    let (mut seen, mut all) = (BTreeSet::new(), 0);
    for zone in TZ_VARIANTS {
        let changes = changes(zone);
        all += changes.len();
        let mut schedules = None;
        for (index, change) in changes.iter().enumerate() {
            // Where another change is near, the definition by one does not hold; zones that share a change need one look.
            let near = |other: Option<&Change>| other.is_some_and(|other| (other.at - change.at).abs() < 4 * DAY);
            let crowded =
                near(changes.get(index + 1)) || near(index.checked_sub(1).and_then(|index| changes.get(index)));
            if crowded || !seen.insert(*change) {
                continue;
            }
            let schedules: &Vec<_> = schedules.get_or_insert_with(|| {
                let all = policies.iter().flat_map(|(gap, repeat)| {
                    expressions.map(|(text, named)| {
                        let schedule = Schedule::with_policies(text, zone, Some(*gap), Some(*repeat)).unwrap();
                        (schedule, text, named, *gap, *repeat)
                    })
                });
                all.collect()
            });
            let reach = ABOUT + (change.to - change.from).abs();
            let (start, end) = (change.at - reach, change.at + reach);
            // Each change meets every policy; the expressions take turns.
            for (schedule, text, named, gap, repeat) in schedules.iter().skip(seen.len() % 3).step_by(3) {
                let mut ours = Vec::new();
                let mut last = time(start);
                while let Some(next) = schedule.next_after(last).filter(|next| next.timestamp() <= end) {
                    ours.push(next.timestamp());
                    last = next;
                }
                let defined = defined(*change, named, *gap, *repeat, start, end);
                assert_eq!(ours, defined, "{text} in {zone}, {gap:?} and {repeat:?}, about {}", time(change.at));
            }
        }
    }
    assert!(all > 30_000 && seen.len() > 4_000, "{all} changes, {} of them unlike", seen.len());
}
