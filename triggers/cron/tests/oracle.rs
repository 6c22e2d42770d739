//! Schedules against implementations that share no code with ours: croniter (its answers are in `oracle/vectors.txt`,
//! written by `oracle/generate.py`), Python's rules for clocks that change, and tokio-cron-scheduler.
//!
//! Every class of disagreement is a row of the table in the README and a variant of [`Class`]; each is recognised by a
//! rule, and what no rule explains fails.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use tokio_cron_scheduler::Job;
use trigger_cron::{Gap, Repeat, Schedule};

const VECTORS: &str = include_str!("oracle/vectors.txt");

/// The lines of one kind, as fields.
fn vectors(kind: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = VECTORS.lines().map(|line| line.split('|').collect::<Vec<_>>());
    lines.filter(move |fields| fields[0] == kind)
}

fn moment(seconds: &str) -> i64 {
    seconds.parse().unwrap()
}

/// Instants that are told by their distances.
fn instants(start: i64, distances: &str) -> Vec<i64> {
    let distances = distances.split(',').filter(|text| !text.is_empty()).map(moment);
    distances
        .scan(start, |last, distance| {
            *last += distance;
            Some(*last)
        })
        .collect()
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

/// Ours after `start`, without end.
fn ours(schedule: &Schedule, start: i64) -> impl Iterator<Item = i64> + '_ {
    let next = |after| schedule.next_after(time(after)).map(|next| next.timestamp());
    std::iter::successors(next(start), move |last| next(*last))
}

#[test]
fn croniter_names_the_same_instants_in_utc() {
    let (mut cases, mut unlike, mut passed_over) = (0, 0, 0);
    for fields in vectors("U") {
        let [_, text, start, distances] = fields[..] else { panic!("{fields:?}") };
        let parts: Vec<&str> = text.split(' ').collect();
        let day_of_month = parts.len() - 3;
        // One class of disagreement without a zone: beside `3#2`, croniter does with a day of the month now this
        // and now that, which is neither `or` nor `and`.
        if parts[day_of_month + 2].contains('#') && parts[day_of_month] != "*" {
            unlike += 1;
            continue;
        }
        let schedule = Schedule::parse(text, Tz::UTC).unwrap_or_else(|error| panic!("{text}: {error}; {}", error.help));
        let theirs = instants(moment(start), distances);
        let ours: Vec<_> = ours(&schedule, moment(start)).take(theirs.len()).collect();
        cases += 1;
        // The other: where a day must match both fields since one begins with a star, it passes over some of them.
        let both = parts[day_of_month].starts_with("*/") || parts[day_of_month + 2].starts_with("*/");
        if both && ours != theirs {
            for instant in theirs {
                assert_eq!(schedule.next_after(time(instant - 1)), Some(time(instant)), "{text} after {start}");
            }
            passed_over += 1;
            continue;
        }
        assert_eq!(ours, theirs, "{text} after {start}");
    }
    assert_eq!((cases, unlike, passed_over), (3_936, 64, 1));
}

#[test]
fn every_policy_places_wall_times_as_python_does() {
    let (mut cases, mut told) = (0, 0);
    for fields in vectors("P") {
        let [_, text, zone, gap, repeat, start, end, distances] = fields[..] else { panic!("{fields:?}") };
        let gap = if gap == "skip" { Gap::Skip } else { Gap::Shift };
        let repeat = match repeat {
            "first" => Repeat::First,
            "last" => Repeat::Last,
            _ => Repeat::Both,
        };
        let schedule = Schedule::with_policies(text, zone.parse().unwrap(), Some(gap), Some(repeat)).unwrap();
        let theirs = instants(moment(start), distances);
        let ours: Vec<_> = ours(&schedule, moment(start)).take_while(|instant| *instant <= moment(end)).collect();
        assert_eq!(ours, theirs, "{fields:?}");
        (cases, told) = (cases + 1, told + theirs.len());
    }
    assert!(cases == 4_000 && told > 15_000, "{cases} cases, {told} instants");
}

/// Why croniter and we do not name the same instant where a clock changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Ours: the first instant after the gap, for a named time in the gap. croniter moves the time by the gap's length
    /// or leaves it out.
    ShiftedToTheEndOfTheGap,
    /// Ours: the second pass of a time that is stepped through. croniter leaves it out, or names some of it.
    SecondPass,
    /// croniter's: an instant at which the zone's clock shows a time that the expression does not name; it adds the
    /// change of the offset where none is due.
    NotNamed,
    /// Ours, next to one of those: the time that is named, which croniter has moved away or passed over.
    MovedAway,
}

/// The offset of a zone at a moment, in seconds.
fn offset(zone: Tz, seconds: i64) -> i64 {
    zone.offset_from_utc_datetime(&time(seconds).naive_utc()).fix().local_minus_utc().into()
}

