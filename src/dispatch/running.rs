//! One attempt's account: whatever becomes of it, it ends in one record and one count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use trigger_core::clock::Busy;
use trigger_core::{Answer, Custody, DeadReason, Failure, InvocationContext, Response, Shed, SkipReason};

use super::ledger::{Counters, Outcomes};
use super::retry::Decision;
use super::{Dispatcher, RETRY_AFTER};
use crate::executor::Effects;
use crate::functions::Version;
use crate::store::{self, FailedAttempt};
use crate::traces::{Failed, Outcome, Phases, Record};

/// An invocation under way: whatever becomes of it, it leaves one record and one count.
///
/// Every ending consumes it. Dropped without one (the caller went away and took the future with it), it ends as
/// cancelled.
pub(super) struct Running<'a> {
    pub(super) dispatcher: &'a Dispatcher,
    pub(super) counters: Arc<Counters>,
    pub(super) invocation: InvocationContext,
    /// Whether a row of the queue stands behind it.
    pub(super) queued: bool,
    pub(super) version: Option<Arc<Version>>,
    /// When whoever waits for it must have its answer, where that is known.
    pub(super) deadline: Option<Instant>,
    pub(super) wait: Duration,
    pub(super) load: Duration,
    pub(super) instantiate: Duration,
    pub(super) run: Duration,
    pub(super) settle_began: Option<Instant>,
    pub(super) cpu: Duration,
    pub(super) fuel_used: Option<u64>,
    pub(super) memory_peak_bytes: u64,
    pub(super) effects: Effects,
    pub(super) detail: Option<Box<crate::executor::Detail>>,
    pub(super) ended: bool,
    /// Whether it was put in the queue instead of being run to its end.
    pub(super) kept: bool,
    /// Where the attempt probes a function that failed: how long it is until the next one that does.
    pub(super) probe: Option<Duration>,
    /// A virtual clock stands still meanwhile.
    busy: Busy,
}

impl<'a> Running<'a> {
    pub(super) fn new(dispatcher: &'a Dispatcher, counters: Arc<Counters>, invocation: InvocationContext) -> Self {
        counters.accepted();
        Self::begin(dispatcher, counters, invocation)
    }

    fn begin(dispatcher: &'a Dispatcher, counters: Arc<Counters>, invocation: InvocationContext) -> Self {
        let busy = Self::busy(dispatcher, &invocation);
        Self {
            dispatcher,
            counters,
            invocation,
            queued: false,
            version: None,
            deadline: None,
            wait: Duration::ZERO,
            load: Duration::ZERO,
            instantiate: Duration::ZERO,
            run: Duration::ZERO,
            settle_began: None,
            cpu: Duration::ZERO,
            fuel_used: None,
            memory_peak_bytes: 0,
            effects: Effects::default(),
            detail: None,
            ended: false,
            kept: false,
            probe: None,
            busy,
        }
    }

    fn busy(dispatcher: &Dispatcher, invocation: &InvocationContext) -> Busy {
        dispatcher.clock.busy(|| format!("an attempt of {}", invocation.binding.path()))
    }

    /// Nothing is under way for the time being.
    pub(super) fn idle(&mut self) {
        self.busy = Busy::default();
    }

    /// Something is again: what is measured begins here.
    pub(super) fn resume(&mut self) {
        self.busy = Self::busy(self.dispatcher, &self.invocation);
        self.invocation.received = Instant::now();
    }

    /// One that comes from a row: it was counted when it was accepted.
    pub(super) fn from_row(dispatcher: &'a Dispatcher, counters: Arc<Counters>, invocation: InvocationContext) -> Self {
        let mut running = Self::begin(dispatcher, counters, invocation);
        running.queued = true;
        running
    }

    pub(super) fn failed_attempt(&self, failure: &Failure, decision: Decision) -> FailedAttempt {
        let duration = self.load + self.instantiate + self.run;
        FailedAttempt {
            number: self.invocation.attempt,
            version: self.version.as_ref().map_or(0, |version| version.number),
            started_at: self.dispatcher.clock.ago(duration),
            duration_ms: duration.as_millis() as u64,
            failure: failure.clone(),
            retry_delay_ms: match decision {
                Decision::Retry(delay) => Some(delay.as_millis() as u64),
                Decision::Dead(_) => None,
            },
        }
    }

    /// Where its end is counted: by the store's own transaction, here, or nowhere because its source has it still.
    fn outcomes(&self) -> &Outcomes {
        if self.queued { &self.counters.kept } else { &self.counters.told }
    }

    /// The same for an end that leaves the event where it came from, if somebody has it there.
    fn outcomes_of_returned(&self) -> &Outcomes {
        // A row that was handed back is there still; so is what was kept instead of being run.
        let returned = self.queued || self.kept || self.invocation.custody == Custody::Source;
        if returned { &self.counters.returned } else { &self.counters.told }
    }

