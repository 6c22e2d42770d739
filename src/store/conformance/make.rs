//! Events, deploys and shortcuts for the behaviours.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use trigger_core::{
    Binding, Custody, DeadReason, Failure, FailureCode, Headers, InvocationContext, Kind, Message, Response,
    StatusState,
};
use uuid::Uuid;

use super::Shared;
use crate::executor::Abi;
use crate::functions::{Definition, Digest};
use crate::store::{
    Accept, Admitted, ClaimRequest, Claimed, DeadLetter, DeadLetterPage, DeadLetterSelector, Deploy, Deployed,
    FailedAttempt, LedgerRow, QueueFilter, QueuedInvocation, Settle, TriggerRow,
};

/// The current time as a store keeps it.
pub(in crate::store) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

pub(in crate::store) fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}

pub(in crate::store) fn binding(function_name: &str, trigger_id: &str) -> Arc<Binding> {
    Arc::new(Binding {
        namespace: "default".into(),
        function_name: function_name.into(),
        trigger_id: trigger_id.into(),
        trigger_type: Kind::Job,
    })
}

/// An event that is due now.
pub(in crate::store) fn event(function_name: &str) -> QueuedInvocation {
    let payload = Bytes::from_static(b"payload");
    let invocation = InvocationContext::new(binding(function_name, "jobs"), Custody::Engine, payload);
    QueuedInvocation { invocation, run_at: now(), attempts: Vec::new(), redrive_count: 0 }
}

pub(in crate::store) fn keyed(function_name: &str, key: &str) -> QueuedInvocation {
    let mut queued = event(function_name);
    queued.invocation.idempotency_key = Some(key.into());
    queued
}

pub(in crate::store) fn failed(number: u32) -> FailedAttempt {
    FailedAttempt {
        number,
        version: 7,
        started_at: now(),
        duration_ms: 12,
        failure: Failure::new(FailureCode::Trap, "unreachable"),
        retry_delay_ms: Some(1000),
    }
}

pub(in crate::store) fn dead_letter(claimed: &QueuedInvocation, publish: Option<Message>) -> Box<DeadLetter> {
    Box::new(DeadLetter {
        invocation: claimed.invocation.clone(),
        version: Some(7),
        digest: Some(Digest::of(b"module")),
        attempts: vec![failed(1), failed(2)],
        reason: DeadReason::RetriesExhausted,
        failure: Failure::new(FailureCode::Trap, "unreachable"),
        died_at: now(),
        redrive_count: claimed.redrive_count,
        publish,
    })
}

pub(in crate::store) fn message(subject: &str) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        headers: Headers::List(vec![("Tripline-Depth".to_owned(), Bytes::from_static(b"1"))]),
        payload: Bytes::from_static(b"\xff not text"),
    }
}

pub(in crate::store) fn deploy_of(name: &str, module: &'static [u8]) -> Deploy {
    let trigger = |trigger_id: &str| TriggerRow {
        binding: (*binding(name, trigger_id)).clone(),
        config: serde_json::json!({"type": "job", "queue": trigger_id}),
    };
    Deploy {
        definition: Definition::new("default", name),
        module: Bytes::from_static(module),
        digest: Digest::of(module),
        abi: Abi::WasiHttp,
        // Not in the order of their names: the manifest's order is kept.
        triggers: vec![trigger("second"), trigger("first")],
    }
}

pub(in crate::store) async fn deploy_one(store: &Shared, deploy: Deploy) -> Deployed {
    store.deploy("default".to_owned(), vec![deploy]).await.unwrap().remove(0)
}

pub(in crate::store) async fn accept_one(store: &Shared, queued: QueuedInvocation) -> Uuid {
    let id = queued.invocation.invocation_id;
    assert_eq!(accept(store, vec![queued]).await, [NEW]);
    id
}

/// What an event is answered that is new.
pub(in crate::store) const NEW: Admitted = Admitted::New { claimed: false, replaced: None };

/// Accepts events.
pub(in crate::store) async fn accept(store: &Shared, queued: Vec<QueuedInvocation>) -> Vec<Admitted> {
    store.accept(Accept { queued, ..Accept::default() }).await.unwrap()
}

/// Claims what is due at a moment.
pub(in crate::store) async fn claim_at(
    store: &Shared,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    limit: u32,
) -> Vec<Claimed> {
    store.claim(ClaimRequest { now, lease_until, limit, limits: Vec::new() }).await.unwrap()
}

/// Claims whatever is due, for a minute.
pub(in crate::store) async fn claim(store: &Shared, limit: u32) -> Vec<Claimed> {
    claim_at(store, Utc::now(), Utc::now() + seconds(60), limit).await
}

pub(in crate::store) async fn claim_one(store: &Shared) -> Claimed {
    let mut claimed = claim(store, 10).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

pub(in crate::store) async fn settle(store: &Shared, claimed: &Claimed, ending: Settle) -> bool {
    store.settle(claimed.claim, ending).await.unwrap()
}

pub(in crate::store) fn ok() -> Settle {
    let response = Response::from(Bytes::from_static(b"done"));
    Settle::Ok { response, keep_until: Some(now() + seconds(3600)), effects: Vec::new(), events: Vec::new() }
}

pub(in crate::store) async fn state(store: &Shared, id: Uuid) -> StatusState {
    store.status(id).await.unwrap().expect("it is known").state
}

pub(in crate::store) fn any_dead() -> DeadLetterPage {
    dead_of(DeadLetterSelector { include_redriven: true, ..DeadLetterSelector::default() })
}

/// The newest hundred of those that are selected.
pub(in crate::store) fn dead_of(selector: DeadLetterSelector) -> DeadLetterPage {
    DeadLetterPage { selector, limit: 100, behind: None }
}

/// An event with an ordering key.
pub(in crate::store) fn ordered(key: &str, subject: &str) -> QueuedInvocation {
    let mut queued = event("f");
    queued.invocation.subject = subject.into();
    queued.invocation.terms_mut().ordering = Some(trigger_core::Ordering { key: key.into(), limit: None });
    queued
}

/// A page of a function's rows.
pub(in crate::store) fn page_of(function_name: &str) -> QueueFilter {
    QueueFilter { function_name: Some(function_name.to_owned()), limit: 100, ..QueueFilter::default() }
}

/// The ledger of a function's one trigger.
pub(in crate::store) async fn ledger_of(store: &Shared, function_name: &str) -> LedgerRow {
    let mut rows = store.ledger().await.unwrap();
    rows.retain(|row| &*row.binding.function_name == function_name);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// How many ended in this way.
pub(in crate::store) fn count(row: &LedgerRow, outcome: &str, reason: &str) -> u64 {
    let found = row.ended.iter().find(|ended| ended.outcome == outcome && ended.reason == reason);
    found.map_or(0, |ended| ended.count)
}

/// How many ended in this way, for whatever reason.
pub(in crate::store) fn sum(row: &LedgerRow, outcome: &str) -> u64 {
    row.ended.iter().filter(|ended| ended.outcome == outcome).map(|ended| ended.count).sum()
}
