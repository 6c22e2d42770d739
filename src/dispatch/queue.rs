//! Runs the rows of the queue: claims what is due, keeps the claims alive, settles them by their tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use trigger_core::{Binding, DeadReason, Failure, FailureCode, Progress, Response, Shed, Status, StatusState};
use uuid::Uuid;

use super::retry::Decision;
use super::running::Running;
use super::{Dispatcher, decide};
use crate::executor::Effects;
use crate::functions::{Route, Version};
use crate::store::{self, Claim, ClaimRequest, Claimed, FailedAttempt, Pause, QueuedInvocation, Settle};

/// Rows claimed at once.
const BATCH: usize = 256;

/// How long a look waits for room for more rows, where more are left behind.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// Rows that this engine holds.
#[derive(Default)]
pub(super) struct Held {
    rows: Mutex<HashMap<Uuid, HeldRow>>,
}

struct HeldRow {
    claim: Claim,
    /// Another engine has the claim: whatever is done now is done in vain.
    lost: CancellationToken,
    /// Somebody wants the event cancelled.
    cancel: CancellationToken,
}

impl Held {
    fn add(&self, claim: Claim) -> (CancellationToken, CancellationToken) {
        let (lost, cancel) = (CancellationToken::new(), CancellationToken::new());
        let row = HeldRow { claim, lost: lost.clone(), cancel: cancel.clone() };
        self.rows.lock().insert(claim.invocation_id, row);
        (lost, cancel)
    }

    fn remove(&self, claim: Claim) {
        let mut rows = self.rows.lock();
        // Its lease may have run out and the row been claimed anew, by this very engine.
        if rows.get(&claim.invocation_id).is_some_and(|row| row.claim == claim) {
            rows.remove(&claim.invocation_id);
        }
    }

    /// Cuts a row's attempt because the event is to be cancelled, if this engine runs it.
    pub(super) fn cancel(&self, id: Uuid) {
        if let Some(row) = self.rows.lock().get(&id) {
            row.cancel.cancel();
        }
    }

    fn lose(&self, claim: Claim) {
        if let Some(row) = self.rows.lock().get(&claim.invocation_id).filter(|row| row.claim == claim) {
            row.lost.cancel();
        }
    }

    /// Whether this engine works on a row.
    pub(super) fn holds(&self, id: Uuid) -> bool {
        self.rows.lock().contains_key(&id)
    }

    fn claims(&self) -> Vec<Claim> {
        self.rows.lock().values().map(|row| row.claim).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.lock().is_empty()
    }
}

/// Rows that wait and are due, as far as this engine knows. New ones must not take the room that those need.
#[derive(Default)]
pub(super) struct Backlog {
    /// Rows that were added without being claimed, ever.
    added: AtomicU64,
    /// How many of them there were when the last look at the queue began.
    seen: AtomicU64,
    /// Whether that look had room for more than it found.
    had_room: AtomicBool,
}

impl Backlog {
    /// A row was added and not claimed.
    pub(super) fn grew(&self) {
        self.added.fetch_add(1, Ordering::Release);
    }

    fn before_look(&self) -> u64 {
        self.added.load(Ordering::Acquire)
    }

    /// A look that began when `before` rows had been added had room for more than it found, or may have left some.
    fn after_look(&self, before: u64, had_room: bool) {
        self.seen.store(before, Ordering::Release);
        self.had_room.store(had_room, Ordering::Release);
    }

    /// A look was due, and there was no room for one.
    fn no_look(&self) {
        self.had_room.store(false, Ordering::Release);
    }

    /// How many rows wait for the next look; `None` if there may be any number of them.
    pub(super) fn waiting(&self) -> Option<u64> {
        let seen = self.seen.load(Ordering::Acquire);
        let had_room = self.had_room.load(Ordering::Acquire);
        had_room.then(|| self.added.load(Ordering::Acquire).saturating_sub(seen))
    }
}

