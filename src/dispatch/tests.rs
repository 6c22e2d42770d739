//! The dispatcher against a real store, with native handlers in place of guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use trigger_core::testing::eventually;
use trigger_core::{
    Answer, Binding, Clock, Custody, DeadReason, Dispatch as _, Failure, FailureCode, InvocationContext, Kind, Message,
    Recipients, Response, Shed, SkipReason, SocketCommand, SocketEffect, SocketFrame, SocketMember, Sockets,
    StatusState,
};

use super::{Dispatcher, Parts, Settings};
use crate::bus::memory::MemoryBus;
use crate::executor::native::NativeExecutor;
use crate::executor::{Abi, Attempt, Effects};
use crate::functions::{Definition, Digest, Jitter, Registry, Versions};
use crate::store::sqlite::{SqliteSettings, SqliteStore};
use crate::store::{DeadLetterPage, Deploy, Redriven, Store};
use crate::traces::{Outcome, Ring};

mod circuit;
mod effects;
mod invoke;
mod meanwhile;
mod on_a_virtual_clock;

struct Rig {
    dispatcher: Arc<Dispatcher>,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    versions: Arc<Versions>,
    ring: Arc<Ring>,
    bus: Arc<MemoryBus>,
    told: Arc<Told>,
}

fn definition() -> Definition {
    let mut definition = Definition::new("default", "function");
    definition.retry_count = 2;
    definition.retry_delay_seconds = 0.02;
    definition.retry.jitter = Jitter::None;
    definition.dlq_topic = Some("dead.function".to_owned());
    definition
}

/// What was done to sockets.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<SocketCommand>>);

impl Sockets for Told {
    fn serves(&self, _: &str, _: &str) -> bool {
        true
    }

    fn apply(&self, effect: SocketEffect) {
        self.0.lock().unwrap().push(effect.command);
    }

    fn members(&self, _: &str, _: &str, _: &str, _: Option<uuid::Uuid>) -> Vec<SocketMember> {
        Vec::new()
    }

    fn attachment(&self, _: &str, _: &str, _: uuid::Uuid) -> Option<Bytes> {
        None
    }
}

impl Rig {
    async fn new(definition: Definition, settings: Settings, executor: NativeExecutor) -> Self {
        Self::at(Clock::system(), definition, settings, executor).await
    }

    async fn at(clock: Clock, definition: Definition, settings: Settings, executor: NativeExecutor) -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(SqliteSettings::memory()).unwrap());
        let registry = Arc::new(Registry::default());
        let versions = Arc::new(Versions::new(store.clone()));
        let ring = Arc::new(Ring::new(1024));
        let bus = Arc::new(MemoryBus::default());
        let told = Arc::new(Told::default());
        let parts = Parts {
            registry: registry.clone(),
            versions: versions.clone(),
            executor: Arc::new(executor),
            store: store.clone(),
            bus: bus.clone(),
            sockets: Some(told.clone()),
            ring: ring.clone(),
            clock: clock.clone(),
        };
        let dispatcher = Dispatcher::new(settings, parts);
        let rig = Self { dispatcher, store, registry, versions, ring, bus, told };
        rig.deploy(definition).await;
        rig.dispatcher.run();
        rig
    }

    async fn deploy(&self, definition: Definition) {
        let module = Bytes::from_static(b"native");
        let deploy =
            Deploy { definition, digest: Digest::of(&module), module, abi: Abi::Component, triggers: Vec::new() };
        self.store.deploy("default".to_owned(), vec![deploy]).await.unwrap();
        let rows = self.store.functions().await.unwrap();
        self.registry.replace(rows.into_iter().map(|row| self.versions.from_row(row.version)).collect());
        self.dispatcher.routes_changed();
    }

    fn outcomes(&self) -> Vec<(u32, &'static str)> {
        let mut records = self.ring.recent(100);
        records.reverse();
        records.iter().map(|record| (record.attempt, record.outcome.as_str())).collect()
    }
}

fn binding(kind: Kind) -> Arc<Binding> {
    Arc::new(Binding {
        namespace: "default".into(),
        function_name: "function".into(),
        trigger_id: "trigger".into(),
        trigger_type: kind,
    })
}

