//! What an adapter hands to the engine: one event, bound to one function.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Clock, Exchange, Headers, Terms, TraceContext};

/// The seven kinds of trigger. The word is folder, crate suffix, `type` in the manifest, feature and metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HTTP request.
    Http,
    /// A WebSocket's life and frames.
    Websocket,
    /// A schedule.
    Cron,
    /// A change or a notification in a database.
    Database,
    /// A message on a subject.
    Pubsub,
    /// A moment chosen at run time.
    Timer,
    /// A piece of work put in a queue.
    Job,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 7] =
        [Kind::Http, Kind::Websocket, Kind::Cron, Kind::Database, Kind::Pubsub, Kind::Timer, Kind::Job];

    /// The kind's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Websocket => "websocket",
            Kind::Cron => "cron",
            Kind::Database => "database",
            Kind::Pubsub => "pubsub",
            Kind::Timer => "timer",
            Kind::Job => "job",
        }
    }

    /// The kind whose word this is.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One trigger of one function: the part of an invocation that is the same for all events of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// The function's namespace.
    pub namespace: Box<str>,
    /// The function's name.
    pub function_name: Box<str>,
    /// The trigger's name, unique in its function.
    pub trigger_id: Box<str>,
    /// The trigger's kind.
    pub trigger_type: Kind,
}

impl Binding {
    /// `namespace/function/trigger`: how logs, health and errors name a trigger.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.function_name, self.trigger_id)
    }
}

/// Who has the event if an attempt fails. It decides what a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Custody {
    /// A caller waits for the answer: it is told, and nothing is retried behind its back.
    Caller,
    /// The source delivers the event again when asked to (JetStream): a retry is asked of it.
    Source,
    /// Nobody else has the event (core NATS, a queued row): a retry is a row.
    Engine,
}