impl Dispatcher {
    /// Claims and starts rows until drained.
    pub(super) async fn run_queue(self: Arc<Self>) {
        let mut sleeper = self.clock.sleeper(|| "the queue".to_owned());
        while !self.draining.is_cancelled() {
            // Armed before the look, so that a row added behind the look wakes us.
            let (woken, heard) = (self.queue_wake.armed(), self.store.woken());
            if self.claim_and_start().await {
                continue;
            }
            let next = self.next_look().await;
            tokio::select! {
                () = woken => {}
                () = heard => {}
                () = sleeper.until(next) => {}
                () = tokio::time::sleep(self.settings.poll_interval) => {}
                () = self.draining.cancelled() => {}
            }
        }
    }

    /// Claims what there is room for and starts it; `true` if there may be more.
    async fn claim_and_start(self: &Arc<Self>) -> bool {
        let Some(mut room) = self.room_for_look().await else {
            self.backlog.no_look();
            return false;
        };
        let (limit, before) = (room.num_permits(), self.backlog.before_look());
        let claimed = self.claim(limit).await;
        self.backlog.after_look(before, claimed.as_ref().is_some_and(|claimed| claimed.len() < limit));
        let claimed = claimed.unwrap_or_default();
        // A claim may stop short of its limit (large payloads, many triggers): only one that finds nothing has found all.
        let again = !claimed.is_empty();
        for row in claimed {
            let permit = room.split(1).expect("a claim is no larger than its limit");
            self.start(row, permit);
        }
        again
    }

    /// Room for the rows that a look finds: for one at least.
    async fn room_for_look(&self) -> Option<OwnedSemaphorePermit> {
        let most = if self.backlog.waiting().is_some() {
            // While nothing is known to be left behind, half of the room stays for what comes during the look: it need
            // not be looked for then. Else everything that comes would have to be, one look after the other.
            self.room.available_permits().div_ceil(2).min(BATCH)
        } else {
            // Rows that end make room one by one, and a look for one costs nearly as much as one for many.
            let many = self.settings.max_concurrency.min(BATCH).div_ceil(2) as u32;
            drop(tokio::time::timeout(ROOM_PAUSE, self.room.acquire_many(many)).await);
            BATCH
        };
        let mut room = self.room.clone().try_acquire_owned().ok()?;
        while room.num_permits() < most
            && let Ok(more) = self.room.clone().try_acquire_owned()
        {
            room.merge(more);
        }
        Some(room)
    }

    /// `None` if the store could not be read.
    async fn claim(&self, room: usize) -> Option<Vec<Claimed>> {
        let now = self.now();
        let lease_until = now + self.settings.lease;
        let request = ClaimRequest { now, lease_until, limit: room as u32, limits: self.gates.limits(now) };
        match self.store.claim(request).await {
            Ok(claimed) => Some(claimed),
            Err(error) => {
                tracing::warn!("cannot read the queue: {error}");
                None
            }
        }
    }

    /// When the next row is due, or a rate allows more; the table is looked at every `poll_interval` all the same. What
    /// is due already but was not claimed waits for room: an attempt that ends wakes us.
    async fn next_look(&self) -> Option<DateTime<Utc>> {
        let next = self.store.next_due().await.ok().flatten();
        let token = self.gates.next_token().map(|wait| self.clock.after(wait));
        let probe = self.gates.next_probe(self.now());
        [next, token, probe].into_iter().flatten().min()
    }

