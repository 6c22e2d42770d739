//! The event that a function is called for.

use std::time::{Duration, SystemTime};

use crate::Failure;
use crate::bindings::Context;
use crate::bindings::tripline::function::invocation;

/// The kind of trigger that an event came in by.
pub use crate::bindings::tripline::function::types::TriggerKind as Trigger;

/// An event. What nearly every handler asks is in its fields; the rest is asked of the engine when it is needed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Identity of the invocation, the same over all its attempts.
    pub id: String,
    /// The kind of trigger that it came in by.
    pub trigger: Trigger,
    /// What it is about: a path, a subject, a trigger's name.
    pub subject: String,
    /// Media type of the payload, where it is known.
    pub content_type: Option<String>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// What it brings.
    pub payload: Vec<u8>,
}

impl Event {
    /// An event for tests: the first attempt of a job.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            id: "01890000-0000-7000-8000-000000000000".to_owned(),
            trigger: Trigger::Job,
            subject: String::new(),
            content_type: None,
            attempt: 1,
            payload: payload.into(),
        }
    }

    pub(crate) fn of(context: Context, payload: Vec<u8>) -> Self {
        let Context { invocation_id, trigger, subject, content_type, attempt } = context;
        Self { id: invocation_id, trigger, subject, content_type, attempt, payload }
    }

    /// The payload as text. That it is none will not change: the failure is permanent.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.payload)
            .map_err(|error| Failure::permanent(format!("the payload is no UTF-8 text: {error}")))
    }

    /// The payload read as JSON. That it does not fit will not change: the failure is permanent.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Failure::permanent(format!("the payload is not the JSON that was expected: {error}")))
    }

    /// What the caller calls this request; the invocation's id if it did not say.
    pub fn request_id(&self) -> String {
        invocation::request_id()
    }

    /// The function's namespace.
    pub fn namespace(&self) -> String {
        invocation::namespace()
    }

    /// The function's name.
    pub fn function_name(&self) -> String {
        invocation::function_name()
    }

    /// Number of the version that runs.
    pub fn version(&self) -> u32 {
        invocation::version()
    }

    /// Name of the trigger, unique in its function.
    pub fn trigger_id(&self) -> String {
        invocation::trigger_id()
    }

    /// Who called, where that is known.
    pub fn caller(&self) -> Option<String> {
        invocation::caller()
    }

    /// The same over every attempt and every delivery of one event: hand it on to whom must not do it twice.
    pub fn idempotency_token(&self) -> String {
        invocation::idempotency_token()
    }

    /// How many functions led here.
    pub fn depth(&self) -> u32 {
        invocation::depth()
    }

    /// The invocation that caused this one.
    pub fn parent(&self) -> Option<String> {
        invocation::parent()
    }

    /// When it arrived.
    pub fn received_at(&self) -> SystemTime {
        time(invocation::received_at())
    }

    /// The moment that a schedule or a timer meant.
    pub fn scheduled_at(&self) -> Option<SystemTime> {
        invocation::scheduled_at().map(time)
    }

    /// What is left of the attempt's time.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(invocation::remaining())
    }

    /// Every header that came with it.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        invocation::headers()
    }

    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        invocation::header(name)
    }

    /// What its trigger says of it: `method`, `path`, `query` (HTTP), `stream`, `sequence` (JetStream), …
    pub fn attribute(&self, name: &str) -> Option<String> {
        invocation::attribute(name)
    }

    /// Everything that its trigger says of it.
    pub fn attributes(&self) -> Vec<(String, String)> {
        invocation::attributes()
    }

    /// A parameter of an HTTP route's path: `{id}` in `/orders/{id}`.
    pub fn param(&self, name: &str) -> Option<String> {
        invocation::attribute(&format!("param.{name}"))
    }

    /// The socket that it came from, where it came from one.
    pub fn client(&self) -> Option<String> {
        invocation::attribute("socket").filter(|_| self.trigger == Trigger::Websocket)
    }

    /// W3C trace context of this attempt.
    pub fn traceparent(&self) -> String {
        invocation::traceparent()
    }
}

fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_what_it_is() {
        assert_eq!(Event::new("é").text().unwrap(), "é");
        assert!(!Event::new(*b"\xff").text().unwrap_err().is_retryable());
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_that_does_not_fit_never_will() {
        #[derive(Debug, serde::Deserialize)]
        struct Order<'a> {
            item: &'a str,
        }
        let event = Event::new(r#"{"item": "kettle"}"#);
        assert_eq!(event.json::<Order<'_>>().unwrap().item, "kettle");
        let event = Event::new("{}");
        let failure = event.json::<Order<'_>>().unwrap_err();
        assert!(!failure.is_retryable() && failure.message().contains("missing field `item`"), "{failure:?}");
    }
}
