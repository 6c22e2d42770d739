//! The newest records in memory.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use uuid::Uuid;

use super::{Outcome, Record};

/// How many positions a function's own list and the list of errors hold.
const INDEX_LENGTH: usize = 1024;

/// A bounded ring of records, with lists by function and of errors beside it.
///
/// A record's sequence number never changes, so the lists hold numbers, and a number that the ring has overwritten is
/// simply no longer found. Reading costs what is asked for, not what the ring holds.
pub struct Ring {
    inner: Mutex<Inner>,
}

struct Inner {
    /// Records by sequence number modulo capacity.
    slots: Vec<Record>,
    capacity: usize,
    /// Sequence number of the next record.
    next: u64,
    by_function: HashMap<Box<str>, VecDeque<u64>>,
    errors: VecDeque<u64>,
}

impl Inner {
    fn oldest(&self) -> u64 {
        self.next.saturating_sub(self.capacity as u64)
    }

    fn get(&self, sequence: u64) -> Option<&Record> {
        (sequence >= self.oldest() && sequence < self.next)
            .then(|| &self.slots[(sequence % self.capacity as u64) as usize])
    }
}

fn remember(list: &mut VecDeque<u64>, sequence: u64) {
    if list.len() == INDEX_LENGTH {
        list.pop_front();
    }
    list.push_back(sequence);
}

/// What a reader with a cursor got.
pub struct Page {
    /// The records that passed the reader's choice.
    pub records: Vec<Record>,
    /// Where to go on.
    pub cursor: u64,
    /// Records that were overwritten before the reader came by.
    pub overrun: u64,
    /// Records that the reader's choice left out.
    pub left_out: u64,
    /// Whether the reader has seen everything.
    pub caught_up: bool,
}

impl Ring {
    /// A ring for this many records, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                slots: Vec::new(),
                capacity: capacity.max(1),
                next: 0,
                by_function: HashMap::new(),
                errors: VecDeque::new(),
            }),
        }
    }

    /// Adds a record, in place of the oldest once the ring is full.
    pub fn push(&self, record: Record) {
        let replaced;
        {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            let sequence = inner.next;
            match inner.by_function.get_mut(&*record.binding.function_name) {
                Some(list) => remember(list, sequence),
                None => {
                    inner.by_function.insert(record.binding.function_name.clone(), VecDeque::from([sequence]));
                }
            }
            if !matches!(record.outcome, Outcome::Ok | Outcome::Skipped(_)) {
                remember(&mut inner.errors, sequence);
            }
            inner.next += 1;
            if inner.slots.len() < inner.capacity {
                inner.slots.push(record);
                return;
            }
            let slot = &mut inner.slots[(sequence % inner.capacity as u64) as usize];
            replaced = std::mem::replace(slot, record);
        }
        // Freed outside the lock.
        drop(replaced);
    }

    /// The newest records, newest first.
    pub fn recent(&self, limit: usize) -> Vec<Record> {
        let inner = self.inner.lock();
        (inner.oldest()..inner.next).rev().take(limit).filter_map(|sequence| inner.get(sequence).cloned()).collect()
    }

    /// The newest records of a function, newest first.
    pub fn by_function(&self, function_name: &str, limit: usize) -> Vec<Record> {
        let inner = self.inner.lock();
        let Some(list) = inner.by_function.get(function_name) else { return Vec::new() };
        list.iter().rev().map_while(|&sequence| inner.get(sequence)).take(limit).cloned().collect()
    }

    /// The newest records that did not end well, newest first.
    pub fn errors(&self, limit: usize) -> Vec<Record> {
        let inner = self.inner.lock();
        inner.errors.iter().rev().map_while(|&sequence| inner.get(sequence)).take(limit).cloned().collect()
    }

    /// Every attempt of an invocation that is still in the ring, oldest first. Looks at the whole ring.
    pub fn invocation(&self, invocation_id: Uuid) -> Vec<Record> {
        let inner = self.inner.lock();
        (inner.oldest()..inner.next)
            .filter_map(|sequence| inner.get(sequence))
            .filter(|record| record.invocation_id == invocation_id)
            .cloned()
            .collect()
    }

    /// Reads on from a cursor: looks at up to `limit` records and keeps those that `choose` wants.
    pub fn read_from(&self, cursor: u64, limit: usize, mut choose: impl FnMut(&Record) -> bool) -> Page {
        let inner = self.inner.lock();
        let start = cursor.max(inner.oldest());
        let end = inner.next.min(start + limit as u64);
        let mut records = Vec::new();
        let mut left_out = 0;
        for sequence in start..end {
            match inner.get(sequence) {
                Some(record) if choose(record) => records.push(record.clone()),
                _ => left_out += 1,
            }
        }
        Page { records, cursor: end, overrun: start - cursor, left_out, caught_up: end == inner.next }
    }

    /// How many records were ever added.
    pub fn total(&self) -> u64 {
        self.inner.lock().next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trigger_core::{Binding, DeadReason, Kind};

    use super::*;
    use crate::traces::Phases;

    fn record(function: &str, outcome: Outcome) -> Record {
        Record {
            invocation_id: Uuid::now_v7(),
            binding: Arc::new(Binding {
                namespace: "default".into(),
                function_name: function.into(),
                trigger_id: "t".into(),
                trigger_type: Kind::Http,
            }),
            version: None,
            attempt: 1,
            depth: 0,
            parent: None,
            trace_id: 1,
            span_id: 1,
            parent_span: 0,
            started_at: chrono::Utc::now(),
            phases: Phases::default(),
            outcome,
            input_bytes: 0,
            output_bytes: 0,
            cpu: 0,
            fuel_used: None,
            memory_peak_bytes: 0,
            request_id: None,
            caller: None,
            subject: Box::default(),
            failed: None,
            detail: None,
        }
    }

    #[test]
    fn the_newest_records_are_kept_and_listed_newest_first() {
        let ring = Ring::new(4);
        let ids: Vec<Uuid> = (0..6)
            .map(|n| {
                let outcome = if n % 2 == 0 { Outcome::Ok } else { Outcome::Dead(DeadReason::Permanent) };
                let record = record(if n < 5 { "a" } else { "b" }, outcome);
                let id = record.invocation_id;
                ring.push(record);
                id
            })
            .collect();
        let listed = |records: Vec<Record>| records.iter().map(|record| record.invocation_id).collect::<Vec<_>>();
        assert_eq!(listed(ring.recent(10)), [ids[5], ids[4], ids[3], ids[2]]);
        assert_eq!(listed(ring.recent(2)), [ids[5], ids[4]]);
        assert_eq!(listed(ring.by_function("a", 10)), [ids[4], ids[3], ids[2]]);
        assert_eq!(listed(ring.errors(10)), [ids[5], ids[3]]);
        assert_eq!(listed(ring.invocation(ids[3])), [ids[3]]);
        assert!(ring.invocation(ids[0]).is_empty());
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let ring = Ring::new(4);
        for _ in 0..10 {
            ring.push(record("a", Outcome::Ok));
        }
        let page = ring.read_from(0, 3, |_| true);
        assert_eq!((page.overrun, page.records.len(), page.caught_up), (6, 3, false));
        let page = ring.read_from(page.cursor, 3, |_| false);
        assert_eq!((page.overrun, page.left_out, page.caught_up), (0, 1, true));
    }
}
