//! What an expression means: from any moment, the next instant.
//!
//! croner owns the calendar: which wall times an expression names. Where those lie on the time line is decided here,
//! stretch by stretch of a zone's even time, by the two policies for clocks that change. croner has rules of its own
//! for that, but no choice between them, and its code keeps them only where second, minute and hour hold one value
//! each: `30 2,14 * * *` would be skipped in spring and run twice in autumn.

use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;
use croner::JobType;
use croner::parser::CronParser;

use crate::Error;
use crate::every::{Every, is_every};
use crate::fields::Fields;
use crate::offsets::{FURTHEST, Offsets};
use crate::policy::{Gap, Repeat};

/// Longer expressions are refused: every list that means something fits many times.
const MAX_BYTES: usize = 512;
/// croner's searches end here, with the year 4999.
const END_OF_TIME: i64 = 95_617_497_600;

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
    Calendar(Box<Calendar>),
}

#[derive(Clone, Debug)]
struct Calendar {
    cron: croner::Cron,
    offsets: Arc<Offsets>,
    gap: Gap,
    repeat: Repeat,
}

impl Schedule {
    /// Reads a cron expression, a nickname or an `@every` interval, with the default policies for clocks that change.
    /// An expression that never comes is refused.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, Error> {
        Self::with_policies(text, zone, None, None)
    }

    /// Reads an expression whose policies are declared. `None` is what its kind of expression has: times that are named
    /// (`30 2,14`) run once a day whatever the clocks do (`shift`, `first`), and times that are stepped through (`*/5`)
    /// as often as the clock shows them (`skip`, `both`).
    pub fn with_policies(text: &str, zone: Tz, gap: Option<Gap>, repeat: Option<Repeat>) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() > MAX_BYTES {
            return Err(Error::schedule(
                format!("the expression has {} bytes", text.len()),
                format!("an expression has at most {MAX_BYTES} bytes; split it into several"),
            ));
        }
        if is_every(text) {
            return Ok(Self { when: When::Every(Every::parse(text)?) });
        }
        let schedule = Self { when: When::Calendar(Box::new(calendar(expression(text)?, zone, gap, repeat)?)) };
        // Asked from the beginning and not from now: a year that has passed is no mistake, and `check` must not find
        // one tomorrow in a manifest that it passed today.
        if schedule.next_second(i64::MIN).is_none() {
            return Err(never_comes(text));
        }
        Ok(schedule)
    }

    /// The first instant strictly after `after`: a whole second. `None` when there is none left.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.next_second(after.timestamp())?, 0)
    }

    /// The same in seconds since the Unix epoch.
    pub(crate) fn next_second(&self, after: i64) -> Option<i64> {
        // No expression reaches further back.
        let after = after.max(-1);
        if after >= END_OF_TIME {
            return None;
        }
        match &self.when {
            When::Every(every) => every.next_after(after).filter(|next| *next < END_OF_TIME),
            When::Calendar(calendar) => calendar.next_after(after),
        }
    }

    /// Whether it is an interval, which knows neither zones nor clocks that change.
    pub(crate) fn is_every(&self) -> bool {
        matches!(self.when, When::Every(_))
    }
}

impl Calendar {
    fn next_after(&self, mut after: i64) -> Option<i64> {
        loop {
            let stretch = self.offsets.at(after + 1);
            let wall = self.next_wall(after + stretch.offset)?;
            let instant = wall - stretch.offset;
            if instant >= stretch.end {
                if self.gap == Gap::Shift && stretch.skips(wall) {
                    return Some(stretch.end);
                }
                // On to the next stretch; over those at whose ends nothing can lie.
                after = (stretch.end - 1).max(instant - 2 * FURTHEST);
                continue;
            }
            match self.repeat {
                Repeat::First if stretch.is_second_pass(instant) => {
                    after = stretch.second_pass_end().min(stretch.end) - 1
                }
                Repeat::Last if stretch.is_first_pass(instant) => after = stretch.end - 1,
                _ => return Some(instant),
            }
        }
    }

    /// The first wall time after another that the fields name, both in seconds as if it were UTC.
    fn next_wall(&self, wall: i64) -> Option<i64> {
        let wall: NaiveDateTime = DateTime::from_timestamp(wall, 0)?.naive_utc();
        Some(self.cron.find_next_occurrence(&wall, false).ok()?.and_utc().timestamp())
    }
}

fn never_comes(text: &str) -> Error {
    Error::schedule(format!("{text:?} never comes"), "no day matches all of its fields; \"L\" is a month's last day")
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

fn calendar(expression: &str, zone: Tz, gap: Option<Gap>, repeat: Option<Repeat>) -> Result<Calendar, Error> {
    let fields = Fields::parse(expression)?;
    let cron =
        CronParser::builder().dom_and_dow(fields.needs_both_days()).build().parse(expression).map_err(|error| {
            Error::schedule(format!("cannot read {expression:?}: {error}"), "see the README's grammar")
        })?;
    let fixed = fields.is_fixed_time() || cron.determine_job_type() == JobType::FixedTime;
    let (default_gap, default_repeat) = if fixed { (Gap::Shift, Repeat::First) } else { (Gap::Skip, Repeat::Both) };
    Ok(Calendar {
        cron,
        offsets: Offsets::of(zone),
        gap: gap.unwrap_or(default_gap),
        repeat: repeat.unwrap_or(default_repeat),
    })
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
}
