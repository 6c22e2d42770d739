//! What transactions of others may do: `enqueue`, `schedule` and `cancel` in SQL.

use serde_json::json;
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use trigger_core::{Cancelled, Kind};

use super::*;
use crate::store::conformance::{binding, count, ledger_of, settle};
use crate::store::{Deploy, Retention, TriggerRow};

/// A function with a queue `mail`, a timer `reminder`, and room for 20 bytes.
fn deploy() -> Deploy {
    let mut deploy = deploy_of("f", b"module");
    deploy.definition.max_input_bytes = 20;
    let trigger = |name: &str, kind, config| {
        let binding = trigger_core::Binding { trigger_type: kind, ..(*binding("f", name)).clone() };
        TriggerRow { binding, config }
    };
    deploy.triggers = vec![
        trigger("jobs", Kind::Job, json!({"queue": "mail"})),
        trigger(
            "tidy",
            Kind::Job,
            json!({"queue": "tidy", "ordering": "queue", "max_backlog": 2, "priority": 7, "result_ttl_seconds": 60}),
        ),
        trigger("timers", Kind::Timer, json!({"timers": "reminder"})),
    ];
    deploy
}

async fn open() -> (Arc<dyn Store>, Schema) {
    let schema = Schema::new();
    let store = schema.open().await;
    deploy_one(&store, deploy()).await;
    (store, schema)
}

/// Prunes what is older than the calendar.
fn nothing_old() -> Retention {
    let never = chrono::DateTime::UNIX_EPOCH;
    Retention {
        results_before: never,
        traces_before: never,
        traces_max_rows: 1000,
        keys_before: never,
        fires_before: never,
        ..Retention::NOTHING
    }
}

impl Schema {
    /// The last line of what a query gives.
    fn last(&self, sql: &str) -> String {
        self.query(sql).lines().last().unwrap_or_default().to_owned()
    }

    /// Code, message and hint of the error that statements end with.
    async fn refusal(&self, sql: &str) -> String {
        let mut connection = PgConnection::connect_with(&self.settings().options).await.unwrap();
        let sql = format!("SET search_path TO {}; {sql}", self.name);
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_err();
        let error = error.into_database_error().unwrap().downcast::<PgDatabaseError>();
        format!("{} {} {}", error.code(), error.message(), error.hint().unwrap_or_default())
    }
}

#[tokio::test]
async fn a_job_of_a_transaction_comes_with_its_commit_and_goes_with_its_rollback() {
    let (store, schema) = open().await;
    schema.query("BEGIN; SELECT enqueue('mail', 'lost'); ROLLBACK");
    assert_eq!(store.depths().await.unwrap(), Depths::default());
    assert!(store.ledger().await.unwrap().is_empty(), "nothing came, and nothing is counted");

    let sql = "BEGIN; CREATE TABLE orders (id int); INSERT INTO orders VALUES (7);
        SELECT enqueue('mail', '{\"order\": 7}'::jsonb, headers => '{\"x-one\": \"1\"}', priority => 3, max_retries => 1);
        COMMIT";
    schema.query(sql);
    let id: Uuid = schema.last("SELECT invocation_id FROM queue").parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    let claimed = claim_one(&store).await;
    let invocation = &claimed.queued.invocation;
    assert_eq!((invocation.invocation_id, invocation.attempt), (id, 1));
    assert_eq!((&invocation.payload[..], &*invocation.subject), (&b"{\"order\": 7}"[..], "mail"));
    assert_eq!(invocation.content_type.as_deref(), Some("application/json"));
    assert_eq!(invocation.headers.get_str("x-one"), Some("1"));
    assert_eq!((invocation.priority(), invocation.terms.as_ref().unwrap().retry_count), (3, Some(1)));
    assert_eq!(*invocation.binding, *binding("f", "jobs"));
    let age = chrono::Utc::now() - invocation.received_at;
    assert!(age >= chrono::TimeDelta::zero() && age < seconds(60), "{age}");
    assert!(settle(&store, &claimed, conformance::ok()).await);
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, count(&row, "ok", ""), row.drift()), (1, 1, 0));
    // What they counted apart is taken in with the rest.
    let retention = nothing_old();
    while store.prune(retention).await.unwrap().more {}
    assert_eq!(schema.last("SELECT count(*) FROM ledger WHERE stripe >= 16"), "0");
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.drift()), (1, 0));
}

