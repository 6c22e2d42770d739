//! Random operations beside a queue as one would write it without a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use trigger_core::{Binding, Response, StatusState};
use uuid::Uuid;

use super::Shared;
use super::make::*;
use crate::store::{Admitted, Claim, DeadLetterPage, Depths, Redriven, Settle};

#[derive(Clone, Debug)]
enum Step {
    Accept { key: Option<u8>, delay: i64 },
    Claim { limit: u32, lease: i64 },
    Wait(i64),
    Renew { claim: prop::sample::Index, lease: i64 },
    Settle { claim: prop::sample::Index, ending: EndingKind },
    Redrive { dead: prop::sample::Index },
}

#[derive(Clone, Copy, Debug)]
enum EndingKind {
    Ok,
    Retry(i64),
    Dead,
    HandBack,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let ending = prop_oneof![
        3 => Just(EndingKind::Ok),
        2 => (0..4_i64).prop_map(EndingKind::Retry),
        2 => Just(EndingKind::Dead),
        1 => Just(EndingKind::HandBack),
    ];
    prop_oneof![
        4 => (prop::option::of(0..6_u8), 0..4_i64).prop_map(|(key, delay)| Step::Accept { key, delay }),
        4 => (0..4_u32, 0..4_i64).prop_map(|(limit, lease)| Step::Claim { limit, lease }),
        3 => (1..3_i64).prop_map(Step::Wait),
        1 => (index(), 0..4_i64).prop_map(|(claim, lease)| Step::Renew { claim, lease }),
        6 => (index(), ending).prop_map(|(claim, ending)| Step::Settle { claim, ending }),
        1 => index().prop_map(|dead| Step::Redrive { dead }),
    ]
}

/// A queue as one would write it without a database.
#[derive(Default)]
struct Model {
    queue: BTreeMap<Uuid, ModelRow>,
    keys: BTreeMap<u8, Uuid>,
    ok: BTreeSet<Uuid>,
    /// With the number of redrives before, and whether it was redriven since.
    dead: BTreeMap<Uuid, (u32, bool)>,
    outbox: u64,
    /// Every claim there ever was.
    claims: Vec<Claim>,
}

struct ModelRow {
    run_at: DateTime<Utc>,
    attempt: u32,
    redrives: u32,
    claim: Option<(Uuid, DateTime<Utc>)>,
}

impl Model {
    fn holds(&self, claim: Claim) -> bool {
        let row = self.queue.get(&claim.invocation_id);
        row.and_then(|row| row.claim).is_some_and(|(held, _)| held == claim.token)
    }

    fn depths(&self) -> Depths {
        let running = self.queue.values().filter(|row| row.claim.is_some()).count() as u64;
        let dead = self.dead.values().filter(|(_, redriven)| !redriven).count() as u64;
        Depths { queued: self.queue.len() as u64 - running, running, dead, outbox: self.outbox }
    }
}

pub(in crate::store) async fn random_operations_agree_with_a_model(store: Shared) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
    let steps = prop::collection::vec(step(), 1..80);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runner
            .run(&steps, |steps| {
                runtime.block_on(async {
                    follow(&store, steps).await?;
                    empty(&store).await;
                    Ok(())
                })
            })
            .unwrap();
    });
}

/// Ends what a case left behind, so that the next one begins with an empty queue.
async fn empty(store: &Shared) {
    let end = Utc::now() + seconds(10_000);
    for claimed in claim_at(store, end, end, 1000).await {
        assert!(settle(store, &claimed, ok()).await);
    }
    for summary in store.dead_letters(DeadLetterPage { limit: 1000, ..DeadLetterPage::default() }).await.unwrap() {
        store.redrive(summary.invocation_id, now()).await.unwrap();
    }
    for claimed in claim_at(store, end, end, 1000).await {
        assert!(settle(store, &claimed, ok()).await);
    }
    let sent = store.outbox_due(end, 1000).await.unwrap().iter().map(|row| row.id).collect();
    store.outbox_sent(sent).await.unwrap();
    assert_eq!(store.depths().await.unwrap(), Depths::default());
}

