//! Dead letters: what is kept of an invocation that was given up on, how it is told, and which ones are meant.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, Custody, DeadReason, Failure, InvocationContext, Message};
use uuid::Uuid;

use super::{FailedAttempt, QueuedInvocation};
use crate::functions::Digest;

/// An invocation that was given up on. Its JSON is the dead letter's envelope, payload included.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The invocation as it was at its last attempt, payload included.
    pub invocation: InvocationContext,
    /// The version it ran on last; `None` where none could be found.
    pub version: Option<u32>,
    /// That version's module.
    pub digest: Option<Digest>,
    /// Every failed attempt.
    pub attempts: Vec<FailedAttempt>,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The last failure.
    pub failure: Failure,
    /// When.
    pub died_at: DateTime<Utc>,
    /// How often it had been redriven before.
    pub redrive_count: u32,
    /// What to publish about it, and where; `None` where the definition names no topic or publishing could loop. It
    /// goes to the outbox and is not kept with the dead letter: `None` in one that was read back.
    pub publish: Option<Message>,
}

/// A dead letter as it was kept, and when it was redriven, if it was and has not died again since.
pub type KeptDeadLetter = (DeadLetter, Option<DateTime<Utc>>);

/// A dead letter in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// The invocation's identity, which is the dead letter's too.
    pub invocation_id: Uuid,
    /// Where the event came in.
    #[serde(flatten)]
    pub binding: Binding,
    /// What the event was about.
    pub subject: String,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The last failure.
    pub failure: Failure,
    /// Attempts made.
    pub attempts: u32,
    /// When it was given up on.
    pub died_at: DateTime<Utc>,
    /// When it was redriven, if it was since.
    pub redriven_at: Option<DateTime<Utc>>,
    /// Whether its topic has it: `None` where there is none.
    pub published: Option<bool>,
}

/// The most ids that a selector names.
pub const MAX_SELECTED_IDS: usize = 1000;

/// The longest text that a selector looks for, in bytes.
pub(super) const MAX_SELECTED_TEXT_BYTES: usize = 256;

/// Which dead letters: the same for lists, counts, redrives and purges. What is left out selects everything; what is
/// said must hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSelector {
    /// Of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of this function.
    #[serde(rename = "function", skip_serializing_if = "Option::is_none")]
    pub function_name: Option<String>,
    /// Of the trigger with this name.
    #[serde(rename = "trigger", skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<String>,
    /// Given up on for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DeadReason>,
    /// That ran on this version last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// That died at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_after: Option<DateTime<Utc>>,
    /// That died before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_before: Option<DateTime<Utc>>,
    /// With this text in the event's subject or in the last failure's message, ASCII letters in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of these invocations; of any where it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// Also those that were redriven and have not died again since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_redriven: bool,
}

impl DeadLetterSelector {
    /// What is wrong with it: a list or a text beyond its limit.
    pub fn check(&self) -> std::result::Result<(), String> {
        let (ids, text) = (self.ids.len(), self.text.as_deref().unwrap_or_default());
        if ids > MAX_SELECTED_IDS {
            return Err(format!("ids: {ids} are given, at most {MAX_SELECTED_IDS} are taken"));
        }
        if text.len() > MAX_SELECTED_TEXT_BYTES {
            let (size, most) = (text.len(), MAX_SELECTED_TEXT_BYTES);
            return Err(format!("text: it has {size} bytes, at most {most} are taken"));
        }
        if self.text.as_deref() == Some("") {
            return Err("text: it is empty; leave it out to select every text".to_owned());
        }
        Ok(())
    }

    /// Whether it says nothing that tells one dead letter from another, its namespace apart.
    pub fn selects_everything(&self) -> bool {
        let said = Self { namespace: None, include_redriven: false, ..self.clone() };
        said == Self::default()
    }

    /// The text as drivers compare it: ASCII letters are small in both.
    pub(super) fn folded_text(&self) -> Option<String> {
        self.text.as_deref().map(str::to_ascii_lowercase)
    }
}

/// A dead letter's place in the order in which they died. Several may die in one microsecond; their ids tell them
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterPosition {
    /// When it died.
    pub died_at: DateTime<Utc>,
    /// Its invocation.
    pub invocation_id: Uuid,
}

/// A page of a list, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterPage {
    /// Which.
    pub selector: DeadLetterSelector,
    /// Those behind this place: the last one of the page before.
    pub behind: Option<DeadLetterPosition>,
    /// At most this many (and [`MAX_PAGE`](super::MAX_PAGE)).
    pub limit: u32,
}

/// A dead letter that something is to be done about: no more than what is needed to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedDeadLetter {
    /// Where it is.
    pub position: DeadLetterPosition,
    /// Its function's namespace.
    pub namespace: String,
    /// Its function.
    pub function_name: String,
}

/// What a redrive led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// The event is back in the queue, with its first attempt before it.
    Queued,
    /// It was redriven before and has not died since.
    Already,
    /// No such dead letter.
    Unknown,
    /// What is kept of the event cannot be read. The log says why.
    Unreadable,
}

