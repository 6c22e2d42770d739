//! The section of a pub/sub trigger in the manifest: its keys, their defaults, and every mistake in it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{InvocationContext, Ordering, Pick, Problems, Unique, UniqueConflict, UniqueScope, bounds, subject};

/// Why a stream is refused on the bus in process.
pub(crate) const NEEDS_NATS: &str = "a stream needs bus = \"nats://…\" in [engine]";

/// How many messages a trigger takes at once unless told otherwise: as many as the engine runs.
const DEFAULT_IN_FLIGHT: u32 = 256;
const MAX_IN_FLIGHT: u32 = 65_536;

const DEFAULT_BATCH: u32 = 100;
const MAX_BATCH: u32 = 10_000;

const DEFAULT_ACK_WAIT: f64 = 30.0;
const MIN_ACK_WAIT: f64 = 0.5;
const MAX_ACK_WAIT: f64 = 86_400.0;

/// How many messages of a stream wait in the store unless told otherwise.
const DEFAULT_BACKLOG: u32 = 10_000;
const MAX_BACKLOG: u32 = 1_000_000_000;

/// A day, in seconds.
const DEFAULT_DEDUP_WINDOW: u32 = 86_400;

/// The longest name of a stream, a consumer or a queue group, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Messages of a subject, or of a JetStream stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The subject whose messages run the function: tokens separated by `.`; `*` stands for one token, `>` at the end
    /// for one or more. With `stream`, only the stream's messages on it (all of them unless it is given).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Shares the messages with every other subscription of this queue group, on this and on other engines: each
    /// message reaches one of them. Without it every engine gets every message. Not for streams, whose consumers share
    /// anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_group: Option<String>,
    /// Whether a message is committed to the engine's store before it counts as taken, and run from there: it then
    /// survives a crash. A requester gets a receipt instead of the function's output. A stream keeps its messages
    /// itself; with `durable` it is told that a message is done once that is committed, and retries are rows of the
    /// store: for order by key, and for keys that are remembered longer than the stream does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
    /// Whether the function's output is published to the reply subject of a message that has one (default). Set it to
    /// false where publishers use JetStream and a stream keeps the subject too: their reply subject awaits the
    /// stream's acknowledgement. Messages with `Nats-Msg-Id` are known to be such.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub reply: bool,
    /// How many messages are with the engine at once, 1 to 65536. More wait: of a subject in a queue in memory (65,536
    /// messages, 64 MiB), where what comes on top is dropped and counted; of a stream in the stream. Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_in_flight: Option<u32>,
    /// What must hold for each message. Given so that a manifest that asks for more than its source can do is
    /// refused: a subject gives `"at_least_once"` only with `durable = true` (from the moment the engine has the
    /// message), a stream always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
    /// The JetStream stream to pull from. It must exist. Needs `consumer`, and a bus that is NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The durable consumer of the stream: it remembers what was acknowledged. It is made if it does not exist, and set
    /// to what stands here if it does. It belongs to this trigger alone, on however many engines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// How many messages are asked of the stream at once, 1 to 10000. Never more than `max_in_flight` leaves room for.
    /// Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub batch: Option<u32>,
    /// How long the stream waits for a sign of life before it delivers a message again, 0.5 to 86400. A function may
    /// run longer: signs are given while it does. A crashed engine's messages come back after this. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 86400.0))]
    pub ack_wait_seconds: Option<f64>,
    /// Whether a message that is a CloudEvent (1.0, binary or structured) is opened: the function gets its data as the
    /// payload and its attributes as `ce.<name>`. Others come as they are. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cloudevents: bool,
    /// The events that must not overtake each other, over all their retries: those with the same key. The others are not
    /// held up. Needs `durable = true`; messages are then kept one at a time, in the order in which they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<Pick>,
    /// What an event is known by when it comes again: a second one with the key of an earlier one is that one. Needs
    /// `durable = true`. Without it, `Nats-Msg-Id` is such a key for seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_key: Option<Pick>,
    /// For how long a `dedup_key` is remembered, in seconds, 1 to 31622400. Default 86400, a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31622400))]
    pub dedup_window_seconds: Option<u32>,
    /// With `stream` and `durable`: how many messages wait in the store at most; more stay in the stream. Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000000))]
    pub max_backlog: Option<u32>,
    /// Whether the stream is asked to confirm each acknowledgement. One that is lost with a connection is sent again
    /// then, instead of costing another run; it takes a round trip more for each message. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub double_ack: bool,
    /// The sequence in the stream with which a new consumer begins, in place of `deliver_policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub start_sequence: Option<u64>,
    /// A new consumer begins with the first message from this moment on (`2027-01-01T00:00:00Z`), in place of
    /// `deliver_policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// Where a new consumer begins: `"all"` (default), `"new"`, `"last"` or `"last_per_subject"`. One that exists goes
    /// on where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_policy: Option<DeliverPolicy>,
}

