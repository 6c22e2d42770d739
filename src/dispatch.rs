//! The one path from an event to its outcome.
//!
//! ```text
//! dispatch ─► slot ─► attempt ─► ok ──────────► effects released, answer
//!                        └─► failure ─► decide ─► retry: told, asked of the source, or a row
//!                                            └─► dead: dead letter and what to publish, one transaction
//! ```
//!
//! One attempt a pass. A retry is a row of the queue or the source's own redelivery, so nothing sleeps here, holds a
//! slot or dies with the process; only a caller whose trigger says so waits for retries itself (`inline`). Rows come
//! back through `queue`; both admissions share `Dispatcher::attempt`.
//! Whatever ends, ends in exactly one record and one count, also when the caller goes away in the middle.

mod admit;
pub mod breaker;
mod dead;
mod effects;
mod gates;
mod inline;
mod invoke;
pub mod ledger;
mod outbox;
mod queue;
pub mod retry;
mod running;
pub mod slots;
mod targets;
#[cfg(test)]
mod tests;
mod waiters;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::clock::{Clock, Wake};
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Bus, Cancelled, Dispatch, Failure, FailureCode, Gate, InvocationContext,
    Kind, Progress, Refused, Response, Shed, SkippedFire, Sockets, Status,
};
use uuid::Uuid;

use crate::demands::Demands;
use crate::executor::{Attempt, Executor};
use crate::functions::{Registry, Route, Version, Versions};
use crate::store::{self, QueueRow, Store};
use crate::traces::Ring;
use breaker::{Pass, Turn};
use ledger::Ledger;
use retry::Decision;
use running::Running;
use slots::{Slot, Slots};
use targets::{Target, Targets};

/// How the dispatcher works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Attempts that may run at once.
    pub max_concurrency: usize,
    /// Inline events that may wait for a slot.
    pub max_waiting: usize,
    /// How long one of them waits before it is turned away.
    pub max_wait: Duration,
    /// How many functions may cause one another in a chain.
    pub max_depth: u32,
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// How often, in real time, the queue and the outbox are looked at when nothing wakes them.
    pub poll_interval: Duration,
    /// How long results are kept for those who ask.
    pub results_keep: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrency: 256,
            max_waiting: 1024,
            max_wait: Duration::from_secs(5),
            max_depth: 16,
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_secs(1),
            results_keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// Takes events in, runs them and sees them to their outcome.
pub struct Dispatcher {
    settings: Settings,
    clock: Clock,
    registry: Arc<Registry>,
    versions: Arc<Versions>,
    executor: Arc<dyn Executor>,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    sockets: Option<Arc<dyn Sockets>>,
    slots: Slots,
    ring: Arc<Ring>,
    ledger: Arc<Ledger>,
    targets: Targets,
    /// What triggers ask of their events, where they ask anything.
    demands: ArcSwap<HashMap<Binding, Arc<Demands>>>,
    gates: gates::Gates,
    waiters: waiters::Waiters,
    held: queue::Held,
    backlog: queue::Backlog,
    /// A permit for each row that may be claimed beside those that are.
    room: Arc<Semaphore>,
    /// One look at what the store has not been told.
    telling: tokio::sync::Mutex<()>,
    /// What tasks are started with.
    me: Weak<Self>,
    queue_wake: Wake,
    outbox_wake: Wake,
    /// No new event is taken.
    draining: CancellationToken,
    /// Attempts under way are cut.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// What the dispatcher is made of.
pub struct Parts {
    /// The routes.
    pub registry: Arc<Registry>,
    /// The versions that are not routed.
    pub versions: Arc<Versions>,
    /// Runs the guests.
    pub executor: Arc<dyn Executor>,
    /// Keeps what must be kept.
    pub store: Arc<dyn Store>,
    /// Takes what guests publish, and dead letters.
    pub bus: Arc<dyn Bus>,
    /// The sockets that are open, where this build has them.
    pub sockets: Option<Arc<dyn Sockets>>,
    /// Remembers what happened.
    pub ring: Arc<Ring>,
    /// When it happened, and when something is due.
    pub clock: Clock,
}

impl Dispatcher {
    /// A dispatcher; [`run`](Self::run) lets it work on rows.
    pub fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        let slots = Slots::new(settings.max_concurrency, settings.max_waiting, settings.max_wait);
        let room = Arc::new(Semaphore::new(settings.max_concurrency.clamp(1, slots::MAX_SLOTS)));
        Arc::new_cyclic(|me| Self {
            slots,
            room,
            me: me.clone(),
            settings,
            registry: parts.registry,
            versions: parts.versions,
            executor: parts.executor,
            store: parts.store,
            bus: parts.bus,
            sockets: parts.sockets,
            ring: parts.ring,
            ledger: Arc::default(),
            targets: Targets::default(),
            demands: ArcSwap::default(),
            gates: gates::Gates::default(),
            waiters: waiters::Waiters::default(),
            held: queue::Held::default(),
            backlog: queue::Backlog::default(),
            telling: tokio::sync::Mutex::default(),
            queue_wake: Wake::new(&parts.clock, "the queue"),
            outbox_wake: Wake::new(&parts.clock, "the outbox"),
            clock: parts.clock,
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Starts the work on rows: the queue's and the outbox's.
    pub fn run(self: &Arc<Self>) {
        let queue = self.clone();
        self.tasks.spawn(async move { queue.run_queue().await });
        let leases = self.clone();
        self.tasks.spawn(async move { leases.renew_leases().await });
        let books = self.clone();
        self.tasks.spawn(async move { books.keep_books().await });
        let outbox = self.clone();
        self.tasks.spawn(async move { outbox.run_outbox().await });
    }

    /// Stops taking events. What is under way may end within `grace`; then it is cut and handed back.
    pub async fn drain(&self, grace: Duration) {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            self.cut.cancel();
            self.tasks.wait().await;
        }
        self.tell_ledger().await;
    }

    /// What time it is.
    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// What tasks are started with.
    fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls a method holds the dispatcher")
    }

