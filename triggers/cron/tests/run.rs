//! The trigger at work, on tokio's paused clock: a wall clock that can be set, and a store that can be away.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Custody, Dispatch, FireCause, Gate, InvocationContext, Kind,
    Problems, Refused, Shed, SkippedFire, Status, Trigger, TriggerContext, TriggerKind, display_path,
};
use trigger_cron::{Clock, Config, Cron};
use uuid::Uuid;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A wall clock that runs with tokio's clock and can be set.
#[derive(Clone)]
struct WallClock {
    began: Instant,
    from: DateTime<Utc>,
    set_by_ms: Arc<AtomicI64>,
}

impl WallClock {
    fn from(text: &str) -> Self {
        Self { began: Instant::now(), from: at(text), set_by_ms: Arc::default() }
    }

    fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.began.elapsed()).unwrap();
        self.from + elapsed + TimeDelta::milliseconds(self.set_by_ms.load(SeqCst))
    }

    fn set_by(&self, step: TimeDelta) {
        self.set_by_ms.fetch_add(step.num_milliseconds(), SeqCst);
    }

    fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// A store that counts what it is asked, keeps the newest schedule time and can hang.
struct Store {
    fake: Arc<FakeDispatch>,
    offered: AtomicUsize,
    hangs: AtomicBool,
    loses_skips: AtomicBool,
    cancels: AtomicUsize,
    batches: Mutex<Vec<usize>>,
}

impl Store {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            fake: FakeDispatch::echo(),
            offered: AtomicUsize::default(),
            hangs: AtomicBool::default(),
            loses_skips: AtomicBool::default(),
            cancels: AtomicUsize::default(),
            batches: Mutex::default(),
        })
    }

    fn away() -> Refused {
        Refused {
            reason: Shed::StoreUnavailable,
            message: "the store is away".into(),
            retry_after: Duration::from_millis(1),
        }
    }

    /// Each row about skipped fires, as `missed 9: 11:51:00 to 11:59:00`.
    fn skipped(&self) -> Vec<String> {
        let row = |fire: &SkippedFire| {
            let [first, last] = [fire.scheduled_at, fire.until].map(|moment| moment.format("%H:%M:%S").to_string());
            format!("{} {}: {first} to {last}", fire.reason.as_str(), fire.count)
        };
        self.fake.skipped_fires().iter().map(row).collect()
    }

    fn goes_away(&self) {
        *self.fake.refuse.lock().unwrap() = Some(Self::away());
    }

    fn returns(&self) {
        *self.fake.refuse.lock().unwrap() = None;
    }

    fn recorded(&self, last: &str) {
        *self.fake.last_scheduled.lock().unwrap() = Some(at(last));
    }

    /// Each fire's schedule time, as `15T12:01:00`, and how many it says were missed.
    fn fires(&self) -> Vec<(String, u64)> {
        let fire = |event: &InvocationContext| {
            let payload: Value = serde_json::from_slice(&event.payload).unwrap();
            (event.scheduled_at.unwrap().format("%dT%H:%M:%S").to_string(), payload["missed"].as_u64().unwrap())
        };
        self.fake.accepted().iter().map(fire).collect()
    }

    fn times(&self) -> Vec<String> {
        self.fires().into_iter().map(|(time, _)| time).collect()
    }

    /// The span between an event's schedule time and the handing over.
    fn late(&self, index: usize) -> TimeDelta {
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
}

/// One node that runs one cron trigger.
struct Node {
    cx: TriggerContext,
    tasks: TaskTracker,
}

impl Node {
    async fn start(schedule: &str, clock: Clock, store: &Arc<Store>) -> Self {
        Self::start_with(Config::new(schedule, "UTC"), clock, store).await
    }

    async fn start_with(config: Config, clock: Clock, store: &Arc<Store>) -> Self {
        let mut cx = store.fake.context(Kind::Cron, "nightly");
        cx.dispatch = store.clone();
        let trigger = Cron::with_clock(clock).bind(config, cx.binding.clone()).await.unwrap();
        let tasks = TaskTracker::new();
        let running = trigger.run(cx.clone());
        tasks.spawn(async move { running.await.unwrap() });
        tasks.close();
        Self { cx, tasks }
    }

