//! Who goes first, and who has to wait for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use trigger_core::{Binding, SkipReason};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{Accept, Admitted, ClaimRequest, Claimed, Depths, Lease, Pause, QueuedInvocation, Settle};

fn subjects(claimed: &[Claimed]) -> Vec<String> {
    claimed.iter().map(|one| one.queued.invocation.subject.to_string()).collect()
}

pub(in crate::store) async fn events_of_a_key_run_one_after_another_in_their_order(store: Shared) {
    for subject in ["1", "2", "3", "4"] {
        assert_eq!(accept(&store, vec![ordered("k", subject)]).await, [NEW]);
    }
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 4, ..Depths::default() });
    let first = claim(&store, 10).await;
    assert_eq!(subjects(&first), ["1"], "the others are behind it");
    assert!(first[0].claim.ordered);

    // It fails, and is due again later: nobody overtakes it.
    let later = now() + seconds(60);
    assert!(settle(&store, &first[0], Settle::Retry { run_at: later, attempt: failed(1) }).await);
    assert!(claim(&store, 10).await.is_empty());
    let blocked = store.blocked_keys(10).await.unwrap();
    assert_eq!(blocked.len(), 1);
    assert_eq!((&*blocked[0].ordering_key, blocked[0].waiting, blocked[0].attempt), ("k", 3, 2));
    assert_eq!((blocked[0].head, blocked[0].run_at), (first[0].claim.invocation_id, later));

    let again = claim_at(&store, later, later + seconds(60), 10).await;
    assert_eq!(subjects(&again), ["1"]);
    assert!(settle(&store, &again[0], Settle::HandBack).await);
    let again = claim_at(&store, later, later + seconds(60), 10).await;
    assert_eq!(subjects(&again), ["1"], "what was handed back keeps its place");
    assert!(settle(&store, &again[0], Settle::Dead(dead_letter(&again[0].queued, None))).await);
    let second = claim(&store, 10).await;
    assert_eq!(subjects(&second), ["2"], "who is given up on holds nobody up");

    // One in the middle is taken back.
    let page = store.queue(page_of("f")).await.unwrap();
    let third = page.iter().find(|row| row.blocked).unwrap().invocation_id;
    assert_eq!(store.cancel(third, None).await.unwrap(), trigger_core::Cancelled::Cancelled);
    assert!(claim(&store, 10).await.is_empty());
    assert!(settle(&store, &second[0], ok()).await);
    assert_eq!(subjects(&claim(&store, 10).await), ["4"]);
    assert!(store.blocked_keys(10).await.unwrap().is_empty());
}

pub(in crate::store) async fn an_ordering_key_holds_up_nobody_else(store: Shared) {
    // One poisonous key among many.
    let mut events = Vec::new();
    for key in 0..200 {
        for turn in 0..3 {
            events.push(ordered(&key.to_string(), &turn.to_string()));
        }
    }
    accept(&store, events).await;
    let later = now() + seconds(3600);
    let mut done = 0;
    loop {
        let claimed = claim(&store, 1000).await;
        if claimed.is_empty() {
            break;
        }
        for one in claimed {
            let poisonous = one.queued.invocation.ordering().unwrap().key == "7".into();
            let ending = if poisonous { Settle::Retry { run_at: later, attempt: failed(1) } } else { ok() };
            assert!(settle(&store, &one, ending).await);
            done += usize::from(!poisonous);
        }
    }
    assert_eq!(done, 199 * 3, "every other key went on");
    let blocked = store.blocked_keys(10).await.unwrap();
    assert_eq!(blocked.iter().map(|key| (&*key.ordering_key, key.waiting)).collect::<Vec<_>>(), [("7", 2)]);
    // A trigger's key is its own.
    let mut other = ordered("7", "other");
    other.invocation.binding = binding("f", "other");
    accept(&store, vec![other]).await;
    assert_eq!(subjects(&claim(&store, 10).await), ["other"]);
}

