//! From an accepted event to its end.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::Utc;
use tokio::task::JoinSet;
use trigger_core::{DeadReason, FailureCode, Headers, HttpParts, InvocationContext, Response, StatusState};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{Admitted, Claim, Depths, FailedAttempt, QueuedInvocation, Redriven, Renewed, Settle};

pub(in crate::store) async fn an_event_comes_back_as_it_was_accepted(store: Shared) {
    let mut queued = event("f");
    let mut payload = vec![0xff; 100_000];
    payload[0] = 0;
    queued.redrive_count = 2;
    queued.attempts = vec![failed(1)];
    let invocation = &mut queued.invocation;
    invocation.payload = Bytes::from(payload);
    invocation.request_id = Some("request".into());
    invocation.caller = Some("0xabc".into());
    invocation.version = Some(3);
    invocation.attempt = 2;
    invocation.depth = 4;
    invocation.parent = Some(Uuid::now_v7());
    invocation.idempotency_key = Some("key 'quoted' ∆".into());
    invocation.subject = "orders.created".into();
    invocation.content_type = Some("application/json".into());
    invocation.headers = Headers::List(vec![
        ("X-One".to_owned(), Bytes::from_static(b"1")),
        ("x-one".to_owned(), Bytes::from_static(b"\xfe")),
    ]);
    invocation.attributes = vec![("method".into(), "POST".to_owned())];
    invocation.scheduled_at = Some(now());
    let id = accept_one(&store, queued.clone()).await;
    assert_eq!(id, queued.invocation.invocation_id);

    let claimed = claim_one(&store).await.queued;
    let headers = |invocation: &InvocationContext| {
        let stored: serde_json::Value = serde_json::from_str(&invocation.to_stored()).unwrap();
        stored["headers"].clone()
    };
    assert_eq!(headers(&claimed.invocation), headers(&queued.invocation));
    let (was, is) = (&queued.invocation, &claimed.invocation);
    assert_eq!(is.invocation_id, was.invocation_id);
    assert_eq!(is.request_id, was.request_id);
    assert_eq!(is.binding, was.binding);
    assert_eq!(is.custody, was.custody);
    assert_eq!(is.caller, was.caller);
    assert_eq!((is.version, is.attempt, is.depth), (was.version, was.attempt, was.depth));
    assert_eq!(is.parent, was.parent);
    assert_eq!(is.idempotency_key, was.idempotency_key);
    assert_eq!(is.subject, was.subject);
    assert_eq!(is.content_type, was.content_type);
    assert_eq!(is.attributes, was.attributes);
    assert_eq!(is.scheduled_at, was.scheduled_at);
    assert_eq!(is.received_at, was.received_at);
    assert_eq!(is.trace.trace_id, was.trace.trace_id);
    assert_eq!(is.payload, was.payload);
    assert_eq!(claimed.run_at, queued.run_at);
    assert_eq!(claimed.attempts, queued.attempts);
    assert_eq!(claimed.redrive_count, 2);
}

pub(in crate::store) async fn a_key_is_accepted_once_per_trigger(store: Shared) {
    let mut other_trigger = keyed("f", "k");
    other_trigger.invocation.binding = binding("f", "other");
    let batch =
        vec![keyed("f", "k"), keyed("f", "l"), keyed("f", "k"), keyed("g", "k"), other_trigger, event("f"), event("f")];
    let ids: Vec<Uuid> = batch.iter().map(|queued| queued.invocation.invocation_id).collect();
    let accepted = accept(&store, batch).await;
    assert_eq!(accepted, [NEW, NEW, Admitted::Duplicate(ids[0]), NEW, NEW, NEW, NEW]);
    assert_eq!(store.depths().await.unwrap().queued, 6);

    // The key outlives the invocation.
    for claimed in claim(&store, 10).await {
        assert!(settle(&store, &claimed, ok()).await);
    }
    assert_eq!(accept(&store, vec![keyed("f", "k")]).await, [Admitted::Duplicate(ids[0])]);
    assert_eq!(store.depths().await.unwrap(), Depths::default());
}

pub(in crate::store) async fn what_an_event_said_is_kept_with_its_key(store: Shared) {
    let says = |key: &str, fingerprint| {
        let mut queued = keyed("f", key);
        queued.invocation.terms_mut().fingerprint = fingerprint;
        queued
    };
    let said = async |key: &str| store.fingerprint((*binding("f", "jobs")).clone(), key.to_owned()).await.unwrap();
    assert_eq!(said("a").await, None, "neither the trigger nor the key is known");
    let batch = vec![says("a", Some([7; 16])), says("b", None), says("a", Some([8; 16]))];
    accept(&store, batch).await;
    accept(&store, vec![says("a", Some([9; 16]))]).await;
    for (key, expected) in [("a", Some([7; 16])), ("b", None), ("c", None)] {
        assert_eq!(said(key).await, expected, "{key}");
    }
    // It is the key's, not the event's.
    assert!(claim(&store, 1).await[0].queued.invocation.terms.as_ref().is_none_or(|terms| terms.fingerprint.is_none()));
}