fn yes() -> bool {
    true
}

/// What must hold for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// It is taken once or, when something goes wrong on the way, not at all.
    AtMostOnce,
    /// It is run until it succeeded or became a dead letter; possibly more than once.
    AtLeastOnce,
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// With the oldest message that the stream has.
    #[default]
    All,
    /// With the first message after the consumer was made.
    New,
    /// With the last message that the stream has.
    Last,
    /// With the last message of each subject.
    LastPerSubject,
}

/// What a section means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Subject(SubjectSettings),
    Stream(StreamSettings),
}

/// Messages of a subject.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SubjectSettings {
    pub(crate) subject: String,
    pub(crate) queue_group: Option<String>,
    /// How messages are kept, where they are.
    pub(crate) keeping: Option<Keeping>,
    pub(crate) reply: bool,
    pub(crate) cloudevents: bool,
    pub(crate) max_in_flight: u32,
}

/// What is asked of the store for each message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Keeping {
    ordering_key: Option<Pick>,
    dedup_key: Option<Pick>,
    dedup_window_seconds: u32,
}

impl Keeping {
    /// Whether messages must be kept in the order in which they come.
    pub(crate) fn is_ordered(&self) -> bool {
        self.ordering_key.is_some()
    }

    /// Has an event kept so.
    pub(crate) fn apply(&self, event: &mut InvocationContext) {
        if let Some(key) = self.ordering_key.as_ref().and_then(|pick| pick.of(event)) {
            event.terms_mut().ordering = Some(Ordering { key, limit: None });
        }
        if let Some(key) = self.dedup_key.as_ref().and_then(|pick| pick.of(event)) {
            let scope = UniqueScope::Period(self.dedup_window_seconds);
            event.terms_mut().unique = Some(Unique { key, scope, conflict: UniqueConflict::Keep });
        }
    }
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Policy(DeliverPolicy),
    Sequence(u64),
    Time(DateTime<Utc>),
}

/// Messages of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamSettings {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) filter: Option<String>,
    pub(crate) batch: u32,
    pub(crate) max_in_flight: u32,
    pub(crate) ack_wait: Duration,
    pub(crate) double_ack: bool,
    pub(crate) cloudevents: bool,
    pub(crate) start: Start,
    /// How messages are kept and how many of them, where they are.
    pub(crate) keeping: Option<(Keeping, u32)>,
}

impl Config {
    /// What a checked section means.
    pub(crate) fn source(self) -> Source {
        let max_in_flight = self.max_in_flight.unwrap_or(DEFAULT_IN_FLIGHT);
        // What is kept is in order as it was kept: one after the other. Of a stream that holds over all engines and
        // deliveries, since no second message is out while the first one's fate is open.
        let max_in_flight = if self.durable && self.ordering_key.is_some() { 1 } else { max_in_flight };
        let keeping = self.durable.then(|| Keeping {
            ordering_key: self.ordering_key,
            dedup_key: self.dedup_key,
            dedup_window_seconds: self.dedup_window_seconds.unwrap_or(DEFAULT_DEDUP_WINDOW),
        });
        match self.stream {
            None => Source::Subject(SubjectSettings {
                subject: self.subject.unwrap_or_default(),
                queue_group: self.queue_group,
                keeping,
                reply: self.reply,
                cloudevents: self.cloudevents,
                max_in_flight,
            }),
            Some(stream) => Source::Stream(StreamSettings {
                stream,
                consumer: self.consumer.unwrap_or_default(),
                filter: self.subject,
                batch: self.batch.unwrap_or(DEFAULT_BATCH).min(max_in_flight),
                max_in_flight,
                ack_wait: Duration::from_secs_f64(self.ack_wait_seconds.unwrap_or(DEFAULT_ACK_WAIT)),
                double_ack: self.double_ack,
                cloudevents: self.cloudevents,
                start: match (self.start_sequence, self.start_time.as_deref().map(DateTime::parse_from_rfc3339)) {
                    (Some(sequence), _) => Start::Sequence(sequence),
                    (None, Some(Ok(time))) => Start::Time(time.to_utc()),
                    (None, None | Some(Err(_))) => Start::Policy(self.deliver_policy.unwrap_or_default()),
                },
                keeping: keeping.map(|keeping| (keeping, self.max_backlog.unwrap_or(DEFAULT_BACKLOG))),
            }),
        }
    }

