//! The sockets of one trigger, with their rooms and tags.
//!
//! One lock for all of it: whoever joins a room has either got a message or finds it among those that are kept, and all
//! members of a room get its messages in one order. What is done under the lock is bounded by the sockets there are.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trigger_auth::Guard;
use trigger_core::{MEMBERS_PAGE, Recipients, SocketCommand, SocketFrame, SocketMember, TriggerContext};
use uuid::Uuid;

use crate::config::Config;
use crate::frame::Frame;
use crate::room::Room;
use crate::socket::{Close, Socket};

/// Rooms, and tags, that one socket may have.
const MAX_NAMES: usize = 256;

/// Rooms that a trigger may have, those that only wait for who comes back included.
const MAX_ROOMS: usize = 100_000;

/// A path on which sockets are opened, and those that are open.
#[derive(Default)]
pub(crate) struct Endpoint {
    /// The newest run of the trigger. It outlives that run, for the sockets that are still to be told.
    serving: ArcSwapOption<Serving>,
    state: Mutex<State>,
    /// The tasks of its sockets.
    pub(crate) tasks: TaskTracker,
}

/// What the trigger is at the moment.
pub(crate) struct Serving {
    pub(crate) config: Config,
    /// Who may open a socket, where not everybody may.
    pub(crate) guard: Option<Guard>,
    pub(crate) cx: TriggerContext,
}

#[derive(Default)]
struct State {
    sockets: HashMap<Uuid, Entry>,
    rooms: HashMap<Box<str>, Room>,
    tags: HashMap<Box<str>, HashMap<Uuid, Arc<Socket>>>,
    /// Rooms that became empty, by when.
    empty: VecDeque<(Instant, Box<str>)>,
    /// Bytes that the rooms keep together.
    kept_bytes: usize,
    ending: bool,
}

struct Entry {
    socket: Arc<Socket>,
    rooms: Vec<Box<str>>,
    tags: Vec<Box<str>>,
    /// The rooms that it wants to go on in, and the number of the message that it had last.
    resume: Vec<(Box<str>, u64)>,
}

/// A socket among the others, until this is dropped.
pub(crate) struct Registered {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) socket: Arc<Socket>,
    /// The trigger does not end before.
    _waited_for: TaskTrackerToken,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.endpoint.remove(self.socket.id);
    }
}

/// Why a socket cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are as many as there may be.
    Full,
    /// The trigger ends.
    Ending,
}

impl Endpoint {
    /// Makes this run of the trigger the one that serves.
    pub(crate) fn serve(&self, serving: Serving) {
        self.serving.store(Some(Arc::new(serving)));
    }

    /// What the trigger is now; nothing before its first run.
    pub(crate) fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    pub(crate) fn register(
        self: &Arc<Self>,
        socket: Socket,
        resume: Vec<(Box<str>, u64)>,
        max: usize,
    ) -> Result<Registered, Refused> {
        let socket = Arc::new(socket);
        let mut state = self.state.lock();
        if state.ending {
            return Err(Refused::Ending);
        }
        if state.sockets.len() >= max {
            return Err(Refused::Full);
        }
        let entry = Entry { socket: socket.clone(), rooms: Vec::new(), tags: Vec::new(), resume };
        state.sockets.insert(socket.id, entry);
        Ok(Registered { endpoint: self.clone(), socket, _waited_for: self.tasks.token() })
    }

    fn remove(&self, client: Uuid) {
        let Some(serving) = self.serving() else { return };
        let (mut state, now) = (self.state.lock(), Instant::now());
        let Some(entry) = state.sockets.remove(&client) else { return };
        for room in &entry.rooms {
            state.leave(client, room, &serving.config, now);
        }
        for tag in &entry.tags {
            state.untag(client, tag);
        }
    }

    /// Closes every socket, and takes no further one.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        state.sockets.values().for_each(|entry| entry.socket.close(Close::away()));
        drop(state);
        self.tasks.close();
    }

    /// Does something to the sockets that are here.
    pub(crate) fn apply(&self, command: &SocketCommand) {
        let Some(serving) = self.serving() else { return };
        let (config, now) = (&serving.config, Instant::now());
        let mut state = self.state.lock();
        let began_micros = || u64::try_from(serving.cx.clock.now().timestamp_micros()).unwrap_or(0);
        match command {
            SocketCommand::Send { to, frame } => state.send(to, frame, config, now, began_micros),
            SocketCommand::Close { client, code, reason } => {
                if let Some(entry) = state.sockets.get(client) {
                    entry.socket.close(Close::now(CloseCode::from(*code), reason));
                }
            }
            SocketCommand::Join { client, room } => state.join(*client, room, config, now, began_micros),
            SocketCommand::Leave { client, room } => {
                if let Some(entry) = state.sockets.get_mut(client) {
                    entry.rooms.retain(|one| one != room);
                    state.leave(*client, room, config, now);
                }
            }
            SocketCommand::Tag { client, tag } => state.tag(*client, tag),
            SocketCommand::Untag { client, tag } => {
                if let Some(entry) = state.sockets.get_mut(client) {
                    entry.tags.retain(|one| one != tag);
                    state.untag(*client, tag);
                }
            }
            SocketCommand::Attach { client, bytes } => {
                if let Some(entry) = state.sockets.get(client) {
                    entry.socket.attach(bytes.clone());
                }
            }
        }
    }

    /// Members of a room after this one, in the order of their ids.
    pub(crate) fn members(&self, room: &str, after: Option<Uuid>) -> Vec<SocketMember> {
        let state = self.state.lock();
        let Some(room) = state.rooms.get(room) else { return Vec::new() };
        let first = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let members = room.members.range((first, std::ops::Bound::Unbounded)).take(MEMBERS_PAGE);
        members.map(|(client, _)| SocketMember { client: *client, caller: None }).collect()
    }

    pub(crate) fn attachment(&self, client: Uuid) -> Option<Bytes> {
        self.state.lock().sockets.get(&client).map(|entry| entry.socket.attachment())
    }
}

