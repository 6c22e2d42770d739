//! Events that their source holds until their outcome: told, asked of the source again, or kept as a row.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use trigger_core::{Answer, Custody, DeadReason, Failure, FailureCode, InvocationContext, Shed, SkipReason};

use super::breaker::Open;
use super::retry::Decision;
use super::running::Running;
use super::{Dispatcher, decide, log_store, needs_caller, slots};
use crate::store::{self, FailedAttempt, QueuedInvocation};

impl Dispatcher {
    /// What seldom happens is boxed here: its futures would make this one, which every event allocates, several times
    /// as large.
    pub(super) async fn dispatch_inline(&self, invocation: InvocationContext) -> Answer {
        let target = self.target(&invocation.binding);
        let mut running = Running::new(self, target.counters, invocation);
        if self.draining.is_cancelled() {
            return running.shed(Shed::ShuttingDown);
        }
        let Some(route) = target.route else {
            return running.skipped(SkipReason::Disabled);
        };
        if let Some(demands) = &target.demands {
            if !demands.matches(&running.invocation) {
                return running.skipped(SkipReason::Filtered);
            }
            if let Err(failure) = demands.judge(&running.invocation) {
                return Box::pin(self.refuse(running, DeadReason::Permanent, failure)).await;
            }
        }
        if running.invocation.depth > self.settings.max_depth {
            let failure = self.too_deep(&running.invocation);
            return Box::pin(self.refuse(running, DeadReason::DepthExceeded, failure)).await;
        }
        let slot = match self.slots.try_acquire(&route.slots) {
            Some(slot) => slot,
            None => {
                let waited_since = Instant::now();
                match Box::pin(self.slots.acquire(&route.slots)).await {
                    Ok(slot) => {
                        running.wait = waited_since.elapsed();
                        slot
                    }
                    Err(slots::Full) => return running.shed(Shed::Overload),
                }
            }
        };
        let version = route.version.load_full();
        if !version.definition.is_public && needs_caller(&running.invocation) {
            return running.shed(Shed::Forbidden);
        }
        let mut tried = Vec::new();
        if running.invocation.custody == Custody::Source && running.invocation.attempt > 1 {
            // The source counts deliveries, which crashes and shutdowns raise too; failed attempts are ours to count.
            match self.store.remembered_attempts(running.invocation.invocation_id).await {
                Ok(remembered) => tried = remembered,
                Err(error) => return running.store_unavailable(&error),
            }
            running.invocation.attempt = tried.len() as u32 + 1;
        }
        running.version = Some(version);
        let pass = match route.breaker.enter(self.now()) {
            Ok(pass) => pass,
            Err(open) => return Box::pin(self.spool(running, open)).await,
        };
        let attempt = self.attempt(&mut running, (slot, pass), None).await;
        match attempt {
            None => Box::pin(self.cut_inline(running)).await,
            Some(Ok(response)) => {
                if !tried.is_empty() {
                    let forgotten = self.store.forget_attempts(running.invocation.invocation_id).await;
                    log_store("forget attempts", forgotten);
                }
                running.ok(response)
            }
            Some(Err(failure)) => Box::pin(self.failed_inline(running, failure, tried)).await,
        }
    }

    async fn failed_inline(&self, mut running: Running<'_>, failure: Failure, mut tried: Vec<FailedAttempt>) -> Answer {
        running.settle_began.get_or_insert_with(Instant::now);
        let custody = running.invocation.custody;
        if custody == Custody::Caller {
            return self.retry_meanwhile(running, failure).await;
        }
        if let Some(rest) = running.probe.filter(|_| failure.retryable) {
            return self.probed_inline(running, failure, rest).await;
        }
        let version = running.version.clone().expect("an attempt was made");
        let first_seen = tried.first().map_or(running.invocation.received_at, |first| first.started_at);
        let decision = decide(&version, &running.invocation, first_seen, self.now(), &failure);
        let this = running.failed_attempt(&failure, decision);
        match decision {
            Decision::Dead(reason) => {
                tried.push(this);
                let dead = self.dead_letter(running.invocation.clone(), Some(&version), tried, reason, &failure, 0);
                match self.bury(dead, custody).await {
                    Ok(()) => running.dead(reason, failure),
                    Err(error) => running.store_unavailable(&error),
                }
            }
            Decision::Retry(delay) if custody == Custody::Source => {
                let id = running.invocation.invocation_id;
                log_store("remember an attempt", self.store.remember_attempt(id, this).await);
                running.retry(delay, failure.clone());
                Answer::Retry { after: delay, failure }
            }
            Decision::Retry(delay) => {
                tried.push(this);
                let mut invocation = running.invocation.clone();
                invocation.version = Some(version.number);
                invocation.attempt += 1;
                let run_at = self.clock.after(delay);
                let queued = QueuedInvocation { invocation, run_at, attempts: tried, redrive_count: 0 };
                match self.keep(queued).await {
                    Ok(()) => {
                        running.retry(delay, failure.clone());
                        Answer::Kept(failure)
                    }
                    Err(error) => running.store_unavailable(&error),
                }
            }
        }
    }

    /// The function does not work yet. That says nothing of the event, which has used up no attempt.
    async fn probed_inline(&self, running: Running<'_>, failure: Failure, rest: Duration) -> Answer {
        if running.invocation.custody == Custody::Source {
            running.retry(rest, failure.clone());
            return Answer::Retry { after: rest, failure };
        }
        match self.keep(untried(&running, self.clock.after(rest))).await {
            Ok(()) => {
                running.retry(rest, failure.clone());
                Answer::Kept(failure)
            }
            Err(error) => running.store_unavailable(&error),
        }
    }

