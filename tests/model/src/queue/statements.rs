//! What each step does. `None` where it cannot be done now.

use super::{Claim, End, LEASE, Mistake, Node, Phase, Queue, ROOM, Row, State, Worker};
use crate::set::Set;

impl Queue {
    pub(super) fn start(&self, clocks: &[i8]) -> State {
        let node = |ahead: &i8| Node {
            ahead: *ahead,
            workers: Vec::new(),
            in_hand: Set::default(),
            on_the_way: Set::default(),
            looked: None,
        };
        let mut state = State {
            accepted: Set::default(),
            order: Vec::new(),
            queue: vec![None; self.keys.len()],
            ok: Set::default(),
            dead: Set::default(),
            cancelled: Set::default(),
            outbox: Set::default(),
            acknowledged: Set::default(),
            published: Set::default(),
            nodes: clocks.iter().map(node).collect(),
            left: self.budget,
            settled: vec![0; self.keys.len()],
            settled_twice: false,
        };
        state.nodes.sort();
        if !self.sources {
            let long_ago = state.earliest_clock();
            for row in 0..self.keys.len() {
                let blocked = self.has_rows_of_key(&state, row);
                state.insert(row, blocked, long_ago);
            }
            state.acknowledged = state.accepted;
        }
        state
    }

    /// By mistake: whether the key of an event has rows, for an accept to come.
    pub(super) fn look(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        let (known, blocked) = (state.accepted.contains(row), self.has_rows_of_key(state, row));
        let memory = &mut state.nodes[node];
        if known || memory.looked.is_some() {
            return None;
        }
        memory.looked = Some((row, blocked));
        Some(())
    }

    /// Commits an event, unless its idempotency key is known. A source that was not told sends again.
    pub(super) fn accept(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        let told_first = self.mistake == Some(Mistake::AcknowledgedFirst);
        let at_hand = if told_first {
            state.nodes[node].in_hand.remove(row)
        } else {
            !state.is_in_hand(row) && !state.acknowledged.contains(row)
        };
        if !at_hand {
            return None;
        }
        let blocked = match self.mistake {
            Some(Mistake::KeyReadBefore) => {
                let (_, blocked) = state.nodes[node].looked.take_if(|(looked, _)| *looked == row)?;
                blocked
            }
            _ => self.has_rows_of_key(state, row),
        };
        if !state.accepted.contains(row) {
            state.insert(row, blocked, state.nodes[node].ahead);
        }
        if !told_first {
            state.nodes[node].in_hand.insert(row);
        }
        Some(())
    }

    /// Tells the source.
    pub(super) fn acknowledge(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        if self.mistake == Some(Mistake::AcknowledgedFirst) {
            if !state.acknowledged.insert(row) {
                return None;
            }
            state.nodes[node].in_hand.insert(row);
        } else {
            state.nodes[node].in_hand.remove(row).then_some(())?;
            state.acknowledged.insert(row);
        }
        Some(())
    }

    /// `run_at <= now AND (claim_token IS NULL OR lease_until < now)`, and no earlier row of the key.
    pub(super) fn claim(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        let token = state.unused_token(row);
        let State { queue, nodes, .. } = state;
        let (now, workers) = (nodes[node].ahead, &mut nodes[node].workers);
        let claimed = queue[row].as_mut()?;
        let is_free = match claimed.claim {
            None => true,
            Some(claim) => claim.lease < now || self.mistake == Some(Mistake::LeaseIgnored),
        };
        if !is_free || claimed.wait > now || claimed.blocked || workers.len() >= ROOM {
            return None;
        }
        let lease = now + LEASE;
        claimed.claim = Some(Claim { token, lease });
        workers.push(Worker { row, token, attempt: claimed.attempt, lease, phase: Phase::Running });
        Some(())
    }

    /// Prolongs a claim that is still its token's; a worker whose claim is not is cut.
    pub(super) fn renew(&self, state: &mut State, node: usize, worker: usize) -> Option<()> {
        let held = state.holds(&state.nodes[node].workers[worker]);
        let State { queue, nodes, left, .. } = state;
        let Node { ahead, workers, .. } = &mut nodes[node];
        let working = &mut workers[worker];
        if working.phase != Phase::Running {
            return None;
        }
        if !held {
            workers.remove(worker);
            return Some(());
        }
        let lease = *ahead + LEASE;
        if working.lease == lease {
            return None;
        }
        spend(&mut left.renewals)?;
        working.lease = lease;
        queue[working.row].as_mut()?.claim.as_mut()?.lease = lease;
        Some(())
    }

