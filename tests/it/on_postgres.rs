//! The engine on a real PostgreSQL server: `store = "postgres://…"`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::StatusCode;
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::found::free_port;
use crate::support::postgres::Server;

/// One function that does as it is told.
const STEER: &str = r#"
[functions.steer]
module = "steer.wasm"
timeout_seconds = 5
retry_count = 2
retry_delay_seconds = 2
retry = { backoff = "fixed", jitter = "none" }
dlq_topic = "dead.steer"

[[functions.steer.triggers]]
type = "http"
method = "POST"
path = "/later"
mode = "async"

[[functions.steer.triggers]]
type = "pubsub"
subject = "steer.*"
"#;

fn project(server: &Server, engine: &str) -> Project {
    let project = Project::new(&format!("store = \"{}\"\n{engine}", server.url()), STEER);
    project.guest("steer.wat", "steer.wasm");
    project
}

async fn dead(project: &Project) -> Option<Value> {
    project.admin("/api/v1/dead-letters").await["items"].as_array().and_then(|items| items.first().cloned())
}

#[tokio::test]
async fn the_main_job_works_on_postgres_and_a_retry_survives_kill_9() {
    let server = Server::own();
    let project = project(&server, "");
    let engine = project.serve().await;
    assert!(project.run(&["publish", "steer.one", "f"]).status.success());
    eventually("the first attempt", async || project.attempts("steer").await.len() == 1).await;
    engine.kill();
    let waiting = server.query("SELECT attempt, claim_token IS NULL FROM tripline.queue").unwrap();
    assert_eq!(waiting, "2|t", "the retry is a row");

    let engine = project.serve().await;
    eventually("the dead letter", async || dead(&project).await.is_some()).await;
    let id = dead(&project).await.unwrap()["invocation_id"].as_str().unwrap().to_owned();
    let shown = project.json(&["dlq", "show", &id]);
    assert_eq!(shown["data"]["reason"], "retries_exhausted");
    assert_eq!(shown["data"]["attempts"].as_array().unwrap().len(), 3, "no attempt was lost or made twice");
    eventually("its publication", async || dead(&project).await.unwrap()["published"] == true).await;
    assert_eq!(project.json(&["dlq", "redrive", &id])["items"][0]["state"], "queued");
    eventually("it to die again", async || project.json(&["dlq", "show", &id])["data"]["redrive_count"] == 1).await;

    let answer = project.post("/later", "kept").await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    eventually("the result", async || project.get(&location).await.status == StatusCode::OK).await;
    assert_eq!(project.get(&location).await.text(), "kept");
    assert!(project.path(".tripline/cache").is_dir(), "compiled code is kept beside the manifest");
    assert!(engine.stop().await.success());
}

/// Sleeps four seconds by the clock, then says "done".
const SLEEPER: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 300) "done")
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 4000000000))
    (drop (call $poll (i32.const 0) (i32.const 104) (i32.const 1) (i32.const 200)))
    (i32.store (i32.const 0) (i32.const 300))
    (i32.store (i32.const 4) (i32.const 4))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::test]
async fn two_engines_share_a_queue_and_one_takes_over_what_the_other_held() {
    const LEASE: Duration = Duration::from_secs(2);
    let server = Server::own();
    let manifest = r#"
[functions.slow]
module = "slow.wasm"
timeout_seconds = 30
[[functions.slow.triggers]]
type = "http"
method = "POST"
path = "/slow"
mode = "async"
"#;
    let project = |keys: &str| {
        let engine = format!("store = \"{}\"\nlease_seconds = {}\n{keys}", server.url(), LEASE.as_secs());
        let project = Project::new(&engine, manifest);
        project.wat(SLEEPER, "slow.wasm");
        project
    };
    let (small, large) = (project("max_concurrency = 2"), project(""));
    let engine = small.serve().await;
    let _other = large.serve().await;
    let mut locations = Vec::new();
    for _ in 0..6 {
        let answer = small.post("/slow", "").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        locations.push(answer.headers["location"].to_str().unwrap().to_owned());
    }
    let held = "SELECT count(*) FROM tripline.queue WHERE claim_token IS NOT NULL";
    eventually("every row to be held", async || server.query(held).as_deref() == Ok("6")).await;
    engine.kill();
    let killed_at = trigger_core::Clock::system().now();
    for location in &locations {
        eventually("the result", async || large.get(location).await.status == StatusCode::OK).await;
        assert_eq!(large.get(location).await.text(), "done");
    }
    // Every attempt that ended was the first: a claim that ran out costs none. The trace of one may be a moment late.
    eventually("the traces", async || large.attempts("slow").await.len() == 6).await;
    assert!(large.attempts("slow").await.iter().all(|(number, outcome)| *number == 1 && outcome == "ok"));
    let traces = large.admin("/api/v1/traces?function=slow&limit=100").await;
    let began = traces["items"].as_array().unwrap().iter().map(|row| row["started_at"].as_str().unwrap());
    let last = began.map(|moment| moment.parse::<DateTime<Utc>>().unwrap()).max().unwrap();
    // A lease, a poll, and what a busy machine takes.
    let late = (last - killed_at).to_std().unwrap_or_default();
    assert!(late < LEASE + Duration::from_secs(3), "taken over after {late:?}");
}

