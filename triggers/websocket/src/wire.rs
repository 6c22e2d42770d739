//! What engines that share sockets say to each other, as bytes.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use trigger_core::{MAX_SOCKET_NAME, SocketCommand};
use uuid::Uuid;

/// What one engine says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packet<'a> {
    /// Who says it.
    pub(crate) engine: u64,
    /// Its number, or that of the last one with a number (see [`Said::is_numbered`]).
    pub(crate) number: u64,
    pub(crate) said: Said<'a>,
}

/// A path of a trigger, on every engine that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    pub(crate) namespace: Box<str>,
    pub(crate) function: Box<str>,
    pub(crate) trigger: Box<str>,
    pub(crate) path: Box<str>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said<'a> {
    /// It is there, and has heard so much of each engine.
    Beat { heard: Vec<(u64, u64)> },
    /// It does not know who is in that engine's rooms.
    Ask { of: u64 },
    /// Something is done to sockets, wherever they are.
    Do { namespace: Cow<'a, str>, function: Cow<'a, str>, command: Cow<'a, SocketCommand> },
    /// One of its sockets is a member of a room from now on, or is not any more.
    Member { site: Cow<'a, Site>, room: Cow<'a, str>, client: Uuid, joined: bool },
    /// Who of its sockets is in which room, in one or more parts that follow each other.
    Rooms { first: bool, last: bool, rooms: Vec<Members> },
}

/// Those of an engine's sockets that are in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    pub(crate) site: Site,
    pub(crate) room: Box<str>,
    pub(crate) clients: Vec<Uuid>,
}

impl Said<'_> {
    /// Whether it has a number of its own, so that it is known when it is not heard.
    pub(crate) fn is_numbered(&self) -> bool {
        !matches!(self, Said::Beat { .. } | Said::Ask { .. })
    }

    fn is_within_bounds(&self) -> bool {
        let is_name = |name: &str| (1..=MAX_SOCKET_NAME).contains(&name.len());
        match self {
            Said::Beat { .. } | Said::Ask { .. } => true,
            Said::Do { command, .. } => command.is_within_bounds(),
            Said::Member { room, .. } => is_name(room),
            Said::Rooms { rooms, .. } => rooms.iter().all(|members| is_name(&members.room)),
        }
    }
}

impl Packet<'_> {
    pub(crate) fn encode(&self) -> Bytes {
        postcard::to_allocvec(self).expect("numbers, text and bytes become bytes").into()
    }

    /// What the bytes say; nothing where they say nothing that an engine would. What is allocated is no more than a few
    /// times what came.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Packet<'static>> {
        let (packet, rest) = postcard::take_from_bytes::<Packet<'static>>(bytes).ok()?;
        (rest.is_empty() && packet.said.is_within_bounds()).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::{Recipients, SocketFrame};

    fn packets() -> Vec<Packet<'static>> {
        let site =
            Site { namespace: "default".into(), function: "chat".into(), trigger: "ws".into(), path: "/".into() };
        let frames = [SocketFrame::Text("é".into()), SocketFrame::Binary(vec![0, 255].into())];
        let commands = frames.into_iter().flat_map(|frame| {
            let to = [Recipients::Client(Uuid::from_u128(7)), Recipients::Room("lobby".into()), Recipients::Everyone];
            to.map(|to| SocketCommand::Send { to, frame: frame.clone() })
        });
        let acts = commands.map(|command| Said::Do {
            namespace: "default".into(),
            function: "chat".into(),
            command: Cow::Owned(command),
        });
        let client = Uuid::from_u128(9);
        let members = Members { site: site.clone(), room: "lobby".into(), clients: vec![client] };
        let others = [
            Said::Beat { heard: vec![(1, 2), (u64::MAX, 3)] },
            Said::Ask { of: 4 },
            Said::Member { site: Cow::Owned(site), room: "lobby".into(), client, joined: true },
            Said::Rooms { first: true, last: false, rooms: vec![members] },
        ];
        acts.chain(others).map(|said| Packet { engine: u64::MAX, number: 300, said }).collect()
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        for packet in packets() {
            assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        }
    }

    #[test]
    fn what_is_cut_short_too_long_or_out_of_bounds_is_nothing() {
        for packet in packets() {
            let bytes = packet.encode();
            for end in 0..bytes.len() {
                assert_eq!(Packet::decode(&bytes[..end]), None);
            }
            assert_eq!(Packet::decode(&[&bytes[..], b"x"].concat()), None);
            for index in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.to_vec();
                    changed[index] ^= 1 << bit;
                    let _it_does_not_panic = Packet::decode(&changed);
                }
            }
        }
        // A list that says it is longer than anything.
        let mut bomb = Packet { engine: 1, number: 1, said: Said::Beat { heard: Vec::new() } }.encode().to_vec();
        bomb.pop();
        bomb.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(Packet::decode(&bomb), None);
        let close = SocketCommand::Close { client: Uuid::nil(), code: 1006, reason: "".into() };
        let join = SocketCommand::Join { client: Uuid::nil(), room: "x".repeat(MAX_SOCKET_NAME + 1).into() };
        for command in [close, join] {
            let said = Said::Do { namespace: "a".into(), function: "b".into(), command: Cow::Owned(command) };
            assert_eq!(Packet::decode(&Packet { engine: 1, number: 1, said }.encode()), None);
        }
    }
}
