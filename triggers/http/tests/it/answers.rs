//! What a caller is told: every answer of the engine, every refusal of the adapter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, DeadReason, Failure, FailureCode, HttpParts, Response, Shed, SkipReason};

use crate::support::{ask, request, table};

async fn told(answer: Answer) -> crate::support::Reply {
    let dispatch = FakeDispatch::new(move |_| answer.clone());
    let routes = table(&dispatch, json!({ "path": "/f" })).await;
    ask(&routes, request("POST", "/f", &[], "payload")).await
}

#[tokio::test]
async fn every_answer_of_the_engine_becomes_its_status() {
    let failed = |code| Answer::Failed(Failure::new(code, "message"));
    let dead = |reason, code| Answer::Dead { reason, failure: Failure::new(code, "message") };
    let shed = |reason| Answer::Shed { reason, retry_after: Duration::from_millis(2500) };
    for (answer, status, code, retryable, retry_after) in [
        (failed(FailureCode::Timeout), 504, "timeout", true, None),
        (failed(FailureCode::Memory), 500, "memory", true, None),
        (failed(FailureCode::Fuel), 500, "fuel", true, None),
        (failed(FailureCode::Trap), 500, "trap", true, None),
        (failed(FailureCode::GuestError), 500, "guest_error", true, None),
        (failed(FailureCode::BadOutput), 500, "bad_output", false, None),
        (failed(FailureCode::ImportDenied), 500, "import_denied", false, None),
        (failed(FailureCode::Denied), 500, "denied", false, None),
        (failed(FailureCode::HostError), 503, "host_error", true, Some("1")),
        (failed(FailureCode::Cancelled), 503, "cancelled", true, Some("1")),
        (
            Answer::Failed(Failure::new(FailureCode::GuestError, "busy").after(Duration::from_millis(4001))),
            500,
            "guest_error",
            true,
            Some("5"),
        ),
        (Answer::Failed(Failure::new(FailureCode::GuestError, "no").permanent()), 500, "guest_error", false, None),
        (
            Answer::Retry { after: Duration::from_secs(8), failure: Failure::new(FailureCode::Trap, "x") },
            500,
            "trap",
            true,
            Some("8"),
        ),
        (dead(DeadReason::RetriesExhausted, FailureCode::GuestError), 500, "guest_error", false, None),
        (dead(DeadReason::Timeout, FailureCode::Timeout), 504, "timeout", false, None),
        (dead(DeadReason::DepthExceeded, FailureCode::Denied), 500, "depth_exceeded", false, None),
        (dead(DeadReason::Incompatible, FailureCode::HostError), 500, "incompatible", false, None),
        (shed(Shed::Overload), 503, "overload", true, Some("3")),
        (shed(Shed::ShuttingDown), 503, "shutting_down", true, Some("3")),
        (shed(Shed::StoreUnavailable), 503, "store_unavailable", true, Some("3")),
        (shed(Shed::TooLarge), 413, "too_large", false, None),
        (Answer::Skipped(SkipReason::Disabled), 503, "disabled", true, Some("60")),
        (Answer::Skipped(SkipReason::Duplicate), 409, "duplicate", false, None),
        (Answer::Cancelled, 503, "cancelled", true, Some("1")),
    ] {
        let reply = told(answer.clone()).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{answer:?}");
        assert_eq!(reply.json()["retryable"], retryable, "{answer:?}");
        assert_eq!(reply.header("retry-after"), retry_after, "{answer:?}");
        assert_eq!(reply.header("server-timing"), None, "only a guest's answer took a guest's time");
    }
}

#[tokio::test]
async fn a_guests_message_reaches_the_caller_and_the_engines_own_does_not() {
    let reply = told(Answer::Failed(Failure::new(FailureCode::GuestError, "no such order"))).await;
    assert_eq!(reply.json()["detail"], "no such order");
    let reply = told(Answer::Failed(Failure::new(FailureCode::HostError, "/var/lib/secret is full"))).await;
    assert!(!String::from_utf8_lossy(&reply.body).contains("secret"), "{reply:?}");
    let reply = told(Answer::Dead {
        reason: DeadReason::RetriesExhausted,
        failure: Failure::new(FailureCode::GuestError, "no such order"),
    })
    .await;
    assert_eq!(
        (&reply.json()["reason"], &reply.json()["detail"]),
        (&"retries_exhausted".into(), &"no such order".into())
    );
}

