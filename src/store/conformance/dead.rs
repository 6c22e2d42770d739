//! Dead letters and the outbox.

use chrono::Utc;
use trigger_core::{Custody, DeadReason, StatusState};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{
    DeadLetterPage, DeadLetterPosition, DeadLetterSelector, Depths, Error, OutboxRow, Redriven, Settle,
};

pub(in crate::store) async fn a_dead_letter_and_its_message_come_together(store: Shared) {
    let id = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    let dead = dead_letter(&claimed.queued, Some(message("dead.f")));
    assert!(settle(&store, &claimed, Settle::Dead(dead.clone())).await);
    assert_eq!(store.depths().await.unwrap(), Depths { dead: 1, outbox: 1, ..Depths::default() });
    let status = store.status(id).await.unwrap().unwrap();
    assert_eq!(status.attempts, 2);
    assert!(matches!(status.state, StatusState::Dead { reason: DeadReason::RetriesExhausted, .. }));

    let (kept, redriven_at) = store.dead_letter(id).await.unwrap().expect("it was kept");
    assert_eq!(redriven_at, None);
    assert_eq!(kept.envelope()["data"]["attempts"], dead.envelope()["data"]["attempts"]);
    assert_eq!(kept.invocation.payload, dead.invocation.payload);
    assert_eq!((kept.version, kept.digest), (dead.version, dead.digest));
    assert_eq!((kept.reason, &kept.failure, kept.died_at), (dead.reason, &dead.failure, dead.died_at));
    assert!(store.dead_letter(Uuid::now_v7()).await.unwrap().is_none());

    let published = async || store.dead_letters(any_dead()).await.unwrap()[0].published;
    assert_eq!(published().await, Some(false));
    let outbox = store.outbox_due(Utc::now(), 10).await.unwrap();
    store.outbox_sent(vec![outbox[0].id]).await.unwrap();
    assert_eq!(published().await, Some(true));
    assert_eq!(store.depths().await.unwrap(), Depths { dead: 1, ..Depths::default() });
}

pub(in crate::store) async fn a_settle_that_names_another_invocation_is_refused(store: Shared) {
    accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    let result = store.settle(claimed.claim, Settle::Dead(dead_letter(&event("g"), Some(message("dead"))))).await;
    assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    assert_eq!(store.depths().await.unwrap(), Depths { running: 1, ..Depths::default() });
    assert!(settle(&store, &claimed, ok()).await);
}

pub(in crate::store) async fn a_buried_event_is_kept_and_its_attempts_forgotten(store: Shared) {
    let queued = event("f");
    let id = queued.invocation.invocation_id;
    store.remember_attempt(id, failed(1)).await.unwrap();
    store.bury(dead_letter(&queued, None)).await.unwrap();
    assert!(store.remembered_attempts(id).await.unwrap().is_empty());
    let listed = store.dead_letters(any_dead()).await.unwrap();
    assert_eq!((listed.len(), listed[0].invocation_id, listed[0].published), (1, id, None));
    assert_eq!(store.depths().await.unwrap(), Depths { dead: 1, ..Depths::default() });

    // The source delivers it once more, because it never heard of the end.
    store.bury(dead_letter(&queued, Some(message("dead.f")))).await.unwrap();
    let listed = store.dead_letters(any_dead()).await.unwrap();
    assert_eq!((listed.len(), listed[0].published), (1, Some(false)), "one dead letter per invocation");
}

pub(in crate::store) async fn a_redriven_event_starts_afresh_and_may_die_again(store: Shared) {
    assert_eq!(store.redrive(Uuid::now_v7(), now()).await.unwrap(), Redriven::Unknown);
    let mut queued = event("f");
    queued.invocation.custody = Custody::Source;
    queued.invocation.version = Some(3);
    queued.invocation.attempt = 2;
    let id = queued.invocation.invocation_id;
    store.bury(dead_letter(&queued, Some(message("dead.f")))).await.unwrap();

    let run_at = now() - seconds(1);
    assert_eq!(store.redrive(id, run_at).await.unwrap(), Redriven::Queued);
    assert_eq!(store.redrive(id, run_at).await.unwrap(), Redriven::Already);
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 1, outbox: 1, ..Depths::default() });
    assert!(matches!(state(&store, id).await, StatusState::Queued { run_at: due } if due == run_at));
    let default_filter = dead_of(DeadLetterSelector::default());
    assert!(store.dead_letters(default_filter.clone()).await.unwrap().is_empty());
    assert!(store.dead_letters(any_dead()).await.unwrap()[0].redriven_at.is_some());
    assert!(store.dead_letter(id).await.unwrap().expect("kept for the record").1.is_some());

    let claimed = claim_one(&store).await;
    let invocation = &claimed.queued.invocation;
    assert_eq!((invocation.invocation_id, invocation.attempt, invocation.version), (id, 1, None));
    assert_eq!((invocation.custody, claimed.queued.redrive_count), (Custody::Engine, 1));
    assert!(claimed.queued.attempts.is_empty());
    assert_eq!(invocation.payload, queued.invocation.payload);

    assert!(settle(&store, &claimed, Settle::Dead(dead_letter(&claimed.queued, Some(message("dead.f"))))).await);
    assert_eq!(store.depths().await.unwrap(), Depths { dead: 1, outbox: 2, ..Depths::default() });
    let (dead, redriven_at) = store.dead_letter(id).await.unwrap().unwrap();
    assert_eq!((dead.redrive_count, redriven_at), (1, None));
    let outbox = store.outbox_due(Utc::now(), 10).await.unwrap();
    store.outbox_sent(vec![outbox[0].id]).await.unwrap();
    assert_eq!(
        store.dead_letters(default_filter.clone()).await.unwrap()[0].published,
        Some(false),
        "the message about the first death says nothing about the second"
    );
    store.outbox_sent(vec![outbox[1].id]).await.unwrap();
    assert_eq!(store.dead_letters(default_filter).await.unwrap()[0].published, Some(true));

    assert_eq!(store.redrive(id, run_at).await.unwrap(), Redriven::Queued, "it died again");
    let claimed = claim_one(&store).await;
    assert_eq!(claimed.queued.redrive_count, 2);
    assert!(settle(&store, &claimed, ok()).await);
    assert!(matches!(state(&store, id).await, StatusState::Ok { .. }));
    assert_eq!(store.redrive(id, run_at).await.unwrap(), Redriven::Already);
}

