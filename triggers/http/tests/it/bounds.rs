//! What one caller can cost: every bound of the listener, on the wire.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Answer, Response};
use trigger_http::ServerConfig;

use crate::support::{Caller, Listener, config, in_time, serve};

const SHORT: Duration = Duration::from_millis(150);

async fn listener(config: ServerConfig) -> Listener {
    serve(config, &FakeDispatch::echo(), json!({ "path": "/f", "max_body_bytes": 1000 })).await
}

fn announced(bytes: usize) -> String {
    format!("POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n")
}

const CHUNKED: &str = "POST /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunks(sizes: &[usize]) -> String {
    let chunk = |size: &usize| format!("{size:x}\r\n{}\r\n", "x".repeat(*size));
    sizes.iter().map(chunk).collect::<String>() + "0\r\n\r\n"
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    let listener = listener(config()).await;
    let at = |bytes: usize| announced(bytes) + &"x".repeat(bytes);
    for (request, status) in [
        (at(1000), 200),
        (at(1001), 413),
        (CHUNKED.to_owned() + &chunks(&[1000]), 200),
        (CHUNKED.to_owned() + &chunks(&[1001]), 413),
        (CHUNKED.to_owned() + &chunks(&[1; 1000]), 200),
        (CHUNKED.to_owned() + &chunks(&[1; 1001]), 413),
        (CHUNKED.to_owned() + &chunks(&[400, 600]), 200),
        (CHUNKED.to_owned() + &chunks(&[400, 600, 1]), 413),
    ] {
        let mut caller = Caller::connect(&listener).await;
        let reply = caller.ask(&request).await;
        assert_eq!(reply.status, status, "{}", &request[..80]);
        if status == 200 {
            assert_eq!(reply.body.len(), 1000);
        } else {
            assert_eq!((reply.code().as_str(), reply.header("connection")), ("too_large", Some("close")));
            caller.close_sending_side().await;
            caller.closed().await;
        }
    }
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let listener = listener(config()).await;
    let mut caller = Caller::connect(&listener).await;
    let expects = "POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(caller.ask(expects).await.status, 413, "and not 100 first");

    let mut caller = Caller::connect(&listener).await;
    let expects = "POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    caller.send(expects).await;
    assert_eq!(caller.reply().await.status, 100);
    assert_eq!(&caller.ask("ok").await.body[..], b"ok");
}

