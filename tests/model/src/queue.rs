//! From an accepted event to its end: claims, leases, settles, ordering keys, the outbox.

mod statements;
mod tests;

use stateright::{Model, Property};

use crate::check;
use crate::set::Set;

/// How long a claim holds, in ticks.
const LEASE: i8 = 2;
/// How far clocks may be apart, in ticks: well within a lease.
const CLOCKS_APART: i8 = 1;
/// How many claims a node works on at once.
const ROOM: usize = 2;

const SETTLED_ONCE: &str = "an attempt is settled at most once";
const ONE_VALID_CLAIM: &str = "a row has at most one valid claim";
const BALANCED: &str = "the ledger balances";
const IN_ORDER: &str = "a key's rows run one at a time, in the order of their acceptance";
const PUBLISHED: &str = "a message leaves the outbox when the bus has it";
const KEPT: &str = "what was acknowledged is kept";
const ENDS: &str = "where nothing goes on, every event has ended and every dead letter is published";

/// One way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// A settle does not name its token.
    TokenUnchecked,
    /// A claim takes rows whose lease has not run out.
    LeaseIgnored,
    /// The next row of a key is released in another transaction than the one that ended its first.
    ReleaseApart,
    /// A retry releases the next row of its key.
    ReleaseAtRetry,
    /// Whether an event's key has rows is looked up before the transaction that accepts it.
    KeyReadBefore,
    /// The dead letter is written in another transaction than the one that removes the row.
    LetterApart,
    /// A message is removed from the outbox, and then published.
    RemovedFirst,
    /// A source is told before the event is committed.
    AcknowledgedFirst,
}

/// How often what goes wrong may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Nodes lose their memory.
    crashes: u8,
    /// A lease runs out while its worker works.
    expiries: u8,
    /// Leases are renewed.
    renewals: u8,
    /// Attempts are cut by a shutdown.
    hand_backs: u8,
    /// A settle is committed, or not, and its node is not told.
    lost_answers: u8,
    /// Somebody cancels a row.
    cancels: u8,
}

/// A world to look at.
#[derive(Clone, Debug)]
struct Queue {
    /// By event, its ordering key.
    keys: &'static [Option<u8>],
    /// The clocks that the nodes may have: each by how far it is ahead, in ticks. As many worlds as there are lists.
    clocks: &'static [&'static [i8]],
    /// Events come from sources that want to be told, and that send again until they were. Otherwise all events were
    /// accepted, in their order, before the first step.
    sources: bool,
    /// Dead letters are published.
    topic: bool,
    /// How many attempts an event has.
    max_attempts: u8,
    budget: Budget,
    mistake: Option<Mistake>,
}

/// Everything there is to know at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    // -- the store
    /// Keys of accepted events.
    accepted: Set,
    /// Events in the order of their acceptance.
    order: Vec<usize>,
    /// By event.
    queue: Vec<Option<Row>>,
    ok: Set,
    dead: Set,
    cancelled: Set,
    outbox: Set,
    // -- the world
    /// Events whose sources were told.
    acknowledged: Set,
    /// Dead letters that the bus has.
    published: Set,
    nodes: Vec<Node>,
    left: Budget,
    // -- what has been
    /// By event: the attempts that were settled, a bit for each.
    settled: Vec<u8>,
    settled_twice: bool,
}

/// A row of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    attempt: u8,
    /// Ticks until it is due by a clock that is right.
    wait: i8,
    claim: Option<Claim>,
    /// An earlier row of its key is in the queue.
    blocked: bool,
    /// Somebody wants it cancelled; who works on it may heed that.
    cancel: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    token: u8,
    /// Ticks that are left of it by a clock that is right.
    lease: i8,
}

/// What a node remembers. A crash leaves nothing of it but the clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    /// How far its clock is ahead.
    ahead: i8,
    workers: Vec<Worker>,
    /// Events that it accepted and has not acknowledged (or the other way round, by mistake).
    in_hand: Set,
    /// Messages that it published and has not removed (or the other way round, by mistake).
    on_the_way: Set,
    /// By mistake: the event whose key it has looked up, and whether the key had rows.
    looked: Option<(usize, bool)>,
}

