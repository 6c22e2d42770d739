//! `mode = "async"`: 202 once the event is committed, and the path to ask how it stands.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    Binding, Custody, DeadReason, Failure, FailureCode, HttpParts, Kind, Refused, Shed, Status, StatusState,
};
use trigger_http::Routes;

use crate::support::{Reply, ask, request, run, table};

const ID: &str = "/_tripline/invocations/0197c4a2-3f00-7000-8000-000000000001";

async fn queue() -> (Arc<FakeDispatch>, Routes) {
    let dispatch = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "path": "/f", "mode": "async" })).await;
    (dispatch, routes)
}

#[tokio::test]
async fn an_accepted_event_is_answered_202() {
    let (dispatch, routes) = queue().await;
    let reply = ask(&routes, request("POST", "/f", &[("x-request-id", "call-7")], "payload")).await;
    assert_eq!((reply.status, reply.header("content-type")), (202, Some("application/json")));
    let event = dispatch.accepted().remove(0);
    let url = format!("/_tripline/invocations/{}", event.invocation_id);
    let body = json!({ "invocation_id": event.invocation_id.to_string(), "status_url": url, "duplicate": false });
    assert_eq!((reply.json(), reply.header("location")), (body, Some(&*url)));
    assert_eq!(reply.header("x-request-id"), Some("call-7"));
    assert_eq!((event.custody, &event.payload[..]), (Custody::Engine, &b"payload"[..]));
    assert!(dispatch.seen().is_empty(), "the caller does not wait for a run");
}

#[tokio::test]
async fn the_same_key_is_the_same_event() {
    let (dispatch, routes) = queue().await;
    let send = |key: &'static str| {
        let routes = routes.clone();
        async move { ask(&routes, request("POST", "/f", &[("idempotency-key", key)], "payload")).await.json() }
    };
    let first = send("key-1").await;
    let second = send("key-1").await;
    let other = send("key-2").await;
    assert_eq!(
        (&first["duplicate"], &second["duplicate"], &other["duplicate"]),
        (&false.into(), &true.into(), &false.into())
    );
    assert_eq!(first["status_url"], second["status_url"]);
    assert_ne!(first["status_url"], other["status_url"]);
    assert_eq!(dispatch.accepted()[0].idempotency_key.as_deref(), Some("key-1"));
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_refused() {
    let (dispatch, routes) = queue().await;
    let longest = "k".repeat(255);
    assert_eq!(ask(&routes, request("POST", "/f", &[("idempotency-key", &longest)], "")).await.status, 202);
    let too_long = "k".repeat(256);
    for headers in [
        &[("idempotency-key", &*too_long)][..],
        &[("idempotency-key", "")],
        &[("idempotency-key", "two words")],
        &[("idempotency-key", "one"), ("idempotency-key", "two")],
    ] {
        let reply = ask(&routes, request("POST", "/f", headers, "")).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_idempotency_key"), "{headers:?}");
    }
    assert_eq!(dispatch.accepted().len(), 1);
}

#[tokio::test]
async fn a_waiting_callers_key_has_its_event_kept_and_not_tried_again() {
    let dispatch = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "path": "/f" })).await;
    let keyed = [("idempotency-key", "order-7")];
    let forgotten = ask(&routes, request("POST", "/f", &keyed, "payload")).await;
    assert_eq!((forgotten.status, forgotten.code().as_str()), (410, "result_forgotten"));
    let event = dispatch.accepted().remove(0);
    let terms = event.terms.unwrap();
    assert_eq!((event.custody, event.idempotency_key.as_deref()), (Custody::Engine, Some("order-7")));
    assert_eq!((terms.retry_count, terms.fingerprint.is_some()), (Some(0), true));

    let binding = (*event.binding).clone();
    let status = |state| Some(Status { binding: binding.clone(), attempts: 1, state });
    let ok = StatusState::Ok { body: "done".into(), http: None };
    let dead = StatusState::Dead {
        reason: DeadReason::RetriesExhausted,
        failure: Failure::new(FailureCode::GuestError, "no"),
    };
    let running = StatusState::Running { progress: None };
    for (state, expected) in [(ok, (200, "")), (dead, (500, "guest_error")), (running, (409, "in_progress"))] {
        *dispatch.status.lock().unwrap() = status(state);
        let told = ask(&routes, request("POST", "/f", &keyed, "payload")).await;
        let code = if told.status == 200 { String::new() } else { told.code() };
        assert_eq!((told.status, code.as_str()), expected);
        assert_eq!(told.header("idempotent-replayed"), Some("true"));
    }
    let reused = ask(&routes, request("POST", "/f", &keyed, "another")).await;
    assert_eq!((reused.status, reused.code().as_str()), (422, "idempotency_key_reused"));
    let bad = ask(&routes, request("POST", "/f", &[("idempotency-key", "two words")], "")).await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "invalid_idempotency_key"));
    assert!(dispatch.seen().is_empty());
}

