//! Who may call a route, decided before anything else is done for it.

use std::sync::Arc;

use serde_json::{Value, json};
use trigger_core::testing::{FakeCredentials, FakeDispatch};
use trigger_core::{Headers, Kind, Refused, Shed, Token, Trigger as _, TriggerKind as _};
use trigger_http::Routes;

use crate::support::*;

fn token(functions: &[&str], scopes: &[&str]) -> Arc<Token> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Arc::new(Token {
        name: "ci".into(),
        namespace: "default".into(),
        functions: words(functions),
        scopes: words(scopes),
    })
}

/// A table with one trigger at `/x` that has this `auth`, and what its guard asks.
async fn guarded(dispatch: &Arc<FakeDispatch>, mode: &str, auth: Value) -> (Routes, Arc<FakeCredentials>) {
    run_at_x(dispatch, json!({ "path": "/x", "mode": mode, "auth": auth })).await
}

async fn run_at_x(dispatch: &Arc<FakeDispatch>, section: Value) -> (Routes, Arc<FakeCredentials>) {
    let credentials = Arc::new(FakeCredentials::default());
    credentials.secrets.lock().unwrap().insert("ADMIN".to_owned(), "alice:hunter2".into());
    for (presented, token) in
        [("good", token(&["function"], &["write"])), ("narrow", token(&["*"], &[])), ("other", token(&["other"], &[]))]
    {
        credentials.tokens.lock().unwrap().insert(presented.to_owned(), token);
    }
    let routes = Routes::default();
    let mut cx = dispatch.context(Kind::Http, "trigger");
    cx.credentials = credentials.clone();
    let bound = bind(&routes, &cx, section).await;
    spawn(async move { bound.run(cx).await.unwrap() });
    tokio::task::yield_now().await;
    (routes, credentials)
}

async fn call(routes: &Routes, authorization: Option<&str>, body: &'static str) -> Reply {
    let headers: Vec<(&str, &str)> = authorization.map(|value| ("authorization", value)).into_iter().collect();
    ask(routes, request("POST", "/x", &headers, body)).await
}

#[tokio::test]
async fn who_proves_nothing_is_told_how_and_counted_and_runs_nothing() {
    let dispatch = FakeDispatch::echo();
    let (routes, _) = guarded(&dispatch, "sync", json!({ "type": "token", "scopes": ["write"] })).await;
    for (authorization, status, code, challenge) in [
        (None, 401, "unauthenticated", "Bearer realm=\"tripline\""),
        (Some("Bearer bad"), 401, "unauthenticated", "Bearer realm=\"tripline\", error=\"invalid_token\""),
        (
            Some("Bearer narrow"),
            403,
            "forbidden",
            "Bearer realm=\"tripline\", error=\"insufficient_scope\", scope=\"write\"",
        ),
        (Some("Bearer other"), 403, "forbidden", "Bearer realm=\"tripline\", error=\"insufficient_scope\""),
    ] {
        let reply = call(&routes, authorization, "{").await;
        assert_eq!((reply.status, &*reply.code()), (status, code), "{authorization:?}");
        assert_eq!(reply.header("www-authenticate"), Some(challenge));
        assert_eq!(reply.json()["retryable"], false);
    }
    let (unauthenticated, forbidden) = ((Shed::Unauthenticated, 1), (Shed::Forbidden, 1));
    assert_eq!(dispatch.shed(), [unauthenticated, unauthenticated, forbidden, forbidden]);
    assert!(dispatch.seen().is_empty());
}

#[tokio::test]
async fn a_caller_that_is_known_is_named_and_its_credentials_go_no_further() {
    for (auth, authorization, name) in [
        (json!({ "type": "token" }), "Bearer good", "token:ci"),
        (json!({ "type": "basic", "secrets": ["ADMIN"] }), "Basic YWxpY2U6aHVudGVyMg==", "basic:alice"),
    ] {
        for mode in ["sync", "async"] {
            let dispatch = FakeDispatch::echo();
            let (routes, _) = guarded(&dispatch, mode, auth.clone()).await;
            let reply = call(&routes, Some(authorization), "body").await;
            assert_eq!(reply.status, if mode == "sync" { 200 } else { 202 });
            let event = dispatch.seen().into_iter().chain(dispatch.accepted()).next().unwrap();
            assert_eq!(event.caller.as_deref(), Some(name));
            let Headers::Http(headers) = &event.headers else { panic!("{event:?}") };
            assert!(headers.get("authorization").is_none());
            assert!(!event.to_stored().contains(authorization));
        }
    }
}

#[tokio::test]
async fn a_stream_is_guarded_before_it_begins() {
    let dispatch = FakeDispatch::echo();
    let (routes, _) = guarded(&dispatch, "stream", json!({ "type": "token" })).await;
    assert_eq!(call(&routes, None, "body").await.code(), "unauthenticated");
    assert_eq!(call(&routes, Some("Bearer other"), "body").await.code(), "forbidden");
    assert!(dispatch.seen().is_empty());
    let _answered = call(&routes, Some("Bearer good"), "body").await;
    assert_eq!(dispatch.seen()[0].caller.as_deref(), Some("token:ci"));
}

