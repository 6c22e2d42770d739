//! A cron trigger's section of the manifest, as typed.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::every::is_every;
use crate::plan::Plan;
use crate::policy::{CatchUp, Gap, Missed, Overlap, Repeat};
use crate::zone::parse_zone;
use crate::{Error, Schedule};

/// The most expressions of one trigger.
const MAX_SCHEDULES: usize = 64;
/// The longest jitter or spread: a day.
const MAX_SHIFT_SECONDS: u32 = 86_400;

/// When the function runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// When to run: a cron expression of 5 fields (minute, hour, day of month, month, day of week), 6 with leading
    /// seconds, 7 with leading seconds and a final year; a nickname (`@hourly`, `@daily`, `@midnight`, `@weekly`,
    /// `@monthly`, `@yearly`, `@annually`); or an interval counted from the Unix epoch (`@every 90s`,
    /// `@every 1h30m`), from 1 second to 365 days. A list of up to 64 of these is their union: an instant that two
    /// of them name comes once.
    pub schedule: Expressions,
    /// The IANA time zone in which the fields are read, such as `Europe/Paris`. An `@every` interval has none.
    #[serde(default = "utc")]
    pub timezone: String,
    /// What becomes of a wall time that the clock jumps over (in spring): `skip`, or `shift` to the first instant after
    /// the gap. If not set, times that are named (`30 2 * * *`) are shifted and those that are stepped through
    /// (`*/5 * * * *`) are skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// What becomes of a wall time that the clock shows twice (in autumn): the `first` instant, the `last`, or `both`.
    /// If not set, times that are named run at the first and those that are stepped through at both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// No instant lies before this moment: RFC 3339, `2027-01-01T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// No instant lies after this moment: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Each fire is made later than its instant by up to this many seconds, at random but the same on every node.
    /// Less than the time between two instants, and at most 86,400.
    #[serde(default)]
    #[schemars(range(max = 86_400))]
    pub jitter_seconds: u32,
    /// All fires of this trigger are made later than their instants by a time of its own within this many seconds, so
    /// that triggers of equal schedules do not come together. Less than the time between two instants, and at most
    /// 86,400.
    #[serde(default)]
    #[schemars(range(max = 86_400))]
    pub spread_seconds: u32,
    /// What becomes of instants that passed while no fire could be made (the engine was down, the store away, the clock
    /// set forward): `"skip"` makes none of them, `"one"` the latest, `{ max = 10, window_seconds = 3600 }` up to so
    /// many from so many seconds back.
    #[serde(default)]
    pub missed: Missed,
    /// What becomes of a fire while the trigger's earlier ones have not ended: `skip` it, let one wait (`buffer_one`),
    /// let all wait and run in order (`buffer_all`), `cancel_other`, or `allow` it to run beside them.
    #[serde(default)]
    pub overlap: Overlap,
    /// Whether the trigger pauses itself when one of its fires is given up on; the note says which.
    #[serde(default)]
    pub pause_on_failure: bool,
}

/// One expression or several.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Expressions {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The keys that say when instants are; equal ones have equal instants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Timing {
    pub(crate) schedule: Expressions,
    pub(crate) timezone: String,
    gap: Option<Gap>,
    repeat: Option<Repeat>,
    start: Option<String>,
    end: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl Expressions {
    /// Every expression, in the order in which they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
        .iter()
        .map(String::as_str)
    }
}

impl From<&str> for Expressions {
    fn from(text: &str) -> Self {
        Self::One(text.to_owned())
    }
}

impl Config {
    /// A trigger of one expression in a zone; everything else as it is when it is not set.
    pub fn new(schedule: impl Into<Expressions>, timezone: impl Into<String>) -> Self {
        Self {
            schedule: schedule.into(),
            timezone: timezone.into(),
            gap: None,
            repeat: None,
            start: None,
            end: None,
            jitter_seconds: 0,
            spread_seconds: 0,
            missed: Missed::default(),
            overlap: Overlap::default(),
            pause_on_failure: false,
        }
    }

