//! A job trigger's section of the manifest, as typed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::bounds::{self, Invalid};
use trigger_core::{Gate, PRIORITIES, Problems, Rate};

/// Which queue the function works on, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The queue's name: letters, digits, `-`, `_` and `.`, at most 128 of them. One function works on a queue.
    pub queue: String,
    /// The most jobs of the queue that run at once on each engine. Without it the function's own
    /// `concurrency` is the bound.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<u32>,
    /// The most jobs of the queue that begin over time on each engine: `"10/s"`, `"600/m"`, `"1000/h"`, `"5/d"`. What
    /// comes faster waits in the queue, and nothing is lost. A queue that had nothing to do may begin that many at
    /// once. Attempts count, retries among them.
    #[serde(default)]
    pub rate: Option<String>,
    /// The most jobs of the queue that may be queued or running: one more is refused (429, `backlog`). Without it the
    /// store's disk is the bound.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_backlog: Option<u64>,
    /// The priority of jobs that name none: higher runs first. One step is worth a minute of waiting,
    /// so that nothing waits for ever.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i8,
    /// How long the results of jobs that do not say themselves are kept for those who ask, in seconds; 0 keeps none.
    /// By default the engine's `results_keep_days`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 31_622_400))]
    pub result_ttl_seconds: Option<u32>,
    /// Which jobs wait for one another: `key`: those with the same ordering key; `queue`: all of them, one after
    /// another as they were accepted, over their retries.
    #[serde(default)]
    pub ordering: JobOrdering,
    /// Whether the queue pauses when one of its jobs is given up on, until somebody resumes it.
    #[serde(default)]
    pub pause_on_failure: bool,
}

/// Which jobs of a queue wait for one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobOrdering {
    /// Those with the same ordering key.
    #[default]
    Key,
    /// All of them.
    Queue,
}

/// The most that may run or begin at once.
const MAX_EVENTS: u32 = 100_000;

impl Config {
    /// What is wrong with it, if anything is.
    pub fn check(&self, problems: &mut Problems) {
        if let Err(why) = check_name("the queue", &self.queue) {
            problems.add("queue", why, "letters, digits, \"-\", \"_\" and \".\", at most 128 of them");
        }
        if self.concurrency.is_some_and(|most| !(1..=MAX_EVENTS).contains(&most)) {
            let help = "leave the key out for no bound; `tripline jobs pause` stops a queue";
            problems.add("concurrency", format!("it is not within 1 and {MAX_EVENTS}"), help);
        }
        if let Some(Err(why)) = self.rate.as_deref().map(parse_rate) {
            problems.add("rate", why, "write a number and a unit of time: \"10/s\", \"600/m\", \"1000/h\", \"5/d\"");
        }
        if self.max_backlog == Some(0) {
            problems.add("max_backlog", "a queue without room takes no job", "leave the key out for no bound");
        }
        if !PRIORITIES.contains(&self.priority) {
            let within = format!("it is not within {} and {}", PRIORITIES.start(), PRIORITIES.end());
            problems.add("priority", within, "0 is that of a job that says nothing");
        }
        if let Err(Invalid { why, .. }) = bounds::result_ttl(self.result_ttl_seconds) {
            problems.add("result_ttl_seconds", why, "0 keeps no result");
        }
    }

    /// What bounds the queue on this engine. The section has passed `check`.
    pub(crate) fn gate(&self) -> Gate {
        Gate {
            concurrency: self.concurrency,
            rate: self.rate.as_deref().and_then(|rate| parse_rate(rate).ok()),
            max_backlog: self.max_backlog,
            pause_on_failure: self.pause_on_failure,
        }
    }
}

/// The longest name of a queue.
const MAX_NAME: usize = 128;

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if name.is_empty() {
        return Err(format!("{what} has no name"));
    }
    if name.len() > MAX_NAME {
        return Err(format!("{what}'s name has {} characters, the limit is {MAX_NAME}", name.len()));
    }
    match name.chars().find(|&char| !allowed(char)) {
        Some(char) => Err(format!("{what}'s name {name:?} has a {char:?}")),
        None => Ok(()),
    }
}

/// So many in a unit of time.
fn parse_rate(text: &str) -> Result<Rate, String> {
    let told = || format!("{text:?} is no rate");
    let (events, unit) = text.split_once('/').ok_or_else(told)?;
    let events: u32 = events.trim().parse().map_err(|_| told())?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(told()),
    };
    if !(1..=MAX_EVENTS).contains(&events) {
        return Err(format!("{events} is not within 1 and {MAX_EVENTS}"));
    }
    Ok(Rate { events, per: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(config: &Config) -> Vec<String> {
        let mut problems = Problems::new();
        config.check(&mut problems);
        problems.into_vec().iter().map(|problem| trigger_core::display_path(&problem.path).to_string()).collect()
    }

    fn named(queue: &str) -> Config {
        Config { queue: queue.to_owned(), ..Config::default() }
    }

    #[test]
    fn names_are_words_of_bounded_length() {
        for name in ["thumbnails", "a", "mail.high-1_x", &"x".repeat(MAX_NAME)] {
            assert!(wrong(&named(name)).is_empty(), "{name:?}");
        }
        for name in ["", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(wrong(&named(name)), ["queue"], "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_by_its_key_all_of_it_at_once() {
        let config = Config {
            concurrency: Some(0),
            rate: Some("fast".to_owned()),
            max_backlog: Some(0),
            priority: 101,
            result_ttl_seconds: Some(u32::MAX),
            ..named("")
        };
        let expected = ["queue", "concurrency", "rate", "max_backlog", "priority", "result_ttl_seconds"];
        assert_eq!(wrong(&config), expected);
    }

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for (text, events, seconds) in [("10/s", 10, 1), ("600/m", 600, 60), (" 1 / h", 1, 3600), ("5/d", 5, 86_400)] {
            assert_eq!(parse_rate(text), Ok(Rate { events, per: Duration::from_secs(seconds) }), "{text}");
        }
        for text in ["", "10", "/s", "10/", "0/s", "-1/s", "1.5/s", "10/week", "10/s/s", "100001/s", "99999999999/s"] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_a_queue_is_required() {
        assert!(serde_json::from_str::<Config>(r#"{"queue":"a","speed":1}"#).is_err());
        assert!(serde_json::from_str::<Config>("{}").is_err());
        let config: Config = serde_json::from_str(r#"{"queue":"a","ordering":"queue","rate":"1/s"}"#).unwrap();
        assert_eq!(config.ordering, JobOrdering::Queue);
        assert_eq!(config.gate().rate, Some(Rate { events: 1, per: Duration::from_secs(1) }));
    }
}