fn wall(zone: Tz, seconds: i64) -> NaiveDateTime {
    time(seconds).with_timezone(&zone).naive_local()
}

/// Whether the minute and hour fields name a wall time: a reading of its own, of the few forms that the vectors have.
fn names(text: &str, wall: NaiveDateTime) -> bool {
    let holds = |field: &str, value: u32| {
        field.split(',').any(|item| {
            let (range, step) = item.split_once('/').unwrap_or((item, "1"));
            let (low, high) = match range.split_once('-') {
                Some((low, high)) => (low.parse().unwrap(), high.parse().unwrap()),
                None if range == "*" => (0, 59),
                None => (range.parse().unwrap(), range.parse().unwrap()),
            };
            (low..=high).contains(&value) && (value - low).is_multiple_of(step.parse().unwrap())
        })
    };
    let fields: Vec<&str> = text.split(' ').collect();
    wall.second() == 0 && holds(fields[0], wall.minute()) && holds(fields[1], wall.hour())
}

/// The class of an instant that only one side names; `None` is a disagreement that nothing explains.
fn class(text: &str, zone: Tz, instant: i64, ours: bool) -> Option<Class> {
    let shown = wall(zone, instant);
    let second_pass = match zone.from_local_datetime(&shown) {
        chrono::LocalResult::Ambiguous(_, second) => second.timestamp() == instant,
        _ => false,
    };
    let fixed = !text.split(' ').take(2).any(|field| field.contains(['*', '/']));
    // A clock changes by up to a day, and croniter is led astray until a day after.
    let near = (-26..=26).any(|hour| offset(zone, instant) != offset(zone, instant + 3_600 * hour));
    if !near {
        return None;
    }
    if ours {
        let jumps = offset(zone, instant) > offset(zone, instant - 1);
        return match () {
            () if fixed && jumps => Some(Class::ShiftedToTheEndOfTheGap),
            () if second_pass && !fixed => Some(Class::SecondPass),
            () if names(text, shown) => Some(Class::MovedAway),
            () => None,
        };
    }
    (!names(text, shown)).then_some(Class::NotNamed)
}

#[test]
fn croniter_disagrees_only_where_clocks_change_and_every_class_is_explained() {
    let mut classes = BTreeMap::<Class, usize>::new();
    let (mut cases, mut agreed) = (0, 0);
    for fields in vectors("Z") {
        let [_, text, zone_name, start, end, distances] = fields[..] else { panic!("{fields:?}") };
        let zone: Tz = zone_name.parse().unwrap();
        let schedule = Schedule::parse(text, zone).unwrap();
        let theirs: BTreeSet<i64> = instants(moment(start), distances).into_iter().collect();
        let ours: BTreeSet<i64> =
            ours(&schedule, moment(start)).take_while(|instant| *instant <= moment(end)).collect();
        agreed += usize::from(ours == theirs);
        for instant in ours.symmetric_difference(&theirs) {
            let is_ours = ours.contains(instant);
            let class = class(text, zone, *instant, is_ours).unwrap_or_else(|| {
                let (at, whose) = (time(*instant).with_timezone(&zone), if is_ours { "ours" } else { "theirs" });
                panic!("{text} in {zone_name} after {}: {at} is only {whose}", time(moment(start)));
            });
            *classes.entry(class).or_default() += 1;
        }
        cases += 1;
    }
    assert_eq!(cases, 1_500);
    assert!(agreed * 2 > cases, "croniter agrees in most cases even here: {agreed} of {cases}");
    assert_eq!(classes.len(), 4, "each class of the table is met: {classes:?}");
}

#[test]
fn tokio_cron_scheduler_names_the_same_instants_in_utc() {
    let (mut cases, mut start) = (0, 1_700_000_000);
    for fields in vectors("U") {
        let text = fields[1];
        let parts: Vec<&str> = text.split(' ').collect();
        let days = &parts[parts.len() - 3..];
        // It asks for both day fields to match, always; for crontab(5), either is enough where both are restricted.
        let both = !days[0].starts_with('*') && !days[2].starts_with('*');
        if both || cases == 1_000 {
            continue;
        }
        // It has no five fields.
        let text = if parts.len() == 5 { format!("0 {text}") } else { text.to_owned() };
        let mut theirs = Job::new(text.as_str(), |_, _| {}).unwrap();
        let cron = theirs.job_data().unwrap().schedule().unwrap();
        let schedule = Schedule::parse(&text, Tz::UTC).unwrap();
        let mut after = time(start);
        for _ in 0..4 {
            let next = cron.find_next_occurrence(&after, false).unwrap();
            assert_eq!(schedule.next_after(after), Some(next), "{text} after {after}");
            after = next;
        }
        cases += 1;
        start += TimeDelta::hours(7).num_seconds() + 13;
    }
    assert!(cases >= 1_000, "{cases}");
}