#[tokio::test]
async fn bytes_alone_are_answered_200() {
    let reply = told(Answer::Ok(Response::from(Bytes::from_static(b"{\"a\":1}")))).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(&reply.body[..], b"{\"a\":1}");
    let timing = reply.header("server-timing").unwrap();
    assert!(timing.strip_prefix("total;dur=").unwrap().parse::<f64>().unwrap() >= 0.0);
    assert_eq!(reply.header("x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn a_guest_chooses_status_and_headers() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.append("set-cookie", HeaderValue::from_static("a=1"));
    headers.append("set-cookie", HeaderValue::from_bytes(b"b=\xff").unwrap());
    headers.insert("server-timing", HeaderValue::from_static("db;dur=5"));
    headers.insert("x-request-id", HeaderValue::from_static("forged"));
    headers.insert("content-length", HeaderValue::from_static("1"));
    headers.insert("connection", HeaderValue::from_static("close"));
    let http = HttpParts { status: StatusCode::IM_A_TEAPOT, headers };
    let reply = told(Answer::Ok(Response { body: "tea".into(), http: Some(Box::new(http)) })).await;
    assert_eq!((reply.status, &reply.body[..]), (418, &b"tea"[..]));
    let cookies: Vec<&[u8]> = reply.headers.get_all("set-cookie").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(cookies, [&b"a=1"[..], b"b=\xff"]);
    assert_eq!(reply.headers.get_all("server-timing").iter().count(), 2);
    assert_ne!(reply.header("x-request-id"), Some("forged"));
    assert_eq!((reply.header("content-length"), reply.header("connection")), (None, None));
}

#[tokio::test]
async fn an_interim_status_is_bad_output() {
    let http = HttpParts { status: StatusCode::SWITCHING_PROTOCOLS, headers: HeaderMap::new() };
    let reply = told(Answer::Ok(Response { body: Bytes::new(), http: Some(Box::new(http)) })).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "bad_output"));
}

#[tokio::test]
async fn an_event_that_the_engine_keeps_is_accepted() {
    let reply = told(Answer::Kept(Failure::new(FailureCode::Trap, "x"))).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.header("location"), reply.json()["status_url"].as_str());
}

#[tokio::test]
async fn what_the_adapter_refuses() {
    let dispatch = FakeDispatch::echo();
    let section = json!({ "method": ["POST", "GET"], "path": "/orders/{id}", "max_body_bytes": 4 });
    let routes = table(&dispatch, section).await;
    let json_type = ("content-type", "application/json");
    for (method, uri, headers, body, status, code) in [
        ("GET", "/nowhere", &[][..], "", 404, "not_found"),
        ("GET", "/orders/", &[], "", 404, "not_found"),
        ("GET", "/orders/1/2", &[], "", 404, "not_found"),
        ("GET", "/_tripline/health", &[], "", 404, "not_found"),
        ("PUT", "/orders/1", &[], "", 405, "method_not_allowed"),
        ("CONNECT", "/orders/1", &[], "", 405, "method_not_allowed"),
        ("POST", "/orders/%ff", &[], "", 400, "invalid_path"),
        ("POST", "/orders/1", &[], "12345", 413, "too_large"),
        ("POST", "/orders/1", &[json_type], "", 400, "invalid_json"),
        ("POST", "/orders/1", &[json_type], "{a", 400, "invalid_json"),
        ("POST", "/orders/1", &[("content-type", "application/ce+JSON; x=y")], "{a", 400, "invalid_json"),
    ] {
        let reply = ask(&routes, request(method, uri, headers, body)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {uri}");
        let allow = (status == 405).then_some("GET, HEAD, POST, OPTIONS");
        assert_eq!(reply.header("allow"), allow, "{method} {uri}");
    }
    assert!(dispatch.seen().is_empty(), "no function hears of a refused request");
}

#[tokio::test]
async fn what_the_adapter_lets_through() {
    let dispatch = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "path": "/f", "max_body_bytes": 4 })).await;
    let json_type = ("content-type", "application/json");
    for (method, headers, body) in [
        ("POST", &[][..], "1234"),
        ("POST", &[], ""),
        ("POST", &[json_type], "{}"),
        ("GET", &[json_type], ""),
        ("DELETE", &[json_type], ""),
        ("POST", &[json_type, ("content-encoding", "gzip")], "gzip"),
        ("POST", &[("content-type", "text/json-like")], "{a"),
        ("PROPFIND", &[], ""),
        ("OPTIONS", &[], ""),
        ("HEAD", &[], ""),
    ] {
        let reply = ask(&routes, request(method, "/f", headers, body)).await;
        assert_eq!((reply.status, &reply.body[..]), (200, body.as_bytes()), "{method} {headers:?}");
    }
    assert_eq!(dispatch.seen().len(), 10);
}

#[tokio::test]
async fn options_is_answered_with_what_is_served() {
    let routes = table(&FakeDispatch::echo(), json!({ "method": ["PUT", "DELETE"], "path": "/f" })).await;
    let reply = ask(&routes, request("OPTIONS", "/f", &[], "")).await;
    assert_eq!((reply.status, reply.header("allow")), (204, Some("DELETE, PUT, OPTIONS")));
    assert!(reply.body.is_empty());
    assert_eq!(ask(&routes, request("OPTIONS", "/g", &[], "")).await.status, 404);
}

#[tokio::test]
async fn every_response_carries_the_callers_request_id() {
    let dispatch: Arc<FakeDispatch> = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "method": "GET", "path": "/f" })).await;
    for (method, uri) in [("GET", "/f"), ("PUT", "/f"), ("OPTIONS", "/f"), ("GET", "/g"), ("GET", "/_tripline/x")] {
        let named = ask(&routes, request(method, uri, &[("x-request-id", "call-7")], "")).await;
        assert_eq!(named.header("x-request-id"), Some("call-7"), "{method} {uri}");
        let unfit = ask(&routes, request(method, uri, &[("x-request-id", "two words")], "")).await;
        assert_eq!(unfit.header("x-request-id").unwrap().len(), 36, "{method} {uri}");
    }
    let seen = dispatch.seen();
    assert_eq!(seen[0].request_id.as_deref(), Some("call-7"));
    assert_eq!(seen[1].request_id, None);
}
