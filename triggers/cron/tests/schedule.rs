//! Schedules in UTC against a reference that knows nothing of how they are computed: it looks at every minute.

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use trigger_cron::{Config, Plan, Schedule};

/// A field, as text and as meaning, made independently of the parser.
#[derive(Clone, Debug)]
enum Field {
    Star,
    Step(u32),
    Value(u32),
    Range(u32, u32),
    RangeStep(u32, u32, u32),
    List(Vec<u32>),
}

impl Field {
    fn any(low: u32, high: u32) -> impl Strategy<Value = Field> {
        let range = (low..=high, low..=high).prop_map(|(one, other)| (one.min(other), one.max(other)));
        prop_oneof![
            3 => Just(Field::Star),
            1 => (1..=high - low).prop_map(Field::Step),
            2 => (low..=high).prop_map(Field::Value),
            1 => range.clone().prop_map(|(from, to)| Field::Range(from, to)),
            1 => (range, 1..=high - low).prop_map(|((from, to), step)| Field::RangeStep(from, to, step)),
            1 => prop::collection::vec(low..=high, 1..5).prop_map(Field::List),
        ]
    }

    fn text(&self) -> String {
        match self {
            Field::Star => "*".into(),
            Field::Step(step) => format!("*/{step}"),
            Field::Value(value) => value.to_string(),
            Field::Range(from, to) => format!("{from}-{to}"),
            Field::RangeStep(from, to, step) => format!("{from}-{to}/{step}"),
            Field::List(values) => values.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }

    fn holds(&self, value: u32, low: u32) -> bool {
        match self {
            Field::Star => true,
            Field::Step(step) => (value - low).is_multiple_of(*step),
            Field::Value(only) => value == *only,
            Field::Range(from, to) => (*from..=*to).contains(&value),
            Field::RangeStep(from, to, step) => (*from..=*to).contains(&value) && (value - from).is_multiple_of(*step),
            Field::List(values) => values.contains(&value),
        }
    }

    /// crontab(5): a field that begins with a star restricts nothing.
    fn is_restricted(&self) -> bool {
        !matches!(self, Field::Star | Field::Step(_))
    }
}

#[derive(Clone, Debug)]
struct Expression {
    minute: Field,
    hour: Field,
    day_of_month: Field,
    month: Field,
    day_of_week: Field,
}

impl Expression {
    fn any() -> impl Strategy<Value = Expression> {
        (Field::any(0, 59), Field::any(0, 23), Field::any(1, 31), Field::any(1, 12), Field::any(0, 7)).prop_map(
            |(minute, hour, day_of_month, month, day_of_week)| Expression {
                minute,
                hour,
                day_of_month,
                month,
                day_of_week,
            },
        )
    }

    fn text(&self) -> String {
        let fields = [&self.minute, &self.hour, &self.day_of_month, &self.month, &self.day_of_week];
        fields.map(Field::text).join(" ")
    }

    fn holds(&self, moment: DateTime<Utc>) -> bool {
        let day_of_month = self.day_of_month.holds(moment.day(), 1);
        let weekday = moment.weekday().num_days_from_sunday();
        // Sunday is both 0 and 7.
        let day_of_week = self.day_of_week.holds(weekday, 0) || (weekday == 0 && self.day_of_week.holds(7, 0));
        let day = match (self.day_of_month.is_restricted(), self.day_of_week.is_restricted()) {
            (true, true) => day_of_month || day_of_week,
            _ => day_of_month && day_of_week,
        };
        moment.second() == 0
            && self.minute.holds(moment.minute(), 0)
            && self.hour.holds(moment.hour(), 0)
            && self.month.holds(moment.month(), 1)
            && day
    }

