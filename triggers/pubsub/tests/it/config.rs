//! Sections of the manifest: what they mean, what is refused and with what advice.

use serde_json::{Value, json};
use trigger_core::{Problems, TriggerKind as _, display_path};
use trigger_pubsub::{Config, Pubsub};

fn config(section: &Value) -> Config {
    serde_json::from_value(section.clone()).unwrap_or_else(|error| panic!("{section}: {error}"))
}

/// The mistakes in a section: key, message, advice.
fn mistakes(section: &Value, over_nats: bool) -> Vec<(String, String, String)> {
    let mut problems = Problems::new();
    Pubsub::checks_only(over_nats).check(&config(section), &mut problems);
    problems
        .into_vec()
        .into_iter()
        .map(|problem| (display_path(&problem.path).to_string(), problem.message, problem.help.unwrap()))
        .collect()
}

#[test]
fn sound_sections_pass() {
    for section in [
        json!({ "subject": "orders.*.created" }),
        json!({ "subject": ">", "queue_group": "all", "max_in_flight": 1 }),
        json!({ "subject": "a", "durable": true, "guarantee": "at_least_once" }),
        json!({ "subject": "a", "guarantee": "at_most_once", "reply": false }),
    ] {
        assert_eq!(mistakes(&section, false), [], "{section}");
        assert_eq!(mistakes(&section, true), [], "{section}");
    }
    for section in [
        json!({ "stream": "WORK", "consumer": "steer" }),
        json!({ "stream": "WORK", "consumer": "steer", "subject": "work.>", "batch": 10000, "max_in_flight": 65536,
                "ack_wait_seconds": 0.5, "deliver_policy": "last_per_subject", "guarantee": "at_least_once" }),
        json!({ "stream": "WORK", "consumer": "steer", "durable": true, "ordering_key": { "subject_token": 2 },
                "dedup_key": { "pointer": "/id" }, "dedup_window_seconds": 60, "max_backlog": 5, "double_ack": true,
                "start_sequence": 7 }),
        json!({ "stream": "WORK", "consumer": "steer", "start_time": "2027-01-01T00:00:00Z" }),
    ] {
        assert_eq!(mistakes(&section, true), [], "{section}");
    }
}

#[test]
fn every_mistake_is_told_at_its_key_with_what_would_be_right() {
    for (section, key, message, help) in [
        (json!({}), "subject", "neither subject nor stream", "name a subject"),
        (json!({ "subject": "a..b" }), "subject", "\"a..b\" is not valid: it has an empty token", "dots between"),
        (json!({ "subject": "a.>.b" }), "subject", "may only be the last token", "at the end"),
        (json!({ "subject": "a", "queue_group": "" }), "queue_group", "it is empty", "write a word"),
        (json!({ "subject": "a", "queue_group": "a b" }), "queue_group", "it has ' '", "write a word"),
        (json!({ "subject": "a", "max_in_flight": 0 }), "max_in_flight", "is 0", "1 to 65536"),
        (json!({ "subject": "a", "consumer": "c" }), "consumer", "no stream is given", "add stream"),
        (json!({ "subject": "a", "batch": 5 }), "batch", "no stream is given", "leave it out"),
        (json!({ "subject": "a", "ack_wait_seconds": 5 }), "ack_wait_seconds", "no stream is given", "leave it out"),
        (json!({ "subject": "a", "deliver_policy": "new" }), "deliver_policy", "no stream is given", "leave it out"),
        (json!({ "subject": "a", "guarantee": "at_least_once" }), "guarantee", "at most once", "durable = true"),
        (
            json!({ "subject": "a", "guarantee": "at_most_once", "durable": true }),
            "guarantee",
            "at least once",
            "leave out durable",
        ),
        (json!({ "stream": "S" }), "consumer", "needs the name", "add consumer"),
        (json!({ "stream": "a.b", "consumer": "c" }), "stream", "it has '.'", "without spaces"),
        (json!({ "stream": "S", "consumer": "a*" }), "consumer", "it has '*'", "without spaces"),
        (json!({ "stream": "S", "consumer": "c", "queue_group": "g" }), "queue_group", "not for streams", "share"),
        (
            json!({ "subject": "a", "ordering_key": { "header": "K" } }),
            "ordering_key",
            "have no keys",
            "durable = true",
        ),
        (
            json!({ "subject": "a", "durable": true, "ordering_key": { "header": "K" }, "max_in_flight": 2 }),
            "max_in_flight",
            "one at a time",
            "key by key",
        ),
        (json!({ "subject": "a", "durable": true, "dedup_key": {} }), "dedup_key", "0 places", "give one of"),
        (
            json!({ "subject": "a", "durable": true, "dedup_key": { "header": "K", "pointer": "/k" } }),
            "dedup_key",
            "2 places",
            "give one of",
        ),
        (
            json!({ "subject": "a", "durable": true, "dedup_window_seconds": 5 }),
            "dedup_window_seconds",
            "no dedup_key",
            "leave it out",
        ),
        (
            json!({ "subject": "a", "durable": true, "dedup_key": { "header": "K" }, "dedup_window_seconds": 0 }),
            "dedup_window_seconds",
            "is 0",
            "1 to 31622400",
        ),
        (json!({ "subject": "a", "durable": true, "max_backlog": 5 }), "max_backlog", "for streams", "leave it out"),
        (json!({ "stream": "S", "consumer": "c", "max_backlog": 5 }), "max_backlog", "durable = true", "leave it out"),
        (json!({ "subject": "a", "double_ack": true }), "double_ack", "no stream is given", "leave it out"),
        (json!({ "subject": "a", "start_sequence": 5 }), "start_sequence", "no stream is given", "leave it out"),
        (
            json!({ "subject": "a", "start_time": "2027-01-01T00:00:00Z" }),
            "start_time",
            "no stream is given",
            "add stream",
        ),
        (json!({ "stream": "S", "consumer": "c", "start_time": "now" }), "start_time", "is no moment", "2027-01-01"),
        (json!({ "stream": "S", "consumer": "c", "start_sequence": 0 }), "start_sequence", "is 0", "count from 1"),
        (
            json!({ "stream": "S", "consumer": "c", "start_sequence": 1, "deliver_policy": "new" }),
            "deliver_policy",
            "begins in one place",
            "give one of",
        ),
        (json!({ "stream": "S", "consumer": "c", "reply": false }), "reply", "not for streams", "nobody awaits"),
        (json!({ "stream": "S", "consumer": "c", "batch": 10001 }), "batch", "is 10001", "1 to 10000"),
        (
            json!({ "stream": "S", "consumer": "c", "ack_wait_seconds": 0.1 }),
            "ack_wait_seconds",
            "is 0.1",
            "0.5 to 86400",
        ),
        (
            json!({ "stream": "S", "consumer": "c", "ack_wait_seconds": -1e300 }),
            "ack_wait_seconds",
            "is -1",
            "0.5 to 86400",
        ),
        (
            json!({ "stream": "S", "consumer": "c", "guarantee": "at_most_once" }),
            "guarantee",
            "at least once",
            "leave out",
        ),
    ] {
        let told = mistakes(&section, true);
        assert_eq!(told.len(), 1, "{section}: {told:?}");
        assert_eq!(told[0].0, key, "{section}");
        assert!(told[0].1.contains(message) && told[0].2.contains(help), "{section}: {told:?}");
    }
}

