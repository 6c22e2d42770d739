//! A room: who is in it, and its newest messages for those who come back.
//!
//! Its messages are numbered. The first number of a room is the time at which it began, in microseconds: a room that
//! begins anew, after a restart or because nobody needed it any more, numbers higher than it did before, so that a number
//! is never taken for another and a client that names an old one is told that it missed something.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trigger_core::SocketFrame;
use uuid::Uuid;

use crate::config::Config;
use crate::frame::{Frame, Place, Told};
use crate::socket::Socket;

/// Bytes that one room keeps for those who resume.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Bytes that all rooms of a trigger keep together.
const MAX_KEPT_BYTES_TOGETHER: usize = 64 << 20;

pub(crate) struct Room {
    name: Box<str>,
    pub(crate) members: BTreeMap<Uuid, Arc<Socket>>,
    /// The number of its newest message.
    newest: u64,
    kept: VecDeque<(Instant, Arc<Frame>)>,
    pub(crate) kept_bytes: usize,
}

impl Room {
    pub(crate) fn new(name: &str, began_micros: u64) -> Self {
        Self { name: name.into(), members: BTreeMap::new(), newest: began_micros, kept: VecDeque::new(), kept_bytes: 0 }
    }

    /// Sends a frame to every member, and keeps it for those who come back, unless the other rooms keep too much.
    pub(crate) fn send(&mut self, frame: SocketFrame, config: &Config, now: Instant, others_keep: usize) {
        self.newest += 1;
        let frame = Frame::new(frame, Some(Place { room: self.name.clone(), seq: self.newest }));
        self.members.values().for_each(|member| member.push(&frame, config));
        if config.replay_messages > 0 {
            self.kept_bytes += frame.len();
            self.kept.push_back((now, frame));
            self.forget(config, now);
            if others_keep + self.kept_bytes > MAX_KEPT_BYTES_TOGETHER {
                self.kept.clear();
                self.kept_bytes = 0;
            }
        }
    }

    /// Takes a socket in, after the message that it says it had last; `false` where it is in already.
    pub(crate) fn join(&mut self, socket: &Arc<Socket>, had: Option<u64>, config: &Config, now: Instant) -> bool {
        if self.members.contains_key(&socket.id) {
            return false;
        }
        self.forget(config, now);
        if config.presence {
            self.tell(&Told::Join { room: &self.name, client: socket.id }, config);
        }
        self.members.insert(socket.id, socket.clone());
        let Some(had) = had else {
            socket.push(&Told::Joined { room: &self.name, seq: self.newest }.frame(), config);
            return true;
        };
        let oldest = self.kept.front().map_or(self.newest + 1, |(_, frame)| frame.seq());
        if had > self.newest || had + 1 < oldest {
            socket.push(&Told::Missed { room: &self.name, after: had, before: oldest }.frame(), config);
        }
        for (_, frame) in self.kept.iter().filter(|(_, frame)| frame.seq() > had || had > self.newest) {
            socket.push(frame, config);
        }
        socket.push(&Told::Joined { room: &self.name, seq: self.newest }.frame(), config);
        true
    }

    pub(crate) fn leave(&mut self, client: Uuid, config: &Config) {
        if self.members.remove(&client).is_some() && config.presence {
            self.tell(&Told::Leave { room: &self.name, client }, config);
        }
    }

    /// Whether nobody is in it, and nothing of it will be asked for.
    pub(crate) fn is_over(&mut self, config: &Config, now: Instant) -> bool {
        self.forget(config, now);
        self.members.is_empty() && self.kept.is_empty()
    }

    fn tell(&self, told: &Told<'_>, config: &Config) {
        let frame = told.frame();
        self.members.values().for_each(|member| member.push(&frame, config));
    }

    /// Forgets what is too old or too much.
    fn forget(&mut self, config: &Config, now: Instant) {
        let age: Duration = config.replay_age();
        while let Some((at, frame)) = self.kept.front()
            && (self.kept.len() > config.replay_messages
                || self.kept_bytes > MAX_KEPT_BYTES
                || now.saturating_duration_since(*at) > age)
        {
            self.kept_bytes -= frame.len();
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        serde_json::from_value(serde_json::json!({ "path": "/", "replay_messages": 3, "presence": true })).unwrap()
    }

    fn socket() -> Arc<Socket> {
        Arc::new(Socket::new("/", Vec::new(), true))
    }

    fn send(room: &mut Room, text: &str, now: Instant) {
        room.send(SocketFrame::Text(text.to_owned()), &config(), now, 0);
    }

    /// What a socket was told: a message's text and number, or else the type.
    fn told(socket: &Socket) -> Vec<String> {
        let frames = std::iter::from_fn(|| socket.pop());
        let told = frames.map(|frame| {
            let json: serde_json::Value =
                serde_json::from_str(frame.message(true).unwrap().to_text().unwrap()).unwrap();
            match json["text"].as_str() {
                Some(text) => format!("{text}@{}", json["seq"]),
                None => json["type"].as_str().unwrap().to_owned(),
            }
        });
        told.collect()
    }

    #[test]
    fn who_comes_back_is_given_what_it_missed_and_told_what_is_gone() {
        let (mut room, now, config) = (Room::new("lobby", 100), Instant::now(), config());
        for text in ["a", "b", "c", "d"] {
            send(&mut room, text, now);
        }
        for (had, expected) in [
            (None, &["joined"][..]),
            (Some(104), &["joined"]),
            (Some(102), &["c@103", "d@104", "joined"]),
            (Some(101), &["b@102", "c@103", "d@104", "joined"]),
            (Some(100), &["missed", "b@102", "c@103", "d@104", "joined"]),
            // A number that this room never had: it began anew on another clock.
            (Some(105), &["missed", "b@102", "c@103", "d@104", "joined"]),
            (Some(u64::MAX), &["missed", "b@102", "c@103", "d@104", "joined"]),
        ] {
            let member = socket();
            assert!(room.join(&member, had, &config, now));
            assert_eq!(told(&member), expected, "{had:?}");
            room.leave(member.id, &config);
        }
    }

    #[test]
    fn members_are_told_who_comes_and_goes() {
        let (mut room, now, config) = (Room::new("lobby", 0), Instant::now(), config());
        let (one, other) = (socket(), socket());
        assert!(room.join(&one, None, &config, now) && room.join(&other, None, &config, now));
        assert!(!room.join(&one, None, &config, now), "once");
        room.leave(other.id, &config);
        assert_eq!(
            (told(&one), told(&other)),
            (vec!["joined".into(), "join".into(), "leave".into()], vec!["joined".into()])
        );
    }

    #[test]
    fn a_room_is_over_when_nobody_can_come_back_for_anything() {
        let (mut room, now, config) = (Room::new("lobby", 0), Instant::now(), config());
        let member = socket();
        room.join(&member, None, &config, now);
        send(&mut room, "a", now);
        room.leave(member.id, &config);
        assert!(!room.is_over(&config, now + Duration::from_secs(120)));
        assert!(room.is_over(&config, now + Duration::from_secs(121)));
        let big = "x".repeat(MAX_KEPT_BYTES);
        send(&mut room, "a", now);
        send(&mut room, &big, now);
        assert_eq!(room.kept.len(), 1, "no more than it may keep");
    }
}