/// One claim that a node works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Worker {
    row: usize,
    token: u8,
    attempt: u8,
    /// Ticks that are left of its lease, as far as it knows, by a clock that is right.
    lease: i8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Running,
    /// It has settled and was not told whether it came through: it will settle so again.
    Unanswered(End),
    /// By mistake: the first of two transactions is committed.
    Half(End),
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    Ok,
    Retry,
    Dead,
    HandBack,
    Cancelled,
}

impl End {
    const ALL: [Self; 5] = [Self::Ok, Self::Retry, Self::Dead, Self::HandBack, Self::Cancelled];

    /// Whether the row is gone.
    fn is_final(self) -> bool {
        matches!(self, Self::Ok | Self::Dead | Self::Cancelled)
    }
}

/// A statement, or something that happens. Nodes and workers are told by their places at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look { node: usize, row: usize },
    Accept { node: usize, row: usize },
    Acknowledge { node: usize, row: usize },
    Claim { node: usize, row: usize },
    Renew { node: usize, worker: usize },
    Settle { node: usize, worker: usize, end: End, answered: bool },
    SecondHalf { node: usize, worker: usize },
    Cancel { row: usize },
    Publish { node: usize, row: usize },
    Remove { node: usize, row: usize },
    Crash { node: usize },
    Tick,
}

impl check::Step for Step {
    fn is_chance(&self) -> bool {
        match self {
            Self::Crash { .. } | Self::Cancel { .. } => true,
            Self::Settle { end, answered, .. } => !answered || *end == End::HandBack,
            _ => false,
        }
    }
}

impl Model for Queue {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        self.clocks.iter().map(|clocks| self.start(clocks)).collect()
    }

    /// Everything that could be meant; what cannot be done now has no next state.
    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for row in 0..self.keys.len() {
            steps.push(Step::Cancel { row });
        }
        for (node, memory) in state.nodes.iter().enumerate() {
            for row in 0..self.keys.len() {
                steps.push(Step::Claim { node, row });
                if self.mistake == Some(Mistake::KeyReadBefore) {
                    steps.push(Step::Look { node, row });
                }
                if self.sources {
                    steps.extend([Step::Accept { node, row }, Step::Acknowledge { node, row }]);
                }
                if self.topic {
                    steps.extend([Step::Publish { node, row }, Step::Remove { node, row }]);
                }
            }
            for worker in 0..memory.workers.len() {
                steps.extend([Step::Renew { node, worker }, Step::SecondHalf { node, worker }]);
                for end in End::ALL {
                    let settle = |answered| Step::Settle { node, worker, end, answered };
                    steps.extend([settle(true), settle(false)]);
                }
            }
            steps.push(Step::Crash { node });
        }
        steps.push(Step::Tick);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Look { node, row } => self.look(&mut next, node, row),
            Step::Accept { node, row } => self.accept(&mut next, node, row),
            Step::Acknowledge { node, row } => self.acknowledge(&mut next, node, row),
            Step::Claim { node, row } => self.claim(&mut next, node, row),
            Step::Renew { node, worker } => self.renew(&mut next, node, worker),
            Step::Settle { node, worker, end, answered } => self.settle(&mut next, node, worker, end, answered),
            Step::SecondHalf { node, worker } => self.second_half(&mut next, node, worker),
            Step::Cancel { row } => self.cancel(&mut next, row),
            Step::Publish { node, row } => self.publish(&mut next, node, row),
            Step::Remove { node, row } => self.remove(&mut next, node, row),
            Step::Crash { node } => self.crash(&mut next, node),
            Step::Tick => self.tick(&mut next),
        }?;
        // Nodes and workers have no names: which of two comes first makes no difference to what follows, so that worlds
        // that differ in nothing else are one.
        for node in &mut next.nodes {
            node.workers.sort();
        }
        next.nodes.sort();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SETTLED_ONCE, |_, state: &State| !state.settled_twice),
            Property::always(ONE_VALID_CLAIM, |_, state: &State| state.has_one_valid_claim()),
            Property::always(BALANCED, |_, state: &State| state.is_balanced()),
            Property::always(IN_ORDER, |model: &Self, state: &State| state.is_in_order(model.keys)),
            Property::always(PUBLISHED, |model: &Self, state: &State| {
                !model.topic || state.dead.is_within(state.outbox.or(state.published))
            }),
            Property::always(KEPT, |_, state: &State| state.acknowledged.is_within(state.accepted)),
            Property::always(ENDS, |model: &Self, state: &State| {
                model.has_ended(state) || check::goes_on(model, state)
            }),
            // That these come about says that the model can do what it is about.
            Property::sometimes("every event is ok", |model: &Self, state: &State| state.ok.len() == model.keys.len()),
            Property::sometimes("every event is dead", |model: &Self, state: &State| {
                state.dead.len() == model.keys.len()
            }),
        ];
        if self.max_attempts > 1 {
            properties.push(Property::sometimes("an attempt follows another", |_, state: &State| {
                state.settled.iter().any(|bits| *bits > 1)
            }));
        }
        if self.budget.expiries > 0 {
            properties.push(Property::sometimes("a worker is late", |_, state: &State| state.has_late_worker()));
        }
        if self.budget.cancels > 0 {
            properties
                .push(Property::sometimes("an event is cancelled", |_, state: &State| !state.cancelled.is_empty()));
        }
        if self.keys.iter().any(Option::is_some) {
            properties.push(Property::sometimes("an event waits for its key", |_, state: &State| {
                state.queue.iter().flatten().any(|row| row.blocked)
            }));
        }
        properties
    }
}

