//! Functions that fail again and again are left alone, and nothing is lost or used up meanwhile.

use chrono::TimeDelta;

use super::*;
use crate::advance::{Advance, Limits};
use crate::functions::CircuitBreaker;

struct Broken {
    rig: Rig,
    clock: Clock,
    advance: Advance,
    made: Arc<AtomicU32>,
}

impl Broken {
    /// A function that fails so often before it works, whose circuit opens for a minute after three failures.
    async fn new(failures: u32) -> Self {
        let (executor, made) = failing(failures, guest_error());
        let definition = Definition {
            circuit_breaker: Some(CircuitBreaker { failures: 3, open_seconds: 60.0 }),
            retry_count: 1,
            ..definition()
        };
        let clock = Clock::standing_at("2027-01-01T00:00:00Z".parse().unwrap());
        let rig = Rig::at(clock.clone(), definition, Settings::default(), executor).await;
        let advance = Advance::new(rig.dispatcher.clone(), rig.store.clone());
        Self { rig, clock, advance, made }
    }

    fn event(&self, custody: Custody) -> InvocationContext {
        InvocationContext::arrived_at(binding(Kind::Pubsub), custody, Bytes::from_static(b"payload"), self.clock.now())
    }

    async fn pass(&self, seconds: i64) {
        self.advance.to(self.clock.now() + TimeDelta::seconds(seconds), Limits::default()).await.unwrap();
    }

    fn made(&self) -> u32 {
        self.made.load(Ordering::SeqCst)
    }

    async fn open(&self) {
        for _ in 0..3 {
            assert!(matches!(self.rig.dispatcher.dispatch(self.event(Custody::Caller)).await, Answer::Failed(_)));
        }
    }

    async fn balanced(&self) {
        self.rig.dispatcher.tell_ledger().await;
        for row in self.rig.store.ledger().await.unwrap() {
            assert_eq!(row.drift(), 0, "{row:?}");
        }
    }
}

#[tokio::test]
async fn an_open_circuit_turns_callers_away_and_keeps_what_nobody_else_has() {
    let broken = Broken::new(5).await;
    let dispatcher = &broken.rig.dispatcher;
    broken.open().await;
    let minute = Duration::from_secs(60);
    for custody in [Custody::Caller, Custody::Source] {
        let answer = dispatcher.dispatch(broken.event(custody)).await;
        assert!(
            matches!(answer, Answer::Shed { reason: Shed::CircuitOpen, retry_after } if retry_after == minute),
            "{answer:?}"
        );
    }
    let kept = dispatcher.dispatch(broken.event(Custody::Engine)).await;
    assert!(matches!(kept, Answer::Kept(Failure { retry_after: Some(after), .. }) if after == minute), "{kept:?}");
    for _ in 0..3 {
        dispatcher.accept(broken.event(Custody::Engine)).await.unwrap();
    }
    broken.pass(59).await;
    assert_eq!((broken.made(), broken.rig.store.depths().await.unwrap().queued), (3, 4), "nothing was tried");

    // One attempt a minute looks whether it works, and the third of them finds that it does.
    for (probes, queued) in [(1, 4), (2, 4), (6, 0)] {
        broken.pass(if probes == 1 { 1 } else { 60 }).await;
        assert_eq!((broken.made() - 3, broken.rig.store.depths().await.unwrap().queued), (probes, queued));
    }
    let outcomes = broken.rig.outcomes();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == (1, "ok")).count(), 4, "no probe cost one: {outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.1 == "retry").count(), 2);
    assert_eq!(broken.rig.store.depths().await.unwrap(), crate::store::Depths::default(), "none was given up on");
    assert!(matches!(dispatcher.dispatch(broken.event(Custody::Caller)).await, Answer::Ok(_)));
    broken.balanced().await;
}

#[tokio::test]
async fn rows_that_fail_open_the_circuit_and_are_not_given_up_on_while_it_is() {
    let broken = Broken::new(40).await;
    for _ in 0..20 {
        broken.rig.dispatcher.accept(broken.event(Custody::Engine)).await.unwrap();
    }
    broken.pass(3600).await;
    let depths = broken.rig.store.depths().await.unwrap();
    assert_eq!((depths.queued, depths.dead), (0, 0), "{:?}", broken.rig.outcomes());
    assert_eq!(broken.made(), 60);
    broken.balanced().await;
}

#[tokio::test]
async fn a_source_that_probes_is_asked_again_and_has_used_up_nothing() {
    let broken = Broken::new(5).await;
    broken.open().await;
    broken.pass(60).await;
    let mut event = broken.event(Custody::Source);
    for delivery in 1..=2 {
        event.attempt = delivery;
        let answer = broken.rig.dispatcher.dispatch(event.clone()).await;
        assert!(matches!(answer, Answer::Retry { after, .. } if after == Duration::from_secs(60)), "{answer:?}");
        broken.pass(60).await;
    }
    event.attempt = 3;
    assert!(matches!(broken.rig.dispatcher.dispatch(event).await, Answer::Ok(_)));
    assert_eq!(broken.rig.outcomes()[3..], [(1, "retry"), (1, "retry"), (1, "ok")]);
    broken.balanced().await;
}

#[tokio::test]
async fn a_function_without_a_breaker_is_always_tried() {
    let (executor, made) = failing(u32::MAX, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    for _ in 0..50 {
        assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Failed(_)));
    }
    assert_eq!(made.load(Ordering::SeqCst), 50);
}