    fn health(&self) -> Option<String> {
        self.cx.health.borrow().clone()
    }

    /// Asks it to stop and says how long that took.
    async fn stop(self) -> Duration {
        let asked = Instant::now();
        self.cx.shutdown.cancel();
        timeout(secs(60), self.tasks.wait()).await.expect("the trigger stops");
        asked.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn fires_come_at_their_instants() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30.250Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(29)).await;
    assert_eq!(store.times(), Vec::<String>::new(), "nothing comes early, and nothing at the start");
    sleep(secs(125)).await;
    assert_eq!(store.times(), ["15T12:01:00", "15T12:02:00", "15T12:03:00"]);
    for index in 0..3 {
        assert_eq!(store.late(index), TimeDelta::zero());
    }
    assert_eq!(node.health(), None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_says_when_it_was_due_and_what_it_is() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let mut cx = store.fake.context(Kind::Cron, "nightly");
    cx.dispatch = store.clone();
    let config = Config::new("0 3 * * MON-FRI", "Europe/Paris");
    let trigger = Cron::with_clock(wall.clock()).bind(config, cx.binding.clone()).await.unwrap();
    let tasks = TaskTracker::new();
    let running = trigger.run(cx.clone());
    tasks.spawn(async move { running.await.unwrap() });
    sleep(secs(4 * 24 * 60 * 60)).await;
    let events = store.fake.accepted();
    let event = &events[0];
    let due = at("2026-05-18T01:00:00Z");
    assert_eq!(event.scheduled_at, Some(due));
    assert_eq!(event.received_at, due);
    assert_eq!(event.idempotency_key.as_deref(), Some("2026-05-18T01:00:00Z"));
    assert_eq!(event.custody, Custody::Engine);
    assert_eq!(&*event.subject, "nightly");
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.binding, cx.binding);
    assert_eq!(
        serde_json::from_slice::<Value>(&event.payload).unwrap(),
        json!({
            "scheduled_at": "2026-05-18T01:00:00Z",
            "fired_at": "2026-05-18T01:00:00.000Z",
            "schedule": "0 3 * * MON-FRI",
            "timezone": "Europe/Paris",
            "missed": 0,
            "cause": "due",
        })
    );
    cx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_another_node_has_is_no_error() {
    let store = Store::new();
    let wall = WallClock::from("2026-05-15T12:00:30Z");
    let ahead = WallClock::from("2026-05-15T12:00:30.400Z");
    let one = Node::start("* * * * *", wall.clock(), &store).await;
    let other = Node::start("* * * * *", ahead.clock(), &store).await;
    sleep(secs(180)).await;
    assert_eq!(store.offered.load(SeqCst), 6, "each node offered each instant once");
    let expected = ["15T12:01:00", "15T12:02:00", "15T12:03:00"].map(|time| (time.to_owned(), 0));
    assert_eq!(store.fires(), expected, "and each instant has one fire");
    assert_eq!((one.health(), other.health()), (None, None));
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_fire_is_offered_until_it_is_taken() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:59Z"), Store::new());
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(58 * 60)).await;
    store.goes_away();
    assert_eq!(node.health(), None, "a store that is away hurts nobody while nothing is due");
    sleep(secs(11 * 60)).await;
    assert!(node.health().unwrap().contains("the store is away"));
    let offered = store.offered.load(SeqCst);
    assert!((120..=250).contains(&offered), "offered {offered} times in ten minutes, at most every 2.5 to 5 seconds");
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert!(store.late(0) >= TimeDelta::minutes(9), "{}", store.late(0));
    assert_eq!(node.health(), None);
    sleep(secs(60 * 60)).await;
    assert_eq!(store.times(), ["15T13:00:00", "15T14:00:00"]);