pub(in crate::store) async fn racing_workers_keep_the_order_of_every_key(store: Shared) {
    const KEYS: usize = 5;
    const EACH: usize = 40;
    // What ran under which key, in order; and which keys are being worked on.
    let log: Arc<Mutex<BTreeMap<String, Vec<Uuid>>>> = Arc::default();
    let busy: Arc<Mutex<BTreeMap<String, Uuid>>> = Arc::default();
    let accepted: Arc<Mutex<BTreeMap<String, Vec<Uuid>>>> = Arc::default();
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (store, accepted) = (store.clone(), accepted.clone());
        // One producer a key: the order of acceptance is known.
        tasks.spawn(async move {
            for _ in 0..EACH {
                let event = ordered(&key.to_string(), "");
                accepted.lock().entry(key.to_string()).or_default().push(event.invocation.invocation_id);
                accept(&store, vec![event]).await;
            }
        });
    }
    for _ in 0..4 {
        let (store, log, busy) = (store.clone(), log.clone(), busy.clone());
        tasks.spawn(async move {
            while log.lock().values().map(Vec::len).sum::<usize>() < KEYS * EACH {
                let claimed = claim(&store, 3).await;
                if claimed.is_empty() {
                    tokio::task::yield_now().await;
                }
                for one in claimed {
                    let key = one.queued.invocation.ordering().unwrap().key.to_string();
                    let id = one.claim.invocation_id;
                    assert_eq!(busy.lock().insert(key.clone(), id), None, "two of {key} at once");
                    tokio::task::yield_now().await;
                    // Now and then an attempt fails and is due again at once.
                    let again = one.queued.invocation.attempt == 1 && id.as_bytes()[15] % 3 == 0;
                    busy.lock().remove(&key);
                    if !again {
                        log.lock().entry(key).or_default().push(id);
                    }
                    let retry = Settle::Retry { run_at: now(), attempt: failed(1) };
                    assert!(settle(&store, &one, if again { retry } else { ok() }).await);
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(*log.lock(), *accepted.lock());
    assert_eq!(store.depths().await.unwrap(), Depths::default());
}

pub(in crate::store) async fn a_full_ordering_key_skips(store: Shared) {
    let limited = |key: &str| {
        let mut event = ordered(key, "");
        event.invocation.terms_mut().ordering.as_mut().unwrap().limit = Some(2);
        event
    };
    let answers = accept(&store, vec![limited("a"), limited("a"), limited("a"), limited("b")]).await;
    assert_eq!(answers, [NEW, NEW, Admitted::Skipped(SkipReason::Overlap), NEW]);
    let claimed = claim(&store, 10).await;
    assert_eq!(accept(&store, vec![limited("a")]).await, [Admitted::Skipped(SkipReason::Overlap)], "running counts");
    for one in &claimed {
        assert!(settle(&store, one, ok()).await);
    }
    assert_eq!(accept(&store, vec![limited("a")]).await, [NEW]);
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, count(&row, "skipped", "overlap"), row.drift()), (6, 2, 0));
}

pub(in crate::store) async fn priority_is_paid_in_waiting_time(store: Shared) {
    let start = now();
    for (subject, priority, waited) in
        [("plain", 0, 0), ("urgent", 3, 0), ("patient", 0, 200), ("idle", -2, 0), ("old and idle", -2, 1000)]
    {
        let mut event = event("f");
        event.run_at = start - seconds(waited);
        event.invocation.subject = subject.into();
        event.invocation.terms_mut().priority = priority;
        accept_one(&store, event).await;
    }
    let order = subjects(&claim_at(&store, start, start + seconds(60), 10).await);
    // Three steps are three minutes: 200 seconds of waiting are more.
    assert_eq!(order, ["old and idle", "patient", "urgent", "plain", "idle"]);

    let mut later = event("f");
    later.run_at = start + seconds(60);
    later.invocation.terms_mut().priority = 100;
    accept_one(&store, later).await;
    assert!(claim_at(&store, start, start + seconds(60), 10).await.is_empty(), "no priority makes a row due");
    let rows = store.queue(page_of("f")).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.priority).collect::<Vec<_>>(), [-2, 0, 0, 3, -2, 100]);
}

