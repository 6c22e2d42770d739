//! Durable request and response: the event is kept, then run, then its caller is answered.

use http::{Method, StatusCode};

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.later]
module = "steer.wasm"
timeout_seconds = 60
retry_count = 1
retry_delay_seconds = 0.05
[[functions.later.triggers]]
type = "http"
method = "POST"
path = "/later"
mode = "async"
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    project
}

#[tokio::test]
async fn a_caller_that_waits_gets_the_result_of_what_was_kept_for_it() {
    let project = project();
    let engine = project.serve().await;
    let headers = [("prefer", "wait=30"), ("idempotency-key", "order-7")];
    let answer = project.http(Method::POST, "/later", &headers, "hello").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello".to_owned()));
    assert_eq!(answer.headers["preference-applied"], "wait=30");
    let failed = project.http(Method::POST, "/later", &[("prefer", "wait=30")], "f").await;
    assert_eq!((failed.status, &failed.json()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"guest_error".into()));
    assert_eq!(failed.json()["reason"], "retries_exhausted", "it is answered after its last attempt");

    // The same key is the same event, also after a crash: its result is told again.
    engine.kill();
    let _engine = project.serve().await;
    let replayed = project.http(Method::POST, "/later", &headers, "something else").await;
    assert_eq!((replayed.status, replayed.text()), (StatusCode::OK, "hello".to_owned()));
    let duplicate = project.http(Method::POST, "/later", &headers[1..], "hello").await;
    assert_eq!((duplicate.status, &duplicate.json()["duplicate"]), (StatusCode::ACCEPTED, &true.into()));
}

#[tokio::test]
async fn a_storm_of_one_key_is_one_run_and_one_result_for_all() {
    let project = project();
    let _engine = project.serve().await;
    let headers = [("prefer", "wait=30"), ("idempotency-key", "once")];
    let requests = (0..32).map(|_| project.http(Method::POST, "/later", &headers, "hello"));
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello".to_owned()));
    }
    assert_eq!(project.attempts("later").await, [(1, "ok".to_owned())]);
}

#[tokio::test]
async fn a_wait_that_was_too_short_is_answered_202_and_stops_nothing() {
    let project = project();
    let engine = project.serve().await;
    let answer = project.http(Method::POST, "/later", &[("prefer", "wait=1")], "s").await;
    assert_eq!(
        (answer.status, &answer.headers["preference-applied"]),
        (StatusCode::ACCEPTED, &"wait=1".parse().unwrap())
    );
    let id = answer.json()["invocation_id"].as_str().unwrap().to_owned();
    assert_eq!(project.json(&["status", &id])["state"], "running");
    assert_eq!(project.run(&["status", &id, "--wait", "0.1"]).status.code(), Some(3), "it has not ended");
    project.run(&["jobs", "cancel", &id]);
    eventually("it to end", async || project.json(&["status", &id])["state"] == "cancelled").await;
    assert_eq!(project.get(answer.headers["location"].to_str().unwrap()).await.status, StatusCode::GONE);
    assert!(engine.stop().await.success());
}
