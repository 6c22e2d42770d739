//! What the function is told, and what its answers mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, Custody, Failure, FailureCode, HttpParts, Response, Shed};

use super::support::{Place, told, wait_for_events};

#[tokio::test]
async fn a_message_is_an_event_and_its_answer_a_frame() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run_at("/live/{room}", &dispatch, json!({})).await;
    let mut client = place.ask("/live/a%20b?x=1", &[]).await.unwrap();
    client.send("hello").await;
    assert_eq!(client.next().await, Some(Message::text("hello")));
    client.send(Message::binary(vec![0, 255])).await;
    assert_eq!(client.next().await, Some(Message::binary(vec![0, 255])));
    client.send("").await;
    client.send("after nothing").await;
    assert_eq!(client.text().await, "after nothing", "an empty answer is none");

    let seen = dispatch.seen();
    assert_eq!(seen.len(), 4, "nobody asked for connect");
    let [text, binary] = [&seen[0], &seen[1]];
    assert_eq!((&*text.subject, text.custody), ("/live/a%20b", Custody::Caller));
    for (name, value) in
        [("event", "message"), ("opcode", "text"), ("param.room", "a b"), ("query", "x=1"), ("path", "/live/a%20b")]
    {
        assert_eq!(text.attribute(name), Some(value), "{name}");
    }
    assert_eq!(text.attribute("socket"), text.ws_client_id.as_deref());
    assert_eq!(text.ws_client_id, binary.ws_client_id);
    assert_eq!(
        (text.content_type.as_deref(), binary.attribute("opcode")),
        (Some("text/plain; charset=utf-8"), Some("binary"))
    );
}

#[tokio::test]
async fn messages_of_a_socket_are_handled_one_at_a_time_in_their_order() {
    let (place, running) = (Place::new().await, Arc::new(AtomicUsize::new(0)));
    let dispatch = {
        let running = running.clone();
        FakeDispatch::new_async(move |event| {
            let running = running.clone();
            Box::pin(async move {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                Answer::Ok(Response::from(event.payload))
            })
        })
    };
    // Fewer may wait than are sent: the rest waits with who sent it, and none is lost.
    place.run(&dispatch, json!({ "queue": 2 })).await;
    let mut client = place.connect().await;
    for number in 0..100 {
        client.send(number.to_string()).await;
    }
    for number in 0..100 {
        assert_eq!(client.text().await, number.to_string());
    }
}

#[tokio::test]
async fn connect_and_disconnect_are_told_with_code_and_reason() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "events": ["connect", "message", "disconnect", "error"] })).await;
    let headers = [("x-request-id", "r-1"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let mut client = place.ask("/live", &headers).await.unwrap();
    client.send("hi").await;
    assert_eq!(client.text().await, "hi", "what connect answers is nothing for the peer");
    let goodbye = CloseFrame { code: CloseCode::from(4001), reason: "done here".into() };
    client.send(Message::Close(Some(goodbye))).await;
    assert_eq!(client.closed().await, (4001, "done here".into()));
    wait_for_events(&dispatch, 3).await;
    assert_eq!(told(&dispatch, "code"), ["connect", "message", "disconnect 4001"]);
    let seen = dispatch.seen();
    assert_eq!(seen[2].attribute("reason"), Some("done here"));
    assert_eq!((&*seen[0].request_id(), seen[0].headers.get_str("x-request-id")), ("r-1", Some("r-1")));
    assert!(seen[0].trace.traceparent().contains("0af7651916cd43dd8448eb211c80319c"));
    assert!(seen[1].headers.is_empty(), "headers are told once");
}

#[tokio::test]
async fn connect_may_refuse_with_a_status() {
    let place = Place::new().await;
    for (answer, status, code) in [
        (
            Answer::Ok(Response {
                body: "sold out".into(),
                http: Some(Box::new(HttpParts { status: StatusCode::GONE, headers: Default::default() })),
            }),
            410,
            "sold out",
        ),
        (Answer::Failed(Failure::new(FailureCode::GuestError, "not you").permanent()), 403, "guest_error"),
        (Answer::Failed(Failure::new(FailureCode::Trap, "oops")), 500, "trap"),
        (Answer::Failed(Failure::new(FailureCode::Timeout, "slow")), 504, "timeout"),
        (Answer::Shed { reason: Shed::Forbidden, retry_after: Duration::ZERO }, 403, "forbidden"),
        (Answer::Shed { reason: Shed::Overload, retry_after: Duration::ZERO }, 503, "overload"),
    ] {
        let dispatch = FakeDispatch::new(move |_| answer.clone());
        let running = place.run(&dispatch, json!({ "events": ["connect", "disconnect"], "max_connections": 1 })).await;
        for _ in 0..2 {
            let refused = place.ask("/live", &[]).await.map(drop).unwrap_err();
            assert_eq!(refused, (status, code.to_owned()), "who was refused takes no room");
        }
        assert_eq!(told(&dispatch, "code"), ["connect", "connect"], "no socket, so no end of one");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_function_that_fails_closes_the_socket_or_not() {
    let place = Place::new().await;
    let dispatch = FakeDispatch::new(|event| match &event.payload[..] {
        b"fail" => Answer::Failed(Failure::new(FailureCode::Trap, "secret")),
        _ => Answer::Ok(Response::from(event.payload.clone())),
    });
    let running = place.run(&dispatch, json!({})).await;
    let mut client = place.connect().await;
    client.send("fail").await;
    assert_eq!(client.closed().await, (1011, "the function failed".into()));
    running.stop().await;
    place.run(&dispatch, json!({ "on_failure": "ignore" })).await;
    let mut client = place.connect().await;
    client.send("fail").await;
    client.send("go on").await;
    assert_eq!(client.text().await, "go on");
}

#[tokio::test]
async fn pings_are_answered_without_waking_the_function() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "events": ["connect", "message", "disconnect", "error"] })).await;
    let mut client = place.connect().await;
    client.send(Message::Ping(Bytes::from_static(b"are you there"))).await;
    use futures_util::StreamExt as _;
    assert_eq!(client.socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"are you there")));
    client.send(Message::Pong(Bytes::new())).await;
    client.send("x").await;
    assert_eq!(client.text().await, "x");
    assert_eq!(told(&dispatch, "opcode"), ["connect", "message text"]);
}

#[tokio::test]
async fn a_peer_that_vanishes_is_told_as_1006() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "events": ["message", "disconnect", "error"] })).await;
    let client = place.connect().await;
    drop(client);
    wait_for_events(&dispatch, 1).await;
    assert_eq!(told(&dispatch, "code"), ["disconnect 1006"]);
}