pub(in crate::store) async fn dead_letters_are_filtered_and_paged_without_loss(store: Shared) {
    let start = now();
    let mut expected = Vec::new();
    for number in 0..25_i64 {
        let queued = event(if number % 2 == 0 { "even" } else { "odd" });
        let mut dead = dead_letter(&queued, None);
        // Five at a time die in the same microsecond.
        dead.died_at = start + seconds(number / 5);
        dead.reason = if number % 5 == 0 { DeadReason::Permanent } else { DeadReason::Timeout };
        expected.push((dead.died_at, queued.invocation.invocation_id));
        store.bury(dead).await.unwrap();
    }
    expected.sort();
    expected.reverse();

    let mut page = DeadLetterPage { limit: 3, ..DeadLetterPage::default() };
    let mut paged = Vec::new();
    loop {
        let rows = store.dead_letters(page.clone()).await.unwrap();
        let Some(last) = rows.last() else { break };
        page.behind = Some(DeadLetterPosition { died_at: last.died_at, invocation_id: last.invocation_id });
        paged.extend(rows.iter().map(|one| (one.died_at, one.invocation_id)));
    }
    assert_eq!(paged, expected);

    let count = async |selector| store.dead_letters(dead_of(selector)).await.unwrap().len();
    let all = DeadLetterSelector::default();
    assert_eq!(count(DeadLetterSelector { function_name: Some("even".to_owned()), ..all.clone() }).await, 13);
    assert_eq!(count(DeadLetterSelector { reason: Some(DeadReason::Permanent), ..all.clone() }).await, 5);
    assert_eq!(count(DeadLetterSelector { namespace: Some("default".to_owned()), ..all.clone() }).await, 25);
    assert_eq!(count(DeadLetterSelector { namespace: Some("other".to_owned()), ..all.clone() }).await, 0);
    assert_eq!(count(DeadLetterSelector { died_before: Some(start + seconds(1)), ..all.clone() }).await, 5);
    let all_at_once = DeadLetterPage {
        selector: DeadLetterSelector {
            namespace: Some("default".to_owned()),
            function_name: Some("odd".to_owned()),
            reason: Some(DeadReason::Timeout),
            include_redriven: true,
            ..all.clone()
        },
        behind: Some(DeadLetterPosition { died_at: start + seconds(2), invocation_id: Uuid::max() }),
        limit: u32::MAX,
    };
    let listed = store.dead_letters(all_at_once).await.unwrap();
    assert!(listed.iter().all(|one| &*one.binding.function_name == "odd" && one.reason == DeadReason::Timeout));
    assert_eq!(listed.len(), 6, "of numbers 0 to 14 the odd ones that are no multiple of five");
    assert_eq!(store.dead_letters(DeadLetterPage { limit: 0, ..dead_of(all) }).await.unwrap().len(), 0);
}

pub(in crate::store) async fn the_outbox_is_drained_in_order_and_failures_wait(store: Shared) {
    let mut reply = message("a");
    reply.reply = Some("inbox".into());
    store.outbox_add(vec![reply, message("b"), message("c")]).await.unwrap();
    store.outbox_add(Vec::new()).await.unwrap();
    let due = async |at| store.outbox_due(at, 10).await.unwrap();
    let rows = due(Utc::now()).await;
    let subjects = |rows: &[OutboxRow]| rows.iter().map(|row| row.message.subject.to_string()).collect::<Vec<_>>();
    assert_eq!(subjects(&rows), ["a", "b", "c"]);
    assert_eq!(rows[0].message.reply.as_deref(), Some("inbox"));
    assert_eq!(rows[0].message.headers.get("tripline-depth"), Some(&b"1"[..]));
    assert_eq!(rows[0].message.payload, message("a").payload);
    assert_eq!(store.outbox_due(Utc::now(), 2).await.unwrap().len(), 2);
    assert_eq!(subjects(&due(Utc::now()).await), ["a", "b", "c"], "reading takes nothing");

    let later = now() + seconds(60);
    store.outbox_failed(rows[0].id, later, "no route".to_owned()).await.unwrap();
    assert_eq!(subjects(&due(Utc::now()).await), ["b", "c"]);
    let rows_later = due(later).await;
    assert_eq!(subjects(&rows_later), ["b", "c", "a"]);
    assert_eq!((rows_later[2].failures, rows_later[2].id), (1, rows[0].id));

    store.outbox_sent(vec![rows[1].id, rows[2].id, Uuid::now_v7()]).await.unwrap();
    assert_eq!(subjects(&due(later).await), ["a"]);
    assert_eq!(store.depths().await.unwrap().outbox, 1);
}
