//! What was counted, by function and trigger. The counts are exact whatever becomes of records and rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use trigger_core::{Binding, DeadReason, FailureCode, Shed, SkipReason};

/// Counts of one trigger since the engine started.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    ok: AtomicU64,
    cancelled: AtomicU64,
    failed: [AtomicU64; FailureCode::ALL.len()],
    retries: [AtomicU64; FailureCode::ALL.len()],
    dead: [AtomicU64; DeadReason::ALL.len()],
    skipped: [AtomicU64; SkipReason::ALL.len()],
    shed: [AtomicU64; Shed::ALL.len()],
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn accepted_many(&self, events: u64) {
        add(&self.accepted, events);
    }

    pub(super) fn ok(&self) {
        add(&self.ok, 1);
    }

    pub(super) fn cancelled(&self) {
        add(&self.cancelled, 1);
    }

    pub(super) fn failed(&self, code: FailureCode) {
        add(&self.failed[code as usize], 1);
    }

    pub(super) fn retry(&self, code: FailureCode) {
        add(&self.retries[code as usize], 1);
    }

    pub(super) fn dead(&self, reason: DeadReason) {
        add(&self.dead[reason as usize], 1);
    }

    pub(super) fn skipped(&self, reason: SkipReason) {
        add(&self.skipped[reason as usize], 1);
    }

    pub(super) fn shed(&self, reason: Shed, events: u64) {
        add(&self.shed[reason as usize], events);
    }

    /// Every count that is not zero: its name, the word of its reason or code, the count.
    pub fn read(&self) -> Vec<(&'static str, Option<&'static str>, u64)> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = vec![
            ("accepted", None, value(&self.accepted)),
            ("ok", None, value(&self.ok)),
            ("cancelled", None, value(&self.cancelled)),
        ];
        for code in FailureCode::ALL {
            counts.push(("failed", Some(code.as_str()), value(&self.failed[*code as usize])));
            counts.push(("retries", Some(code.as_str()), value(&self.retries[*code as usize])));
        }
        counts.extend(
            DeadReason::ALL.iter().map(|reason| ("dead", Some(reason.as_str()), value(&self.dead[*reason as usize]))),
        );
        counts.extend(
            SkipReason::ALL
                .iter()
                .map(|reason| ("skipped", Some(reason.as_str()), value(&self.skipped[*reason as usize]))),
        );
        counts.extend(
            Shed::ALL.iter().map(|reason| ("shed", Some(reason.as_str()), value(&self.shed[*reason as usize]))),
        );
        counts.retain(|(_, _, count)| *count > 0);
        counts
    }

    /// One count, summed over its reasons or codes.
    pub fn sum(&self, name: &str) -> u64 {
        self.read().iter().filter(|(found, _, _)| *found == name).map(|(_, _, count)| count).sum()
    }
}

/// The counters of every trigger.
#[derive(Debug, Default)]
pub struct Ledger {
    triggers: DashMap<Binding, Arc<Counters>>,
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
}
