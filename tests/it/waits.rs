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
    let replayed = project.http(Method::POST, "/later", &headers, "hello").await;
    assert_eq!((replayed.status, replayed.text()), (StatusCode::OK, "hello".to_owned()));
    assert_eq!(replayed.headers["idempotent-replayed"], "true");
    let other = project.http(Method::POST, "/later", &headers, "another body").await;
    assert_eq!(
        (other.status, &other.json()["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &"idempotency_key_reused".into())
    );
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
async fn a_synchronous_request_with_a_key_runs_once_and_its_answer_is_told_again() {
    let functions = r#"
        [functions.now]
        module = "steer.wasm"
        retry_count = 3
        dlq_topic = "dead.now"
        triggers = [
            { type = "http", method = "POST", path = "/now" },
            { type = "http", method = "POST", path = "/brief", result_ttl_seconds = 0 },
        ]
    "#;
    let project = Project::new("", functions);
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    let once = [("idempotency-key", "once")];
    let requests = (0..32).map(|_| project.http(Method::POST, "/now", &once, "hello"));
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.text() == "hello"));
    let first = answers.iter().filter(|answer| !answer.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(first, 1, "one ran, and the others were told of it");
    assert_eq!(project.attempts("now").await, [(1, "ok".to_owned())]);

    // It is told of a failure, which is not tried again behind its back, nor when it asks again.
    for replayed in [false, true] {
        let failed = project.http(Method::POST, "/now", &[("idempotency-key", "fails")], "f").await;
        assert_eq!((failed.status, &failed.json()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"guest_error".into()));
        assert_eq!(failed.headers.contains_key("idempotent-replayed"), replayed);
    }
    assert_eq!(project.attempts("now").await.len(), 2);
    assert_eq!(project.json(&["dlq", "list"])["items"].as_array().unwrap().len(), 1, "it was kept, so it is told of");

    // Another request with the key is no duplicate, and one without a key is just itself.
    for (path, body) in [("/now?v=2", "hello"), ("/now", "hell")] {
        let other = project.http(Method::POST, path, &once, body).await;
        let told = (other.status, other.json()["code"].clone());
        assert_eq!(told, (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused".into()), "{path} {body}");
    }
    assert_eq!(project.post("/now", "hello").await.text(), "hello");

    engine.kill();
    let engine = project.serve().await;
    let replayed = project.http(Method::POST, "/now", &once, "hello").await;
    assert_eq!((replayed.status, replayed.text()), (StatusCode::OK, "hello".to_owned()));
    assert_eq!(replayed.headers["idempotent-replayed"], "true");
    let brief = [("idempotency-key", "brief")];
    assert_eq!(project.http(Method::POST, "/brief", &brief, "hello").await.status, StatusCode::OK);
    let forgotten = project.http(Method::POST, "/brief", &brief, "hello").await;
    assert_eq!((forgotten.status, &forgotten.json()["code"]), (StatusCode::GONE, &"result_forgotten".into()));
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    assert!(engine.stop().await.success());
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
