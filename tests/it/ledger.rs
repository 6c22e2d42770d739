//! The ledger: whatever happens, every event that was accepted is somewhere.

use http::Method;
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.work]
module = "steer.wasm"
timeout_seconds = 60
retry_count = 1
retry_delay_seconds = 0.05
max_input_bytes = 100
[[functions.work.triggers]]
type = "job"
queue = "work"
max_backlog = 20
[[functions.work.triggers]]
type = "timer"
timers = "reminders"
[[functions.work.triggers]]
type = "http"
method = "POST"
path = "/now"
[[functions.work.triggers]]
type = "http"
name = "later"
method = "POST"
path = "/later"
mode = "async"
"#;

/// How many events of a trigger ended in one way.
fn ended(row: &Value, outcome: &str) -> u64 {
    let ended = row["ended"].as_array().unwrap().iter().filter(|ended| ended["outcome"] == *outcome);
    ended.map(|ended| ended["count"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn every_event_that_was_accepted_is_somewhere() {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    let ledger = |trigger: &str| {
        let ledger = project.json(&["ledger"]);
        ledger["items"].as_array().unwrap().iter().find(|row| row["trigger_id"] == *trigger).cloned().unwrap()
    };
    // Jobs that end well, die, are cancelled waiting and running, are duplicates, are refused, wait.
    for payload in ["x", "y", "f"] {
        project.json_of(&["jobs", "enqueue", "work", payload, "--wait", "30s"]);
    }
    let waiting = project.json(&["jobs", "enqueue", "work", "x", "--delay", "1h", "--unique-key", "u"]);
    project.json(&["jobs", "enqueue", "work", "x", "--delay", "1h", "--unique-key", "u"]);
    project.run(&["jobs", "cancel", waiting["invocation_id"].as_str().unwrap()]);
    let running = project.json(&["jobs", "enqueue", "work", "s"])["invocation_id"].as_str().unwrap().to_owned();
    eventually("the loop to run", async || project.json(&["status", &running])["state"] == "running").await;
    assert_eq!(ledger("job")["running"], 1);
    project.run(&["jobs", "cancel", &running]);
    project.json_of(&["status", &running, "--wait", "30s"]);
    assert!(!project.run(&["jobs", "enqueue", "work", &"y".repeat(101)]).status.success());
    project.json(&["jobs", "enqueue", "work", "x", "--delay", "1h"]);
    let job = ledger("job");
    let counts = ["ok", "dead", "cancelled", "skipped", "shed"].map(|outcome| ended(&job, outcome));
    assert_eq!(counts, [2, 1, 2, 1, 1], "{job}");
    assert_eq!((&job["accepted"], &job["queued"], &job["drift"]), (&8.into(), &1.into(), &0.into()), "{job}");

    // Timers, one of them replaced; requests of both kinds, one of them a duplicate.
    project.json(&["timers", "set", "reminders", "a", "x", "--after", "1h"]);
    project.json(&["timers", "set", "reminders", "a", "x", "--after", "2h"]);
    for input in ["x", "f"] {
        project.post("/now", input).await;
    }
    let headers = [("idempotency-key", "k"), ("prefer", "wait=30")];
    for _ in 0..3 {
        project.http(Method::POST, "/later", &headers, "x").await;
    }
    let (timer, now, later) = (ledger("timer"), ledger("http"), ledger("later"));
    assert_eq!((&timer["accepted"], ended(&timer, "cancelled"), &timer["queued"]), (&2.into(), 1, &1.into()));
    assert_eq!((&now["accepted"], ended(&now, "ok"), ended(&now, "failed")), (&2.into(), 1, 1), "{now}");
    assert_eq!((&later["accepted"], ended(&later, "ok"), ended(&later, "skipped")), (&3.into(), 1, 2), "{later}");

    // A crash forgets nothing that was accepted, and counts nothing twice.
    engine.kill();
    let _engine = project.serve().await;
    let output = project.run(&["ledger"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    assert!(table.contains("DRIFT") && table.contains("default/work/job"), "{table}");
    for row in project.json(&["ledger"])["items"].as_array().unwrap() {
        assert_eq!(row["drift"], 0, "{row}");
    }
    assert_eq!(ledger("job"), job);
    let metrics = project.metric("tripline_ledger_drift", &[]).await;
    assert_eq!((metrics, project.metric("tripline_queue_lag_seconds", &["trigger=\"job\""]).await), (0, 0));

    // What is due and waits is as late as its moment is past.
    project.json(&["jobs", "pause", "work"]);
    project.json(&["jobs", "enqueue", "work", "x", "--at", "2020-01-01T00:00:00Z"]);
    assert!(project.metric("tripline_queue_lag_seconds", &["trigger=\"job\""]).await > 3600);
    assert!(ledger("job")["lag_seconds"].as_f64().unwrap() > 3600.0);
}
