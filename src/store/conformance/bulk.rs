//! Dead letters by the many: one selector, redrives, purges, retention.

use bytes::Bytes;
use chrono::Utc;
use trigger_core::{DeadReason, Failure, FailureCode, Kind};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{
    DeadLetter, DeadLetterPosition, DeadLetterSelector, Depths, QueuedInvocation, RedriveState, Redriven, Retention,
    Settle,
};

/// Where a dead letter is.
fn position_of(dead: &DeadLetter) -> DeadLetterPosition {
    DeadLetterPosition { died_at: dead.died_at, invocation_id: dead.invocation.invocation_id }
}

/// Whether a selector means a dead letter, told without a store.
fn means(selector: &DeadLetterSelector, dead: &DeadLetter, redriven: bool) -> bool {
    let binding = &dead.invocation.binding;
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    let text = selector.text.as_deref().map(str::to_ascii_lowercase).unwrap_or_default();
    let has = |found: &str| found.to_ascii_lowercase().contains(&text);
    is(&selector.namespace, &binding.namespace)
        && is(&selector.function_name, &binding.function_name)
        && is(&selector.trigger_id, &binding.trigger_id)
        && selector.reason.is_none_or(|reason| reason == dead.reason)
        && selector.version.is_none_or(|version| Some(version) == dead.version)
        && selector.died_after.is_none_or(|moment| dead.died_at >= moment)
        && selector.died_before.is_none_or(|moment| dead.died_at < moment)
        && (has(&dead.invocation.subject) || has(&dead.failure.message))
        && (selector.ids.is_empty() || selector.ids.contains(&dead.invocation.invocation_id))
        && (selector.include_redriven || !redriven)
}

pub(in crate::store) async fn one_selector_lists_counts_and_selects_alike(store: Shared) {
    let start = now();
    let messages = [
        "connection refused",
        "quota \"100%\" of user_7 exceeded",
        "CONNECTION reset: caf\u{e9}\n",
        "nul\u{0}inside",
        "",
    ];
    let mut kept = Vec::new();
    for number in 0..40_usize {
        let queued = event(["f", "g"][number % 2]);
        let mut dead = dead_letter(&queued, None);
        let mut binding = (*dead.invocation.binding).clone();
        binding.namespace = ["default", "other"][number / 20].into();
        binding.trigger_id = ["jobs", "http-2", "jobs-2"][number % 3].into();
        binding.trigger_type = if number % 3 == 1 { Kind::Http } else { Kind::Job };
        dead.invocation.binding = binding.into();
        dead.invocation.subject = format!("orders.{}.Created", number % 4).into();
        dead.reason = [DeadReason::RetriesExhausted, DeadReason::Permanent, DeadReason::Timeout][number % 3];
        dead.version = [Some(1), Some(2), None][number % 3];
        dead.failure = Failure::new(FailureCode::GuestError, messages[number % messages.len()]);
        dead.died_at = start + seconds((number / 4) as i64);
        store.bury(dead.clone()).await.unwrap();
        let redriven = number % 7 == 0;
        if redriven {
            assert_eq!(store.redrive(queued.invocation.invocation_id, start).await.unwrap(), Redriven::Queued);
        }
        kept.push((dead, redriven));
    }
    let all = DeadLetterSelector::default();
    let with = |change: &dyn Fn(&mut DeadLetterSelector)| {
        let mut selector = all.clone();
        change(&mut selector);
        selector
    };
    let text = |text: &str| with(&|selector| selector.text = Some(text.to_owned()));
    let ids: Vec<Uuid> = kept.iter().step_by(3).map(|(dead, _)| dead.invocation.invocation_id).collect();
    let mut selectors = vec![
        all.clone(),
        with(&|selector| selector.include_redriven = true),
        with(&|selector| selector.namespace = Some("other".to_owned())),
        with(&|selector| selector.function_name = Some("g".to_owned())),
        with(&|selector| selector.trigger_id = Some("http-2".to_owned())),
        with(&|selector| selector.reason = Some(DeadReason::Timeout)),
        with(&|selector| selector.version = Some(2)),
        with(&|selector| selector.version = Some(u32::MAX)),
        with(&|selector| selector.died_after = Some(start + seconds(3))),
        with(&|selector| selector.died_before = Some(start + seconds(3))),
        with(&|selector| selector.ids = ids.clone()),
        with(&|selector| selector.ids = vec![Uuid::now_v7(); 1000]),
        text("connection"),
        text("Orders.3.cREATED"),
        text("\"100%\" of user_"),
        text("caf\u{e9}\n"),
        text("CAF\u{c9}"),
        text("message"),
        text("o'r; -- %"),
    ];
    selectors.push(DeadLetterSelector {
        namespace: Some("default".to_owned()),
        function_name: Some("f".to_owned()),
        trigger_id: Some("jobs".to_owned()),
        reason: Some(DeadReason::RetriesExhausted),
        version: Some(1),
        died_after: Some(start),
        died_before: Some(start + seconds(5)),
        text: Some("created".to_owned()),
        ids,
        include_redriven: true,
    });
    let mut sizes = Vec::new();
    for selector in selectors {
        let mut expected: Vec<DeadLetterPosition> = kept
            .iter()
            .filter(|(dead, redriven)| means(&selector, dead, *redriven))
            .map(|(dead, _)| position_of(dead))
            .collect();
        expected.sort_by_key(|position| (position.died_at, position.invocation_id));
        assert_eq!(store.dead_letter_count(selector.clone()).await.unwrap(), expected.len() as u64, "{selector:?}");
        let mut selected = Vec::new();
        loop {
            let behind = selected.last().copied();
            let step = store.select_dead_letters(selector.clone(), behind, 7).await.unwrap();
            let ended = step.len() < 7;
            assert!(step.iter().all(|one| ["f", "g"].contains(&&*one.function_name) && !one.namespace.is_empty()));
            selected.extend(step.into_iter().map(|one| one.position));
            if ended {
                break;
            }
        }
        assert_eq!(selected, expected, "{selector:?}");
        let listed = store.dead_letters(dead_of(selector.clone())).await.unwrap();
        let mut listed: Vec<DeadLetterPosition> = listed
            .iter()
            .map(|one| DeadLetterPosition { died_at: one.died_at, invocation_id: one.invocation_id })
            .collect();
        listed.reverse();
        assert_eq!(listed, expected, "{selector:?}");
        sizes.push(expected.len());
    }
    assert_eq!((sizes[0], sizes[1], sizes[11], sizes[17]), (34, 40, 0, 0), "the word in the JSON is no text of it");
    assert!(sizes[12] > 0 && sizes[14] > 0 && sizes[15] > 0 && sizes[16] == 0, "only ASCII letters have two cases");
}