#[tokio::test]
async fn keys_of_jobs_in_sql_are_those_of_the_engine() {
    let (store, schema) = open().await;
    let first = schema.last("SELECT enqueue('mail', 'a', unique_key => 'order-7')");
    assert_eq!(schema.last("SELECT enqueue('mail', 'b', unique_key => 'order-7')"), first);
    assert_eq!(
        store.unique_holder((*binding("f", "jobs")).clone(), "order-7".to_owned()).await.unwrap(),
        Some(first.parse().unwrap())
    );
    let row = ledger_of(&store, "f").await;
    assert_eq!((row.accepted, row.queued, count(&row, "skipped", "duplicate"), row.drift()), (2, 1, 1, 0));
    assert!(settle(&store, &claim_one(&store).await, conformance::ok()).await);
    assert_ne!(schema.last("SELECT enqueue('mail', 'c', unique_key => 'order-7')"), first, "it has ended");
    claim_one(&store).await;

    // One from SQL and one from the engine, of one ordering key.
    let by_sql = schema.last("SELECT enqueue('mail', '1', ordering_key => 'k')");
    accept_one(&store, conformance::ordered("k", "2")).await;
    let last = schema.last("SELECT enqueue('mail', '3', ordering_key => 'k')");
    let head = claim_one(&store).await;
    assert_eq!(head.claim.invocation_id.to_string(), by_sql);
    assert!(settle(&store, &head, conformance::ok()).await);
    let second = claim_one(&store).await;
    assert_eq!(&*second.queued.invocation.subject, "2");
    // One that waits is taken back in SQL, one that runs is asked to stop.
    assert_eq!(schema.last(&format!("SELECT cancel('{last}')")), "t");
    assert_eq!(schema.last(&format!("SELECT cancel('{last}')")), "f");
    let running = second.claim.invocation_id;
    assert_eq!(schema.last(&format!("SELECT cancel('{running}')")), "f");
    let renewed = store.renew(vec![second.claim], chrono::Utc::now() + seconds(60)).await.unwrap();
    assert_eq!((renewed.held, renewed.cancel), (vec![running], vec![running]));
    assert!(settle(&store, &second, Settle::Cancelled { keep_until: None }).await);
    let row = ledger_of(&store, "f").await;
    assert_eq!((count(&row, "cancelled", ""), row.drift()), (2, 0));
}

#[tokio::test]
async fn a_timer_in_sql_replaces_the_one_of_its_key_and_is_cancelled_by_it() {
    let (store, schema) = open().await;
    let first = schema.last("SELECT schedule('reminder', 'cart-1', now() + interval '1 hour', 'old')");
    let second = schema.last("SELECT schedule('reminder', 'cart-1', now() + interval '2 hours', 'new')");
    assert_ne!(first, second);
    let state = conformance::state(&store, first.parse().unwrap()).await;
    assert!(matches!(state, StatusState::Cancelled), "{state:?}");
    let due = store.next_due().await.unwrap().unwrap() - chrono::Utc::now();
    assert!(due > seconds(7000) && due <= seconds(7200), "{due}");
    schema.query("BEGIN; SELECT cancel('reminder', 'cart-1'); ROLLBACK");
    assert_eq!(store.depths().await.unwrap().queued, 1);
    assert_eq!(schema.last("SELECT cancel('reminder', 'cart-1')"), "t");
    assert_eq!(schema.last("SELECT cancel('reminder', 'cart-1')"), "f");
    assert_eq!(store.cancel(second.parse().unwrap(), None).await.unwrap(), Cancelled::Ended);
    let moment = chrono::Utc::now();
    schema.query("SELECT schedule('reminder', 'cart-2', now())");
    let claimed = claim_one(&store).await;
    assert!(claimed.queued.run_at >= moment - seconds(60));
    let invocation = &claimed.queued.invocation;
    assert_eq!(invocation.scheduled_at, Some(claimed.queued.run_at));
    assert_eq!((&*invocation.subject, invocation.attribute("key")), ("reminder/cart-2", Some("cart-2")));
    // What the queue's section says holds for its jobs in SQL as well.
    schema.query("SELECT enqueue('tidy', '1', headers => '{\"tripline-depth\": \"3\"}'); SELECT enqueue('tidy', '2')");
    let tidy = claim_one(&store).await;
    let terms = tidy.queued.invocation.terms.as_ref().unwrap();
    assert_eq!((terms.priority, terms.result_ttl_seconds, tidy.claim.ordered), (7, Some(60), true));
    assert_eq!((&tidy.queued.invocation.payload[..], tidy.queued.invocation.depth), (&b"1"[..], 3));
    assert!(store.ledger().await.unwrap().iter().all(|row| row.drift() == 0));
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    let (store, schema) = open().await;
    for (sql, code, words) in [
        ("SELECT enqueue('male', 'x')", "TL404", &["no function works on queue 'male'", "there is mail, tidy"][..]),
        ("SELECT schedule('x', 'k', now())", "TL404", &["no function has timers called 'x'", "there is reminder"]),
        ("SELECT enqueue('mail', repeat('x', 21))", "TL413", &["the limit of default/f is 20", "max_input_bytes"]),
        ("SELECT enqueue('mail', 'x', priority => 101)", "22023", &["priority is 101", "from -100 to 100"]),
        ("SELECT enqueue('mail', 'x', unique_key => '')", "22023", &["unique_key is empty"]),
        ("SELECT enqueue('mail', 'x', ordering_key => repeat('x', 513))", "22023", &["ordering_key has 513 bytes"]),
        ("SELECT enqueue('mail', 'x', unique_key => E'a\\nb')", "22023", &["a control character"]),
        ("SELECT enqueue('mail', 'x', run_at => 'infinity')", "22023", &["run_at is infinity", "3650 days"]),
        ("SELECT enqueue('mail', 'x', run_at => now() + interval '4000 days')", "22023", &["3650 days"]),
        ("SELECT enqueue('mail', 'x', max_retries => -1)", "22023", &["max_retries is -1"]),
        ("SELECT enqueue('mail', 'x', headers => '[1]')", "22023", &["not names with texts"]),
        ("SELECT enqueue('mail', 'x', headers => '{\"a\": 1}')", "22023", &["not names with texts"]),
        ("SELECT enqueue('mail', 'x', headers => '{\"a:b\": \"1\"}')", "22023", &["not names with texts"]),
        ("SELECT schedule('reminder', 'k', now() - interval '1 hour')", "22023", &["which is past"]),
        ("SELECT schedule('reminder', '', now())", "22023", &["key is empty"]),
        ("SELECT enqueue('tidy', 'x', ordering_key => 'k')", "22023", &["waits for the one before it", "leave it out"]),
        (
            "SELECT enqueue('tidy', '1'); SELECT enqueue('tidy', '2'); SELECT enqueue('tidy', '3')",
            "TL429",
            &["queue 'tidy' has 2 jobs, its max_backlog is 2"],
        ),
        ("SELECT schedule('reminder', NULL, now())", "22004", &["a timer needs a key and a moment"]),
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT enqueue('mail', 'x', ordering_key => 'k')",
            "0A000",
            &["READ COMMITTED"],
        ),
    ] {
        let refusal = schema.refusal(sql).await;
        let told = refusal.contains(code) && words.iter().all(|word| refusal.contains(word));
        assert!(told, "{sql}: {refusal}");
    }
    assert_eq!(store.depths().await.unwrap(), Depths::default());
    assert!(store.ledger().await.unwrap().is_empty());
}

