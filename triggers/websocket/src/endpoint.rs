//! The sockets of one trigger, with their rooms and tags.
//!
//! One lock for all of it: whoever joins a room has either got a message or finds it among those that are kept, and all
//! members of a room get its messages in one order. What is done under the lock is bounded by the sockets there are.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trigger_auth::{Guard, Limiter};
use trigger_core::{MEMBERS_PAGE, Recipients, SocketCommand, SocketFrame, SocketMember, TriggerContext};
use uuid::Uuid;

use crate::config::Config;
use crate::frame::Frame;
use crate::mark::Mark;
use crate::peers::{Cluster, Heard, World};
use crate::room::{Member, Room, Stamp};
use crate::socket::{Close, Socket};
use crate::wire::{Members, Said, Site};

/// Rooms, and tags, that one socket may have.
const MAX_NAMES: usize = 256;

/// Rooms that a trigger may have, those that only wait for who comes back included.
const MAX_ROOMS: usize = 100_000;

/// A path on which sockets are opened, and those that are open.
pub(crate) struct Endpoint {
    pub(crate) site: Site,
    /// The engines that have sockets of the same path, where there may be others.
    cluster: Option<Arc<Cluster>>,
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
    /// How often somebody may, where that is bounded.
    pub(crate) limiter: Option<Limiter>,
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
    /// The messages that no room keeps any more, where engines share their sockets.
    gone: Mark,
    ending: bool,
}

struct Entry {
    socket: Arc<Socket>,
    rooms: Vec<Box<str>>,
    tags: Vec<Box<str>>,
    /// The rooms that it wants to go on in, and the number of the message that it had last.
    resume: Vec<(Box<str>, Mark)>,
}

/// What holds while something is done to sockets.
struct Moment<'a> {
    config: &'a Config,
    now: Instant,
    /// What a room that begins now begins to count with, where an engine is alone.
    micros: u64,
    /// What was heard of other engines, where there may be any.
    heard: Option<&'a Heard>,
}

impl<'a> Moment<'a> {
    fn of(serving: &'a Serving, heard: Option<&'a Heard>) -> Self {
        let micros = u64::try_from(serving.cx.clock.now().timestamp_micros()).unwrap_or(0);
        Self { config: &serving.config, now: Instant::now(), micros, heard }
    }
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
    pub(crate) fn new(site: Site, cluster: Option<Arc<Cluster>>) -> Self {
        let (serving, state, tasks) = (ArcSwapOption::empty(), Mutex::default(), TaskTracker::new());
        Self { site, cluster, serving, state, tasks }
    }

    /// Makes this run of the trigger the one that serves.
    pub(crate) fn serve(&self, serving: Serving) {
        let mut world = self.cluster.as_ref().map(|cluster| cluster.lock());
        let is_first = self.serving.swap(Some(Arc::new(serving))).is_none();
        if let Some(world) = world.as_mut().filter(|_| is_first) {
            // What other engines said before found no place here.
            self.state.lock().gone.raise_all(&world.heard.mark());
            world.ask_again();
        }
    }

    /// What the trigger is now; nothing before its first run.
    pub(crate) fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    pub(crate) fn register(
        self: &Arc<Self>,
        socket: Socket,
        resume: Vec<(Box<str>, Mark)>,
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
        let mut world = self.cluster.as_ref().map(|cluster| cluster.lock());
        let moment = Moment::of(&serving, world.as_ref().map(|world| &world.heard));
        let mut state = self.state.lock();
        let Some(entry) = state.sockets.remove(&client) else { return };
        entry.rooms.iter().for_each(|room| state.leave(client, room, &moment));
        entry.tags.iter().for_each(|tag| state.untag(client, tag));
        if let Some(world) = &mut world {
            entry.rooms.iter().for_each(|room| self.tell(world, room, client, false));
        }
    }

    /// Tells the other engines who is in a room here.
    fn tell(&self, world: &mut World, room: &str, client: Uuid, joined: bool) {
        world.say(Said::Member { site: Cow::Borrowed(&self.site), room: room.into(), client, joined });
    }