impl State {
    fn send(
        &mut self,
        to: &Recipients,
        frame: &SocketFrame,
        config: &Config,
        now: Instant,
        began_micros: impl Fn() -> u64,
    ) {
        match to {
            Recipients::Client(client) => {
                if let Some(entry) = self.sockets.get(client) {
                    entry.socket.push(&Frame::new(frame.clone(), None), config);
                }
            }
            Recipients::Room(name) => {
                // Where nothing is kept, a room without members is none.
                if config.replay_messages > 0 && !self.rooms.contains_key(name) {
                    self.make_room(name, now, began_micros);
                }
                if let Some(room) = self.rooms.get_mut(name) {
                    let others_keep = self.kept_bytes - room.kept_bytes;
                    room.send(frame.clone(), config, now, others_keep);
                    self.kept_bytes = others_keep + room.kept_bytes;
                }
            }
            Recipients::Tag(tag) => {
                let frame = Frame::new(frame.clone(), None);
                let tagged = self.tags.get(tag).into_iter().flat_map(HashMap::values);
                tagged.for_each(|socket| socket.push(&frame, config));
            }
            Recipients::Everyone => {
                let frame = Frame::new(frame.clone(), None);
                self.sockets.values().for_each(|entry| entry.socket.push(&frame, config));
            }
        }
        self.forget_rooms(config, now);
    }

    fn join(&mut self, client: Uuid, name: &str, config: &Config, now: Instant, began_micros: impl Fn() -> u64) {
        if !self.sockets.contains_key(&client) {
            return;
        }
        if !self.rooms.contains_key(name) && !self.make_room(name, now, began_micros) {
            return tracing::warn!("a socket cannot join: its trigger has {MAX_ROOMS} rooms");
        }
        let entry = self.sockets.get_mut(&client).expect("it was there just now");
        if entry.rooms.len() >= MAX_NAMES {
            return tracing::warn!(%client, "a socket cannot join: it is in {MAX_NAMES} rooms");
        }
        let room = self.rooms.get_mut(name).expect("it was made just now");
        let had = entry.resume.iter().position(|(resumed, _)| **resumed == *name);
        let had = had.map(|index| entry.resume.swap_remove(index).1);
        let kept_before = room.kept_bytes;
        if room.join(&entry.socket, had, config, now) {
            entry.rooms.push(name.into());
        }
        self.kept_bytes -= kept_before - room.kept_bytes;
    }

    fn make_room(&mut self, name: &str, now: Instant, began_micros: impl Fn() -> u64) -> bool {
        if self.rooms.len() >= MAX_ROOMS {
            return false;
        }
        self.rooms.insert(name.into(), Room::new(name, began_micros()));
        self.empty.push_back((now, name.into()));
        true
    }

    fn leave(&mut self, client: Uuid, name: &str, config: &Config, now: Instant) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.leave(client, config);
            if room.members.is_empty() {
                self.empty.push_back((now, name.into()));
            }
        }
        self.forget_rooms(config, now);
    }

    /// Forgets rooms that have been empty for so long that nobody can come back for anything.
    fn forget_rooms(&mut self, config: &Config, now: Instant) {
        let age = match config.replay_messages {
            0 => std::time::Duration::ZERO,
            _ => config.replay_age(),
        };
        while let Some((since, _)) = self.empty.front()
            && now.saturating_duration_since(*since) >= age
        {
            let (_, name) = self.empty.pop_front().expect("it was there just now");
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let kept_before = room.kept_bytes;
            let over = room.is_over(config, now);
            self.kept_bytes -= kept_before - room.kept_bytes;
            if over {
                self.rooms.remove(&name);
            } else if room.members.is_empty() {
                // Something was sent to it since.
                self.empty.push_back((now, name));
            }
        }
    }

    fn tag(&mut self, client: Uuid, tag: &str) {
        let Some(entry) = self.sockets.get_mut(&client) else { return };
        if entry.tags.len() >= MAX_NAMES {
            return tracing::warn!(%client, "a socket cannot be tagged: it has {MAX_NAMES} tags");
        }
        if self.tags.entry(tag.into()).or_default().insert(client, entry.socket.clone()).is_none() {
            entry.tags.push(tag.into());
        }
    }

    fn untag(&mut self, client: Uuid, tag: &str) {
        if let Some(tagged) = self.tags.get_mut(tag) {
            tagged.remove(&client);
            if tagged.is_empty() {
                self.tags.remove(tag);
            }
        }
    }
}