#[tokio::test]
async fn a_server_that_crashes_is_waited_for_and_nothing_accepted_is_lost() {
    let mut server = Server::own();
    let project = project(&server, "");
    let _engine = project.serve().await;
    assert_eq!(project.post("/later", "f").await.status, StatusCode::ACCEPTED);
    eventually("the first attempt", async || project.attempts("steer").await.len() == 1).await;
    server.kill();
    let refused = project.post("/later", "not kept").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "nothing is acknowledged that was not kept");
    assert!(!refused.text().contains("127.0.0.1"), "strangers are not told where the store is: {}", refused.text());
    server.restart();
    eventually("work again", async || project.post("/later", "kept").await.status == StatusCode::ACCEPTED).await;
    eventually("the dead letter of what waited", async || dead(&project).await.is_some()).await;
    let id = dead(&project).await.unwrap()["invocation_id"].as_str().unwrap().to_owned();
    assert_eq!(project.json(&["dlq", "show", &id])["data"]["attempts"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_one_clear_line() {
    let port = free_port();
    let project = Project::new(&format!("store = \"postgres://me:hunter2@127.0.0.1:{port}/app\""), STEER);
    project.guest("steer.wat", "steer.wasm");
    let output = project.run(&["serve"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&format!("127.0.0.1:{port}/app")) && !told.contains("hunter2"), "{told}");
    assert!(project.run(&["check"]).status.success(), "a check needs no server");
}

#[tokio::test]
async fn a_job_in_the_callers_transaction_runs_when_it_commits() {
    let server = Server::own();
    let manifest = r#"
[functions.echo]
module = "steer.wasm"
max_input_bytes = 100

[[functions.echo.triggers]]
type = "job"
queue = "mail"
"#;
    let project = Project::new(&format!("store = \"{}\"", server.url()), manifest);
    project.guest("steer.wat", "steer.wasm");
    let _engine = project.serve().await;
    server.query("CREATE TABLE orders (id int)").unwrap();
    let order = |end: &str| {
        let sql = format!("BEGIN; INSERT INTO orders VALUES (7); SELECT tripline.enqueue('mail', 'hello'); {end}");
        server.query(&sql).unwrap()
    };
    order("ROLLBACK");
    order("COMMIT");
    eventually("the job", async || project.attempts("echo").await.len() == 1).await;
    assert_eq!(server.query("SELECT count(*) FROM orders").as_deref(), Ok("1"));
    // It was woken by the commit, and what was rolled back never was: the queue is empty, the ledger knows of one.
    eventually("its end", async || server.query("SELECT count(*) FROM tripline.queue").as_deref() == Ok("0")).await;
    let accepted = "SELECT sum(count) FROM tripline.ledger WHERE outcome = 'accepted'";
    assert_eq!(server.query(accepted).as_deref(), Ok("1"));
    let refusal = server.query("SELECT tripline.enqueue('male', 'hello')").unwrap_err();
    assert!(refusal.contains("no function works on queue 'male'") && refusal.contains("there is mail"), "{refusal}");
    let refusal = server.query("SELECT tripline.enqueue('mail', repeat('x', 101))").unwrap_err();
    assert!(refusal.contains("the payload has 101 bytes"), "{refusal}");
}
