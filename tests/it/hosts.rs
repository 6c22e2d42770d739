//! What functions ask the engine for while they run: other functions, entries, secrets.

use crate::support::engine::Project;
use crate::support::eventually;

const ENGINE: &str = r#"
max_concurrency = 1
secrets = { API_KEY = { file = "key" } }
"#;

const FUNCTIONS: &str = r#"
[functions.outer]
module = "hosts.wasm"
allow = { invoke = ["outer", "inner"] }
[[functions.outer.triggers]]
type = "http"
method = "POST"
path = "/outer"

[functions.inner]
module = "hosts.wasm"
is_public = false
allow = { kv = ["default"], secrets = ["API_KEY"] }
"#;

fn project() -> Project {
    let project = Project::new(ENGINE, FUNCTIONS);
    project.guest("hosts.component.wasm", "hosts.wasm");
    std::fs::write(project.path("key"), "hunter2\n").unwrap();
    project
}

#[tokio::test]
async fn a_function_calls_others_on_an_engine_with_one_slot() {
    let project = project();
    let engine = project.serve().await;
    let call = async |said: &str| project.post("/outer", said.to_owned()).await.text();
    assert_eq!(call("invoke inner add default n 1;add default n 1").await.trim_end(), "1\n2");
    assert_eq!(call("invoke outer invoke outer invoke inner add default n 1").await.trim_end(), "3");
    let told = call("invoke inner invoke outer x").await;
    assert!(told.contains("Denied") && told.contains("functions.inner.allow.invoke"), "{told}");
    assert!(call("invoke missing x").await.contains("Denied"));

    let failed = call("invoke inner leak API_KEY").await;
    assert!(failed.contains("guest_error") && failed.contains("the secret was ***"), "{failed}");
    assert_eq!(call("invoke inner secret API_KEY").await.trim_end(), "hunter2", "an answer is the function's affair");
    for kept in ["/api/v1/traces?limit=1000", "/api/v1/functions"] {
        let kept = project.admin(kept).await.to_string();
        assert!(!kept.contains("hunter2"), "{kept}");
    }
    assert!(!engine.log().contains("hunter2"), "{}", engine.log());

    let before = project.attempts("inner").await.len();
    assert!(call("invoke-async inner add default later 7").await.trim_end().len() == 36);
    eventually("the call that nobody waits for", async || project.attempts("inner").await.len() > before).await;
    assert_eq!(call("invoke inner add default later 0").await.trim_end(), "7");
}

#[tokio::test]
async fn a_secret_that_is_missing_is_named_by_check_and_keeps_the_engine_from_starting() {
    let project = project();
    assert!(project.run(&["check"]).status.success());
    std::fs::remove_file(project.path("key")).unwrap();
    for verb in ["check", "serve"] {
        let output = project.run(&[verb]);
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && told.contains("the secret API_KEY cannot be read"), "{verb}: {told}");
    }
}
