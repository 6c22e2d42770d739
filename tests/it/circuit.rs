//! A function that fails again and again is left alone, and goes on where it stopped.

use http::StatusCode;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.fragile]
module = "steer.wasm"
retry_count = 2
retry_delay_seconds = 0.05
circuit_breaker = { failures = 3, open_seconds = 2 }
triggers = [
    { type = "http", method = "POST", path = "/fragile" },
    { type = "job", queue = "fragile" },
    { type = "pubsub", subject = "fragile" },
]
"#;

#[tokio::test]
async fn a_circuit_opens_and_closes_and_nothing_is_lost() {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    for _ in 0..3 {
        assert_eq!(project.post("/fragile", "f").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    let refused = project.post("/fragile", "hello").await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"circuit_open".into()));
    let again: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&again), "{again}");
    assert_eq!(refused.json()["retryable"], true);
    assert_eq!(project.metric("tripline_circuit_open", &["fragile"]).await, 1);

    // What nobody else has is kept, whichever way it comes, and runs once the function is tried again.
    for _ in 0..5 {
        project.json(&["jobs", "enqueue", "fragile", "hello"]);
    }
    project.json(&["publish", "fragile", "hello"]);
    let ok =
        async |kind: &str| project.metric("tripline_invocations_total", &[&format!("kind=\"{kind}\""), "ok"]).await;
    eventually("the jobs and the message to run", async || ok("job").await == 5 && ok("pubsub").await == 1).await;
    assert_eq!(project.metric("tripline_circuit_open", &["fragile"]).await, 0);
    assert_eq!(project.post("/fragile", "hello").await.text(), "hello");
    assert_eq!(project.metric("tripline_dead_letters", &[]).await, 0);
    let shed = &["kind=\"http\"", "circuit_open"];
    assert_eq!(project.metric("tripline_invocations_total", shed).await, 1);
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    assert!(engine.stop().await.success());
}
