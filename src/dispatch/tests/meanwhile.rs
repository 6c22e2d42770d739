//! Retries while the caller waits, where its trigger asks for them.

use chrono::TimeDelta;
use trigger_core::Terms;

use super::*;
use crate::advance::{Advance, Limits};

/// An event whose caller waits for up to this many retries, begun within so many seconds.
fn patient(rig: &Rig, retries: u32, within: i64) -> InvocationContext {
    let now = rig.dispatcher.clock().now();
    let mut event =
        InvocationContext::arrived_at(binding(Kind::Http), Custody::Caller, Bytes::from_static(b"payload"), now);
    let expires_at = Some(now + TimeDelta::seconds(within));
    event.terms = Some(Box::new(Terms { retry_count: Some(retries), expires_at, ..Terms::default() }));
    event
}

async fn balanced(rig: &Rig, ends: [(&str, u64); 2]) {
    let counters = rig.dispatcher.ledger().counters(&binding(Kind::Http));
    for (name, count) in ends {
        assert_eq!(counters.sum(name), count, "{name}");
    }
    rig.dispatcher.tell_ledger().await;
    for row in rig.store.ledger().await.unwrap() {
        assert_eq!(row.drift(), 0, "{row:?}");
    }
    assert_eq!(rig.store.depths().await.unwrap(), crate::store::Depths::default(), "no row was written");
}

#[tokio::test]
async fn a_caller_that_waits_for_retries_is_told_of_the_first_success() {
    let (executor, _) = failing(2, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let answer = rig.dispatcher.dispatch(patient(&rig, 2, 60)).await;
    assert!(matches!(answer, Answer::Ok(response) if response.body == "payload"));
    assert_eq!(rig.outcomes(), [(1, "retry"), (2, "retry"), (3, "ok")]);
    balanced(&rig, [("accepted", 1), ("ok", 1)]).await;
}

#[tokio::test]
async fn the_last_failure_is_told_when_no_retry_is_left_or_none_would_help() {
    let (executor, made) = failing(u32::MAX, guest_error());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    assert!(matches!(rig.dispatcher.dispatch(patient(&rig, 1, 60)).await, Answer::Failed(_)));
    assert_eq!(rig.outcomes(), [(1, "retry"), (2, "failed")]);
    assert!(matches!(rig.dispatcher.dispatch(patient(&rig, 0, 60)).await, Answer::Failed(_)));
    assert_eq!(made.load(Ordering::SeqCst), 3);
    balanced(&rig, [("accepted", 2), ("failed", 2)]).await;

    let (executor, made) = failing(u32::MAX, guest_error().permanent());
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    assert!(matches!(rig.dispatcher.dispatch(patient(&rig, 5, 60)).await, Answer::Failed(_)));
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_retry_begins_after_its_time_and_a_virtual_clock_is_moved_to_each() {
    let (executor, made) = failing(u32::MAX, guest_error());
    let mut definition = definition();
    definition.retry_delay_seconds = 4.0;
    let clock = Clock::standing_at("2027-01-01T00:00:00Z".parse().unwrap());
    let rig = Rig::at(clock.clone(), definition, Settings::default(), executor).await;
    let event = patient(&rig, 10, 13);
    let (dispatcher, began) = (rig.dispatcher.clone(), clock.now());
    let told = async { (dispatcher.dispatch(event).await, clock.now() - began) };
    let advance = Advance::new(rig.dispatcher.clone(), rig.store.clone());
    let moved = async {
        eventually("the first attempt", || made.load(Ordering::SeqCst) == 1).await;
        advance.to(began + TimeDelta::minutes(1), Limits::default()).await.unwrap();
    };
    let ((answer, after), ()) = tokio::join!(told, moved);
    assert!(matches!(answer, Answer::Failed(_)));
    // At 0, 4 and 12 s; the next would be at 28 s.
    assert_eq!(rig.outcomes(), [(1, "retry"), (2, "retry"), (3, "failed")]);
    assert!(after >= TimeDelta::seconds(12), "{after}");
}

#[tokio::test]
async fn who_waits_for_a_retry_holds_no_slot_and_may_go_away() {
    let (executor, _) = failing(1, guest_error());
    let mut definition = definition();
    definition.retry_delay_seconds = 60.0;
    let settings = Settings { max_concurrency: 1, max_waiting: 0, ..Settings::default() };
    let rig = Rig::new(definition, settings, executor).await;
    let mut waits = rig.dispatcher.dispatch(patient(&rig, 1, 300));
    assert!(futures_util::poll!(&mut waits).is_pending());
    eventually("the first attempt", || rig.outcomes().len() == 1).await;
    assert!(matches!(rig.dispatcher.dispatch(patient(&rig, 0, 0)).await, Answer::Ok(_)));
    drop(waits);
    assert_eq!(rig.outcomes(), [(1, "retry"), (1, "ok"), (2, "cancelled")]);
    balanced(&rig, [("accepted", 2), ("cancelled", 1)]).await;
}

#[tokio::test]
async fn who_waits_for_a_retry_is_turned_away_at_a_shutdown() {
    let (executor, _) = failing(1, guest_error());
    let mut definition = definition();
    definition.retry_delay_seconds = 60.0;
    let rig = Rig::new(definition, Settings::default(), executor).await;
    let waits = rig.dispatcher.dispatch(patient(&rig, 1, 300));
    let stop = async {
        eventually("the first attempt", || rig.outcomes().len() == 1).await;
        rig.dispatcher.drain(Duration::from_secs(5)).await;
    };
    let (answer, ()) = tokio::join!(waits, stop);
    assert!(matches!(answer, Answer::Shed { reason: Shed::ShuttingDown, .. }));
    balanced(&rig, [("accepted", 1), ("shed", 1)]).await;
}
