//! Filters of triggers: patterns that an event must match to be run.
//!
//! The language is that of EventBridge's event patterns
//! (<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html>): a table names what must match, all
//! of it; an array lists what may be there, any of it. Its first level is `subject`, `content_type`, `headers`,
//! `attributes` and `payload` (as JSON), and `$or` anywhere lists patterns of which one must match. Everything is read and
//! bounded when the manifest is; a match takes time in proportion to the event.

mod matcher;
mod pattern;

use serde_json::Value;
use trigger_core::InvocationContext;

use self::pattern::{Node, Test};

/// Tests in one filter, however deep.
const MAX_TESTS: usize = 256;
/// How deep tables may lie in each other: as deep as JSON is read in payloads.
const MAX_DEPTH: usize = 32;

/// A filter that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    event: Event,
}

/// What is asked of an event.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    subject: Option<Vec<Test>>,
    content_type: Option<Vec<Test>>,
    headers: Vec<(String, Vec<Test>)>,
    attributes: Vec<(String, Vec<Test>)>,
    payload: Option<Node>,
    /// One of these must match too.
    or: Option<Vec<Event>>,
}

/// Why a filter cannot be read: where in it, what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The keys that lead there.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Filter {
    /// Reads a filter.
    pub fn read(filter: &Value) -> Result<Self, Mistake> {
        let mut reader = pattern::Reader::default();
        Ok(Self { event: reader.event(filter, 0)? })
    }

    /// Whether it asks for anything of the payload.
    pub fn asks_for_payload(&self) -> bool {
        self.event.asks_for_payload()
    }

    /// Whether an event is to be run. A payload that is not JSON matches nothing that is asked of it.
    pub fn matches(&self, invocation: &InvocationContext) -> bool {
        // Read once, and only where somebody asks.
        let payload = std::cell::OnceCell::new();
        let payload = || payload.get_or_init(|| serde_json::from_slice(&invocation.payload).ok()).as_ref();
        self.event.matches(invocation, &payload)
    }
}

impl Event {
    fn asks_for_payload(&self) -> bool {
        self.payload.is_some() || self.or.iter().flatten().any(Event::asks_for_payload)
    }

    fn matches<'a>(&self, invocation: &InvocationContext, payload: &dyn Fn() -> Option<&'a Value>) -> bool {
        let text = |tests: &Option<Vec<Test>>, value: Option<&str>| {
            tests.as_ref().is_none_or(|tests| matcher::any_text(tests, value))
        };
        text(&self.subject, Some(&invocation.subject))
            && text(&self.content_type, invocation.content_type.as_deref())
            && self.attributes.iter().all(|(name, tests)| matcher::any_text(tests, invocation.attribute(name)))
            && self.headers.iter().all(|(name, tests)| {
                let mut values = invocation.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).peekable();
                match values.peek() {
                    None => matcher::any_text(tests, None),
                    Some(_) => values.any(|(_, value)| {
                        std::str::from_utf8(value).is_ok_and(|value| matcher::any_text(tests, Some(value)))
                    }),
                }
            })
            && self.payload.as_ref().is_none_or(|node| payload().is_some_and(|value| matcher::node(node, Some(value))))
            && self.or.as_ref().is_none_or(|or| or.iter().any(|event| event.matches(invocation, payload)))
    }
}

#[cfg(test)]
mod tests;
