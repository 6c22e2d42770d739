//! The section of a WebSocket trigger in the manifest: its keys, their defaults, and every mistake in it.

use std::time::Duration;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use trigger_auth::{Auth, RateLimit};
use trigger_core::Problems;

/// The subprotocol whose frames say which room they are of and by which number: see README.md.
pub(crate) const ENVELOPE: &str = "tripline.v1";

/// What a socket that has nothing to say costs: tungstenite's own 128 KiB would be most of its memory.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// Room for the largest answer that a definition may allow (256 MiB) and what stands before it.
const WRITE_BUFFER_BYTES: usize = 320 << 20;

/// One path on which sockets are opened.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The path served, with parameters as in routes of HTTP: `/live`, `/rooms/{name}`.
    pub path: String,
    /// The events that the function is called for: `connect` (which may refuse), `message`, `disconnect`, `error`.
    /// Default `["message"]`: a socket that opens or closes wakes nobody.
    #[serde(default = "messages")]
    pub events: Vec<Event>,
    /// Who may open a socket, as with routes of HTTP: `{ type = "token" }` and the others that need no body. By default
    /// everybody where the function `is_public`, and whoever has a token for it where it is not.
    #[serde(default)]
    pub auth: Auth,
    /// How often somebody may open a socket; whoever comes more often is answered 429.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// The origins whose pages may connect, as in `https://app.example.com`; `"*"` for every one. Left out, pages of the
    /// same host may. Who sends no `Origin` is no browser's page and may always.
    #[serde(default)]
    pub origins: Option<Vec<String>>,
    /// The subprotocols that are spoken, the preferred first. `tripline.v1` is the engine's own, for clients that resume.
    #[serde(default)]
    pub subprotocols: Vec<String>,
    /// The largest message taken, in bytes; a larger one closes its socket with 1009. Default 1 MiB, at most 64 MiB.
    #[serde(default = "mebibyte")]
    #[schemars(range(min = 1, max = 67108864))]
    pub max_message_bytes: usize,
    /// The largest frame taken, in bytes; a larger one closes its socket with 1009. Default `max_message_bytes`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 67108864))]
    pub max_frame_bytes: Option<usize>,
    /// Messages of a socket that may wait for the one before them, and for `max_message_bytes` together; then no more is
    /// read from the socket until there is room. Default 64.
    #[serde(default = "queue")]
    #[schemars(range(min = 1, max = 10000))]
    pub queue: usize,
    /// Frames that may wait until a socket takes them. Default 256.
    #[serde(default = "send_queue")]
    #[schemars(range(min = 1, max = 100000))]
    pub send_queue: usize,
    /// What happens to a socket that does not take its frames: `"close"` with 1013 (the default), or `"drop_oldest"`.
    #[serde(default)]
    pub slow_consumer: SlowConsumer,
    /// A socket over which no message went either way for so long is closed with 1001. Left out, it stays.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 31536000.0))]
    pub idle_timeout_seconds: Option<f64>,
    /// A socket from which nothing came for so long is sent a ping; if nothing comes for as long again it is gone.
    /// Default 30; 0 sends none. No function is woken by it.
    #[serde(default = "half_a_minute")]
    #[schemars(range(min = 0.0, max = 86400.0))]
    pub ping_interval_seconds: f64,
    /// Sockets that may be open at once; a further one is answered 503. Default 10,000.
    #[serde(default = "max_connections")]
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: usize,
    /// What happens to a socket whose message the function failed on: `"close"` with 1011 (the default), or `"ignore"`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Messages of a room that are kept for members who resume. Default 0: none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100000))]
    pub replay_messages: usize,
    /// How long they are kept. Default 120.
    #[serde(default = "two_minutes")]
    #[schemars(range(min = 0.001, max = 86400.0))]
    pub replay_seconds: f64,
    /// Whether members of a room that speak `tripline.v1` are told who joins and who leaves.
    #[serde(default)]
    pub presence: bool,
}

/// What a function may be called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Somebody wants to open a socket.
    Connect,
    /// A message came.
    Message,
    /// A socket is closed.
    Disconnect,
    /// A socket broke, or broke its protocol; it is closed next.
    Error,
}

impl Event {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Event::Connect => "connect",
            Event::Message => "message",
            Event::Disconnect => "disconnect",
            Event::Error => "error",
        }
    }
}

/// What happens to a socket that does not take its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlowConsumer {
    /// It is closed with 1013.
    #[default]
    Close,
    /// It never gets the frames that have waited longest.
    DropOldest,
}

/// What happens to a socket whose message the function failed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is closed with 1011.
    #[default]
    Close,
    /// Its next message is handled.
    Ignore,
}

fn messages() -> Vec<Event> {
    vec![Event::Message]
}

fn mebibyte() -> usize {
    1 << 20
}

fn queue() -> usize {
    64
}

fn send_queue() -> usize {
    256
}

fn half_a_minute() -> f64 {
    30.0
}

