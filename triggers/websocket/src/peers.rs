//! What an engine knows of others that have sockets of the same functions, and what it has to tell them.
//!
//! Each engine numbers what it says, and all hear it in that order, or miss something and find that out by the next
//! number. A beat every second has the newest number, so that it is found out also where nothing else is said, and says
//! what its engine has heard of those that are gone. What was missed is not repeated: who is in a room is asked for anew,
//! and clients are told that they missed something.
//!
//! There is one lock for all of it, held while something is said or heard and done: the messages of a room reach its
//! members here in the order in which they are noted as heard. It is taken before that of an endpoint.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use trigger_core::{Peers, SocketPeers};
use uuid::Uuid;

use crate::mark::Mark;
use crate::room::Stamp;
use crate::wire::{Members, Packet, Said};

/// How often an engine says that it is there.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// An engine that was not heard of for so long is taken for dead, and its sockets with it.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// How long it is remembered what a dead engine said last, for clients that come from there.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Engines that are known at once, the dead ones included.
const MAX_ENGINES: usize = 256;

/// What waits to be said while the bus is away, in messages and in bytes; the rest is never said.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Members of another engine's rooms that are taken in at once.
const MAX_MEMBERS: usize = 1 << 20;

/// The engines that share their sockets, as one of them sees it.
pub(crate) struct Cluster {
    pub(crate) peers: Arc<dyn Peers>,
    world: Mutex<World>,
    /// Woken when there is something to say.
    pub(crate) wake: Notify,
}

impl Cluster {
    pub(crate) fn new(peers: Arc<dyn Peers>) -> Self {
        // A name that no other engine has, nor this one after it was started anew. It is not `ALONE`.
        let (_, engine) = Uuid::now_v7().as_u64_pair();
        Self { peers, world: Mutex::new(World::new(engine)), wake: Notify::new() }
    }

    pub(crate) fn counts(&self) -> SocketPeers {
        let counts = self.lock().counts();
        SocketPeers { refused: counts.refused + self.peers.forged(), ..counts }
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked { world: self.world.lock(), wake: &self.wake }
    }
}

/// The world, under its lock. Who waits for something to say is woken at the end.
pub(crate) struct Locked<'a> {
    world: MutexGuard<'a, World>,
    wake: &'a Notify,
}

impl std::ops::Deref for Locked<'_> {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.world.waiting.is_empty() {
            self.wake.notify_one();
        }
    }
}

/// What this engine has heard of each.
pub(crate) struct Heard {
    /// This engine's own name.
    pub(crate) engine: u64,
    mark: Arc<Mark>,
    /// From where on it has heard each of them without a gap.
    since: Mark,
}

impl Heard {
    pub(crate) fn mark(&self) -> Arc<Mark> {
        self.mark.clone()
    }

    /// Whether it has heard all that was said after this.
    pub(crate) fn vouches_from(&self, had: &Mark) -> bool {
        had.iter().all(|(engine, _)| self.mark.knows(engine)) && !had.is_behind(&self.since)
    }

    fn raise(&mut self, engine: u64, number: u64) {
        Arc::make_mut(&mut self.mark).raise(engine, number);
    }

    /// What was said up to a number was not heard here.
    fn skip_to(&mut self, engine: u64, number: u64) {
        self.raise(engine, number);
        self.since.raise(engine, number);
    }

    fn forget(&mut self, engine: u64) {
        Arc::make_mut(&mut self.mark).forget(engine);
        self.since.forget(engine);
    }
}

pub(crate) struct World {
    pub(crate) heard: Heard,
    others: HashMap<u64, Other>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Whether somebody does not know who is in the rooms here.
    asked: bool,
    counts: SocketPeers,
}

/// Another engine.
struct Other {
    last: Instant,
    alive: bool,
    /// Whether it is known who of its sockets is in which room.
    complete: bool,
    /// What it has said of that so far, where it is saying it.
    rooms: Option<Vec<Members>>,
}

/// What was heard, and what it means.
pub(crate) struct Heeded {
    pub(crate) stamp: Stamp,
    /// Whether something was said that was not heard.
    pub(crate) missed: bool,
    pub(crate) said: Said<'static>,
}

impl World {
    fn new(engine: u64) -> Self {
        let mut mark = Mark::default();
        mark.raise(engine, 0);
        Self {
            heard: Heard { engine, mark: Arc::new(mark), since: Mark::default() },
            others: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            asked: false,
            counts: SocketPeers::default(),
        }
    }

    /// Says something, in the order of calls; the number that it has, or that of what was said before.
    pub(crate) fn say(&mut self, said: Said<'_>) -> Stamp {
        let engine = self.heard.engine;
        if said.is_numbered() {
            let number = self.heard.mark.get(engine) + 1;
            self.heard.raise(engine, number);
        }
        let stamp = self.stamp(engine);
        let bytes = Packet { engine, number: stamp.number, said }.encode();
        if self.waiting.len() >= MAX_WAITING || self.waiting_bytes + bytes.len() > MAX_WAITING_BYTES {
            // Others find out by the number of what is said next.
            self.counts.unsaid += 1;
        } else {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back(bytes);
        }
        stamp
    }

