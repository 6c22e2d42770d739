//! A room: who is in it, and its newest messages for those who come back.
//!
//! Its messages are numbered. Where an engine is alone, each room numbers its own, and begins with the time at which it
//! began, in microseconds: a room that begins anew, after a restart or because nobody needed it any more, numbers higher
//! than it did before, so that a number is never taken for another and a client that names an old one is told that it
//! missed something. Where engines share their sockets, a message has the number under which its engine said it
//! (`peers`), and a room is the same on all of them: the members of all, and the newest messages of all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trigger_core::SocketFrame;
use uuid::Uuid;

use crate::config::Config;
use crate::frame::{Frame, Place, Told};
use crate::mark::{ALONE, Mark};
use crate::peers::Heard;
use crate::socket::Socket;

/// Bytes that one room keeps for those who resume.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Bytes that all rooms of a trigger keep together.
const MAX_KEPT_BYTES_TOGETHER: usize = 64 << 20;

pub(crate) struct Room {
    name: Box<str>,
    pub(crate) members: BTreeMap<Uuid, Member>,
    /// The number of its newest message, where the engine is alone.
    newest: u64,
    kept: VecDeque<Kept>,
    pub(crate) kept_bytes: usize,
    /// The messages that are not kept, or not any more.
    pub(crate) lost: Mark,
}

/// A member of a room.
pub(crate) enum Member {
    Here(Arc<Socket>),
    /// On the engine of this name.
    There(u64),
}

struct Kept {
    at: Instant,
    frame: Arc<Frame>,
    engine: u64,
    number: u64,
}

/// The number under which an engine said something, and how far its hearer has heard all of them by then.
pub(crate) struct Stamp {
    pub(crate) engine: u64,
    pub(crate) number: u64,
    pub(crate) mark: Arc<Mark>,
}

impl Room {
    /// A room whose messages up to this number are gone, if there were any.
    pub(crate) fn new(name: &str, lost: Mark) -> Self {
        let newest = lost.get(ALONE);
        Self { name: name.into(), members: BTreeMap::new(), newest, kept: VecDeque::new(), kept_bytes: 0, lost }
    }

    /// Sends a frame to every member here, and keeps it for those who come back, unless the other rooms keep too much.
    pub(crate) fn send(
        &mut self,
        frame: SocketFrame,
        stamp: Option<&Stamp>,
        config: &Config,
        now: Instant,
        others_keep: usize,
    ) {
        let (engine, number, mark) = match stamp {
            Some(stamp) => (stamp.engine, stamp.number, stamp.mark.clone()),
            None => {
                self.newest += 1;
                (ALONE, self.newest, Arc::new(Mark::alone(self.newest)))
            }
        };
        let frame = Frame::new(frame, Some(Place { room: self.name.clone(), seq: mark }));
        self.push(&frame, config);
        self.kept_bytes += frame.len();
        self.kept.push_back(Kept { at: now, frame, engine, number });
        self.forget(config, now);
        while others_keep + self.kept_bytes > MAX_KEPT_BYTES_TOGETHER && self.forget_one() {}
    }

    /// Takes a socket in, after the messages that it says it had; `false` where it is in already.
    pub(crate) fn join(
        &mut self,
        socket: &Arc<Socket>,
        had: Option<&Mark>,
        heard: Option<&Heard>,
        config: &Config,
        now: Instant,
    ) -> bool {
        if self.members.contains_key(&socket.id) {
            return false;
        }
        self.forget(config, now);
        self.welcome(socket.id, config);
        self.members.insert(socket.id, Member::Here(socket.clone()));
        if let Some(had) = had {
            // A number that this room never had is of another clock.
            let unknown = heard.map_or(had.get(ALONE) > self.newest, |heard| !heard.vouches_from(had));
            if unknown || had.is_behind(&self.lost) {
                let alone = heard.is_none();
                let (after, before) = (alone.then(|| had.get(ALONE)), alone.then(|| self.lost.get(ALONE) + 1));
                socket.push(&Told::Missed { room: &self.name, after, before }.frame(), config);
            }
            let nothing = unknown && heard.is_none();
            for kept in self.kept.iter().filter(|kept| nothing || kept.number > had.get(kept.engine)) {
                socket.push(&kept.frame, config);
            }
        }
        let newest = heard.map_or_else(|| Arc::new(Mark::alone(self.newest)), Heard::mark);
        socket.push(&Told::Joined { room: &self.name, seq: &newest }.frame(), config);
        true
    }