/// A named fact about an event that is neither header nor payload: `method`, `path`, `param.id`, `sequence`, ….
pub type Attribute = (Cow<'static, str>, String);

/// The engine's promise to handle one event.
///
/// Built by [`TriggerContext::event`](crate::TriggerContext::event); adapters then fill in what they know.
#[derive(Clone, Debug)]
pub struct InvocationContext {
    /// Identity of the invocation over all its attempts (UUIDv7, RFC 9562).
    pub invocation_id: Uuid,
    /// What the caller calls this request (`X-Request-Id`); the invocation's id if it did not say.
    pub request_id: Option<Box<str>>,
    /// The trigger that the event came in by.
    pub binding: Arc<Binding>,
    /// Who has the event if an attempt fails.
    pub custody: Custody,
    /// The authenticated caller, where there is one.
    pub caller: Option<Box<str>>,
    /// The socket that the event came from (WebSocket only).
    pub ws_client_id: Option<Box<str>>,
    /// The version chosen for it, kept over its retries; `None` until admission chooses.
    pub version: Option<u32>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// How many functions caused one another before this event; 0 for an event from outside.
    pub depth: u32,
    /// The invocation whose guest caused this event.
    pub parent: Option<Uuid>,
    /// Identity of the event as its source knows it. An accepted event with the key of an earlier one of the same
    /// trigger is a duplicate. Guests see it (or the invocation's id) as their idempotency token.
    pub idempotency_key: Option<Box<str>>,
    /// What the event is about: a path, a NATS subject, a schedule's name.
    pub subject: Box<str>,
    /// Media type of the payload, where it is known.
    pub content_type: Option<Box<str>>,
    /// The event's headers.
    pub headers: Headers,
    /// Further facts, among them the source's position (`stream`, `sequence`, …).
    pub attributes: Vec<Attribute>,
    /// When it was due (cron, timer, delayed job).
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When the engine took it, by its clock.
    pub received_at: DateTime<Utc>,
    /// When the engine took it, by the monotonic clock.
    pub received: Instant,
    /// W3C trace context that arrived with the event, or a new one.
    pub trace: TraceContext,
    /// What it asks of the queue, where it asks for anything.
    pub terms: Option<Box<Terms>>,
    /// The event's bytes, unchanged.
    pub payload: Bytes,
    /// Where the bodies stream: the payload is empty then, and the caller is answered by this.
    pub exchange: Option<Arc<Exchange>>,
}

impl InvocationContext {
    /// A new invocation for an event that arrived now, by the system's clock. A trigger's events are made by
    /// [`TriggerContext::event`](crate::TriggerContext::event), which knows the engine's.
    pub fn new(binding: Arc<Binding>, custody: Custody, payload: Bytes) -> Self {
        Self::arrived_at(binding, custody, payload, Clock::system().now())
    }

    /// A new invocation for an event that arrived at this moment.
    pub fn arrived_at(binding: Arc<Binding>, custody: Custody, payload: Bytes, received_at: DateTime<Utc>) -> Self {
        Self {
            invocation_id: Uuid::now_v7(),
            request_id: None,
            binding,
            custody,
            caller: None,
            ws_client_id: None,
            version: None,
            attempt: 1,
            depth: 0,
            parent: None,
            idempotency_key: None,
            subject: Box::default(),
            content_type: None,
            headers: Headers::None,
            attributes: Vec::new(),
            scheduled_at: None,
            received_at,
            received: Instant::now(),
            trace: TraceContext::new_root(),
            terms: None,
            payload,
            exchange: None,
        }
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The token that stays the same over every attempt for this event.
    pub fn idempotency_token(&self) -> Cow<'_, str> {
        match &self.idempotency_key {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.invocation_id.to_string()),
        }
    }

    /// The request's id, or the invocation's where the caller named none.
    pub fn request_id(&self) -> Cow<'_, str> {
        match &self.request_id {
            Some(id) => Cow::Borrowed(id),
            None => Cow::Owned(self.invocation_id.to_string()),
        }
    }

    /// The terms, made where there are none.
    pub fn terms_mut(&mut self) -> &mut Terms {
        self.terms.get_or_insert_default()
    }

    /// The priority that it asks for.
    pub fn priority(&self) -> i8 {
        self.terms.as_ref().map_or(0, |terms| terms.priority)
    }

    /// What it must not overtake.
    pub fn ordering(&self) -> Option<&crate::Ordering> {
        self.terms.as_ref()?.ordering.as_ref()
    }

    /// What it is the same as.
    pub fn unique(&self) -> Option<&crate::Unique> {
        self.terms.as_ref()?.unique.as_ref()
    }

    /// Makes it what another invocation caused: one deeper, in the same trace.
    pub fn caused_by(&mut self, cause: &InvocationContext) {
        self.depth = cause.depth.saturating_add(1);
        self.parent = Some(cause.invocation_id);
        self.trace = cause.trace.child();
    }

    /// What is left with a change that its guest makes where no header goes along: depth, invocation and trace of what
    /// the change causes. [`adopt_cause`](Self::adopt_cause) is the way back.
    pub fn cause(&self) -> String {
        format!("{} {} {}", self.depth.saturating_add(1), self.invocation_id, self.trace.child().traceparent())
    }

    /// Takes depth, parent and trace from what was left with a change. What cannot be read does not lower the guard.
    pub fn adopt_cause(&mut self, cause: &str) {
        let mut words = cause.split(' ');
        self.depth = words.next().and_then(|depth| depth.parse().ok()).unwrap_or(u32::MAX);
        self.parent = words.next().and_then(|parent| parent.parse().ok());
        if let Some(trace) = words.next().and_then(|parent| TraceContext::parse(parent, None)) {
            self.trace = trace;
        }
    }

    /// Takes depth, parent and trace from headers that an engine put on a message it sent.
    pub fn adopt_lineage(&mut self) {
        if let Some(depth) = self.headers.get_str(crate::bus::DEPTH_HEADER) {
            // A header that is not a number comes from outside and must not lower the guard: treat it as the limit.
            self.depth = depth.parse().unwrap_or(u32::MAX);
        }
        if let Some(parent) = self.headers.get_str(crate::bus::PARENT_HEADER) {
            self.parent = parent.parse().ok();
        }
        if let Some(trace) = self
            .headers
            .get_str("traceparent")
            .and_then(|parent| TraceContext::parse(parent, self.headers.get_str("tracestate")))
        {
            self.trace = trace;
        }
    }
}

/// The context as rows, dead letters and exports hold it: every field but the payload, which has a column of its own.
/// Borrowed on the way in, so that a row costs no copies; owned on the way out.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    invocation_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
    // The binding's fields are not flattened: serde would buffer every other field for that.
    namespace: Cow<'a, str>,
    function_name: Cow<'a, str>,
    trigger_id: Cow<'a, str>,
    trigger_type: Kind,
    custody: Custody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ws_client_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    attempt: u32,
    depth: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<Cow<'a, str>>,
    subject: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "no_headers")]
    headers: Cow<'a, Headers>,
    #[serde(default, skip_serializing_if = "no_attributes")]
    attributes: Cow<'a, [Attribute]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<Cow<'a, Terms>>,
}

