//! Schedules where the clocks change: every row of the README's table, then properties in many zones.

use std::sync::LazyLock;

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::parser::CronParser;
use proptest::prelude::*;
use trigger_cron::{Config, Schedule};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn schedule(text: &str, zone: Tz) -> Schedule {
    Schedule::parse(text, zone).unwrap()
}

/// Every instant in (`after`, `until`], in local time with its offset.
fn instants(text: &str, zone: Tz, after: &str, until: &str) -> Vec<String> {
    let schedule = schedule(text, zone);
    std::iter::successors(schedule.next_after(at(after)), |last| schedule.next_after(*last))
        .take_while(|instant| *instant <= at(until))
        .map(|instant| instant.with_timezone(&zone).format("%dT%H:%M%:z").to_string())
        .collect()
}

#[test]
fn paris_skips_an_hour_in_spring() {
    // 2026-03-29 02:00 +01:00 becomes 03:00 +02:00.
    let day = |text| instants(text, Tz::Europe__Paris, "2026-03-28T23:30:00Z", "2026-03-29T03:30:00Z");
    assert_eq!(day("30 2 * * *"), ["29T03:00+02:00"], "a fixed time in the gap runs right after it");
    assert_eq!(day("0 2 * * *"), ["29T03:00+02:00"]);
    assert_eq!(day("0,30 2 * * *"), ["29T03:00+02:00"], "several in the gap come together");
    assert_eq!(day("30 2,4 * * *"), ["29T03:00+02:00", "29T04:30+02:00"], "a list is fixed too");
    assert_eq!(day("0 2,3 * * *"), ["29T03:00+02:00"], "one at the gap's end is not run twice");
    assert_eq!(day("30 1 * * *"), ["29T01:30+01:00"], "the hour before is left alone");
    assert_eq!(day("*/30 2 * * *"), Vec::<String>::new(), "an interval in the gap is skipped");
    assert_eq!(day("30 * * * *"), ["29T01:30+01:00", "29T03:30+02:00", "29T04:30+02:00", "29T05:30+02:00"]);
}

#[test]
fn paris_repeats_an_hour_in_autumn() {
    // 2026-10-25 03:00 +02:00 becomes 02:00 +01:00.
    let day = |text| instants(text, Tz::Europe__Paris, "2026-10-24T22:30:00Z", "2026-10-25T03:30:00Z");
    assert_eq!(day("30 2 * * *"), ["25T02:30+02:00"], "a fixed time runs once, in the first pass");
    assert_eq!(day("0 2 * * *"), ["25T02:00+02:00"]);
    assert_eq!(day("0,30 2 * * *"), ["25T02:00+02:00", "25T02:30+02:00"]);
    assert_eq!(day("30 2,4 * * *"), ["25T02:30+02:00", "25T04:30+01:00"]);
    assert_eq!(
        day("*/30 2 * * *"),
        ["25T02:00+02:00", "25T02:30+02:00", "25T02:00+01:00", "25T02:30+01:00"],
        "an interval runs in both passes"
    );
    assert_eq!(day("30 * * * *")[..3], ["25T01:30+02:00", "25T02:30+02:00", "25T02:30+01:00"]);
    assert_eq!(
        day("0 * * * *"),
        ["25T01:00+02:00", "25T02:00+02:00", "25T02:00+01:00", "25T03:00+01:00", "25T04:00+01:00"]
    );
}

#[test]
fn new_york_changes_at_two() {
    // 2026-03-08 02:00 -05:00 becomes 03:00 -04:00; 2026-11-01 02:00 -04:00 becomes 01:00 -05:00.
    let spring = |text| instants(text, Tz::America__New_York, "2026-03-08T04:59:00Z", "2026-03-08T08:00:00Z");
    assert_eq!(spring("15 2 * * *"), ["08T03:00-04:00"]);
    assert_eq!(spring("*/15 2 * * *"), Vec::<String>::new());
    assert_eq!(spring("15 * * * *"), ["08T00:15-05:00", "08T01:15-05:00", "08T03:15-04:00"]);
    let autumn = |text| instants(text, Tz::America__New_York, "2026-11-01T03:59:00Z", "2026-11-01T08:00:00Z");
    assert_eq!(autumn("15 1 * * *"), ["01T01:15-04:00"]);
    assert_eq!(autumn("15 * * * *"), ["01T00:15-04:00", "01T01:15-04:00", "01T01:15-05:00", "01T02:15-05:00"]);
}