fn max_connections() -> usize {
    10_000
}

fn two_minutes() -> f64 {
    120.0
}

impl Config {
    /// Finds the mistakes that the schema cannot, but those of the path.
    pub(crate) fn check(&self, problems: &mut Problems) {
        for (index, event) in self.events.iter().enumerate() {
            if self.events[..index].contains(event) {
                problems.add("events", format!("{:?} is named twice", event.as_str()), "name each event once");
            }
        }
        problems.within("auth", |problems| {
            self.auth.check(problems);
            if self.auth.kind.needs_body() {
                let message = "a signature is of a body, and a request for a socket has none";
                problems.add("type", message, "choose \"token\", \"basic\" or \"jwt\"");
            }
        });
        if let Some(limit) = &self.rate_limit {
            problems.within("rate_limit", |problems| limit.check(problems));
        }
        for origin in self.origins.iter().flatten().filter(|origin| !is_origin(origin)) {
            let help = "write a scheme, a host and perhaps a port: \"https://app.example.com\"; \"*\" for every origin";
            problems.add("origins", format!("{origin:?} is no origin"), help);
        }
        for name in self.subprotocols.iter().filter(|name| !is_token(name)) {
            problems.add("subprotocols", format!("{name:?} is no token"), "letters, digits, '-', '_' and '.' will do");
        }
        if self.max_frame_bytes.is_some_and(|frame| frame > self.max_message_bytes) {
            let help = "make it smaller, or `max_message_bytes` larger";
            problems.add("max_frame_bytes", "it is larger than max_message_bytes", help);
        }
    }

    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout_seconds.and_then(seconds)
    }

    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        seconds(self.ping_interval_seconds)
    }

    pub(crate) fn replay_age(&self) -> Duration {
        seconds(self.replay_seconds).unwrap_or_default()
    }

    /// Whether pages of this origin may connect to this host.
    pub(crate) fn admits(&self, origin: &str, host: Option<&str>) -> bool {
        match &self.origins {
            Some(origins) => origins.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(origin)),
            // The scheme is not compared: whether a proxy in front speaks TLS is not known here.
            None => origin
                .split_once("://")
                .is_some_and(|(_, authority)| host.is_some_and(|host| authority.eq_ignore_ascii_case(host))),
        }
    }

    /// Bounds of one socket's protocol.
    pub(crate) fn protocol(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            // What is sent is handed on at once: whoever sends much has several frames ready before one flush.
            .write_buffer_size(READ_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_frame_bytes.unwrap_or(self.max_message_bytes)))
    }
}

/// A time as typed; none where it is 0.
fn seconds(typed: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(typed).ok().filter(|time| !time.is_zero())
}

fn is_origin(text: &str) -> bool {
    let whole = |uri: Uri| {
        uri.scheme().is_some()
            && uri.path() == "/"
            && uri.query().is_none()
            && !text.ends_with('/')
            && !text.contains('@')
    };
    text == "*" || text.parse::<Uri>().is_ok_and(whole)
}

/// A token of RFC 9110, as subprotocols are.
fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> Config {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_the_path_must_be_written() {
        let config = config(serde_json::json!({ "path": "/live" }));
        assert_eq!((config.events, config.queue, config.send_queue), (vec![Event::Message], 64, 256));
        assert_eq!((config.slow_consumer, config.on_failure), (SlowConsumer::Close, OnFailure::Close));
        assert_eq!((config.max_message_bytes, config.max_connections), (1 << 20, 10_000));
        assert_eq!((config.idle_timeout_seconds, config.replay_messages, config.presence), (None, 0, false));
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let config = config(serde_json::json!({
            "path": "/live", "events": ["message", "message"], "origins": ["https://a.example", "app", "https://a/b"],
            "subprotocols": ["chat.v1", "a b"], "max_message_bytes": 10, "max_frame_bytes": 11,
        }));
        let mut problems = Problems::new();
        config.check(&mut problems);
        let told: Vec<String> = problems.into_vec().into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            told,
            [
                "\"message\" is named twice",
                "\"app\" is no origin",
                "\"https://a/b\" is no origin",
                "\"a b\" is no token",
                "it is larger than max_message_bytes",
            ]
        );
    }

    #[test]
    fn pages_of_the_same_host_may_connect_and_others_when_they_are_named() {
        let same = config(serde_json::json!({ "path": "/live" }));
        assert!(same.admits("https://App.example:8443", Some("app.example:8443")));
        assert!(!same.admits("https://evil.example", Some("app.example")) && !same.admits("null", Some("null")));
        assert!(!same.admits("https://app.example", None));
        let named = config(serde_json::json!({ "path": "/live", "origins": ["https://app.example"] }));
        assert!(named.admits("https://app.example", Some("api.example")));
        assert!(!named.admits("http://app.example", Some("app.example")), "the scheme is part of what was named");
        assert!(config(serde_json::json!({ "path": "/live", "origins": ["*"] })).admits("null", None));
    }
}
