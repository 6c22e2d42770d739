//! Tokens of callers, from `tripline tokens new` to the request that brings one.

use http::{Method, StatusCode};

use crate::support::engine::{Answer, Project};

const FUNCTIONS: &str = r#"
[functions.private]
module = "hosts.wasm"
is_public = false
allow = { kv = ["default"] }
[[functions.private.triggers]]
type = "http"
path = "/private"
[[functions.private.triggers]]
type = "http"
path = "/admin"
auth = { type = "basic", secrets = ["ADMIN"] }

[functions.public]
module = "hosts.wasm"
[[functions.public.triggers]]
type = "http"
path = "/public"
[[functions.public.triggers]]
type = "http"
path = "/narrow"
auth = { type = "token", scopes = ["write"] }
"#;

async fn call(project: &Project, path: &str, authorization: &str) -> Answer {
    project.http(Method::POST, path, &[("authorization", authorization)], "add default n 1").await
}

#[tokio::test]
async fn a_private_functions_routes_need_a_token_that_is_made_listed_and_revoked() {
    let project = Project::new("secrets = { ADMIN = { file = \"admin\" } }", FUNCTIONS);
    project.guest("hosts.component.wasm", "hosts.wasm");
    std::fs::write(project.path("admin"), "alice:hunter2\n").unwrap();
    let engine = project.serve().await;

    let refused = project.post("/private", "add default n 1").await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::UNAUTHORIZED, &"unauthenticated".into()));
    assert!(refused.headers.contains_key("www-authenticate"));

    let made = project.json(&["tokens", "new", "ci", "--function", "private", "--expires", "1h"]);
    let (id, token) = (made["id"].as_str().unwrap().to_owned(), format!("Bearer {}", made["token"].as_str().unwrap()));
    assert!(token.starts_with(&format!("Bearer tripline_{id}.")));
    let answer = call(&project, "/private", &token).await;
    assert_eq!((answer.status, answer.text().trim_end()), (StatusCode::OK, "1"));
    let traces = project.admin("/api/v1/traces?function=private").await;
    assert_eq!(traces["items"][0]["caller"], "token:ci");
    assert_eq!(call(&project, "/narrow", &token).await.status, StatusCode::FORBIDDEN, "not a function of this token");

    let wide = project.json(&["tokens", "new", "deployer", "-f", "*", "-s", "write"]);
    let wide = format!("Bearer {}", wide["token"].as_str().unwrap());
    assert_ne!(call(&project, "/narrow", &wide).await.status, StatusCode::FORBIDDEN);
    assert_ne!(call(&project, "/public", "Bearer nonsense").await.status, StatusCode::UNAUTHORIZED);
    let basic = call(&project, "/admin", "Basic YWxpY2U6aHVudGVyMg==").await;
    assert_eq!((basic.status, basic.text().trim_end()), (StatusCode::OK, "2"));
    assert_eq!(call(&project, "/admin", &token).await.status, StatusCode::UNAUTHORIZED);

    let listed = project.json(&["tokens", "list"]);
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["deployer", "ci"]);
    assert!(project.run(&["tokens", "revoke", &id]).status.success());
    assert!(!project.run(&["tokens", "revoke", &id]).status.success());
    assert_eq!(call(&project, "/private", &token).await.status, StatusCode::UNAUTHORIZED, "revoked, at once");

    let labels = ["function=\"private\"", "outcome=\"shed\"", "reason=\"unauthenticated\""];
    assert_eq!(project.metric("tripline_invocations_total", &labels).await, 3);
    let ledger = project.run(&["ledger"]);
    assert!(ledger.status.success(), "{}", String::from_utf8_lossy(&ledger.stdout));

    let secrets = [token.split_once('.').unwrap().1, wide.split_once('.').unwrap().1, "hunter2", "YWxpY2U6aHVudGVyMg"];
    for kept in ["/api/v1/traces?limit=1000", "/api/v1/tokens", "/api/v1/functions"] {
        let kept = project.admin(kept).await.to_string();
        assert!(!secrets.iter().any(|secret| kept.contains(secret)), "{kept}");
    }
    assert!(!secrets.iter().any(|secret| engine.log().contains(secret)), "{}", engine.log());

    // What was made is known after a restart too.
    assert!(engine.stop().await.success());
    let _engine = project.serve().await;
    assert_ne!(call(&project, "/narrow", &wide).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(call(&project, "/private", &token).await.status, StatusCode::UNAUTHORIZED);
}