async fn follow(store: &Shared, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut clock = now();
    // Keys outlive a case; a trigger of its own gives each case fresh ones.
    let trigger = binding("f", &Uuid::now_v7().to_string());
    for step in steps {
        match step {
            Step::Accept { key, delay } => {
                let mut queued = event("f");
                queued.invocation.binding = trigger.clone();
                queued.invocation.idempotency_key = key.map(|key| key.to_string().into());
                queued.run_at = clock + seconds(delay);
                let (id, run_at) = (queued.invocation.invocation_id, queued.run_at);
                let first = key.map_or(id, |key| *model.keys.entry(key).or_insert(id));
                let admitted = accept(store, vec![queued]).await[0];
                prop_assert_eq!(admitted, if first == id { NEW } else { Admitted::Duplicate(first) });
                if first == id {
                    model.queue.insert(id, ModelRow { run_at, attempt: 1, redrives: 0, claim: None });
                }
            }
            Step::Claim { limit, lease } => {
                let mut due: Vec<DateTime<Utc>> = model
                    .queue
                    .values()
                    .filter(|row| row.run_at <= clock && row.claim.is_none_or(|(_, until)| until < clock))
                    .map(|row| row.run_at)
                    .collect();
                due.sort();
                due.truncate(limit as usize);
                let until = clock + seconds(lease);
                let claimed = claim_at(store, clock, until, limit).await;
                let moments: Vec<_> = claimed.iter().map(|one| one.queued.run_at).collect();
                prop_assert_eq!(moments, due);
                for one in claimed {
                    let id = one.queued.invocation.invocation_id;
                    let row = model.queue.get_mut(&id).expect("only what is in the queue is claimed");
                    prop_assert!(row.claim.is_none_or(|(_, until)| until < clock));
                    prop_assert_eq!(one.queued.invocation.attempt, row.attempt);
                    prop_assert_eq!(one.queued.attempts.len() as u32, row.attempt - 1);
                    prop_assert_eq!(one.queued.redrive_count, row.redrives);
                    row.claim = Some((one.claim.token, until));
                    model.claims.push(one.claim);
                }
            }
            Step::Wait(time) => clock += seconds(time),
            Step::Renew { claim, lease } => {
                if !model.claims.is_empty() {
                    let claim = *claim.get(&model.claims);
                    let until = clock + seconds(lease);
                    let renewed = store.renew(vec![claim], until).await.unwrap();
                    prop_assert_eq!(renewed.held.len() == 1, model.holds(claim));
                    if model.holds(claim) {
                        let row = model.queue.get_mut(&claim.invocation_id).expect("it is held");
                        row.claim = Some((claim.token, until));
                    }
                }
            }
            Step::Settle { claim, ending } => {
                if !model.claims.is_empty() {
                    let claim = *claim.get(&model.claims);
                    follow_settle(store, &mut model, claim, ending, clock, &trigger).await?;
                }
            }
            Step::Redrive { dead } => {
                if !model.dead.is_empty() {
                    let ids: Vec<Uuid> = model.dead.keys().copied().collect();
                    let id = *dead.get(&ids);
                    let (redrives, redriven) = model.dead.get_mut(&id).expect("it was chosen from there");
                    let expected = if *redriven { Redriven::Already } else { Redriven::Queued };
                    prop_assert_eq!(store.redrive(id, clock).await.unwrap(), expected);
                    if !std::mem::replace(redriven, true) {
                        let row = ModelRow { run_at: clock, attempt: 1, redrives: *redrives + 1, claim: None };
                        model.queue.insert(id, row);
                    }
                }
            }
        }
        prop_assert_eq!(store.depths().await.unwrap(), model.depths());
        let next = store.next_due().await.unwrap();
        let unclaimed = || model.queue.values().filter(|row| row.claim.is_none()).map(|row| row.run_at);
        match next {
            Some(next) => prop_assert!(unclaimed().any(|run_at| run_at == next)),
            // What was due when somebody looked waits no more.
            None => prop_assert!(unclaimed().all(|run_at| run_at <= clock.max(Utc::now()))),
        }
        let ledger = store.ledger().await.unwrap();
        prop_assert!(ledger.iter().all(|row| row.drift() == 0), "{:?}", ledger);
    }
    for Claim { invocation_id: id, .. } in &model.claims {
        let state = store.status(*id).await.unwrap().expect("what was claimed is known").state;
        let agrees = match state {
            StatusState::Queued { run_at } => {
                model.queue.get(id).is_some_and(|row| row.claim.is_none() && row.run_at == run_at)
            }
            StatusState::Running { .. } => model.queue.get(id).is_some_and(|row| row.claim.is_some()),
            StatusState::Ok { .. } => model.ok.contains(id) && !model.queue.contains_key(id),
            StatusState::Dead { .. } => model.dead.get(id).is_some_and(|(_, redriven)| !redriven),
            StatusState::Cancelled => false,
        };
        prop_assert!(agrees, "{id}: {state:?}");
    }
    Ok(())
}

async fn follow_settle(
    store: &Shared,
    model: &mut Model,
    claim: Claim,
    ending: EndingKind,
    clock: DateTime<Utc>,
    trigger: &Arc<Binding>,
) -> Result<(), TestCaseError> {
    let id = claim.invocation_id;
    let redrives = model.queue.get(&id).map_or(0, |row| row.redrives);
    let run_at = |delay| clock + seconds(delay);
    let settle = match ending {
        EndingKind::Ok => Settle::Ok {
            response: Response::default(),
            keep_until: Some(clock + seconds(10_000)),
            effects: vec![message("effect")],
            events: Vec::new(),
        },
        EndingKind::Retry(delay) => Settle::Retry { run_at: run_at(delay), attempt: failed(1) },
        EndingKind::Dead => {
            let mut queued = event("f");
            queued.invocation.binding = trigger.clone();
            queued.invocation.invocation_id = id;
            queued.redrive_count = redrives;
            Settle::Dead(dead_letter(&queued, None))
        }
        EndingKind::HandBack => Settle::HandBack,
    };
    let held = model.holds(claim);
    prop_assert_eq!(store.settle(claim, settle).await.unwrap(), held);
    if held {
        let mut row = model.queue.remove(&id).expect("it is held");
        row.claim = None;
        match ending {
            EndingKind::Ok => {
                model.ok.insert(id);
                model.outbox += 1;
            }
            EndingKind::Retry(delay) => {
                row.run_at = run_at(delay);
                row.attempt += 1;
                model.queue.insert(id, row);
            }
            EndingKind::Dead => {
                model.dead.insert(id, (redrives, false));
            }
            EndingKind::HandBack => {
                model.queue.insert(id, row);
            }
        }
    }
    Ok(())
}
