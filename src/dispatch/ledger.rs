//! What was counted, by function and trigger.
//!
//! The ledger itself is in the store: what goes through the queue is counted there by the transactions that move it.
//! What never touches the queue (an inline event that ended well, one that was turned away) is counted here and added
//! to the store once a second, accepted and ended together: a crash in between forgets both, so that nothing is ever
//! accepted there and nowhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use trigger_core::{Binding, DeadReason, FailureCode, Shed, SkipReason};

use crate::store::Tally;

/// How events ended.
#[derive(Debug, Default)]
pub struct Outcomes {
    ok: AtomicU64,
    cancelled: AtomicU64,
    failed: [AtomicU64; FailureCode::ALL.len()],
    dead: [AtomicU64; DeadReason::ALL.len()],
    skipped: [AtomicU64; SkipReason::ALL.len()],
    shed: [AtomicU64; Shed::ALL.len()],
}

/// A count: how events ended, the word of the reason or code, how many.
type Count = (&'static str, Option<&'static str>, u64);

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Outcomes {
    pub(super) fn ok(&self) {
        add(&self.ok, 1);
    }

    pub(super) fn cancelled(&self) {
        add(&self.cancelled, 1);
    }

    pub(super) fn failed(&self, code: FailureCode) {
        add(&self.failed[code as usize], 1);
    }

    pub(super) fn dead(&self, reason: DeadReason) {
        add(&self.dead[reason as usize], 1);
    }

    pub(super) fn skipped(&self, reason: SkipReason) {
        self.skipped_many(reason, 1);
    }

    pub(super) fn skipped_many(&self, reason: SkipReason, events: u64) {
        add(&self.skipped[reason as usize], events);
    }

    pub(super) fn shed(&self, reason: Shed, events: u64) {
        add(&self.shed[reason as usize], events);
    }

    /// Every count that is not zero.
    fn read(&self) -> Vec<Count> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts: Vec<Count> = vec![("ok", None, value(&self.ok)), ("cancelled", None, value(&self.cancelled))];
        let mut each = |name, counters: &[AtomicU64], word: &dyn Fn(usize) -> &'static str| {
            counts
                .extend(counters.iter().enumerate().map(|(index, counter)| (name, Some(word(index)), value(counter))));
        };
        each("failed", &self.failed, &|index| FailureCode::ALL[index].as_str());
        each("dead", &self.dead, &|index| DeadReason::ALL[index].as_str());
        each("skipped", &self.skipped, &|index| SkipReason::ALL[index].as_str());
        each("shed", &self.shed, &|index| Shed::ALL[index].as_str());
        counts.retain(|(_, _, count)| *count > 0);
        counts
    }
}

/// Counts of one trigger since the engine started.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    /// Times in which nobody listened to the source: no events, so no part of the ledger.
    gaps: AtomicU64,
    retries: [AtomicU64; FailureCode::ALL.len()],
    /// Ended, and the store does not know of it yet.
    pub(super) told: Outcomes,
    /// Ended, and counted by the transaction that ended it.
    pub(super) kept: Outcomes,
    /// Not ended: whoever brought the event has it still and brings it again.
    pub(super) returned: Outcomes,
}

impl Counters {
    pub(super) fn accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn accepted_many(&self, events: u64) {
        add(&self.accepted, events);
    }

    pub(super) fn gap(&self) {
        add(&self.gaps, 1);
    }

    /// How often nobody listened to a source that repeats nothing.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    pub(super) fn retry(&self, code: FailureCode) {
        add(&self.retries[code as usize], 1);
    }

    /// Every count that is not zero: its name, the word of its reason or code, the count.
    pub fn read(&self) -> Vec<Count> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = vec![("accepted", None, value(&self.accepted))];
        for code in FailureCode::ALL {
            counts.push(("retries", Some(code.as_str()), value(&self.retries[*code as usize])));
        }
        for (name, reason, count) in
            [&self.told, &self.kept, &self.returned].into_iter().flat_map(|outcomes| outcomes.read())
        {
            match counts.iter_mut().find(|(known, of, _)| (*known, *of) == (name, reason)) {
                Some((_, _, sum)) => *sum += count,
                None => counts.push((name, reason, count)),
            }
        }
        counts.retain(|(_, _, count)| *count > 0);
        counts
    }

    /// One count, summed over its reasons or codes.
    pub fn sum(&self, name: &str) -> u64 {
        self.read().iter().filter(|(found, _, _)| *found == name).map(|(_, _, count)| count).sum()
    }
}

/// What the store was told of: a count by trigger, outcome and reason.
type Told = HashMap<(Arc<Binding>, &'static str, Option<&'static str>), u64>;

/// The counters of every trigger.
#[derive(Debug, Default)]
pub struct Ledger {
    triggers: DashMap<Binding, Arc<Counters>>,
    told: Mutex<Told>,
}

impl Ledger {
    /// The counters of a trigger.
    pub fn counters(&self, binding: &Binding) -> Arc<Counters> {
        if let Some(counters) = self.triggers.get(binding).map(|entry| entry.value().clone()) {
            return counters;
        }
        self.triggers.entry(binding.clone()).or_default().value().clone()
    }

    /// Every trigger that was ever counted, in order of its path.
    pub fn all(&self) -> Vec<(Binding, Arc<Counters>)> {
        let mut all: Vec<_> = self.triggers.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        all.sort_by_key(|(binding, _)| binding.path());
        all
    }

    /// What the store has not been told of yet.
    pub(super) fn untold(&self) -> Vec<Tally> {
        let told = self.told.lock();
        let mut tallies = Vec::new();
        for entry in &self.triggers {
            for (outcome, reason, count) in entry.value().told.read() {
                let binding = Arc::new(entry.key().clone());
                let before = told.get(&(binding.clone(), outcome, reason)).copied().unwrap_or(0);
                if count > before {
                    tallies.push(Tally { binding, outcome, reason, count: count - before });
                }
            }
        }
        tallies
    }

    /// The store has these now.
    pub(super) fn tell(&self, tallies: &[Tally]) {
        let mut told = self.told.lock();
        for tally in tallies {
            *told.entry((tally.binding.clone(), tally.outcome, tally.reason)).or_default() += tally.count;
        }
    }
}