    /// Every mistake that the shape does not show.
    pub(crate) fn check(&self, over_nats: bool, problems: &mut Problems) {
        match (&self.subject, &self.stream) {
            (None, None) => problems.add(
                "subject",
                "neither subject nor stream is given",
                "name a subject (\"orders.*.created\"), or a JetStream stream and its consumer",
            ),
            (Some(pattern), _) => {
                if let Err(why) = subject::check_pattern(pattern) {
                    let help = "write tokens with dots between them; \"*\" stands for one token, \">\" at the end for the rest";
                    problems.add("subject", format!("the subject {:?} is not valid: {why}", shown(pattern)), help);
                }
            }
            (None, Some(_)) => {}
        }
        if self.stream.is_some() {
            self.check_stream(over_nats, problems)
        } else {
            self.check_subject(problems)
        }
        range("max_in_flight", self.max_in_flight, MAX_IN_FLIGHT, problems);
        self.check_keeping(problems);
    }

    fn check_keeping(&self, problems: &mut Problems) {
        if self.ordering_key.is_some() && self.max_in_flight.is_some_and(|most| most > 1) {
            let message = "messages that keep an order are taken one at a time";
            problems.add(
                "max_in_flight",
                message,
                "leave it out: what is kept runs side by side all the same, key by key",
            );
        }
        for (key, pick) in [("ordering_key", &self.ordering_key), ("dedup_key", &self.dedup_key)] {
            let Some(pick) = pick else { continue };
            problems.within(key, |problems| pick.check(problems));
            if !self.durable {
                problems.add(key, "messages that are not kept have no keys", "add durable = true, or leave it out");
            }
        }
        if self.dedup_window_seconds.is_some() && self.dedup_key.is_none() {
            problems.add("dedup_window_seconds", "there is no dedup_key", "add one, or leave it out");
        }
        range("dedup_window_seconds", self.dedup_window_seconds, bounds::MAX_RESULT_TTL_SECONDS, problems);
        range("max_backlog", self.max_backlog, MAX_BACKLOG, problems);
        if self.max_backlog.is_some() && !(self.durable && self.stream.is_some()) {
            let help =
                "leave it out: only of a stream whose messages are kept (durable = true) more can wait where they are";
            problems.add("max_backlog", "max_backlog is for streams with durable = true", help);
        }
    }

    fn check_subject(&self, problems: &mut Problems) {
        if let Some(group) = &self.queue_group {
            check_name("queue_group", group, false, problems);
        }
        let of_streams = [
            ("consumer", self.consumer.is_some()),
            ("batch", self.batch.is_some()),
            ("ack_wait_seconds", self.ack_wait_seconds.is_some()),
            ("deliver_policy", self.deliver_policy.is_some()),
            ("start_sequence", self.start_sequence.is_some()),
            ("start_time", self.start_time.is_some()),
            ("double_ack", self.double_ack),
        ];
        for (key, given) in of_streams {
            if given {
                problems.add(
                    key,
                    format!("{key} is for streams, and no stream is given"),
                    "add stream = \"…\", or leave it out",
                );
            }
        }
        match (self.guarantee, self.durable) {
            (Some(Guarantee::AtLeastOnce), false) => problems.add(
                "guarantee",
                "a subject's messages are taken at most once: nobody else has them if the engine crashes",
                "add durable = true, which keeps each message before it counts as taken, or pull from a JetStream stream",
            ),
            (Some(Guarantee::AtMostOnce), true) => problems.add(
                "guarantee",
                "a message that is kept (durable = true) is run at least once",
                "leave out durable, or ask for \"at_least_once\"",
            ),
            _ => {}
        }
    }