#[test]
fn a_signature_and_a_stream_exclude_each_other() {
    for (mode, mistakes) in [("sync", 0), ("async", 0), ("stream", 1)] {
        let section = json!({ "path": "/x", "mode": mode, "auth": { "type": "github", "secrets": ["A"] } });
        let mut problems = trigger_core::Problems::new();
        trigger_http::Http::default().check(&serde_json::from_value(section).unwrap(), &mut problems);
        assert_eq!(problems.len(), mistakes, "{problems:?}");
    }
}

#[tokio::test]
async fn a_route_without_a_guard_leaves_credentials_to_its_function() {
    let dispatch = FakeDispatch::echo();
    let (routes, _) = guarded(&dispatch, "sync", json!({ "type": "none" })).await;
    assert_eq!(call(&routes, Some("Bearer theirs"), "").await.status, 200);
    let event = dispatch.seen().remove(0);
    assert_eq!(event.caller, None);
    assert_eq!(event.headers.get_str("authorization"), Some("Bearer theirs"));
}

#[tokio::test]
async fn a_webhook_is_known_by_the_signature_of_its_raw_body() {
    let dispatch = FakeDispatch::echo();
    let (routes, credentials) = guarded(&dispatch, "async", json!({ "type": "github", "secrets": ["HOOK"] })).await;
    credentials.secrets.lock().unwrap().insert("HOOK".to_owned(), "It's a Secret to Everybody".into());
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let post = async |body, signature: Option<&str>| {
        let headers: Vec<(&str, &str)> = signature.map(|value| ("x-hub-signature-256", value)).into_iter().collect();
        ask(&routes, request("POST", "/x", &headers, body)).await
    };
    assert_eq!(post("Hello, World!", Some(signature)).await.status, 202);
    assert_eq!(dispatch.accepted()[0].caller.as_deref(), Some("webhook:github"));
    assert_eq!(dispatch.accepted()[0].payload, "Hello, World!");
    for (body, signature) in
        [("Hello, world!", Some(signature)), ("Hello, World!", None), ("Hello, World!", Some("sha256="))]
    {
        let reply = post(body, signature).await;
        assert_eq!((reply.status, &*reply.code()), (401, "unauthenticated"));
        assert!(reply.header("www-authenticate").is_some());
    }
    assert_eq!((dispatch.accepted().len(), dispatch.shed().len()), (1, 3));
}

#[tokio::test]
async fn nobody_comes_in_while_nobody_knows() {
    let dispatch = FakeDispatch::echo();
    let (routes, credentials) = guarded(&dispatch, "sync", json!({ "type": "token" })).await;
    *credentials.refuse.lock().unwrap() = Some(Refused {
        reason: Shed::StoreUnavailable,
        message: "tokens cannot be checked now".into(),
        retry_after: std::time::Duration::from_secs(1),
    });
    let reply = call(&routes, Some("Bearer good"), "").await;
    assert_eq!((reply.status, &*reply.code()), (503, "store_unavailable"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(dispatch.shed(), [(Shed::StoreUnavailable, 1)]);
}

#[tokio::test]
async fn whoever_comes_too_often_is_told_when_to_come_again() {
    let dispatch = FakeDispatch::echo();
    let limit = json!({ "requests": 2, "per_seconds": 3600, "by": "caller" });
    let section = json!({ "path": "/x", "auth": { "type": "token" }, "rate_limit": limit });
    let (routes, _) = run_at_x(&dispatch, section).await;
    for _ in 0..2 {
        assert_eq!(call(&routes, Some("Bearer good"), "").await.status, 200);
    }
    let reply = call(&routes, Some("Bearer good"), "").await;
    assert_eq!((reply.status, &*reply.code()), (429, "rate_limited"));
    assert_eq!(reply.json()["retryable"], true);
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1800).contains(&seconds), "{seconds}");
    assert_eq!(call(&routes, Some("Bearer bad"), "").await.status, 401, "who is not known uses up nobody's share");
    assert_eq!(dispatch.seen().len(), 2);
    assert_eq!(dispatch.shed(), [(Shed::RateLimited, 1), (Shed::Unauthenticated, 1)]);
}

#[tokio::test]
async fn a_limit_by_header_holds_before_anybody_asks_who_calls() {
    let dispatch = FakeDispatch::echo();
    let limit = json!({ "requests": 1, "per_seconds": 3600, "by": "header", "header": "authorization" });
    let section = json!({ "path": "/x", "auth": { "type": "token" }, "rate_limit": limit });
    let (routes, _) = run_at_x(&dispatch, section).await;
    assert_eq!(call(&routes, Some("Bearer bad"), "").await.status, 401);
    assert_eq!(call(&routes, Some("Bearer bad"), "").await.status, 429);
    assert_eq!(call(&routes, Some("Bearer good"), "").await.status, 200);
}