pub(in crate::store) async fn many_are_redriven_each_with_its_own_answer(store: Shared) {
    let letters: Vec<QueuedInvocation> = (0..4).map(|_| event("f")).collect();
    let ids: Vec<Uuid> = letters.iter().map(|one| one.invocation.invocation_id).collect();
    for letter in &letters {
        store.bury(dead_letter(letter, None)).await.unwrap();
    }
    let run_at = now() - seconds(1);
    assert_eq!(store.redrive(ids[3], run_at).await.unwrap(), Redriven::Queued);
    let unknown = Uuid::now_v7();
    let asked = vec![ids[1], unknown, ids[0], ids[0], ids[3], ids[2]];
    let answers = store.redrive_all(asked, Some(3), run_at).await.unwrap();
    let [queued, already] = [Redriven::Queued, Redriven::Already];
    assert_eq!(answers, [queued, Redriven::Unknown, queued, already, already, queued]);
    assert_eq!(store.redrive_all(Vec::new(), None, run_at).await.unwrap(), []);
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 4, ..Depths::default() });

    let states = async || {
        let asked = ids.iter().copied().chain([unknown]).collect();
        store.redrive_states(asked).await.unwrap()
    };
    let waits = RedriveState::Queued;
    assert_eq!(states().await, [waits, waits, waits, waits, RedriveState::Unknown]);
    let claimed = claim(&store, 10).await;
    assert_eq!(states().await, [waits, waits, waits, waits, RedriveState::Unknown], "they run now");
    for row in &claimed {
        let invocation = &row.queued.invocation;
        let chosen = if invocation.invocation_id == ids[3] { None } else { Some(3) };
        assert_eq!((invocation.version, invocation.attempt, row.queued.redrive_count), (chosen, 1, 1));
        assert!(row.queued.attempts.is_empty());
        let ending = match ids.iter().position(|id| *id == invocation.invocation_id) {
            Some(0) => Settle::Dead(dead_letter(&row.queued, None)),
            Some(1) => Settle::HandBack,
            _ => ok(),
        };
        assert!(settle(&store, row, ending).await);
    }
    let ended = RedriveState::Ended;
    assert_eq!(states().await, [RedriveState::Dead, waits, ended, ended, RedriveState::Unknown]);
}