pub(in crate::store) async fn concurrent_duplicates_are_one_event(store: Shared) {
    let mut tasks = JoinSet::new();
    for _ in 0..1000 {
        let store = store.clone();
        let queued = keyed("f", "same");
        tasks.spawn(async move { (queued.invocation.invocation_id, accept(&store, vec![queued]).await[0]) });
    }
    let accepted = tasks.join_all().await;
    let new: Vec<Uuid> = accepted.iter().filter(|(_, admitted)| *admitted == NEW).map(|(id, _)| *id).collect();
    assert_eq!(new.len(), 1);
    assert!(accepted.iter().all(|(id, one)| *id == new[0] || *one == Admitted::Duplicate(new[0])));
    assert_eq!(store.depths().await.unwrap().queued, 1);
}

pub(in crate::store) async fn an_invocation_is_kept_once(store: Shared) {
    let mut queued = keyed("f", "k");
    queued.invocation.attempt = 2;
    queued.attempts = vec![failed(1)];
    store.keep(queued.clone()).await.unwrap();
    let mut again = queued.clone();
    again.invocation.attempt = 9;
    store.keep(again).await.unwrap();
    assert_eq!(accept(&store, vec![keyed("f", "k")]).await, [NEW], "keeping does not look at the key");
    let same_id = QueuedInvocation { attempts: Vec::new(), ..queued.clone() };
    let same_id = QueuedInvocation {
        invocation: InvocationContext { idempotency_key: None, ..same_id.invocation.clone() },
        ..same_id
    };
    let id = same_id.invocation.invocation_id;
    assert_eq!(accept(&store, vec![same_id]).await, [Admitted::Duplicate(id)], "one row per invocation");

    let claimed = claim(&store, 10).await;
    assert_eq!(claimed.len(), 2);
    let kept = claimed.iter().find(|one| one.queued.invocation.invocation_id == queued.invocation.invocation_id);
    let kept = &kept.expect("it was kept").queued;
    assert_eq!((kept.invocation.attempt, kept.attempts.len()), (2, 1));
}

pub(in crate::store) async fn rows_are_claimed_when_due_the_longest_due_first(store: Shared) {
    let start = now();
    for offset in [30, -20, 0, -10, 1] {
        let mut queued = event("f");
        queued.run_at = start + seconds(offset);
        queued.invocation.subject = offset.to_string().into();
        accept_one(&store, queued).await;
    }
    let claim = async |limit| {
        let claimed = claim_at(&store, start, start + seconds(60), limit).await;
        claimed.iter().map(|one| one.queued.invocation.subject.to_string()).collect::<Vec<_>>()
    };
    assert!(claim(0).await.is_empty());
    assert_eq!(claim(2).await, ["-20", "-10"]);
    assert_eq!(claim(10).await, ["0"], "due at this very moment");
    assert!(claim(10).await.is_empty());
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 2, running: 3, dead: 0, outbox: 0 });
}

pub(in crate::store) async fn racing_claims_hand_out_every_row_once(store: Shared) {
    const ROWS: usize = 10_000;
    for _ in 0..ROWS / 1000 {
        let accepted = accept(&store, (0..1000).map(|_| event("f")).collect()).await;
        assert!(accepted.iter().all(|one| *one == NEW));
    }
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let claimed = claim(&store, 64).await;
                if claimed.is_empty() {
                    return ids;
                }
                let settled = claimed.iter().map(|one| settle(&store, one, ok()));
                let settled = futures_util::future::join_all(settled).await;
                assert!(settled.into_iter().all(|settled| settled));
                ids.extend(claimed.iter().map(|one| one.queued.invocation.invocation_id));
            }
        });
    }
    let ids: Vec<Uuid> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(ids.len(), ROWS);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ROWS, "none twice");
    assert_eq!(store.depths().await.unwrap(), Depths::default());
}