#[tokio::test]
async fn an_event_that_was_not_committed_is_refused() {
    let (dispatch, routes) = queue().await;
    for (reason, status, retry_after) in [
        (Shed::StoreUnavailable, 503, Some("7")),
        (Shed::Overload, 503, Some("7")),
        (Shed::ShuttingDown, 503, Some("7")),
        (Shed::TooLarge, 413, None),
    ] {
        *dispatch.refuse.lock().unwrap() =
            Some(Refused { reason, message: "not now".into(), retry_after: Duration::from_secs(7) });
        let reply = ask(&routes, request("POST", "/f", &[], "payload")).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, reason.as_str()));
        assert_eq!((reply.header("retry-after"), &reply.json()["detail"]), (retry_after, &"not now".into()));
    }
}

fn status_of(kind: Kind, state: StatusState) -> Status {
    let binding = Binding {
        namespace: "default".into(),
        function_name: "function".into(),
        trigger_id: "trigger".into(),
        trigger_type: kind,
    };
    Status { binding, attempts: 2, state }
}

async fn standing(state: Option<StatusState>) -> Reply {
    let (dispatch, routes) = queue().await;
    *dispatch.status.lock().unwrap() = state.map(|state| status_of(Kind::Http, state));
    ask(&routes, request("GET", ID, &[], "")).await
}

#[tokio::test]
async fn an_unfinished_invocation_is_202() {
    let run_at = SystemTime::UNIX_EPOCH.into();
    for (state, word, run_at) in [
        (StatusState::Queued { run_at }, "queued", json!("1970-01-01T00:00:00Z")),
        (StatusState::Running { progress: None }, "running", json!(null)),
    ] {
        let reply = standing(Some(state)).await;
        assert_eq!((reply.status, reply.header("retry-after")), (202, Some("1")));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let body = reply.json();
        assert_eq!((&body["state"], &body["attempts"], &body["run_at"]), (&word.into(), &2.into(), &run_at));
        assert_eq!(body["invocation_id"], ID.rsplit('/').next().unwrap());
    }
}

#[tokio::test]
async fn a_finished_invocation_is_answered_as_its_function_did() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.insert("connection", HeaderValue::from_static("close"));
    let http = Some(Box::new(HttpParts { status: StatusCode::CREATED, headers }));
    let reply = standing(Some(StatusState::Ok { body: "made".into(), http })).await;
    assert_eq!((reply.status, &reply.body[..]), (201, &b"made"[..]));
    assert_eq!((reply.header("content-type"), reply.header("connection")), (Some("text/plain"), None));
    let reply = standing(Some(StatusState::Ok { body: Bytes::from_static(b"\0"), http: None })).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
}

#[tokio::test]
async fn a_dead_invocation_says_why() {
    let failure = Failure::new(FailureCode::Timeout, "ran past 10s");
    let reply = standing(Some(StatusState::Dead { reason: DeadReason::RetriesExhausted, failure })).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "timeout"));
    let problem = reply.json();
    assert_eq!((&problem["reason"], &problem["detail"]), (&"retries_exhausted".into(), &"ran past 10s".into()));
}

/// What a caller that waits is answered when the invocation stands so.
async fn awaited(state: Option<StatusState>) -> Reply {
    let (dispatch, routes) = queue().await;
    *dispatch.status.lock().unwrap() = state.map(|state| status_of(Kind::Http, state));
    let reply = ask(&routes, request("POST", "/f", &[("prefer", "wait=5"), ("x-request-id", "call-7")], "x")).await;
    assert_eq!(dispatch.accepted().len(), 1, "it is kept before anybody waits");
    assert_eq!((reply.header("preference-applied"), reply.header("x-request-id")), (Some("wait=5"), Some("call-7")));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply
}

#[tokio::test]
async fn a_caller_that_would_rather_wait_is_answered_as_the_function_did() {
    let http = Some(Box::new(HttpParts { status: StatusCode::CREATED, headers: HeaderMap::new() }));
    let reply = awaited(Some(StatusState::Ok { body: "made".into(), http })).await;
    assert_eq!((reply.status, &reply.body[..]), (201, &b"made"[..]));
    let failure = Failure::new(FailureCode::Timeout, "ran past 10s");
    let reply = awaited(Some(StatusState::Dead { reason: DeadReason::RetriesExhausted, failure })).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "timeout"));
    assert_eq!(reply.json()["request_id"], "call-7");
    let reply = awaited(Some(StatusState::Cancelled)).await;
    assert_eq!((reply.status, reply.code().as_str()), (410, "cancelled"));
    for unknown in [None, Some(StatusState::Running { progress: None })] {
        let reply = awaited(unknown).await;
        assert_eq!((reply.status, &reply.json()["duplicate"]), (202, &false.into()));
        assert!(reply.header("location").is_some());
    }
}

