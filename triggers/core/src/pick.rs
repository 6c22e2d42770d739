//! Where in an event a key is found, by which events are told apart or put in order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{InvocationContext, Problems, bounds};

/// The most tokens of a subject.
const MAX_TOKENS: u32 = 256;

/// The place of a key in an event: one of its headers, of its subject's tokens, or of the values in its JSON payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    /// A header's name; its first value counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A token of the subject, from 1: of `orders.7.paid` the second is `7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub subject_token: Option<u32>,
    /// A JSON Pointer (RFC 6901) into the payload: `"/order/id"`. A text, a number or a truth value counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Pick {
    /// Every mistake in it.
    pub fn check(&self, problems: &mut Problems) {
        let given = [self.header.is_some(), self.subject_token.is_some(), self.pointer.is_some()]
            .iter()
            .filter(|is| **is)
            .count();
        if given != 1 {
            let help = "give one of header, subject_token and pointer";
            problems.push(crate::Problem {
                path: problems.at().to_vec(),
                message: format!("{given} places are named, and a key has one"),
                help: Some(help.to_owned()),
            });
        }
        if self
            .header
            .as_deref()
            .is_some_and(|name| name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != ':'))
        {
            problems.add("header", "it is not the name of a header", "write its name without a colon: \"Order-Id\"");
        }
        if let Some(token) = self.subject_token.filter(|token| !(1..=MAX_TOKENS).contains(token)) {
            problems.add("subject_token", format!("it is {token}"), format!("choose from 1 to {MAX_TOKENS}"));
        }
        if self.pointer.as_deref().is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            problems.add("pointer", "a JSON Pointer begins with a slash", "write \"/order/id\"");
        }
    }

    /// The key of an event; `None` where it has none. One that is longer than keys may be stands for itself by its
    /// digest.
    pub fn of(&self, event: &InvocationContext) -> Option<Box<str>> {
        let key: Box<str> = if let Some(name) = &self.header {
            event.headers.get_str(name)?.into()
        } else if let Some(token) = self.subject_token {
            event.subject.split('.').nth(token as usize - 1)?.into()
        } else {
            let payload: serde_json::Value = serde_json::from_slice(&event.payload).ok()?;
            match payload.pointer(self.pointer.as_deref()?)? {
                serde_json::Value::String(text) => text.as_str().into(),
                value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => value.to_string().into(),
                _ => return None,
            }
        };
        (!key.is_empty()).then(|| bounds::fit_key(key))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::FakeDispatch;
    use crate::{Custody, Headers, Kind};

    fn event(subject: &str, payload: &str) -> InvocationContext {
        let mut event = FakeDispatch::echo()
            .context(Kind::Pubsub, "t")
            .event(Custody::Engine, Bytes::copy_from_slice(payload.as_bytes()));
        event.subject = subject.into();
        event.headers = Headers::List(vec![("Order-Id".into(), Bytes::from_static(b"7"))]);
        event
    }

    fn pick(json: serde_json::Value) -> Pick {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_key_is_found_where_it_was_said_to_be() {
        let event = event("orders.8.paid", r#"{"order": {"id": "9", "number": 10, "items": []}, "": ""}"#);
        for (json, expected) in [
            (serde_json::json!({ "header": "order-id" }), Some("7")),
            (serde_json::json!({ "header": "other" }), None),
            (serde_json::json!({ "subject_token": 2 }), Some("8")),
            (serde_json::json!({ "subject_token": 4 }), None),
            (serde_json::json!({ "pointer": "/order/id" }), Some("9")),
            (serde_json::json!({ "pointer": "/order/number" }), Some("10")),
            (serde_json::json!({ "pointer": "/order/items" }), None),
            (serde_json::json!({ "pointer": "/order/missing" }), None),
            (serde_json::json!({ "pointer": "/" }), None),
        ] {
            assert_eq!(pick(json.clone()).of(&event).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_not_json_has_no_key_and_a_long_key_is_told_by_its_digest() {
        let id = pick(serde_json::json!({ "pointer": "/id" }));
        assert_eq!(id.of(&event("s", "no json")), None);
        let of_length = |length: usize| id.of(&event("s", &format!(r#"{{"id": "{}"}}"#, "x".repeat(length)))).unwrap();
        assert_eq!(of_length(bounds::MAX_KEY).len(), bounds::MAX_KEY);
        let long = of_length(bounds::MAX_KEY + 1);
        assert!(long.starts_with("sha256:") && long.len() == 71, "{long}");
        assert_ne!(long, of_length(bounds::MAX_KEY + 2));
    }

    #[test]
    fn a_place_that_is_none_or_two_is_refused() {
        for (json, key) in [
            (serde_json::json!({}), ""),
            (serde_json::json!({ "header": "a", "pointer": "/a" }), ""),
            (serde_json::json!({ "header": "a:" }), "header"),
            (serde_json::json!({ "subject_token": 0 }), "subject_token"),
            (serde_json::json!({ "pointer": "id" }), "pointer"),
        ] {
            let mut problems = Problems::new();
            pick(json.clone()).check(&mut problems);
            let problems = problems.into_vec();
            assert_eq!(problems.len(), 1, "{json}");
            assert_eq!(crate::display_path(&problems[0].path).to_string(), key);
        }
    }
}