    /// Runs a claimed row in a task of its own.
    pub(super) fn start(self: &Arc<Self>, row: Claimed, permit: OwnedSemaphorePermit) {
        let claim = row.claim;
        let (lost, cancel) = self.held.add(claim);
        let binding = row.queued.invocation.binding.clone();
        let gated = self.gates.began(&binding);
        let dispatcher = self.clone();
        let busy = self.clock.busy(|| "a claimed row".to_owned());
        self.tasks.spawn(async move {
            let id = claim.invocation_id;
            tokio::select! {
                biased;
                () = dispatcher.run_row(row) => {}
                () = lost.cancelled() => tracing::warn!(invocation = %id, "a claim was lost, its attempt is cut"),
                () = cancel.cancelled() => {
                    let keep_until = Some(dispatcher.now() + dispatcher.settings.results_keep);
                    if dispatcher.settle(claim, Settle::Cancelled { keep_until }).await {
                        dispatcher.ledger.counters(&binding).kept.cancelled();
                        dispatcher.ended_cancelled(id, &binding);
                    }
                }
            }
            dispatcher.held.remove(claim);
            if gated {
                dispatcher.gates.ended(&binding);
            }
            drop(permit);
            // Its room, its gate or its ordering key may be what others wait for.
            if gated || claim.ordered || dispatcher.backlog.waiting() != Some(0) {
                dispatcher.queue_wake.wake();
            }
            drop(busy);
        });
    }

    /// Prolongs the claims of everything under way. A claim that another engine has taken is cut here, and so is one
    /// that is to be cancelled.
    pub(super) async fn renew_leases(self: Arc<Self>) {
        let interval = self.settings.lease / 3;
        // A virtual clock is never moved while a row is held, and need not stop for leases that nobody has.
        let mut sleeper = self.clock.background(|| "leases".to_owned());
        loop {
            tokio::select! {
                () = sleeper.pause(interval) => {}
                () = self.settled() => return,
            }
            let claims = self.held.claims();
            if claims.is_empty() {
                continue;
            }
            match self.store.renew(claims.clone(), self.now() + self.settings.lease).await {
                Ok(renewed) => {
                    renewed.cancel.into_iter().for_each(|id| self.held.cancel(id));
                    // It may have been settled since, or claimed anew.
                    claims
                        .into_iter()
                        .filter(|claim| !renewed.held.contains(&claim.invocation_id))
                        .for_each(|claim| self.held.lose(claim));
                }
                Err(error) => tracing::warn!("cannot renew leases: {error}"),
            }
        }
    }