    sleep(secs(50 * 60 - 15)).await;
    store.goes_away();
    let offered = store.offered.load(SeqCst);
    sleep(Duration::from_millis(13_500)).await;
    let offers = store.offered.load(SeqCst) - offered;
    assert!(offers >= 4, "the next outage begins with short waits again, yet {offers} offers came in 2.5 seconds");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn instants_that_pass_while_the_store_is_away_are_counted_and_not_run() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    store.goes_away();
    sleep(secs(290)).await;
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T12:01:00".to_owned(), 0), ("15T12:06:00".to_owned(), 4)]);
    sleep(secs(60)).await;
    assert_eq!(store.fires()[2], ("15T12:07:00".to_owned(), 0), "the count begins anew with each fire");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn instants_that_another_node_ran_meanwhile_are_not_missed() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(31)).await;
    store.recorded("2026-05-15T12:09:00Z");
    wall.set_by(TimeDelta::minutes(9));
    sleep(secs(30)).await;
    assert_eq!(store.fires(), [("15T12:01:00".to_owned(), 0), ("15T12:10:00".to_owned(), 0)]);
    node.stop().await;
}

/// The fires and the skipped ranges after ten minutes of downtime, of a trigger of minutes that starts again at 12:00:30.
async fn after_downtime(missed: Value) -> (Vec<(String, u64)>, Vec<String>) {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    let config = serde_json::from_value(json!({ "schedule": "* * * * *", "missed": missed })).unwrap();
    let node = Node::start_with(config, wall.clock(), &store).await;
    sleep(secs(60)).await;
    node.stop().await;
    (store.fires(), store.skipped())
}

