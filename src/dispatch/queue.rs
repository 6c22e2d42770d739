//! Runs the rows of the queue: claims what is due, keeps the claims alive, settles them by their tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use trigger_core::{DeadReason, Failure, FailureCode};
use uuid::Uuid;

use super::Dispatcher;
use super::retry::Decision;
use super::running::Running;
use crate::functions::{Route, Version};
use crate::store::{self, Claimed, Settle};

/// Rows claimed at once.
const BATCH: usize = 256;

/// Rows that this engine holds: their claims' tokens, and what cuts them when a claim is lost.
pub(super) type Held = parking_lot::Mutex<HashMap<Uuid, (Uuid, CancellationToken)>>;

impl Dispatcher {
    /// Claims and starts rows until drained.
    pub(super) async fn run_queue(self: Arc<Self>) {
        let mut sleeper = self.clock.sleeper(|| "the queue".to_owned());
        while !self.draining.is_cancelled() {
            // Armed before the look, so that a row added behind the look wakes us.
            let (woken, heard) = (self.queue_wake.armed(), self.store.woken());
            let room = self.settings.max_concurrency.saturating_sub(self.held.lock().len()).min(BATCH);
            let claimed = if room == 0 { Vec::new() } else { self.claim(room).await };
            if claimed.len() == room && room > 0 {
                self.start(claimed);
                continue;
            }
            self.start(claimed);
            let next = self.next_due().await;
            tokio::select! {
                () = woken => {}
                () = heard => {}
                () = sleeper.until(next) => {}
                () = tokio::time::sleep(self.settings.poll_interval) => {}
                () = self.draining.cancelled() => {}
            }
        }
    }