fn event(custody: Custody) -> InvocationContext {
    InvocationContext::new(binding(Kind::Pubsub), custody, Bytes::from_static(b"payload"))
}

/// Fails with this failure until as many attempts were made, then succeeds.
fn failing(failures: u32, failure: Failure) -> (NativeExecutor, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let counter = made.clone();
    let executor = NativeExecutor::new(move |invocation: &InvocationContext| {
        let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
        let result =
            if number <= failures { Err(failure.clone()) } else { Ok(Response::from(invocation.payload.clone())) };
        Box::pin(async move { native_attempt(result) })
    });
    (executor, made)
}

fn native_attempt(result: Result<Response, Failure>) -> Attempt {
    Attempt {
        result,
        load: Duration::ZERO,
        instantiate: Duration::ZERO,
        run: Duration::from_micros(1),
        cpu: Duration::ZERO,
        fuel_used: None,
        memory_peak_bytes: 0,
        effects: Effects::default(),
        detail: None,
    }
}

fn guest_error() -> Failure {
    Failure::new(FailureCode::GuestError, "no")
}

#[tokio::test]
async fn a_waiting_caller_is_told_and_nothing_is_retried() {
    let (executor, made) = failing(1, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let answer = rig.dispatcher.dispatch(event(Custody::Caller)).await;
    assert!(matches!(answer, Answer::Failed(failure) if failure.code == FailureCode::GuestError));
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Ok(_)));
    assert_eq!(made.load(Ordering::SeqCst), 2);
    assert_eq!(rig.outcomes(), [(1, "failed"), (1, "ok")]);
    assert_eq!(rig.store.depths().await.unwrap(), crate::store::Depths::default(), "no row was written");
}

#[tokio::test]
async fn an_event_nobody_else_has_is_retried_from_a_row() {
    let (executor, _) = failing(2, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Engine)).await, Answer::Kept(_)));
    eventually("the third attempt", || rig.outcomes().len() == 3).await;
    assert_eq!(rig.outcomes(), [(1, "retry"), (2, "retry"), (3, "ok")]);
}

