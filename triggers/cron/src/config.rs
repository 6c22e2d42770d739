//! A cron trigger's section of the manifest, as typed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::zone::parse_zone;
use crate::{Error, Schedule};

/// When the function runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// When to run: a cron expression of 5 fields (minute, hour, day of month, month, day of week), 6 with leading
    /// seconds, 7 with leading seconds and a final year; a nickname (`@hourly`, `@daily`, `@midnight`, `@weekly`,
    /// `@monthly`, `@yearly`, `@annually`); or an interval counted from the Unix epoch (`@every 90s`,
    /// `@every 1h30m`), from 1 second to 365 days.
    pub schedule: String,
    /// The IANA time zone in which the fields are read, such as `Europe/Paris`. An `@every` interval has none.
    #[serde(default = "utc")]
    pub timezone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl Config {
    /// The schedule that is meant, or every mistake in what was typed.
    pub fn parse(&self) -> Result<Schedule, Vec<Error>> {
        match parse_zone(&self.timezone) {
            Ok(zone) => Schedule::parse(&self.schedule, zone).map_err(|error| vec![error]),
            Err(unknown_zone) => {
                // The expression's mistakes are the same in every zone: one run tells them too.
                let mut errors = vec![unknown_zone];
                errors.extend(Schedule::parse(&self.schedule, chrono_tz::UTC).err());
                Err(errors)
            }
        }
    }

    /// The schedule and its zone, for people.
    pub(crate) fn describe(&self) -> String {
        let words: Vec<&str> = self.schedule.split_whitespace().collect();
        let schedule = words.join(" ");
        if crate::every::is_every(&schedule) { schedule } else { format!("{schedule} {}", self.timezone) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(schedule: &str, timezone: &str) -> Config {
        Config { schedule: schedule.into(), timezone: timezone.into() }
    }

    #[test]
    fn the_zone_defaults_to_utc_and_unknown_keys_are_refused() {
        let typed: Config = serde_json::from_str(r#"{"schedule":"@daily"}"#).unwrap();
        assert_eq!(typed, config("@daily", "UTC"));
        let unknown = serde_json::from_str::<Config>(r#"{"schedule":"@daily","time_zone":"UTC"}"#);
        assert!(unknown.unwrap_err().to_string().contains("time_zone"));
        assert!(serde_json::from_str::<Config>("{}").is_err(), "a schedule is required");
    }

    #[test]
    fn the_schema_requires_a_schedule_and_allows_nothing_else() {
        let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["schedule"]));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["timezone"]["default"], "UTC");
    }

    #[test]
    fn both_keys_are_checked_in_one_run() {
        let errors = config("61 * * * *", "Europe/Pariss").parse().unwrap_err();
        assert_eq!(errors.iter().map(|error| error.key).collect::<Vec<_>>(), ["timezone", "schedule"]);
    }

    #[test]
    fn a_description_names_the_expression_and_the_zone() {
        assert_eq!(config(" */15  9-17 * * MON-FRI ", "Europe/Paris").describe(), "*/15 9-17 * * MON-FRI Europe/Paris");
        assert_eq!(config("@daily", "UTC").describe(), "@daily UTC");
        assert_eq!(config("@every 90s", "UTC").describe(), "@every 90s", "an interval has no zone");
    }
}
