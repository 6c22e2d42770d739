//! What a job can ask of its queue, and what a queue can be told: order, uniqueness, bounds, pauses, cancellation.

use http::StatusCode;
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

/// A queue that runs one job after the other, a queue that is bounded, and one beside them.
const FUNCTIONS: &str = r#"
[functions.work]
module = "steer.wasm"
timeout_seconds = 60
retry_count = 5
retry_delay_seconds = 3600
retry = { jitter = "none", max_delay_seconds = 3600 }
[[functions.work.triggers]]
type = "job"
queue = "work"
concurrency = 1

[functions.narrow]
module = "steer.wasm"
[[functions.narrow.triggers]]
type = "job"
queue = "narrow"
rate = "2/m"
max_backlog = 6

[functions.wide]
module = "steer.wasm"
timeout_seconds = 60
retry_count = 5
retry_delay_seconds = 3600
retry = { jitter = "none", max_delay_seconds = 3600 }
[[functions.wide.triggers]]
type = "job"
queue = "wide"
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    project
}

fn enqueue(project: &Project, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = ["jobs", "enqueue"].iter().chain(arguments).copied().collect();
    project.json(&arguments)["invocation_id"].as_str().unwrap().to_owned()
}

fn state(project: &Project, id: &str) -> String {
    project.json(&["jobs", "show", id])["state"].as_str().unwrap().to_owned()
}

/// The ids of jobs that a queue has.
fn listed(project: &Project, queue: &str) -> Vec<String> {
    let listed = project.json(&["jobs", "list", "--queue", queue]);
    listed["items"].as_array().unwrap().iter().map(|row| row["invocation_id"].as_str().unwrap().to_owned()).collect()
}

/// The traces of a function, oldest first.
async fn traces(project: &Project, function: &str) -> Vec<Value> {
    let traces = project.admin(&format!("/api/v1/traces?function={function}&limit=1000")).await;
    let mut rows = traces["items"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row["started_at"].as_str().unwrap().to_owned());
    rows
}