#[test]
fn lord_howe_changes_by_half_an_hour() {
    // 2026-04-05 02:00 +11:00 becomes 01:30 +10:30; 2026-10-04 02:00 +10:30 becomes 02:30 +11:00.
    let autumn = |text| instants(text, Tz::Australia__Lord_Howe, "2026-04-04T13:30:00Z", "2026-04-04T16:30:00Z");
    assert_eq!(autumn("45 1 * * *"), ["05T01:45+11:00"]);
    assert_eq!(autumn("15 1 * * *"), ["05T01:15+11:00"]);
    assert_eq!(
        autumn("*/15 1 * * *"),
        ["05T01:00+11:00", "05T01:15+11:00", "05T01:30+11:00", "05T01:45+11:00", "05T01:30+10:30", "05T01:45+10:30"]
    );
    let spring = |text| instants(text, Tz::Australia__Lord_Howe, "2026-10-03T14:30:00Z", "2026-10-03T16:30:00Z");
    assert_eq!(spring("15 2 * * *"), ["04T02:30+11:00"]);
    assert_eq!(spring("30 2 * * *"), ["04T02:30+11:00"]);
    assert_eq!(spring("*/15 2 * * *"), ["04T02:30+11:00", "04T02:45+11:00"]);
}

#[test]
fn a_gap_over_midnight_moves_a_fixed_time_to_the_next_day() {
    // In Nuuk 2026-03-28 23:00 -02:00 becomes 2026-03-29 00:00 -01:00.
    let night = |text| instants(text, Tz::America__Nuuk, "2026-03-28T20:00:00Z", "2026-03-29T12:00:00Z");
    assert_eq!(night("30 23 * * SAT"), ["29T00:00-01:00"]);
}

#[test]
fn a_day_that_a_zone_left_out_is_no_trap() {
    // Samoa had no 2011-12-30.
    let days = |text| instants(text, Tz::Pacific__Apia, "2011-12-29T10:30:00Z", "2011-12-31T10:30:00Z");
    assert_eq!(days("0 12 * * *"), ["29T12:00-10:00", "31T00:00+14:00", "31T12:00+14:00"]);
    assert_eq!(days("0 */12 * * *"), ["29T12:00-10:00", "31T00:00+14:00", "31T12:00+14:00", "01T00:00+14:00"]);
}

const ZONES: [Tz; 8] = [
    Tz::Europe__Paris,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::America__St_Johns,
    Tz::America__Nuuk,
    Tz::Antarctica__Troll,
    Tz::Africa__Casablanca,
    Tz::Asia__Kolkata,
];

/// The moments from 2024 to 2031 at which a zone's clock jumps; for a zone without any, one when it might have.
fn jumps(zone: Tz) -> Vec<(Tz, DateTime<Utc>)> {
    let offset = |moment: DateTime<Utc>| zone.offset_from_utc_datetime(&moment.naive_utc()).fix();
    let days = (0..8 * 365).map(|day| at("2024-01-01T00:00:00Z") + TimeDelta::days(day));
    let jump_days = days.filter(|day| offset(*day) != offset(*day + TimeDelta::days(1)));
    let quarters = jump_days.flat_map(|day| (1..=96).map(move |count| day + TimeDelta::minutes(15 * count)));
    let jumps = quarters.filter(|moment| offset(*moment) != offset(*moment - TimeDelta::seconds(1)));
    let jumps: Vec<_> = jumps.map(|moment| (zone, moment)).collect();
    if jumps.is_empty() { vec![(zone, at("2026-03-29T01:00:00Z"))] } else { jumps }
}

static JUMPS: LazyLock<Vec<(Tz, DateTime<Utc>)>> = LazyLock::new(|| ZONES.into_iter().flat_map(jumps).collect());

#[test]
fn the_zones_of_the_properties_jump() {
    assert!(JUMPS.len() > 8 * 2 * 6, "{}", JUMPS.len());
}

/// A zone and a moment near one of its jumps.
fn zone_and_moment() -> impl Strategy<Value = (Tz, DateTime<Utc>)> {
    let near = (prop::sample::select(JUMPS.as_slice()), -7_200_000_i64..7_200_000);
    near.prop_map(|((zone, jump), millis)| (zone, jump + TimeDelta::milliseconds(millis)))
}

