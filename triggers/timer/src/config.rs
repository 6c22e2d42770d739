//! A timer trigger's section of the manifest, as typed.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Problems, bounds};

/// Which timers the function has: those that are set under a name, or one that the manifest sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name under which timers are set at run time, each with a key of its own: letters, digits, `-`, `_` and `.`,
    /// at most 128 of them. One function has the timers of a name. Give one of `timers`, `at` and `after`.
    #[serde(default)]
    pub timers: Option<String>,
    /// The moment at which the function runs once, as in `2027-01-01T00:00:00Z`. It is kept in the store when the
    /// trigger is first deployed: a restart neither loses nor repeats it, and a moment that is past by then means now.
    /// Another moment in its place is another timer: the earlier one is cancelled unless it has fired.
    #[serde(default)]
    pub at: Option<String>,
    /// How long after the trigger was first deployed the function runs once: `"10m"`, `"1h 30m"` or by ISO 8601
    /// `"PT10M"`, up to ten years. Kept as with `at`: a restart does not begin anew.
    #[serde(default)]
    pub after: Option<String>,
    /// What the function is given by `at` and `after`. Timers that are set at run time bring their own payload.
    #[serde(default)]
    pub payload: Option<String>,
}

/// What a section means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Timers are set under this name.
    Named(String),
    /// Once, at this moment.
    At(DateTime<Utc>),
    /// Once, so long after it was first seen.
    After(Duration),
}

/// The longest name.
const MAX_NAME: usize = 128;

impl Config {
    /// What is wrong with it, if anything is.
    pub fn check(&self, problems: &mut Problems) {
        if let Err((key, why, help)) = self.timer() {
            problems.add(key, why, help);
        }
        if self.payload.is_some() && self.timers.is_some() {
            problems.add("payload", "timers that are set by name bring their own", "leave it out");
        }
    }

    /// What it means, or which key is wrong, why, and what would be right.
    pub(crate) fn timer(&self) -> Result<Timer, (&'static str, String, &'static str)> {
        match (&self.timers, &self.at, &self.after) {
            (Some(name), None, None) => match check_name(name) {
                Ok(()) => Ok(Timer::Named(name.clone())),
                Err(why) => Err(("timers", why, "letters, digits, \"-\", \"_\" and \".\", at most 128 of them")),
            },
            (None, Some(at), None) => match DateTime::parse_from_rfc3339(at) {
                Ok(moment) if (1970..=9999).contains(&moment.year()) => Ok(Timer::At(moment.to_utc())),
                Ok(_) => Err(("at", format!("{at:?} is not between the years 1970 and 9999"), "write another year")),
                Err(error) => {
                    let why = format!("{at:?} is no moment: {error}");
                    Err(("at", why, "write it with its offset from UTC: \"2027-01-01T00:00:00Z\""))
                }
            },
            (None, None, Some(after)) => match bounds::span(after) {
                Ok(span) if chrono::TimeDelta::from_std(span).is_ok_and(|span| span <= bounds::MAX_AHEAD) => {
                    Ok(Timer::After(span))
                }
                Ok(_) => Err(("after", format!("{after:?} is more than ten years"), "name a moment with `at`")),
                Err(why) => Err(("after", why, "write it as \"10m\", \"1h 30m\", \"PT10M\"")),
            },
            (None, None, None) => {
                let why = "no timer is named: one of `timers`, `at` and `after` is needed";
                Err(("timers", why.to_owned(), "timers = \"reminders\" for timers that are set at run time"))
            }
            _ => {
                let why = "`timers`, `at` and `after` are three ways to say when; there is more than one of them";
                Err(("timers", why.to_owned(), "give each a trigger of its own"))
            }
        }
    }
}

impl Timer {
    /// By which the timer of a manifest is known again. `None` for timers that have keys of their own.
    pub(crate) fn identity(&self) -> Option<String> {
        match self {
            Timer::Named(_) => None,
            Timer::At(moment) => Some(format!("at {}", moment.to_rfc3339_opts(SecondsFormat::Micros, true))),
            Timer::After(span) => Some(format!("after {} ns", span.as_nanos())),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if name.is_empty() {
        return Err("the timers have no name".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the timers' name has {} characters, the limit is {MAX_NAME}", name.len()));
    }
    match name.chars().find(|&char| !allowed(char)) {
        Some(char) => Err(format!("the timers' name {name:?} has a {char:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    fn wrong(json: &str) -> Vec<String> {
        let mut problems = Problems::new();
        read(json).check(&mut problems);
        problems.into_vec().iter().map(|problem| trigger_core::display_path(&problem.path).to_string()).collect()
    }

    #[test]
    fn a_section_says_when_in_one_of_three_ways() {
        assert_eq!(read(r#"{"timers":"reminders"}"#).timer(), Ok(Timer::Named("reminders".to_owned())));
        let moment = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(read(r#"{"at":"2027-01-01T01:00:00+01:00"}"#).timer(), Ok(Timer::At(moment)));
        for text in ["10m", "PT10M", "600s"] {
            let config = Config { after: Some(text.to_owned()), ..Config::default() };
            assert_eq!(config.timer(), Ok(Timer::After(Duration::from_secs(600))), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_by_its_key() {
        for (json, keys) in [
            ("{}", vec!["timers"]),
            (r#"{"timers":"a","after":"10m"}"#, vec!["timers"]),
            (r#"{"at":"2027-01-01T00:00:00Z","after":"10m"}"#, vec!["timers"]),
            (r#"{"timers":""}"#, vec!["timers"]),
            (r#"{"timers":"a b"}"#, vec!["timers"]),
            (r#"{"timers":"a","payload":"x"}"#, vec!["payload"]),
            (r#"{"at":"tomorrow"}"#, vec!["at"]),
            (r#"{"at":"2027-02-30T00:00:00Z"}"#, vec!["at"]),
            (r#"{"at":"2027-01-01T00:00:00"}"#, vec!["at"]),
            (r#"{"at":"1960-01-01T00:00:00Z"}"#, vec!["at"]),
            (r#"{"after":"-10m"}"#, vec!["after"]),
            (r#"{"after":"P1M"}"#, vec!["after"]),
            (r#"{"after":"11years"}"#, vec!["after"]),
        ] {
            assert_eq!(wrong(json), keys, "{json}");
        }
        for json in [r#"{"timers":"a"}"#, r#"{"after":"10m","payload":"x"}"#, r#"{"at":"2000-01-01T00:00:00Z"}"#] {
            assert!(wrong(json).is_empty(), "{json}");
        }
        assert!(serde_json::from_str::<Config>(r#"{"timers":"a","every":"1m"}"#).is_err());
    }

    #[test]
    fn one_definition_has_one_identity_however_it_is_written() {
        let identity = |json: &str| read(json).timer().unwrap().identity();
        assert_eq!(identity(r#"{"after":"10m"}"#), identity(r#"{"after":"PT600S"}"#));
        assert_eq!(identity(r#"{"at":"2027-01-01T00:00:00Z"}"#), identity(r#"{"at":"2027-01-01T01:00:00+01:00"}"#));
        assert_ne!(identity(r#"{"after":"10m"}"#), identity(r#"{"after":"11m"}"#));
        assert_eq!(identity(r#"{"timers":"a"}"#), None);
    }
}
