//! Engines that share their sockets: what each says is heard by all, or known to be missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::bus::BusError;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{BoxFuture, Peers, Recipients, SocketCommand, SocketFrame, Sockets as _};
use uuid::Uuid;

use super::support::{Client, Place};

/// What engines speak into, and whether it carries what they say.
#[derive(Clone)]
struct Ether {
    said: broadcast::Sender<Bytes>,
    swallows: Arc<AtomicBool>,
}

impl Peers for Ether {
    fn say(&self, said: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        if !self.swallows.load(Ordering::SeqCst) {
            let _nobody_may_listen = self.said.send(said);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn listen(&self) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, BusError>> {
        let heard = stream::unfold(self.said.subscribe(), |mut said| async move {
            let one = said.recv().await.ok()?;
            Some((one, said))
        });
        Box::pin(std::future::ready(Ok(heard.boxed())))
    }

    fn max_bytes(&self) -> usize {
        1 << 20
    }

    fn degraded(&self) -> Option<String> {
        None
    }

    fn forged(&self) -> u64 {
        0
    }
}

/// Engines with a trigger at `/live` that share their sockets.
struct Engines {
    ether: Ether,
    places: Vec<(Place, CancellationToken)>,
}

impl Engines {
    async fn of(number: usize, keys: Value) -> Self {
        let ether = Ether { said: broadcast::channel(1000).0, swallows: Arc::default() };
        let mut engines = Self { ether, places: Vec::new() };
        for _ in 0..number {
            engines.add(keys.clone()).await;
        }
        engines.know_each_other().await;
        engines
    }

    async fn add(&mut self, keys: Value) {
        self.add_without_trigger().await;
        self.run_last(keys).await;
    }

    /// An engine that hears the others already and serves no path yet.
    async fn add_without_trigger(&mut self) {
        let (place, stop) = (Place::new().await, CancellationToken::new());
        let sharing = place.hub.share(Arc::new(self.ether.clone()), stop.clone());
        TaskTracker::new().spawn(sharing);
        self.places.push((place, stop));
    }

    async fn run_last(&self, keys: Value) {
        self.places.last().unwrap().0.run(&FakeDispatch::echo(), keys).await;
    }

    fn place(&self, index: usize) -> &Place {
        &self.places[index].0
    }

    async fn know_each_other(&self) {
        let others = self.places.len() - 1;
        let known = |(place, _): &(Place, _)| place.hub.others().is_some_and(|it| it.alive == others);
        eventually("the engines to know each other", || self.places.iter().all(known)).await;
    }

    fn missed(&self, index: usize) -> u64 {
        self.place(index).hub.others().unwrap().missed
    }

    /// A client that speaks `tripline.v1`, and its id.
    async fn connect(&self, index: usize, resume: &str) -> (Client, Uuid) {
        let headers = [("sec-websocket-protocol", "tripline.v1")];
        let mut client = self.place(index).ask(&format!("/live?{resume}"), &headers).await.unwrap();
        let welcome = client.json().await;
        (client, welcome["client"].as_str().unwrap().parse().unwrap())
    }

    fn members(&self, index: usize) -> Vec<Uuid> {
        let members = self.place(index).hub.members("default", "function", "lobby", None);
        members.into_iter().map(|member| member.client).collect()
    }
}

fn keys() -> Value {
    json!({ "subprotocols": ["tripline.v1"], "replay_messages": 10, "presence": true })
}

fn join(client: Uuid) -> SocketCommand {
    SocketCommand::Join { client, room: "lobby".into() }
}

fn say(text: &str) -> SocketCommand {
    SocketCommand::Send { to: Recipients::Room("lobby".into()), frame: SocketFrame::Text(text.to_owned()) }
}

/// The next message's text and number; what is told before it is passed over.
async fn message(client: &mut Client) -> (String, String) {
    loop {
        let told = client.json().await;
        if told["type"] == "message" {
            return (told["text"].as_str().unwrap().to_owned(), told["seq"].as_str().unwrap().to_owned());
        }
    }
}

#[tokio::test]
async fn every_engine_reaches_every_socket_and_knows_every_member() {
    let engines = Engines::of(3, keys()).await;
    let ((mut ann, ann_id), (mut bob, bob_id)) = (engines.connect(0, "").await, engines.connect(1, "").await);
    // Asked for on an engine that has neither.
    engines.place(2).apply(join(ann_id));
    engines.place(2).apply(join(bob_id));
    let both = [ann_id.min(bob_id), ann_id.max(bob_id)];
    eventually("the members to be known", || (0..3).all(|index| engines.members(index) == both)).await;
    engines.place(2).apply(say("to the room"));
    engines.place(2).apply(SocketCommand::Tag { client: bob_id, tag: "admin".into() });
    let to = Recipients::Tag("admin".into());
    engines.place(0).apply(SocketCommand::Send { to, frame: SocketFrame::Text("to the tag".into()) });
    let to = Recipients::Everyone;
    engines.place(1).apply(SocketCommand::Send { to, frame: SocketFrame::Text("to all".into()) });
    let texts = async |client: &mut Client, number: usize| {
        let mut texts = Vec::new();
        while texts.len() < number {
            texts.extend(client.json().await["text"].as_str().map(str::to_owned));
        }
        texts.sort_unstable();
        texts
    };
    assert_eq!(texts(&mut ann, 2).await, ["to all", "to the room"]);
    assert_eq!(texts(&mut bob, 3).await, ["to all", "to the room", "to the tag"]);
    engines.place(1).apply(SocketCommand::Close { client: ann_id, code: 4000, reason: "enough".into() });
    assert_eq!(ann.closed().await, (4000, "enough".into()));
    eventually("it to have left", || (0..3).all(|index| engines.members(index) == [bob_id])).await;
    assert_eq!(bob.json().await, json!({ "type": "leave", "room": "lobby", "client": ann_id }));
}

#[tokio::test]
async fn an_engine_that_comes_later_learns_who_is_there() {
    let mut engines = Engines::of(1, keys()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (client, id) = engines.connect(0, "").await;
        engines.place(0).apply(join(id));
        clients.push((client, id));
    }
    engines.add(keys()).await;
    let mut all: Vec<Uuid> = clients.iter().map(|(_, id)| *id).collect();
    all.sort_unstable();
    eventually("the members to be known", || engines.members(1) == all).await;
    // One that ends without a word is dead after a while, and its sockets are gone from the rooms.
    engines.places[0].1.cancel();
    eventually("its sockets to be gone", || engines.members(1).is_empty()).await;
}

#[tokio::test]
async fn who_comes_to_another_engine_is_given_what_came_after_or_told_that_something_is_gone() {
    let mut engines = Engines::of(2, keys()).await;
    let (mut ann, ann_id) = engines.connect(0, "").await;
    engines.place(0).apply(join(ann_id));
    engines.place(0).apply(say("one"));
    assert_eq!(message(&mut ann).await.0, "one");
    engines.place(1).apply(say("two"));
    let (_, had) = message(&mut ann).await;
    engines.place(0).apply(say("three"));
    engines.place(1).apply(say("four"));
    eventually("the room to be known", || engines.members(1) == [ann_id]).await;

    let back = async |engines: &Engines, index: usize, had: &str| {
        let (mut client, id) = engines.connect(index, &format!("resume_from=lobby:{had}")).await;
        engines.place(index).apply(join(id));
        let mut told = Vec::new();
        loop {
            let one = client.json().await;
            told.push(one["text"].as_str().unwrap_or(one["type"].as_str().unwrap()).to_owned());
            if one["type"] == "joined" {
                engines.place(index).apply(SocketCommand::Leave { client: id, room: "lobby".into() });
                told.pop();
                told.sort_unstable();
                return told;
            }
        }
    };
    for index in [1, 0] {
        assert_eq!(back(&engines, index, &had).await, ["four", "three"], "{index}");
    }
    for unknown in ["17", "abc.1", "1.99999"] {
        assert!(back(&engines, 1, unknown).await.contains(&"missed".to_owned()), "{unknown}");
    }
    // One that began later has heard none of it.
    engines.add(keys()).await;
    engines.know_each_other().await;
    assert_eq!(back(&engines, 2, &had).await, ["missed"]);
}

#[tokio::test]
async fn what_the_bus_lost_is_told_as_missed() {
    let engines = Engines::of(2, keys()).await;
    let ((mut ann, ann_id), (_bob, bob_id)) = (engines.connect(0, "").await, engines.connect(1, "").await);
    engines.place(0).apply(join(ann_id));
    engines.place(0).apply(say("one"));
    let (_, had) = message(&mut ann).await;
    engines.ether.swallows.store(true, Ordering::SeqCst);
    engines.place(1).apply(join(bob_id));
    engines.place(1).apply(say("never heard"));
    tokio::task::yield_now().await;
    engines.ether.swallows.store(false, Ordering::SeqCst);
    // Nothing more is said but beats.
    loop {
        let told = ann.json().await;
        assert_ne!(told["type"], "message", "{told}");
        if told["type"] == "missed" {
            assert_eq!(told, json!({ "type": "missed", "room": "lobby" }));
            break;
        }
    }
    assert!(engines.missed(0) > 0);
    let both = [ann_id.min(bob_id), ann_id.max(bob_id)];
    eventually("the members to be known all the same", || engines.members(0) == both).await;
    let (mut back, back_id) = engines.connect(0, &format!("resume_from=lobby:{had}")).await;
    engines.place(0).apply(join(back_id));
    assert_eq!(back.json().await["type"], "missed", "also who was away meanwhile");
}

#[tokio::test]
async fn what_was_said_before_a_path_was_served_is_told_as_missed() {
    let mut engines = Engines::of(1, keys()).await;
    let (mut ann, ann_id) = engines.connect(0, "").await;
    engines.place(0).apply(join(ann_id));
    engines.place(0).apply(say("one"));
    engines.add_without_trigger().await;
    engines.know_each_other().await;
    let (_, had) = message(&mut ann).await;
    engines.place(0).apply(say("two"));
    assert_eq!(message(&mut ann).await.0, "two");
    engines.run_last(keys()).await;
    eventually("the members to be known", || engines.members(1) == [ann_id]).await;
    let (mut back, back_id) = engines.connect(1, &format!("resume_from=lobby:{had}")).await;
    engines.place(1).apply(join(back_id));
    let told = back.json().await;
    // It may have been heard just after.
    assert!(told["type"] == "missed" || told["text"] == "two", "{told}");
}
