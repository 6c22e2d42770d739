//! What sockets live through, and what ends them.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;
use trigger_core::Answer;
use trigger_core::Response;
use trigger_core::testing::FakeDispatch;

use super::support::{Place, told, wait_for_events};

#[tokio::test]
async fn a_reload_keeps_every_socket() {
    let (place, before) = (Place::new().await, FakeDispatch::echo());
    let old = place.run(&before, json!({})).await;
    let mut client = place.connect().await;
    client.send("before").await;
    assert_eq!(client.text().await, "before");
    let after = FakeDispatch::new(|_| Answer::Ok(Response::from(bytes::Bytes::from_static(b"new"))));
    let new = place.run(&after, json!({ "queue": 3 })).await;
    old.stop().await;
    client.send("after").await;
    assert_eq!(client.text().await, "new", "its next message goes to who serves now");
    assert_eq!((before.seen().len(), after.seen().len()), (1, 1));
    let stopping = TaskTracker::new().spawn(new.stop());
    assert_eq!(client.closed().await.0, 1001);
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_path_that_is_no_longer_served_closes_its_sockets() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    let old = place.run_at("/old", &dispatch, json!({ "events": ["message", "disconnect"] })).await;
    let mut client = place.ask("/old", &[]).await.unwrap();
    let new = place.run_at("/new", &dispatch, json!({})).await;
    let stopping = TaskTracker::new().spawn(old.stop());
    assert_eq!(client.closed().await, (1001, "the path is no longer served here".into()));
    stopping.await.unwrap();
    assert_eq!(told(&dispatch, "code"), ["disconnect 1001"], "told before the trigger had ended");
    assert_eq!(place.ask("/old", &[]).await.map(drop).unwrap_err().0, 404);
    let mut moved = place.ask("/new", &[]).await.unwrap();
    moved.send("x").await;
    assert_eq!(moved.text().await, "x");
    drop(moved);
    new.stop().await;
}

#[tokio::test]
async fn a_drain_handles_and_answers_what_came() {
    let place = Place::new().await;
    let (release, held) = tokio::sync::watch::channel(false);
    let dispatch = FakeDispatch::new_async(move |event| {
        let mut held = held.clone();
        Box::pin(async move {
            held.wait_for(|open| *open).await.unwrap();
            Answer::Ok(Response::from(event.payload))
        })
    });
    let running = place.run(&dispatch, json!({})).await;
    let mut client = place.connect().await;
    client.send("one").await;
    client.send("two").await;
    wait_for_events(&dispatch, 1).await;
    // Whether "two" was read by now is not known; a ping behind it that is answered says so.
    client.send(Message::Ping(bytes::Bytes::from_static(b"?"))).await;
    use futures_util::StreamExt as _;
    assert!(matches!(client.socket.next().await, Some(Ok(Message::Pong(_)))));
    let stopping = TaskTracker::new().spawn(running.stop());
    release.send(true).unwrap();
    assert_eq!((client.text().await, client.text().await), ("one".into(), "two".into()));
    assert_eq!(client.closed().await.0, 1001);
    stopping.await.unwrap();
    assert_eq!(place.ask("/live", &[]).await.map(drop).unwrap_err().0, 404);
}

#[tokio::test]
async fn a_peer_that_answers_no_close_frame_does_not_hold_up_the_end() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    let running = place.run(&dispatch, json!({})).await;
    let _says_nothing = place.connect().await;
    running.stop().await;
}