#[tokio::test]
async fn an_event_given_up_on_is_a_dead_letter_and_a_message() {
    use futures_util::StreamExt as _;
    use trigger_core::Bus as _;
    let (executor, _) = failing(u32::MAX, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let mut topic = rig.bus.subscribe("dead.>", None).await.unwrap();
    let event = event(Custody::Engine);
    let id = event.invocation_id;
    rig.dispatcher.dispatch(event).await;
    let message = tokio::time::timeout(Duration::from_secs(10), topic.messages.next()).await.unwrap().unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(envelope["id"], id.to_string());
    assert_eq!(envelope["data"]["reason"], "retries_exhausted");
    assert_eq!(envelope["data"]["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(envelope["data"]["payload"], "payload");
    assert_eq!(message.headers.get_str(trigger_core::bus::DEPTH_HEADER), Some("1"));
    let filter = DeadLetterPage { limit: 10, ..DeadLetterPage::default() };
    let listed = rig.store.dead_letters(filter).await.unwrap();
    assert_eq!((listed[0].invocation_id, listed[0].attempts), (id, 3));
}

#[tokio::test]
async fn a_permanent_failure_dies_at_once_and_a_redrive_runs_it_again() {
    let (executor, made) = failing(1, guest_error().permanent());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let event = event(Custody::Engine);
    let id = event.invocation_id;
    let answer = rig.dispatcher.dispatch(event).await;
    assert!(matches!(answer, Answer::Dead { reason: DeadReason::Permanent, .. }));
    assert_eq!(rig.dispatcher.redrive(id).await.unwrap(), Redriven::Queued);
    eventually("the redriven event to run", || rig.outcomes().last() == Some(&(1, "ok"))).await;
    assert_eq!(rig.dispatcher.redrive(id).await.unwrap(), Redriven::Already);
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_source_that_redelivers_is_asked_to_and_its_attempts_are_ours_to_count() {
    let (executor, _) = failing(u32::MAX, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let first = event(Custody::Source);
    for attempt in 1..=3 {
        let mut delivery = first.clone();
        // Crashes raise a source's count beyond the failed attempts.
        delivery.attempt = if attempt == 1 { 1 } else { attempt + 4 };
        match (attempt, rig.dispatcher.dispatch(delivery).await) {
            (1 | 2, Answer::Retry { .. }) => {}
            (3, Answer::Dead { reason: DeadReason::RetriesExhausted, .. }) => {}
            (attempt, answer) => panic!("attempt {attempt}: {answer:?}"),
        }
    }
    let (dead, _) = rig.store.dead_letter(first.invocation_id).await.unwrap().unwrap();
    let numbers: Vec<u32> = dead.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(rig.store.remembered_attempts(first.invocation_id).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_accepted_event_runs_and_its_result_can_be_asked_for() {
    let (executor, _) = failing(1, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let mut first = event(Custody::Engine);
    first.idempotency_key = Some("key".into());
    let mut second = event(Custody::Engine);
    second.idempotency_key = Some("key".into());
    let accepted = rig.dispatcher.accept(first).await.unwrap();
    let duplicate = rig.dispatcher.accept(second).await.unwrap();
    assert_eq!((duplicate.invocation_id, duplicate.duplicate), (accepted.invocation_id, true));
    eventually("the second attempt", || rig.outcomes() == [(1, "retry"), (2, "ok")]).await;
    let status = rig.dispatcher.status(accepted.invocation_id).await.unwrap().unwrap();
    assert!(matches!(status.state, StatusState::Ok { body, .. } if body == "payload"));
}

#[tokio::test]
async fn what_a_guest_publishes_is_sent_on_success_and_dropped_on_failure() {
    use futures_util::StreamExt as _;
    use trigger_core::Bus as _;
    let attempts = Arc::new(AtomicU32::new(0));
    let executor = NativeExecutor::new(move |_: &InvocationContext| {
        let number = attempts.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            let result = if number == 1 { Err(guest_error()) } else { Ok(Response::default()) };
            let payload = Bytes::from(format!("from attempt {number}"));
            let effect = Message { subject: "made".into(), payload, ..Message::default() };
            let effects = Effects { messages: vec![effect], ..Effects::default() };
            Attempt { effects, ..native_attempt(result) }
        })
    });
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let mut made = rig.bus.subscribe("made", None).await.unwrap();
    rig.dispatcher.dispatch(event(Custody::Engine)).await;
    let message = tokio::time::timeout(Duration::from_secs(10), made.messages.next()).await.unwrap().unwrap();
    assert_eq!(message.payload, "from attempt 2");
}

#[tokio::test]
async fn an_event_that_functions_cause_without_end_is_stopped_and_not_published() {
    let (executor, made) = failing(0, guest_error());
    let rig = Rig::new(definition(), Settings { max_depth: 3, ..Settings::default() }, executor).await;
    let mut allowed = event(Custody::Engine);
    allowed.depth = 3;
    assert!(matches!(rig.dispatcher.dispatch(allowed).await, Answer::Ok(_)));
    let mut deep = event(Custody::Engine);
    deep.depth = 4;
    let id = deep.invocation_id;
    let answer = rig.dispatcher.dispatch(deep).await;
    assert!(matches!(answer, Answer::Dead { reason: DeadReason::DepthExceeded, .. }));
    let (dead, _) = rig.store.dead_letter(id).await.unwrap().unwrap();
    assert!(dead.publish.is_none(), "its message would be the loop's next event");
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

/// Runs until told to end.
fn blocking() -> (NativeExecutor, Arc<tokio::sync::Semaphore>) {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = gate.clone();
    let executor = NativeExecutor::new(move |_: &InvocationContext| {
        let gate = inside.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            native_attempt(Ok(Response::default()))
        })
    });
    (executor, gate)
}

#[tokio::test]
async fn an_overloaded_engine_turns_inline_events_away_and_keeps_queued_ones() {
    let (executor, gate) = blocking();
    let settings =
        Settings { max_concurrency: 1, max_waiting: 1, max_wait: Duration::from_millis(50), ..Settings::default() };
    let rig = Rig::new(definition(), settings, executor).await;
    let (held, ()) = tokio::join!(rig.dispatcher.dispatch(event(Custody::Caller)), async {
        eventually("the first attempt to hold the slot", || rig.dispatcher.running() == 1).await;
        let answer = rig.dispatcher.dispatch(event(Custody::Caller)).await;
        assert!(matches!(answer, Answer::Shed { reason: Shed::Overload, .. }));
        rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
        gate.add_permits(2);
    });
    assert!(matches!(held, Answer::Ok(_)));
    eventually("the queued event to run", || rig.outcomes().iter().filter(|(_, word)| *word == "ok").count() == 2)
        .await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_record() {
    let (executor, _gate) = blocking();
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let gone = tokio::time::timeout(Duration::from_millis(20), rig.dispatcher.dispatch(event(Custody::Caller))).await;
    assert!(gone.is_err());
    assert_eq!(rig.outcomes(), [(1, "cancelled")]);
    assert_eq!(rig.dispatcher.running(), 0);
}

#[tokio::test]
async fn an_attempt_cut_by_shutdown_is_kept_and_not_counted() {
    let (executor, _gate) = blocking();
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let accepted = rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the attempt to begin", || rig.dispatcher.running() == 1).await;
    let inline = event(Custody::Engine);
    let inline_id = inline.invocation_id;
    let (answer, ()) = tokio::join!(rig.dispatcher.dispatch(inline), async {
        eventually("both attempts to run", || rig.dispatcher.running() == 2).await;
        rig.dispatcher.drain(Duration::from_millis(20)).await;
    });
    assert!(matches!(answer, Answer::Cancelled));
    for id in [accepted.invocation_id, inline_id] {
        let status = rig.store.status(id).await.unwrap().unwrap();
        assert!(matches!(status.state, StatusState::Queued { .. }), "{status:?}");
        assert_eq!(status.attempts, 0, "a cut attempt is not counted");
    }
    let refused = rig.dispatcher.accept(event(Custody::Engine)).await.unwrap_err();
    assert_eq!(refused.reason, Shed::ShuttingDown);
}

#[tokio::test]
async fn a_retry_stays_on_the_version_that_it_began_with() {
    let gate = Arc::new(AtomicU32::new(0));
    let made = gate.clone();
    let executor = NativeExecutor::new(move |_: &InvocationContext| {
        let number = made.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { native_attempt(if number == 0 { Err(guest_error()) } else { Ok(Response::default()) }) })
    });
    let mut first = definition();
    first.retry_delay_seconds = 0.2;
    let rig = Rig::new(first, Settings::default(), executor).await;
    rig.dispatcher.dispatch(event(Custody::Engine)).await;
    let mut second = definition();
    second.timeout_seconds = 3.0;
    rig.deploy(second).await;
    assert_eq!(rig.registry.route("default", "function").unwrap().version.load().number, 2);
    eventually("the retry", || rig.outcomes().len() == 2).await;
    let records = rig.ring.recent(1);
    assert_eq!(records[0].outcome, Outcome::Ok);
    assert_eq!(records[0].version.as_ref().unwrap().number, 1);
    rig.dispatcher.dispatch(event(Custody::Engine)).await;
    assert_eq!(rig.ring.recent(1)[0].version.as_ref().unwrap().number, 2);
}

#[tokio::test]
async fn a_private_function_is_not_for_strangers() {
    let (executor, _) = failing(0, guest_error());
    let mut private = definition();
    private.is_public = false;
    let rig = Rig::new(private, Settings::default(), executor).await;
    let mut stranger = InvocationContext::new(binding(Kind::Http), Custody::Caller, Bytes::new());
    let answer = rig.dispatcher.dispatch(stranger.clone()).await;
    assert!(matches!(answer, Answer::Shed { reason: Shed::Forbidden, .. }));
    stranger.caller = Some("someone".into());
    assert!(matches!(rig.dispatcher.dispatch(stranger).await, Answer::Ok(_)));
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Ok(_)));
}

#[tokio::test]
async fn a_function_that_is_gone_is_skipped() {
    let (executor, made) = failing(0, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    rig.registry.replace(Vec::new());
    rig.dispatcher.routes_changed();
    let answer = rig.dispatcher.dispatch(event(Custody::Caller)).await;
    assert!(matches!(answer, Answer::Skipped(SkipReason::Disabled)));
    assert_eq!(rig.outcomes(), [(1, "skipped")]);
    assert_eq!(made.load(Ordering::SeqCst), 0);
    assert!(rig.dispatcher.accept(event(Custody::Engine)).await.is_err());
}