    /// Ends a claim: `WHERE invocation_id = … AND claim_token = …`.
    pub(super) fn settle(&self, state: &mut State, node: usize, worker: usize, end: End, answered: bool) -> Option<()> {
        let Worker { row, attempt, phase, .. } = state.nodes[node].workers[worker];
        match phase {
            Phase::Running => {}
            Phase::Unanswered(before) if before == end => {}
            Phase::Unanswered(_) | Phase::Half(_) => return None,
        }
        match end {
            End::Retry if attempt >= self.max_attempts => return None,
            End::HandBack if phase == Phase::Running => spend(&mut state.left.hand_backs)?,
            // It was read when the lease was renewed; the row may be gone or another's since.
            End::Cancelled if phase == Phase::Running && !state.queue[row].as_ref()?.cancel => return None,
            _ => {}
        }
        if !answered {
            spend(&mut state.left.lost_answers)?;
        }
        let in_halves = self.end(state, node, worker, end);
        let workers = &mut state.nodes[node].workers;
        if in_halves {
            workers[worker].phase = Phase::Half(end);
        } else if answered {
            workers.remove(worker);
        } else {
            workers[worker].phase = Phase::Unanswered(end);
        }
        Some(())
    }

    /// The statement itself. Whether there is another one to come, by mistake.
    fn end(&self, state: &mut State, node: usize, worker: usize, end: End) -> bool {
        let Node { ahead, workers, .. } = &state.nodes[node];
        let (ahead, working) = (*ahead, workers[worker].clone());
        let named = state.holds(&working) || self.mistake == Some(Mistake::TokenUnchecked);
        let Some(row) = state.queue[working.row].as_mut().filter(|_| named) else { return false };
        row.claim = None;
        if end == End::Retry {
            row.attempt += 1;
            row.wait = ahead + 1;
        }
        if end.is_final() {
            state.queue[working.row] = None;
        }
        if end != End::HandBack {
            let (bit, bits) = (1 << (working.attempt - 1), &mut state.settled[working.row]);
            state.settled_twice |= *bits & bit != 0;
            *bits |= bit;
        }
        match end {
            End::Ok => state.ok.insert(working.row),
            End::Cancelled => state.cancelled.insert(working.row),
            End::Dead if self.mistake == Some(Mistake::LetterApart) => {
                self.release(state, working.row);
                return true;
            }
            End::Dead => self.bury(state, working.row),
            End::Retry | End::HandBack => false,
        };
        match self.mistake {
            Some(Mistake::ReleaseApart) if end.is_final() => return true,
            Some(Mistake::ReleaseAtRetry) if end == End::Retry => self.release_another(state, working.row),
            _ if end.is_final() => self.release(state, working.row),
            _ => {}
        }
        false
    }

    /// By mistake: what belongs to the first transaction.
    pub(super) fn second_half(&self, state: &mut State, node: usize, worker: usize) -> Option<()> {
        let Worker { row, phase: Phase::Half(_), .. } = state.nodes[node].workers[worker] else { return None };
        state.nodes[node].workers.remove(worker);
        if self.mistake == Some(Mistake::LetterApart) {
            self.bury(state, row);
        } else {
            self.release(state, row);
        }
        Some(())
    }

    fn bury(&self, state: &mut State, row: usize) -> bool {
        if self.topic {
            state.outbox.insert(row);
        }
        state.dead.insert(row)
    }

    /// Somebody cancels an event: one that nobody works on ends here, who works on another may heed it.
    pub(super) fn cancel(&self, state: &mut State, row: usize) -> Option<()> {
        spend(&mut state.left.cancels)?;
        let wanted = state.queue[row].as_mut()?;
        if wanted.claim.is_some() {
            return (!std::mem::replace(&mut wanted.cancel, true)).then_some(());
        }
        state.queue[row] = None;
        state.cancelled.insert(row);
        self.release(state, row);
        Some(())
    }

    /// The first row of the key is nobody's next.
    fn release(&self, state: &mut State, row: usize) {
        let first = self.rows_of_key(state, row).next();
        if let Some(first) = first.and_then(|first| state.queue[first].as_mut()) {
            first.blocked = false;
        }
    }

    /// By mistake: the first row of the key that waits for another.
    fn release_another(&self, state: &mut State, row: usize) {
        let next = self.rows_of_key(state, row).find(|next| state.queue[*next].as_ref().is_some_and(|row| row.blocked));
        if let Some(next) = next.and_then(|next| state.queue[next].as_mut()) {
            next.blocked = false;
        }
    }