    /// Ends when the engine drains and no row is held any more.
    async fn settled(&self) {
        self.draining.cancelled().await;
        while !self.held.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Keeps what this engine knows of pauses, and what the store knows of counts, up to date.
    pub(super) async fn keep_books(self: Arc<Self>) {
        loop {
            self.learn_pauses().await;
            tokio::select! {
                () = tokio::time::sleep(self.settings.poll_interval) => {}
                () = self.draining.cancelled() => return,
            }
            self.tell_ledger().await;
        }
    }

    /// Reads which triggers are paused.
    pub async fn learn_pauses(&self) {
        match self.store.paused().await {
            Ok(pauses) => self.gates.learn(pauses),
            Err(error) => tracing::debug!("pauses cannot be read now: {error}"),
        }
    }

    /// Tells the store what never was in the queue.
    pub async fn tell_ledger(&self) {
        let _one_at_a_time = self.telling.lock().await;
        let tallies = self.ledger.untold();
        if tallies.is_empty() {
            return;
        }
        match self.store.tally(tallies.clone()).await {
            Ok(()) => self.ledger.tell(&tallies),
            Err(error) => tracing::debug!("the ledger cannot be written now: {error}"),
        }
    }

    async fn run_row(&self, row: Claimed) {
        let Claimed { queued, claim } = row;
        let mut invocation = queued.invocation;
        // The row's wait is told by `run_at`; phases begin here.
        invocation.received = Instant::now();
        let counters = self.ledger.counters(&invocation.binding);
        let mut row = Row {
            running: Running::from_row(self, counters, invocation),
            claim,
            attempts: queued.attempts,
            redrives: queued.redrive_count,
        };
        let id = claim.invocation_id;
        let (route, version) = match self.version_for(&row.running).await {
            Ok(found) => found,
            Err(NoVersion::Unavailable(error)) => {
                tracing::warn!(invocation = %id, "a row's version cannot be read now: {error}");
                return self.hand_back(row).await;
            }
            Err(NoVersion::Unknown(message)) => {
                let failure = Failure::new(FailureCode::HostError, message).permanent();
                return self.give_up(row, None, DeadReason::Incompatible, failure).await;
            }
        };
        if row.running.invocation.depth > self.settings.max_depth {
            let failure = self.too_deep(&row.running.invocation);
            return self.give_up(row, Some(version), DeadReason::DepthExceeded, failure).await;
        }
        if let Some(Err(failure)) =
            self.demands_of(&row.running.invocation.binding).map(|demands| demands.judge(&row.running.invocation))
        {
            return self.give_up(row, Some(version), DeadReason::Permanent, failure).await;
        }
        // A row waits for its slot as long as it takes: it is kept, and its claim is renewed.
        let Some(slot) = self.slots.acquire_patiently(&route.slots, &self.draining).await else {
            return self.hand_back(row).await;
        };
        if let Some(expires_at) = row.expires_at()
            && self.now() > expires_at
        {
            let message = format!("its time was over at {expires_at}, before this attempt could begin");
            let failure = Failure::new(FailureCode::Timeout, message).permanent();
            return self.give_up(row, Some(version), DeadReason::AgeExceeded, failure).await;
        }
        let pass = match route.breaker.enter(self.now()) {
            Ok(pass) => pass,
            Err(_) => return self.leave(row, &route).await,
        };
        row.running.wait = row.running.invocation.received.elapsed();
        row.running.version = Some(version.clone());
        let (progress, told) = watch::channel(Progress::default());
        let result = tokio::select! {
            biased;
            result = self.attempt(&mut row.running, (slot, pass), Some(progress)) => result,
            never = self.keep_progress(claim, told) => match never {},
        };
        row.running.settle_began = Some(Instant::now());
        match result {
            None => self.hand_back(row).await,
            Some(Ok(response)) => self.complete(row, response).await,
            Some(Err(failure)) => self.failed_row(row, version, failure).await,
        }
    }

    async fn hand_back(&self, row: Row<'_>) {
        self.settle(row.claim, Settle::HandBack).await;
        row.running.cancelled();
    }

    /// Leaves a row where it is: its function is not tried for a while, and rows of its trigger are not claimed
    /// meanwhile.
    async fn leave(&self, row: Row<'_>, route: &Route) {
        self.gates.of_function(&row.running.invocation.binding, route, self.now());
        self.settle(row.claim, Settle::HandBack).await;
        row.running.shed(Shed::CircuitOpen);
    }

    async fn complete(&self, mut row: Row<'_>, response: Response) {
        let Effects { messages: effects, events, sockets } = std::mem::take(&mut row.running.effects);
        let published = !effects.is_empty();
        let caused: Vec<Arc<Binding>> = events.iter().map(|event| event.binding.clone()).collect();
        let events = events.into_iter().map(QueuedInvocation::new).collect();
        let ttl = row.running.invocation.terms.as_ref().and_then(|terms| terms.result_ttl_seconds);
        let ttl = ttl.map_or(self.settings.results_keep, |seconds| Duration::from_secs(seconds.into()));
        let keep_until = (!ttl.is_zero()).then(|| self.now() + ttl);
        let settle = Settle::Ok { response: response.clone(), keep_until, effects, events };
        if self.settle(row.claim, settle).await {
            self.caused(&caused);
            self.tell_sockets(sockets);
            let (binding, attempts) = (row.running.invocation.binding.clone(), row.running.invocation.attempt);
            self.waiters.ended(row.claim.invocation_id, || Status {
                binding: (*binding).clone(),
                attempts,
                state: StatusState::Ok { body: response.body.clone(), http: response.http.clone() },
            });
            row.running.ok(response);
        }
        if published {
            self.outbox_wake.wake();
        }
    }

    async fn failed_row(&self, mut row: Row<'_>, version: Arc<Version>, failure: Failure) {
        if let Some(rest) = row.running.probe.filter(|_| failure.retryable) {
            // The function does not work yet. That says nothing of the event, which has used up no attempt.
            self.settle(row.claim, Settle::HandBack).await;
            return row.running.retry(rest, failure);
        }
        // A redriven event is given its whole age again.
        let first_try = row.attempts.first().map(|first| first.started_at);
        let received_at = row.running.invocation.received_at;
        let first_seen = if row.redrives > 0 { first_try.unwrap_or_else(|| self.now()) } else { received_at };
        let mut decision = decide(&version, &row.running.invocation, first_seen, self.now(), &failure);
        if let (Decision::Retry(delay), Some(expires_at)) = (decision, row.expires_at())
            && self.now() + delay > expires_at
        {
            decision = Decision::Dead(DeadReason::AgeExceeded);
        }
        let attempt = row.running.failed_attempt(&failure, decision);
        match decision {
            Decision::Retry(delay) => {
                let run_at = self.clock.after(delay);
                if self.settle(row.claim, Settle::Retry { run_at, attempt }).await {
                    row.running.retry(delay, failure);
                    // Its own task woke the queue before the row was due: the next look must know when that is.
                    self.queue_wake.wake();
                }
            }
            Decision::Dead(reason) => {
                row.attempts.push(attempt);
                self.give_up(row, Some(version), reason, failure).await;
            }
        }
    }

    /// Settles a row as dead.
    async fn give_up(&self, row: Row<'_>, version: Option<Arc<Version>>, reason: DeadReason, failure: Failure) {
        let Row { running, claim, attempts, redrives } = row;
        let (invocation, made) = (running.invocation.clone(), running.invocation.attempt);
        let binding = invocation.binding.clone();
        let dead = self.dead_letter(invocation, version.as_deref(), attempts, reason, &failure, redrives);
        if !self.settle(claim, Settle::Dead(dead)).await {
            return;
        }
        self.waiters.ended(claim.invocation_id, || Status {
            binding: (*binding).clone(),
            attempts: made,
            state: StatusState::Dead { reason, failure: failure.clone() },
        });
        if self.gates.get(&binding).pause_on_failure {
            let note = format!("invocation {} was given up on: {reason}", claim.invocation_id);
            let pause = Pause { since: self.now(), note };
            match self.store.pause((*binding).clone(), Some(pause)).await {
                Ok(_) => self.learn_pauses().await,
                Err(error) => tracing::error!(trigger = %binding.path(), "cannot be paused after a failure: {error}"),
            }
        }
        running.dead(reason, failure);
        self.outbox_wake.wake();
    }

    /// Settles a claim, waiting for the store if it must. `false` if the claim was lost: another engine has the row.
    async fn settle(&self, claim: Claim, settle: Settle) -> bool {
        let id = claim.invocation_id;
        let mut delay = Duration::from_millis(50);
        loop {
            match self.store.settle(claim, settle.clone()).await {
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
                let route = route.unwrap_or_else(|| Arc::new(Route::detached(version.clone())));
                Ok((route, version))
            }
            Ok(None) => Err(NoVersion::Unknown(format!("version {pinned} of the function is gone"))),
            Err(error) => Err(NoVersion::Unavailable(error)),
        }
    }
}

/// A row under way.
struct Row<'a> {
    running: Running<'a>,
    claim: Claim,
    /// Those that failed before.
    attempts: Vec<FailedAttempt>,
    redrives: u32,
}

impl Row<'_> {
    /// When no attempt may begin any more, where the event itself says so.
    fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.running.invocation.terms.as_ref()?.expires_at
    }
}

enum NoVersion {
    Unknown(String),
    Unavailable(store::Error),
}
