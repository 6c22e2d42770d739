//! What is accepted is somewhere, at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trigger_core::Cancelled;
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{Settle, Tally};

pub(in crate::store) async fn the_ledger_balances_whatever_happens(store: Shared) {
    let first = keyed("f", "key");
    let first_id = first.invocation.invocation_id;
    accept(&store, vec![first, keyed("f", "key"), event("f"), event("f"), event("f"), event("f")]).await;
    store.keep(event("f")).await.unwrap();
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued, row.running, count(&row, "skipped", "duplicate")), (7, 6, 0, 1));
    assert_eq!(row.drift(), 0);
    assert!(row.oldest_due.is_some());

    let claimed = claim(&store, 4).await;
    assert!(settle(&store, &claimed[0], ok()).await);
    let dead = &claimed[1];
    assert!(settle(&store, dead, Settle::Dead(dead_letter(&dead.queued, None))).await);
    assert!(settle(&store, &claimed[2], Settle::Retry { run_at: now() + seconds(9), attempt: failed(1) }).await);
    let waiting = claimed[2].claim.invocation_id;
    assert_eq!(store.cancel(waiting, None).await.unwrap(), Cancelled::Cancelled);
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.queued, row.running), (2, 1));
    let ended = ["ok", "dead", "cancelled"].map(|outcome| sum(&row, outcome));
    assert_eq!((ended, row.drift()), ([1, 1, 1], 0));

    store.redrive(dead.claim.invocation_id, now()).await.unwrap();
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued, sum(&row, "dead"), row.drift()), (7, 3, 0, 0), "it is dead no more");
    store.bury(dead_letter(&event("f"), None)).await.unwrap();
    let tally = |outcome, reason, count| Tally { binding: binding("f", "jobs"), outcome, reason, count };
    store.tally(vec![tally("ok", None, 5), tally("shed", Some("overload"), 2)]).await.unwrap();
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, sum(&row, "ok"), count(&row, "shed", "overload")), (15, 6, 2));
    assert_eq!((sum(&row, "dead"), row.drift()), (1, 0));
    assert!(store.status(first_id).await.unwrap().is_some());
}

pub(in crate::store) async fn the_ledger_is_one_snapshot_while_others_write(store: Shared) {
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                for row in store.ledger().await.unwrap() {
                    assert_eq!(row.drift(), 0, "{row:?}");
                }
                looks += 1;
            }
        }
    });
    let writers = (0..4).map(|_| {
        let store = store.clone();
        async move {
            for _ in 0..30 {
                accept(&store, (0..10).map(|_| event("f")).collect()).await;
                for one in claim(&store, 12).await {
                    let dead = Settle::Dead(dead_letter(&one.queued, None));
                    let is_dead = one.claim.invocation_id.as_bytes()[15] % 4 == 0;
                    settle(&store, &one, if is_dead { dead } else { ok() }).await;
                }
                store.cancel(Uuid::now_v7(), None).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    done.store(true, Ordering::Relaxed);
    reader.await.unwrap();
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.drift()), (1200, 0));
}