pub(in crate::store) async fn a_step_of_large_events_ends_early(store: Shared) {
    let mut ids = Vec::new();
    for _ in 0..4 {
        let mut queued = event("f");
        queued.invocation.payload = Bytes::from(vec![7; 5 << 20]);
        ids.push(queued.invocation.invocation_id);
        store.bury(dead_letter(&queued, None)).await.unwrap();
    }
    let mut steps = Vec::new();
    while !ids.is_empty() {
        let answers = store.redrive_all(ids.clone(), None, now()).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == Redriven::Queued));
        ids.drain(..answers.len());
        steps.push(answers.len());
    }
    assert_eq!(steps, [2, 2], "5 MiB each, and a step begins none behind 8");
    assert_eq!(store.depths().await.unwrap().queued, 4);
}

pub(in crate::store) async fn a_purge_forgets_what_still_is_where_it_was(store: Shared) {
    let letters: Vec<QueuedInvocation> = (0..4).map(|_| event("f")).collect();
    let mut positions = Vec::new();
    for letter in &letters {
        let dead = dead_letter(letter, Some(message("dead.f")));
        positions.push(position_of(&dead));
        store.bury(dead).await.unwrap();
    }
    let redriven = letters[1].invocation.invocation_id;
    assert_eq!(store.redrive(redriven, now() + seconds(60)).await.unwrap(), Redriven::Queued);
    // It died again meanwhile, and is another dead letter for whoever purges.
    let mut again = dead_letter(&letters[2], None);
    again.died_at += seconds(1);
    store.bury(again.clone()).await.unwrap();

    assert_eq!(store.purge_dead_letters(Vec::new(), true).await.unwrap(), 0);
    let unknown = DeadLetterPosition { died_at: now(), invocation_id: Uuid::now_v7() };
    let named: Vec<DeadLetterPosition> = positions.iter().copied().chain([unknown]).collect();
    assert_eq!(store.purge_dead_letters(named.clone(), false).await.unwrap(), 2);
    let left: Vec<Uuid> = store.dead_letters(any_dead()).await.unwrap().iter().map(|one| one.invocation_id).collect();
    assert_eq!(left, [again.invocation.invocation_id, redriven]);
    assert!(store.dead_letter(letters[0].invocation.invocation_id).await.unwrap().is_none());
    assert!(store.status(letters[0].invocation.invocation_id).await.unwrap().is_none());
    assert_eq!(store.purge_dead_letters(named, true).await.unwrap(), 1);
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 1, dead: 1, outbox: 4, ..Depths::default() });
    // The messages about them go out all the same.
    let due = store.outbox_due(Utc::now(), 10).await.unwrap();
    store.outbox_sent(due.iter().map(|row| row.id).collect()).await.unwrap();
    assert_eq!(store.depths().await.unwrap().outbox, 0);
}

pub(in crate::store) async fn dead_letters_are_removed_by_age_and_by_number_and_counted(store: Shared) {
    let start = now();
    let mut ids = Vec::new();
    for number in 0..30 {
        let mut dead = dead_letter(&event("f"), None);
        dead.died_at = start + seconds(number);
        ids.push(dead.invocation.invocation_id);
        store.bury(dead).await.unwrap();
    }
    let kept = async || {
        let listed = store.dead_letters(any_dead()).await.unwrap();
        listed.iter().rev().map(|one| one.invocation_id).collect::<Vec<Uuid>>()
    };
    let nothing = store.prune(Retention::NOTHING).await.unwrap();
    assert_eq!((nothing.dead_letters_old, nothing.dead_letters_excess, nothing.more), (0, 0, false));
    assert_eq!(kept().await, ids);

    let retention =
        Retention { dead_letters_before: start + seconds(10), dead_letters_max_rows: 25, ..Retention::NOTHING };
    let pruned = store.prune(retention).await.unwrap();
    assert_eq!((pruned.dead_letters_old, pruned.dead_letters_excess), (10, 0), "20 are few enough");
    assert_eq!(kept().await, ids[10..]);

    // A redriven one counts: it is kept for the record.
    assert_eq!(store.redrive(ids[29], start).await.unwrap(), Redriven::Queued);
    let retention = Retention { dead_letters_max_rows: 12, ..Retention::NOTHING };
    let pruned = store.prune(retention).await.unwrap();
    assert_eq!((pruned.dead_letters_old, pruned.dead_letters_excess, pruned.more), (0, 8, false));
    assert_eq!(kept().await, ids[18..], "the oldest went");
    assert_eq!(store.prune(retention).await.unwrap().dead_letters_excess, 0);

    // At the same moment on several engines: together they remove what is too much, and no more.
    let retention = Retention { dead_letters_max_rows: 4, ..Retention::NOTHING };
    let prune = || store.prune(retention);
    let (one, other, third) = futures_util::join!(prune(), prune(), prune());
    let removed: u64 = [one, other, third].into_iter().map(|pruned| pruned.unwrap().dead_letters_excess).sum();
    assert_eq!((removed, kept().await), (8, ids[26..].to_vec()));
}
