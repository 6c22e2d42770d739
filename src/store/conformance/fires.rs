//! A schedule's moments: each has one row, made or not.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use trigger_core::{Binding, FireCause, SkipReason, SkippedFire};

use super::Shared;
use super::make::*;
use crate::store::{Admitted, FireFilter, QueuedInvocation};

fn schedule() -> Arc<Binding> {
    binding("f", "hourly")
}

fn fire(at: DateTime<Utc>, cause: FireCause) -> QueuedInvocation {
    let mut event = event("f");
    event.invocation.binding = schedule();
    event.invocation.scheduled_at = Some(at);
    event.run_at = at;
    event.invocation.terms_mut().fire = Some(cause);
    event
}

fn skipped(from: DateTime<Utc>, until: DateTime<Utc>, count: u64, reason: SkipReason) -> SkippedFire {
    SkippedFire { binding: schedule(), scheduled_at: from, until, count, reason }
}

pub(in crate::store) async fn a_moment_fires_once_made_or_not(store: Shared) {
    let start = now();
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        tasks.spawn(async move { accept(&store, vec![fire(start, FireCause::Due)]).await[0] });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|admitted| **admitted == NEW).count(), 1, "however many nodes look");

    store.skip_fires(vec![skipped(start, start, 1, SkipReason::Paused)]).await.unwrap();
    let later = start + seconds(60);
    store.skip_fires(vec![skipped(later, later, 1, SkipReason::Paused)]).await.unwrap();
    assert!(matches!(accept(&store, vec![fire(later, FireCause::CatchUp)]).await[0], Admitted::Duplicate(_)));
    assert_eq!(accept(&store, vec![fire(later, FireCause::Manual)]).await, [NEW], "asking for one is another fire");
    assert_eq!(store.last_scheduled((*schedule()).clone()).await.unwrap(), Some(later));
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued, count(&row, "skipped", "paused")), (53, 2, 1));
    assert_eq!((count(&row, "skipped", "duplicate"), row.drift()), (50, 0));
}

pub(in crate::store) async fn fires_are_listed_with_their_reasons(store: Shared) {
    let start = now();
    let at = |minutes: i64| start + seconds(60 * minutes);
    let made = fire(at(0), FireCause::Due);
    let id = made.invocation.invocation_id;
    accept(&store, vec![made]).await;
    store.skip_fires(vec![skipped(at(1), at(5), 5, SkipReason::Missed)]).await.unwrap();
    accept(&store, vec![fire(at(6), FireCause::CatchUp)]).await;
    let mut overlapping = fire(at(7), FireCause::Due);
    overlapping.invocation.terms_mut().ordering = Some(trigger_core::Ordering { key: "all".into(), limit: Some(0) });
    assert_eq!(accept(&store, vec![overlapping]).await, [Admitted::Skipped(SkipReason::Overlap)]);

    let list = async |filter: FireFilter| store.fires((*schedule()).clone(), filter).await.unwrap();
    let all = list(FireFilter { limit: 10, ..FireFilter::default() }).await;
    let told: Vec<_> =
        all.iter().map(|row| (row.scheduled_at, row.count, row.cause.as_deref(), row.skipped.as_deref())).collect();
    assert_eq!(
        told,
        [
            (at(7), 1, None, Some("overlap")),
            (at(6), 1, Some("catch_up"), None),
            (at(1), 5, None, Some("missed")),
            (at(0), 1, Some("due"), None),
        ]
    );
    assert_eq!((all[3].invocation_id, all[2].until, all[2].invocation_id), (Some(id), Some(at(5)), None));
    let skipped = list(FireFilter { skipped_only: true, limit: 1, ..FireFilter::default() }).await;
    assert_eq!(skipped[0].scheduled_at, at(7));
    let page = FireFilter { from: Some(at(1)), before: Some(at(7)), limit: 10, ..FireFilter::default() };
    assert_eq!(list(page).await.len(), 2);
    assert!(
        store
            .fires((*binding("f", "other")).clone(), FireFilter { limit: 10, ..FireFilter::default() })
            .await
            .unwrap()
            .is_empty()
    );
}
