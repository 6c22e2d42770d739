//! What a socket may cost.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Recipients, Shed, SocketCommand, SocketFrame};

use super::support::{Place, told, wait_for_events};

#[tokio::test]
async fn one_socket_too_many_is_told_to_come_back() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "max_connections": 2, "events": ["disconnect"] })).await;
    let (first, _second) = (place.connect().await, place.connect().await);
    assert_eq!(place.ask("/live", &[]).await.map(drop).unwrap_err(), (503, "overload".to_owned()));
    assert_eq!(dispatch.shed(), [(Shed::Overload, 1)]);
    drop(first);
    wait_for_events(&dispatch, 1).await;
    place.connect().await;
}

#[tokio::test]
async fn a_socket_that_says_nothing_for_too_long_is_closed() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "idle_timeout_seconds": 0.2, "events": ["message", "disconnect"] })).await;
    let mut client = place.connect().await;
    client.send("hello").await;
    assert_eq!(client.text().await, "hello");
    assert_eq!(client.closed().await, (1001, "nothing was said for too long".into()));
    wait_for_events(&dispatch, 2).await;
    assert_eq!(told(&dispatch, "code"), ["message", "disconnect 1001"]);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_gone() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "ping_interval_seconds": 0.1, "events": ["disconnect", "error"] })).await;
    let mut alive = place.connect().await;
    let mut pings = 0;
    // This one reads, and so answers.
    while pings < 3 {
        pings += usize::from(matches!(alive.socket.next().await, Some(Ok(Message::Ping(_)))));
    }
    assert!(dispatch.seen().is_empty(), "pings wake nobody");
    let _reads_nothing = place.connect().await;
    wait_for_events(&dispatch, 1).await;
    assert_eq!(told(&dispatch, "code"), ["disconnect 1006"]);
    assert_eq!(dispatch.seen()[0].attribute("reason"), Some("a ping was not answered"));
}

#[tokio::test]
async fn the_subprotocol_that_is_spoken_is_chosen() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "subprotocols": ["chat.v2", "chat.v1"] })).await;
    let offers = |offer: &'static str| [("sec-websocket-protocol", offer)];
    let client = place.ask("/live", &offers("chat.v1, chat.v2")).await.unwrap();
    assert_eq!(client.subprotocol.as_deref(), Some("chat.v2"));
}

#[tokio::test]
async fn oldest_frames_are_dropped_where_that_is_asked_for() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "send_queue": 2, "slow_consumer": "drop_oldest", "events": ["message"] })).await;
    let mut client = place.connect().await;
    let send = |text: String| {
        place.apply(SocketCommand::Send { to: Recipients::Everyone, frame: SocketFrame::Text(text) });
    };
    // Nobody reads between these: what neither the socket's buffers nor its queue hold is dropped.
    let large = "x".repeat(1 << 20);
    for number in 0..50 {
        send(format!("{number} {large}"));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut got = Vec::new();
    loop {
        let number: usize = client.text().await.split(' ').next().unwrap().parse().unwrap();
        got.push(number);
        if number == 49 {
            break;
        }
    }
    assert!(got.len() < 50 && got.is_sorted(), "{got:?}");
    client.send("still here").await;
    assert_eq!(client.text().await, "still here");
}
