//! HTTP/2 by prior knowledge: on the same port, over the same table, under the same bounds.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Answer, Response};
use trigger_http::ServerConfig;

use crate::support::{Caller, Listener, Reply, config, gated, in_time, serve, spawn, stuck};

const SHORT: Duration = Duration::from_millis(150);

/// A caller's end of a connection.
struct Caller2 {
    requests: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

impl Caller2 {
    async fn connect(listener: &Listener) -> Self {
        Self::connect_with(listener, &mut h2::client::Builder::new()).await
    }

    async fn connect_with(listener: &Listener, builder: &mut h2::client::Builder) -> Self {
        let socket = TcpStream::connect(listener.addr).await.unwrap();
        let (requests, connection) = in_time("the settings", builder.handshake(socket)).await.unwrap();
        Self { requests, ended: spawn(connection) }
    }

    async fn begin(&mut self, request: Request<()>, body: Option<&'static str>) -> Result<ResponseFuture, h2::Error> {
        let requests = in_time("a stream", self.requests.clone().ready()).await;
        let (response, mut stream) = requests?.send_request(request, body.is_none())?;
        if let Some(body) = body {
            stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
        }
        Ok(response)
    }

    async fn ask(&mut self, request: Request<()>, body: Option<&'static str>) -> Reply {
        let response = self.begin(request, body).await.unwrap();
        read(response).await.unwrap()
    }
}

async fn read(response: ResponseFuture) -> Result<Reply, h2::Error> {
    let (head, mut body) = in_time("a response", response).await?.into_parts();
    let mut whole = Vec::new();
    while let Some(piece) = in_time("its body", body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: whole.into() })
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a{path}")).body(()).unwrap()
}