fn no_headers(headers: &Headers) -> bool {
    headers.is_empty()
}

fn no_attributes(attributes: &[Attribute]) -> bool {
    attributes.is_empty()
}

impl InvocationContext {
    /// The context without its payload, as stored: JSON. [`from_stored`](Self::from_stored) is the way back.
    pub fn to_stored(&self) -> String {
        fn text(text: &Option<Box<str>>) -> Option<Cow<'_, str>> {
            text.as_deref().map(Cow::Borrowed)
        }
        let stored = Stored {
            invocation_id: self.invocation_id,
            request_id: text(&self.request_id),
            namespace: Cow::Borrowed(&self.binding.namespace),
            function_name: Cow::Borrowed(&self.binding.function_name),
            trigger_id: Cow::Borrowed(&self.binding.trigger_id),
            trigger_type: self.binding.trigger_type,
            custody: self.custody,
            caller: text(&self.caller),
            ws_client_id: text(&self.ws_client_id),
            version: self.version,
            attempt: self.attempt,
            depth: self.depth,
            parent: self.parent,
            idempotency_key: text(&self.idempotency_key),
            subject: Cow::Borrowed(&self.subject),
            content_type: text(&self.content_type),
            headers: Cow::Borrowed(&self.headers),
            attributes: Cow::Borrowed(&self.attributes),
            scheduled_at: self.scheduled_at,
            received_at: self.received_at,
            traceparent: self.trace.traceparent(),
            tracestate: text(&self.trace.state),
            terms: self.terms.as_deref().map(Cow::Borrowed),
        };
        serde_json::to_string(&stored).expect("a context has only string keys and no fallible values")
    }

    /// Reads what [`to_stored`](Self::to_stored) wrote.
    pub fn from_stored(stored: &str, payload: Bytes) -> Result<Self, serde_json::Error> {
        fn text(text: Option<Cow<'_, str>>) -> Option<Box<str>> {
            text.map(|text| text.into_owned().into())
        }
        let stored: Stored<'_> = serde_json::from_str(stored)?;
        let trace = TraceContext::parse(&stored.traceparent, stored.tracestate.as_deref())
            .unwrap_or_else(TraceContext::new_root);
        let binding = Binding {
            namespace: stored.namespace.into_owned().into(),
            function_name: stored.function_name.into_owned().into(),
            trigger_id: stored.trigger_id.into_owned().into(),
            trigger_type: stored.trigger_type,
        };
        Ok(Self {
            invocation_id: stored.invocation_id,
            request_id: text(stored.request_id),
            binding: Arc::new(binding),
            custody: stored.custody,
            caller: text(stored.caller),
            ws_client_id: text(stored.ws_client_id),
            version: stored.version,
            attempt: stored.attempt,
            depth: stored.depth,
            parent: stored.parent,
            idempotency_key: text(stored.idempotency_key),
            subject: stored.subject.into_owned().into(),
            content_type: text(stored.content_type),
            headers: stored.headers.into_owned(),
            attributes: stored.attributes.into_owned(),
            scheduled_at: stored.scheduled_at,
            received_at: stored.received_at,
            received: Instant::now(),
            trace,
            terms: stored.terms.map(|terms| Box::new(terms.into_owned())),
            payload,
            exchange: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeDispatch;

    #[test]
    fn what_a_change_causes_is_one_deeper_in_the_same_trace() {
        let cx = FakeDispatch::echo().context(Kind::Database, "orders");
        let mut cause = cx.event(Custody::Engine, Bytes::new());
        cause.depth = 3;
        let mut event = cx.event(Custody::Engine, Bytes::new());
        event.adopt_cause(&cause.cause());
        assert_eq!((event.depth, event.parent), (4, Some(cause.invocation_id)));
        assert_eq!(event.trace.trace_id, cause.trace.trace_id);
        for forged in ["", "x", "-1 me", "4294967296"] {
            event.adopt_cause(forged);
            assert_eq!((event.depth, event.parent), (u32::MAX, None), "{forged:?}");
        }
    }
}
