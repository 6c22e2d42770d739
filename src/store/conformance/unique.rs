//! Which events are one, which are taken back, and how many there may be.

use tokio::task::JoinSet;
use trigger_core::{Cancelled, Progress, StatusState, Unique, UniqueConflict, UniqueScope};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{Accept, Admitted, Claim, Depths, QueueFilter, QueuedInvocation, Release, Retention, Settle};

fn unique(scope: UniqueScope, conflict: UniqueConflict) -> QueuedInvocation {
    let mut event = event("f");
    event.invocation.terms_mut().unique = Some(Unique { key: "key".into(), scope, conflict });
    event
}

pub(in crate::store) async fn a_unique_key_is_held_as_long_as_its_scope_says(store: Shared) {
    let keep = |scope| unique(scope, UniqueConflict::Keep);
    let id = |queued: &QueuedInvocation| queued.invocation.invocation_id;
    let live = keep(UniqueScope::Live);
    let first = id(&live);
    assert_eq!(accept(&store, vec![live]).await, [NEW]);
    assert_eq!(store.unique_holder((*binding("f", "jobs")).clone(), "key".to_owned()).await.unwrap(), Some(first));
    assert_eq!(accept(&store, vec![keep(UniqueScope::Live)]).await, [Admitted::Duplicate(first)]);
    let claimed = claim_one(&store).await;
    assert_eq!(accept(&store, vec![keep(UniqueScope::Live)]).await, [Admitted::Duplicate(first)], "it runs");
    assert!(settle(&store, &claimed, Settle::Retry { run_at: now(), attempt: failed(1) }).await);
    assert_eq!(accept(&store, vec![keep(UniqueScope::Live)]).await, [Admitted::Duplicate(first)], "and fails");
    let claimed = claim_one(&store).await;
    assert!(settle(&store, &claimed, ok()).await);
    assert_eq!(store.unique_holder((*binding("f", "jobs")).clone(), "key".to_owned()).await.unwrap(), None);

    let queued = keep(UniqueScope::Queued);
    let second = id(&queued);
    assert_eq!(accept(&store, vec![queued]).await, [NEW]);
    assert_eq!(accept(&store, vec![keep(UniqueScope::Queued)]).await, [Admitted::Duplicate(second)]);
    let running = claim_one(&store).await;
    let other = keep(UniqueScope::Queued);
    assert_eq!(accept(&store, vec![other]).await, [NEW], "the first has begun");
    assert!(settle(&store, &running, ok()).await);
    let claimed = claim_one(&store).await;
    assert!(settle(&store, &claimed, ok()).await);

    let period = keep(UniqueScope::Period(3600));
    let third = id(&period);
    assert_eq!(accept(&store, vec![period]).await, [NEW]);
    let claimed = claim_one(&store).await;
    assert!(settle(&store, &claimed, ok()).await);
    assert_eq!(
        accept(&store, vec![keep(UniqueScope::Live)]).await,
        [Admitted::Duplicate(third)],
        "its hour is not over"
    );
    let mut elsewhere = keep(UniqueScope::Live);
    elsewhere.invocation.binding = binding("f", "other");
    assert_eq!(accept(&store, vec![elsewhere]).await, [NEW], "a key is its trigger's");
}

pub(in crate::store) async fn a_waiting_event_is_replaced_and_a_running_one_is_not(store: Shared) {
    let replace = |delay| {
        let mut event = unique(UniqueScope::Live, UniqueConflict::Replace);
        event.run_at = now() + seconds(delay);
        event
    };
    let keep_until = Some(now() + seconds(60));
    let put = async |queued: QueuedInvocation| {
        store.accept(Accept { queued: vec![queued], keep_until, ..Accept::default() }).await.unwrap()[0]
    };
    let (first, second, third) = (replace(60), replace(0), replace(0));
    let ids = [&first, &second, &third].map(|queued| queued.invocation.invocation_id);
    assert_eq!(put(first).await, NEW);
    assert_eq!(put(second).await, Admitted::New { claimed: false, replaced: Some(ids[0]) });
    assert!(matches!(state(&store, ids[0]).await, StatusState::Cancelled));
    let running = claim_one(&store).await;
    assert_eq!(running.claim.invocation_id, ids[1]);
    assert_eq!(put(third).await, NEW, "one that runs goes on");
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 1, running: 1, ..Depths::default() });
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, count(&row, "cancelled", ""), row.drift()), (3, 1, 0));
}

