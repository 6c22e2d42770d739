//! Dead letters from outside: found, repaired, redriven, purged, and removed by retention.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.steer]
module = "steer.wasm"
retry_count = 0
[[functions.steer.triggers]]
type = "job"
queue = "steer"

[functions.other]
module = "other.wasm"
retry_count = 0
[[functions.other.triggers]]
type = "job"
name = "orders"
queue = "other"
"#;

/// A guest that does nothing, and that well.
const REPAIRED: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

fn project(engine: &str) -> Project {
    let project = Project::new(engine, FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    project.guest("steer.wat", "other.wasm");
    project
}

fn count(project: &Project, selector: &[&str]) -> u64 {
    project.json(&[&["dlq", "count"], selector].concat())["count"].as_u64().unwrap()
}

/// Has so many events die, and waits until they have.
async fn die(project: &Project, queue: &str, payload: &str, events: u64) {
    let before = count(project, &["--function", queue]);
    for _ in 0..events {
        project.json(&["jobs", "enqueue", queue, payload]);
    }
    eventually("the events to die", async || count(project, &["--function", queue]) == before + events).await;
}

/// Runs a verb that must fail, and answers what it said.
fn refused(project: &Project, arguments: &[&str]) -> String {
    let output = project.run(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn ids(listed: &Value) -> Vec<String> {
    let items = listed["items"].as_array().unwrap();
    items.iter().map(|dead| dead["invocation_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn dead_letters_are_found_repaired_and_redriven_at_a_rate() {
    let project = project("");
    let _engine = project.serve().await;
    die(&project, "steer", "f", 12).await;
    die(&project, "other", "x", 3).await;

    let listed = project.json(&["dlq", "list", "--function", "other"]);
    let trapped = ids(&listed);
    let reason = listed["items"][0]["reason"].as_str().unwrap();
    for (selector, expected) in [
        (&[][..], 15),
        (&["--function", "steer"], 12),
        (&["--trigger", "orders"], 3),
        (&["--trigger", "orders", "--reason", reason], 3),
        (&["--text", "TOLD to fail"], 12),
        (&["--text", "nobody said that"], 0),
        (&["--died-on", "1"], 15),
        (&["--died-on", "2"], 0),
        (&["--died-before", "2020-01-01T00:00:00Z"], 0),
        (&["--died-after", "2020-01-01T00:00:00Z", "--function", "other"], 3),
        (&[trapped[0].as_str(), trapped[2].as_str()], 2),
        (&["--namespace", "another"], 0),
    ] {
        assert_eq!(count(&project, selector), expected, "{selector:?}");
        let listed = project.json(&[&["dlq", "list", "--limit", "100"], selector].concat());
        assert_eq!(ids(&listed).len() as u64, expected, "{selector:?}");
    }
    assert!(refused(&project, &["dlq", "list", "--reason", "boredom"]).contains("retries_exhausted"));
    assert!(refused(&project, &["dlq", "count", "--text", ""]).contains("text: it is empty"));

    // What is not meant is not done.
    assert!(refused(&project, &["dlq", "redrive"]).contains("--all"));
    assert!(refused(&project, &["dlq", "redrive", "--all", "--text", "x"]).contains("leave it out"));
    assert!(refused(&project, &["dlq", "redrive", "--all", "--rate", "fast"]).contains("\"50/s\""));
    let unknown = refused(&project, &["dlq", "redrive", "--function", "steer", "--version", "9"]);
    assert!(unknown.contains("steer has no version 9"), "{unknown}");
    let unknown = "0190a000-0000-7000-8000-000000000000";
    assert!(refused(&project, &["dlq", "redrive", unknown]).contains("no such dead letter"));
    let dry = project.json(&["dlq", "redrive", "--function", "steer", "--dry-run"]);
    assert_eq!((&dry["selected"], &dry["queued"]), (&12.into(), &0.into()));
    assert_eq!(count(&project, &[]), 15);

    project.wat(REPAIRED, "steer.wasm");
    project.json(&["reload"]);
    let began = Instant::now();
    let done = project.json(&["dlq", "redrive", "--function", "steer", "--rate", "40/s"]);
    assert!(began.elapsed() >= Duration::from_millis(11_000 / 40), "the first goes at once, the others wait");
    assert_eq!((&done["selected"], &done["queued"], &done["stopped"]), (&12.into(), &12.into(), &false.into()));
    eventually("all of them to run", async || project.attempts("steer").await.len() == 24).await;
    assert_eq!((count(&project, &[]), count(&project, &["--include-redriven"])), (3, 15));
    let again = project.json(&["dlq", "redrive", "--function", "steer"]);
    assert_eq!((&again["selected"], &again["queued"]), (&0.into(), &0.into()), "none is run twice");

    // The event is the one that died: its dead letter says what became of it.
    let redriven = project.json(&["dlq", "list", "--function", "steer", "--include-redriven"]);
    let id = ids(&redriven)[0].clone();
    eventually("the event to end well", async || project.json(&["status", &id])["state"] == "ok").await;
    assert!(!project.json(&["dlq", "show", &id])["data"]["redriven_at"].is_null());
    let traces = project.admin(&format!("/api/v1/traces/{id}")).await;
    let attempts = traces["attempts"].as_array().unwrap();
    let told: Vec<_> = attempts.iter().map(|row| (&row["attempt"], &row["version"], &row["outcome"])).collect();
    assert_eq!(told, [(&1.into(), &1.into(), &"dead".into()), (&1.into(), &2.into(), &"ok".into())]);

    let named = project.json(&["dlq", "redrive", &trapped[0], &id]);
    let state = |id: &str| named["items"].as_array().unwrap().iter().find(|item| item["invocation_id"] == id).unwrap();
    assert_eq!((&state(&trapped[0])["state"], &state(&id)["state"]), (&"queued".into(), &"already".into()));
}

#[tokio::test]
async fn a_redrive_stops_when_too_many_die_again_and_goes_on_onto_a_repaired_version() {
    let project = project("");
    let _engine = project.serve().await;
    die(&project, "steer", "f", 30).await;
    project.wat(REPAIRED, "steer.wasm");
    project.json(&["reload"]);
    // The repaired version is there and does not serve.
    project.guest("steer.wat", "steer.wasm");
    project.json(&["reload"]);

    let watched = ["dlq", "redrive", "--function", "steer", "--stop-on-failure", "20%", "--min-sample", "5", "--json"];
    let output = project.run(&watched);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopped: 5 of 5 died again"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["queued"], &report["died_again"], &report["stopped"]), (&5.into(), &5.into(), &true.into()));
    assert_eq!(count(&project, &["--function", "steer"]), 30, "a sample was spent, and died again");
    assert_eq!(project.attempts("steer").await.len(), 35);

    let output = project.run(&[&watched[..], &["--version", "2"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["queued"], &report["ended"], &report["died_again"]), (&30.into(), &30.into(), &0.into()));
    assert_eq!(count(&project, &["--function", "steer"]), 0);
    let traces = project.admin("/api/v1/traces?function=steer&outcome=ok&limit=100").await;
    let rows = traces["items"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["version"] == 2), "the chosen version ran, not the one that serves");
}

#[tokio::test]
async fn a_purge_must_be_meant_and_says_how_many_there_were() {
    let project = project("");
    let _engine = project.serve().await;
    die(&project, "steer", "f", 3).await;
    die(&project, "other", "f", 2).await;
    assert!(refused(&project, &["dlq", "purge"]).contains("--all"));
    let dry = project.json(&["dlq", "purge", "--function", "other", "--dry-run"]);
    assert_eq!((&dry["selected"], count(&project, &[])), (&2.into(), 5));
    let said = project.run(&["dlq", "purge", "--function", "other"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "2 dead letters purged");
    let left = ids(&project.json(&["dlq", "list"]));
    assert_eq!(left.len(), 3);
    assert_eq!(project.json(&["dlq", "purge", "--all"])["purged"], 3);
    assert_eq!(count(&project, &["--include-redriven"]), 0);
    assert!(refused(&project, &["dlq", "show", &left[0]]).contains("no such dead letter"));

    // The API asks to be told as clearly.
    let post = async |body: &str| {
        let url = format!("http://127.0.0.1:{}/api/v1/dead-letters/purge", project.admin);
        let headers = [("content-type", "application/json")];
        let answer = project.send(Method::POST, &url, &headers, body.to_owned()).await;
        (answer.status, answer.text())
    };
    let (status, told) = post("{}").await;
    assert!(status == StatusCode::BAD_REQUEST && told.contains("the selector selects everything"), "{told}");
    let many: Vec<String> = (0..1001).map(|_| uuid_of_nobody()).collect();
    let (status, told) = post(&serde_json::json!({"selector": {"ids": many}}).to_string()).await;
    assert!(status == StatusCode::BAD_REQUEST && told.contains("ids: 1001 are given"), "{told}");
    assert_eq!(post(r#"{"selector": {"funktion": "steer"}}"#).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(post(r#"{"selector": {"text": "x"}}"#).await.0, StatusCode::OK);
}

fn uuid_of_nobody() -> String {
    "0190a000-0000-7000-8000-000000000000".to_owned()
}

#[tokio::test]
async fn retention_runs_on_its_schedule_and_says_what_it_removed() {
    let every_second = "housekeeping = { retention = \"* * * * * *\" }";
    let project = project("");
    let engine = project.serve().await;
    die(&project, "steer", "f", 8).await;
    let newest = ids(&project.json(&["dlq", "list"]));
    assert!(engine.stop().await.success());

    project.manifest(&format!("{every_second}\ndead_letters = {{ max_rows = 3 }}"), FUNCTIONS);
    let engine = project.serve().await;
    eventually("the oldest to go", async || count(&project, &[]) == 3).await;
    assert_eq!(ids(&project.json(&["dlq", "list"])), newest[..3]);
    let removed = project.metric("tripline_retention_removed_total", &["dead_letters_excess"]).await;
    assert_eq!(removed, 5);
    assert!(engine.log().contains("the oldest dead letters were removed"), "{}", engine.log());
    assert!(engine.stop().await.success(), "a chore that runs each second is no reason to stay");

    // Or all are kept, and the engine says that they are too many.
    project.manifest(&format!("{every_second}\ndead_letters = {{ max_rows = 1, when_full = \"keep\" }}"), FUNCTIONS);
    let engine = project.serve().await;
    eventually("the crowd to be seen", async || project.metric("tripline_dead_letters_over", &[]).await == 2).await;
    let ready = project.admin("/health/ready").await;
    assert!(ready["degraded"][0].as_str().unwrap().contains("2 more than dead_letters.max_rows"), "{ready}");
    assert_eq!((count(&project, &[]), &ready["ready"]), (3, &true.into()));
    project.json(&["dlq", "purge", &newest[0], &newest[1]]);
    eventually("the crowd to be gone", async || project.metric("tripline_dead_letters_over", &[]).await == 0).await;
    drop(engine);
}