    /// The function is left alone for now. Callers and sources are told when to come back; what nobody else has is kept.
    async fn spool(&self, mut running: Running<'_>, open: Open) -> Answer {
        let wait = open.wait(self.now());
        if running.invocation.custody != Custody::Engine {
            return running.shed_for(Shed::CircuitOpen, wait);
        }
        match self.keep(untried(&running, open.until)).await {
            Ok(()) => {
                running.kept = true;
                running.shed_for(Shed::CircuitOpen, wait);
                let failure = Failure::new(FailureCode::HostError, Shed::CircuitOpen.detail());
                Answer::Kept(Failure { retry_after: Some(wait), ..failure })
            }
            Err(error) => running.store_unavailable(&error),
        }
    }

    /// A caller that waits is told of the failure, unless its trigger asked for retries meanwhile: then it is told of
    /// the first success, or of the last failure that there was time for. Between attempts no slot is held.
    async fn retry_meanwhile<'a>(&'a self, mut running: Running<'a>, mut failure: Failure) -> Answer {
        loop {
            let Some((delay, until)) = self.delay_meanwhile(&running, &failure) else {
                return running.failed(failure);
            };
            running = running.next_attempt(delay, failure);
            if !self.rest(&mut running, until).await {
                return running.shed(Shed::ShuttingDown);
            }
            let Some(route) = self.target(&running.invocation.binding).route else {
                return running.skipped(SkipReason::Disabled);
            };
            let waited_since = Instant::now();
            let Ok(slot) = self.slots.acquire(&route.slots).await else { return running.shed(Shed::Overload) };
            running.wait = waited_since.elapsed();
            let Ok(pass) = route.breaker.enter(self.now()) else { return running.shed(Shed::CircuitOpen) };
            failure = match self.attempt(&mut running, (slot, pass), None).await {
                None => return self.cut_inline(running).await,
                Some(Ok(response)) => return running.ok(response),
                Some(Err(failure)) => failure,
            };
            running.settle_began.get_or_insert_with(Instant::now);
        }
    }

    /// How long to wait for the next attempt, and until when, if there is to be one.
    fn delay_meanwhile(&self, running: &Running<'_>, failure: &Failure) -> Option<(Duration, DateTime<Utc>)> {
        let (invocation, version) = (&running.invocation, running.version.as_ref()?);
        let terms = invocation.terms.as_ref()?;
        terms.retry_count?;
        let Decision::Retry(delay) = decide(version, invocation, invocation.received_at, self.now(), failure) else {
            return None;
        };
        let until = self.clock.after(delay);
        terms.expires_at.is_none_or(|expires| until <= expires).then_some((delay, until))
    }

    /// Waits for the moment of the next attempt, which a virtual clock may be moved to. `false` if the engine is to stop.
    async fn rest(&self, running: &mut Running<'_>, until: DateTime<Utc>) -> bool {
        let mut sleeper = self.clock.sleeper(|| format!("a retry of {}", running.invocation.binding.path()));
        running.idle();
        while self.now() < until {
            tokio::select! {
                () = sleeper.until(Some(until)) => {}
                () = self.draining.cancelled() => return false,
            }
        }
        running.resume();
        true
    }

    /// Shutdown cut the attempt: whoever holds the event hands it out again, and the attempt is not counted.
    async fn cut_inline(&self, mut running: Running<'_>) -> Answer {
        if running.invocation.custody == Custody::Engine {
            match self.store.keep(untried(&running, self.now())).await {
                Ok(()) => running.kept = true,
                Err(error) => {
                    let id = running.invocation.invocation_id;
                    tracing::error!(invocation = %id, "an event was lost at shutdown: {error}");
                }
            }
        }
        running.cancelled()
    }

    pub(super) fn too_deep(&self, invocation: &InvocationContext) -> Failure {
        let message = format!(
            "the event is {} functions deep, the limit is {}: look for functions that cause one another",
            invocation.depth, self.settings.max_depth
        );
        Failure::new(FailureCode::Denied, message).permanent()
    }

    /// Gives an event up without an attempt.
    async fn refuse(&self, running: Running<'_>, reason: DeadReason, failure: Failure) -> Answer {
        if running.invocation.custody == Custody::Caller {
            // It is told. A dead letter would let any caller fill the store with a header.
            return running.failed(failure);
        }
        let dead = self.dead_letter(running.invocation.clone(), None, Vec::new(), reason, &failure, 0);
        match self.bury(dead, running.invocation.custody).await {
            Ok(()) => running.dead(reason, failure),
            Err(error) => running.store_unavailable(&error),
        }
    }

    /// Keeps a retry as a row. Nobody else has the event, so an unavailable store is waited for.
    async fn keep(&self, queued: QueuedInvocation) -> store::Result<()> {
        self.insist("keep a retry", || self.store.keep(queued.clone())).await?;
        self.queue_wake.wake();
        Ok(())
    }
}

/// The row of an event whose attempt does not count.
fn untried(running: &Running<'_>, run_at: DateTime<Utc>) -> QueuedInvocation {
    let mut invocation = running.invocation.clone();
    invocation.version = running.version.as_ref().map(|version| version.number);
    QueuedInvocation { invocation, run_at, attempts: Vec::new(), redrive_count: 0 }
}
