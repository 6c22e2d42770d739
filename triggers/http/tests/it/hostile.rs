//! Bytes that nobody means well with: each gets its status or its close, and a neighbour notices nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use trigger_core::Shed;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_http::ServerConfig;

use crate::support::{Caller, Listener, config, in_time, serve};

const SHORT: Duration = Duration::from_millis(200);

struct Attacked {
    listener: Listener,
    dispatch: Arc<FakeDispatch>,
    neighbour: Caller,
}

impl Attacked {
    async fn new(config: ServerConfig) -> Self {
        let dispatch = FakeDispatch::echo();
        let section = json!({ "path": "/f/{*rest}", "max_body_bytes": 1000 });
        let listener = serve(config, &dispatch, section).await;
        let neighbour = Caller::connect(&listener).await;
        Self { listener, dispatch, neighbour }
    }

    /// The connection that was there before, and a new one, are served.
    async fn is_unharmed(&mut self) {
        let request = "GET /f/neighbour HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(self.neighbour.ask(request).await.status, 200);
        assert_eq!(Caller::connect(&self.listener).await.ask(request).await.status, 200);
    }

    fn refused(&self, reason: &str) -> u64 {
        self.listener.routes.refusals().into_iter().find(|(known, _)| *known == reason).unwrap().1
    }

    /// The statuses of everything that comes back until the connection is closed.
    async fn statuses(&self, bytes: &[u8]) -> Vec<u16> {
        let mut caller = Caller::connect(&self.listener).await;
        let _may_be_closed_already = caller.try_send(bytes).await;
        let _likewise = caller.try_close_sending_side().await;
        let text = String::from_utf8_lossy(&caller.drained().await).into_owned();
        let lines = text.split("HTTP/1.1 ").skip(1);
        lines.map(|line| line[..3].parse().unwrap()).collect()
    }
}