pub(in crate::store) async fn concurrent_holders_of_a_unique_key_are_one(store: Shared) {
    let mut tasks = JoinSet::new();
    for _ in 0..200 {
        let store = store.clone();
        let queued = unique(UniqueScope::Live, UniqueConflict::Keep);
        tasks.spawn(async move { (queued.invocation.invocation_id, accept(&store, vec![queued]).await[0]) });
    }
    let answers = tasks.join_all().await;
    let new: Vec<Uuid> = answers.iter().filter(|(_, admitted)| *admitted == NEW).map(|(id, _)| *id).collect();
    assert_eq!(new.len(), 1);
    assert!(answers.iter().all(|(id, one)| *id == new[0] || *one == Admitted::Duplicate(new[0])));
    assert_eq!(store.depths().await.unwrap().queued, 1);
}

pub(in crate::store) async fn what_waits_is_cancelled_and_what_runs_is_asked(store: Shared) {
    let keep_until = Some(now() + seconds(60));
    let waiting = accept_one(&store, event("f")).await;
    assert_eq!(store.cancel(waiting, keep_until).await.unwrap(), Cancelled::Cancelled);
    assert!(matches!(state(&store, waiting).await, StatusState::Cancelled));
    assert_eq!(store.cancel(waiting, keep_until).await.unwrap(), Cancelled::Ended);
    assert!(claim(&store, 10).await.is_empty());

    let running = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    assert_eq!(store.cancel(running, keep_until).await.unwrap(), Cancelled::Asked);
    let renewed = store.renew(vec![claimed.claim], now() + seconds(60)).await.unwrap();
    assert_eq!((renewed.held, renewed.cancel), (vec![running], vec![running]));
    assert!(settle(&store, &claimed, Settle::Cancelled { keep_until }).await);
    assert!(matches!(state(&store, running).await, StatusState::Cancelled));

    let ended = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    assert_eq!(store.cancel(ended, keep_until).await.unwrap(), Cancelled::Asked);
    assert!(settle(&store, &claimed, ok()).await, "it was quicker");
    assert_eq!(store.cancel(ended, keep_until).await.unwrap(), Cancelled::Ended);
    assert_eq!(store.cancel(Uuid::now_v7(), keep_until).await.unwrap(), Cancelled::Unknown);
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, count(&row, "cancelled", ""), count(&row, "ok", "")), (3, 2, 1));
    assert_eq!(row.drift(), 0);
}

pub(in crate::store) async fn progress_is_told_while_the_claim_holds(store: Shared) {
    let id = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    let progress = Progress { percent: 40.0, note: "pages 4 of 10".to_owned() };
    assert!(store.progress(claimed.claim, progress.clone()).await.unwrap());
    let StatusState::Running { progress: told } = state(&store, id).await else { panic!("it runs") };
    assert_eq!(told, Some(progress.clone()));
    let rows = store.queue(page_of("f")).await.unwrap();
    assert_eq!((rows[0].running, &rows[0].progress), (true, &Some(progress.clone())));
    let stranger = Claim { token: Uuid::now_v7(), ..claimed.claim };
    assert!(!store.progress(stranger, Progress::default()).await.unwrap());
    assert!(settle(&store, &claimed, Settle::Retry { run_at: now(), attempt: failed(1) }).await);
    assert!(!store.progress(claimed.claim, progress).await.unwrap());
    claim_one(&store).await;
    let StatusState::Running { progress } = state(&store, id).await else { panic!("it runs") };
    assert_eq!(progress, None, "the next attempt begins anew");
}