#[tokio::test(start_paused = true)]
async fn downtime_is_made_up_for_as_the_policy_says() {
    let fires = |fires: &[(&str, u64)]| {
        fires.iter().map(|(time, missed)| (format!("15T{time}:00"), *missed)).collect::<Vec<_>>()
    };
    assert_eq!(
        after_downtime(json!("skip")).await,
        (fires(&[("12:00", 9), ("12:01", 0)]), vec!["missed 9: 11:51:00 to 11:59:00".to_owned()]),
        "12:00 is half a minute late and not missed"
    );
    assert_eq!(
        after_downtime(json!("one")).await,
        (fires(&[("12:00", 9), ("12:01", 0)]), vec!["missed 9: 11:51:00 to 11:59:00".to_owned()])
    );
    assert_eq!(
        after_downtime(json!({ "max": 3 })).await,
        (
            fires(&[("11:58", 7), ("11:59", 0), ("12:00", 0), ("12:01", 0)]),
            vec!["missed 7: 11:51:00 to 11:57:00".to_owned()]
        )
    );
    assert_eq!(
        after_downtime(json!({ "max": 100, "window_seconds": 100 })).await,
        (fires(&[("11:59", 8), ("12:00", 0), ("12:01", 0)]), vec!["missed 8: 11:51:00 to 11:58:00".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_skipped_after_a_long_downtime_is_told_with_the_next_fire() {
    let (wall, store) = (WallClock::from("2026-05-15T12:30:00Z"), Store::new());
    store.recorded("2026-05-15T09:00:00Z");
    let config = serde_json::from_value(json!({ "schedule": "@hourly", "missed": "skip" })).unwrap();
    let node = Node::start_with(config, wall.clock(), &store).await;
    sleep(secs(3_600)).await;
    assert_eq!(store.skipped(), ["missed 3: 10:00:00 to 12:00:00"]);
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 3)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn long_downtime_is_counted_up_to_a_bound() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2016-05-15T11:50:00Z");
    let node = Node::start("* * * * * *", wall.clock(), &store).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(store.fires(), [("15T12:00:30".to_owned(), 10_000), ("15T12:00:31".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rows_about_skipped_fires_come_before_the_fires_or_not_at_all() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    store.loses_skips.store(true, SeqCst);
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(20)).await;
    assert_eq!((store.fires(), store.skipped()), (vec![], vec![]), "without the row there is no fire");
    assert!(node.health().unwrap().contains("the store is away"));
    store.loses_skips.store(false, SeqCst);
    sleep(secs(6)).await;
    assert_eq!(store.skipped(), ["missed 9: 11:51:00 to 11:59:00"]);
    assert_eq!(store.fires(), [("15T12:00:00".to_owned(), 9)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_trigger_leaves_a_row_for_each_hour() {
    let (wall, store) = (WallClock::from("2026-05-15T12:30:30Z"), Store::new());
    let node = Node::start("*/10 * * * *", wall.clock(), &store).await;
    *store.fake.paused.lock().unwrap() = Some("maintenance".into());
    sleep(secs(100 * 60)).await;
    assert_eq!(
        store.skipped(),
        ["paused 2: 12:40:00 to 12:50:00", "paused 6: 13:00:00 to 13:50:00"],
        "14:00 and 14:10 are told when the hour is over or the pause is"
    );
    *store.fake.paused.lock().unwrap() = None;
    sleep(secs(10 * 60)).await;
    assert_eq!(store.skipped()[2..], ["paused 2: 14:00:00 to 14:10:00"]);
    assert_eq!(store.fires(), [("15T14:20:00".to_owned(), 10)]);

    *store.fake.paused.lock().unwrap() = Some("again".into());
    sleep(secs(10 * 60)).await;
    node.stop().await;
    assert_eq!(store.skipped()[3..], ["paused 1: 14:30:00 to 14:30:00"], "nor is it forgotten at the end");
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_is_replaced_leaves_nothing_behind_and_misses_nothing() {
    let (wall, store) = (WallClock::from("2026-05-15T11:59:30Z"), Store::new());
    let cron = Cron::with_clock(wall.clock());
    let mut cx = store.fake.context(Kind::Cron, "nightly");
    cx.dispatch = store.clone();
    let tasks = TaskTracker::new();
    let start = async |schedule: &str| {
        let cx = TriggerContext { shutdown: CancellationToken::new(), ..cx.clone() };
        let trigger = cron.bind(Config::new(schedule, "UTC"), cx.binding.clone()).await.unwrap();
        let shutdown = cx.shutdown.clone();
        let running = trigger.run(cx);
        tasks.spawn(async move { running.await.unwrap() });
        shutdown
    };
    let hourly = start("0 * * * *").await;
    sleep(secs(20 * 60)).await;
    // 12:05 lies after the last fire, but it was no instant while it passed.
    let fives = start("5,25 * * * *").await;
    sleep(secs(1)).await;
    hourly.cancel();
    sleep(secs(10 * 60)).await;
    assert_eq!(store.times(), ["15T12:00:00", "15T12:25:00"]);
    assert_eq!(store.skipped(), Vec::<String>::new());
    fives.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn fires_that_do_not_overlap_have_one_ordering_key() {
    for (overlap, limit) in [
        ("skip", Some(Some(1))),
        ("buffer_one", Some(Some(2))),
        ("buffer_all", Some(None)),
        ("cancel_other", Some(None)),
        ("allow", None),
    ] {
        let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
        let config = serde_json::from_value(json!({ "schedule": "* * * * *", "overlap": overlap })).unwrap();
        let node = Node::start_with(config, wall.clock(), &store).await;
        sleep(secs(31)).await;
        node.stop().await;
        let events = store.fake.accepted();
        let terms = events[0].terms.as_ref().unwrap();
        assert_eq!(terms.ordering.as_ref().map(|ordering| ordering.limit), limit, "{overlap}");
        assert_eq!(terms.fire, Some(FireCause::Due));
        assert_eq!(store.cancels.load(SeqCst), usize::from(overlap == "cancel_other"), "{overlap}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_pauses_on_failure_tells_the_engine_so() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    for pauses in [true, false] {
        let config = serde_json::from_value(json!({ "schedule": "@daily", "pause_on_failure": pauses })).unwrap();
        let node = Node::start_with(config, wall.clock(), &store).await;
        sleep(secs(1)).await;
        node.stop().await;
        assert_eq!(store.fake.gates().last().map(|(_, gate)| gate.pause_on_failure), Some(pauses));
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_and_spread_delay_fires_the_same_on_every_node_and_change_no_identity() {
    let late_by = async || {
        let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
        let config = json!({ "schedule": "* * * * *", "jitter_seconds": 20, "spread_seconds": 30 });
        let node = Node::start_with(serde_json::from_value(config).unwrap(), wall.clock(), &store).await;
        sleep(secs(5 * 60)).await;
        node.stop().await;
        let due: Vec<_> = store.fires().into_iter().collect();
        (due, (0..4).map(|index| store.late(index)).collect::<Vec<_>>())
    };
    let (due, late) = late_by().await;
    let minutes = ["15T12:01:00", "15T12:02:00", "15T12:03:00", "15T12:04:00"];
    assert_eq!(due[..4], minutes.map(|time| (time.to_owned(), 0)));
    assert!(late.iter().all(|late| *late >= TimeDelta::zero() && *late < TimeDelta::seconds(51)), "{late:?}");
    assert!(late.windows(2).any(|pair| pair[0] != pair[1]), "jitter differs from fire to fire: {late:?}");
    assert_eq!(late_by().await.1, late);
}

#[tokio::test(start_paused = true)]
async fn many_triggers_of_one_moment_are_handed_over_in_few_batches() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let (cron, tasks, shutdown) = (Cron::with_clock(wall.clock()), TaskTracker::new(), CancellationToken::new());
    for number in 0..1_500 {
        let mut cx = store.fake.context(Kind::Cron, &format!("trigger-{number}"));
        (cx.dispatch, cx.shutdown) = (store.clone(), shutdown.clone());
        let trigger = cron.bind(Config::new("* * * * *", "UTC"), cx.binding.clone()).await.unwrap();
        let running = trigger.run(cx);
        tasks.spawn(async move { running.await.unwrap() });
    }
    sleep(secs(31)).await;
    assert_eq!(store.fires().len(), 1_500);
    assert_eq!(store.batches.lock().unwrap()[..], [1_000, 500]);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_at_the_start_costs_no_fire() {
    let (wall, store) = (WallClock::from("2026-05-15T12:59:50Z"), Store::new());
    store.recorded("2026-05-15T12:00:00Z");
    store.goes_away();
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    assert!(node.health().unwrap().contains("the store is away"));
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert_eq!(node.health(), None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_fires_nothing_twice() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(155)).await;
    wall.set_by(TimeDelta::minutes(-2));
    sleep(secs(150)).await;
    assert_eq!(store.times(), ["15T12:01:00", "15T12:02:00", "15T12:03:00"]);
    assert_eq!(store.offered.load(SeqCst), 3, "the store was not even asked");
    sleep(secs(60)).await;
    assert_eq!(store.times()[3..], ["15T12:04:00"]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_while_waiting_does_not_fire_early() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(20)).await;
    wall.set_by(TimeDelta::seconds(-45));
    sleep(secs(50)).await;
    assert_eq!(store.times(), Vec::<String>::new(), "it is 12:00:55");
    sleep(secs(6)).await;
    assert_eq!(store.times(), ["15T12:01:00"]);
    assert_eq!(store.late(0), TimeDelta::zero());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_corrected_by_a_year_goes_on_from_its_new_time() {
    let (wall, store) = (WallClock::from("2027-05-15T12:00:30Z"), Store::new());
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(1)).await;
    wall.set_by(TimeDelta::days(-365));
    sleep(secs(60 * 60)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert_eq!(store.fake.accepted()[0].scheduled_at, Some(at("2026-05-15T13:00:00Z")));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_over_instants_fires_once_and_says_how_many_were_missed() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(5)).await;
    wall.set_by(TimeDelta::seconds(390));
    sleep(secs(26)).await;
    assert_eq!(store.fires(), [("15T12:07:00".to_owned(), 6)], "12:01 to 12:07: seven instants, one fire");
    sleep(secs(60)).await;
    assert_eq!(store.fires()[1..], [("15T12:08:00".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_jump_is_seen_within_thirty_seconds_however_far_the_next_instant_was() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:00Z"), Store::new());
    let node = Node::start("@yearly", wall.clock(), &store).await;
    sleep(secs(1)).await;
    wall.set_by(TimeDelta::days(300));
    sleep(secs(30)).await;
    assert_eq!(store.fires(), [("01T00:00:00".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_slower_than_the_sleep_does_not_fire_early() {
    let store = Store::new();
    let (began, from) = (Instant::now(), at("2026-05-15T12:00:30Z"));
    // Nine seconds pass on the wall while ten pass for tokio.
    let slow: Clock = Arc::new(move || from + TimeDelta::from_std(began.elapsed() * 9 / 10).unwrap());
    let node = Node::start("* * * * *", slow, &store).await;
    sleep(secs(10 * 60)).await;
    assert_eq!(store.times().len(), 9);
    for index in 0..9 {
        let late = store.late(index);
        assert!(late >= TimeDelta::zero() && late < TimeDelta::milliseconds(10), "{late}");
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_over_waits_for_the_end() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("0 0 0 1 1 * 2020", wall.clock(), &store).await;
    sleep(secs(60 * 60)).await;
    assert_eq!((store.times().len(), node.health()), (0, None));
    assert_eq!(node.stop().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_prompt_while_waiting_and_while_refused() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let waiting = Node::start("@yearly", wall.clock(), &store).await;
    sleep(secs(7)).await;
    assert_eq!(waiting.stop().await, Duration::ZERO);

    let refused = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(1)).await;
    store.goes_away();
    sleep(secs(60)).await;
    assert!(refused.health().is_some());
    assert_eq!(refused.stop().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_a_little_for_a_fire_that_is_being_handed_over() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.hangs.store(true, SeqCst);
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(31)).await;
    assert_eq!(store.offered.load(SeqCst), 1);
    assert_eq!(node.stop().await, secs(5));
}

/// What was logged, one line an event.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn missed_fires_are_logged_in_one_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    let warnings = lines.warnings();
    assert_eq!(warnings.len(), 1, "told at the start and not again at the fire: {warnings:?}");
    assert!(warnings[0].contains("9 fires were missed"), "{warnings:?}");
    assert!(warnings[0].contains("default/function/nightly"), "{warnings:?}");

    wall.set_by(TimeDelta::minutes(5));
    sleep(secs(60)).await;
    let warnings = lines.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("4 fires were missed"), "{warnings:?}");
    node.stop().await;
}

#[test]
fn check_tells_every_mistake_with_its_path_and_a_way_out() {
    let mut problems = Problems::new();
    let config = Config::new("0 0 30 2 *", "Europe/Pariss");
    problems.within("triggers", |problems| problems.within(0, |problems| Cron::default().check(&config, problems)));
    let told: Vec<_> = problems
        .into_vec()
        .into_iter()
        .map(|problem| (display_path(&problem.path).to_string(), problem.message, problem.help.unwrap()))
        .collect();
    let expected = [
        ("triggers[0].timezone", "unknown time zone \"Europe/Pariss\"", "did you mean \"Europe/Paris\"?"),
        (
            "triggers[0].schedule",
            "\"0 0 30 2 *\" never comes",
            "no day matches all of its fields; \"L\" is a month's last day",
        ),
    ];
    assert_eq!(told, expected.map(|(path, message, help)| (path.to_owned(), message.to_owned(), help.to_owned())));

    let mut problems = Problems::new();
    let config = Config::new("*/15 9-17 * * MON-FRI", "Europe/Paris");
    Cron::new().check(&config, &mut problems);
    assert!(problems.is_empty());
    assert_eq!(Cron::new().describe(&config), "*/15 9-17 * * MON-FRI Europe/Paris");
}

#[tokio::test]
async fn what_check_refuses_is_not_bound() {
    let cx = FakeDispatch::echo().context(Kind::Cron, "nightly");
    let config = Config::new("61 * * * *", "Mars");
    let error = Cron::new().bind(config, cx.binding).await.err().unwrap().to_string();
    assert!(
        error.starts_with("timezone: unknown time zone \"Mars\"; schedule: the minute field has \"61\""),
        "{error}"
    );
}
