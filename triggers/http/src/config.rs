//! The section of an HTTP trigger in the manifest: its keys, their defaults, and every mistake in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use trigger_auth::{Auth, RateLimit};
use trigger_core::bounds::{self, Invalid};
use trigger_core::{Problems, Terms};

use crate::conditions::{Conditions, Host};
use crate::cors::CorsSection;
use crate::pattern::{Mistake, Pattern};

/// The largest `max_body_bytes` of a body that is held in memory until its function has run.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// The largest `max_body_bytes` of one that streams.
const MAX_STREAM_BYTES: u64 = 1 << 40;

/// The largest `max_wait_seconds`: whoever waits holds a connection.
pub(crate) const MAX_WAIT_SECONDS: u32 = 300;

/// The largest `retry_count`, as in a definition.
const MAX_RETRIES: u32 = 1000;

/// One route to a function.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method or methods served: `"POST"`, `["GET", "POST"]`, or `"ANY"` (the default) for every method, as a
    /// function that sees `method` can tell them apart itself. `GET` serves `HEAD` too; `OPTIONS` is answered with
    /// `Allow` unless it is served.
    #[serde(default)]
    pub method: Methods,
    /// The path served. `{name}` takes one segment, `{*name}` the rest of the path; both reach the function
    /// percent-decoded as the attribute `param.<name>`. The most specific pattern wins.
    pub path: String,
    /// Whether the caller waits for the function's answer (`"sync"`, the default), gets 202 as soon as the event is
    /// committed (`"async"`), or speaks with the function while it runs (`"stream"`, for `wasi:http` components): the
    /// function reads the body while it arrives, and each piece of its response is sent as it is written.
    #[serde(default)]
    pub mode: Mode,
    /// The largest body taken, in bytes; a larger one is answered 413. Default 1 MiB, at most 64 MiB, because a body is
    /// held in memory until its function has run; at most 1 TiB where `mode` is `"stream"`.
    #[serde(default = "default_max_body_bytes", deserialize_with = "bounded_body")]
    #[schemars(range(min = 1, max = 1099511627776_u64))]
    pub max_body_bytes: u64,
    /// The longest that a caller of an `async` route may have itself kept waiting for the result, in seconds: with
    /// `Prefer: wait=N` it is answered as the function did, once that has run, or 202 when the time is over. From 0
    /// (nobody waits) to 300, default 30.
    #[serde(default = "default_max_wait_seconds", deserialize_with = "bounded_wait")]
    #[schemars(range(min = 0, max = 300))]
    pub max_wait_seconds: u32,
    /// Attempts after the first, from 0 to 1000, in place of the function's `retry_count`. On a `sync` route, where the
    /// default is none, they are made while the caller waits, with the function's delays: it is told of the first
    /// success or of the last failure.
    #[serde(default, deserialize_with = "bounded_retries")]
    #[schemars(range(min = 0, max = 1000))]
    pub retry_count: Option<u32>,
    /// On a `sync` route: no attempt after the first begins later than this after the request was read, in seconds. The
    /// caller is told at once where the next one would. From 0 to 300, default 10.
    #[serde(default = "default_retry_within_seconds", deserialize_with = "bounded_within")]
    #[schemars(range(min = 0, max = 300))]
    pub retry_within_seconds: u32,
    /// How long the result of an event that was kept is told to whoever asks again, in seconds, in place of the engine's
    /// `results_keep_days`; 0 keeps none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 31_622_400))]
    pub result_ttl_seconds: Option<u32>,
    /// Whether requests are CloudEvents (1.0; binary, structured, and batches on an `async` route): the function gets an
    /// event's data as its payload and its attributes as `ce.<name>`. What is none is answered 400. Default false.
    #[serde(default)]
    pub cloudevents: bool,
    /// The host served: `"api.example.com"`, or `"*.example.com"` for all below one; without it every host. A route
    /// with a host goes before one without, and the longer name first.
    pub host: Option<String>,
    /// Headers that a request must have, each with this value, or with any for `"*"`: `{ "x-github-event" = "push" }`.
    /// Of several routes for the same paths the one with more conditions is asked first.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Parameters of the query that a request must have, in the same way.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Which pages of other origins may call the route; without it browsers let none.
    pub cors: Option<CorsSection>,
    /// Who may call: `{ type = "none" }`, `{ type = "token" }`, …. By default everybody where the function `is_public`,
    /// and whoever has a token for it where it is not.
    #[serde(default)]
    pub auth: Auth,
    /// How often somebody may call; whoever comes more often is answered 429.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
}

