//! Functions called by their name, whatever triggers they have.

use crate::support::engine::Project;
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.steer]
module = "steer.wasm"
is_public = false
[[functions.steer.triggers]]
type = "cron"
schedule = "0 0 1 1 *"
"#;

#[tokio::test]
async fn a_function_is_called_by_its_name() {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    let _engine = project.serve().await;
    let called = project.run(&["invoke", "steer", "hello"]);
    assert!(called.status.success(), "{}", String::from_utf8_lossy(&called.stderr));
    assert_eq!(String::from_utf8_lossy(&called.stdout), "hello");
    let failed = project.run(&["invoke", "steer", "f"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("failed (guest_error)"));
    let unknown = project.run(&["invoke", "nobody", "hello"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no such function"));

    let kept = project.json(&["invoke", "steer", "hello", "--later"]);
    assert_eq!(kept["outcome"], "queued");
    let path = format!("/api/v1/invocations/{}", kept["invocation_id"].as_str().unwrap());
    eventually("it to run", async || project.admin(&path).await["state"] == "ok").await;
    assert_eq!(project.admin(&path).await["body"], "hello");

    let answer = project.post_admin("/api/v1/functions/steer/invoke", r#"{"payload_base64": "/w=="}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["body_base64"]), (200, &"/w==".into()));
    let answer = project.post_admin("/api/v1/functions/steer/invoke", r#"{"payload": "x", "soon": true}"#).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
    let outcomes = project.attempts("steer").await;
    assert_eq!(outcomes.len(), 4, "each is traced: {outcomes:?}");
}
