//! What guests cause: jobs and timers of their own, taken back again, and progress that can be watched.

use http::StatusCode;
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.root]
module = "work.wasm"
retry_count = 1
retry_delay_seconds = 0.05
allow = { jobs = ["leaf"], timers = ["later"] }
[[functions.root.triggers]]
type = "job"
queue = "root"
[[functions.root.triggers]]
type = "http"
method = "POST"
path = "/root"

[functions.leaf]
module = "work.wasm"
timeout_seconds = 60
[[functions.leaf.triggers]]
type = "job"
queue = "leaf"
[[functions.leaf.triggers]]
type = "timer"
timers = "later"
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("work.component.wasm", "work.wasm");
    project
}

fn enqueue(project: &Project, queue: &str, payload: &str) -> String {
    let answer = project.json(&["jobs", "enqueue", queue, payload]);
    answer["invocation_id"].as_str().unwrap().to_owned()
}

async fn state(project: &Project, id: &str) -> Value {
    project.admin(&format!("/api/v1/invocations/{id}")).await
}

async fn ended(project: &Project, id: &str) -> Value {
    eventually("the job to end", async || {
        !["queued", "running"].contains(&state(project, id).await["state"].as_str().unwrap())
    })
    .await;
    state(project, id).await
}

/// The attempts of a function, newest first, as they are traced.
async fn traces(project: &Project, function: &str) -> Vec<Value> {
    let traces = project.admin(&format!("/api/v1/traces?function={function}&limit=1000")).await;
    traces["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_guest_enqueues_a_job_and_sets_a_timer_when_its_attempt_succeeds() {
    let project = project();
    let _engine = project.serve().await;
    let asked = "enqueue leaf from a job\nset later 7 100 from a timer";
    let root = enqueue(&project, "root", asked);
    let answer = ended(&project, &root).await;
    assert_eq!(answer["state"], "ok", "{answer}");
    let job = answer["body"].as_str().unwrap().lines().next().unwrap().to_owned();
    eventually("what it caused", async || traces(&project, "leaf").await.len() == 2).await;
    let cause = traces(&project, "root").await[0].clone();
    let caused = traces(&project, "leaf").await;
    for trace in &caused {
        assert_eq!((&trace["outcome"], &trace["depth"]), (&"ok".into(), &1.into()), "{trace}");
        assert_eq!((&trace["parent"], &trace["trace_id"]), (&cause["invocation_id"], &cause["trace_id"]));
    }
    assert!(caused.iter().any(|trace| trace["trigger_type"] == "timer" && trace["subject"] == "later/7"));
    assert!(caused.iter().any(|trace| trace["trigger_type"] == "job" && trace["invocation_id"] == *job));
    assert_eq!(state(&project, &job).await["body"], "from\n", "the guest's answer to its first word");

    // The same from a request, which no row stands behind.
    let answer = project.post("/root", asked).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    eventually("what the request caused", async || traces(&project, "leaf").await.len() == 4).await;

    // And nothing from attempts that fail.
    let asked = format!("{asked}\nfail");
    let failing = enqueue(&project, "root", &asked);
    assert_eq!(ended(&project, &failing).await["state"], "dead");
    assert_eq!(project.post("/root", asked).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(project.metric("tripline_queue_depth", &[]).await, 0);
    assert_eq!(traces(&project, "leaf").await.len(), 4);
    let denied = project.post("/root", "enqueue root x\nset alarms 7 0").await.text();
    for key in ["functions.root.allow.jobs", "functions.root.allow.timers"] {
        assert!(denied.contains("Denied") && denied.contains(key), "{denied}");
    }
}

#[tokio::test]
async fn a_guest_takes_back_what_waits_and_asks_what_runs_to_end() {
    let project = project();
    let _engine = project.serve().await;
    let waiting = project.json(&["jobs", "enqueue", "leaf", "x", "--delay", "3600"]);
    let waiting = waiting["invocation_id"].as_str().unwrap();
    let running = enqueue(&project, "leaf", "spin");
    eventually("the job to run", async || state(&project, &running).await["state"] == "running").await;
    let other = enqueue(&project, "root", "done");
    ended(&project, &other).await;
    project.json(&["timers", "set", "later", "7", "x", "--after", "1h"]);

    let asked = format!(
        "cancel-job {waiting}\ncancel-job {running}\ncancel-job {other}\ncancel-timer later 7\ncancel-timer later 8"
    );
    let answer = project.post("/root", asked).await.text();
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines[..2], ["Ok(Cancelled::Cancelled)", "Ok(Cancelled::Asked)"], "{answer}");
    assert!(lines[2].contains("Denied"), "a queue that is not granted: {answer}");
    assert_eq!(lines[3..], ["Ok(Cancelled::Cancelled)", "Ok(Cancelled::Unknown)"], "{answer}");
    for id in [waiting, &running] {
        assert_eq!(ended(&project, id).await["state"], "cancelled");
    }
}

#[tokio::test]
async fn a_jobs_progress_can_be_watched() {
    let project = project();
    let _engine = project.serve().await;
    let id = enqueue(&project, "leaf", "progress 20 begun\nprogress 40 two of five\nspin");
    eventually("the progress", async || state(&project, &id).await["progress"]["percent"] == 40.0).await;
    let shown = state(&project, &id).await;
    assert_eq!((&shown["state"], &shown["progress"]["note"]), (&"running".into(), &"two of five".into()));
    project.post_admin(&format!("/api/v1/invocations/{id}/cancel"), "").await;
    assert_eq!(ended(&project, &id).await["state"], "cancelled");
}