    /// The place of what an engine said last.
    pub(crate) fn stamp(&self, engine: u64) -> Stamp {
        Stamp { engine, number: self.heard.mark.get(engine), mark: self.heard.mark() }
    }

    /// What is to be said next.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let next = self.waiting.pop_front()?;
        self.waiting_bytes -= next.len();
        Some(next)
    }

    /// Something could not be said.
    pub(crate) fn count_unsaid(&mut self) {
        self.counts.unsaid += 1;
    }

    /// Takes in what another engine says; nothing where it is none of its business, or nonsense.
    pub(crate) fn hear(&mut self, bytes: &[u8], now: Instant) -> Option<Heeded> {
        let Some(Packet { engine, number, said }) = Packet::decode(bytes) else {
            self.counts.refused += 1;
            return None;
        };
        if engine == self.heard.engine {
            return None;
        }
        // What must have been heard before.
        let before = number.saturating_sub(u64::from(said.is_numbered()));
        if !self.heard.mark.knows(engine) {
            if self.others.len() >= MAX_ENGINES {
                self.counts.refused += 1;
                return None;
            }
            tracing::info!(engine = %format_args!("{engine:x}"), "sockets are shared with another engine");
            self.heard.skip_to(engine, before);
            // What is heard from its first word on lacks nothing.
            self.others.insert(engine, Other { last: now, alive: true, complete: before == 0, rooms: None });
        }
        let known = self.heard.mark.get(engine);
        let other = self.others.get_mut(&engine).filter(|_| before >= known);
        let Some(other) = other else {
            // It was heard already: the bus repeats nothing, so somebody else does.
            self.counts.refused += 1;
            return None;
        };
        other.last = now;
        if !other.alive {
            tracing::info!(engine = %format_args!("{engine:x}"), "an engine that shares its sockets is back");
            (other.alive, other.complete) = (true, false);
        }
        let mut missed = before > known;
        if missed {
            (other.complete, other.rooms) = (false, None);
            self.heard.skip_to(engine, before);
        }
        self.heard.raise(engine, number);
        match &said {
            Said::Ask { of } => self.asked |= *of == self.heard.engine,
            Said::Beat { heard } => missed |= self.compare(heard),
            _ => {}
        }
        self.counts.missed += u64::from(missed);
        Some(Heeded { stamp: self.stamp(engine), missed, said })
    }

    /// Whether another engine has heard more of one that is dead, and will say nothing more.
    fn compare(&mut self, theirs: &[(u64, u64)]) -> bool {
        let mut missed = false;
        for (engine, number) in theirs {
            let is_dead = self.others.get(engine).is_some_and(|other| !other.alive);
            if is_dead && *number > self.heard.mark.get(*engine) {
                self.heard.skip_to(*engine, *number);
                missed = true;
            }
        }
        missed
    }

    /// Takes in a part of who is in an engine's rooms; all of it with the last part.
    pub(crate) fn rooms_of(
        &mut self,
        engine: u64,
        first: bool,
        last: bool,
        rooms: Vec<Members>,
    ) -> Option<Vec<Members>> {
        let other = self.others.get_mut(&engine)?;
        if first {
            other.rooms = Some(Vec::new());
        }
        let taken = other.rooms.as_mut()?;
        taken.extend(rooms);
        if taken.iter().map(|members| 1 + members.clients.len()).sum::<usize>() > MAX_MEMBERS {
            tracing::warn!(engine = %format_args!("{engine:x}"), "its rooms have more members than can be known here");
            (other.rooms, other.complete) = (None, true);
            return None;
        }
        if !last {
            return None;
        }
        other.complete = true;
        other.rooms.take()
    }

    /// Nothing is known for certain of others' rooms any more.
    pub(crate) fn ask_again(&mut self) {
        self.others.values_mut().for_each(|other| other.complete = false);
    }

    /// Does what is due every [`BEAT`]: the engines that died are told. While the bus is away nobody does.
    pub(crate) fn beat(&mut self, now: Instant, away: bool) -> Vec<u64> {
        let mut died = Vec::new();
        for (engine, other) in &mut self.others {
            if away {
                other.last = now;
            } else if other.alive && now.saturating_duration_since(other.last) > DEAD_AFTER {
                tracing::warn!(engine = %format_args!("{engine:x}"), "an engine that shared its sockets is gone");
                (other.alive, other.rooms) = (false, None);
                died.push(*engine);
            }
        }
        let forgotten = |other: &Other| !other.alive && now.saturating_duration_since(other.last) > REMEMBERED;
        for (engine, _) in self.others.extract_if(|_, other| forgotten(other)) {
            self.heard.forget(engine);
        }
        if away {
            return died;
        }
        let unknown: Vec<u64> =
            self.others.iter().filter(|(_, other)| other.alive && !other.complete).map(|(name, _)| *name).collect();
        for of in unknown {
            self.say(Said::Ask { of });
        }
        let heard = self.heard.mark.iter().filter(|(engine, _)| *engine != self.heard.engine).collect();
        self.say(Said::Beat { heard });
        died
    }

    /// Whether somebody asked who is in the rooms here, since the last time.
    pub(crate) fn was_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    fn counts(&self) -> SocketPeers {
        SocketPeers { alive: self.others.values().filter(|other| other.alive).count(), ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(engine: u64, number: u64, said: Said<'_>) -> Bytes {
        Packet { engine, number, said }.encode()
    }

    fn beat(heard: &[(u64, u64)]) -> Said<'static> {
        Said::Beat { heard: heard.to_vec() }
    }

    fn rooms() -> Said<'static> {
        Said::Rooms { first: true, last: true, rooms: Vec::new() }
    }

    /// What a packet means: whether something was missed; nothing where it is not heeded.
    fn hear(world: &mut World, packet: &[u8], now: Instant) -> Option<bool> {
        world.hear(packet, now).map(|heeded| heeded.missed)
    }

    #[test]
    fn a_gap_is_found_by_the_next_number_and_by_a_beat() {
        let (mut world, now) = (World::new(1), Instant::now());
        assert_eq!(hear(&mut world, &bytes(2, 7, beat(&[])), now), Some(false), "what was before is not missed");
        assert_eq!(hear(&mut world, &bytes(2, 8, rooms()), now), Some(false));
        assert_eq!(hear(&mut world, &bytes(2, 10, rooms()), now), Some(true));
        assert_eq!(hear(&mut world, &bytes(2, 10, beat(&[])), now), Some(false));
        assert_eq!(hear(&mut world, &bytes(2, 12, beat(&[])), now), Some(true));
        let had = |text: &str| text.parse::<Mark>().unwrap();
        assert!(world.heard.vouches_from(&had("1.0-2.12")));
        for lacks in ["1.0-2.11", "1.0", "1.0-2.12-3.0", "12"] {
            assert!(!world.heard.vouches_from(&had(lacks)), "{lacks}");
        }
        assert_eq!(world.counts(), SocketPeers { alive: 1, missed: 2, ..SocketPeers::default() });
    }

    #[test]
    fn what_is_repeated_or_nonsense_is_refused_and_its_own_words_are_nothing() {
        let (mut world, now) = (World::new(1), Instant::now());
        for number in 1..4 {
            assert_eq!(hear(&mut world, &bytes(2, number, rooms()), now), Some(false));
        }
        for packet in [bytes(2, 3, rooms()), bytes(2, 1, rooms()), bytes(2, 2, beat(&[])), Bytes::from_static(b"?")] {
            assert_eq!(hear(&mut world, &packet, now), None);
        }
        assert_eq!(hear(&mut world, &bytes(1, 9, rooms()), now), None);
        assert_eq!(world.counts().refused, 4);
        for engine in 3..2 + MAX_ENGINES as u64 {
            assert_eq!(hear(&mut world, &bytes(engine, 0, beat(&[])), now), Some(false));
        }
        assert_eq!(hear(&mut world, &bytes(9999, 0, beat(&[])), now), None, "there are no so many engines");
    }

    #[test]
    fn an_engine_that_is_silent_is_dead_and_what_others_heard_of_it_counts() {
        let (mut world, now) = (World::new(1), Instant::now());
        for engine in [2, 3] {
            hear(&mut world, &bytes(engine, 5, beat(&[])), now);
        }
        let later = now + DEAD_AFTER + BEAT;
        assert!(world.beat(later, true).is_empty(), "nobody is heard while the bus is away");
        hear(&mut world, &bytes(3, 5, beat(&[(2, 6)])), later + DEAD_AFTER);
        assert_eq!(world.heard.mark.get(2), 5, "it may still say it here");
        assert_eq!(world.beat(later + DEAD_AFTER + BEAT, false), [2]);
        assert_eq!(world.counts().alive, 1);
        assert_eq!(hear(&mut world, &bytes(3, 5, beat(&[(2, 6)])), later + DEAD_AFTER), Some(true));
        assert_eq!(hear(&mut world, &bytes(3, 5, beat(&[(2, 6)])), later + DEAD_AFTER), Some(false), "once");
        assert_eq!(hear(&mut world, &bytes(2, 6, beat(&[])), later + DEAD_AFTER + BEAT), Some(false), "it is back");
        assert_eq!(world.counts().alive, 2);
        assert_eq!(world.beat(later + 2 * REMEMBERED, false).len(), 2);
        world.beat(later + 2 * REMEMBERED, false);
        assert!(!world.heard.mark.knows(2) && world.others.is_empty(), "in the end nothing is known of it");
    }

    #[test]
    fn what_cannot_wait_is_never_said_and_its_number_is_missing() {
        let (mut world, mut other, now) = (World::new(1), World::new(2), Instant::now());
        for _ in 0..MAX_WAITING + 5 {
            world.say(rooms());
        }
        assert_eq!(world.counts().unsaid, 5);
        while let Some(said) = world.next() {
            assert_eq!(hear(&mut other, &said, now), Some(false));
        }
        world.beat(now, false);
        assert_eq!(hear(&mut other, &world.next().unwrap(), now), Some(true));
        assert_eq!(world.waiting_bytes, 0);
    }
}
