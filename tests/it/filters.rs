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

const ORDERS: &str = r#"
[functions.order]
module = "echo.wasm"
retry_count = 3
dlq_topic = "dead.order"
triggers = [
    { type = "http", method = "POST", path = "/orders", payload_schema = "order.schema.json" },
    { name = "later", type = "http", method = "POST", path = "/later", mode = "async", payload_schema = "order.schema.json" },
    { type = "pubsub", subject = "orders", payload_schema = { type = "object", required = ["id"] } },
    { name = "kept", type = "pubsub", subject = "kept", durable = true, payload_schema = { required = ["id"], type = "object" } },
    { type = "job", queue = "orders", payload_schema = { type = "object" } },
]
"#;

const SCHEMA: &str = r#"{ "type": "object", "required": ["id"], "properties": { "amount": { "minimum": 1 } } }"#;

#[tokio::test]
async fn a_payload_that_is_not_what_its_schema_asks_for_reaches_no_guest_and_is_not_lost() {
    let project = Project::new("", ORDERS);
    project.guest("echo.component.wasm", "echo.wasm");
    std::fs::write(project.path("order.schema.json"), SCHEMA).unwrap();
    let engine = project.serve().await;
    assert_eq!(project.post("/orders", r#"{"id": 1, "amount": 2}"#).await.status, StatusCode::OK);
    for path in ["/orders", "/later"] {
        let refused = project.post(path, r#"{"id": 1, "amount": 0}"#).await;
        assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &"bad_input".into()));
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.ends_with("asks for at /amount: 0 is less than the minimum of 1"), "{detail}");
        assert_eq!(refused.json()["retryable"], false);
    }
    let job = project.run(&["jobs", "enqueue", "orders", "[]"]);
    assert!(
        !job.status.success() && String::from_utf8_lossy(&job.stderr).contains("not of type \"object\""),
        "{job:?}"
    );

    // Nobody waits to be told of a message, so it is kept.
    for subject in ["orders", "kept"] {
        project.json(&["publish", subject, "{}"]);
        project.json(&["publish", subject, r#"{"id": 1}"#]);
    }
    let ended = async |outcome: &str| project.metric("tripline_invocations_total", &["pubsub", outcome]).await;
    eventually("the messages to end", async || ended("\"ok\"").await == 2 && ended("permanent").await == 2).await;
    let dead = project.admin("/api/v1/dead-letters").await;
    let id = dead["items"][0]["invocation_id"].as_str().unwrap();
    let shown = project.admin(&format!("/api/v1/dead-letters/{id}")).await;
    assert_eq!(
        (&shown["data"]["reason"], &shown["data"]["failure"]["code"]),
        (&"permanent".into(), &"bad_input".into())
    );
    assert_eq!((&shown["data"]["payload"], &shown["data"]["attempts"]), (&"{}".into(), &serde_json::json!([])));
    let attempts = project.attempts("order").await;
    assert_eq!(attempts.iter().filter(|(_, outcome)| outcome == "ok").count(), 3, "{attempts:?}");

    // What runs is what was read, until the manifest is read again.
    std::fs::write(project.path("order.schema.json"), r#"{ "required": ["name"] }"#).unwrap();
    assert_eq!(project.post("/orders", r#"{"id": 1}"#).await.status, StatusCode::OK);
    project.json(&["reload"]);
    assert_eq!(project.post("/orders", r#"{"id": 1}"#).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    assert!(engine.stop().await.success());
}

#[test]
fn a_schema_that_cannot_be_used_is_told_when_the_manifest_is_read() {
    let project = Project::new("", "");
    project.guest("hello-http.wasm", "echo.wasm");
    std::fs::write(project.path("bad.json"), "{").unwrap();
    for (keys, told) in [
        (r#"payload_schema = { type = "objekt" }"#, "objekt"),
        (r#"payload_schema = "gone.json""#, "gone.json cannot be read"),
        (r#"payload_schema = "bad.json""#, "bad.json cannot be read: EOF"),
        (r#"payload_schema = { "$ref" = "https://example.com/x" }"#, "https://example.com/x"),
        (r#"payload_schema = 7"#, "expected"),
        (r#"mode = "stream", payload_schema = { type = "object" }"#, "bodies stream"),
    ] {
        let trigger =
            format!("[functions.f]\nmodule = \"echo.wasm\"\ntriggers = [{{ type = \"http\", path = \"/f\", {keys} }}]");
        project.manifest("", &trigger);
        let output = project.run(&["check"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(told), "{keys}: {stderr}");
    }
}
