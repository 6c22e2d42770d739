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
    Claimed, DeadLetter, DeadLetterPage, DeadLetterSelector, Deploy, Deployed, FailedAttempt, QueuedInvocation, Settle,
    TriggerRow,
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
    let accepted = store.accept(vec![queued]).await.unwrap();
    assert!(!accepted[0].duplicate);
    accepted[0].invocation_id
}

/// Claims whatever is due, for a minute.
pub(in crate::store) async fn claim(store: &Shared, limit: u32) -> Vec<Claimed> {
    store.claim(Utc::now(), Utc::now() + seconds(60), limit).await.unwrap()
}

pub(in crate::store) async fn claim_one(store: &Shared) -> Claimed {
    let mut claimed = claim(store, 10).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

pub(in crate::store) async fn settle(store: &Shared, claimed: &Claimed, ending: Settle) -> bool {
    store.settle(claimed.queued.invocation.invocation_id, claimed.token, ending).await.unwrap()
}

pub(in crate::store) fn ok() -> Settle {
    Settle::Ok { response: Response::from(Bytes::from_static(b"done")), effects: Vec::new() }
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