pub(in crate::store) async fn a_full_backlog_takes_no_more_and_knows_its_duplicates(store: Shared) {
    let put = async |queued: Vec<QueuedInvocation>| {
        store.accept(Accept { queued, max_backlog: Some(2), ..Accept::default() }).await.unwrap()
    };
    let first = keyed("f", "one");
    let id = first.invocation.invocation_id;
    assert_eq!(put(vec![first, event("f"), event("f")]).await, [NEW, NEW, Admitted::Full]);
    assert_eq!(put(vec![keyed("f", "one"), event("f")]).await, [Admitted::Duplicate(id), Admitted::Full]);
    let claimed = claim(&store, 1).await;
    assert_eq!(put(vec![event("f")]).await, [Admitted::Full], "one that runs is not done");
    assert!(settle(&store, &claimed[0], ok()).await);
    assert_eq!(put(vec![event("f")]).await, [NEW]);
    let row = ledger_of(&store, "f").await;
    assert_eq!((count(&row, "shed", "backlog"), count(&row, "skipped", "duplicate"), row.drift()), (3, 1, 0));
}

pub(in crate::store) async fn the_queue_is_listed_in_pages(store: Shared) {
    let start = now();
    for number in 0..10 {
        let mut queued = event(if number % 2 == 0 { "even" } else { "odd" });
        queued.run_at = start + seconds(number / 3);
        accept_one(&store, queued).await;
    }
    let mut filter = QueueFilter { limit: 2, ..page_of("even") };
    let mut seen = Vec::new();
    loop {
        let page = store.queue(filter.clone()).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some((last.run_at, last.invocation_id));
        seen.extend(page.iter().map(|row| row.run_at));
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
    let kind = |word: &str| QueueFilter { trigger_type: Some(word.to_owned()), limit: 100, ..QueueFilter::default() };
    assert_eq!(store.queue(kind("job")).await.unwrap().len(), 10);
    assert!(store.queue(kind("timer")).await.unwrap().is_empty());
}

pub(in crate::store) async fn what_was_asked_for_together_is_kept_once(store: Shared) {
    let known = keyed("f", "known");
    let first = accept_one(&store, known).await;
    let release = |id| Release {
        id,
        messages: vec![message("a"), message("b")],
        events: vec![
            event("f"),
            keyed("f", "known"),
            unique(UniqueScope::Live, UniqueConflict::Keep),
            ordered("k", ""),
        ],
        keep_until: Some(now() + seconds(60)),
    };
    let id = Uuid::now_v7();
    let racing: JoinSet<_> = (0..4)
        .map(|_| {
            let (store, release) = (store.clone(), release(id));
            async move { store.release(release).await.unwrap() }
        })
        .collect();
    let mut admitted: Vec<_> = racing.join_all().await.into_iter().flatten().collect();
    let admitted = admitted.pop().filter(|_| admitted.is_empty()).expect("one of them was the first");
    assert_eq!(admitted, [NEW, Admitted::Duplicate(first), NEW, NEW]);
    assert_eq!(store.release(release(id)).await.unwrap(), None);
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 4, outbox: 2, ..Depths::default() });
    let ledger = ledger_of(&store, "f").await;
    assert_eq!((ledger.accepted, ledger.drift()), (5, 0));

    let nothing = || Release { id: Uuid::nil(), messages: Vec::new(), events: Vec::new(), keep_until: None };
    assert_eq!(store.release(nothing()).await.unwrap(), Some(Vec::new()));
    assert_eq!(store.release(nothing()).await.unwrap(), None);
    let forget = Retention { keys_before: now() + seconds(1), ..Retention::NOTHING };
    assert_eq!(store.prune(forget).await.unwrap().keys, 3, "the two and the event's own");
    assert_eq!(store.release(nothing()).await.unwrap(), Some(Vec::new()));
}