    /// Cuts what is under way at once.
    pub fn cut(&self) {
        self.draining.cancel();
        self.cut.cancel();
    }

    /// Has events of these triggers run only where they are what their trigger asks for, and all events of others.
    pub fn demand(&self, demands: HashMap<Binding, Arc<Demands>>) {
        self.demands.store(Arc::new(demands));
        self.routes_changed();
    }

    /// Has routes looked up anew: functions were deployed.
    pub fn routes_changed(&self) {
        self.targets.clear();
        self.queue_wake.wake();
    }

    /// The clock that the dispatcher goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Has the queue and the outbox looked at: the clock was moved.
    pub fn look(&self) {
        self.queue_wake.wake();
        self.outbox_wake.wake();
    }

    /// The counts by function and trigger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The route of a function.
    pub fn route(&self, namespace: &str, name: &str) -> Option<Arc<Route>> {
        self.registry.route(namespace, name)
    }

    /// How many attempts run now.
    pub fn running(&self) -> usize {
        self.slots.running()
    }

    /// Has the queue and the outbox looked at now.
    pub fn wake(&self) {
        // Whoever asks has put something there.
        self.backlog.grew();
        self.queue_wake.wake();
        self.outbox_wake.wake();
    }

    /// What a trigger asks of its events.
    fn demands_of(&self, binding: &Binding) -> Option<Arc<Demands>> {
        let demands = self.demands.load();
        if demands.is_empty() { None } else { demands.get(binding).cloned() }
    }

    fn target(&self, binding: &Arc<Binding>) -> Target {
        self.targets.get(binding, || Target {
            route: self.registry.route(&binding.namespace, &binding.function_name),
            counters: self.ledger.counters(binding),
            demands: self.demands_of(binding),
        })
    }

    /// Makes one attempt and releases its effects. `None` if it was cut. What the guest says of its progress is sent to
    /// `progress`, if somebody wants to know.
    async fn attempt(
        &self,
        running: &mut Running<'_>,
        (slot, pass): (Slot, Pass<'_>),
        progress: Option<watch::Sender<Progress>>,
    ) -> Option<Result<Response, Failure>> {
        running.probe = pass.probes_every();
        let version = running.version.clone().expect("the version is chosen before the attempt");
        let deadline = Instant::now() + version.timeout;
        let deadline = running.deadline.map_or(deadline, |until| until.min(deadline));
        let Attempt { result, load, instantiate, run, cpu, fuel_used, memory_peak_bytes, effects, detail } = tokio::select! {
            biased;
            attempt = self.executor.attempt(&version, &running.invocation, deadline, progress) => attempt,
            () = self.cut.cancelled() => return None,
        };
        drop(slot);
        if let Some(turn) = pass.end(&result, self.now()) {
            self.turned(&running.invocation.binding, turn);
        }
        running.load = load;
        running.instantiate = instantiate;
        running.run = run;
        running.cpu = cpu;
        running.fuel_used = fuel_used;
        running.memory_peak_bytes = memory_peak_bytes;
        running.detail = detail;
        if result.is_err() || effects.is_empty() {
            return Some(result);
        }
        if running.queued {
            // They join the settle's transaction.
            running.effects = effects;
            return Some(result);
        }
        running.settle_began = Some(Instant::now());
        Some(match Box::pin(self.release(effects)).await {
            Ok(()) => result,
            Err(error) => Err(Failure::new(FailureCode::HostError, error)),
        })
    }

    /// The circuit of a function has opened, or is closed again.
    fn turned(&self, binding: &Binding, turn: Turn) {
        let (namespace, function) = (&binding.namespace, &binding.function_name);
        match turn {
            Turn::Opened => tracing::warn!(%namespace, %function, "it fails again and again: its circuit is open"),
            Turn::Closed => tracing::info!(%namespace, %function, "it works again: its circuit is closed"),
        }
        self.queue_wake.wake();
    }

    /// Repeats a store operation until it succeeds or attempts are cut. What waits here is bounded by its source.
    async fn insist<F>(&self, what: &str, mut operation: impl FnMut() -> F) -> store::Result<()>
    where
        F: Future<Output = store::Result<()>>,
    {
        let mut delay = Duration::from_millis(50);
        loop {
            let error = match operation().await {
                Ok(()) => return Ok(()),
                Err(error @ store::Error::Unavailable(_)) => error,
                Err(error) => return Err(error),
            };
            tracing::warn!("cannot {what}, trying again: {error}");
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(5)),
                () = self.cut.cancelled() => {
                    tracing::error!("cannot {what} before the end, an event is lost: {error}");
                    return Err(error);
                }
            }
        }
    }
}