/// The methods of a route, as typed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Methods {
    /// `method = "POST"`.
    One(String),
    /// `method = ["GET", "POST"]`.
    Many(Vec<String>),
}

impl Default for Methods {
    fn default() -> Self {
        Methods::One(ANY.to_owned())
    }
}

/// When the caller is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// When the function has run, and the caller is told how it went: one attempt, unless `retry_count` asks for more.
    #[default]
    Sync,
    /// When the event is committed: the function runs at least once afterwards, with its definition's retries.
    Async,
    /// While the function runs: its bodies stream both ways, nothing of them is kept, and nothing is tried again.
    Stream,
}

fn default_max_body_bytes() -> u64 {
    1024 * 1024
}

fn default_max_wait_seconds() -> u32 {
    30
}

fn default_retry_within_seconds() -> u32 {
    10
}

fn bounded_within<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    bounded(deserializer, "retry_within_seconds", MAX_WAIT_SECONDS)
}

fn bounded_retries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    bounded(deserializer, "retry_count", MAX_RETRIES).map(Some)
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D, key: &str, most: u32) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number > most {
        return Err(serde::de::Error::custom(format!("{key} is {number}; choose from 0 to {most}")));
    }
    Ok(number)
}

fn bounded_wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    bounded(deserializer, "max_wait_seconds", MAX_WAIT_SECONDS)
}

fn bounded_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        bytes @ 1..=MAX_STREAM_BYTES => Ok(bytes),
        bytes => Err(serde::de::Error::custom(format!(
            "max_body_bytes is {bytes}; choose from 1 to {MAX_BODY_BYTES} (64 MiB)"
        ))),
    }
}

const ANY: &str = "ANY";

/// What may be named; every other method reaches a trigger that serves any.
const NAMED: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

/// The methods of a route, as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Every method but CONNECT, which asks for a tunnel and has no path.
    Any,
    /// These.
    These(Vec<Method>),
}

impl Served {
    /// Whether some method is served by both.
    fn shared_with(&self, other: &Served) -> Option<String> {
        match (self, other) {
            (Served::Any, Served::Any) => Some(ANY.to_owned()),
            (Served::Any, Served::These(these)) | (Served::These(these), Served::Any) => {
                these.first().map(Method::to_string)
            }
            (Served::These(one), Served::These(other)) => {
                one.iter().find(|method| other.contains(method)).map(Method::to_string)
            }
        }
    }
}

impl Methods {
    fn typed(&self) -> &[String] {
        match self {
            Methods::One(one) => std::slice::from_ref(one),
            Methods::Many(many) => many,
        }
    }

    /// What is meant, or every mistake as (what is wrong, what would be right).
    pub(crate) fn read(&self) -> Result<Served, Vec<(String, String)>> {
        let typed = self.typed();
        let mut mistakes = Vec::new();
        let mut these: Vec<Method> = Vec::new();
        if typed.is_empty() {
            mistakes.push(("no method is served".to_owned(), "name one, or write \"ANY\"".to_owned()));
        }
        for word in typed {
            if word == ANY {
                if typed.len() > 1 {
                    mistakes.push((
                        "ANY already means every method".to_owned(),
                        "write method = \"ANY\", or name the methods without it".to_owned(),
                    ));
                }
                continue;
            }
            match NAMED.iter().find(|method| method.as_str() == word) {
                Some(method) if these.contains(method) => {
                    mistakes.push((format!("the method {word:?} is named twice"), "name each method once".to_owned()))
                }
                Some(method) => these.push(method.clone()),
                None => mistakes.push((format!("{word:?} is not a method that can be named"), suggestion(word))),
            }
        }
        match mistakes.is_empty() {
            false => Err(mistakes),
            true if these.is_empty() => Ok(Served::Any),
            true => Ok(Served::These(these)),
        }
    }
}