#[tokio::test]
async fn a_paused_queue_keeps_its_jobs_over_a_restart_and_then_runs_them_by_priority() {
    let project = project();
    let engine = project.serve().await;
    assert_eq!(project.json(&["jobs", "pause", "work", "--note", "while we look"])["paused"], true);
    let low = enqueue(&project, &["work", "low", "--priority", "-5"]);
    let plain = enqueue(&project, &["work", "plain"]);
    let high = enqueue(&project, &["work", "high", "--priority", "10"]);
    // Another queue goes on, and its job ending shows that the queue was looked at.
    let output = project.run(&["jobs", "enqueue", "wide", "beside", "--wait", "30s"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("beside"));
    assert_eq!(state(&project, &high), "queued");

    engine.kill();
    let _engine = project.serve().await;
    let triggers = project.json(&["triggers"]);
    let work = triggers["items"].as_array().unwrap().iter().find(|one| one["function_name"] == "work").unwrap();
    assert_eq!(work["paused"]["note"], "while we look");
    assert_eq!(project.json(&["jobs", "enqueue", "wide", "x", "--wait", "30s"])["invocation"]["state"], "ok");
    assert_eq!(listed(&project, "work").len(), 3);
    assert_eq!(state(&project, &low), "queued");

    assert_eq!(project.json(&["triggers", "resume", "work/job"])["paused"], false);
    eventually("all of them to run", async || state(&project, &low) == "ok").await;
    let order: Vec<String> =
        traces(&project, "work").await.iter().map(|row| row["invocation_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, [high, plain, low]);
}

#[tokio::test]
async fn a_unique_key_is_one_job_as_long_as_that_counts() {
    let project = project();
    let _engine = project.serve().await;
    project.json(&["jobs", "pause", "wide"]);
    let first = enqueue(&project, &["wide", "one", "--unique-key", "u"]);
    let second = project.json(&["jobs", "enqueue", "wide", "two", "--unique-key", "u"]);
    assert_eq!((&second["invocation_id"], &second["duplicate"]), (&first.as_str().into(), &true.into()));
    let third = enqueue(&project, &["wide", "three", "--unique-key", "u", "--replace"]);
    assert_ne!(third, first);
    assert_eq!((state(&project, &first), listed(&project, "wide")), ("cancelled".to_owned(), vec![third.clone()]));
    project.json(&["jobs", "resume", "wide"]);
    assert_eq!(project.json(&["jobs", "show", &third, "--wait", "30s"])["body"], "three");

    let fourth = project.json(&["jobs", "enqueue", "wide", "four", "--unique-key", "u", "--unique-scope", "1h"]);
    assert_eq!(fourth["duplicate"], false, "one that has ended counts no more");
    let id = fourth["invocation_id"].as_str().unwrap();
    assert_eq!(project.json(&["status", id, "--wait", "30s"])["state"], "ok");
    let fifth = project.json(&["jobs", "enqueue", "wide", "five", "--unique-key", "u"]);
    assert_eq!((&fifth["invocation_id"], &fifth["duplicate"]), (&id.into(), &true.into()), "unless its time lasts");
}

#[tokio::test]
async fn a_job_that_fails_holds_up_its_key_alone_and_is_listed() {
    let project = project();
    let _engine = project.serve().await;
    let head = enqueue(&project, &["wide", "f", "--ordering-key", "ann"]);
    eventually("the first attempt to fail", async || {
        project.json(&["jobs", "show", &head])["attempts"] == 1 && state(&project, &head) == "queued"
    })
    .await;
    let behind = enqueue(&project, &["wide", "behind", "--ordering-key", "ann"]);
    for key in ["bob", "cid"] {
        let other = project.json(&["jobs", "enqueue", "wide", "x", "--ordering-key", key, "--wait", "30s"]);
        assert_eq!(other["invocation"]["state"], "ok", "{key}");
    }
    assert_eq!(state(&project, &behind), "queued");
    let keys = project.json(&["jobs", "keys"]);
    let key = &keys["items"][0];
    assert_eq!(keys["items"].as_array().unwrap().len(), 1);
    assert_eq!((&key["ordering_key"], &key["head"]), (&"ann".into(), &head.as_str().into()));
    assert_eq!((&key["waiting"], &key["attempt"]), (&1.into(), &2.into()));
    let table = String::from_utf8(project.run(&["jobs", "keys"]).stdout).unwrap();
    assert!(table.contains("ann") && table.contains(&head), "{table}");

    assert!(project.run(&["jobs", "cancel", &head]).status.success());
    assert_eq!(project.json(&["jobs", "show", &behind, "--wait", "30s"])["state"], "ok");
    assert_eq!(project.json(&["jobs", "keys"])["items"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn what_is_told_to_be_cancelled_has_not_run_and_will_not() {
    let project = project();
    let _engine = project.serve().await;
    let cancel = |id: &str| {
        let output = project.run(&["jobs", "cancel", id]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let waiting = enqueue(&project, &["wide", "x", "--delay", "1h"]);
    let (code, said) = cancel(&waiting);
    assert!(code == 0 && said.contains("is cancelled"), "{code}: {said}");
    assert_eq!(state(&project, &waiting), "cancelled");
    let (code, said) = cancel(&waiting);
    assert!(code == 1 && said.contains("has ended already"), "{code}: {said}");

    let running = enqueue(&project, &["wide", "s"]);
    eventually("the loop to run", async || state(&project, &running) == "running").await;
    let (code, said) = cancel(&running);
    assert!(code == 3 && said.contains("is being cut"), "{code}: {said}");
    assert_eq!(project.json_of(&["jobs", "show", &running, "--wait", "30s"])["state"], "cancelled");

    let (code, said) = cancel("0197c4a2-3f00-7000-8000-000000000001");
    assert!(code == 1 && said.contains("no such invocation"), "{code}: {said}");
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_their_queue_allows() {
    let project = project();
    let _engine = project.serve().await;
    let ids: Vec<String> = (0..3).map(|_| enqueue(&project, &["work", "s"])).collect();
    eventually("the first loop to run", async || state(&project, &ids[0]) == "running").await;
    // Jobs of another queue run to their end meanwhile: the queue was looked at, and had room.
    for _ in 0..3 {
        assert_eq!(project.json(&["jobs", "enqueue", "wide", "x", "--wait", "30s"])["invocation"]["state"], "ok");
    }
    let listed = project.json(&["jobs", "list", "--queue", "work"]);
    let running = |row: &&Value| row["running"] == true;
    assert_eq!(listed["items"].as_array().unwrap().iter().filter(running).count(), 1);
    project.run(&["jobs", "cancel", &ids[0]]);
    eventually("the next to begin", async || state(&project, &ids[1]) == "running").await;
    assert_eq!(state(&project, &ids[2]), "queued");
}

#[tokio::test]
async fn a_rate_spreads_what_comes_faster_and_a_full_backlog_is_refused() {
    let project = project();
    let _engine = project.start_with(&["dev", "--clock", "virtual=2027-01-01T00:00:00Z"]).await;
    project.json(&["jobs", "pause", "narrow"]);
    for _ in 0..6 {
        enqueue(&project, &["narrow", "x"]);
    }
    let refused = project.post_admin("/api/v1/jobs/narrow", r#"{"payload":"x"}"#).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::TOO_MANY_REQUESTS, &"backlog".into()));
    assert!(refused.headers.contains_key("retry-after"));
    project.json(&["jobs", "resume", "narrow"]);
    project.json(&["clock", "advance", "10m"]);
    let moments: Vec<Value> = traces(&project, "narrow").await.iter().map(|row| row["started_at"].clone()).collect();
    let expected = [(0, 0), (0, 0), (0, 30), (1, 0), (1, 30), (2, 0)];
    assert_eq!(moments, expected.map(|(minute, second)| format!("2027-01-01T00:{minute:02}:{second:02}Z")));
    enqueue(&project, &["narrow", "there is room again"]);
}

#[tokio::test]
async fn a_job_says_how_often_it_is_tried_until_when_and_how_long_its_result_is_kept() {
    let project = project();
    let _engine = project.start_with(&["dev", "--clock", "virtual=2027-01-01T00:00:00Z"]).await;
    let dead = |id: &str| {
        let listed = project.json(&["dlq", "list"]);
        let dead = listed["items"].as_array().unwrap().iter().find(|dead| dead["invocation_id"] == *id).cloned();
        dead.map(|dead| (dead["reason"].as_str().unwrap().to_owned(), dead["attempts"].as_u64().unwrap()))
    };
    let once = enqueue(&project, &["wide", "f", "--max-retries", "0"]);
    let twice = enqueue(&project, &["wide", "f", "--max-retries", "1"]);
    let expires = enqueue(&project, &["wide", "f", "--expires", "90m"]);
    let paused = enqueue(&project, &["narrow", "x", "--delay", "2m", "--expires", "2027-01-01T00:05:00Z"]);
    let forgotten = enqueue(&project, &["wide", "x", "--result-ttl", "60"]);
    project.json(&["jobs", "pause", "narrow"]);
    project.json(&["clock", "advance", "10m"]);
    project.json(&["jobs", "resume", "narrow"]);
    project.json(&["clock", "advance", "6h"]);
    assert_eq!(dead(&once), Some(("retries_exhausted".to_owned(), 1)));
    assert_eq!(dead(&twice), Some(("retries_exhausted".to_owned(), 2)));
    assert_eq!(dead(&expires), Some(("age_exceeded".to_owned(), 2)), "the third would have begun too late");
    assert_eq!(dead(&paused).unwrap().0, "age_exceeded", "it could not begin in its time");
    eventually("the result to be forgotten", async || {
        project.json(&["clock", "advance", "1h"]);
        !project.run(&["jobs", "show", &forgotten]).status.success()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_asked_of_a_queue_is_told_by_its_field() {
    let project = project();
    let _engine = project.serve().await;
    for (body, status, part) in [
        (r#"{"priority":101}"#, 400, "priority: 101 is not within -100 and 100"),
        (r#"{"priority":1000}"#, 400, "1000"),
        (r#"{"ordering_key":""}"#, 400, "ordering_key: it is empty"),
        (r#"{"unique_scope":"queued"}"#, 400, "without a unique_key"),
        (r#"{"unique_key":"u","unique_scope":{"period":0}}"#, 400, "unique_scope"),
        (r#"{"retry_count":1001}"#, 400, "retry_count: 1001 is too many"),
        (r#"{"expires_at":"2020-01-01T00:00:00Z"}"#, 400, "expires_at: 2020-01-01 00:00:00 UTC is over already"),
        (r#"{"delay_seconds":-1}"#, 400, "delay_seconds: -1 is no time to wait"),
        (r#"{"urgent":true}"#, 400, "unknown field `urgent`"),
        ("{", 400, "JSON"),
    ] {
        let answer = project.post_admin("/api/v1/jobs/wide", body).await;
        let problem = answer.json();
        assert_eq!((answer.status.as_u16(), &problem["status"]), (status, &status.into()), "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{body}: {problem}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{body}");
    }
    for (path, code) in [
        ("/api/v1/jobs/wode", "unknown_queue"),
        ("/api/v1/jobs/wode/pause", "unknown_queue"),
        ("/api/v1/triggers/default/wide/jab/pause", "not_found"),
    ] {
        let answer = project.post_admin(path, "{}").await;
        assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::NOT_FOUND, &code.into()), "{path}");
    }
    let note = format!(r#"{{"note":"{}"}}"#, "x".repeat(1001));
    assert_eq!(project.post_admin("/api/v1/jobs/wide/pause", &note).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(project.metric("tripline_queue_depth", &[]).await, 0);
}