#[tokio::test]
async fn a_wait_is_bounded_by_the_route() {
    let dispatch = FakeDispatch::echo();
    for (most, applied) in [(2, Some("wait=2")), (0, None)] {
        let routes = table(&dispatch, json!({ "path": "/f", "mode": "async", "max_wait_seconds": most })).await;
        let reply = ask(&routes, request("POST", "/f", &[("prefer", "respond-async, wait=60")], "x")).await;
        assert_eq!((reply.status, reply.header("preference-applied")), (202, applied));
    }
    let routes = table(&dispatch, json!({ "path": "/f" })).await;
    let reply = ask(&routes, request("POST", "/f", &[("prefer", "wait=60")], "x")).await;
    assert_eq!((reply.status, reply.header("preference-applied")), (200, None), "a sync route waits anyway");
}

#[tokio::test]
async fn a_route_says_how_often_its_events_are_tried_again() {
    let dispatch = FakeDispatch::echo();
    for (mode, bounded) in [("sync", true), ("async", false)] {
        let section = json!({ "path": "/f", "mode": mode, "retry_count": 2, "retry_within_seconds": 5 });
        let routes = table(&dispatch, section).await;
        ask(&routes, request("POST", "/f", &[], "x")).await;
        let event = dispatch.seen().into_iter().chain(dispatch.accepted()).next_back().unwrap();
        let terms = event.terms.unwrap();
        let within = terms.expires_at.map(|expires_at| expires_at - event.received_at);
        assert_eq!((terms.retry_count, within), (Some(2), bounded.then(|| chrono::TimeDelta::seconds(5))), "{mode}");
    }
    ask(&table(&dispatch, json!({ "path": "/f" })).await, request("POST", "/f", &[], "x")).await;
    assert_eq!(dispatch.seen().last().unwrap().terms, None, "one that says nothing costs nothing");
}

#[tokio::test]
async fn what_is_not_known_here_is_404() {
    assert_eq!(standing(None).await.code(), "not_found");

    let (dispatch, routes) = queue().await;
    *dispatch.status.lock().unwrap() = Some(status_of(Kind::Cron, StatusState::Running { progress: None }));
    assert_eq!(ask(&routes, request("GET", ID, &[], "")).await.status, 404, "another kind's results stay its own");
    for path in ["/_tripline/invocations/", "/_tripline/invocations/7", "/_tripline/invocations", "/_tripline"] {
        assert_eq!(ask(&routes, request("GET", path, &[], "")).await.code(), "not_found", "{path}");
    }
    assert_eq!(ask(&Routes::default(), request("GET", ID, &[], "")).await.status, 404, "no trigger ever ran");
}

#[tokio::test]
async fn how_an_invocation_stands_can_only_be_read() {
    let (_dispatch, routes) = queue().await;
    let reply = ask(&routes, request("DELETE", ID, &[], "")).await;
    assert_eq!((reply.code().as_str(), reply.header("allow")), ("method_not_allowed", Some("GET, HEAD, OPTIONS")));
    let reply = ask(&routes, request("OPTIONS", ID, &[], "")).await;
    assert_eq!((reply.status, reply.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}

#[tokio::test]
async fn a_result_can_be_read_after_its_trigger_is_gone() {
    let (dispatch, routes) = (FakeDispatch::echo(), Routes::default());
    let trigger = run(&routes, &dispatch, "trigger", json!({ "path": "/f", "mode": "async" })).await;
    assert_eq!(ask(&routes, request("POST", "/f", &[], "")).await.status, 202);
    trigger.stop().await;
    assert_eq!(ask(&routes, request("POST", "/f", &[], "")).await.status, 404);
    *dispatch.status.lock().unwrap() = Some(status_of(Kind::Http, StatusState::Running { progress: None }));
    assert_eq!(ask(&routes, request("GET", ID, &[], "")).await.status, 202);
}

#[tokio::test]
async fn no_pattern_takes_the_engines_own_paths() {
    let dispatch = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "path": "/{*everything}" })).await;
    assert_eq!(ask(&routes, request("GET", "/a", &[], "")).await.status, 200);
    assert_eq!(ask(&routes, request("GET", ID, &[], "")).await.status, 404);
    assert_eq!(dispatch.seen().len(), 1);
}