fn suggestion(word: &str) -> String {
    let upper = word.to_ascii_uppercase();
    if upper == ANY || NAMED.iter().any(|method| method.as_str() == upper) {
        return format!("methods are written in capitals: \"{upper}\"");
    }
    let mut help = "choose from".to_owned();
    for method in &NAMED {
        let _infallible = write!(help, " {method}");
    }
    help + "; any other reaches a trigger with method = \"ANY\""
}

/// What every event of a route asks of the engine beyond its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventTerms {
    retry_count: Option<u32>,
    within: Option<TimeDelta>,
    result_ttl_seconds: Option<u32>,
}

impl EventTerms {
    /// The same as the terms of an event.
    pub(crate) fn of(self, received_at: DateTime<Utc>) -> Box<Terms> {
        let Self { retry_count, within, result_ttl_seconds } = self;
        let expires_at = within.map(|within| received_at + within);
        Box::new(Terms { retry_count, expires_at, result_ttl_seconds, ..Terms::default() })
    }
}

impl Config {
    /// The terms of the route's events, where it has any.
    pub(crate) fn terms(&self) -> Option<EventTerms> {
        let (retry_count, result_ttl_seconds) = (self.retry_count, self.result_ttl_seconds);
        retry_count.or(result_ttl_seconds)?;
        let bounded = self.mode == Mode::Sync && retry_count.is_some();
        let within = bounded.then(|| TimeDelta::seconds(i64::from(self.retry_within_seconds)));
        Some(EventTerms { retry_count, within, result_ttl_seconds })
    }

    /// Every mistake that the schema cannot find.
    pub(crate) fn check(&self, problems: &mut Problems) {
        for (message, help) in self.method.read().err().into_iter().flatten() {
            problems.add("method", message, help);
        }
        if let Err(mistake) = Pattern::parse(&self.path) {
            problems.add("path", mistake.message, mistake.help);
        }
        if self.mode != Mode::Stream && self.max_body_bytes > MAX_BODY_BYTES {
            let message = format!("a body of {} bytes would be held in memory", self.max_body_bytes);
            problems.add("max_body_bytes", message, format!("choose at most {MAX_BODY_BYTES}, or mode = \"stream\""));
        }
        if self.mode == Mode::Stream && self.retry_count.is_some_and(|count| count > 0) {
            let message = "what was streamed cannot be tried again";
            problems.add("retry_count", message, "leave it out, or choose mode = \"sync\"");
        }
        if self.cloudevents && self.mode == Mode::Stream {
            let message = "a body that streams is read by the function, and a CloudEvent is read before";
            problems.add("cloudevents", message, "leave it out, or choose another mode");
        }
        if let Err(Invalid { why, .. }) = bounds::result_ttl(self.result_ttl_seconds) {
            problems.add("result_ttl_seconds", why, "0 keeps no result");
        }
        if let Err(mistake) = self.host() {
            problems.add("host", mistake.message, mistake.help);
        }
        for (key, mistake) in self.conditions().err().into_iter().flatten() {
            problems.add(key, mistake.message, mistake.help);
        }
        if let Some(cors) = &self.cors {
            cors.check(problems);
        }
        if let Some(limit) = &self.rate_limit {
            problems.within("rate_limit", |problems| limit.check(problems));
        }
        problems.within("auth", |problems| {
            self.auth.check(problems);
            if self.mode == Mode::Stream && self.auth.kind.needs_body() {
                let message = "a signature is of a whole body, and this one is read while it comes";
                problems.add("type", message, "choose mode = \"sync\" or \"async\", or another type");
            }
        });
    }

