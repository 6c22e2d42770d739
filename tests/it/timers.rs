//! Timers: set by name and key or by the manifest, kept, fired once at their moment.

use http::StatusCode;
use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.remind]
module = "steer.wasm"
timeout_seconds = 60
[[functions.remind.triggers]]
type = "timer"
timers = "reminders"
"#;

const ONCE: &str = r#"
[functions.once]
module = "steer.wasm"
[[functions.once.triggers]]
type = "timer"
after = "PT10M"
payload = "go"
"#;

fn project(functions: &str) -> Project {
    let project = Project::new("", functions);
    project.guest("steer.wat", "steer.wasm");
    project
}

/// When the attempts of a function began, oldest first, and what they were about.
async fn runs(project: &Project, function: &str) -> Vec<(String, String)> {
    let traces = project.admin(&format!("/api/v1/traces?function={function}&limit=1000")).await;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = traces["items"].as_array().unwrap().iter();
    let mut runs: Vec<_> = rows.map(|row| (text(row, "started_at"), text(row, "subject"))).collect();
    runs.sort();
    runs
}

fn listed(project: &Project) -> Vec<(String, String)> {
    let listed = project.json(&["timers", "list", "reminders"]);
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = listed["items"].as_array().unwrap().iter();
    rows.map(|row| (text(row, "unique_key"), text(row, "run_at"))).collect()
}

