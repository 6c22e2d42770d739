//! A wall clock that can be set, a store that can be away, and a node that runs one trigger.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Dispatch, Gate, InvocationContext, Kind, Refused, Shed,
    SkippedFire, Status, Trigger, TriggerContext, TriggerKind,
};
use trigger_cron::{Clock, Config, Cron};
use uuid::Uuid;

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A wall clock that runs with tokio's clock and can be set.
#[derive(Clone)]
pub(crate) struct WallClock {
    pub(crate) began: Instant,
    pub(crate) from: DateTime<Utc>,
    pub(crate) set_by_ms: Arc<AtomicI64>,
}

impl WallClock {
    pub(crate) fn from(text: &str) -> Self {
        Self { began: Instant::now(), from: at(text), set_by_ms: Arc::default() }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.began.elapsed()).unwrap();
        self.from + elapsed + TimeDelta::milliseconds(self.set_by_ms.load(SeqCst))
    }

    pub(crate) fn set_by(&self, step: TimeDelta) {
        self.set_by_ms.fetch_add(step.num_milliseconds(), SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// A store that counts what it is asked, keeps the newest schedule time and can hang.
pub(crate) struct Store {
    pub(crate) fake: Arc<FakeDispatch>,
    pub(crate) offered: AtomicUsize,
    pub(crate) hangs: AtomicBool,
    pub(crate) loses_skips: AtomicBool,
    pub(crate) cancels: AtomicUsize,
    pub(crate) batches: Mutex<Vec<usize>>,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            fake: FakeDispatch::echo(),
            offered: AtomicUsize::default(),
            hangs: AtomicBool::default(),
            loses_skips: AtomicBool::default(),
            cancels: AtomicUsize::default(),
            batches: Mutex::default(),
        })
    }

    pub(crate) fn away() -> Refused {
        Refused {
            reason: Shed::StoreUnavailable,
            message: "the store is away".into(),
            retry_after: Duration::from_millis(1),
        }
    }

    /// Each row about skipped fires, as `missed 9: 11:51:00 to 11:59:00`.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let row = |fire: &SkippedFire| {
            let [first, last] = [fire.scheduled_at, fire.until].map(|moment| moment.format("%H:%M:%S").to_string());
            format!("{} {}: {first} to {last}", fire.reason.as_str(), fire.count)
        };
        self.fake.skipped_fires().iter().map(row).collect()
    }

    pub(crate) fn goes_away(&self) {
        *self.fake.refuse.lock().unwrap() = Some(Self::away());
    }

    pub(crate) fn returns(&self) {
        *self.fake.refuse.lock().unwrap() = None;
    }

    pub(crate) fn recorded(&self, last: &str) {
        *self.fake.last_scheduled.lock().unwrap() = Some(at(last));
    }

    /// Each fire's schedule time, as `15T12:01:00`, and how many it says were missed.
    pub(crate) fn fires(&self) -> Vec<(String, u64)> {
        let fire = |event: &InvocationContext| {
            let payload: Value = serde_json::from_slice(&event.payload).unwrap();
            (event.scheduled_at.unwrap().format("%dT%H:%M:%S").to_string(), payload["missed"].as_u64().unwrap())
        };
        self.fake.accepted().iter().map(fire).collect()
    }

    pub(crate) fn times(&self) -> Vec<String> {
        self.fires().into_iter().map(|(time, _)| time).collect()
    }

    /// The span between an event's schedule time and the handing over.
    pub(crate) fn late(&self, index: usize) -> TimeDelta {
        let event = &self.fake.accepted()[index];
        let payload: Value = serde_json::from_slice(&event.payload).unwrap();
        at(payload["fired_at"].as_str().unwrap()) - event.scheduled_at.unwrap()
    }
}

impl Dispatch for Store {
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer> {
        self.fake.dispatch(invocation)
    }

    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>> {
        self.offered.fetch_add(1, SeqCst);
        if self.hangs.load(SeqCst) {
            return Box::pin(std::future::pending());
        }
        let due = invocation.scheduled_at;
        Box::pin(async move {
            let accepted = self.fake.accept(invocation).await?;
            let mut last = self.fake.last_scheduled.lock().unwrap();
            *last = (*last).max(due);
            Ok(accepted)
        })
    }

    fn accept_all(&self, invocations: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>> {
        self.batches.lock().unwrap().push(invocations.len());
        Box::pin(async move {
            let mut answers = Vec::new();
            for invocation in invocations {
                answers.push(self.accept(invocation).await);
            }
            answers
        })
    }

    fn cancel(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        self.fake.cancel(invocation_id)
    }

    fn cancel_key(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        self.fake.cancel_key(binding, unique_key)
    }

    fn cancel_live(&self, binding: &Binding) -> BoxFuture<'_, Result<u64, Refused>> {
        self.cancels.fetch_add(1, SeqCst);
        self.fake.cancel_live(binding)
    }

    fn cancel_others(&self, binding: &Binding, unique_key: &str) -> BoxFuture<'_, Result<u64, Refused>> {
        self.fake.cancel_others(binding, unique_key)
    }

    fn wait(&self, invocation_id: Uuid, at_most: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        self.fake.wait(invocation_id, at_most)
    }

    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>> {
        if self.loses_skips.load(SeqCst) {
            return Box::pin(std::future::ready(Err(Self::away())));
        }
        Box::pin(async move {
            let until = skipped.iter().map(|fire| fire.until).max();
            self.fake.skip_fires(skipped).await?;
            let mut last = self.fake.last_scheduled.lock().unwrap();
            *last = (*last).max(until);
            Ok(())
        })
    }

    fn paused(&self, binding: &Binding) -> Option<Arc<str>> {
        self.fake.paused(binding)
    }

    fn set_gate(&self, binding: &Binding, gate: Gate) {
        self.fake.set_gate(binding, gate);
    }

    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        self.fake.status(invocation_id)
    }

    fn last_scheduled(&self, binding: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>> {
        if let Some(refused) = self.fake.refuse.lock().unwrap().clone() {
            return Box::pin(std::future::ready(Err(refused)));
        }
        self.fake.last_scheduled(binding)
    }

    fn count_shed(&self, binding: &Binding, reason: Shed, events: u64) {
        self.fake.count_shed(binding, reason, events);
    }

    fn count_gap(&self, binding: &Binding) {
        self.fake.count_gap(binding);
    }
}

/// One node that runs one cron trigger.
pub(crate) struct Node {
    pub(crate) cx: TriggerContext,
    pub(crate) tasks: TaskTracker,
}

impl Node {
    pub(crate) async fn start(schedule: &str, clock: Clock, store: &Arc<Store>) -> Self {
        Self::start_with(Config::new(schedule, "UTC"), clock, store).await
    }

    pub(crate) async fn start_with(config: Config, clock: Clock, store: &Arc<Store>) -> Self {
        let mut cx = store.fake.context(Kind::Cron, "nightly");
        cx.dispatch = store.clone();
        let trigger = Cron::with_clock(clock).bind(config, cx.binding.clone()).await.unwrap();
        let tasks = TaskTracker::new();
        let running = trigger.run(cx.clone());
        tasks.spawn(async move { running.await.unwrap() });
        tasks.close();
        Self { cx, tasks }
    }

    pub(crate) fn health(&self) -> Option<String> {
        self.cx.health.borrow().clone()
    }

    /// Asks it to stop and says how long that took.
    pub(crate) async fn stop(self) -> Duration {
        let asked = Instant::now();
        self.cx.shutdown.cancel();
        timeout(secs(60), self.tasks.wait()).await.expect("the trigger stops");
        asked.elapsed()
    }
}
