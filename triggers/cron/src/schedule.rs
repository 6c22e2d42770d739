//! What an expression means: from any moment, the next instant.
//!
//! croner owns the calendar. Two things about daylight saving time are decided here. Intervals (`*/5`) go through
//! croner's search over zoned time, which follows its written rules. Fixed times do not: croner's rules promise that
//! "specific numerical values" run once on either kind of day, but its code keeps that promise only where second,
//! minute and hour hold one value each, so `30 2,14 * * *` would be skipped in spring and run twice in autumn. They
//! are searched on the wall clock instead, and each wall time is then placed on the time line by the same rules.

use chrono::{DateTime, Datelike, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::JobType;
use croner::parser::CronParser;

use crate::Error;
use crate::every::{Every, is_every};
use crate::fields::Fields;

/// Longer expressions are refused: every list that means something fits many times.
const MAX_BYTES: usize = 512;
/// croner's searches end here.
const LAST_YEAR: i32 = 4999;

/// Nicknames and the expressions they stand for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A parsed expression in its time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    when: When,
}

#[derive(Clone, Debug)]
enum When {
    Every(Every),
    /// Wall times that are named: each runs once a day, whatever the clocks do.
    Fixed(Box<croner::Cron>, Tz),
    /// Wall times that are stepped through: they run as often as the wall clock shows them.
    Interval(Box<croner::Cron>, Tz),
}

impl Schedule {
    /// Reads a cron expression, a nickname or an `@every` interval. An expression that never comes is refused.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() > MAX_BYTES {
            return Err(Error::schedule(
                format!("the expression has {} bytes", text.len()),
                format!("an expression has at most {MAX_BYTES} bytes; split it into several triggers"),
            ));
        }
        if is_every(text) {
            let every = Every::parse(text)?;
            if zone != Tz::UTC {
                return Err(Error::timezone(
                    format!("{text:?} counts from the Unix epoch and knows no time zone, not {:?}", zone.name()),
                    "remove `timezone`, or write a cron expression such as \"0 0 * * *\"",
                ));
            }
            return Ok(Self { when: When::Every(every) });
        }
        let schedule = Self { when: calendar(expression(text)?, zone)? };
        // Asked from the beginning and not from now: a year that has passed is no mistake, and `check` must not find
        // one tomorrow in a manifest that it passed today.
        if schedule.next_after(DateTime::<Utc>::MIN_UTC).is_none() {
            return Err(Error::schedule(
                format!("{text:?} never comes"),
                "no day matches all of its fields; \"L\" is a month's last day",
            ));
        }
        Ok(schedule)
    }

    /// The first instant strictly after `after`: a whole second. `None` when there is none left.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // No expression reaches further back, and chrono's local time overflows at the ends of its range.
        let after = after.max(DateTime::UNIX_EPOCH - TimeDelta::seconds(1));
        if after.year() > LAST_YEAR {
            return None;
        }
        match &self.when {
            When::Every(every) => every.next_after(after),
            When::Fixed(cron, zone) => next_fixed(cron, *zone, after),
            When::Interval(cron, zone) => {
                let next = cron.find_next_occurrence(&after.with_timezone(zone), false).ok()?;
                Some(next.with_timezone(&Utc))
            }
        }
    }

    /// The latest instant after `after` and not after `until`.
    ///
    /// Found by bisection: after a suspend, a schedule of seconds has millions of instants to step over.
    pub fn latest(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let comes_after = |moment| self.next_after(moment).filter(|next| *next <= until);
        let first = comes_after(after)?;
        let Some(mut latest) = comes_after(first) else { return Some(first) };
        // Something comes after `low` and nothing after `high`; instants are whole seconds.
        let (mut low, mut high) = (first, until);
        while high - low > TimeDelta::seconds(1) {
            let middle = low + (high - low) / 2;
            match comes_after(middle) {
                Some(next) => (low, latest) = (middle, next),
                None => high = middle,
            }
        }
        Some(latest)
    }

    /// How many instants lie between two moments, both left out; counts no further than `limit`.
    pub fn count_between(&self, after: DateTime<Utc>, before: DateTime<Utc>, limit: u32) -> u32 {
        let mut moment = after;
        for count in 0..limit {
            match self.next_after(moment) {
                Some(next) if next < before => moment = next,
                _ => return count,
            }
        }
        limit
    }
}

/// The expression that `text` is or stands for.
fn expression(text: &str) -> Result<&str, Error> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    if let Some((_, expression)) = NICKNAMES.iter().find(|(nickname, _)| nickname.eq_ignore_ascii_case(text)) {
        return Ok(expression);
    }
    let known: Vec<&str> = NICKNAMES.iter().map(|(nickname, _)| *nickname).collect();
    Err(Error::schedule(
        format!("unknown nickname {text:?}"),
        format!("known are {} and \"@every 5m\"", known.join(", ")),
    ))
}

