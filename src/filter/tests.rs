use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};
use trigger_core::{Binding, Custody, Headers, InvocationContext, Kind};

use super::*;

fn event(payload: &str) -> InvocationContext {
    let binding = Binding {
        namespace: "default".into(),
        function_name: "function".into(),
        trigger_id: "trigger".into(),
        trigger_type: Kind::Http,
    };
    let mut event =
        InvocationContext::new(Arc::new(binding), Custody::Caller, Bytes::copy_from_slice(payload.as_bytes()));
    event.subject = "orders.7.paid".into();
    event.attributes = vec![("method".into(), "POST".into()), ("param.id".into(), "7".into())];
    let mut headers = HeaderMap::new();
    headers.append("x-kind", HeaderValue::from_static("one"));
    headers.append("x-kind", HeaderValue::from_static("two"));
    headers.append("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap());
    event.headers = Headers::Http(Box::new(headers));
    event
}

const ORDER: &str = r#"{
    "status": "paid", "amount": 120, "rate": 0.5, "note": null, "tags": ["new", "large"],
    "customer": { "name": "Zoë", "vip": true }, "lines": [{ "sku": "A", "n": 1 }, { "sku": "B", "n": 9 }], "none": []
}"#;

fn matches(filter: Value) -> bool {
    Filter::read(&filter).unwrap_or_else(|mistake| panic!("{filter}: {mistake:?}")).matches(&event(ORDER))
}

#[test]
fn every_test_matches_what_it_says_and_nothing_else() {
    for (tests, of, expected) in [
        (json!(["paid"]), "status", true),
        (json!(["open", "paid"]), "status", true),
        (json!(["open"]), "status", false),
        (json!([120]), "amount", true),
        (json!([120.0]), "amount", true),
        (json!(["120"]), "amount", false),
        (json!([null]), "note", true),
        (json!([null]), "missing", false),
        (json!([{ "prefix": "pa" }]), "status", true),
        (json!([{ "prefix": "id" }]), "status", false),
        (json!([{ "prefix": "1" }]), "amount", false),
        (json!([{ "suffix": "id" }]), "status", true),
        (json!([{ "equals-ignore-case": "PAID" }]), "status", true),
        (json!([{ "wildcard": "p*d" }]), "status", true),
        (json!([{ "wildcard": "p*x*d" }]), "status", false),
        (json!([{ "wildcard": "paid" }]), "status", true),
        (json!([{ "numeric": [">", 119, "<=", 120] }]), "amount", true),
        (json!([{ "numeric": ["<", 120] }]), "amount", false),
        (json!([{ "numeric": ["=", 0.5] }]), "rate", true),
        (json!([{ "numeric": [">=", 0] }]), "status", false),
        (json!([{ "exists": true }]), "note", true),
        (json!([{ "exists": true }]), "none", true),
        (json!([{ "exists": false }]), "missing", true),
        (json!([{ "exists": false }]), "status", false),
        (json!([{ "anything-but": "open" }]), "status", true),
        (json!([{ "anything-but": ["open", "paid"] }]), "status", false),
        (json!([{ "anything-but": { "prefix": "pa" } }]), "status", false),
        (json!([{ "anything-but": "open" }]), "missing", false),
        (json!(["large"]), "tags", true),
        (json!(["small"]), "tags", false),
        (json!(["small"]), "none", false),
    ] {
        assert_eq!(matches(json!({ "payload": { of: tests.clone() } })), expected, "{of} {tests}");
    }
}

#[test]
fn tables_ask_for_all_and_alternatives_for_one() {
    assert!(matches(json!({ "payload": { "customer": { "name": ["Zoë"], "vip": [true] }, "status": ["paid"] } })));
    assert!(!matches(json!({ "payload": { "customer": { "name": ["Zoë"], "vip": [false] } } })));
    assert!(matches(json!({ "payload": { "lines": { "sku": ["B"], "n": [9] } } })));
    assert!(!matches(json!({ "payload": { "lines": { "sku": ["A"], "n": [9] } } })), "of one element");
    assert!(matches(json!({ "payload": { "$or": [{ "status": ["open"] }, { "amount": [120] }] } })));
    assert!(!matches(json!({ "payload": { "status": ["paid"], "$or": [{ "amount": [1] }] } })));
    assert!(matches(json!({ "$or": [{ "subject": ["x"] }, { "payload": { "status": ["paid"] } }] })));
}

