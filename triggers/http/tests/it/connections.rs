//! HTTP/1.1 on the wire: keep-alive, pipelining, HEAD, callers that go away.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::sync::Notify;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Answer, HttpParts, Response};
use trigger_http::ServerConfig;

use crate::support::{Caller, config, serve, stuck};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(config(), &dispatch, json!({ "path": "/f/{n}" })).await;
    let mut caller = Caller::connect(&listener).await;
    for n in 0..50 {
        let body = format!("body {n}");
        let request = format!("POST /f/{n} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let reply = caller.ask(request).await;
        assert_eq!((reply.status, &reply.body[..]), (200, body.as_bytes()));
        assert!(reply.header("date").is_some());
    }
    assert_eq!(dispatch.seen().len(), 50);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let dispatch = FakeDispatch::new(|event| {
        Answer::Ok(Response::from(Bytes::from(event.attribute("param.n").unwrap().to_owned())))
    });
    let listener = serve(config(), &dispatch, json!({ "path": "/f/{n}" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send((0..40).map(|n| get(&format!("/f/{n}"))).collect::<String>()).await;
    for n in 0..40 {
        assert_eq!(&caller.reply().await.body[..], n.to_string().as_bytes());
    }
}

#[tokio::test]
async fn a_body_in_many_pieces_arrives_whole() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(config(), &dispatch, json!({ "path": "/f", "max_body_bytes": 4 << 20 })).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut caller = Caller::connect(&listener).await;
    caller.send(format!("POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    for piece in body.chunks(10_007) {
        caller.send(piece).await;
    }
    assert_eq!(caller.reply().await.body, body);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let dispatch = FakeDispatch::new(|_| Answer::Ok(Response::from(Bytes::from_static(b"body"))));
    let listener = serve(config(), &dispatch, json!({ "method": "GET", "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send("HEAD /f HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = caller.reply_to_head().await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("4")));
    assert_eq!(dispatch.seen()[0].attribute("method"), Some("HEAD"));
    assert_eq!(&caller.ask(get("/f")).await.body[..], b"body", "nothing of the first body is on the wire");
    caller.send("HEAD /g HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(caller.reply_to_head().await.status, 404);
    assert_eq!(&caller.ask(get("/f")).await.body[..], b"body");
}

#[tokio::test]
async fn a_status_that_has_no_body_is_sent_without() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let http = HttpParts { status, headers: HeaderMap::new() };
        let answer = Response { body: "body".into(), http: Some(Box::new(http)) };
        let dispatch = FakeDispatch::new(move |_| Answer::Ok(answer.clone()));
        let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
        let mut caller = Caller::connect(&listener).await;
        for _ in 0..2 {
            let reply = caller.ask(get("/f")).await;
            assert_eq!((reply.status, reply.header("content-length")), (status.as_u16(), None));
        }
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let listener = serve(config(), &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    assert_eq!(caller.ask("GET /f HTTP/1.0\r\n\r\n").await.status, 200);
    caller.closed().await;
}

#[tokio::test]
async fn a_refused_body_ends_the_connection_and_says_so() {
    let listener = serve(config(), &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    let reply = caller.ask("POST /g HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    assert_eq!((reply.status, reply.header("connection")), (404, Some("close")));
    let mut caller = Caller::connect(&listener).await;
    assert_eq!(caller.ask(get("/g")).await.header("connection"), None, "without a body the connection can go on");
    assert_eq!(caller.ask(get("/f")).await.status, 200);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_attempt() {
    let (dispatch, dropped) = stuck();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(get("/f")).await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    assert!(!dropped.load(Ordering::SeqCst));
    drop(caller);
    eventually("the attempt to be dropped", || dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn half_closing_is_going_away_unless_it_is_allowed() {
    let (dispatch, dropped) = stuck();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(get("/f")).await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    caller.close_sending_side().await;
    eventually("the attempt to be dropped", || dropped.load(Ordering::SeqCst)).await;

    let gate = Arc::new(Notify::new());
    let opens = gate.clone();
    let dispatch = FakeDispatch::new_async(move |event| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.notified().await;
            Answer::Ok(Response::from(event.payload))
        })
    });
    let listener = serve(ServerConfig { half_close: true, ..config() }, &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(get("/f")).await;
    caller.close_sending_side().await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    opens.notify_one();
    assert_eq!(caller.reply().await.status, 200);
}

#[tokio::test]
async fn a_request_to_upgrade_is_answered_as_any_other() {
    let listener = serve(config(), &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    let upgrade = "GET /f HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(caller.ask(upgrade).await.status, 200);
    let mut caller = Caller::connect(&listener).await;
    assert_eq!(caller.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 404);
}
