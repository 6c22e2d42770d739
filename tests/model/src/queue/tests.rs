//! What holds, and what each mistake breaks.

use super::*;
use crate::check;

/// One event, two nodes, and everything that can go wrong with a claim.
fn claims() -> Queue {
    Queue {
        keys: &[None],
        clocks: &[&[0, 0], &[0, CLOCKS_APART]],
        sources: false,
        topic: false,
        max_attempts: 2,
        budget: Budget { crashes: 1, expiries: 1, renewals: 2, hand_backs: 1, lost_answers: 1, cancels: 1 },
        mistake: None,
    }
}

/// Two events of one key, which come in any order and may be cancelled.
fn keys() -> Queue {
    Queue {
        keys: &[Some(0), Some(0)],
        clocks: &[&[0, 0]],
        sources: true,
        budget: Budget { crashes: 1, expiries: 1, cancels: 1, ..Budget::default() },
        ..claims()
    }
}

/// A source that wants to be told, and a dead letter that wants to be published.
fn ends() -> Queue {
    Queue {
        sources: true,
        topic: true,
        budget: Budget { crashes: 2, expiries: 1, lost_answers: 1, ..Budget::default() },
        ..claims()
    }
}

#[test]
fn a_claim_is_settled_once_whatever_becomes_of_its_node() {
    check::holds(&claims(), 100_000);
}

#[test]
fn three_nodes_one_of_them_ahead_settle_a_row_once() {
    let budget = Budget { crashes: 1, expiries: 2, renewals: 1, hand_backs: 1, lost_answers: 1, cancels: 0 };
    check::holds(&Queue { clocks: &[&[0, 0, CLOCKS_APART]], budget, ..claims() }, 200_000);
}

#[test]
fn two_rows_end_whichever_is_claimed_first() {
    let budget = Budget { crashes: 1, expiries: 1, renewals: 1, hand_backs: 1, ..Budget::default() };
    check::holds(&Queue { keys: &[None, None], clocks: &[&[0, CLOCKS_APART]], budget, ..claims() }, 85_000);
}

#[test]
fn a_key_keeps_its_order_while_its_events_come_and_go() {
    check::holds(&keys(), 100_000);
}

#[test]
fn a_key_with_three_events_keeps_its_order_over_retries_and_crashes() {
    let budget = Budget { crashes: 1, expiries: 1, cancels: 1, hand_backs: 1, ..Budget::default() };
    check::holds(&Queue { keys: &[Some(0); 3], sources: false, budget, ..keys() }, 75_000);
}

#[test]
fn keys_do_not_wait_for_each_other() {
    let budget = Budget { crashes: 1, cancels: 1, ..Budget::default() };
    let keys_of_two = &[Some(0), Some(1), Some(0), Some(1)];
    check::holds(&Queue { keys: keys_of_two, sources: false, max_attempts: 1, budget, ..keys() }, 10_000);
}

#[test]
fn what_is_acknowledged_ends_and_what_dies_is_published() {
    check::holds(&ends(), 75_000);
}

#[test]
fn two_events_are_acknowledged_and_published_whatever_comes_between() {
    let budget = Budget { crashes: 1, ..Budget::default() };
    let world = Queue { keys: &[None, None], clocks: &[&[0, 0]], max_attempts: 1, budget, ..ends() };
    check::holds(&world, 13_000);
}

/// The fence does not depend on clocks: an event may run twice at once then, and is settled once all the same.
#[test]
fn clocks_further_apart_than_a_lease_cost_a_second_run_and_nothing_else() {
    let budget = Budget { crashes: 1, expiries: 1, lost_answers: 1, ..Budget::default() };
    check::breaks_just(&Queue { clocks: &[&[0, LEASE + 1]], budget, ..claims() }, &[ONE_VALID_CLAIM]);
}

fn mistaken(mistake: Mistake, world: Queue) -> Queue {
    Queue { mistake: Some(mistake), ..world }
}

fn has_crash(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Crash { .. }))
}

#[test]
fn a_settle_that_does_not_name_its_token_is_found() {
    // Nothing goes wrong but that a worker is late.
    let late = Queue { budget: Budget { expiries: 1, ..Budget::default() }, ..claims() };
    let world = mistaken(Mistake::TokenUnchecked, late);
    for property in [SETTLED_ONCE, ONE_VALID_CLAIM] {
        let steps = check::breaks(&world, property);
        let claims = steps.iter().filter(|step| matches!(step, Step::Claim { .. })).count();
        assert!(claims > 1 && steps.contains(&Step::Tick), "the first claim's lease ran out: {steps:?}");
    }
}

#[test]
fn a_claim_that_does_not_look_at_the_lease_is_found() {
    let steps = check::breaks(&mistaken(Mistake::LeaseIgnored, claims()), ONE_VALID_CLAIM);
    assert!(!steps.contains(&Step::Tick), "no lease ran out: {steps:?}");
}

#[test]
fn a_key_released_apart_from_its_settle_is_found() {
    let steps = check::breaks(&mistaken(Mistake::ReleaseApart, keys()), ENDS);
    assert!(has_crash(&steps), "the other transaction was never begun: {steps:?}");
}

#[test]
fn a_key_released_by_a_retry_is_found() {
    check::breaks(&mistaken(Mistake::ReleaseAtRetry, keys()), IN_ORDER);
}

/// Two accepts that do not see each other both begin the key; one that saw a row end since waits for nobody.
#[test]
fn a_key_looked_up_before_the_accept_is_found() {
    check::breaks(&mistaken(Mistake::KeyReadBefore, keys()), IN_ORDER);
    check::breaks(&mistaken(Mistake::KeyReadBefore, keys()), ENDS);
}

#[test]
fn a_dead_letter_written_apart_from_the_removal_is_found() {
    check::breaks(&mistaken(Mistake::LetterApart, ends()), BALANCED);
}

#[test]
fn a_message_removed_before_it_is_published_is_found() {
    check::breaks(&mistaken(Mistake::RemovedFirst, ends()), PUBLISHED);
    let steps = check::breaks(&mistaken(Mistake::RemovedFirst, ends()), ENDS);
    assert!(has_crash(&steps), "it was never published: {steps:?}");
}

#[test]
fn a_source_told_before_the_commit_is_found() {
    check::breaks(&mistaken(Mistake::AcknowledgedFirst, ends()), KEPT);
    let steps = check::breaks(&mistaken(Mistake::AcknowledgedFirst, ends()), ENDS);
    assert!(has_crash(&steps), "it was never committed: {steps:?}");
}