    fn check_stream(&self, over_nats: bool, problems: &mut Problems) {
        if !over_nats {
            problems.add(
                "stream",
                NEEDS_NATS,
                "set bus = \"nats://127.0.0.1:4222\" in [engine], or subscribe to a subject",
            );
        }
        if let Some(stream) = &self.stream {
            check_name("stream", stream, true, problems);
        }
        match &self.consumer {
            None => problems.add(
                "consumer",
                "a stream needs the name of its durable consumer",
                "add consumer = \"…\"; the consumer remembers which messages were acknowledged",
            ),
            Some(consumer) => check_name("consumer", consumer, true, problems),
        }
        for (key, given, help) in [
            (
                "queue_group",
                self.queue_group.is_some(),
                "leave it out: engines with the same consumer share its messages",
            ),
            ("reply", !self.reply, "leave it out: nobody awaits a reply from a stream's message"),
        ] {
            if given {
                problems.add(key, format!("{key} is not for streams"), help);
            }
        }
        if self.guarantee == Some(Guarantee::AtMostOnce) {
            let help = "leave out guarantee, or ask for \"at_least_once\"";
            problems.add(
                "guarantee",
                "a stream delivers a message again until it is acknowledged: at least once",
                help,
            );
        }
        let starts = [self.deliver_policy.is_some(), self.start_sequence.is_some(), self.start_time.is_some()];
        if starts.iter().filter(|given| **given).count() > 1 {
            let help = "give one of deliver_policy, start_sequence and start_time";
            problems.add("deliver_policy", "a new consumer begins in one place", help);
        }
        if let Some(Err(error)) = self.start_time.as_deref().map(DateTime::parse_from_rfc3339) {
            let message = format!("{:?} is no moment: {error}", shown(self.start_time.as_deref().unwrap_or_default()));
            problems.add("start_time", message, "write it like 2027-01-01T00:00:00Z");
        }
        if self.start_sequence == Some(0) {
            problems.add("start_sequence", "start_sequence is 0", "streams count from 1");
        }
        range("batch", self.batch, MAX_BATCH, problems);
        if let Some(seconds) = self.ack_wait_seconds
            && !(MIN_ACK_WAIT..=MAX_ACK_WAIT).contains(&seconds)
        {
            let message = format!("ack_wait_seconds is {seconds}");
            problems.add("ack_wait_seconds", message, format!("choose from {MIN_ACK_WAIT} to {MAX_ACK_WAIT}"));
        }
    }

    /// Why two triggers exclude each other.
    pub(crate) fn conflict(&self, other: &Config) -> Option<String> {
        let both = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        (both(&self.stream, &other.stream) && both(&self.consumer, &other.consumer)).then(|| {
            format!(
                "both pull from consumer {:?} of stream {:?}, and each message would reach only one of them",
                shown(self.consumer.as_deref().unwrap_or_default()),
                shown(self.stream.as_deref().unwrap_or_default())
            )
        })
    }

    /// The source, for people.
    pub(crate) fn describe(&self) -> String {
        let subject = self.subject.as_deref().map(shown);
        if let Some(stream) = &self.stream {
            let consumer = self.consumer.as_deref().map(shown).unwrap_or_default();
            let filter = subject.map(|subject| format!(", {subject}")).unwrap_or_default();
            let durable = if self.durable { ", durable" } else { "" };
            return format!("stream {} (consumer {consumer}{filter}{durable})", shown(stream));
        }
        let group = self.queue_group.as_deref().map(|group| format!("queue group {}", shown(group)));
        let notes: Vec<String> = group.into_iter().chain(self.durable.then(|| "durable".to_owned())).collect();
        let subject = subject.unwrap_or_default();
        if notes.is_empty() { subject } else { format!("{subject} ({})", notes.join(", ")) }
    }
}

fn range(key: &str, value: Option<u32>, max: u32, problems: &mut Problems) {
    if let Some(value) = value.filter(|value| !(1..=max).contains(value)) {
        problems.add(key, format!("{key} is {value}"), format!("choose from 1 to {max}"));
    }
}

/// Names travel inside subjects (of streams) or lines of the protocol (of queue groups).
fn check_name(key: &str, name: &str, in_subjects: bool, problems: &mut Problems) {
    let reserved: &[char] = if in_subjects { &['.', '*', '>', '/', '\\'] } else { &[] };
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("it has {} bytes, the limit is {MAX_NAME_BYTES}", name.len())
    } else if let Some(c) = name.chars().find(|c| c.is_whitespace() || c.is_control() || reserved.contains(c)) {
        format!("it has {c:?}")
    } else {
        return;
    };
    let help = if in_subjects {
        "write a word without spaces, '.', '*', '>', '/' and '\\'"
    } else {
        "write a word without spaces"
    };
    problems.add(key, format!("the {} {:?} is not a name: {why}", key.replace('_', " "), shown(name)), help);
}

/// What was typed, cut to what a line takes.
fn shown(text: &str) -> String {
    const SHOWN: usize = 128;
    if text.chars().count() <= SHOWN { text.to_owned() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}
