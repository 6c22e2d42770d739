//! CloudEvents 1.0 on their way in (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>), in the
//! binary, the structured and the batched mode of the HTTP and NATS bindings.
//!
//! The function gets the event's data as its payload, and everything else as attributes `ce.<name>`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::{Custody, InvocationContext, TraceContext, bounds};

/// The media types of events that are documents.
const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// What the headers of the binary mode begin with.
const PREFIX: &str = "ce-";

/// The most events of one batch.
pub const MAX_BATCH: usize = 1000;
/// The most attributes of one event, and the longest value of one, in bytes.
const MAX_ATTRIBUTES: usize = 64;
const MAX_VALUE_BYTES: usize = 4096;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// Every context attribute but `datacontenttype`, `specversion` included.
    attributes: Vec<(String, String)>,
    content_type: Option<String>,
    data: Bytes,
}

/// The events of a message, as its sender counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudEvents {
    /// One event.
    One(CloudEvent),
    /// A batch, which may be empty.
    Batch(Vec<CloudEvent>),
}

impl CloudEvents {
    /// Reads a message: its content type, its headers and its body. The error says what it is not.
    pub fn read<'h>(
        content_type: Option<&str>,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        body: &Bytes,
    ) -> Result<Self, String> {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(STRUCTURED) {
            return CloudEvent::structured(read_json(body)?).map(Self::One);
        }
        if essence.eq_ignore_ascii_case(BATCH) {
            let Value::Array(events) = read_json(body)? else { return Err("a batch is a list of events".to_owned()) };
            if events.len() > MAX_BATCH {
                return Err(format!("a batch has at most {MAX_BATCH} events"));
            }
            let numbered = events.into_iter().enumerate();
            let events =
                numbered.map(|(at, event)| CloudEvent::structured(event).map_err(|why| format!("event {at}: {why}")));
            return events.collect::<Result<_, _>>().map(Self::Batch);
        }
        CloudEvent::binary(content_type, headers, body).map(Self::One)
    }
}

fn read_json(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("it is no JSON: {error}"))
}

impl CloudEvent {
    fn binary<'h>(
        content_type: Option<&str>,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        body: &Bytes,
    ) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for (name, value) in headers {
            let Some(prefix) = name.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX)) else {
                continue;
            };
            let name = name[prefix.len()..].to_ascii_lowercase();
            // HTTP binding, section 3.1.3.2; a value in quotes is another spelling of the same.
            let text = std::str::from_utf8(value).map_err(|_| format!("{name} is not UTF-8"))?;
            let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
            let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
            attributes.push((name, text.into_owned()));
        }
        Self::sound(attributes, content_type.map(str::to_owned), body.clone())
    }

    fn structured(document: Value) -> Result<Self, String> {
        let Value::Object(mut members) = document else { return Err("an event is an object".to_owned()) };
        let content_type = match members.remove("datacontenttype") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return Err("datacontenttype is no text".to_owned()),
        };
        let (data, content_type) = data_of(&mut members, content_type)?;
        let mut attributes = Vec::new();
        for (name, value) in members {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => text,
                value @ (Value::Bool(_) | Value::Number(_)) => value.to_string(),
                Value::Array(_) | Value::Object(_) => return Err(format!("{name} is no text, number or truth value")),
            };
            attributes.push((name, value));
        }
        Self::sound(attributes, content_type, data)
    }

    /// What every event must have (section "Context Attributes").
    fn sound(attributes: Vec<(String, String)>, content_type: Option<String>, data: Bytes) -> Result<Self, String> {
        if attributes.len() > MAX_ATTRIBUTES {
            return Err(format!("an event has at most {MAX_ATTRIBUTES} attributes"));
        }
        for (at, (name, value)) in attributes.iter().enumerate() {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
                return Err("names of attributes are lower-case letters and digits".to_owned());
            }
            if attributes[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("{name} is there twice"));
            }
            if value.len() > MAX_VALUE_BYTES {
                return Err(format!("{name} has {} bytes, the limit is {MAX_VALUE_BYTES}", value.len()));
            }
        }
        let event = Self { attributes, content_type, data };
        for name in ["specversion", "id", "source", "type"] {
            if event.attribute(name).is_none_or(str::is_empty) {
                return Err(format!("{name} is missing"));
            }
        }
        if event.attribute("specversion") != Some("1.0") {
            return Err("specversion is not 1.0".to_owned());
        }
        if event.attribute("time").is_some_and(|time| DateTime::parse_from_rfc3339(time).is_err()) {
            return Err("time is no moment of RFC 3339".to_owned());
        }
        Ok(event)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Makes an invocation that of this event: its data, its type, its attributes, its place in a trace. Where the event
    /// is kept, it is known by its source and its id, which are one event's alone; whose caller proved who it is has
    /// events of its own, so that nobody is told of another's.
    pub fn apply(self, event: &mut InvocationContext) {
        if event.custody == Custody::Engine && event.idempotency_key.is_none() {
            let names = [event.caller.as_deref(), self.attribute("source"), self.attribute("id")];
            let names: Vec<&str> = names.into_iter().flatten().collect();
            event.idempotency_key = Some(bounds::fit_key(names.join(" ").into()));
        }
        if event.headers.get("traceparent").is_none()
            && let Some(parent) = self.attribute("traceparent")
            && let Some(trace) = TraceContext::parse(parent, self.attribute("tracestate"))
        {
            event.trace = trace;
        }
        let Self { attributes, content_type, data } = self;
        event.payload = data;
        event.content_type = content_type.map(Into::into);
        event.attributes.extend(attributes.into_iter().map(|(name, value)| (format!("ce.{name}").into(), value)));
    }
}

