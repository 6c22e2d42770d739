//! What holds, and what each mistake breaks.

use super::*;
use crate::check;

/// Two nodes, three instants.
fn schedule() -> Cron {
    Cron {
        instants: 3,
        clocks: &[&[0, 0], &[-1, 0], &[-1, 1]],
        missed: Missed::All,
        skips_overlaps: false,
        restarts: true,
        crashes: 2,
        lost_answers: 1,
        mistake: None,
    }
}

#[test]
fn every_instant_fires_once_however_many_nodes_look() {
    check::holds(&schedule(), 14_000);
    check::holds(&Cron { clocks: &[&[-1, 0, 1]], ..schedule() }, 55_000);
}

#[test]
fn every_instant_fires_once_while_one_node_lives_on() {
    check::holds(&Cron { restarts: false, clocks: &[&[0, 0, 0], &[-1, 0, 1]], ..schedule() }, 24_000);
}

/// Whether an earlier fire runs is looked up before the insert: fires only end meanwhile, and none begins but by it.
#[test]
fn an_instant_skipped_for_an_overlap_is_decided_once() {
    check::holds(&Cron { skips_overlaps: true, ..schedule() }, 13_000);
}

#[test]
fn nodes_that_disagree_on_what_is_missed_decide_once() {
    check::holds(&Cron { missed: Missed::One, ..schedule() }, 37_000);
    check::holds(&Cron { missed: Missed::One, skips_overlaps: true, ..schedule() }, 26_000);
}

#[test]
fn a_fire_inserted_after_a_look_alone_is_found() {
    let world = Cron { mistake: Some(Mistake::CheckThenInsert), ..schedule() };
    let steps = check::breaks(&world, DECIDED_ONCE);
    let inserts = steps.iter().filter(|step| matches!(step, Step::Insert { .. })).count();
    assert_eq!(inserts, 2, "one instant, inserted twice: {steps:?}");
}

#[test]
fn a_record_written_before_the_fire_is_found() {
    let world = Cron { mistake: Some(Mistake::RecordFirst), ..schedule() };
    check::breaks(&world, RECORDED);
    let steps = check::breaks(&world, ALL_FIRED);
    assert!(steps.iter().any(|step| matches!(step, Step::Crash { .. })), "the fire was never written: {steps:?}");
}