    /// Rows in the queue with the key of `row`, in the order of their acceptance.
    fn rows_of_key<'s>(&'s self, state: &'s State, row: usize) -> impl Iterator<Item = usize> + 's {
        let is_of_key = move |other: &usize| self.keys[row].is_some() && self.keys[*other] == self.keys[row];
        state.order.iter().copied().filter(is_of_key).filter(|other| state.queue[*other].is_some())
    }

    fn has_rows_of_key(&self, state: &State, row: usize) -> bool {
        self.rows_of_key(state, row).next().is_some()
    }

    /// The bus takes a message.
    pub(super) fn publish(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        let on_the_way = &mut state.nodes[node].on_the_way;
        let publishes = if self.mistake == Some(Mistake::RemovedFirst) {
            on_the_way.remove(row)
        } else {
            state.outbox.contains(row) && on_the_way.insert(row)
        };
        publishes.then(|| {
            state.published.insert(row);
        })
    }

    /// A message is removed from the outbox.
    pub(super) fn remove(&self, state: &mut State, node: usize, row: usize) -> Option<()> {
        let on_the_way = &mut state.nodes[node].on_the_way;
        if self.mistake == Some(Mistake::RemovedFirst) {
            state.outbox.remove(row).then_some(())?;
            on_the_way.insert(row);
        } else {
            on_the_way.remove(row).then_some(())?;
            // Another node may have removed it.
            state.outbox.remove(row);
        }
        Some(())
    }

    /// A node loses its memory and begins anew.
    pub(super) fn crash(&self, state: &mut State, node: usize) -> Option<()> {
        spend(&mut state.left.crashes)?;
        let Node { ahead, .. } = state.nodes[node];
        let empty =
            Node { ahead, workers: Vec::new(), in_hand: Set::default(), on_the_way: Set::default(), looked: None };
        (std::mem::replace(&mut state.nodes[node], empty.clone()) != empty).then_some(())
    }

    /// Time goes on: there is less left of every lease and wait.
    pub(super) fn tick(&self, state: &mut State) -> Option<()> {
        let (first, last) = (state.earliest_clock(), state.latest_clock());
        let expiring = state.nodes.iter().flat_map(|node| &node.workers);
        // The first clock by which the lease has run out is the one that is furthest ahead.
        let expiring = expiring.filter(|worker| worker.lease == last && state.holds(worker)).count();
        for _ in 0..expiring {
            spend(&mut state.left.expiries)?;
        }
        let mut passed = false;
        // Where it makes no difference to any clock any more, it is not counted further.
        let mut pass = |left: &mut i8, floor: i8| {
            passed |= *left > floor;
            *left = (*left - 1).max(floor);
        };
        for row in state.queue.iter_mut().flatten() {
            pass(&mut row.wait, first);
            if let Some(claim) = &mut row.claim {
                pass(&mut claim.lease, first - 1);
            }
        }
        for worker in state.nodes.iter_mut().flat_map(|node| &mut node.workers) {
            pass(&mut worker.lease, first - 1);
        }
        passed.then_some(())
    }
}

impl State {
    fn insert(&mut self, row: usize, blocked: bool, run_at: i8) {
        self.accepted.insert(row);
        self.order.push(row);
        self.queue[row] = Some(Row { attempt: 1, wait: run_at, claim: None, blocked, cancel: false });
    }

    fn is_in_hand(&self, row: usize) -> bool {
        self.nodes.iter().any(|node| node.in_hand.contains(row))
    }

    /// Whether the row is this worker's.
    fn holds(&self, worker: &Worker) -> bool {
        let claim = self.queue[worker.row].as_ref().and_then(|row| row.claim);
        claim.is_some_and(|claim| claim.token == worker.token)
    }

    /// A token that nobody knows. One that everybody has forgotten is as good as one that never was, and keeps the
    /// number of states finite.
    fn unused_token(&self, row: usize) -> u8 {
        let known = self.nodes.iter().flat_map(|node| &node.workers).filter(|worker| worker.row == row);
        let held = self.queue[row].as_ref().and_then(|row| row.claim).map(|claim| claim.token);
        let known: Vec<u8> = known.map(|worker| worker.token).chain(held).collect();
        (0..=u8::MAX).find(|token| !known.contains(token)).expect("there is room for fewer")
    }

    fn earliest_clock(&self) -> i8 {
        self.nodes.iter().map(|node| node.ahead).min().expect("there are nodes")
    }

    fn latest_clock(&self) -> i8 {
        self.nodes.iter().map(|node| node.ahead).max().expect("there are nodes")
    }
}

/// One of what may go wrong has.
fn spend(budget: &mut u8) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}