pub(in crate::store) async fn namespaces_and_triggers_share_what_is_claimed(store: Shared) {
    let of = |namespace: &str, trigger: &str| {
        let mut event = event("f");
        event.invocation.binding =
            Arc::new(Binding { namespace: namespace.into(), ..(*binding("f", trigger)).clone() });
        event
    };
    let mut burst: Vec<QueuedInvocation> = (0..300).map(|_| of("busy", "one")).collect();
    burst.extend((0..300).map(|_| of("busy", "two")));
    accept(&store, burst).await;
    accept(&store, (0..300).map(|_| of("quiet", "one")).collect()).await;
    let claimed = claim(&store, 40).await;
    let from = |namespace: &str, trigger: &str| {
        let of = |one: &&Claimed| {
            let binding = &one.queued.invocation.binding;
            &*binding.namespace == namespace && &*binding.trigger_id == trigger
        };
        claimed.iter().filter(of).count()
    };
    assert_eq!((from("busy", "one"), from("busy", "two"), from("quiet", "one")), (10, 10, 20));
    // What one does not use is the others'.
    accept(&store, (0..5).map(|_| of("tiny", "one")).collect()).await;
    let claimed = claim(&store, 60).await;
    assert_eq!(claimed.len(), 60);
    let tiny = claimed.iter().filter(|one| &*one.queued.invocation.binding.namespace == "tiny").count();
    assert_eq!(tiny, 5);
}

pub(in crate::store) async fn limits_and_pauses_close_triggers(store: Shared) {
    let (one, two) = (binding("f", "one"), binding("f", "two"));
    let of = |binding: &Arc<Binding>| {
        let mut event = event("f");
        event.invocation.binding = binding.clone();
        event
    };
    accept(&store, vec![of(&one), of(&one), of(&one), of(&two), of(&two)]).await;
    let claim = async |limits: Vec<(Arc<Binding>, u32)>| {
        let now = Utc::now();
        let request = ClaimRequest { now, lease_until: now + seconds(60), limit: 10, limits };
        let claimed = store.claim(request).await.unwrap();
        claimed.iter().map(|one| one.queued.invocation.binding.trigger_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(claim(vec![(one.clone(), 1), (two.clone(), 0)]).await, ["one"]);
    let pause = Pause { since: now(), note: "looking into it".to_owned() };
    assert!(store.pause((*two).clone(), Some(pause.clone())).await.unwrap());
    assert_eq!(store.paused().await.unwrap(), [((*two).clone(), pause)]);
    assert_eq!(claim(Vec::new()).await, ["one", "one"], "a paused trigger's rows stay");
    assert!(claim(Vec::new()).await.is_empty());
    assert!(store.pause((*two).clone(), None).await.unwrap());
    assert_eq!(claim(Vec::new()).await, ["two", "two"]);
    assert!(store.paused().await.unwrap().is_empty());
    assert!(!store.pause((*binding("nobody", "none")).clone(), None).await.unwrap());
}

pub(in crate::store) async fn a_lease_that_comes_along_claims_what_can_run(store: Shared) {
    let mut later = event("f");
    later.run_at = now() + seconds(60);
    let queued = vec![event("f"), later, ordered("k", "1"), ordered("k", "2"), keyed("f", "key"), keyed("f", "key")];
    let ids: Vec<Uuid> = queued.iter().map(|one| one.invocation.invocation_id).collect();
    let lease = Lease { token: Uuid::now_v7(), until: Utc::now() + seconds(60) };
    let accept = Accept { queued, lease: Some(lease), ..Accept::default() };
    let claimed = Admitted::New { claimed: true, replaced: None };
    let answers = store.accept(accept).await.unwrap();
    assert_eq!(answers, [claimed, NEW, claimed, NEW, claimed, Admitted::Duplicate(ids[4])]);
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 2, running: 3, ..Depths::default() });
    assert!(claim(&store, 10).await.is_empty(), "they are claimed");
    for (id, ordered) in [(ids[0], false), (ids[2], true), (ids[4], false)] {
        let claim = crate::store::Claim { invocation_id: id, token: lease.token, ordered };
        assert!(store.settle(claim, ok()).await.unwrap());
    }
    assert_eq!(subjects(&claim(&store, 10).await), ["2"]);
    // A lease that ran out is anybody's.
    let accept = Accept {
        queued: vec![event("f")],
        lease: Some(Lease { token: Uuid::now_v7(), until: Utc::now() - seconds(1) }),
        ..Accept::default()
    };
    assert_eq!(store.accept(accept).await.unwrap(), [claimed]);
    assert_eq!(claim(&store, 10).await.len(), 1);
}
