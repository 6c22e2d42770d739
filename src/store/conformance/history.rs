//! What is remembered, and for how long.

use chrono::{DateTime, Utc};
use trigger_core::{DeadReason, Failure, FailureCode, FireCause, StatusState};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::functions::Digest;
use crate::store::{FailedAttempt, Retention, TraceFilter};
use crate::traces::{Outcome, Phases, TraceRow};

pub(in crate::store) async fn attempts_are_remembered_until_forgotten(store: Shared) {
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    store.remember_attempt(one, failed(2)).await.unwrap();
    store.remember_attempt(one, failed(1)).await.unwrap();
    store.remember_attempt(other, failed(1)).await.unwrap();
    let again = FailedAttempt { duration_ms: 99, ..failed(2) };
    store.remember_attempt(one, again.clone()).await.unwrap();
    let remembered = store.remembered_attempts(one).await.unwrap();
    assert_eq!(remembered.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(remembered[1].duration_ms, 99, "an attempt told twice is one");
    store.forget_attempts(one).await.unwrap();
    assert!(store.remembered_attempts(one).await.unwrap().is_empty());
    assert_eq!(store.remembered_attempts(other).await.unwrap().len(), 1);
}

pub(in crate::store) async fn the_last_schedule_is_the_newest_and_is_not_pruned(store: Shared) {
    let start = now();
    let trigger = binding("f", "hourly");
    let last = async || store.last_scheduled((*trigger).clone()).await.unwrap();
    assert_eq!(last().await, None);
    let fire = async |offset: i64| {
        let mut queued = event("f");
        queued.invocation.binding = trigger.clone();
        queued.invocation.terms_mut().fire = Some(FireCause::Due);
        queued.invocation.scheduled_at = Some(start + seconds(offset));
        accept(&store, vec![queued]).await[0] != NEW
    };
    assert!(!fire(10).await);
    assert!(!fire(5).await);
    assert!(fire(10).await, "each moment fires once");
    assert_eq!(last().await, Some(start + seconds(10)));
    let future = Utc::now() + seconds(1000);
    let retention = Retention {
        results_before: future,
        traces_before: future,
        traces_max_rows: 0,
        keys_before: future,
        fires_before: future,
        ..Retention::NOTHING
    };
    while store.prune(retention).await.unwrap().more {}
    assert_eq!(last().await, Some(start + seconds(10)));
    assert_eq!(store.last_scheduled((*binding("f", "daily")).clone()).await.unwrap(), None);
}

fn trace(function_name: &str, started_at: DateTime<Utc>, outcome: Outcome) -> TraceRow {
    TraceRow {
        invocation_id: Uuid::now_v7(),
        attempt: 1,
        binding: (*binding(function_name, "jobs")).clone(),
        version: Some(1),
        digest: Some(Digest::of(b"module")),
        started_at,
        phases: Phases { wait: 1, load: 2, instantiate: 3, run: u64::MAX, settle: 5 },
        outcome,
        failure: Some(Failure::new(FailureCode::Timeout, "too long")),
        retry_delay_ms: Some(10),
        depth: 0,
        parent: None,
        trace_id: format!("{:032x}", 1),
        span_id: format!("{:016x}", 2),
        parent_span_id: None,
        input_bytes: 1,
        output_bytes: 2,
        cpu: 6,
        fuel_used: Some(7),
        memory_peak_bytes: 3,
        request_id: Some("request".into()),
        caller: None,
        subject: "subject".into(),
        detail: None,
    }
}

pub(in crate::store) async fn traces_are_filtered_and_paged_without_loss(store: Shared) {
    let start = now();
    let outcomes = [Outcome::Ok, Outcome::Retry, Outcome::Dead(DeadReason::Timeout)];
    let rows: Vec<TraceRow> = (0..30_usize)
        .map(|number| {
            let function_name = if number % 2 == 0 { "even" } else { "odd" };
            trace(function_name, start + seconds(number as i64 / 4), outcomes[number % 3])
        })
        .collect();
    store.write_traces(rows.clone()).await.unwrap();
    store.write_traces(Vec::new()).await.unwrap();
    let mut newest_first = rows.clone();
    newest_first.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.invocation_id)));
    let all = TraceFilter { limit: 100, ..TraceFilter::default() };
    assert_eq!(store.traces(all.clone()).await.unwrap(), newest_first);

    let mut filter = TraceFilter { limit: 7, ..TraceFilter::default() };
    let mut paged = Vec::new();
    loop {
        let page = store.traces(filter.clone()).await.unwrap();
        let Some(last) = page.last() else { break };
        (filter.before, filter.before_id) = (Some(last.started_at), Some(last.invocation_id));
        paged.extend(page);
    }
    assert_eq!(paged, newest_first);

    let count = async |filter: TraceFilter| store.traces(filter).await.unwrap().len();
    assert_eq!(count(TraceFilter { function_name: Some("odd".to_owned()), ..all.clone() }).await, 15);
    assert_eq!(count(TraceFilter { outcome: Some("dead".to_owned()), ..all.clone() }).await, 10);
    assert_eq!(count(TraceFilter { before: Some(start + seconds(1)), ..all.clone() }).await, 4);
    let one = TraceFilter { invocation_id: Some(rows[3].invocation_id), ..all.clone() };
    assert_eq!(store.traces(one).await.unwrap(), [rows[3].clone()]);
    let both = TraceFilter { function_name: Some("even".to_owned()), outcome: Some("ok".to_owned()), ..all };
    assert_eq!(count(both).await, 5);
}

