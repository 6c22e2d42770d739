//! CloudEvents come in as what they carry, and each runs once.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.order]
module = "echo.wasm"
triggers = [
    { name = "now", type = "http", method = "POST", path = "/now", cloudevents = true },
    { name = "later", type = "http", method = "POST", path = "/later", mode = "async", cloudevents = true, filter = { attributes = { "ce.type" = [{ prefix = "order." }] } } },
    { type = "pubsub", subject = "orders", durable = true, cloudevents = true, payload_schema = { required = ["amount"] } },
]
"#;

fn event(id: &str, kind: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": kind, "data": { "amount": 7 } })
}

#[tokio::test]
async fn cloud_events_arrive_as_their_data_and_run_once() {
    let project = Project::new("", FUNCTIONS);
    project.guest("echo.component.wasm", "echo.wasm");
    let engine = project.serve().await;
    let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order.paid")];
    let answer = project.http(Method::POST, "/now", &binary, "as it is").await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "as it is"));
    let structured = [("content-type", "application/cloudevents+json")];
    let body = event("2", "order.paid").to_string();
    let answer = project.http(Method::POST, "/now", &structured, body.clone()).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "amount": 7 })));

    // Where it is kept, its source and its id are one event's alone.
    for duplicate in [false, true] {
        let kept = project.http(Method::POST, "/later", &structured, body.clone()).await;
        assert_eq!((kept.status, &kept.json()["duplicate"]), (StatusCode::ACCEPTED, &duplicate.into()));
    }
    let batch = json!([event("2", "order.paid"), event("3", "order.paid"), event("4", "stock.low")]).to_string();
    let headers = [("content-type", "application/cloudevents-batch+json; charset=utf-8")];
    let kept = project.http(Method::POST, "/later", &headers, batch.clone()).await;
    let duplicates: Vec<bool> =
        kept.json().as_array().unwrap().iter().map(|one| one["duplicate"].as_bool().unwrap()).collect();
    assert_eq!((kept.status, duplicates), (StatusCode::ACCEPTED, vec![true, false, false]));
    let ended = async |trigger: &str, parts: &str| {
        let trigger = format!("trigger=\"{trigger}\"");
        project.metric("tripline_invocations_total", &[&trigger, parts]).await
    };
    eventually("the two that match to run", async || ended("later", "outcome=\"ok\"").await == 2).await;
    assert_eq!(ended("later", "filtered").await, 1);

    for (path, headers, body, why) in [
        ("/now", &headers[..], batch.as_str(), "mode = \"async\" only"),
        ("/now", &[], "{}", "specversion is missing"),
        ("/later", &structured, "[]", "an event is an object"),
        ("/later", &headers, "[{}]", "event 0: specversion is missing"),
    ] {
        let refused = project.http(Method::POST, path, headers, body.to_owned()).await;
        let code = (refused.status, refused.json()["code"].clone());
        assert_eq!(code, (StatusCode::BAD_REQUEST, "invalid_cloudevent".into()), "{body}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(why), "{}", refused.text());
    }

    // The same over the bus; what is none comes as it is, and its schema decides.
    let message = |headers: &[(&str, &str)], payload: &str| {
        json!({ "subject": "orders", "headers": headers, "payload": payload }).to_string()
    };
    for (headers, payload) in
        [(&binary[..], r#"{"amount": 1}"#), (&binary, r#"{"amount": 1}"#), (&[], r#"{"amount": 2}"#), (&[], "{}")]
    {
        let published = project.post_admin("/api/v1/publish", &message(headers, payload)).await;
        assert!(published.status.is_success(), "{}", published.text());
    }
    eventually("the messages to end", async || {
        ended("pubsub", "outcome=\"ok\"").await == 2 && ended("pubsub", "dead").await == 1
    })
    .await;
    assert_eq!(ended("pubsub", "duplicate").await, 1);
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    assert!(engine.stop().await.success());
}