#[tokio::test]
async fn timers_are_set_replaced_kept_listed_cancelled_and_fire_at_their_moments() {
    let project = project(FUNCTIONS);
    let _engine = project.start_with(&["dev", "--clock", "virtual=2027-01-01T00:00:00Z"]).await;
    let set = |key: &str, payload: &str, when: &[&str]| {
        let arguments: Vec<&str> = ["timers", "set", "reminders", key, payload].iter().chain(when).copied().collect();
        project.json(&arguments)
    };
    let tea = set("tea", "one", &["--after", "10m"]);
    assert_eq!((&tea["run_at"], &tea["duplicate"]), (&"2027-01-01T00:10:00Z".into(), &false.into()));
    let later = set("tea", "another", &["--after", "PT20M"]);
    assert_ne!(later["invocation_id"], tea["invocation_id"], "it takes the place of the first");
    let kept = set("tea", "ignored", &["--after", "30m", "--keep"]);
    assert_eq!((&kept["invocation_id"], &kept["duplicate"]), (&later["invocation_id"], &true.into()));
    set("nap", "y", &["--at", "2027-01-01T00:15:00.250Z"]);
    set("gym", "y", &["--after", "1h"]);
    set("far", "y", &["--at", "2036-01-01T00:00:00Z"]);
    let moment = |text: &str| format!("2027-01-01T00:{text}Z");
    let all = listed(&project);
    assert_eq!(all[..2], [("nap".to_owned(), moment("15:00.250")), ("tea".to_owned(), moment("20:00"))]);
    assert_eq!(all.len(), 4);

    let cancel = |key: &str| {
        let output = project.run(&["timers", "cancel", "reminders", key]);
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = cancel("gym");
    assert!(code == 0 && said.contains("reminders/gym is cancelled"), "{code}: {said}");
    project.json(&["clock", "advance", "3h"]);
    let expected = [(moment("15:00.250"), "reminders/nap".to_owned()), (moment("20:00"), "reminders/tea".to_owned())];
    assert_eq!(runs(&project, "remind").await, expected);
    let id = later["invocation_id"].as_str().unwrap();
    assert_eq!(project.json(&["status", id])["body"], "another");
    for key in ["tea", "gym", "never"] {
        let (code, said) = cancel(key);
        assert!(code == 1 && said.contains("has fired and ended"), "{key}: {code}: {said}");
    }
    assert_eq!(listed(&project).len(), 1, "the one that lies years ahead");
    project.json(&["clock", "advance", "--to", "2036-01-01T00:00:00Z"]);
    assert_eq!(runs(&project, "remind").await.last().unwrap().0, "2036-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_timer_that_fires_cannot_be_taken_back_and_that_is_told() {
    let project = project(FUNCTIONS);
    let _engine = project.serve().await;
    let set = project.json(&["timers", "set", "reminders", "loop", "s", "--after", "0"]);
    let id = set["invocation_id"].as_str().unwrap();
    eventually("it to fire", async || project.json(&["status", id])["state"] == "running").await;
    let output = project.run(&["timers", "cancel", "reminders", "loop"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("runs already"), "{said}");
    eventually("its attempt to be cut", async || project.json(&["status", id])["state"] == "cancelled").await;
}

#[tokio::test]
async fn a_timer_that_came_due_while_the_engine_was_dead_fires_when_it_is_back() {
    let project = project(FUNCTIONS);
    let engine = project.serve().await;
    let set = project.json(&["timers", "set", "reminders", "tea", "drink", "--after", "2"]);
    let id = set["invocation_id"].as_str().unwrap();
    assert_eq!(project.json(&["status", id])["state"], "queued");
    engine.kill();
    let due: chrono::DateTime<chrono::Utc> = set["run_at"].as_str().unwrap().parse().unwrap();
    eventually("the timer to be overdue", async || trigger_core::Clock::system().now() > due).await;
    let _engine = project.serve().await;
    eventually("it to fire", async || project.json(&["status", id])["state"] == "ok").await;
    assert_eq!(project.attempts("remind").await, [(1, "ok".to_owned())]);
}

#[tokio::test]
async fn the_timer_of_a_manifest_fires_once_over_restarts_and_another_one_takes_its_place() {
    let project = project(ONCE);
    let start = async |moment: &str| project.start_with(&["dev", "--clock", &format!("virtual={moment}")]).await;
    let engine = start("2027-01-01T00:00:00Z").await;
    engine.stop().await;
    // A restart does not begin anew: it is due ten minutes after it was first deployed.
    let engine = start("2027-01-01T00:05:00Z").await;
    let rows = project.json(&["timers", "list"]);
    assert_eq!(rows["items"][0]["run_at"], "2027-01-01T00:10:00Z");
    // Another definition is another timer, in place of the first.
    project.manifest("", &ONCE.replace("PT10M", "PT20M"));
    eventually("the new timer alone to be set", async || {
        let rows = project.json(&["timers", "list"]);
        let moments: Vec<&Value> = rows["items"].as_array().unwrap().iter().map(|row| &row["run_at"]).collect();
        moments == ["2027-01-01T00:25:00Z"]
    })
    .await;
    project.json(&["clock", "advance", "1h"]);
    assert_eq!(runs(&project, "once").await, [("2027-01-01T00:25:00Z".to_owned(), "timer".to_owned())]);
    engine.stop().await;
    let _engine = start("2027-01-03T00:00:00Z").await;
    project.json(&["clock", "advance", "3d"]);
    assert_eq!(runs(&project, "once").await.len(), 1, "it has fired, and does not again");
    assert_eq!(project.json(&["timers", "list"])["items"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn timers_that_cannot_be_are_refused_by_their_field() {
    let project = project(FUNCTIONS);
    let _engine = project.serve().await;
    for (arguments, part) in [
        (&["reminders", "a", "--at", "2020-01-01T00:00:00Z"][..], "run_at: 2020-01-01 00:00:00 UTC is past"),
        (&["reminders", "a", "--at", "2999-01-01T00:00:00Z"], "more than 3650 days ahead"),
        (&["reminders", "a", "--after", "-5"], "delay_seconds: -5 is no time to wait"),
        (&["reminders", "", "--after", "5"], ""),
        (&["remainders", "a", "--after", "5"], "no function has timers called \"remainders\"; there is reminders"),
    ] {
        let arguments: Vec<&str> = ["timers", "set"].iter().chain(arguments).copied().collect();
        let output = project.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    assert_eq!(listed(&project).len(), 0);
    // The past may mean now, where somebody says so.
    let set = project.json(&["timers", "set", "reminders", "a", "y", "--at", "2020-01-01T00:00:00Z", "--allow-past"]);
    assert_eq!(project.json(&["status", set["invocation_id"].as_str().unwrap(), "--wait", "30s"])["state"], "ok");
    let unknown = project.admin("/api/v1/timers?name=remainders").await;
    assert_eq!(
        (&unknown["status"], &unknown["code"]),
        (&StatusCode::NOT_FOUND.as_u16().into(), &"unknown_timer".into())
    );
}
