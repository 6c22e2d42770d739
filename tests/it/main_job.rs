//! The main job, from outside: events become function calls that are retried, dead-lettered and traced.

use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

/// One function that does as it is told, behind every kind of trigger.
const STEER: &str = r#"
[functions.steer]
module = "steer.wasm"
timeout_seconds = 1
retry_count = 2
retry_delay_seconds = 0.05
retry = { jitter = "none" }
dlq_topic = "dead.steer"

[[functions.steer.triggers]]
type = "http"
method = "POST"
path = "/steer/{id}"

[[functions.steer.triggers]]
type = "http"
method = "POST"
path = "/later"
mode = "async"

[[functions.steer.triggers]]
type = "http"
path = "/patient"
retry_count = 1

[[functions.steer.triggers]]
type = "pubsub"
subject = "steer.*"
queue_group = "steer"

# Sees the dead letters, as any subscriber of the topic does.
[functions.undertaker]
module = "steer.wasm"
[[functions.undertaker.triggers]]
type = "pubsub"
subject = "dead.>"
"#;

fn project(functions: &str) -> Project {
    let project = Project::new("", functions);
    project.guest("steer.wat", "steer.wasm");
    project
}

/// The id of the only (or newest) dead letter.
fn dead_letter(project: &Project) -> Option<String> {
    let listed = project.json(&["dlq", "list"]);
    listed["items"].as_array().unwrap().first().map(|dead| dead["invocation_id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_request_is_answered_and_traced() {
    let project = project(STEER);
    let _engine = project.serve().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", traceparent), ("x-request-id", "order-7")];
    let answer = project.http(Method::POST, "/steer/7", &headers, "hello").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello".to_owned()));
    assert_eq!(answer.headers["x-request-id"], "order-7");

    let listed = project.json(&["traces"]);
    let row = &listed["items"][0];
    assert_eq!(row["function_name"], "steer");
    assert_eq!((&row["outcome"], &row["attempt"], &row["version"]), (&"ok".into(), &1.into(), &1.into()));
    assert_eq!((&row["input_bytes"], &row["output_bytes"]), (&5.into(), &5.into()));
    assert_eq!(row["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(row["parent_span_id"], "b7ad6b7169203331");
    assert_eq!(row["request_id"], "order-7");
    assert!(row["memory_peak_bytes"].as_u64().unwrap() >= 4 * 65_536);
    for phase in ["instantiate", "run"] {
        assert!(row["phases"][phase].as_u64().unwrap() > 0, "{phase}: {row}");
    }
    assert!(row["cpu"].as_u64().unwrap() > 0, "{row}");
    let id = row["invocation_id"].as_str().unwrap();
    let shown = String::from_utf8(project.run(&["traces", "show", id]).stdout).unwrap();
    for part in [id, "attempt 1", "version 1: ok", "wait", "instantiate", "settle", "in 5 B", "processor"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[tokio::test]
async fn a_request_is_tried_again_while_its_caller_waits() {
    let project = project(STEER);
    let _engine = project.serve().await;
    assert_eq!(project.post("/patient", "hello").await.status, StatusCode::OK);
    assert_eq!(project.post("/patient", "f").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let expected = [(1, "ok"), (1, "retry"), (2, "failed")].map(|(number, word)| (number, word.to_owned()));
    assert_eq!(project.attempts("steer").await, expected);
}

#[tokio::test]
async fn a_message_that_fails_is_retried_dead_lettered_published_and_redriven() {
    let project = project(STEER);
    let _engine = project.serve().await;
    let published = project.run(&["publish", "steer.one", "f"]);
    assert!(published.status.success());
    eventually("the dead letter", async || dead_letter(&project).is_some()).await;
    let id = dead_letter(&project).unwrap();
    let shown = project.json(&["dlq", "show", &id]);
    let data = &shown["data"];
    assert_eq!((&data["reason"], &data["function"]), (&"retries_exhausted".into(), &"steer".into()));
    assert_eq!((&data["payload"], &data["subject"]), (&"f".into(), &"steer.one".into()));
    let attempts = data["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3);
    assert_eq!(attempts[0]["failure"]["code"], "guest_error");
    assert!(attempts[0]["failure"]["message"].as_str().unwrap().contains("told to fail"));
    let delays: Vec<&Value> = attempts.iter().map(|attempt| &attempt["retry_delay_ms"]).collect();
    assert_eq!(delays, [&Value::from(50), &Value::from(100), &Value::Null], "the backoff doubles");
    let outcomes = project.attempts("steer").await;
    let expected = [(1, "retry"), (2, "retry"), (3, "dead")].map(|(number, word)| (number, word.to_owned()));
    assert_eq!(outcomes, expected);

    // The topic's subscriber has it too, one deeper than the event that died.
    eventually("the dead letter on its topic", async || project.attempts("undertaker").await.len() == 1).await;
    let traces = project.admin("/api/v1/traces?function=undertaker").await;
    let row = &traces["items"][0];
    assert_eq!((&row["subject"], &row["depth"]), (&"dead.steer".into(), &1.into()));
    assert_eq!(row["parent"], Value::from(id.clone()));
    eventually("the list to say so", async || project.json(&["dlq", "list"])["items"][0]["published"] == true).await;

    let redriven = project.json(&["dlq", "redrive", &id]);
    assert_eq!(redriven["items"][0]["state"], "queued");
    eventually("three more attempts", async || project.attempts("steer").await.len() == 6).await;
    eventually("it to die again", async || project.json(&["dlq", "show", &id])["data"]["redrive_count"] == 1).await;
    let again = project.json(&["dlq", "show", &id]);
    assert_eq!(again["data"]["redriven_from"], Value::from(id.clone()));
}

#[tokio::test]
async fn an_asynchronous_request_is_kept_before_it_is_answered() {
    let project = project(STEER);
    let engine = project.serve().await;
    let answer = project.post("/later", "kept").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    // Whatever happens next, the event is there.
    engine.kill();
    let _engine = project.serve().await;
    eventually("the result", async || project.get(&location).await.status == StatusCode::OK).await;
    assert_eq!(project.get(&location).await.text(), "kept");

    let answer = project.post("/later", "f").await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    eventually("the failure", async || project.get(&location).await.status == StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(project.get("/_tripline/invocations/01890000-0000-7000-8000-000000000000").await.status, 404);
}

#[tokio::test]
async fn the_same_key_is_one_event() {
    let project = project(STEER);
    let _engine = project.serve().await;
    let send = || project.http(Method::POST, "/later", &[("idempotency-key", "k1")], "once");
    let answers = futures_util::future::join_all((0..20).map(|_| send())).await;
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| answer.json()["invocation_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1, "every duplicate is told the first one's id");
    eventually("the one run", async || !project.attempts("steer").await.is_empty()).await;
    assert_eq!(project.attempts("steer").await.len(), 1);
}

#[tokio::test]
async fn a_schedule_fires_and_tells_what_it_is() {
    let project = project(
        r#"
[functions.tick]
module = "steer.wasm"
[[functions.tick.triggers]]
type = "cron"
schedule = "* * * * * *"
timezone = "Europe/Paris"
"#,
    );
    let engine = project.serve().await;
    eventually("two fires", async || project.attempts("tick").await.len() >= 2).await;
    let traces = project.admin("/api/v1/traces?function=tick").await;
    let id = traces["items"][0]["invocation_id"].as_str().unwrap().to_owned();
    let status = project.json(&["status", &id]);
    let payload: Value = serde_json::from_str(status["body"].as_str().unwrap()).unwrap();
    assert_eq!((&payload["schedule"], &payload["timezone"]), (&"* * * * * *".into(), &"Europe/Paris".into()));
    let time = |name: &str| payload[name].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let late = time("fired_at") - time("scheduled_at");
    assert!(late >= chrono::TimeDelta::zero() && late < chrono::TimeDelta::seconds(5), "{late}");
    assert_eq!(payload["missed"], 0);
    drop(engine);

    // Each instant is one row: a restart fires none of them again.
    let engine = project.serve().await;
    let before = project.attempts("tick").await.len();
    eventually("another fire", async || project.attempts("tick").await.len() > before).await;
    let traces = project.admin("/api/v1/traces?function=tick&limit=1000").await;
    let rows = traces["items"].as_array().unwrap();
    let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row["invocation_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    drop(engine);
}

#[tokio::test]
async fn a_retry_survives_kill_9_with_its_time_and_number() {
    let project = project(&STEER.replace("retry_delay_seconds = 0.05", "retry_delay_seconds = 3"));
    let engine = project.serve().await;
    project.run(&["publish", "steer.one", "f"]);
    eventually("the first attempt", async || project.attempts("steer").await.len() == 1).await;
    let first = project.admin("/api/v1/traces?function=steer").await["items"][0].clone();
    assert_eq!(first["retry_delay_ms"], 3000);
    // The row is there when the trace says so; the trace itself is written a moment later.
    engine.kill();
    let _engine = project.serve().await;
    eventually("the second attempt", async || project.attempts("steer").await.iter().any(|(number, _)| *number == 2))
        .await;
    let traces = project.admin("/api/v1/traces?function=steer").await;
    let rows = traces["items"].as_array().unwrap();
    let second = rows.iter().find(|row| row["attempt"] == 2).unwrap();
    assert_eq!(second["invocation_id"], first["invocation_id"]);
    let began = |row: &Value| row["started_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let failed = began(&first);
    let gap = began(second) - failed;
    assert!(gap >= chrono::TimeDelta::milliseconds(2_990), "not before its time: {gap}");
    assert!(rows.iter().all(|row| row["attempt"] != 3 || row["started_at"].as_str() > second["started_at"].as_str()));
}

#[tokio::test]
async fn a_signal_lets_what_is_under_way_end() {
    let project = project(
        r#"
[functions.slow]
module = "slow.wasm"
[[functions.slow.triggers]]
type = "http"
path = "/slow"
"#,
    );
    // Sleeps 700 ms by polling the clock, then says "done".
    project.wat(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 300) "done")
          (func (export "_start")
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const 700000000))
            (drop (call $poll (i32.const 0) (i32.const 104) (i32.const 1) (i32.const 200)))
            (i32.store (i32.const 0) (i32.const 300))
            (i32.store (i32.const 4) (i32.const 4))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        "slow.wasm",
    );
    let mut engine = project.serve().await;
    let (answer, status) = tokio::join!(project.get("/slow"), async {
        eventually("the attempt", async || project.metric("tripline_attempts_running", &[]).await == 1).await;
        engine.signal(rustix::process::Signal::TERM);
        engine.wait().await
    });
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done".to_owned()));
    assert!(status.success(), "{status}: {}", engine.log());
}

#[tokio::test]
async fn a_drain_hands_back_what_does_not_end_and_counts_no_attempt() {
    let functions = STEER.replace("timeout_seconds = 1", "timeout_seconds = 60");
    let project = Project::new("drain_seconds = 0.3", &functions);
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    let answer = project.post("/later", "s").await;
    let id = answer.json()["invocation_id"].as_str().unwrap().to_owned();
    eventually("the attempt", async || project.metric("tripline_attempts_running", &[]).await == 1).await;
    let status = engine.stop().await;
    assert!(status.success());
    let _engine = project.serve().await;
    eventually("the row to run again", async || project.json(&["status", &id])["state"] == "running").await;
    assert_eq!(project.json(&["status", &id])["attempts"], 1, "the cut attempt does not count");
}