/// The data of a document, and its type.
fn data_of(members: &mut Map<String, Value>, content_type: Option<String>) -> Result<(Bytes, Option<String>), String> {
    let json = || content_type.clone().or_else(|| Some("application/json".to_owned()));
    match (members.remove("data"), members.remove("data_base64")) {
        (Some(_), Some(_)) => Err("it has both data and data_base64".to_owned()),
        (None, None) => Ok((Bytes::new(), content_type)),
        (None, Some(Value::String(text))) => match STANDARD.decode(text) {
            Ok(bytes) => Ok((bytes.into(), content_type)),
            Err(_) => Err("data_base64 is no Base64".to_owned()),
        },
        (None, Some(_)) => Err("data_base64 is no text".to_owned()),
        // JSON format, section 3.1.1: a text is itself unless its type says that it is JSON.
        (Some(Value::String(text)), None) if !content_type.as_deref().is_none_or(is_json) => {
            Ok((text.into(), content_type))
        }
        (Some(data), None) => Ok((data.to_string().into(), json())),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::Kind;
    use crate::testing::FakeDispatch;

    fn structured(document: &Value) -> Result<CloudEvents, String> {
        CloudEvents::read(Some(STRUCTURED), [].into_iter(), &document.to_string().into())
    }

    fn event() -> Value {
        json!({ "specversion": "1.0", "id": "7", "source": "/orders", "type": "order.paid" })
    }

    fn with(members: Value) -> Value {
        let mut event = event();
        event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        event
    }

    fn applied(event: CloudEvents) -> InvocationContext {
        let CloudEvents::One(event) = event else { panic!("one event was expected") };
        let mut context = FakeDispatch::echo().context(Kind::Http, "t").event(Custody::Engine, Bytes::new());
        event.apply(&mut context);
        context
    }

    #[test]
    fn both_modes_are_the_same_event() {
        let headers = [
            ("ce-specversion", "1.0"),
            ("Ce-Id", "7"),
            ("ce-source", "/orders"),
            ("CE-Type", "order.paid"),
            ("ce-subject", "caf%C3%A9 %221%22"),
            ("ce-time", "2026-11-21T10:00:00Z"),
            ("ce-shard", "3"),
            ("x-other", "no"),
        ];
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let binary = CloudEvents::read(Some("application/json"), headers, &Bytes::from_static(b"{\"a\":1}")).unwrap();
        let document = with(json!({
            "subject": "café \"1\"", "time": "2026-11-21T10:00:00Z", "shard": 3, "nothing": null,
            "datacontenttype": "application/json", "data": { "a": 1 }
        }));
        let (binary, structured) = (applied(binary), applied(structured(&document).unwrap()));
        for context in [&binary, &structured] {
            assert_eq!(
                (&context.payload[..], context.content_type.as_deref()),
                (&b"{\"a\":1}"[..], Some("application/json"))
            );
            assert_eq!(context.attribute("ce.subject"), Some("café \"1\""));
            assert_eq!((context.attribute("ce.type"), context.attribute("ce.shard")), (Some("order.paid"), Some("3")));
            assert_eq!(context.idempotency_key.as_deref(), Some("/orders 7"));
        }
        assert_eq!(structured.attribute("ce.nothing"), None);
    }

    #[test]
    fn callers_have_events_of_their_own_and_long_names_fit() {
        let of = |caller: Option<&str>, event: Value| {
            let Ok(CloudEvents::One(event)) = structured(&event) else { panic!("one event was expected") };
            let mut context = FakeDispatch::echo().context(Kind::Http, "t").event(Custody::Engine, Bytes::new());
            context.caller = caller.map(Into::into);
            event.apply(&mut context);
            context.idempotency_key.unwrap()
        };
        assert_eq!(&*of(Some("token:ci"), event()), "token:ci /orders 7");
        let long = |end: &str| of(None, with(json!({ "id": format!("{}{end}", "x".repeat(4000)) })));
        assert!(long("a").starts_with("sha256:") && long("a").len() == 71);
        assert_eq!(long("a"), long("a"));
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn data_is_what_its_type_says() {
        for (members, data, content_type) in [
            (json!({}), &b""[..], None),
            (json!({ "data": "text" }), b"\"text\"", Some("application/json")),
            (json!({ "data": "text", "datacontenttype": "text/plain" }), b"text", Some("text/plain")),
            (
                json!({ "data": "text", "datacontenttype": "application/x+json" }),
                b"\"text\"",
                Some("application/x+json"),
            ),
            (json!({ "data": [1], "datacontenttype": "text/plain" }), b"[1]", Some("text/plain")),
            (json!({ "data_base64": "/wA=" }), b"\xff\0", None),
        ] {
            let context = applied(structured(&with(members.clone())).unwrap());
            assert_eq!((&context.payload[..], context.content_type.as_deref()), (data, content_type), "{members}");
        }
    }

    #[test]
    fn what_is_no_event_is_told_why() {
        let many: Map<String, Value> = (0..MAX_ATTRIBUTES).map(|number| (format!("a{number}"), json!("x"))).collect();
        for (document, why) in [
            (json!([]), "an event is an object"),
            (with(json!({ "id": "" })), "id is missing"),
            (with(json!({ "source": null })), "source is missing"),
            (with(json!({ "specversion": "0.3" })), "specversion is not 1.0"),
            (with(json!({ "time": "yesterday" })), "time is no moment"),
            (with(json!({ "Upper": "x" })), "lower-case"),
            (with(json!({ "list": [] })), "list is no text"),
            (with(json!({ "data": 1, "data_base64": "" })), "both data and data_base64"),
            (with(json!({ "data_base64": "?" })), "no Base64"),
            (with(json!({ "datacontenttype": 1 })), "datacontenttype is no text"),
            (with(json!({ "subject": "x".repeat(MAX_VALUE_BYTES + 1) })), "subject has 4097 bytes"),
            (with(Value::Object(many)), "at most 64 attributes"),
        ] {
            let told = structured(&document).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        let none = CloudEvents::read(Some("application/json"), [].into_iter(), &Bytes::new());
        assert_eq!(none, Err("specversion is missing".to_owned()));
        let twice = [("ce-id", &b"1"[..]), ("CE-ID", b"2")];
        assert!(CloudEvents::read(None, twice.into_iter(), &Bytes::new()).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_batch_is_a_list_of_events() {
        let batch = |document: &Value| CloudEvents::read(Some(BATCH), [].into_iter(), &document.to_string().into());
        assert_eq!(batch(&json!([])), Ok(CloudEvents::Batch(Vec::new())));
        assert!(matches!(batch(&json!([event(), event()])), Ok(CloudEvents::Batch(events)) if events.len() == 2));
        assert!(batch(&json!([event(), {}])).unwrap_err().starts_with("event 1: specversion"));
        assert!(batch(&event()).is_err());
        assert!(batch(&Value::Array(vec![event(); MAX_BATCH + 1])).unwrap_err().contains("at most 1000"));
    }

    #[test]
    fn the_trace_of_an_event_goes_on() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = applied(structured(&with(json!({ "traceparent": parent }))).unwrap());
        assert_eq!(context.trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    }

    proptest! {
        #[test]
        fn anything_is_an_event_or_a_reason(content_type in "(application/cloudevents(-batch)?\\+json)?", body in "\\PC{0,200}", name in "(ce-)?[a-zA-Z]{0,8}", value in any::<Vec<u8>>()) {
            let _ = CloudEvents::read(Some(&content_type), [(&*name, &*value)].into_iter(), &body.into());
        }
    }
}