#[tokio::test]
async fn one_port_serves_both_protocols() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(config(), &dispatch, json!({ "path": "/f/{n}" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let reply = caller.ask(request("POST", "/f/1?x=y"), Some("body")).await;
    assert_eq!((reply.status, &reply.body[..], reply.header("content-length")), (200, &b"body"[..], Some("4")));
    assert!(reply.header("x-request-id").is_some() && reply.header("date").is_some());
    let seen = &dispatch.seen()[0];
    let facts = ["method", "path", "query", "host", "param.n"].map(|name| seen.attribute(name));
    assert_eq!(facts, [Some("POST"), Some("/f/1"), Some("x=y"), Some("a"), Some("1")]);
    assert_eq!(caller.ask(request("GET", "/g"), None).await.code(), "not_found");
    let mut old = Caller::connect(&listener).await;
    assert_eq!(old.ask("GET /f/1 HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn the_protocol_is_known_however_its_first_bytes_are_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = serve(config(), &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for cut in 1..preface.len() {
        let mut socket = TcpStream::connect(listener.addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        for part in [&preface[..cut], &preface[cut..]] {
            socket.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut frame = [0; 9];
        in_time("the settings", socket.read_exact(&mut frame)).await.unwrap();
        assert_eq!(frame[3], 4, "a SETTINGS frame, not an answer in HTTP/1");
    }
    let mut caller = Caller::connect(&listener).await;
    caller.send("PRI * H").await;
    assert_eq!(caller.ask("TTP/1.1\r\nHost: a\r\n\r\n").await.status, 404, "it only began like it");
    let mut caller = Caller::connect(&listener).await;
    caller.send("P").await;
    assert_eq!(caller.ask("OST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await.body, "x");
}

#[tokio::test]
async fn requests_of_one_connection_run_side_by_side() {
    let (dispatch, gate) = gated();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let mut responses = Vec::new();
    for _ in 0..20 {
        responses.push(caller.begin(request("POST", "/f"), Some("x")).await.unwrap());
    }
    eventually("all of them to run", || dispatch.seen().len() == 20).await;
    for _ in &responses {
        gate.notify_one();
    }
    for reply in in_time("all answers", join_all(responses.into_iter().map(read))).await {
        assert_eq!(&reply.unwrap().body[..], b"x");
    }
}

#[tokio::test]
async fn what_must_not_have_a_body_has_none() {
    let dispatch = FakeDispatch::new(|_| Answer::Ok(Response::from(Bytes::from_static(b"body"))));
    let listener = serve(config(), &dispatch, json!({ "method": "GET", "path": "/f" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let reply = caller.ask(request("HEAD", "/f"), None).await;
    assert_eq!((reply.status, reply.header("content-length"), reply.body.len()), (200, Some("4"), 0));
    let reply = caller.ask(request("OPTIONS", "/f"), None).await;
    assert_eq!((reply.status, reply.header("allow"), reply.body.len()), (204, Some("GET, HEAD, OPTIONS"), 0));
    assert_eq!(&caller.ask(request("GET", "/f"), None).await.body[..], b"body");
}

#[tokio::test]
async fn bodies_and_headers_have_the_same_bounds() {
    let config = ServerConfig { body_read_timeout: SHORT, max_header_bytes: 2048, ..config() };
    let listener = serve(config, &FakeDispatch::echo(), json!({ "path": "/f", "max_body_bytes": 4 })).await;
    let mut caller = Caller2::connect(&listener).await;
    assert_eq!(caller.ask(request("POST", "/f"), Some("four")).await.status, 200);
    assert_eq!(caller.ask(request("POST", "/f"), Some("fives")).await.code(), "too_large");
    let mut announced = request("POST", "/f");
    announced.headers_mut().insert("content-length", 4.into());
    let (response, stalls) = caller.requests.send_request(announced, false).unwrap();
    assert_eq!(read(response).await.unwrap().code(), "body_timeout");
    drop(stalls);
    let mut padded = request("GET", "/f");
    padded.headers_mut().insert("x-pad", "p".repeat(4096).parse().unwrap());
    assert_eq!(caller.ask(padded, None).await.status, 431);
    assert_eq!(caller.ask(request("GET", "/f"), None).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_large_answer_is_sent_as_the_caller_takes_it() {
    let whole: Bytes = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let answer = whole.clone();
    let dispatch = FakeDispatch::new(move |_| Answer::Ok(Response::from(answer.clone())));
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let reply = caller.ask(request("GET", "/f"), None).await;
    assert_eq!(reply.header("content-length"), Some("8000000"));
    assert_eq!(reply.body, whole);
}

#[tokio::test]
async fn a_caller_that_grants_no_window_is_given_up() {
    let dispatch = FakeDispatch::new(|event| match event.attribute("param.n") {
        Some("large") => Answer::Ok(Response::from(Bytes::from(vec![0; 1 << 20]))),
        _ => Answer::Ok(Response::from(Bytes::from_static(b"small"))),
    });
    let config = ServerConfig { write_timeout: SHORT, ..config() };
    let listener = serve(config, &dispatch, json!({ "path": "/{n}" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let stuck = caller.begin(request("GET", "/large"), None).await.unwrap();
    let response = in_time("the head", stuck).await.unwrap();
    in_time("the connection to end although other requests go on", async {
        while let Ok(other) = caller.begin(request("GET", "/small"), None).await {
            let _ = read(other).await;
        }
    })
    .await;
    let _in_order_or_not = in_time("its end", caller.ended).await.unwrap();
    let (_, mut body) = response.into_parts();
    let mut taken = 0;
    while let Some(Ok(piece)) = in_time("what was sent", body.data()).await {
        taken += piece.len();
    }
    assert!(taken < 1 << 20, "the rest was given up: {taken}");
    assert!(listener.routes.refusals().contains(&("response_not_taken", 1)));
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_closed() {
    let listener =
        serve(ServerConfig { header_read_timeout: SHORT, ..config() }, &FakeDispatch::echo(), json!({ "path": "/f" }))
            .await;
    let mut caller = Caller2::connect(&listener).await;
    assert_eq!(caller.ask(request("GET", "/f"), None).await.status, 200);
    in_time("the connection to end", caller.ended).await.unwrap().expect("in order");

    let mut silent = Caller::connect(&listener).await;
    silent.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    in_time("a connection that never sends settings to be closed", silent.drained()).await;
}

#[tokio::test]
async fn no_more_requests_at_once_than_allowed() {
    let (dispatch, _gate) = gated();
    let config = ServerConfig { max_concurrent_streams: 2, ..config() };
    let listener = serve(config, &dispatch, json!({ "path": "/f" })).await;
    // It believes that it may have ten, and so does not wait.
    let mut caller = Caller2::connect_with(&listener, h2::client::Builder::new().initial_max_send_streams(10)).await;
    let mut responses = Vec::new();
    for _ in 0..3 {
        responses.push(caller.requests.send_request(request("GET", "/f"), true).unwrap().0);
    }
    let refused = in_time("a refusal", responses.pop().unwrap()).await.unwrap_err();
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    eventually("the others to run", || dispatch.seen().len() == 2).await;
}

#[tokio::test]
async fn a_request_that_is_taken_back_cancels_its_attempt_and_no_other() {
    let (dispatch, dropped) = stuck();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let (response, mut stream) = caller.requests.send_request(request("POST", "/f"), false).unwrap();
    stream.send_data(Bytes::new(), true).unwrap();
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    eventually("the attempt to be dropped", || dropped.load(std::sync::atomic::Ordering::SeqCst)).await;
    drop(response);
    assert_eq!(caller.ask(request("GET", "/g"), None).await.status, 404);
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way() {
    let (dispatch, gate) = gated();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut idle = Caller2::connect(&listener).await;
    assert_eq!(idle.ask(request("GET", "/g"), None).await.status, 404);
    let mut caller = Caller2::connect(&listener).await;
    let response = caller.begin(request("POST", "/f"), Some("under way")).await.unwrap();
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    listener.shutdown.cancel();
    in_time("the idle connection to end", idle.ended).await.unwrap().expect("in order");
    assert!(!listener.ended.is_finished(), "a request is in flight");
    gate.notify_one();
    assert_eq!(&read(response).await.unwrap().body[..], b"under way");
    drop(caller.requests);
    in_time("the connection to end", caller.ended).await.unwrap().expect("in order");
    in_time("the listener to end", listener.ended).await.unwrap();
}

#[tokio::test]
async fn force_drops_what_is_left() {
    let (dispatch, dropped) = stuck();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller2::connect(&listener).await;
    let response = caller.begin(request("GET", "/f"), None).await.unwrap();
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    listener.shutdown.cancel();
    listener.force.cancel();
    in_time("the listener to end", listener.ended).await.unwrap();
    eventually("the attempt to be dropped", || dropped.load(std::sync::atomic::Ordering::SeqCst)).await;
    assert!(read(response).await.is_err());
}

#[tokio::test]
async fn headers_of_the_connection_do_not_pass() {
    use http::HeaderValue;
    let mut headers = HeaderMap::new();
    headers.insert("x-guest", HeaderValue::from_static("yes"));
    let http = trigger_core::HttpParts { status: http::StatusCode::CREATED, headers };
    let answer = Response { body: "made".into(), http: Some(Box::new(http)) };
    let dispatch = FakeDispatch::new(move |_| Answer::Ok(answer.clone()));
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let reply = Caller2::connect(&listener).await.ask(request("GET", "/f"), None).await;
    assert_eq!((reply.status, reply.header("x-guest"), reply.header("connection")), (201, Some("yes"), None));
}