    pub(super) fn ok(mut self, response: Response) -> Answer {
        self.outcomes().ok();
        self.end(Outcome::Ok, response.body.len() as u64, None);
        Answer::Ok(response)
    }

    pub(super) fn failed(mut self, failure: Failure) -> Answer {
        self.outcomes().failed(failure.code);
        self.end(Outcome::Failed, 0, Some((failure.clone(), None)));
        Answer::Failed(failure)
    }

    pub(super) fn dead(mut self, reason: DeadReason, failure: Failure) -> Answer {
        // Dead letters are counted where they are kept.
        self.counters.kept.dead(reason);
        self.end(Outcome::Dead(reason), 0, Some((failure.clone(), None)));
        Answer::Dead { reason, failure }
    }

    /// It failed and will be tried again: the invocation has not ended, its attempt has.
    pub(super) fn retry(mut self, delay: Duration, failure: Failure) {
        self.counters.retry(failure.code);
        self.end(Outcome::Retry, 0, Some((failure, Some(delay))));
    }

    /// It failed and its caller waits for the next attempt, which this becomes: whatever happens from here on ends that.
    pub(super) fn next_attempt(self, delay: Duration, failure: Failure) -> Self {
        let mut next = Self::begin(self.dispatcher, self.counters.clone(), self.invocation.clone());
        next.version.clone_from(&self.version);
        next.invocation.attempt += 1;
        self.retry(delay, failure);
        next
    }

    pub(super) fn shed(self, reason: Shed) -> Answer {
        self.shed_for(reason, RETRY_AFTER)
    }

    /// The same where it is known when to come back.
    pub(super) fn shed_for(mut self, reason: Shed, retry_after: Duration) -> Answer {
        self.outcomes_of_returned().shed(reason, 1);
        self.end(Outcome::Shed(reason), 0, None);
        Answer::Shed { reason, retry_after }
    }

    pub(super) fn skipped(mut self, reason: SkipReason) -> Answer {
        self.outcomes().skipped(reason);
        self.end(Outcome::Skipped(reason), 0, None);
        Answer::Skipped(reason)
    }

    pub(super) fn cancelled(mut self) -> Answer {
        self.outcomes_of_returned().cancelled();
        self.end(Outcome::Cancelled, 0, None);
        Answer::Cancelled
    }

    pub(super) fn store_unavailable(self, error: &store::Error) -> Answer {
        tracing::warn!(invocation = %self.invocation.invocation_id, "an event was turned away: {error}");
        self.shed(Shed::StoreUnavailable)
    }

    /// Writes the record. The invocation gives it what is its own, since nobody needs that any more.
    fn end(&mut self, outcome: Outcome, output_bytes: u64, failed: Option<(Failure, Option<Duration>)>) {
        self.ended = true;
        let total = self.invocation.received.elapsed();
        let settle = self.settle_began.map_or(Duration::ZERO, |began| began.elapsed());
        let ran = self.load + self.instantiate + self.run;
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let phases = Phases {
            // Nothing was settled: what is neither load nor guest was the way to the slot.
            wait: nanos(self.wait.max(total.saturating_sub(ran + settle))),
            load: nanos(self.load),
            instantiate: nanos(self.instantiate),
            run: nanos(self.run),
            settle: nanos(settle),
        };
        let invocation = &mut self.invocation;
        let record = Record {
            invocation_id: invocation.invocation_id,
            binding: invocation.binding.clone(),
            version: self.version.take(),
            attempt: invocation.attempt,
            depth: invocation.depth,
            parent: invocation.parent,
            trace_id: invocation.trace.trace_id,
            span_id: invocation.trace.span_id,
            parent_span: invocation.trace.parent_span,
            // A row, or a caller that waits, was received long before the attempt that it stands for now.
            started_at: match self.queued || invocation.attempt > 1 {
                true => self.dispatcher.clock.ago(total),
                false => invocation.received_at,
            },
            phases,
            outcome,
            input_bytes: invocation.payload.len() as u64,
            output_bytes,
            cpu: self.cpu.as_nanos() as u64,
            fuel_used: self.fuel_used,
            memory_peak_bytes: self.memory_peak_bytes,
            request_id: invocation.request_id.take(),
            caller: invocation.caller.take(),
            subject: std::mem::take(&mut invocation.subject),
            failed: failed.map(|(failure, delay)| {
                let retry_delay_ms = delay.map(|delay| delay.as_millis() as u64);
                Box::new(Failed { failure, retry_delay_ms })
            }),
            detail: self.detail.take(),
        };
        crate::telemetry::attempt_ended(&record);
        self.dispatcher.ring.push(record);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.outcomes_of_returned().cancelled();
            self.end(Outcome::Cancelled, 0, None);
        }
    }
}
