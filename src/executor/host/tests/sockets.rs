//! Sockets at the host's side: grants, bounds, what is held back and what is asked at once.

use std::sync::Mutex;

use trigger_core::{SocketCommand, SocketEffect, SocketFrame, SocketMember, Sockets};

use super::super::bindings::tripline::function::sockets::{Error, Frame, Host, Recipients};
use super::*;
use crate::executor::Services;
use crate::executor::guest::Served;

/// Two functions have sockets: `chat` and `stock.prices`. One socket is open.
#[derive(Default)]
struct Fake(Mutex<Vec<SocketEffect>>);

const CLIENT: Uuid = Uuid::from_u128(7);

impl Sockets for Fake {
    fn serves(&self, namespace: &str, function: &str) -> bool {
        matches!((namespace, function), ("shop", "chat") | ("stock", "prices"))
    }

    fn apply(&self, effect: SocketEffect) {
        self.0.lock().unwrap().push(effect);
    }

    fn members(&self, _: &str, _: &str, room: &str, after: Option<Uuid>) -> Vec<SocketMember> {
        assert_eq!(room, "lobby");
        let first = after.map_or(0, |after| after.as_u128() + 1);
        (first..1500).take(1000).map(|id| SocketMember { client: Uuid::from_u128(id), caller: None }).collect()
    }

    fn attachment(&self, _: &str, _: &str, client: Uuid) -> Option<Bytes> {
        (client == CLIENT).then(|| Bytes::from_static(b"kept"))
    }
}

fn chatting() -> Guest {
    let grants = |definition: &mut Definition| {
        definition.allow.sockets = ["chat", "stock.*", "gone"].map(str::to_owned).to_vec();
    };
    let mut guest = guest(Kind::Job, grants, |_| {});
    let services = Services { sockets: Some(Arc::new(Fake::default())), ..Services::default() };
    guest.served = Some(Served::new(Arc::new(services), None));
    guest
}

fn send(guest: &mut Guest, function: &str, to: Recipients, text: &str) -> Result<(), Error> {
    guest.send(function.to_owned(), to, Frame::Text(text.to_owned()))
}

#[test]
fn sockets_that_are_not_granted_are_denied_by_name() {
    let mut guest = chatting();
    let Err(Error::Denied(why)) = send(&mut guest, "orders", Recipients::Everyone, "") else { panic!("denied") };
    assert_eq!(why, "the definition does not grant \"orders\": add it to functions.orders.allow.sockets");
    assert!(matches!(guest.members("orders".into(), "lobby".into(), None), Err(Error::Denied(_))));
    assert!(matches!(send(&mut guest, "gone", Recipients::Everyone, ""), Err(Error::Unknown(_))));
    assert!(guest.effects.is_empty());
    assert!(send(&mut guest, "stock.prices", Recipients::Everyone, "").is_ok());
    guest.served = Some(Served::new(Arc::new(Services::default()), None));
    assert!(matches!(send(&mut guest, "chat", Recipients::Everyone, ""), Err(Error::Unavailable(_))));
}

#[test]
fn what_is_done_to_sockets_is_held_back_in_its_order() {
    let mut guest = chatting();
    let client = CLIENT.to_string();
    guest.join("chat".into(), client.clone(), "lobby".into()).unwrap();
    send(&mut guest, "chat", Recipients::Room("lobby".into()), "hello").unwrap();
    guest.close("chat".into(), client.clone(), 4000, "bye".into()).unwrap();
    let commands: Vec<&SocketCommand> = guest.effects.sockets.iter().map(|effect| &effect.command).collect();
    let frame = SocketFrame::Text("hello".into());
    assert_eq!(
        commands,
        [
            &SocketCommand::Join { client: CLIENT, room: "lobby".into() },
            &SocketCommand::Send { to: trigger_core::Recipients::Room("lobby".into()), frame },
            &SocketCommand::Close { client: CLIENT, code: 4000, reason: "bye".into() },
        ]
    );
    assert!(matches!(send(&mut guest, "chat", Recipients::Everyone, ""), Err(Error::TooMany(_))), "the limit is three");
    let mut guest = chatting();
    assert!(matches!(send(&mut guest, "chat", Recipients::Everyone, &"x".repeat(2501)), Err(Error::TooMany(_))));
}

#[test]
fn what_cannot_be_is_told_by_its_field() {
    let mut guest = chatting();
    let client = CLIENT.to_string();
    let field = |result: Result<(), Error>| match result {
        Err(Error::Invalid((field, _))) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(send(&mut guest, "chat", Recipients::Client("ann".into()), "")), "client");
    assert_eq!(field(send(&mut guest, "chat", Recipients::Room(String::new()), "")), "room");
    assert_eq!(field(guest.tag("chat".into(), client.clone(), "x".repeat(129))), "tag");
    for code in [0, 999, 1005, 1006, 1009, 1015, 2999, 5000] {
        assert_eq!(field(guest.close("chat".into(), client.clone(), code, String::new())), "code", "{code}");
    }
    assert_eq!(field(guest.close("chat".into(), client.clone(), 1000, "x".repeat(124))), "reason");
    assert_eq!(field(guest.attach("chat".into(), client, vec![0; (16 << 10) + 1])), "bytes");
    assert_eq!(field(send(&mut guest, "a b", Recipients::Everyone, "")), "function");
    assert!(guest.effects.is_empty());
}

#[test]
fn members_come_page_by_page_and_an_attachment_as_it_will_be() {
    let mut guest = chatting();
    let first = guest.members("chat".into(), "lobby".into(), None).unwrap();
    assert_eq!(first.members.len(), 1000);
    let rest = guest.members("chat".into(), "lobby".into(), first.cursor).unwrap();
    assert_eq!((rest.members.len(), rest.cursor), (500, None));
    assert!(matches!(guest.members("chat".into(), "lobby".into(), Some("x".into())), Err(Error::Invalid(_))));

    let client = CLIENT.to_string();
    let kept = |guest: &mut Guest, function: &str| guest.attachment(function.into(), client.clone()).unwrap();
    assert_eq!(kept(&mut guest, "chat").as_deref(), Some(&b"kept"[..]));
    guest.attach("chat".into(), client.clone(), b"new".to_vec()).unwrap();
    assert_eq!(kept(&mut guest, "chat").as_deref(), Some(&b"new"[..]));
    assert_eq!(kept(&mut guest, "stock.prices").as_deref(), Some(&b"kept"[..]), "another function's");
    assert!(guest.attachment("chat".into(), Uuid::nil().to_string()).unwrap().is_none());

    // What a commit takes along is for stores: frames stay with the attempt, and go on counting.
    let (taken, bytes) = guest.take_effects();
    assert!(taken.is_empty() && bytes == 0);
    assert_eq!((guest.effects.sockets.len(), guest.effect_bytes), (1, 3));
}
