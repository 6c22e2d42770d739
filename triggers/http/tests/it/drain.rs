//! Stopping: what was begun is finished, nothing new begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::net::TcpStream;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_http::ServerConfig;

use crate::support::{Caller, config, gated, in_time, listen, run, serve, spawn};

const HELLO: &str = "GET /f HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_request_in_flight_is_finished_and_new_connections_are_refused() {
    let (dispatch, gate) = gated();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(HELLO).await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;

    listener.shutdown.cancel();
    let addr = listener.addr;
    in_time("new connections to be refused", async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!listener.ended.is_finished(), "a request is in flight");
    gate.notify_one();
    let reply = caller.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    caller.closed().await;
    in_time("the listener to end", listener.ended).await.unwrap();
}

#[tokio::test]
async fn connections_that_wait_for_a_request_are_closed_at_once() {
    let listener = serve(config(), &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let mut fresh = Caller::connect(&listener).await;
    let mut idle = Caller::connect(&listener).await;
    assert_eq!(idle.ask(HELLO).await.status, 200);
    // By now the fresh one, which came first, is taken too.
    listener.shutdown.cancel();
    fresh.closed().await;
    idle.closed().await;
    in_time("the listener to end", listener.ended).await.unwrap();
}

#[tokio::test]
async fn a_request_that_has_begun_to_arrive_is_answered() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send("POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(caller.reply().await.status, 100, "the request is being read");
    listener.shutdown.cancel();
    assert_eq!(&caller.ask("body").await.body[..], b"body");
    in_time("the listener to end", listener.ended).await.unwrap();
}

#[tokio::test]
async fn force_drops_what_is_left() {
    let (dispatch, _never_opens) = gated();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(HELLO).await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    listener.shutdown.cancel();
    listener.force.cancel();
    in_time("the listener to end", listener.ended).await.unwrap();
    caller.closed().await;
}

#[tokio::test]
async fn a_route_that_the_shutdown_took_away_is_not_called_unknown() {
    let (dispatch, gate) = gated();
    let listener = listen(config()).await;
    let trigger = run(&listener.routes, &dispatch, "trigger", json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    caller.send(HELLO.repeat(2)).await;
    eventually("the function to run", || dispatch.seen().len() == 1).await;
    listener.shutdown.cancel();
    trigger.shutdown.cancel();
    let routes = listener.routes.clone();
    let reply = crate::support::ask(&routes, crate::support::request("GET", "/other", &[], "")).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "shutting_down"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    gate.notify_one();
    assert_eq!(caller.reply().await.status, 200);
    in_time("the trigger to end", trigger.ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_lost_when_a_busy_listener_stops() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(ServerConfig { max_connections: 64, ..config() }, &dispatch, json!({ "path": "/f" })).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for _ in 0..16 {
        let mut caller = Caller::connect(&listener).await;
        let answered = answered.clone();
        callers.push(spawn(async move {
            // Until the connection is closed between two requests; a head without its body would panic.
            while caller.try_send(HELLO).await.is_ok() {
                match caller.reply_or_close().await {
                    Some(reply) => assert_eq!(reply.status, 200),
                    None => break,
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    eventually("some traffic", || answered.load(Ordering::SeqCst) > 200).await;
    listener.shutdown.cancel();
    in_time("the listener to end", listener.ended).await.unwrap();
    for caller in callers {
        in_time("a caller to end", caller).await.unwrap();
    }
    assert_eq!(dispatch.seen().len(), answered.load(Ordering::SeqCst), "whatever ran was answered");
}