#[test]
fn all_mistakes_of_a_section_are_told_at_once() {
    let section =
        json!({ "stream": "a b", "subject": "", "durable": true, "max_in_flight": 0, "guarantee": "at_most_once" });
    let keys: Vec<String> = mistakes(&section, false).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["subject", "stream", "stream", "consumer", "guarantee", "max_in_flight"]);
}

#[test]
fn a_stream_needs_a_bus_that_is_nats() {
    let told = mistakes(&json!({ "stream": "S", "consumer": "c" }), false);
    assert_eq!((told.len(), &*told[0].0), (1, "stream"));
    assert!(told[0].1.contains("needs bus = \"nats://"), "{told:?}");
}

#[test]
fn long_names_are_cut_in_messages() {
    let told = mistakes(&json!({ "subject": "x".repeat(100_000) }), false);
    assert!(told[0].1.len() < 300, "{told:?}");
}

#[test]
fn unknown_keys_and_words_are_refused() {
    for section in [
        json!({ "subject": "a", "topic": "b" }),
        json!({ "subject": "a", "guarantee": "exactly_once" }),
        json!({ "stream": "S", "consumer": "c", "deliver_policy": "first" }),
        json!({ "subject": "a", "max_in_flight": -1 }),
    ] {
        assert!(serde_json::from_value::<Config>(section.clone()).is_err(), "{section}");
    }
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for (key, property) in schema["properties"].as_object().unwrap() {
        assert!(property["description"].is_string(), "{key} has no entry in the reference");
    }
}

#[test]
fn a_section_survives_being_written_and_read() {
    for section in [
        json!({ "subject": "a", "reply": true }),
        json!({ "subject": "a", "reply": false, "durable": true, "queue_group": "g" }),
        json!({ "stream": "S", "consumer": "c", "ack_wait_seconds": 2 }),
    ] {
        let typed = config(&section);
        assert_eq!(config(&serde_json::to_value(&typed).unwrap()), typed);
    }
}

#[test]
fn descriptions_say_what_is_listened_to() {
    let kind = Pubsub::checks_only(true);
    for (section, expected) in [
        (json!({ "subject": "a.*" }), "a.*"),
        (json!({ "subject": "a.*", "queue_group": "billing", "durable": true }), "a.* (queue group billing, durable)"),
        (json!({ "stream": "WORK", "consumer": "c" }), "stream WORK (consumer c)"),
        (json!({ "stream": "WORK", "consumer": "c", "subject": "w.>" }), "stream WORK (consumer c, w.>)"),
        (json!({ "stream": "WORK", "consumer": "c", "durable": true }), "stream WORK (consumer c, durable)"),
    ] {
        assert_eq!(kind.describe(&config(&section)), expected);
    }
}

#[test]
fn a_consumer_belongs_to_one_trigger() {
    let kind = Pubsub::checks_only(true);
    let one = config(&json!({ "stream": "WORK", "consumer": "c" }));
    let same = config(&json!({ "stream": "WORK", "consumer": "c", "subject": "w.a" }));
    let reason = kind.conflict(&one, &same).unwrap();
    assert!(reason.contains("\"c\"") && reason.contains("\"WORK\""), "{reason}");
    for other in [
        json!({ "stream": "WORK", "consumer": "d" }),
        json!({ "stream": "W", "consumer": "c" }),
        json!({ "subject": "a" }),
    ] {
        assert_eq!(kind.conflict(&one, &config(&other)), None);
    }
    let subject = config(&json!({ "subject": "a" }));
    assert_eq!(kind.conflict(&subject, &subject), None, "everybody may listen");
}
