//! Filters: what does not match is not run, and is on record all the same.

use http::StatusCode;

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.paid]
module = "echo.wasm"
[[functions.paid.triggers]]
type = "http"
method = "POST"
path = "/orders/{id}"
filter = { payload = { status = ["paid"], amount = [{ numeric = [">", 100] }] }, attributes = { "param.id" = [{ prefix = "7" }] } }
[[functions.paid.triggers]]
type = "http"
method = "POST"
path = "/later"
mode = "async"
filter = { payload = { status = ["paid"] } }
[[functions.paid.triggers]]
type = "pubsub"
subject = "orders.>"
filter = { subject = [{ suffix = ".paid" }] }
[[functions.paid.triggers]]
type = "job"
queue = "orders"
filter = { payload = ["go"] }
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("echo.component.wasm", "echo.wasm");
    project
}

/// How many attempts of a trigger ended so.
async fn count(project: &Project, trigger: &str, outcome: &str) -> usize {
    let traces = project.admin("/api/v1/traces?function=paid&limit=1000").await;
    let traces = traces["items"].as_array().unwrap().clone();
    traces.iter().filter(|trace| trace["trigger_id"] == trigger && trace["outcome"] == outcome).count()
}

#[tokio::test]
async fn what_does_not_match_is_skipped_and_on_record() {
    let project = project();
    let _engine = project.serve().await;
    let large = r#"{"status": "paid", "amount": 101}"#;
    assert_eq!(project.post("/orders/70", large).await.text(), large);
    for (path, body) in
        [("/orders/80", large), ("/orders/70", r#"{"status": "paid", "amount": 100}"#), ("/orders/7", "no")]
    {
        let answer = project.post(path, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::NO_CONTENT, ""), "{path} {body}");
    }
    assert_eq!((count(&project, "http", "ok").await, count(&project, "http", "skipped").await), (1, 3));

    assert_eq!(project.post("/later", r#"{"status": "open"}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(project.post("/later", r#"{"status": "paid"}"#).await.status, StatusCode::ACCEPTED);
    for subject in ["orders.1.open", "orders.1.paid"] {
        assert!(project.run(&["publish", subject, "x"]).status.success());
    }
    assert!(project.run(&["jobs", "enqueue", "orders", "\"stay\""]).status.success());
    assert!(project.run(&["jobs", "enqueue", "orders", "\"go\""]).status.success());
    for trigger in ["http-2", "pubsub", "job"] {
        eventually("one to run and one to be skipped", async || {
            (count(&project, trigger, "ok").await, count(&project, trigger, "skipped").await) == (1, 1)
        })
        .await;
    }
    for row in project.json(&["ledger"])["items"].as_array().unwrap() {
        let skipped = row["ended"].as_array().unwrap().iter().find(|ended| ended["outcome"] == "skipped").unwrap();
        assert_eq!((&row["drift"], &skipped["reason"]), (&0.into(), &"filtered".into()), "{row}");
    }
}

#[tokio::test]
async fn a_filter_that_cannot_be_read_is_refused_where_it_is() {
    let project = project();
    let streamed = FUNCTIONS.replace("mode = \"async\"", "mode = \"stream\"");
    let functions = streamed.replace("{ prefix = \"7\" }", "{ prefixes = \"7\" }").replace("[\"go\"]", "\"go\"");
    project.manifest("", &functions);
    let output = project.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in ["filter.attributes", "there is no such test", "filter.payload", "expected a table", "bodies stream"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
