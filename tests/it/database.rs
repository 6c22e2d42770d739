//! Databases as sources of events: real servers and files, the real binary, writers that know nothing of it.

mod channel;
mod sqlite;
mod tables;

use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

/// A project whose database `shop` is on this server, and one function that does as it is told.
fn project(url: &str, trigger: &str) -> Project {
    let project = Project::new(&engine(url), &function(trigger));
    project.guest("steer.wat", "steer.wasm");
    project
}

fn engine(url: &str) -> String {
    format!("[engine.databases.shop]\nurl = {url:?}\n")
}

fn function(trigger: &str) -> String {
    format!(
        "[functions.steer]\nmodule = \"steer.wasm\"\nretry_count = 0\n\
         [[functions.steer.triggers]]\ntype = \"database\"\ndatabase = \"shop\"\n{trigger}\n"
    )
}

/// What health says of the project's trigger.
async fn degraded(project: &Project) -> String {
    project.admin("/health/ready").await["degraded"].to_string()
}

async fn healthy(project: &Project) {
    eventually("the trigger to be healthy", async || degraded(project).await == "[]").await;
}

async fn unhealthy(project: &Project, why: &str) {
    let mut said = String::new();
    eventually(why, async || {
        said = degraded(project).await;
        said.contains(why)
    })
    .await;
}

/// How often the function ended well, as the store has it: traces of an engine's last second die with it.
async fn ok(project: &Project) -> usize {
    let ledger = project.json(&["ledger"]);
    let of_steer = ledger["items"].as_array().unwrap().iter().filter(|row| row["function_name"] == "steer");
    let ended = of_steer.flat_map(|row| row["ended"].as_array().unwrap()).filter(|one| one["outcome"] == "ok");
    ended.map(|one| one["count"].as_u64().unwrap() as usize).sum()
}

/// Waits until the function ended well so often, and no oftener.
async fn eventually_ok(project: &Project, count: usize) {
    eventually(&format!("{count} runs"), async || ok(project).await >= count).await;
    assert_eq!(ok(project).await, count);
}

/// Whether the ledger balances, with nothing left on its way.
fn balanced(project: &Project) -> bool {
    let ledger = project.json(&["ledger"]);
    ledger["items"].as_array().unwrap().iter().all(|row| row["drift"].as_i64() == Some(0))
}

/// Backends of the server that hold an advisory lock.
fn lock_holders(server: &Server) -> String {
    server.query("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted").unwrap()
}

/// What the function was given, of every invocation that ended well, in the order of their first attempts.
async fn events(project: &Project) -> Vec<Value> {
    let traces = project.admin("/api/v1/traces?function=steer&limit=1000").await;
    let mut events = Vec::new();
    for row in traces["items"].as_array().unwrap().iter().rev().filter(|row| row["outcome"] == "ok") {
        let status = project.json(&["status", row["invocation_id"].as_str().unwrap()]);
        events.push(serde_json::from_str(status["body"].as_str().unwrap()).unwrap());
    }
    events
}

/// Has the binary install what captures changes.
fn apply(project: &Project) {
    let output = project.run(&["database", "apply"]);
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