pub(in crate::store) async fn a_lease_that_ran_out_is_claimed_again_and_its_late_settle_refused(store: Shared) {
    let id = accept_one(&store, event("f")).await;
    let start = Utc::now();
    let first = claim_at(&store, start, start + seconds(10), 10).await.remove(0);
    assert!(claim_at(&store, start + seconds(10), start + seconds(20), 10).await.is_empty(), "not before its end");
    let second = claim_at(&store, start + seconds(11), start + seconds(21), 10).await.remove(0);
    assert_eq!(second.queued.invocation.invocation_id, id);
    assert_eq!(second.queued.invocation.attempt, 1, "an expired claim costs no attempt");
    assert_ne!(first.claim.token, second.claim.token);

    assert_eq!(store.renew(vec![first.claim], start + seconds(99)).await.unwrap(), Renewed::default());
    let late = [
        ok(),
        Settle::Retry { run_at: start, attempt: failed(1) },
        Settle::Dead(dead_letter(&first.queued, Some(message("dead.f")))),
        Settle::HandBack,
    ];
    for ending in late {
        assert!(!settle(&store, &first, ending).await, "the first token has lost its claim");
    }
    assert_eq!(store.depths().await.unwrap(), Depths { running: 1, ..Depths::default() });
    assert!(matches!(state(&store, id).await, StatusState::Running { progress: None }));
    assert!(settle(&store, &second, ok()).await);
    assert!(!settle(&store, &second, ok()).await, "and a claim ends once");
    assert!(matches!(state(&store, id).await, StatusState::Ok { .. }));
}

pub(in crate::store) async fn a_renewed_lease_holds(store: Shared) {
    let ids = [accept_one(&store, event("f")).await, accept_one(&store, event("f")).await];
    let start = Utc::now();
    let claimed = claim_at(&store, start, start + seconds(10), 10).await;
    let mut claims: Vec<Claim> = claimed.iter().map(|one| one.claim).collect();
    claims.push(Claim { invocation_id: Uuid::now_v7(), ..claims[0] });
    let mut renewed = store.renew(claims, start + seconds(30)).await.unwrap();
    renewed.held.sort();
    assert_eq!(renewed, Renewed { held: ids.to_vec(), cancel: Vec::new() });
    assert!(claim_at(&store, start + seconds(20), start + seconds(60), 10).await.is_empty());
    assert_eq!(claim_at(&store, start + seconds(31), start + seconds(60), 10).await.len(), 2);
}

pub(in crate::store) async fn a_retry_keeps_attempts_and_version(store: Shared) {
    let id = accept_one(&store, event("f")).await;
    let mut tried = Vec::new();
    for number in 1..=3 {
        let claimed = claim_one(&store).await;
        assert_eq!(claimed.queued.invocation.attempt, number);
        assert_eq!(claimed.queued.attempts, tried);
        assert_eq!(claimed.queued.invocation.version, (number > 1).then_some(7), "the first attempt chose it");
        let mut attempt = failed(number);
        // A later attempt's version does not move the invocation to it.
        attempt.version = 6 + number;
        let run_at = now() - seconds(i64::from(number));
        assert!(settle(&store, &claimed, Settle::Retry { run_at, attempt: attempt.clone() }).await);
        tried.push(attempt);
        let status = store.status(id).await.unwrap().unwrap();
        assert_eq!(status.attempts, number);
        assert!(matches!(status.state, StatusState::Queued { run_at: due } if due == run_at));
    }
    let claimed = claim_one(&store).await;
    let later = now() + seconds(60);
    let mut unversioned = event("g");
    unversioned.run_at = now();
    assert!(settle(&store, &claimed, Settle::Retry { run_at: later, attempt: failed(4) }).await);
    assert!(claim(&store, 10).await.is_empty(), "not due yet");

    accept_one(&store, unversioned).await;
    let claimed = claim_one(&store).await;
    let attempt = FailedAttempt { version: 0, ..failed(1) };
    assert!(settle(&store, &claimed, Settle::Retry { run_at: now(), attempt }).await);
    assert_eq!(claim_one(&store).await.queued.invocation.version, None, "there was no version to stay on");
}

pub(in crate::store) async fn work_handed_back_is_due_at_once_and_not_counted(store: Shared) {
    let mut queued = event("f");
    queued.run_at = now() - seconds(5);
    let id = accept_one(&store, queued.clone()).await;
    let claimed = claim_one(&store).await;
    assert!(settle(&store, &claimed, Settle::HandBack).await);
    let status = store.status(id).await.unwrap().unwrap();
    assert_eq!(status.attempts, 0);
    assert!(matches!(status.state, StatusState::Queued { .. }));
    let again = claim_one(&store).await;
    assert_eq!((again.queued.invocation.attempt, again.queued.attempts.len()), (1, 0));
    assert!(again.queued.run_at <= now());
}