/// How a redriven event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedriveState {
    /// In the queue: it waits, or an attempt runs.
    Queued,
    /// It died again, or was never redriven.
    Dead,
    /// It left the queue and did not die.
    Ended,
    /// There is no dead letter of it.
    Unknown,
}

impl DeadLetter {
    /// The event as it goes back to the queue: same identity, its first attempt before it, on the version that was
    /// chosen or else on the routed one. Nobody but the engine has it any more.
    pub(super) fn redriven(self, version: Option<u32>, run_at: DateTime<Utc>) -> QueuedInvocation {
        let mut invocation = self.invocation;
        invocation.attempt = 1;
        invocation.version = version;
        invocation.custody = Custody::Engine;
        let redrive_count = self.redrive_count.saturating_add(1);
        QueuedInvocation { invocation, run_at, attempts: Vec::new(), redrive_count }
    }

    /// The envelope, as published and exported: a CloudEvent (version 1.0, structured JSON) whose data is the event
    /// with its history.
    pub fn envelope(&self) -> serde_json::Value {
        use base64::Engine as _;
        let invocation = &self.invocation;
        let binding = &invocation.binding;
        let (payload, encoding) = match std::str::from_utf8(&invocation.payload) {
            Ok(text) => (text.to_owned(), "text"),
            Err(_) => (base64::engine::general_purpose::STANDARD.encode(&invocation.payload), "base64"),
        };
        let attributes: BTreeMap<&str, &str> =
            invocation.attributes.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
        serde_json::json!({
            "specversion": "1.0",
            "id": invocation.invocation_id,
            "source": format!("tripline:{}", binding.path()),
            "type": "tripline.dead_letter",
            "subject": invocation.subject,
            "time": self.died_at,
            "datacontenttype": "application/json",
            "traceparent": invocation.trace.traceparent(),
            "data": {
                "id": invocation.invocation_id,
                "namespace": binding.namespace,
                "function": binding.function_name,
                "version": self.version,
                "digest": self.digest,
                "trigger_type": binding.trigger_type,
                "trigger_id": binding.trigger_id,
                "subject": invocation.subject,
                "position": attributes,
                "scheduled_at": invocation.scheduled_at,
                "headers": shown_headers(&invocation.headers),
                "content_type": invocation.content_type,
                "payload": payload,
                "payload_encoding": encoding,
                "payload_bytes": invocation.payload.len(),
                "attempts": self.attempts,
                "reason": self.reason,
                "failure": self.failure,
                "first_seen": invocation.received_at,
                "died_at": self.died_at,
                "depth": invocation.depth,
                "parent": invocation.parent,
                "idempotency_key": invocation.idempotency_token(),
                "redrive_count": self.redrive_count,
                "redriven_from": (self.redrive_count > 0).then_some(invocation.invocation_id),
            },
        })
    }
}

/// What stands in place of a credential.
const MASKED: &str = "(masked)";

/// An event's headers as a dead letter shows them: what proves somebody's identity is masked, since dead letters are
/// read and passed on by others. The kept event has the whole of them, so that a redrive runs it as it came.
fn shown_headers(headers: &trigger_core::Headers) -> serde_json::Value {
    let shown: Vec<(&str, std::borrow::Cow<'_, str>)> = headers
        .iter()
        .map(|(name, value)| match is_credential(name) {
            true => (name, MASKED.into()),
            false => (name, String::from_utf8_lossy(value)),
        })
        .collect();
    serde_json::json!(shown)
}

/// Whether a header of this name carries a credential, by the names that are in use.
fn is_credential(name: &str) -> bool {
    const PARTS: &[&str] =
        &["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "signature"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use trigger_core::{FailureCode, Headers, Kind};

    use super::*;

    #[test]
    fn credentials_in_headers_are_masked_in_a_dead_letter() {
        let binding = Binding {
            namespace: "default".into(),
            function_name: "function".into(),
            trigger_id: "http-1".into(),
            trigger_type: Kind::Http,
        };
        let mut invocation = InvocationContext::new(Arc::new(binding), Custody::Engine, Bytes::new());
        let header = |name: &str, value: &'static str| (name.to_owned(), Bytes::from_static(value.as_bytes()));
        invocation.headers = Headers::List(vec![
            header("Authorization", "Bearer hunter2"),
            header("X-Api-Key", "hunter2"),
            header("cookie", "session=hunter2"),
            header("content-language", "fr"),
        ]);
        let dead = DeadLetter {
            invocation,
            version: None,
            digest: None,
            attempts: Vec::new(),
            reason: DeadReason::Permanent,
            failure: Failure::new(FailureCode::GuestError, "no"),
            died_at: Utc::now(),
            redrive_count: 0,
            publish: None,
        };
        let envelope = dead.envelope().to_string();
        assert!(!envelope.contains("hunter2"), "{envelope}");
        assert!(envelope.contains("content-language") && envelope.contains("\"fr\""), "{envelope}");
    }
}