    pub(crate) fn host(&self) -> Result<Host, Mistake> {
        self.host.as_deref().map(Host::parse).transpose().map(Option::unwrap_or_default)
    }

    pub(crate) fn conditions(&self) -> Result<Conditions, Vec<(&'static str, Mistake)>> {
        Conditions::parse(&self.headers, &self.query)
    }

    /// Why two routes cannot both exist. Sections that `check` refuses conflict with nothing.
    pub(crate) fn conflict(&self, other: &Config) -> Option<String> {
        let shared = self.method.read().ok()?.shared_with(&other.method.read().ok()?)?;
        let (one, two) = (Pattern::parse(&self.path).ok()?, Pattern::parse(&other.path).ok()?);
        if self.host().ok()? != other.host().ok()? || !one.excludes(&two) {
            return None;
        }
        let conditions = (self.conditions().ok()?, other.conditions().ok()?);
        if one.shape() != two.shape() {
            return Some(format!("both serve {shared}, and {} and {} match the same paths", self.path, other.path));
        }
        if conditions.0.rank() != conditions.1.rank() || conditions.0.excludes(&conditions.1) {
            return None;
        }
        let told = match self.path == other.path {
            true => format!("both serve {shared} {}", self.path),
            false => format!("both serve {shared}, and {} and {} match the same paths", self.path, other.path),
        };
        Some(match conditions.0.rank() {
            0 => told,
            _ => format!("{told}; a request may meet the conditions of both, and neither has more of them"),
        })
    }