#[test]
fn what_is_beside_the_payload_is_text() {
    for (filter, expected) in [
        (json!({ "subject": [{ "wildcard": "orders.*.paid" }] }), true),
        (json!({ "subject": ["orders"] }), false),
        (json!({ "attributes": { "method": ["POST"], "param.id": [7] } }), true),
        (json!({ "attributes": { "param.id": [{ "numeric": [">", 6] }] } }), true),
        (json!({ "attributes": { "query": [{ "exists": false }] } }), true),
        (json!({ "headers": { "X-Kind": ["two"] } }), true),
        (json!({ "headers": { "x-kind": ["three"] } }), false),
        (json!({ "headers": { "x-none": [{ "exists": false }] } }), true),
        (json!({ "headers": { "x-bytes": [{ "exists": true }] } }), false),
        (json!({ "content_type": [{ "exists": false }] }), true),
    ] {
        assert_eq!(matches(filter.clone()), expected, "{filter}");
    }
}

#[test]
fn what_is_not_json_has_nothing_that_is_asked_for() {
    for payload in ["", "paid", "{", &"[".repeat(100_000)] {
        for filter in [json!({ "payload": { "status": [{ "exists": false }] } }), json!({ "payload": ["paid"] })] {
            assert!(!Filter::read(&filter).unwrap().matches(&event(payload)), "{filter}");
        }
    }
    assert!(Filter::read(&json!({ "payload": ["paid"] })).unwrap().matches(&event("\"paid\"")));
}

#[test]
fn mistakes_say_where_they_are() {
    let deep = (0..40).fold(json!(["x"]), |inner, _| json!({ "a": inner }));
    let many = json!({ "subject": (0..300).collect::<Vec<_>>() });
    for (filter, path, message) in [
        (json!([]), "", "expected a table"),
        (json!({}), "", "matches everything"),
        (json!({ "body": ["x"] }), "body", "no such part"),
        (json!({ "subject": "x" }), "subject", "expected an array"),
        (json!({ "subject": [] }), "subject", "not empty"),
        (json!({ "subject": [["x"]] }), "subject", "an array within an array"),
        (json!({ "subject": [{ "prefix": 1 }] }), "subject.prefix", "expected a text"),
        (json!({ "subject": [{ "prefix": "a", "suffix": "b" }] }), "subject", "one key"),
        (json!({ "subject": [{ "cidr": "10.0.0.0/8" }] }), "subject.cidr", "no such test"),
        (json!({ "subject": [{ "numeric": [">"] }] }), "subject.numeric", "one or two comparisons"),
        (json!({ "subject": [{ "numeric": ["!", 1] }] }), "subject.numeric", "expected \"<\""),
        (json!({ "subject": [{ "anything-but": { "exists": true } }] }), "subject.anything-but", "cannot be negated"),
        (json!({ "payload": { "a": { "b": 1 } } }), "payload.a.b", "expected a table"),
        (json!({ "$or": [] }), "$or", "array of patterns"),
        (json!({ "payload": deep }), "payload", "tables deep"),
        (many, "subject", "at most 256 things"),
    ] {
        let mistake = Filter::read(&filter).unwrap_err();
        assert!(mistake.path.join(".").starts_with(path), "{filter}: {mistake:?}");
        assert!(mistake.message.contains(message), "{filter}: {mistake:?}");
    }
}

proptest! {
    /// The pieces of a text in their order, with stars between them, match it, and what has none of them does not.
    #[test]
    fn a_wildcard_matches_what_it_was_made_from(
        pieces in prop::collection::vec("[a-cé]{0,3}", 1..6),
        between in prop::collection::vec("[a-dé]{0,3}", 6),
    ) {
        let text: String = pieces.iter().zip(&between).map(|(piece, between)| format!("{piece}{between}")).collect();
        let pattern = format!("{}*", pieces.join("*"));
        let wildcard = |pattern: &str, text: &str| {
            let filter = Filter::read(&json!({ "payload": [{ "wildcard": pattern }] })).unwrap();
            filter.matches(&event(&serde_json::to_string(text).unwrap()))
        };
        prop_assert!(wildcard(&pattern, &text));
        let other = pattern + "x";
        prop_assert!(!wildcard(&other, &text));
    }
}