pub(in crate::store) async fn a_good_end_keeps_the_result_and_releases_the_effects(store: Shared) {
    let id = accept_one(&store, event("f")).await;
    assert!(matches!(state(&store, id).await, StatusState::Queued { .. }));
    let claimed = claim_one(&store).await;
    let status = store.status(id).await.unwrap().unwrap();
    assert_eq!(status.attempts, 1);
    assert!(matches!(status.state, StatusState::Running { progress: None }));

    let mut headers = http::HeaderMap::new();
    headers.append("set-cookie", "a=1".parse().unwrap());
    headers.append("set-cookie", http::HeaderValue::from_bytes(b"b=\xfe").unwrap());
    let http = Some(Box::new(HttpParts { status: http::StatusCode::CREATED, headers: headers.clone() }));
    let response = Response { body: Bytes::from_static(b"\0\xff"), http };
    let effects = vec![message("one"), message("two")];
    assert!(
        settle(
            &store,
            &claimed,
            Settle::Ok { response, effects, keep_until: Some(now() + seconds(60)), events: Vec::new() }
        )
        .await
    );

    let status = store.status(id).await.unwrap().unwrap();
    assert_eq!(status.attempts, 1);
    assert_eq!(status.binding, *claimed.queued.invocation.binding);
    let StatusState::Ok { body, http } = status.state else { panic!("{status:?}") };
    assert_eq!(body, Bytes::from_static(b"\0\xff"));
    let http = http.expect("the guest chose a status");
    assert_eq!((http.status, http.headers), (http::StatusCode::CREATED, headers));
    assert_eq!(store.depths().await.unwrap(), Depths { outbox: 2, ..Depths::default() });
    let outbox = store.outbox_due(Utc::now(), 10).await.unwrap();
    assert_eq!(outbox.iter().map(|row| &*row.message.subject).collect::<Vec<_>>(), ["one", "two"]);

    let plain = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    assert!(settle(&store, &claimed, ok()).await);
    assert!(matches!(state(&store, plain).await, StatusState::Ok { http: None, .. }));
    assert!(store.status(Uuid::now_v7()).await.unwrap().is_none());
}

pub(in crate::store) async fn the_next_due_row_is_the_first_that_waits(store: Shared) {
    assert_eq!(store.next_due().await.unwrap(), None);
    let start = now();
    for offset in [20, -1, 10] {
        let mut queued = event("f");
        queued.run_at = start + seconds(offset);
        accept_one(&store, queued).await;
    }
    assert_eq!(store.next_due().await.unwrap(), Some(start + seconds(10)));
    let claimed = claim_at(&store, start + seconds(10), start + seconds(60), 10).await;
    assert_eq!(claimed.len(), 2);
    assert_eq!(store.next_due().await.unwrap(), Some(start + seconds(20)));
    let retry = Settle::Retry { run_at: start + seconds(15), attempt: failed(1) };
    assert!(settle(&store, &claimed[0], retry).await);
    assert_eq!(store.next_due().await.unwrap(), Some(start + seconds(15)));
}

/// `spoil` makes the stored context of this invocation unreadable.
pub(in crate::store) async fn an_unreadable_row_is_parked_and_the_others_flow(
    store: Shared,
    spoil: impl AsyncFn(Uuid),
) {
    let mut ids = Vec::new();
    for number in 0..5 {
        let mut queued = event("f");
        queued.run_at = now() - seconds(10 - number);
        ids.push(accept_one(&store, queued).await);
    }
    spoil(ids[0]).await;
    spoil(ids[2]).await;
    let first = claim(&store, 1).await;
    assert_eq!(first[0].queued.invocation.invocation_id, ids[1], "the unreadable one before it is out of the way");
    let rest: Vec<Uuid> = claim(&store, 10).await.iter().map(|one| one.queued.invocation.invocation_id).collect();
    assert_eq!(rest, [ids[3], ids[4]]);
    assert_eq!(store.depths().await.unwrap(), Depths { running: 3, dead: 2, ..Depths::default() });

    let (dead, _) = store.dead_letter(ids[0]).await.unwrap().expect("no event disappears");
    assert_eq!((dead.reason, dead.failure.code), (DeadReason::Incompatible, FailureCode::HostError));
    assert_eq!(dead.invocation.binding, event("f").invocation.binding);
    assert_eq!(dead.invocation.payload, event("f").invocation.payload);
    assert!(matches!(state(&store, ids[0]).await, StatusState::Dead { reason: DeadReason::Incompatible, .. }));
    assert_eq!(store.redrive(ids[0], now()).await.unwrap(), Redriven::Queued, "what is left of it can be run");
    assert_eq!(claim_one(&store).await.queued.invocation.invocation_id, ids[0]);
}