/// What a source is told about when to come back, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn needs_caller(invocation: &InvocationContext) -> bool {
    matches!(invocation.binding.trigger_type, Kind::Http | Kind::Websocket) && invocation.caller.is_none()
}

fn decide(
    version: &Version,
    invocation: &InvocationContext,
    first_seen: DateTime<Utc>,
    now: DateTime<Utc>,
    failure: &Failure,
) -> Decision {
    let age = (now - first_seen).to_std().unwrap_or_default();
    let policy = match invocation.terms.as_ref().and_then(|terms| terms.retry_count) {
        None => Cow::Borrowed(&version.retry),
        Some(retries) => Cow::Owned(retry::Policy { retries, ..version.retry.clone() }),
    };
    retry::decide(&policy, invocation.attempt, age, failure, fastrand::f64())
}

fn log_store(what: &str, result: store::Result<()>) {
    if let Err(error) = result {
        tracing::warn!("cannot {what}: {error}");
    }
}

/// Callers are strangers: where the store is, and what is the matter with it, is for the log.
fn store_refused(error: &store::Error) -> Refused {
    tracing::warn!("a caller was turned away: {error}");
    let message = "the engine's store cannot be used now".into();
    Refused { reason: Shed::StoreUnavailable, message, retry_after: RETRY_AFTER }
}

impl Dispatch for Dispatcher {
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer> {
        Box::pin(self.dispatch_inline(invocation))
    }

    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>> {
        let this = self.arc();
        Box::pin(async move { this.accept_one(invocation).await })
    }

    fn accept_all(&self, invocations: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>> {
        let this = self.arc();
        Box::pin(async move { this.accept_many(invocations).await })
    }

    fn cancel(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        Box::pin(self.cancel_event(invocation_id))
    }

    fn cancel_key(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        let (binding, unique_key) = (binding.clone(), unique_key.to_owned());
        Box::pin(async move {
            match self.store.unique_holder(binding, unique_key).await.map_err(|error| store_refused(&error))? {
                Some(id) => self.cancel_event(id).await,
                None => Ok(Cancelled::Unknown),
            }
        })
    }

    fn cancel_live(&self, binding: &Binding) -> BoxFuture<'_, Result<u64, Refused>> {
        Box::pin(self.cancel_all(binding.clone(), |_| true))
    }

    fn cancel_others(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<u64, Refused>> {
        let unique_key = unique_key.to_owned();
        let others = move |row: &QueueRow| !row.running && row.unique_key.as_ref() != Some(&unique_key);
        Box::pin(self.cancel_all(binding.clone(), others))
    }

    fn wait(&self, invocation_id: Uuid, at_most: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        Box::pin(self.wait_for_end(invocation_id, at_most))
    }

    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>> {
        Box::pin(async move {
            self.store.skip_fires(skipped.clone()).await.map_err(|error| store_refused(&error))?;
            for fire in skipped {
                let counters = self.ledger.counters(&fire.binding);
                counters.accepted_many(fire.count);
                counters.kept.skipped_many(fire.reason, fire.count);
            }
            Ok(())
        })
    }

    fn paused(&self, binding: &Binding) -> Option<Arc<str>> {
        self.gates.paused(binding)
    }

    fn set_gate(&self, binding: &Binding, gate: Gate) {
        self.gates.set(binding, gate, self.now());
        self.queue_wake.wake();
    }

    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        Box::pin(async move { self.store.status(invocation_id).await.map_err(|error| store_refused(&error)) })
    }

    fn last_scheduled(&self, binding: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>> {
        let binding = binding.clone();
        Box::pin(async move { self.store.last_scheduled(binding).await.map_err(|error| store_refused(&error)) })
    }

    fn count_shed(&self, binding: &Binding, reason: Shed, events: u64) {
        let counters = self.ledger.counters(binding);
        counters.accepted_many(events);
        counters.told.shed(reason, events);
    }

    fn count_gap(&self, binding: &Binding) {
        self.ledger.counters(binding).gap();
    }
}