    /// The first minute after `after` that holds, looked for one by one until `end`.
    fn reference(&self, after: DateTime<Utc>, end: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let minute = DateTime::from_timestamp(after.timestamp().div_euclid(60) * 60, 0).unwrap();
        let minutes = (1..).map(|count| minute + TimeDelta::minutes(count));
        minutes.take_while(|moment| *moment <= end).find(|moment| self.holds(*moment))
    }
}

fn moment() -> impl Strategy<Value = DateTime<Utc>> {
    let from = at("2024-01-01T00:00:00Z").timestamp_millis();
    let to = at("2033-01-01T00:00:00Z").timestamp_millis();
    (from..to).prop_map(|millis| DateTime::from_timestamp_millis(millis).unwrap())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn utc(text: &str) -> Schedule {
    Schedule::parse(text, Tz::UTC).unwrap()
}

fn plan(text: &str) -> Option<Plan> {
    Config::new(text, "UTC").parse().ok()
}

/// A window that is walked minute by minute.
const WINDOW: TimeDelta = TimeDelta::days(45);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn instants_are_those_of_the_reference(expression in Expression::any(), start in moment()) {
        let text = expression.text();
        let Ok(schedule) = Schedule::parse(&text, Tz::UTC) else {
            // Only what never comes is refused: the reference finds nothing in any year of the Gregorian month's
            // lengths, which four years hold.
            let first = (0..4 * 366).map(|day| at("2024-01-01T00:00:00Z") + TimeDelta::days(day));
            let days = first.filter(|day| {
                let any_time = Expression { minute: Field::Star, hour: Field::Star, ..expression.clone() };
                any_time.holds(*day)
            });
            prop_assert_eq!(days.count(), 0, "{} was refused", text);
            return Ok(());
        };
        let end = start + WINDOW;
        let mut after = start;
        for _ in 0..5 {
            let expected = expression.reference(after, end);
            let next = schedule.next_after(after);
            prop_assert_eq!(next.filter(|next| *next <= end), expected, "{} after {}", text, after);
            let Some(next) = next else { break };
            prop_assert!(next > after, "{} after {}", text, after);
            prop_assert!(expression.holds(next), "{} at {}", text, next);
            prop_assert_eq!(utc(&text).next_after(after), Some(next), "a second node computes the same");
            if next > end { break }
            after = next;
        }
    }

    #[test]
    fn later_moments_have_no_earlier_instants(
        expression in Expression::any(),
        one in moment(),
        gap_s in 0_i64..10_000_000,
    ) {
        let Ok(schedule) = Schedule::parse(&expression.text(), Tz::UTC) else { return Ok(()) };
        let (first, second) = (schedule.next_after(one), schedule.next_after(one + TimeDelta::seconds(gap_s)));
        prop_assert!(first <= second || second.is_none());
    }

    #[test]
    fn the_latest_instant_is_the_last_one_reached_by_stepping(
        expression in Expression::any(),
        start in moment(),
        span_s in 0_i64..200_000,
    ) {
        let Some(schedule) = plan(&expression.text()) else { return Ok(()) };
        let until = start + TimeDelta::seconds(span_s);
        let steps = std::iter::successors(schedule.next_after(start), |last| schedule.next_after(*last));
        let all: Vec<_> = steps.take_while(|instant| *instant <= until).collect();
        prop_assert_eq!(schedule.latest(start, until), all.last().copied());
        let before = all.iter().filter(|instant| **instant < until).count() as u32;
        prop_assert_eq!(schedule.count_between(start, until, 10_000), before);
    }

    #[test]
    fn seconds_are_matched_one_by_one(second in Field::any(0, 59), minute in Field::any(0, 59), start in moment()) {
        let text = format!("{} {} * * * *", second.text(), minute.text());
        let base = DateTime::from_timestamp(start.timestamp(), 0).unwrap();
        let expected = (1..).map(|count| base + TimeDelta::seconds(count)).find(|moment| {
            second.holds(moment.second(), 0) && minute.holds(moment.minute(), 0)
        });
        prop_assert_eq!(utc(&text).next_after(start), expected, "{} after {}", text, start);
    }

    #[test]
    fn every_counts_from_the_epoch(seconds in 1_i64..31_536_000, start in moment()) {
        let next = utc(&format!("@every {seconds}s")).next_after(start).unwrap();
        prop_assert!(next > start && next - start <= TimeDelta::seconds(seconds));
        prop_assert_eq!(next.timestamp() % seconds, 0);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}", fields in "[-*/?,#LW+@0-9A-Z ]{0,30}") {
        for text in [text, fields] {
            if let Ok(schedule) = Schedule::parse(&text, Tz::Australia__Lord_Howe) {
                schedule.next_after(at("2026-04-04T14:45:00Z"));
            }
        }
    }
}

/// The next five days on which a schedule comes.
fn days(text: &str, after: &str) -> Vec<String> {
    let schedule = utc(text);
    let steps = std::iter::successors(schedule.next_after(at(after)), |last| schedule.next_after(*last));
    steps.take(5).map(|instant| instant.format("%a %d %b").to_string()).collect()
}

#[test]
fn either_day_field_is_enough_when_both_are_restricted() {
    let after = "2026-05-01T12:00:00Z";
    assert_eq!(
        days("0 0 13 * FRI", after),
        ["Fri 08 May", "Wed 13 May", "Fri 15 May", "Fri 22 May", "Fri 29 May"],
        "both restricted: the 13th or a Friday"
    );
    assert_eq!(days("0 0 * * FRI", after)[..2], ["Fri 08 May", "Fri 15 May"], "only Fridays");
    assert_eq!(days("0 0 13 * *", after)[..2], ["Wed 13 May", "Sat 13 Jun"], "only the 13th");
    assert_eq!(days("0 0 13 * ?", after)[..2], ["Wed 13 May", "Sat 13 Jun"], "`?` is `*`");
    assert_eq!(
        days("0 0 */2 * FRI", after)[..3],
        ["Fri 15 May", "Fri 29 May", "Fri 05 Jun"],
        "a field that begins with a star restricts nothing: Fridays on odd days"
    );
    assert_eq!(days("0 0 13 * +FRI", after)[..2], ["Fri 13 Nov", "Fri 13 Aug"], "`+` asks for both");
}

#[test]
fn words_for_days_mean_what_the_readme_says() {
    let after = "2026-05-01T12:00:00Z";
    assert_eq!(days("0 0 L * *", after)[..2], ["Sun 31 May", "Tue 30 Jun"]);
    assert_eq!(days("0 0 LW * *", after)[..2], ["Fri 29 May", "Tue 30 Jun"]);
    assert_eq!(days("0 0 16W * *", after)[..2], ["Fri 15 May", "Tue 16 Jun"]);
    assert_eq!(days("0 0 * * TUE#2", after)[..2], ["Tue 12 May", "Tue 09 Jun"]);
    assert_eq!(days("0 0 * * 5L", after)[..2], ["Fri 29 May", "Fri 26 Jun"]);
    assert_eq!(days("0 0 * * 7", after)[..2], ["Sun 03 May", "Sun 10 May"]);
    assert_eq!(days("0 0 * * sat-sun", after)[..3], ["Sat 02 May", "Sun 03 May", "Sat 09 May"]);
}
