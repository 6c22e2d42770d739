//! What several engines do to one queue, what a crash leaves of it, and how its statements find their rows.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::{cancel, claim, settle, work};
use super::*;
use crate::store::conformance::{binding, failed, ledger_of, now, ordered, settle as settle_one};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_keep_the_order_of_every_key() {
    const KEYS: usize = 6;
    const EACH: usize = 40;
    let schema = Schema::new();
    let stores = [schema.open().await, schema.open().await];
    let accepted: Arc<Mutex<BTreeMap<usize, Vec<Uuid>>>> = Arc::default();
    let ran: Arc<Mutex<BTreeMap<usize, Vec<Uuid>>>> = Arc::default();
    let busy: Arc<Mutex<BTreeMap<usize, Uuid>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..KEYS {
        let (stores, accepted) = (stores.clone(), accepted.clone());
        tasks.spawn(async move {
            for turn in 0..EACH {
                // One producer a key, now on this engine and now on that one, and sometimes two events at once.
                let events: Vec<_> = (0..1 + turn % 2).map(|_| ordered(&key.to_string(), &key.to_string())).collect();
                accepted.lock().entry(key).or_default().extend(events.iter().map(|one| one.invocation.invocation_id));
                accept(&stores[turn % 2], events).await;
            }
        });
    }
    for worker in 0..4 {
        let (store, ran, busy) = (stores[worker % 2].clone(), ran.clone(), busy.clone());
        tasks.spawn(async move {
            let all = KEYS * (EACH + EACH / 2);
            while ran.lock().values().map(Vec::len).sum::<usize>() < all {
                let claimed = claim(&store, 4).await;
                if claimed.is_empty() {
                    tokio::task::yield_now().await;
                }
                for one in claimed {
                    let id = one.claim.invocation_id;
                    let key = one.queued.invocation.subject.parse().unwrap();
                    assert_eq!(busy.lock().insert(key, id), None, "two of key {key} at once");
                    tokio::task::yield_now().await;
                    let fails = one.queued.invocation.attempt == 1 && id.as_bytes()[15] % 3 == 0;
                    busy.lock().remove(&key);
                    if !fails {
                        ran.lock().entry(key).or_default().push(id);
                    }
                    let retry = Settle::Retry { run_at: now(), attempt: failed(1) };
                    assert!(settle_one(&store, &one, if fails { retry } else { conformance::ok() }).await);
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(*ran.lock(), *accepted.lock());
    assert_eq!(stores[0].depths().await.unwrap(), Depths::default());
    assert_eq!(ledger_of(&stores[1], "f").await.drift(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_of_a_unique_key_comes_of_two_engines() {
    let schema = Schema::new();
    let stores = [schema.open().await, schema.open().await];
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..100 {
        let store = stores[index % 2].clone();
        tasks.spawn(async move {
            let mut event = event("f");
            event.invocation.terms_mut().unique = Some(trigger_core::Unique {
                key: "k".into(),
                scope: trigger_core::UniqueScope::Live,
                conflict: trigger_core::UniqueConflict::Keep,
            });
            // Half of them also have an ordering key: the two kinds of locks do not stop each other.
            if index % 4 < 2 {
                event.invocation.terms_mut().ordering =
                    Some(trigger_core::Ordering { key: (index % 3).to_string().into(), limit: None });
            }
            accept(&store, vec![event]).await.remove(0)
        });
    }
    let answers = tasks.join_all().await;
    let new = answers.iter().filter(|answer| matches!(answer, Admitted::New { .. })).count();
    assert_eq!((new, stores[0].depths().await.unwrap().queued), (1, 1));
    let row = ledger_of(&stores[0], "f").await;
    assert_eq!((row.accepted, row.drift()), (100, 0));
}

#[tokio::test]
async fn a_transaction_that_was_cut_leaves_nothing_and_no_lock() {
    let schema = Schema::new();
    let settings = schema.settings();
    let store = schema.open().await;
    accept(&store, vec![ordered("k", "1"), ordered("k", "2")]).await;
    let first = claim_one(&store).await;
    let before = store.ledger().await.unwrap();
    // A settle of an ordered row, cut between any two of its statements: as the driver makes them, on a connection
    // that ends before the commit.
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('o' || ordering_key, binding_id)) FROM queue";
    let gone = "DELETE FROM queue WHERE state = 1";
    let next = "UPDATE queue SET state = 1 WHERE state = 2";
    for statements in [&[lock][..], &[lock, gone], &[lock, gone, next]] {
        let mut connection = PgConnection::connect_with(&settings.options).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("SET search_path TO {}", schema.name)))
            .execute(&mut connection)
            .await
            .unwrap();
        let mut transaction = connection.begin().await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&mut *transaction).await.unwrap();
        }
        drop(transaction);
        connection.close_hard().await.unwrap();
        assert_eq!(store.ledger().await.unwrap(), before, "{statements:?}");
        assert!(claim(&store, 10).await.is_empty(), "the second still waits for the first");
    }
    assert!(settle_one(&store, &first, conformance::ok()).await, "nobody holds the key's lock");
    assert_eq!(&*claim_one(&store).await.queued.invocation.subject, "2");
}

#[tokio::test]
async fn rows_of_another_engine_that_come_due_are_found() {
    let schema = Schema::new();
    let (one, other) = (schema.open().await, schema.open().await);
    assert!(claim(&other, 10).await.is_empty());
    let mut later = event("f");
    later.run_at = now() + seconds(1);
    accept_one(&one, later).await;
    // Nobody told it: it looks every second by the clock of who asks.
    let then = now() + seconds(2);
    assert_eq!(claim_at(&other, then, then + seconds(60), 10).await.len(), 1);
}

// -- What was there before -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_schema_with_rows_of_the_first_version_is_brought_up_to_date() {
    let schema = Schema::new();
    let first = include_str!("../../../../migrations/postgres/0001_initial.sql");
    let (waiting, running, done, dead, again) =
        (event("f"), event("f"), event("g").invocation, event("f"), event("f").invocation.invocation_id);
    let row = |queued: &crate::store::QueuedInvocation, claim: &str| {
        let invocation = &queued.invocation;
        format!(
            "('{}', 'default', 'f', 'jobs', 'job', now() - interval '1 minute', {claim}, 1, NULL, 0, NULL, '{}', 'payload')",
            invocation.invocation_id,
            invocation.to_stored()
        )
    };
    let claimed = format!("'{}', now() - interval '1 second'", Uuid::now_v7());
    let sql = format!(
        "CREATE SCHEMA {name}; SET search_path TO {name};
         CREATE TABLE tripline_migrations (version bigint NOT NULL PRIMARY KEY, applied_at timestamptz NOT NULL);
         INSERT INTO tripline_migrations VALUES (1, now());
         {first}
         INSERT INTO queue VALUES {}, {};
         INSERT INTO results VALUES ('{}', 'default', 'g', 'jobs', 'job', 1, now(), NULL, NULL, 'done');
         INSERT INTO accepted_keys VALUES ('default', 'f', 'jobs', 'key', '{again}', now());
         INSERT INTO schedules VALUES ('default', 'c', 'daily', '2026-01-01 00:00:00+00');
         INSERT INTO dead_letters VALUES ('{}', 'default', 'f', 'jobs', 'job', '', 'permanent',
            '{{\"code\": \"trap\", \"message\": \"\", \"retryable\": false}}', 1, now(), NULL, 0, 1, NULL, NULL, false,
            '[]', '{}', 'payload');",
        row(&waiting, "NULL, NULL"),
        row(&running, &claimed),
        done.invocation_id,
        dead.invocation.invocation_id,
        dead.invocation.to_stored(),
        name = schema.name,
    );
    schema.server.query(&sql).unwrap();

    let store = schema.open().await;
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued, row.running, row.drift()), (3, 1, 1, 0));
    assert_eq!((ledger_of(&store, "g").await.accepted, ledger_of(&store, "g").await.drift()), (1, 0));
    let mut claimed: Vec<Uuid> = claim(&store, 10).await.iter().map(|one| one.claim.invocation_id).collect();
    claimed.sort();
    let mut expected = vec![waiting.invocation.invocation_id, running.invocation.invocation_id];
    expected.sort();
    assert_eq!(claimed, expected, "those that waited, and those whose engine is gone");
    assert!(matches!(conformance::state(&store, done.invocation_id).await, StatusState::Ok { .. }));
    let keyed = conformance::keyed("f", "key");
    assert_eq!(accept(&store, vec![keyed]).await, [Admitted::Duplicate(again)]);
    let daily = trigger_core::Binding { trigger_type: trigger_core::Kind::Cron, ..(*binding("c", "daily")).clone() };
    assert_eq!(store.last_scheduled(daily).await.unwrap().unwrap().to_rfc3339(), "2026-01-01T00:00:00+00:00");
    let redriven = store.redrive(dead.invocation.invocation_id, now()).await.unwrap();
    assert_eq!(redriven, crate::store::Redriven::Queued);
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued + row.running, row.drift()), (4, 3, 0));
}

