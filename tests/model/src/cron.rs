//! The instants of a schedule, and the nodes that decide about them: each fires, or is skipped, once.

mod tests;

use stateright::{Model, Property};

use crate::check;
use crate::set::Set;

const DECIDED_ONCE: &str = "an instant is decided at most once";
const RECORDED: &str = "what is on record as decided is decided";
const ONE_AT_A_TIME: &str = "a fire that runs is not overlapped";
const ALL_DECIDED: &str = "where nothing goes on, every instant is decided and every fire has run";
const ALL_FIRED: &str = "where nothing goes on, every instant has fired";

/// One way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// An instant is inserted where a look found that it was not there; nothing refuses the second.
    CheckThenInsert,
    /// The newest instant on record is written before the instant's own row, in another transaction.
    RecordFirst,
}

/// What becomes of an instant that a later one has followed before anybody decided about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// It fires all the same.
    All,
    /// Only the latest fires, the others are skipped.
    One,
}

/// A world to look at.
#[derive(Clone, Debug)]
struct Cron {
    /// How many instants the schedule has; instant 0 is due at tick 1.
    instants: usize,
    /// The clocks that the nodes may have: each by how far it is ahead, in ticks. As many worlds as there are lists.
    clocks: &'static [&'static [i8]],
    missed: Missed,
    /// Whether an instant is skipped while an earlier fire has not ended.
    skips_overlaps: bool,
    /// Whether a node that crashed comes back. Where none does, one lives on.
    restarts: bool,
    /// How often nodes crash.
    crashes: u8,
    /// How often an insert is committed and its node is not told.
    lost_answers: u8,
    mistake: Option<Mistake>,
}

/// Everything there is to know at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    // -- the store
    /// By instant: rows that fire it. More than one only by mistake.
    fires: Vec<u8>,
    /// By instant: rows that say why it does not fire.
    skips: Vec<u8>,
    /// Fires in the queue.
    queue: Set,
    /// How many instants are decided, as the record of the newest one says.
    recorded: usize,
    // -- the world
    /// Ticks by a clock that is right.
    now: i8,
    nodes: Vec<Node>,
    crashes_left: u8,
    lost_answers_left: u8,
    // -- what has been
    overlapped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    /// How far its clock is ahead.
    ahead: i8,
    memory: Option<Memory>,
}

/// What a node that lives knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Memory {
    /// The instant to look at next.
    next: usize,
    /// What it is about to write about that.
    decision: Option<Decision>,
    /// By mistake: the record is written, the row is not.
    recorded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Decision {
    Fire,
    Skip,
    /// By mistake, of a look alone: it is there already.
    Nothing,
}

/// A statement, or something that happens. Nodes are told by their places at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A node begins, where the record says.
    Start {
        node: usize,
    },
    /// A node looks at its clock, and at whether an earlier fire runs, and decides.
    Decide {
        node: usize,
    },
    /// By mistake: the record alone.
    Record {
        node: usize,
    },
    /// The row, its unique key, the record: one statement.
    Insert {
        node: usize,
        answered: bool,
    },
    /// A fire has run (on any node: how that is made sure of is the queue's model).
    Run {
        instant: usize,
    },
    Crash {
        node: usize,
    },
    Tick,
}

impl check::Step for Step {
    fn is_chance(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Insert { answered: false, .. })
    }
}

impl Cron {
    fn is_decided(state: &State, instant: usize) -> bool {
        state.fires[instant] + state.skips[instant] > 0
    }

    fn start(&self, state: &mut State, node: usize) -> Option<()> {
        let recorded = state.recorded;
        let may = self.restarts && state.nodes[node].memory.is_none();
        state.nodes[node].memory = Some(Memory { next: recorded, decision: None, recorded: false });
        may.then_some(())
    }

    fn decide(&self, state: &mut State, node: usize) -> Option<()> {
        let now = state.now + state.nodes[node].ahead;
        // Instant 0 is due at tick 1, so that this is how many are due.
        let due = usize::try_from(now).unwrap_or_default().min(self.instants);
        let memory = state.nodes[node].memory.as_mut()?;
        if memory.decision.is_some() || memory.next >= due {
            return None;
        }
        let is_missed = self.missed == Missed::One && memory.next + 1 < due;
        let overlaps = self.skips_overlaps && (0..memory.next).any(|earlier| state.queue.contains(earlier));
        let is_there = state.fires[memory.next] + state.skips[memory.next] > 0;
        memory.decision = Some(match self.mistake {
            Some(Mistake::CheckThenInsert) if is_there => Decision::Nothing,
            _ if is_missed || overlaps => Decision::Skip,
            _ => Decision::Fire,
        });
        Some(())
    }

    fn record(&self, state: &mut State, node: usize) -> Option<()> {
        let memory = state.nodes[node].memory.as_mut()?;
        if memory.decision.is_none() || std::mem::replace(&mut memory.recorded, true) {
            return None;
        }
        state.recorded = state.recorded.max(memory.next + 1);
        Some(())
    }