pub(in crate::store) async fn old_rows_are_pruned_in_bounded_steps(store: Shared) {
    const ROWS: usize = 2500;
    let mut accepted = Vec::new();
    for number in 0..ROWS {
        accepted.push(keyed("f", &number.to_string()));
    }
    let id = accepted[0].invocation.invocation_id;
    accept(&store, accepted).await;
    loop {
        let claimed = claim(&store, 1000).await;
        if claimed.is_empty() {
            break;
        }
        futures_util::future::join_all(claimed.iter().map(|one| settle(&store, one, ok()))).await;
    }
    store.remember_attempt(id, failed(1)).await.unwrap();
    let start = now();
    let traces = (0..ROWS).map(|number| trace("f", start + seconds(number as i64), Outcome::Ok)).collect();
    store.write_traces(traces).await.unwrap();

    let long_ago = start - seconds(3600);
    let mut retention = Retention {
        results_before: long_ago,
        traces_before: long_ago,
        traces_max_rows: 10_000,
        keys_before: long_ago,
        fires_before: long_ago,
        ..Retention::NOTHING
    };
    assert!(!store.prune(retention).await.unwrap().more, "nothing is old");
    let newest = async || {
        let rows = store.traces(TraceFilter { limit: 1000, ..TraceFilter::default() }).await.unwrap();
        (rows.len(), rows.last().map(|row| row.started_at))
    };
    assert_eq!(newest().await.0, 1000);
    assert!(matches!(state(&store, id).await, StatusState::Ok { .. }));

    // Both reasons at once: 600 rows are too old, 1800 are too many.
    (retention.traces_before, retention.traces_max_rows) = (start + seconds(600), 700);
    assert!(store.prune(retention).await.unwrap().more);
    let oldest = TraceFilter { before: Some(start + seconds(1001)), limit: 10, ..TraceFilter::default() };
    assert_eq!(store.traces(oldest).await.unwrap().len(), 1, "1000 rows of a table in one step, whatever the reason");
    let mut steps = 2;
    while store.prune(retention).await.unwrap().more {
        steps += 1;
    }
    assert_eq!(steps, 2, "1800 rows, at most 1000 a step");
    assert_eq!(newest().await, (700, Some(start + seconds(1800))), "the newest stay");
    retention.traces_before = start + seconds(2000);
    assert!(!store.prune(retention).await.unwrap().more);
    assert_eq!(newest().await, (500, Some(start + seconds(2000))));

    retention.results_before = Utc::now() + seconds(7200);
    retention.keys_before = Utc::now() + seconds(1);
    let mut steps = 1;
    while store.prune(retention).await.unwrap().more {
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert!(store.status(id).await.unwrap().is_none());
    assert!(store.remembered_attempts(id).await.unwrap().is_empty());
    assert_eq!(accept(&store, vec![keyed("f", "0")]).await, [NEW], "its key was forgotten");
}