// -- How statements find their rows ----------------------------------------------------------------------------------

/// The plan that a connection makes of a statement.
async fn plan(connection: &mut PgConnection, types: &str, sql: &str, arguments: &str) -> String {
    let prepare = AssertSqlSafe(format!("PREPARE statement ({types}) AS {sql}"));
    sqlx::raw_sql(prepare).execute(&mut *connection).await.unwrap();
    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE statement ({arguments})"));
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("DEALLOCATE statement").execute(connection).await.unwrap();
    plan.join("\n")
}

#[tokio::test]
async fn plans_made_on_an_empty_queue_are_good_for_a_full_one() {
    let schema = Schema::new();
    drop(schema.open().await);
    let mut connection = PgConnection::connect_with(&schema.settings().options).await.unwrap();
    sqlx::query(work::SESSION).bind(&schema.name).bind("30000").execute(&mut connection).await.unwrap();
    let statements = [
        (
            "claim",
            "timestamptz, uuid, timestamptz, bigint, bigint, bigint[], bigint[]",
            claim::CLAIM,
            "now(), gen_random_uuid(), now(), 64, 1000000, '{}', '{}'",
            &["queue_ready", "queue_pkey"][..],
        ),
        (
            "make ready",
            "timestamptz, bigint",
            claim::MAKE_READY,
            "now(), 2000",
            &["queue_waiting", "queue_pkey"],
        ),
        (
            "settle",
            "uuid[], uuid[], int[], text[], bytea[], timestamptz, timestamptz[], uuid[], uuid[], uuid[], text[], text[],
             text[], bytea[]",
            settle::OK,
            "ARRAY[gen_random_uuid()], ARRAY[gen_random_uuid()], '{NULL}', '{NULL}', '{NULL}', now(), '{NULL}', '{}', '{}',
             '{}', '{}', '{}', '{}', '{}'",
            &["queue_pkey"],
        ),
        (
            "settle in order",
            "uuid[], uuid[], int[], text[], bytea[], timestamptz, timestamptz[], uuid[], uuid[], uuid[], text[], text[],
             text[], bytea[]",
            settle::OK_ORDERED,
            "ARRAY[gen_random_uuid()], ARRAY[gen_random_uuid()], '{NULL}', '{NULL}', '{NULL}', now(), '{NULL}', '{}', '{}',
             '{}', '{}', '{}', '{}', '{}'",
            &["queue_pkey", "queue_ordered"],
        ),
        (
            "take back",
            "uuid[], timestamptz[], timestamptz, boolean",
            cancel::TAKE_BACK,
            "ARRAY[gen_random_uuid()], '{NULL}', now(), true",
            &["queue_pkey", "queue_ordered"],
        ),
    ];
    for is_known_to_be_empty in [false, true] {
        if is_known_to_be_empty {
            accept_and_take_back(&schema).await;
            sqlx::raw_sql("VACUUM ANALYZE queue").execute(&mut connection).await.unwrap();
        }
        for (name, types, sql, arguments, indexes) in statements {
            let plan = plan(&mut connection, types, sql, arguments).await;
            for index in indexes {
                assert!(plan.contains(index), "{name} does not use {index}:\n{plan}");
            }
            let reads_all = ["Seq Scan on", "Hash Join", "Merge Join"].iter().any(|way| plan.contains(way));
            assert!(!reads_all, "{name} reads whole tables:\n{plan}");
            let compares = plan.lines().any(|line| line.contains("Join Filter") && line.contains("q."));
            assert!(!compares, "{name} reads a whole index:\n{plan}");
        }
    }
}

