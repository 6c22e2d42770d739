//! Hours of retries, leases and schedules in the time that the attempts take.

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::advance::{Advance, Error, Limits, Moved};
use crate::store::{Accept, ClaimRequest, QueuedInvocation};

fn start() -> DateTime<Utc> {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(seconds)
}

/// A rig on a virtual clock whose attempts all fail, or all succeed, and are remembered by their moments.
struct Hours {
    rig: Rig,
    clock: Clock,
    advance: Advance,
    made: Arc<Mutex<Vec<DateTime<Utc>>>>,
}

impl Hours {
    async fn new(definition: Definition, fails: bool) -> Self {
        let clock = Clock::standing_at(start());
        let made = Arc::new(Mutex::new(Vec::new()));
        let (seen, moments) = (clock.clone(), made.clone());
        let executor = NativeExecutor::new(move |_: &InvocationContext| {
            moments.lock().push(seen.now());
            let result = if fails { Err(guest_error()) } else { Ok(Response::default()) };
            Box::pin(async move {
                // Not ready at once: whoever moves the clock on without waiting is found out.
                tokio::task::yield_now().await;
                native_attempt(result)
            })
        });
        let rig = Rig::at(clock.clone(), definition, Settings::default(), executor).await;
        let advance = Advance::new(rig.dispatcher.clone(), rig.store.clone());
        Self { rig, clock, advance, made }
    }

    fn event(&self, custody: Custody) -> InvocationContext {
        InvocationContext::arrived_at(binding(Kind::Job), custody, Bytes::from_static(b"payload"), self.clock.now())
    }

    async fn to(&self, seconds: i64) -> Moved {
        self.advance.to(at(seconds), Limits::default()).await.unwrap()
    }

    /// When attempts were made, in seconds from the start.
    fn made(&self) -> Vec<i64> {
        self.made.lock().iter().map(|moment| (*moment - start()).num_seconds()).collect()
    }
}

/// Doubles from a minute to an hour, for six hours.
fn six_hours() -> Definition {
    let mut definition = definition();
    definition.retry_count = 100;
    definition.retry_delay_seconds = 60.0;
    definition.retry.max_delay_seconds = 3_600.0;
    definition.retry.max_age_seconds = Some(21_600.0);
    definition
}

const SIX_HOURS_OF_ATTEMPTS: [i64; 11] = [0, 60, 180, 420, 900, 1_860, 3_780, 7_380, 10_980, 14_580, 18_180];

#[tokio::test]
async fn six_hours_of_retries_are_made_at_their_moments_and_end_by_age() {
    let hours = Hours::new(six_hours(), true).await;
    let queued = hours.event(Custody::Engine);
    let id = queued.invocation_id;
    hours.rig.dispatcher.accept(queued).await.unwrap();
    hours.to(3_779).await;
    assert_eq!(hours.made(), SIX_HOURS_OF_ATTEMPTS[..6]);
    assert!(hours.to(86_400).await.reached);
    assert_eq!(hours.made(), SIX_HOURS_OF_ATTEMPTS);
    let (dead, _) = hours.rig.store.dead_letter(id).await.unwrap().expect("it has died when the clock is there");
    assert_eq!((dead.reason, dead.died_at), (DeadReason::AgeExceeded, at(18_180)));
    let told: Vec<_> = dead.attempts.iter().map(|attempt| (attempt.started_at - start()).num_seconds()).collect();
    assert_eq!(told, SIX_HOURS_OF_ATTEMPTS, "its account tells the same moments");
    assert_eq!(hours.rig.store.depths().await.unwrap().outbox, 0, "and it has been published");
    let stamped: Vec<_> = hours.rig.ring.recent(100).iter().rev().map(|record| record.started_at).collect();
    assert_eq!(stamped, SIX_HOURS_OF_ATTEMPTS.map(at));
}

#[tokio::test]
async fn an_inline_event_is_retried_by_the_same_clock() {
    let hours = Hours::new(six_hours(), true).await;
    assert!(matches!(hours.rig.dispatcher.dispatch(hours.event(Custody::Engine)).await, Answer::Kept(_)));
    hours.to(86_400).await;
    assert_eq!(hours.made(), SIX_HOURS_OF_ATTEMPTS);
}

#[tokio::test]
async fn a_dead_engines_row_runs_when_its_lease_has_run_out_by_the_clock() {
    let hours = Hours::new(definition(), false).await;
    let invocation = hours.event(Custody::Engine);
    let queued = QueuedInvocation { invocation, run_at: at(10), attempts: Vec::new(), redrive_count: 0 };
    hours.rig.store.accept(Accept { queued: vec![queued], ..Accept::default() }).await.unwrap();
    let request = ClaimRequest { now: at(10), lease_until: at(40), limit: 1, limits: Vec::new() };
    assert_eq!(hours.rig.store.claim(request).await.unwrap().len(), 1, "an engine that then died");
    hours.to(39).await;
    assert!(hours.made().is_empty());
    hours.to(41).await;
    assert_eq!(hours.made(), [41]);
}

#[tokio::test]
async fn the_clock_stands_while_an_attempt_runs_and_says_which() {
    let (executor, gate) = blocking();
    let clock = Clock::standing_at(start());
    let rig = Rig::at(clock.clone(), definition(), Settings::default(), executor).await;
    let advance = Advance::new(rig.dispatcher.clone(), rig.store.clone());
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    let soon = Limits { moment: Duration::from_millis(50), ..Limits::default() };
    let error = advance.to(at(60), soon).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().contains("an attempt of default/function/trigger"), "{error}");
    assert_eq!(clock.now(), start());
    gate.add_permits(1);
    assert!(advance.to(at(60), Limits::default()).await.unwrap().reached);
    assert_eq!(rig.outcomes(), [(1, "ok")]);
}

#[tokio::test]
async fn what_cannot_be_done_with_a_clock_is_told() {
    let (executor, _) = failing(0, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let advance = Advance::new(rig.dispatcher.clone(), rig.store.clone());
    assert!(matches!(advance.to(at(1), Limits::default()).await, Err(Error::NotVirtual)));
    let hours = Hours::new(definition(), false).await;
    hours.to(10).await;
    assert!(matches!(hours.advance.to(at(9), Limits::default()).await, Err(Error::Backwards(_))));
    let none = Limits { call: Duration::ZERO, ..Limits::default() };
    assert_eq!(hours.advance.to(at(20), none).await.unwrap(), Moved { now: at(10), reached: false, stops: 0 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However many rows are due whenever, each runs at its own moment, and all have when the clock is there.
    #[test]
    fn every_row_runs_at_its_moment(due in prop::collection::vec(0i64..5_000, 1..40), target in 0i64..6_000) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let hours = Hours::new(definition(), false).await;
            for due in &due {
                let mut event = hours.event(Custody::Engine);
                event.scheduled_at = Some(at(*due));
                hours.rig.dispatcher.accept(event).await.unwrap();
            }
            hours.to(target).await;
            let mut expected: Vec<i64> = due.into_iter().filter(|due| *due <= target).collect();
            expected.sort_unstable();
            assert_eq!(hours.made(), expected);
        });
    }
}
