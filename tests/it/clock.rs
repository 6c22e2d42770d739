//! A virtual clock on the real binary: days of schedules and retries, each at its moment.

use crate::support::engine::Project;

const FUNCTIONS: &str = r#"
[functions.report]
module = "steer.wasm"
[[functions.report.triggers]]
type = "cron"
schedule = "0 * * * *"

[functions.work]
module = "steer.wasm"
retry_count = 100
retry_delay_seconds = 60
retry = { backoff = "exponential", factor = 2.0, max_delay_seconds = 3600, jitter = "none", max_age_seconds = 21600 }
dlq_topic = "dead.work"
[[functions.work.triggers]]
type = "job"
queue = "work"

[functions.alerts]
module = "steer.wasm"
[[functions.alerts.triggers]]
type = "pubsub"
subject = "dead.>"
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    project
}

/// When the attempts of a function began, oldest first.
async fn moments(project: &Project, function: &str) -> Vec<String> {
    let traces = project.admin(&format!("/api/v1/traces?function={function}&limit=1000")).await;
    let rows = traces["items"].as_array().unwrap();
    let mut moments: Vec<String> = rows.iter().map(|row| row["started_at"].as_str().unwrap().to_owned()).collect();
    moments.sort();
    moments
}

#[tokio::test]
async fn three_days_pass_at_a_word_and_everything_happens_at_its_moment() {
    let project = project();
    let _engine = project.start_with(&["dev", "--clock", "virtual=2027-01-01T00:00:00Z"]).await;
    let out = std::fs::read_to_string(project.path("out")).unwrap();
    assert!(out.contains("virtual, stands at 2027-01-01T00:00:00Z"), "{out}");
    let id = project.json(&["jobs", "enqueue", "work", "f"])["invocation_id"].as_str().unwrap().to_owned();
    project.json(&["jobs", "enqueue", "work", "hello", "--delay", "86399.5"]);

    let moved = project.json(&["clock", "advance", "3d"]);
    assert_eq!((&moved["now"], &moved["reached"]), (&"2027-01-04T00:00:00Z".into(), &true.into()));

    let hours: Vec<String> =
        (1..=72).map(|hour| format!("2027-01-{:02}T{:02}:00:00Z", 1 + hour / 24, hour % 24)).collect();
    assert_eq!(moments(&project, "report").await, hours);
    let mut expected = [0, 60, 180, 420, 900, 1_860, 3_780, 7_380, 10_980, 14_580, 18_180]
        .map(|second| format!("2027-01-01T{:02}:{:02}:00Z", second / 3_600, second / 60 % 60))
        .to_vec();
    expected.push("2027-01-01T23:59:59.500Z".to_owned());
    assert_eq!(moments(&project, "work").await, expected);

    let dead = project.json(&["dlq", "list"])["items"][0].clone();
    assert_eq!((&dead["invocation_id"], &dead["reason"]), (&id.into(), &"age_exceeded".into()));
    assert_eq!((&dead["died_at"], &dead["attempts"]), (&"2027-01-01T05:03:00Z".into(), &11.into()));
    assert_eq!(moments(&project, "alerts").await, ["2027-01-01T05:03:00Z"], "its message was handled at once");
    for (outcome, count) in [("ok", 72 + 1 + 1), ("dead", 1)] {
        let outcome = format!("outcome=\"{outcome}\"");
        assert_eq!(project.metric("tripline_invocations_total", &[&outcome]).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn what_a_clock_cannot_do_is_told() {
    let project = project();
    let engine = project.serve().await;
    assert_eq!(project.json(&["clock"])["mode"], "system");
    let refused = project.run(&["clock", "advance", "3d"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("tripline dev --clock virtual"), "{error}");
    assert_eq!(refused.status.code(), Some(1));
    let answer = project.post_admin("/api/v1/clock/advance", r#"{"by": "3d"}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (409, &"clock_not_virtual".into()));
    engine.stop().await;

    let _engine = project.start_with(&["dev", "--clock", "virtual=2027-01-01T00:00:00Z"]).await;
    let view = project.json(&["clock"]);
    assert_eq!((&view["mode"], &view["now"]), (&"virtual".into(), &"2027-01-01T00:00:00Z".into()));
    assert_eq!(view["next"], "2027-01-01T01:00:00Z");
    for (body, status, code) in [
        (r#"{"to": "2026-12-31T23:59:59Z"}"#, 400, "clock_backwards"),
        (r#"{"by": "three days"}"#, 400, "invalid"),
        (r#"{"by": "9000y"}"#, 400, "invalid"),
        ("{}", 400, "invalid"),
    ] {
        let answer = project.post_admin("/api/v1/clock/advance", body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (status, &code.into()), "{body}");
    }
    for arguments in [&["clock", "advance"][..], &["clock", "advance", "3 fortnights"], &["dev", "--clock", "sundial"]]
    {
        assert_eq!(project.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(project.json(&["clock"])["now"], "2027-01-01T00:00:00Z", "nothing has moved it");
}