    /// The instants that are meant, or every mistake in what was typed.
    pub fn parse(&self) -> Result<Plan, Vec<Error>> {
        let mut errors = Vec::new();
        let zone = parse_zone(&self.timezone).map_err(|error| errors.push(error)).ok();
        let schedules = self.schedules(zone, &mut errors);
        let (start, end) = self.bounds(&mut errors);
        self.check_numbers(&mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let plan = Plan::new(self.timing(), schedules, start, end);
        self.check_plan(&plan, start, end, &mut errors);
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }

    pub(crate) fn timing(&self) -> Timing {
        let Self { schedule, timezone, gap, repeat, start, end, .. } = self.clone();
        Timing { schedule, timezone, gap, repeat, start, end }
    }

    /// The expressions that can be read. Their mistakes are the same in every zone: one run tells them all.
    fn schedules(&self, zone: Option<Tz>, errors: &mut Vec<Error>) -> Vec<Schedule> {
        let count = self.schedule.texts().count();
        if !(1..=MAX_SCHEDULES).contains(&count) {
            errors.push(Error::schedule(
                format!("the list has {count} expressions"),
                format!("write from 1 to {MAX_SCHEDULES} expressions, or split them into several triggers"),
            ));
            return Vec::new();
        }
        let mut schedules = Vec::with_capacity(count);
        for (index, text) in self.schedule.texts().enumerate() {
            match Schedule::with_policies(text, zone.unwrap_or(Tz::UTC), self.gap, self.repeat) {
                Ok(schedule) => schedules.push(schedule),
                Err(error) => {
                    let index = matches!(self.schedule, Expressions::Many(_)).then_some(index);
                    errors.push(Error { index, ..error });
                }
            }
        }
        if schedules.len() == count && schedules.iter().all(Schedule::is_every) {
            self.check_intervals(zone, errors);
        }
        schedules
    }

    /// Intervals alone have no use for what concerns wall clocks: whoever sets it expects what will not happen.
    fn check_intervals(&self, zone: Option<Tz>, errors: &mut Vec<Error>) {
        let text = self.schedule.texts().next().unwrap_or_default().trim();
        let help = "write a cron expression such as \"0 0 * * *\"";
        if let Some(zone) = zone.filter(|zone| *zone != Tz::UTC) {
            errors.push(Error::timezone(
                format!("{text:?} counts from the Unix epoch and knows no time zone, not {:?}", zone.name()),
                format!("remove `timezone`, or {help}"),
            ));
        }
        for (key, is_set) in [("gap", self.gap.is_some()), ("repeat", self.repeat.is_some())] {
            if is_set {
                errors.push(Error::at(
                    key,
                    format!("{text:?} counts from the Unix epoch, where no clock changes"),
                    format!("remove `{key}`, or {help}"),
                ));
            }
        }
    }

    /// `start` and `end`, in seconds since the Unix epoch: the first and the last second within them.
    fn bounds(&self, errors: &mut Vec<Error>) -> (Option<i64>, Option<i64>) {
        let mut read = |key, text: &Option<String>| {
            let text = text.as_deref()?;
            match DateTime::parse_from_rfc3339(text) {
                Ok(moment) => Some(moment.to_utc()),
                Err(error) => {
                    errors.push(Error::at(
                        key,
                        format!("{text:?} is not a moment: {error}"),
                        "write RFC 3339, with an offset: \"2027-01-01T00:00:00Z\"",
                    ));
                    None
                }
            }
        };
        let (start, end) = (read("start", &self.start), read("end", &self.end));
        if let (Some(first), Some(last)) = (start, end)
            && last < first
        {
            let [first, last] = [&self.start, &self.end].map(|text| text.as_deref().unwrap_or_default());
            errors.push(Error::at(
                "end",
                format!("the end {last:?} lies before the start {first:?}"),
                "write an end after the start, or leave one of them out",
            ));
        }
        let first_second = |start: DateTime<Utc>| start.timestamp() + i64::from(start.timestamp_subsec_nanos() > 0);
        (start.map(first_second), end.map(|end| end.timestamp()))
    }

    fn check_numbers(&self, errors: &mut Vec<Error>) {
        for (key, seconds) in [("jitter_seconds", self.jitter_seconds), ("spread_seconds", self.spread_seconds)] {
            if seconds > MAX_SHIFT_SECONDS {
                errors.push(Error::at(
                    key,
                    format!("{seconds} seconds are out of range"),
                    format!("write at most {MAX_SHIFT_SECONDS} (a day)"),
                ));
            }
        }
        let Missed::CatchUp(CatchUp { max, window_seconds }) = self.missed else { return };
        if !(1..=1_000).contains(&max) {
            errors.push(Error::at(
                "missed",
                format!("`max` of {max} is out of range"),
                "write from 1 to 1000, or \"skip\" to make none",
            ));
        }
        if window_seconds.is_some_and(|seconds| !(1..=31_536_000).contains(&seconds)) {
            errors.push(Error::at(
                "missed",
                format!("`window_seconds` of {} is out of range", window_seconds.unwrap_or_default()),
                "write from 1 to 31536000 (365 days), or leave it out",
            ));
        }
    }

    /// What only the instants themselves can tell.
    fn check_plan(&self, plan: &Plan, start: Option<i64>, end: Option<i64>, errors: &mut Vec<Error>) {
        if (start.is_some() || end.is_some()) && plan.next_second(i64::MIN).is_none() {
            errors.push(Error::at(
                if end.is_some() { "end" } else { "start" },
                "no instant of the schedule lies between start and end",
                "widen them, or correct the schedule",
            ));
        }
        let delay = self.jitter_seconds.saturating_add(self.spread_seconds);
        if delay == 0 {
            return;
        }
        // From a fixed moment on, so that what passes today passes tomorrow.
        let from = start.and_then(|start| DateTime::from_timestamp(start - 1, 0)).unwrap_or(DateTime::UNIX_EPOCH);
        if let Some(distance) = plan.shortest_distance(from)
            && i64::from(delay) >= distance.num_seconds()
        {
            let (key, what) = match (self.jitter_seconds, self.spread_seconds) {
                (0, _) => ("spread_seconds", "a spread"),
                (_, 0) => ("jitter_seconds", "a jitter"),
                _ => ("jitter_seconds", "jitter and spread"),
            };
            errors.push(Error::at(
                key,
                format!("{what} of {delay} seconds would carry a fire past the next instant"),
                format!("instants lie as near as {} seconds; write less than that", distance.num_seconds()),
            ));
        }
    }

    /// The schedule and its zone, for people.
    pub(crate) fn describe(&self) -> String {
        let schedules: Vec<String> =
            self.schedule.texts().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let zone = if schedules.iter().all(|text| is_every(text)) { "" } else { self.timezone.as_str() };
        format!("{} {zone}", schedules.join(" | ")).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(schedule: &str, timezone: &str) -> Config {
        Config::new(schedule, timezone)
    }

    #[test]
    fn everything_but_the_schedule_has_a_default_and_unknown_keys_are_refused() {
        let typed: Config = serde_json::from_str(r#"{"schedule":"@daily"}"#).unwrap();
        assert_eq!(typed, config("@daily", "UTC"));
        let unknown = serde_json::from_str::<Config>(r#"{"schedule":"@daily","time_zone":"UTC"}"#);
        assert!(unknown.unwrap_err().to_string().contains("time_zone"));
        assert!(serde_json::from_str::<Config>("{}").is_err(), "a schedule is required");
    }

    #[test]
    fn the_policies_read_as_they_are_written() {
        let typed: Config = serde_json::from_value(json!({
            "schedule": ["@daily", "0 12 * * *"], "gap": "skip", "repeat": "last", "overlap": "buffer_one",
            "missed": { "max": 3, "window_seconds": 60 }, "pause_on_failure": true,
        }))
        .unwrap();
        assert_eq!((typed.gap, typed.repeat, typed.overlap), (Some(Gap::Skip), Some(Repeat::Last), Overlap::BufferOne));
        assert_eq!(typed.missed, Missed::CatchUp(CatchUp { max: 3, window_seconds: Some(60) }));
        for (missed, means) in [("skip", 0), ("one", 1)] {
            let typed: Config = serde_json::from_value(json!({ "schedule": "@daily", "missed": missed })).unwrap();
            assert_eq!(typed.missed.bounds().max, means);
        }
    }

    #[test]
    fn the_schema_requires_a_schedule_and_allows_nothing_else() {
        let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["schedule"]));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["timezone"]["default"], "UTC");
    }

    #[test]
    fn all_keys_are_checked_in_one_run() {
        let errors = config("61 * * * *", "Europe/Pariss").parse().unwrap_err();
        assert_eq!(errors.iter().map(|error| error.key).collect::<Vec<_>>(), ["timezone", "schedule"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let hourly = |keys: Value| {
            let mut typed = json!({ "schedule": "0 * * * *" });
            typed.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            typed
        };
        for (typed, key, index, message) in [
            (hourly(json!({ "schedule": [] })), "schedule", None, "the list has 0 expressions"),
            (
                hourly(json!({ "schedule": ["@daily", "0 0 30 2 *"] })),
                "schedule",
                Some(1),
                "\"0 0 30 2 *\" never comes",
            ),
            (
                hourly(json!({ "schedule": "@every 1d", "timezone": "Europe/Paris" })),
                "timezone",
                None,
                "\"@every 1d\" counts from the Unix epoch and knows no time zone, not \"Europe/Paris\"",
            ),
            (
                hourly(json!({ "schedule": "@every 1d", "gap": "skip" })),
                "gap",
                None,
                "\"@every 1d\" counts from the Unix epoch, where no clock changes",
            ),
            (
                hourly(json!({ "start": "tomorrow" })),
                "start",
                None,
                "\"tomorrow\" is not a moment: premature end of input",
            ),
            (
                hourly(json!({ "start": "2027-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z" })),
                "end",
                None,
                "the end \"2026-01-01T00:00:00Z\" lies before the start \"2027-01-01T00:00:00Z\"",
            ),
            (
                hourly(json!({ "start": "2027-01-01T00:10:00Z", "end": "2027-01-01T00:20:00Z" })),
                "end",
                None,
                "no instant of the schedule lies between start and end",
            ),
            (
                hourly(json!({ "jitter_seconds": 1_800, "spread_seconds": 1_800 })),
                "jitter_seconds",
                None,
                "jitter and spread of 3600 seconds would carry a fire past the next instant",
            ),
            (
                hourly(json!({ "schedule": ["0 * * * *", "5 * * * *"], "spread_seconds": 300 })),
                "spread_seconds",
                None,
                "a spread of 300 seconds would carry a fire past the next instant",
            ),
            (hourly(json!({ "jitter_seconds": 86_401 })), "jitter_seconds", None, "86401 seconds are out of range"),
            (hourly(json!({ "missed": { "max": 0 } })), "missed", None, "`max` of 0 is out of range"),
            (
                hourly(json!({ "missed": { "max": 1, "window_seconds": 0 } })),
                "missed",
                None,
                "`window_seconds` of 0 is out of range",
            ),
        ] {
            let errors = serde_json::from_value::<Config>(typed.clone()).unwrap().parse().unwrap_err();
            let [Error { key: at, index: element, message: said, help }] = &errors[..] else { panic!("{errors:?}") };
            assert_eq!((*at, *element, said.as_str()), (key, index, message), "{typed}");
            assert!(!help.is_empty());
        }
        for refused in [json!({ "jitter_seconds": -1 }), json!({ "missed": "all" }), json!({ "overlap": "queue" })] {
            assert!(serde_json::from_value::<Config>(hourly(refused.clone())).is_err(), "{refused}");
        }
    }

    #[test]
    fn intervals_beside_expressions_leave_the_zone_to_those() {
        let typed = json!({ "schedule": ["@every 1h", "30 2 * * *"], "timezone": "Europe/Paris", "gap": "skip" });
        serde_json::from_value::<Config>(typed).unwrap().parse().unwrap();
    }

    #[test]
    fn a_description_names_the_expressions_and_the_zone() {
        assert_eq!(config(" */15  9-17 * * MON-FRI ", "Europe/Paris").describe(), "*/15 9-17 * * MON-FRI Europe/Paris");
        assert_eq!(config("@daily", "UTC").describe(), "@daily UTC");
        assert_eq!(config("@every 90s", "UTC").describe(), "@every 90s", "an interval has no zone");
        let several =
            Config { schedule: Expressions::Many(vec!["@daily".into(), "0 12 * * *".into()]), ..config("", "UTC") };
        assert_eq!(several.describe(), "@daily | 0 12 * * * UTC");
    }
}