#[tokio::test]
async fn a_caller_that_sends_too_much_still_reads_why_it_was_refused() {
    let listener = listener(config()).await;
    for _ in 0..20 {
        let mut caller = Caller::connect(&listener).await;
        caller.send(announced(4 << 20)).await;
        // All of it, before looking at the answer, as many clients do.
        for _ in 0..64 {
            caller.try_send(vec![b'x'; 64 << 10]).await.expect("the connection is not reset while the caller sends");
        }
        assert_eq!(caller.reply().await.status, 413);
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_408() {
    let listener = listener(ServerConfig { body_read_timeout: SHORT, ..config() }).await;
    for begun in [announced(10), announced(10) + "x", CHUNKED.to_owned(), CHUNKED.to_owned() + "5\r\nhello\r\n"] {
        let mut caller = Caller::connect(&listener).await;
        let since = Instant::now();
        let reply = caller.ask(&begun).await;
        assert_eq!((reply.status, reply.code().as_str()), (408, "body_timeout"), "{begun:?}");
        assert!(since.elapsed() >= SHORT);
    }
}

#[tokio::test]
async fn trickling_does_not_extend_the_time_for_a_body() {
    let listener = listener(ServerConfig { body_read_timeout: SHORT, ..config() }).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(announced(1000)).await;
    let reply = in_time("a refusal while the body trickles in", async {
        loop {
            tokio::select! {
                reply = caller.reply() => break reply,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            caller.send("x").await;
        }
    })
    .await;
    assert_eq!(reply.status, 408);
}

#[tokio::test]
async fn a_malformed_chunk_is_answered_400() {
    let listener = listener(config()).await;
    let mut caller = Caller::connect(&listener).await;
    let reply = caller.ask(CHUNKED.to_owned() + "zz\r\n").await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_body"));
}

#[tokio::test]
async fn slow_headers_and_idle_connections_are_closed() {
    let listener = listener(ServerConfig { header_read_timeout: SHORT, ..config() }).await;
    for begun in ["", "GET /f HT", "GET /f HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let mut caller = Caller::connect(&listener).await;
        let since = Instant::now();
        caller.send(begun).await;
        caller.closed().await;
        assert!(since.elapsed() >= SHORT, "{begun:?}");
    }
    let mut caller = Caller::connect(&listener).await;
    for _ in 0..3 {
        assert_eq!(caller.ask("GET /f HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
        tokio::time::sleep(SHORT / 2).await;
    }
    caller.closed().await;
}

#[tokio::test]
async fn trickling_does_not_extend_the_time_for_headers() {
    let listener = listener(ServerConfig { header_read_timeout: SHORT, ..config() }).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send("GET /f HTTP/1.1\r\nX-Slow: ").await;
    in_time("the connection to be closed while headers trickle in", async {
        while caller.try_send("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_function_is_no_slow_caller() {
    let dispatch = FakeDispatch::new_async(|invocation| {
        Box::pin(async move {
            tokio::time::sleep(SHORT * 4).await;
            Answer::Ok(Response::from(invocation.payload))
        })
    });
    let config =
        ServerConfig { header_read_timeout: SHORT, body_read_timeout: SHORT, write_timeout: SHORT, ..config() };
    let listener = serve(config, &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    for _ in 0..2 {
        assert_eq!(&caller.ask(announced(2) + "ok").await.body[..], b"ok");
    }
}

#[tokio::test]
async fn headers_over_the_limit_are_answered_431() {
    let listener = listener(ServerConfig { max_header_bytes: 2048, ..config() }).await;
    let request = |bytes: usize| {
        let bare = "GET /f HTTP/1.1\r\nHost: a\r\nX-Pad: \r\n\r\n";
        bare.replace("X-Pad: ", &format!("X-Pad: {}", "p".repeat(bytes - bare.len())))
    };
    assert_eq!(Caller::connect(&listener).await.ask(request(2048)).await.status, 200);
    assert_eq!(Caller::connect(&listener).await.ask(request(2049)).await.status, 431);
    let many = |count: usize| format!("GET /f HTTP/1.1\r\n{}\r\n", "a:1\r\n".repeat(count));
    assert_eq!(Caller::connect(&listener).await.ask(many(100)).await.status, 200);
    assert_eq!(Caller::connect(&listener).await.ask(many(101)).await.status, 431);
}

#[tokio::test]
async fn what_is_not_http_is_answered_400() {
    let listener = listener(config()).await;
    for nonsense in [
        "GET\r\n\r\n",
        "GET /f\r\n\r\n",
        "G@T /f HTTP/1.1\r\n\r\n",
        "GET /f HTTP/9.9\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /f HTTP/1.1\r\nNo Colon\r\n\r\n",
        "POST /f HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /f HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ] {
        let mut caller = Caller::connect(&listener).await;
        assert_eq!(caller.ask(nonsense).await.status, 400, "{nonsense:?}");
        caller.closed().await;
    }
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_given_up() {
    let dispatch = FakeDispatch::new(|_| Answer::Ok(Response::from(Bytes::from(vec![0; 32 << 20]))));
    let listener = serve(ServerConfig { write_timeout: SHORT, ..config() }, &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send("GET /f HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    listener.shutdown.cancel();
    in_time("the listener to end although the caller reads nothing", listener.ended).await.unwrap();
    assert!(listener.routes.refusals().contains(&("response_not_taken", 1)));
}

#[tokio::test]
async fn over_the_cap_a_connection_waits_for_another_to_end() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(ServerConfig { max_connections: 2, ..config() }, &dispatch, json!({ "path": "/f" })).await;
    let hello = "GET /f HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = Caller::connect(&listener).await;
    let mut second = Caller::connect(&listener).await;
    assert_eq!((first.ask(hello).await.status, second.ask(hello).await.status), (200, 200));
    let mut third = Caller::connect(&listener).await;
    third.send(hello).await;
    let early = tokio::time::timeout(SHORT, third.reply()).await;
    assert!(early.is_err(), "answered over the cap: {early:?}");
    drop(first);
    assert_eq!(third.reply().await.status, 200);
    assert_eq!(second.ask(hello).await.status, 200);
}
