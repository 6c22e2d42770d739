//! Frames from functions of any trigger: to a socket, to a room, to a tag, to all of them.

use bytes::Bytes;
use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Recipients, SocketCommand, SocketFrame, Sockets as _};
use uuid::Uuid;

use super::support::{Client, Place, wait_for_events};

fn text(to: Recipients, text: &str) -> SocketCommand {
    SocketCommand::Send { to, frame: SocketFrame::Text(text.to_owned()) }
}

fn room(name: &str) -> Recipients {
    Recipients::Room(name.into())
}

/// A client and its id, which its first message tells.
async fn known(place: &Place, dispatch: &FakeDispatch) -> (Client, Uuid) {
    let (mut client, before) = (place.connect().await, dispatch.seen().len());
    client.send("who am i").await;
    wait_for_events(dispatch, before + 1).await;
    assert_eq!(client.text().await, "who am i");
    let id = dispatch.seen()[before].ws_client_id.clone().unwrap();
    (client, id.parse().unwrap())
}

#[tokio::test]
async fn frames_reach_whom_they_are_sent_to() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({})).await;
    let ((mut ann, ann_id), (mut bob, bob_id)) = (known(&place, &dispatch).await, known(&place, &dispatch).await);
    place.apply(SocketCommand::Join { client: ann_id, room: "lobby".into() });
    place.apply(SocketCommand::Join { client: bob_id, room: "lobby".into() });
    place.apply(SocketCommand::Tag { client: bob_id, tag: "admin".into() });
    let members = place.hub.members("default", "function", "lobby", None);
    assert_eq!(members.iter().map(|member| member.client).collect::<Vec<_>>(), [ann_id, bob_id]);
    assert_eq!(place.hub.members("default", "function", "lobby", Some(ann_id)).len(), 1);

    place.apply(text(room("lobby"), "to the room"));
    place.apply(text(Recipients::Tag("admin".into()), "to the tag"));
    place.apply(text(Recipients::Client(ann_id), "to ann"));
    place.apply(text(Recipients::Client(Uuid::nil()), "to nobody"));
    place.apply(SocketCommand::Leave { client: ann_id, room: "lobby".into() });
    place.apply(SocketCommand::Untag { client: bob_id, tag: "admin".into() });
    place.apply(text(room("lobby"), "to those who stayed"));
    place.apply(text(Recipients::Tag("admin".into()), "to no one now"));
    place.apply(text(Recipients::Everyone, "to all"));
    for expected in ["to the room", "to ann", "to all"] {
        assert_eq!(ann.text().await, expected);
    }
    for expected in ["to the room", "to the tag", "to those who stayed", "to all"] {
        assert_eq!(bob.text().await, expected);
    }
    place.apply(SocketCommand::Close { client: ann_id, code: 4000, reason: "enough".into() });
    assert_eq!(ann.closed().await, (4000, "enough".into()));
    drop(bob);
    trigger_core::testing::eventually("the room to be empty", || {
        place.hub.members("default", "function", "lobby", None).is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_is_attached_to_a_socket_stays_with_it_over_a_reload() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    let old = place.run(&dispatch, json!({})).await;
    let (client, id) = known(&place, &dispatch).await;
    assert_eq!(place.hub.attachment("default", "function", id), Some(Bytes::new()));
    place.apply(SocketCommand::Attach { client: id, bytes: Bytes::from_static(b"ann") });
    let _new = place.run(&dispatch, json!({ "queue": 2 })).await;
    old.stop().await;
    assert_eq!(place.hub.attachment("default", "function", id), Some(Bytes::from_static(b"ann")));
    assert_eq!(place.hub.attachment("default", "other", id), None);
    drop(client);
    trigger_core::testing::eventually("the socket to go", || place.hub.attachment("default", "function", id).is_none())
        .await;
    assert!(place.hub.serves("default", "function") && !place.hub.serves("other", "function"));
}

#[tokio::test]
async fn who_comes_back_goes_on_where_it_was() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "subprotocols": ["tripline.v1"], "replay_messages": 2, "presence": true })).await;
    let speaks = [("sec-websocket-protocol", "tripline.v1")];
    let mut ann = place.ask("/live", &speaks).await.unwrap();
    let welcome = ann.json().await;
    let id: Uuid = welcome["client"].as_str().unwrap().parse().unwrap();
    let join = |client: Uuid| place.apply(SocketCommand::Join { client, room: "lobby".into() });
    join(id);
    assert_eq!(ann.json().await["type"], "joined");
    place.apply(text(room("lobby"), "one"));
    let one = ann.json().await;
    assert_eq!((&one["room"], &one["text"]), (&json!("lobby"), &json!("one")));
    let seq = one["seq"].as_u64().unwrap();
    ann.send("echo").await;
    assert_eq!(ann.json().await, json!({ "type": "message", "text": "echo" }), "answers come in an envelope too");
    drop(ann);
    let gone = || place.hub.members("default", "function", "lobby", None).is_empty();
    trigger_core::testing::eventually("ann to be gone", gone).await;

    place.apply(text(room("lobby"), "two"));
    place.apply(text(room("lobby"), "three"));
    let mut back = place.ask(&format!("/live?resume_from=lobby:{seq}"), &speaks).await.unwrap();
    let id: Uuid = back.json().await["client"].as_str().unwrap().parse().unwrap();
    join(id);
    for (text, ahead) in [("two", 1), ("three", 2)] {
        let message = back.json().await;
        assert_eq!((message["text"].as_str(), message["seq"].as_u64()), (Some(text), Some(seq + ahead)));
    }
    assert_eq!(back.json().await, json!({ "type": "joined", "room": "lobby", "seq": seq + 2 }));

    // A third one was away for too long.
    place.apply(text(room("lobby"), "four"));
    let mut late = place.ask(&format!("/live?resume_from=lobby:{seq}"), &speaks).await.unwrap();
    let late_id: Uuid = late.json().await["client"].as_str().unwrap().parse().unwrap();
    join(late_id);
    assert_eq!(late.json().await, json!({ "type": "missed", "room": "lobby", "after": seq, "before": seq + 2 }));
    assert_eq!((late.json().await["text"].clone(), late.json().await["text"].clone()), (json!("three"), json!("four")));
    assert_eq!(late.json().await["type"], "joined");
    // The one who was there was told.
    assert_eq!(back.json().await["text"], "four");
    assert_eq!(back.json().await, json!({ "type": "join", "room": "lobby", "client": late_id }));
    let refused = place.ask("/live?resume_from=lobby", &speaks).await.map(drop).unwrap_err();
    assert_eq!(refused, (400, "invalid_resume_from".to_owned()));
}