/// Leaves a table behind that has pages and no rows.
async fn accept_and_take_back(schema: &Schema) {
    let store = schema.open().await;
    let events: Vec<_> = (0..200).map(|_| event("f")).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.invocation.invocation_id).collect();
    accept(&store, events).await;
    for id in ids {
        store.cancel(id, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_touches_no_index() {
    let schema = Schema::new();
    let store = schema.open().await;
    accept(&store, (0..50).map(|_| event("f")).collect()).await;
    let claimed = claim(&store, 50).await;
    assert_eq!(claimed.len(), 50);
    // Counts are written when a session ends or has been idle; how many versions moved between pages is of interest.
    let hot = || {
        let counts = schema.query(
            "SELECT pg_stat_force_next_flush(); SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
             WHERE schemaname = current_schema() AND relname = 'queue'",
        );
        let last = counts.lines().last().unwrap_or_default().to_owned();
        let (all, hot) = last.split_once('|').unwrap_or(("0", "0"));
        (all.parse::<u64>().unwrap_or(0), hot.parse::<u64>().unwrap_or(0))
    };
    drop(store);
    let deadline = Instant::now() + Duration::from_secs(60);
    while hot().0 < 50 {
        assert!(Instant::now() < deadline, "{:?}", hot());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (all, hot) = hot();
    assert!(hot * 10 >= all * 9, "{hot} of {all} updates stayed in their page");
}