#[tokio::test]
async fn whoever_enqueues_needs_no_right_but_that() {
    let (store, schema) = open().await;
    let user = format!("u_{}", Uuid::now_v7().simple());
    schema.query(&format!("CREATE ROLE {user}; GRANT USAGE ON SCHEMA {} TO {user}", schema.name));
    let refusal = schema.refusal(&format!("SET ROLE {user}; SELECT enqueue('mail', 'x')")).await;
    assert!(refusal.contains("permission denied for function enqueue"), "{refusal}");
    schema.query(&format!(
        "GRANT EXECUTE ON FUNCTION enqueue(text, text, text, jsonb, text, int, timestamptz, text, int) TO {user}"
    ));
    // Tables of the session's own with the names of the engine's mislead nobody.
    schema.query(&format!("SET ROLE {user}; CREATE TEMPORARY TABLE triggers (x int); SELECT enqueue('mail', 'x')"));
    let refusal = schema.refusal(&format!("SET ROLE {user}; SELECT payload FROM queue")).await;
    assert!(refusal.contains("permission denied for table queue"), "{refusal}");
    assert_eq!(store.depths().await.unwrap().queued, 1);
    schema.query(&format!("DROP OWNED BY {user}; DROP ROLE {user}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_holds_up_no_engine() {
    let (store, schema) = open().await;
    let (server, name) = (schema.server.clone(), schema.name.clone());
    let open = tokio::task::spawn_blocking(move || {
        server.query(&format!(
            "SET search_path TO {name}; BEGIN; SELECT enqueue('mail', 'slow'); SELECT pg_sleep(3); COMMIT"
        ))
    });
    let began = Instant::now();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%enqueue%' AND wait_event = 'PgSleep'";
    while schema.server.query(asleep).unwrap() != "1" {
        assert!(began.elapsed() < Duration::from_secs(30) && !open.is_finished());
    }
    for _ in 0..20 {
        accept_one(&store, event("f")).await;
        assert!(settle(&store, &claim_one(&store).await, conformance::ok()).await);
    }
    assert!(!open.is_finished(), "they did not wait for it");
    open.await.unwrap().unwrap();
    assert_eq!(&claim_one(&store).await.queued.invocation.payload[..], b"slow");
}