    async fn claim(&self, room: usize) -> Vec<Claimed> {
        match self.store.claim(self.clock.now(), self.clock.after(self.settings.lease), room as u32).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!("cannot read the queue: {error}");
                Vec::new()
            }
        }
    }

    /// When the next row is due; the table is looked at every `poll_interval` all the same.
    async fn next_due(&self) -> Option<DateTime<Utc>> {
        let next = self.store.next_due().await.ok().flatten();
        // What is due already but was not claimed waits for room: an attempt that ends wakes us.
        next.filter(|next| *next > self.clock.now())
    }

    fn start(self: &Arc<Self>, claimed: Vec<Claimed>) {
        for row in claimed {
            let lost = CancellationToken::new();
            let (id, token) = (row.queued.invocation.invocation_id, row.token);
            self.held.lock().insert(id, (token, lost.clone()));
            let dispatcher = self.clone();
            let busy = self.clock.busy(|| "a claimed row".to_owned());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = dispatcher.run_row(row) => {}
                    () = lost.cancelled() => tracing::warn!(invocation = %id, "a claim was lost, its attempt is cut"),
                }
                let mut held = dispatcher.held.lock();
                // Its lease may have run out and the row been claimed anew, by this very engine.
                if held.get(&id).is_some_and(|(now, _)| *now == token) {
                    held.remove(&id);
                }
                drop(held);
                dispatcher.queue_wake.wake();
                drop(busy);
            });
        }
    }

    /// Prolongs the claims of everything under way. A claim that another engine has taken is cut here.
    pub(super) async fn renew_leases(self: Arc<Self>) {
        let interval = self.settings.lease / 3;
        // A virtual clock is never moved while a row is held, and need not stop for leases that nobody has.
        let mut sleeper = self.clock.background(|| "leases".to_owned());
        loop {
            tokio::select! {
                () = sleeper.pause(interval) => {}
                () = self.settled() => return,
            }
            let claims: Vec<(Uuid, Uuid)> = self.held.lock().iter().map(|(id, (token, _))| (*id, *token)).collect();
            if claims.is_empty() {
                continue;
            }
            match self.store.renew(claims.clone(), self.clock.after(self.settings.lease)).await {
                Ok(kept) => {
                    let held = self.held.lock();
                    for (id, token) in claims.iter().filter(|(id, _)| !kept.contains(id)) {
                        // It may have been settled since, or claimed anew.
                        if let Some((_, lost)) = held.get(id).filter(|(now, _)| now == token) {
                            lost.cancel();
                        }
                    }
                }
                Err(error) => tracing::warn!("cannot renew leases: {error}"),
            }
        }
    }

    /// Ends when the engine drains and no row is held any more.
    async fn settled(&self) {
        self.draining.cancelled().await;
        while !self.held.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run_row(&self, row: Claimed) {
        let Claimed { queued, token } = row;
        let mut invocation = queued.invocation;
        // The row's wait is told by `run_at`; phases begin here.
        invocation.received = Instant::now();
        let id = invocation.invocation_id;
        let counters = self.ledger.counters(&invocation.binding);
        let mut running = Running::from_row(self, counters, invocation);
        let (route, version) = match self.version_for(&running).await {
            Ok(found) => found,
            Err(NoVersion::Unavailable(error)) => {
                tracing::warn!(invocation = %id, "a row's version cannot be read now: {error}");
                self.settle(id, token, Settle::HandBack).await;
                running.cancelled();
                return;
            }
            Err(NoVersion::Unknown(message)) => {
                let failure = Failure::new(FailureCode::HostError, message).permanent();
                let reason = DeadReason::Incompatible;
                let invocation = running.invocation.clone();
                let dead = self.dead_letter(invocation, None, queued.attempts, reason, &failure, queued.redrive_count);
                if self.settle(id, token, Settle::Dead(dead)).await {
                    running.dead(reason, failure);
                }
                return;
            }
        };
        if running.invocation.depth > self.settings.max_depth {
            let (reason, failure) = (DeadReason::DepthExceeded, self.too_deep(&running.invocation));
            let invocation = running.invocation.clone();
            let dead =
                self.dead_letter(invocation, Some(&version), queued.attempts, reason, &failure, queued.redrive_count);
            if self.settle(id, token, Settle::Dead(dead)).await {
                running.dead(reason, failure);
            }
            return;
        }
        // A row waits for its slot as long as it takes: it is kept, and its claim is renewed.
        let Some(slot) = self.slots.acquire_patiently(&route.slots, &self.draining).await else {
            self.settle(id, token, Settle::HandBack).await;
            running.cancelled();
            return;
        };
        running.wait = running.invocation.received.elapsed();
        running.version = Some(version.clone());
        let result = self.attempt(&mut running, slot).await;
        running.settle_began = Some(Instant::now());
        match result {
            None => {
                self.settle(id, token, Settle::HandBack).await;
                running.cancelled();
            }
            Some(Ok(response)) => {
                let effects = std::mem::take(&mut running.effects);
                let published = !effects.is_empty();
                if self.settle(id, token, Settle::Ok { response: response.clone(), effects }).await {
                    running.ok(response);
                }
                if published {
                    self.outbox_wake.wake();
                }
            }
            Some(Err(failure)) => {
                // A redriven event is given its whole age again.
                let redriven = queued.redrive_count > 0;
                let first_try = queued.attempts.first().map(|first| first.started_at);
                let first_seen = if redriven {
                    first_try.unwrap_or_else(|| self.clock.now())
                } else {
                    running.invocation.received_at
                };
                let decision = self.decide(&version, running.invocation.attempt, first_seen, &failure);
                let attempt = running.failed_attempt(&failure, decision);
                match decision {
                    Decision::Retry(delay) => {
                        let run_at = self.clock.after(delay);
                        if self.settle(id, token, Settle::Retry { run_at, attempt }).await {
                            running.retry(delay, failure);
                        }
                    }
                    Decision::Dead(reason) => {
                        let mut attempts = queued.attempts;
                        attempts.push(attempt);
                        let invocation = running.invocation.clone();
                        let redrives = queued.redrive_count;
                        let dead = self.dead_letter(invocation, Some(&version), attempts, reason, &failure, redrives);
                        if self.settle(id, token, Settle::Dead(dead)).await {
                            running.dead(reason, failure);
                            self.outbox_wake.wake();
                        }
                    }
                }
            }
        }
    }

    /// Settles a claim, waiting for the store if it must. `false` if the claim was lost: another engine has the row.
    async fn settle(&self, id: Uuid, token: Uuid, settle: Settle) -> bool {
        let mut delay = Duration::from_millis(50);
        loop {
            match self.store.settle(id, token, settle.clone()).await {
                Ok(true) => return true,
                Ok(false) => {
                    tracing::warn!(invocation = %id, "a late settle changed nothing: the lease had run out");
                    return false;
                }
                Err(error @ store::Error::Unavailable(_)) => {
                    tracing::warn!(invocation = %id, "cannot settle, trying again: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(5)),
                        // The lease runs out, and whoever works then runs the row again.
                        () = self.cut.cancelled() => return false,
                    }
                }
                Err(error) => {
                    tracing::error!(invocation = %id, "cannot settle: {error}");
                    return false;
                }
            }
        }
    }

    /// The version that a row runs on: the one it began with, else the one that is routed.
    async fn version_for(&self, running: &Running<'_>) -> Result<(Arc<Route>, Arc<Version>), NoVersion> {
        let binding = &running.invocation.binding;
        let route = self.registry.route(&binding.namespace, &binding.function_name);
        let Some(pinned) = running.invocation.version else {
            let route = route.ok_or_else(|| NoVersion::Unknown("the function is not deployed any more".into()))?;
            let version = route.version.load_full();
            return Ok((route, version));
        };
        if let Some(route) = &route
            && route.version.load().number == pinned
        {
            return Ok((route.clone(), route.version.load_full()));
        }
        match self.versions.get(&binding.namespace, &binding.function_name, pinned).await {
            Ok(Some(version)) => {
                let concurrency = version.definition.concurrency;
                let route = route.unwrap_or_else(|| Arc::new(Route::detached(version.clone(), concurrency)));
                Ok((route, version))
            }
            Ok(None) => Err(NoVersion::Unknown(format!("version {pinned} of the function is gone"))),
            Err(error) => Err(NoVersion::Unavailable(error)),
        }
    }
}

enum NoVersion {
    Unknown(String),
    Unavailable(store::Error),
}