    fn insert(&self, state: &mut State, node: usize, answered: bool) -> Option<()> {
        let memory = state.nodes[node].memory.as_mut()?;
        let (instant, decision) = (memory.next, memory.decision?);
        if self.mistake == Some(Mistake::RecordFirst) && !memory.recorded {
            return None;
        }
        if answered {
            *memory = Memory { next: instant + 1, decision: None, recorded: false };
        } else {
            state.lost_answers_left = state.lost_answers_left.checked_sub(1)?;
        }
        // ON CONFLICT DO NOTHING
        if Self::is_decided(state, instant) && self.mistake != Some(Mistake::CheckThenInsert) {
            return Some(());
        }
        match decision {
            Decision::Fire => {
                state.overlapped |= !state.queue.is_empty();
                state.fires[instant] += 1;
                state.queue.insert(instant);
            }
            Decision::Skip => state.skips[instant] += 1,
            Decision::Nothing => {}
        }
        state.recorded = state.recorded.max(instant + 1);
        Some(())
    }

    fn crash(&self, state: &mut State, node: usize) -> Option<()> {
        let living = state.nodes.iter().filter(|node| node.memory.is_some()).count();
        if !self.restarts && living == 1 {
            return None;
        }
        state.crashes_left = state.crashes_left.checked_sub(1)?;
        state.nodes[node].memory.take().map(drop)
    }

    /// Until the last instant is due by the clock that is furthest behind.
    fn tick(&self, state: &mut State) -> Option<()> {
        let furthest_behind = state.nodes.iter().map(|node| node.ahead).min()?;
        let is_over = usize::try_from(state.now + furthest_behind).is_ok_and(|due| due >= self.instants);
        state.now += 1;
        (!is_over).then_some(())
    }
}

impl Model for Cron {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let memory = || Some(Memory { next: 0, decision: None, recorded: false });
        let state = |clocks: &&[i8]| State {
            fires: vec![0; self.instants],
            skips: vec![0; self.instants],
            queue: Set::default(),
            recorded: 0,
            now: 0,
            nodes: clocks.iter().map(|ahead| Node { ahead: *ahead, memory: memory() }).collect(),
            crashes_left: self.crashes,
            lost_answers_left: self.lost_answers,
            overlapped: false,
        };
        self.clocks.iter().map(state).collect()
    }

    /// Everything that could be meant; what cannot be done now has no next state.
    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for node in 0..state.nodes.len() {
            steps.extend([Step::Start { node }, Step::Decide { node }, Step::Crash { node }]);
            steps.extend([true, false].map(|answered| Step::Insert { node, answered }));
            if self.mistake == Some(Mistake::RecordFirst) {
                steps.push(Step::Record { node });
            }
        }
        steps.extend((0..self.instants).map(|instant| Step::Run { instant }));
        steps.push(Step::Tick);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Start { node } => self.start(&mut next, node),
            Step::Decide { node } => self.decide(&mut next, node),
            Step::Record { node } => self.record(&mut next, node),
            Step::Insert { node, answered } => self.insert(&mut next, node, answered),
            Step::Run { instant } => next.queue.remove(instant).then_some(()),
            Step::Crash { node } => self.crash(&mut next, node),
            Step::Tick => self.tick(&mut next),
        }?;
        // Nodes have no names: which of two comes first makes no difference to what follows, so that worlds that differ
        // in nothing else are one.
        next.nodes.sort();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(DECIDED_ONCE, |model: &Self, state: &State| {
                (0..model.instants).all(|instant| state.fires[instant] + state.skips[instant] <= 1)
            }),
            Property::always(RECORDED, |_, state: &State| {
                (0..state.recorded).all(|instant| Self::is_decided(state, instant))
            }),
            Property::always(ALL_DECIDED, |model: &Self, state: &State| {
                let all_decided = (0..model.instants).all(|instant| Self::is_decided(state, instant));
                (all_decided && state.queue.is_empty()) || check::goes_on(model, state)
            }),
            // That it comes about says that the model can do what it is about.
            Property::sometimes("a node is about to decide what is decided", |_, state: &State| {
                let mut memories = state.nodes.iter().filter_map(|node| node.memory.as_ref());
                memories.any(|memory| memory.decision.is_some() && Self::is_decided(state, memory.next))
            }),
        ];
        if self.skips_overlaps {
            properties.push(Property::always(ONE_AT_A_TIME, |_, state: &State| !state.overlapped));
        }
        if self.skips_overlaps || self.missed == Missed::One {
            properties.push(Property::sometimes("an instant is skipped", |_, state: &State| {
                state.skips.iter().any(|rows| *rows > 0)
            }));
        } else {
            properties.push(Property::always(ALL_FIRED, |model: &Self, state: &State| {
                state.fires.iter().all(|rows| *rows > 0) || check::goes_on(model, state)
            }));
        }
        properties
    }
}
