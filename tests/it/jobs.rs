//! Jobs: put in a queue from outside, kept, run when they are due.

use http::{Method, StatusCode};

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.work]
module = "steer.wasm"
retry_count = 1
retry_delay_seconds = 0.05
max_input_bytes = 1000
[[functions.work.triggers]]
type = "job"
queue = "work"
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    project
}

#[tokio::test]
async fn a_job_runs_when_it_is_due_and_a_key_is_one_job() {
    let project = project();
    let engine = project.serve().await;
    let id = |answer: serde_json::Value| answer["invocation_id"].as_str().unwrap().to_owned();
    let now = id(project.json(&["jobs", "enqueue", "work", "hello"]));
    eventually("the job to run", async || project.json(&["status", &now])["state"] == "ok").await;

    let first = project.json(&["jobs", "enqueue", "work", "later", "--delay", "2", "--key", "later"]);
    let second = project.json(&["jobs", "enqueue", "work", "other", "--key", "later"]);
    assert_eq!((&second["invocation_id"], &second["duplicate"]), (&first["invocation_id"], &true.into()));
    let later = id(first);
    assert_eq!(project.json(&["status", &later])["state"], "queued");
    // A job that waits survives what it may.
    engine.kill();
    let _engine = project.serve().await;
    eventually("the later job to run", async || project.json(&["status", &later])["state"] == "ok").await;
    let trace = project.admin("/api/v1/traces?function=work").await["items"][0].clone();
    assert_eq!((&trace["invocation_id"], &trace["trigger_type"]), (&later.as_str().into(), &"job".into()));

    let failing = id(project.json(&["jobs", "enqueue", "work", "f"]));
    eventually("the dead letter", async || {
        project.json(&["dlq", "list"])["items"].as_array().unwrap().iter().any(|dead| dead["invocation_id"] == *failing)
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_enqueued_is_told_why() {
    let project = project();
    let _engine = project.serve().await;
    let large = "y".repeat(1001);
    for (arguments, part) in [
        (vec!["jobs", "enqueue", "wrok", "x"], "no function works on queue \"wrok\"; there is work"),
        (vec!["jobs", "enqueue", "work", &large], "the limit is 1000"),
        (vec!["jobs", "enqueue", "work", "x", "--key", ""], "key: it is empty"),
        (vec!["jobs", "enqueue", "work", "x", "--at", "2999-01-01T00:00:00Z"], "run_at"),
        (vec!["jobs", "enqueue", "work", "x", "--delay=-1"], "delay_seconds: -1"),
    ] {
        let output = project.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {part:?} is not in {said}");
    }
    let nobody = project.http(Method::POST, "/api/v1/jobs/work", &[], "{}").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND, "the public listener has no such route");
    assert_eq!(project.metric("tripline_queue_depth", &[]).await, 0);
}

#[test]
fn one_function_works_on_a_queue() {
    let project = project();
    let twice = format!("{FUNCTIONS}\n{}", FUNCTIONS.replace("functions.work", "functions.more"));
    project.manifest("", &twice);
    let output = project.run(&["check"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("worked on twice"));
}