    /// Closes every socket, and takes no further one.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        state.sockets.values().for_each(|entry| entry.socket.close(Close::away()));
        drop(state);
        self.tasks.close();
    }

    /// Does something to the sockets that are here. Where engines share theirs, one of them has said it, and when.
    pub(crate) fn apply(&self, command: &SocketCommand, said: Option<(&mut World, &Stamp)>) {
        let Some(serving) = self.serving() else { return };
        let (world, stamp) = said.unzip();
        let moment = Moment::of(&serving, world.as_ref().map(|world| &world.heard));
        let mut state = self.state.lock();
        let moved = match command {
            SocketCommand::Send { to, frame } => {
                state.send(to, frame, stamp, &moment);
                None
            }
            SocketCommand::Close { client, code, reason } => {
                if let Some(entry) = state.sockets.get(client) {
                    entry.socket.close(Close::now(CloseCode::from(*code), reason));
                }
                None
            }
            SocketCommand::Join { client, room } => state.join(*client, room, &moment).then_some((*client, room, true)),
            SocketCommand::Leave { client, room } => {
                let left = state.sockets.get_mut(client).is_some_and(|entry| {
                    let before = entry.rooms.len();
                    entry.rooms.retain(|one| one != room);
                    entry.rooms.len() < before
                });
                if left {
                    state.leave(*client, room, &moment);
                }
                left.then_some((*client, room, false))
            }
            SocketCommand::Tag { client, tag } => {
                state.tag(*client, tag);
                None
            }
            SocketCommand::Untag { client, tag } => {
                if let Some(entry) = state.sockets.get_mut(client) {
                    entry.tags.retain(|one| one != tag);
                    state.untag(*client, tag);
                }
                None
            }
            SocketCommand::Attach { client, bytes } => {
                if let Some(entry) = state.sockets.get(client) {
                    entry.socket.attach(bytes.clone());
                }
                None
            }
        };
        if let (Some((client, room, joined)), Some(world)) = (moved, world) {
            self.tell(world, room, client, joined);
        }
    }

    /// Whether a socket is here.
    pub(crate) fn has(&self, client: Uuid) -> bool {
        self.state.lock().sockets.contains_key(&client)
    }

    /// A socket of another engine is a member of a room from now on, or is not any more.
    pub(crate) fn heard_of(&self, heard: &Heard, engine: u64, room: &str, client: Uuid, joined: bool) {
        let Some(serving) = self.serving() else { return };
        let moment = Moment::of(&serving, Some(heard));
        let mut state = self.state.lock();
        match joined {
            true => state.arrive(client, engine, room, &moment),
            false => state.depart(client, engine, room, &moment),
        }
    }

    /// Makes the members that rooms have on another engine these, and no others.
    pub(crate) fn heard_all(&self, heard: &Heard, engine: u64, rooms: &[Members]) {
        let Some(serving) = self.serving() else { return };
        let moment = Moment::of(&serving, Some(heard));
        let rooms = rooms.iter().filter(|members| members.site == self.site);
        let members: HashSet<(&str, Uuid)> =
            rooms.flat_map(|room| room.clients.iter().map(|client| (&*room.room, *client))).collect();
        let mut state = self.state.lock();
        let known = state.rooms.iter().flat_map(|(name, room)| room.members_on(engine).map(|one| (name.clone(), one)));
        let gone: Vec<_> = known.filter(|(room, client)| !members.contains(&(&**room, *client))).collect();
        gone.iter().for_each(|(room, client)| state.depart(*client, engine, room, &moment));
        members.iter().for_each(|(room, client)| state.arrive(*client, engine, room, &moment));
    }

    /// Who of the sockets here is in which room.
    pub(crate) fn rooms(&self) -> Vec<Members> {
        let state = self.state.lock();
        let rooms = state.rooms.iter().map(|(name, room)| Members {
            site: self.site.clone(),
            room: name.clone(),
            clients: room.members_here().map(|socket| socket.id).collect(),
        });
        rooms.filter(|members| !members.clients.is_empty()).collect()
    }

    /// Tells the members of every room that something was said that was not heard here.
    pub(crate) fn tell_missed(&self) {
        let Some(serving) = self.serving() else { return };
        self.state.lock().rooms.values().for_each(|room| room.tell_missed(&serving.config));
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
    fn send(&mut self, to: &Recipients, frame: &SocketFrame, stamp: Option<&Stamp>, moment: &Moment<'_>) {
        let config = moment.config;
        match to {
            Recipients::Client(client) => {
                if let Some(entry) = self.sockets.get(client) {
                    entry.socket.push(&Frame::new(frame.clone(), None), config);
                }
            }
            Recipients::Room(name) => {
                // Where nothing is kept, a room without members is none.
                if config.replay_messages > 0 && !self.rooms.contains_key(name) {
                    self.make_room(name, moment);
                }
                match (self.rooms.get_mut(name), stamp) {
                    (Some(room), _) => {
                        let others_keep = self.kept_bytes - room.kept_bytes;
                        room.send(frame.clone(), stamp, config, moment.now, others_keep);
                        self.kept_bytes = others_keep + room.kept_bytes;
                    }
                    (None, Some(stamp)) => self.gone.raise(stamp.engine, stamp.number),
                    (None, None) => {}
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
        self.forget_rooms(moment);
    }

    /// Whether the socket is a member that was none before.
    fn join(&mut self, client: Uuid, name: &str, moment: &Moment<'_>) -> bool {
        if !self.sockets.contains_key(&client) {
            return false;
        }
        if !self.rooms.contains_key(name) && !self.make_room(name, moment) {
            tracing::warn!("a socket cannot join: its trigger has {MAX_ROOMS} rooms");
            return false;
        }
        let entry = self.sockets.get_mut(&client).expect("it was there just now");
        if entry.rooms.len() >= MAX_NAMES {
            tracing::warn!(%client, "a socket cannot join: it is in {MAX_NAMES} rooms");
            return false;
        }
        let room = self.rooms.get_mut(name).expect("it was made just now");
        let had = entry.resume.iter().position(|(resumed, _)| **resumed == *name);
        let had = had.map(|index| entry.resume.swap_remove(index).1);
        let kept_before = room.kept_bytes;
        let joined = room.join(&entry.socket, had.as_ref(), moment.heard, moment.config, moment.now);
        if joined {
            entry.rooms.push(name.into());
        }
        self.kept_bytes -= kept_before - room.kept_bytes;
        joined
    }

    /// Takes a socket of another engine into a room.
    fn arrive(&mut self, client: Uuid, engine: u64, name: &str, moment: &Moment<'_>) {
        if self.rooms.contains_key(name) || self.make_room(name, moment) {
            let room = self.rooms.get_mut(name).expect("it was made just now");
            room.arrive(client, engine, moment.config);
        }
    }

    /// Takes a socket of another engine out of a room.
    fn depart(&mut self, client: Uuid, engine: u64, name: &str, moment: &Moment<'_>) {
        let member = self.rooms.get(name).and_then(|room| room.members.get(&client));
        if matches!(member, Some(Member::There(on)) if *on == engine) {
            self.leave(client, name, moment);
        }
    }

    fn make_room(&mut self, name: &str, moment: &Moment<'_>) -> bool {
        if self.rooms.len() >= MAX_ROOMS {
            return false;
        }
        let lost = match moment.heard {
            None => Mark::alone(moment.micros),
            Some(_) => self.gone.clone(),
        };
        self.rooms.insert(name.into(), Room::new(name, lost));
        self.empty.push_back((moment.now, name.into()));
        true
    }

    fn leave(&mut self, client: Uuid, name: &str, moment: &Moment<'_>) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.leave(client, moment.config);
            if room.members.is_empty() {
                self.empty.push_back((moment.now, name.into()));
            }
        }
        self.forget_rooms(moment);
    }

    /// Forgets rooms that have been empty for so long that nobody can come back for anything.
    fn forget_rooms(&mut self, moment: &Moment<'_>) {
        let age = match moment.config.replay_messages {
            0 => std::time::Duration::ZERO,
            _ => moment.config.replay_age(),
        };
        while let Some((since, _)) = self.empty.front()
            && moment.now.saturating_duration_since(*since) >= age
        {
            let (_, name) = self.empty.pop_front().expect("it was there just now");
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let kept_before = room.kept_bytes;
            let over = room.is_over(moment.config, moment.now);
            self.kept_bytes -= kept_before - room.kept_bytes;
            if over {
                let room = self.rooms.remove(&name);
                if let Some(room) = room.filter(|_| moment.heard.is_some()) {
                    self.gone.raise_all(&room.lost);
                }
            } else if room.members.is_empty() {
                // Something was sent to it since.
                self.empty.push_back((moment.now, name));
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