impl Queue {
    fn has_ended(&self, state: &State) -> bool {
        let all = Set::below(self.keys.len());
        state.accepted == all
            && state.acknowledged == all
            && state.queue.iter().all(Option::is_none)
            && state.outbox.is_empty()
            && (!self.topic || state.published == state.dead)
    }
}

impl State {
    /// Two workers that both have time left, even if their clocks are as far apart as they may be.
    fn has_one_valid_claim(&self) -> bool {
        let valid: Vec<usize> = self
            .nodes
            .iter()
            .flat_map(|node| node.workers.iter().map(move |worker| (node.ahead, worker)))
            .filter(|(ahead, worker)| worker.phase == Phase::Running && worker.lease - ahead >= CLOCKS_APART)
            .map(|(_, worker)| worker.row)
            .collect();
        valid.iter().enumerate().all(|(index, row)| !valid[..index].contains(row))
    }

    /// accepted = queued + running + ok + dead + cancelled, and nothing is two of these.
    fn is_balanced(&self) -> bool {
        let mut queued = Set::default();
        for row in (0..self.queue.len()).filter(|row| self.queue[*row].is_some()) {
            queued.insert(row);
        }
        let tables = [queued, self.ok, self.dead, self.cancelled];
        let mut all = Set::default();
        let apart = tables.iter().all(|table| {
            let apart = !all.meets(*table);
            all = all.or(*table);
            apart
        });
        apart && all == self.accepted
    }

    /// No row of a key is touched before those that were accepted before it have ended.
    fn is_in_order(&self, keys: &[Option<u8>]) -> bool {
        self.order.iter().enumerate().all(|(place, row)| {
            let claimed = self.queue[*row].as_ref().is_some_and(|row| row.claim.is_some());
            let touched = claimed || self.settled[*row] > 0;
            let first = || self.order[..place].iter().all(|other| keys[*other] != keys[*row] || self.has_ended(*other));
            keys[*row].is_none() || !touched || first()
        })
    }

    fn has_ended(&self, row: usize) -> bool {
        self.queue[row].is_none()
    }

    /// A worker whose row is another one's by now.
    fn has_late_worker(&self) -> bool {
        self.nodes.iter().flat_map(|node| &node.workers).any(|worker| {
            let claim = self.queue[worker.row].as_ref().and_then(|row| row.claim);
            claim.is_some_and(|claim| claim.token != worker.token)
        })
    }
}