    /// `POST /orders/{id}`, `GET,POST /orders (async)`.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{} {}{}", self.method.typed().join(","), self.host.as_deref().unwrap_or(""), self.path);
        for (mark, table) in [("", &self.headers), ("?", &self.query)] {
            for (name, value) in table {
                let _infallible = write!(text, " if {mark}{name}={value}");
            }
        }
        text.push_str(match self.mode {
            Mode::Sync => "",
            Mode::Async => " (async)",
            Mode::Stream => " (stream)",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> Config {
        serde_json::from_value(json).unwrap()
    }

    fn route(method: &[&str], path: &str) -> Config {
        config(serde_json::json!({ "method": method, "path": path }))
    }

    fn problems(config: &Config) -> Vec<String> {
        let mut problems = Problems::new();
        config.check(&mut problems);
        problems
            .into_vec()
            .into_iter()
            .map(|problem| {
                format!("{}: {}; {}", trigger_core::display_path(&problem.path), problem.message, problem.help.unwrap())
            })
            .collect()
    }

    #[test]
    fn only_the_path_must_be_written() {
        let config = config(serde_json::json!({ "path": "/x" }));
        assert_eq!(config.method.read(), Ok(Served::Any));
        assert_eq!(config.mode, Mode::Sync);
        assert_eq!(config.max_body_bytes, 1 << 20);
        assert_eq!(config.terms(), None);
        assert_eq!(config.describe(), "ANY /x");
        assert_eq!(problems(&config), Vec::<String>::new());
    }

    #[test]
    fn every_key_is_read() {
        let config = config(serde_json::json!({
            "method": ["GET", "POST"], "path": "/x/{id}", "mode": "async", "max_body_bytes": 67108864
        }));
        assert_eq!(config.method.read(), Ok(Served::These(vec![Method::GET, Method::POST])));
        assert_eq!(config.max_body_bytes, 64 << 20);
        assert_eq!(config.describe(), "GET,POST /x/{id} (async)");
        assert_eq!(problems(&config), Vec::<String>::new());
    }

    #[test]
    fn only_who_waits_has_its_retries_bounded_in_time() {
        let received_at = DateTime::UNIX_EPOCH;
        let terms = |json| config(json).terms().unwrap().of(received_at);
        let sync = terms(serde_json::json!({ "path": "/x", "retry_count": 2, "retry_within_seconds": 3 }));
        assert_eq!((sync.retry_count, sync.expires_at), (Some(2), Some(received_at + TimeDelta::seconds(3))));
        let asked = terms(serde_json::json!({ "path": "/x", "retry_count": 1 }));
        assert_eq!(asked.expires_at, Some(received_at + TimeDelta::seconds(10)));
        let later = terms(serde_json::json!({ "path": "/x", "mode": "async", "retry_count": 0 }));
        assert_eq!((later.retry_count, later.expires_at), (Some(0), None));
        let kept = terms(serde_json::json!({ "path": "/x", "result_ttl_seconds": 60 }));
        assert_eq!((kept.retry_count, kept.expires_at, kept.result_ttl_seconds), (None, None, Some(60)));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (json, message) in [
            (
                serde_json::json!({ "path": "/x", "max_body_bytes": 0 }),
                "max_body_bytes is 0; choose from 1 to 67108864",
            ),
            (
                serde_json::json!({ "path": "/x", "max_body_bytes": MAX_STREAM_BYTES + 1 }),
                "max_body_bytes is 1099511627777",
            ),
            (serde_json::json!({ "path": "/x", "retry_count": 1001 }), "retry_count is 1001; choose from 0 to 1000"),
            (
                serde_json::json!({ "path": "/x", "retry_within_seconds": 301 }),
                "retry_within_seconds is 301; choose from 0 to 300",
            ),
            (serde_json::json!({ "path": "/x", "mode": "later" }), "unknown variant `later`"),
            (serde_json::json!({ "path": "/x", "methods": "GET" }), "unknown field `methods`"),
            (serde_json::json!({ "method": "GET" }), "missing field `path`"),
        ] {
            let error = serde_json::from_value::<Config>(json).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_schema_tells_the_same_bounds() {
        let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["path"]));
        assert_eq!(schema["additionalProperties"], false);
        let body = &schema["properties"]["max_body_bytes"];
        assert_eq!((&body["minimum"], &body["maximum"]), (&1.into(), &MAX_STREAM_BYTES.into()));
        assert_eq!(body["default"], 1 << 20);
        assert!(schema["properties"]["method"]["description"].as_str().unwrap().contains("HEAD"));
    }

    #[test]
    fn a_result_is_kept_for_a_year_at_most() {
        let kept = config(serde_json::json!({ "path": "/x", "result_ttl_seconds": u32::MAX }));
        assert_eq!(
            problems(&kept),
            ["result_ttl_seconds: 4294967295 is too long, the limit is 31622400 (366 days); 0 keeps no result"]
        );
    }

    #[test]
    fn what_streams_is_not_held_and_not_tried_again() {
        let mode = |mode, bytes, retries| {
            problems(&config(serde_json::json!({
                "path": "/x", "mode": mode, "max_body_bytes": bytes, "retry_count": retries
            })))
        };
        assert_eq!(mode("stream", MAX_STREAM_BYTES, 0), Vec::<String>::new());
        assert_eq!(mode("sync", MAX_BODY_BYTES, 1), Vec::<String>::new());
        assert_eq!(
            mode("sync", MAX_BODY_BYTES + 1, 0),
            [
                "max_body_bytes: a body of 67108865 bytes would be held in memory; choose at most 67108864, or mode = \"stream\""
            ]
        );
        assert_eq!(
            mode("stream", 1, 1),
            ["retry_count: what was streamed cannot be tried again; leave it out, or choose mode = \"sync\""]
        );
    }

    #[test]
    fn routes_are_told_apart_by_host_and_conditions() {
        let with = |more: serde_json::Value| {
            let mut json = serde_json::json!({ "method": "POST", "path": "/hook/{id}" });
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config(json)
        };
        let push = with(serde_json::json!({ "host": "a.example", "headers": { "x-event": "push" } }));
        assert_eq!(push.describe(), "POST a.example/hook/{id} if x-event=push");
        assert_eq!(problems(&push), Vec::<String>::new());
        for (other, conflict) in [
            (serde_json::json!({ "headers": { "x-event": "push" } }), false),
            (serde_json::json!({ "host": "*.example", "headers": { "x-event": "push" } }), false),
            (serde_json::json!({ "host": "A.Example" }), false),
            (serde_json::json!({ "host": "A.Example", "headers": { "X-Event": "pull" } }), false),
            (serde_json::json!({ "host": "A.Example", "headers": { "X-Event": "*" } }), false),
            (serde_json::json!({ "host": "A.Example", "headers": { "X-Event": "push" } }), true),
            (serde_json::json!({ "host": "a.example", "query": { "v": "2" } }), true),
            (serde_json::json!({ "host": "a.example", "query": { "v": "2" }, "path": "/hook/{*rest}" }), true),
        ] {
            let other = with(other);
            assert_eq!(
                (push.conflict(&other).is_some(), other.conflict(&push).is_some()),
                (conflict, conflict),
                "{other:?}"
            );
        }
        let both = with(serde_json::json!({ "host": "a.example", "query": { "v": "2" } }));
        let told = push.conflict(&both).unwrap();
        assert!(told.starts_with("both serve POST /hook/{id}; a request may meet"), "{told}");
        let bad = with(serde_json::json!({ "host": "a:1", "headers": { "a b": "" }, "cors": { "origins": [] } }));
        let told = problems(&bad);
        assert_eq!(
            told.iter().map(|told| told.split(':').next().unwrap()).collect::<Vec<_>>(),
            ["host", "headers", "cors"]
        );
    }

    #[test]
    fn all_mistakes_are_told_in_one_run() {
        let bad = route(&["get", "PSOT", "POST", "POST", "ANY", "CONNECT"], "orders/:id");
        assert_eq!(
            problems(&bad),
            [
                "method: \"get\" is not a method that can be named; methods are written in capitals: \"GET\"",
                "method: \"PSOT\" is not a method that can be named; choose from GET HEAD POST PUT PATCH DELETE \
                 OPTIONS TRACE; any other reaches a trigger with method = \"ANY\"",
                "method: the method \"POST\" is named twice; name each method once",
                "method: ANY already means every method; write method = \"ANY\", or name the methods without it",
                "method: \"CONNECT\" is not a method that can be named; choose from GET HEAD POST PUT PATCH DELETE \
                 OPTIONS TRACE; any other reaches a trigger with method = \"ANY\"",
                "path: the path \"orders/:id\" does not begin with '/'; write \"/orders/:id\"",
            ]
        );
        assert_eq!(problems(&route(&[], "/x")), ["method: no method is served; name one, or write \"ANY\""]);
    }

    #[test]
    fn a_conflict_needs_a_shared_method_and_the_same_paths() {
        let get = route(&["GET", "POST"], "/orders/{id}");
        for (other, expected) in [
            (
                route(&["POST"], "/orders/{number}"),
                Some("both serve POST, and /orders/{id} and /orders/{number} match the same paths"),
            ),
            (route(&["GET"], "/orders/{id}"), Some("both serve GET /orders/{id}")),
            (route(&["ANY"], "/orders/{id}"), Some("both serve GET /orders/{id}")),
            (route(&["DELETE"], "/orders/{id}"), None),
            (route(&["HEAD"], "/orders/{id}"), None),
            (route(&["GET"], "/orders/new"), None),
            (route(&["GET"], "broken"), None),
            (route(&["get"], "/orders/{id}"), None),
        ] {
            assert_eq!(get.conflict(&other).as_deref(), expected);
            assert_eq!(other.conflict(&get).is_some(), expected.is_some());
        }
    }
}