/// Times of day within the hours in which clocks change.
fn times() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        (0..60_u32).prop_map(|minute| minute.to_string()),
        (1..30_u32).prop_map(|step| format!("*/{step}")),
        (0..30_u32, 30..60_u32).prop_map(|(one, other)| format!("{one},{other}")),
        Just("*".to_owned()),
    ];
    let hour = prop_oneof![
        (0..5_u32).prop_map(|hour| hour.to_string()),
        Just("23".to_owned()),
        (0..3_u32, 3..24_u32).prop_map(|(one, other)| format!("{one},{other}")),
        Just("*/2".to_owned()),
        Just("*".to_owned()),
    ];
    (minute, hour).prop_map(|(minute, hour)| format!("{minute} {hour} * * *"))
}

fn holds(field: &str, value: u32) -> bool {
    match (field, field.strip_prefix("*/")) {
        ("*", _) => true,
        (_, Some(step)) => value.is_multiple_of(step.parse().unwrap()),
        _ => field.split(',').any(|item| item.parse::<u32>().unwrap() == value),
    }
}

/// Whether a schedule of `times` comes at this whole minute, by the README's rules, looking only at wall clocks.
fn reference(text: &str, zone: Tz, moment: DateTime<Utc>) -> bool {
    use chrono::Timelike;
    let fields: Vec<&str> = text.split(' ').collect();
    let shown = |wall: NaiveDateTime| holds(fields[0], wall.minute()) && holds(fields[1], wall.hour());
    let wall_at = |moment: DateTime<Utc>| moment.with_timezone(&zone).naive_local();
    let wall = wall_at(moment);
    if text.split(' ').take(2).any(|field| field.starts_with('*')) {
        return shown(wall);
    }
    let before = wall_at(moment - TimeDelta::minutes(1));
    let skipped = (1..).map(|count| before + TimeDelta::minutes(count)).take_while(|skipped| *skipped < wall);
    let second_pass = zone.from_local_datetime(&wall).earliest().unwrap() != moment.with_timezone(&zone);
    (shown(wall) && !second_pass) || skipped.into_iter().any(shown)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn instants_near_a_jump_are_those_of_the_reference((zone, start) in zone_and_moment(), text in times()) {
        let schedule = schedule(&text, zone);
        let end = start + TimeDelta::hours(5);
        let first_minute = start.timestamp().div_euclid(60) + 1;
        let minutes = (first_minute..).map(|minute| DateTime::from_timestamp(minute * 60, 0).unwrap());
        let expected: Vec<_> =
            minutes.take_while(|moment| *moment <= end).filter(|moment| reference(&text, zone, *moment)).collect();
        let steps = std::iter::successors(schedule.next_after(start), |last| schedule.next_after(*last));
        let actual: Vec<_> = steps.take_while(|instant| *instant <= end).collect();
        prop_assert_eq!(actual, expected, "{} in {} after {}", text, zone, start);
    }

    #[test]
    fn time_only_moves_forward((zone, start) in zone_and_moment(), text in times(), gap_ms in 0_i64..10_000_000) {
        let schedule = schedule(&text, zone);
        let next = schedule.next_after(start).unwrap();
        prop_assert!(next > start);
        prop_assert_eq!(next.timestamp_subsec_nanos(), 0);
        prop_assert!(schedule.next_after(start + TimeDelta::milliseconds(gap_ms)).unwrap() >= next);
        let until = start + TimeDelta::milliseconds(gap_ms);
        let plan = Config::new(text.as_str(), zone.name()).parse().unwrap();
        let steps = std::iter::successors(Some(next), |last| schedule.next_after(*last));
        prop_assert_eq!(plan.latest(start, until), steps.take_while(|instant| *instant <= until).last());
    }

    #[test]
    fn single_fixed_times_are_as_croner_places_them(
        (zone, start) in zone_and_moment(),
        minute in 0..60_u32,
        hour in 0..24_u32,
    ) {
        let text = format!("{minute} {hour} * * *");
        let cron = CronParser::new().parse(&text).unwrap();
        let theirs = cron.find_next_occurrence(&start.with_timezone(&zone), false).unwrap().with_timezone(&Utc);
        prop_assert_eq!(schedule(&text, zone).next_after(start), Some(theirs), "{} in {} after {}", text, zone, start);
    }
}