/// A second request hidden behind the first: whoever answers it has been smuggled past.
const HIDDEN: &str = "GET /f/hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn what_is_no_request_is_refused_and_ends_its_connection() {
    let mut attacked = Attacked::new(ServerConfig { half_close: true, ..config() }).await;
    let many_headers = format!("GET /f/x HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let long_header = format!("GET /f/x HTTP/1.1\r\nHost: a\r\nX-Pad: {}\r\n\r\n", "p".repeat(200_000));
    let endless_line = format!("GET /{}", "a".repeat(200_000));
    let long_name = format!("GET /f/x HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", "n".repeat(70_000));
    for (bytes, status, reason) in [
        ("\r\n\r\n\0\0\0\0", 400, "malformed"),
        ("GET\r\n\r\n", 400, "malformed"),
        ("GET /f/x\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1 extra\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/2.0\r\n\r\n", 400, "malformed"),
        ("GET  /f/x HTTP/1.1\r\n\r\n", 400, "malformed"),
        ("GET /f/\0x HTTP/1.1\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1\r\nHost : a\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1\r\nHost: a\r\n folded: yes\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "malformed"),
        ("GET /f/x HTTP/1.1\r\n: empty\r\n\r\n", 400, "malformed"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n", 400, "malformed"),
        (&many_headers, 431, "headers_too_large"),
        (&long_header, 431, "headers_too_large"),
        (&endless_line, 431, "headers_too_large"),
        (&long_name, 431, "headers_too_large"),
    ] {
        let before = attacked.refused(reason);
        let shown = &bytes[..bytes.len().min(60)];
        assert_eq!(attacked.statuses(bytes.as_bytes()).await, [status], "{shown:?}");
        eventually("the refusal to be counted", || attacked.refused(reason) == before + 1).await;
    }
    assert!(attacked.dispatch.seen().is_empty());
    attacked.is_unharmed().await;
}

#[tokio::test]
async fn nothing_is_smuggled_behind_a_body_of_two_lengths() {
    let mut attacked = Attacked::new(ServerConfig { half_close: true, ..config() }).await;
    let post = |headers: &str, body: &str| format!("POST /f/x HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{HIDDEN}");
    for (headers, body, status) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", "xx", 400),
        ("Content-Length: 1, 2\r\n", "xx", 400),
        ("Content-Length: +1\r\n", "x", 400),
        ("Content-Length: -1\r\n", "x", 400),
        ("Content-Length: 0x1\r\n", "x", 400),
        ("Content-Length: 1 1\r\n", "x", 400),
        ("Content-Length: \r\n", "x", 400),
        ("Content-Length: 99999999999999999999\r\n", "x", 400),
        ("Transfer-Encoding: gzip\r\n", "x", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", 400),
        ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n", 400),
        // Both: the chunks count, and the connection is over.
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 200),
        ("Transfer-Encoding: chunked\r\nContent-Length: 60\r\n", "0\r\n\r\n", 200),
        // Chunks that are none.
        ("Transfer-Encoding: chunked\r\n", "x\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "-1\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "0x1\r\nx\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "1\r\nxx\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx", 400),
        ("Transfer-Encoding: chunked\r\n", "1\nx\n0\n\n", 400),
    ] {
        let statuses = attacked.statuses(post(headers, body).as_bytes()).await;
        assert_eq!(statuses, [status], "{headers:?} {body:?}");
    }
    let old = format!("POST /f/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}");
    assert_eq!(attacked.statuses(old.as_bytes()).await, [400]);
    let hosts = format!("GET /f/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{HIDDEN}");
    assert_eq!(attacked.statuses(hosts.as_bytes()).await, [400, 200], "two hosts are none, but its end is clear");
    let hidden = attacked.dispatch.seen().into_iter().filter(|event| event.attribute("param.rest") == Some("hidden"));
    assert_eq!(hidden.count(), 1, "only the one that was not hidden");
    attacked.is_unharmed().await;
}

#[tokio::test]
async fn a_body_that_is_refused_is_in_the_ledger_with_its_reason() {
    let mut attacked = Attacked::new(ServerConfig { body_read_timeout: SHORT, ..config() }).await;
    let large = "POST /f/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(Caller::connect(&attacked.listener).await.ask(large).await.status, 413);
    assert_eq!(attacked.dispatch.shed(), [(Shed::TooLarge, 1)]);
    let late = "POST /f/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx";
    assert_eq!(Caller::connect(&attacked.listener).await.ask(late).await.status, 408);
    assert_eq!(Caller::connect(&attacked.listener).await.ask("GET /g HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 404);
    for reason in ["too_large", "body_timeout", "not_found"] {
        assert_eq!(attacked.refused(reason), 1, "{reason}");
    }
    attacked.is_unharmed().await;
}

#[tokio::test]
async fn a_path_is_taken_as_it_is_sent() {
    let attacked = Attacked::new(config()).await;
    let mut caller = Caller::connect(&attacked.listener).await;
    for (path, rest) in [
        ("/f/../../etc/passwd", Some("../../etc/passwd")),
        ("/f/..%2f..%2fetc", Some("../../etc")),
        ("/f/%2e%2e/x", Some("../x")),
        ("/f/%252e", Some("%2e")),
        ("/f/a%00b", Some("a\0b")),
        ("/f/a//b", Some("a//b")),
        ("/f/a;b?c=../d", Some("a;b")),
        ("/f/%zz", Some("%zz")),
        ("/x/../f/y", None),
        ("/%66/x", None),
        ("/F/x", None),
        ("//f/x", None),
        ("/f%2fx", None),
        ("/f/x/../../_tripline/invocations/1", Some("x/../../_tripline/invocations/1")),
        ("/%5ftripline/invocations/1", None),
    ] {
        let reply = caller.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let seen = attacked.dispatch.seen();
        match rest {
            Some(rest) => {
                assert_eq!(reply.status, 200, "{path}");
                let event = seen.last().unwrap();
                assert_eq!(event.attribute("param.rest"), Some(rest), "{path}");
                assert_eq!(event.subject.as_ref(), path.split('?').next().unwrap(), "the path is not changed");
            }
            None => assert_eq!(reply.code(), "not_found", "{path}"),
        }
    }
    for (path, code) in [("/f/%ff", "invalid_path"), ("/f/%c0%ae", "invalid_path")] {
        let reply = caller.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{path}");
    }
}

#[tokio::test]
async fn slow_callers_are_given_up_and_hold_nobody_back() {
    let config = ServerConfig { header_read_timeout: SHORT, body_read_timeout: SHORT, ..config() };
    let attacked = Attacked::new(config).await;
    let mut slow = Vec::new();
    for begun in ["", "G", "PRI * HTTP", "GET /f/x HTTP/1.1\r\nX-a: b\r\n"].repeat(10) {
        let mut caller = Caller::connect(&attacked.listener).await;
        caller.send(begun).await;
        slow.push(caller);
    }
    let request = "GET /f/x HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(Caller::connect(&attacked.listener).await.ask(request).await.status, 200);
    for mut caller in slow {
        caller.closed().await;
    }
    eventually("each to be counted, idle neighbours too", || attacked.refused("request_late") >= 40).await;
}

// HTTP/2, frame by frame.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// GET http://a/f/x, packed.
const GET: &[u8] = b"\x82\x86\x44\x04/f/x\x41\x01a";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The error codes of what was said goodbye with.
fn goodbyes(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else { break };
        if bytes[3] == GO_AWAY {
            codes.push(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &bytes[9 + length..];
    }
    codes
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_connection() {
    let mut attacked = Attacked::new(config()).await;
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
    let largest = i32::MAX.to_be_bytes();
    for (name, frames) in [
        ("data of no stream", frame(DATA, 0, 0, b"x")),
        ("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, GET)),
        ("headers that are not packed", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40])),
        ("a frame over the limit", frame(DATA, 0, 1, &[0; 20_000])),
        ("a ping of three bytes", frame(PING, 0, 0, b"abc")),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window beyond the largest", frame(WINDOW_UPDATE, 0, 0, &largest).repeat(2)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, GET)),
        ("a stream that goes backwards", [frame(HEADERS, END_HEADERS | END_STREAM, 5, GET), request.clone()].concat()),
    ] {
        let mut caller = Caller::connect(&attacked.listener).await;
        caller.send(opening()).await;
        let _may_be_closed_already = caller.try_send(frames).await;
        let said = caller.drained().await;
        assert!(goodbyes(&said).last().is_some_and(|code| *code != 0), "{name}: {said:?}");
    }
    assert_eq!(attacked.refused("malformed"), 9);
    attacked.is_unharmed().await;
}

/// Sends this again and again until the connection is gone.
async fn flood(attacked: &Attacked, begin: &[u8], again: &[u8]) {
    let mut caller = Caller::connect(&attacked.listener).await;
    let _may_be_closed_already = caller.try_send([&opening(), begin].concat()).await;
    in_time("the flood to be cut", async { while caller.try_send(again.repeat(100)).await.is_ok() {} }).await;
}

#[tokio::test]
async fn requests_taken_back_at_once_end_their_connection() {
    let mut attacked = Attacked::new(config()).await;
    let pair = |stream| {
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, GET), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
    };
    let mut caller = Caller::connect(&attacked.listener).await;
    let storm: Vec<u8> = (0..500).flat_map(|number| pair(2 * number + 1).concat()).collect();
    let _may_be_closed_already = caller.try_send([opening(), storm].concat()).await;
    assert_eq!(goodbyes(&caller.drained().await).last(), Some(&11), "ENHANCE_YOUR_CALM");
    eventually("the flood to be counted", || attacked.refused("http2_flood") == 1).await;
    assert!(attacked.dispatch.seen().len() < 500, "most of them never became events");
    attacked.is_unharmed().await;
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_nothing_are_cut() {
    let short = ServerConfig { header_read_timeout: SHORT, write_timeout: SHORT, ..config() };
    let attacked = Attacked::new(short).await;
    let endless = frame(HEADERS, END_STREAM, 1, GET);
    for (name, begin, again) in [
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("pings", vec![], frame(PING, 0, 0, b"12345678")),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes())),
        (
            "headers that never end",
            endless,
            frame(CONTINUATION, 0, 1, &[b"\x00\x01a\x7d".as_slice(), &[b'b'; 125]].concat()),
        ),
    ] {
        flood(&attacked, &begin, &again).await;
        let request = "GET /f/x HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(Caller::connect(&attacked.listener).await.ask(request).await.status, 200, "after {name}");
    }
}