    /// Takes in a socket of another engine; `false` where it is in already.
    pub(crate) fn arrive(&mut self, client: Uuid, engine: u64, config: &Config) -> bool {
        if self.members.contains_key(&client) {
            return false;
        }
        self.welcome(client, config);
        self.members.insert(client, Member::There(engine));
        true
    }

    fn welcome(&self, client: Uuid, config: &Config) {
        if config.presence {
            self.push(&Told::Join { room: &self.name, client }.frame(), config);
        }
    }

    /// Takes a member out; `false` where it is not in.
    pub(crate) fn leave(&mut self, client: Uuid, config: &Config) -> bool {
        let left = self.members.remove(&client).is_some();
        if left && config.presence {
            self.push(&Told::Leave { room: &self.name, client }.frame(), config);
        }
        left
    }

    /// Tells the members here that something was said that nobody here has heard.
    pub(crate) fn tell_missed(&self, config: &Config) {
        self.push(&Told::Missed { room: &self.name, after: None, before: None }.frame(), config);
    }

    /// The members on another engine.
    pub(crate) fn members_on(&self, engine: u64) -> impl Iterator<Item = Uuid> {
        self.members.iter().filter_map(move |(client, member)| match member {
            Member::There(name) if *name == engine => Some(*client),
            _ => None,
        })
    }

    /// The members here.
    pub(crate) fn members_here(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.members.values().filter_map(|member| match member {
            Member::Here(socket) => Some(socket),
            Member::There(_) => None,
        })
    }

    /// Whether nobody is in it, and nothing of it will be asked for.
    pub(crate) fn is_over(&mut self, config: &Config, now: Instant) -> bool {
        self.forget(config, now);
        self.members.is_empty() && self.kept.is_empty()
    }

    fn push(&self, frame: &Arc<Frame>, config: &Config) {
        self.members_here().for_each(|member| member.push(frame, config));
    }

    /// Forgets what is too old or too much.
    fn forget(&mut self, config: &Config, now: Instant) {
        let age: Duration = config.replay_age();
        while let Some(Kept { at, .. }) = self.kept.front()
            && (self.kept.len() > config.replay_messages
                || self.kept_bytes > MAX_KEPT_BYTES
                || now.saturating_duration_since(*at) > age)
        {
            self.forget_one();
        }
    }

    /// Forgets the oldest message, if there is one.
    fn forget_one(&mut self) -> bool {
        let Some(Kept { frame, engine, number, .. }) = self.kept.pop_front() else { return false };
        self.kept_bytes -= frame.len();
        self.lost.raise(engine, number);
        true
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
        room.send(SocketFrame::Text(text.to_owned()), None, &config(), now, 0);
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
        let (mut room, now, config) = (Room::new("lobby", Mark::alone(100)), Instant::now(), config());
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
            assert!(room.join(&member, had.map(Mark::alone).as_ref(), None, &config, now));
            assert_eq!(told(&member), expected, "{had:?}");
            room.leave(member.id, &config);
        }
    }

    #[test]
    fn members_are_told_who_comes_and_goes() {
        let (mut room, now, config) = (Room::new("lobby", Mark::alone(0)), Instant::now(), config());
        let (one, other) = (socket(), socket());
        assert!(room.join(&one, None, None, &config, now) && room.join(&other, None, None, &config, now));
        assert!(!room.join(&one, None, None, &config, now), "once");
        room.leave(other.id, &config);
        assert_eq!(
            (told(&one), told(&other)),
            (vec!["joined".into(), "join".into(), "leave".into()], vec!["joined".into()])
        );
    }

    #[test]
    fn a_room_is_over_when_nobody_can_come_back_for_anything() {
        let (mut room, now, config) = (Room::new("lobby", Mark::alone(0)), Instant::now(), config());
        let member = socket();
        room.join(&member, None, None, &config, now);
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