fn calendar(expression: &str, zone: Tz) -> Result<When, Error> {
    let fields = Fields::parse(expression)?;
    let cron =
        CronParser::builder().dom_and_dow(fields.needs_both_days()).build().parse(expression).map_err(|error| {
            Error::schedule(format!("cannot read {expression:?}: {error}"), "see the README's grammar")
        })?;
    let fixed = fields.is_fixed_time() || cron.determine_job_type() == JobType::FixedTime;
    let cron = Box::new(cron);
    Ok(if fixed { When::Fixed(cron, zone) } else { When::Interval(cron, zone) })
}

/// The next named wall time: at its first pass where the clock shows it twice, right after the gap where it is skipped.
fn next_fixed(cron: &croner::Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut wall = after.with_timezone(&zone).naive_local();
    loop {
        wall = cron.find_next_occurrence(&wall, false).ok()?;
        let instant = match zone.from_local_datetime(&wall) {
            LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => instant.with_timezone(&Utc),
            LocalResult::None => end_of_gap(zone, wall),
        };
        // In the second pass of a repeated hour the wall times ahead have had their turn.
        if instant > after {
            return Some(instant);
        }
    }
}

/// The first instant at which the wall clock is past `wall`, a time that it skips.
fn end_of_gap(zone: Tz, wall: NaiveDateTime) -> DateTime<Utc> {
    let is_past = |instant: DateTime<Utc>| instant.with_timezone(&zone).naive_local() > wall;
    // Zones lie within a day of UTC, and the clock jumps once between the two bounds.
    let (mut before, mut past) = (wall.and_utc() - TimeDelta::days(1), wall.and_utc() + TimeDelta::days(1));
    while past - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((past - before).num_seconds() / 2);
        if is_past(middle) { past = middle } else { before = middle }
    }
    past
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn utc(text: &str) -> Schedule {
        Schedule::parse(text, Tz::UTC).unwrap()
    }

    #[test]
    fn nicknames_stand_for_their_expressions() {
        let after = at("2026-05-06T07:08:09Z");
        for (nickname, next) in [
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("@annually", "2027-01-01T00:00:00Z"),
            ("@monthly", "2026-06-01T00:00:00Z"),
            ("@weekly", "2026-05-10T00:00:00Z"),
            ("@daily", "2026-05-07T00:00:00Z"),
            ("@Midnight", "2026-05-07T00:00:00Z"),
            ("@hourly", "2026-05-06T08:00:00Z"),
        ] {
            assert_eq!(utc(nickname).next_after(after), Some(at(next)), "{nickname}");
        }
        let error = Schedule::parse("@reboot", Tz::UTC).unwrap_err();
        assert_eq!(error.message, "unknown nickname \"@reboot\"");
        assert!(error.help.contains("@midnight") && error.help.contains("@every 5m"), "{}", error.help);
    }

    #[test]
    fn seconds_and_years_are_optional_fields() {
        let after = at("2026-05-06T07:08:09Z");
        assert_eq!(utc("*/10 * * * * *").next_after(after), Some(at("2026-05-06T07:08:10Z")));
        assert_eq!(utc("0 0 12 24 12 * 2030").next_after(after), Some(at("2030-12-24T12:00:00Z")));
        let over = utc("0 0 12 24 12 * 2020");
        assert_eq!(over.next_after(after), None, "a year that has passed is no mistake, and never comes again");
    }

    #[test]
    fn expressions_that_never_come_are_refused() {
        for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * 30-31 2 *", "0 0 0 29 2 * 2025"] {
            let error = Schedule::parse(never, Tz::UTC).unwrap_err();
            assert_eq!(error.message, format!("{never:?} never comes"));
        }
        assert_eq!(utc("0 0 29 2 *").next_after(at("2026-01-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
    }

    #[test]
    fn an_interval_has_no_zone() {
        let error = Schedule::parse("@every 1d", Tz::Europe__Paris).unwrap_err();
        assert_eq!(error.key, "timezone");
        assert_eq!(
            error.message,
            "\"@every 1d\" counts from the Unix epoch and knows no time zone, not \"Europe/Paris\""
        );
    }

    #[test]
    fn the_size_of_an_expression_is_bounded() {
        let long = format!("{} * * * *", vec!["1"; 400].join(","));
        assert!(Schedule::parse(&long, Tz::UTC).unwrap_err().message.contains("bytes"));
    }

    #[test]
    fn the_ends_of_time_are_no_trap() {
        for text in ["* * * * *", "30 2 * * *", "@every 7s"] {
            let schedule = utc(text);
            assert_eq!(schedule.next_after(DateTime::<Utc>::MAX_UTC), None, "{text}");
            assert!(schedule.next_after(DateTime::<Utc>::MIN_UTC).unwrap() >= DateTime::UNIX_EPOCH, "{text}");
        }
    }

    #[test]
    fn the_latest_instant_is_found_without_walking_to_it() {
        let schedule = utc("* * * * * *");
        let (after, until) = (at("2016-01-01T00:00:00Z"), at("2026-01-01T00:00:00.5Z"));
        assert_eq!(schedule.latest(after, until), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(schedule.latest(until, until), None);
        assert_eq!(schedule.count_between(after, until, 1_000), 1_000);
    }
}
