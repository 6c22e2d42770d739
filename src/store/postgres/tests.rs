//! The conformance suite on a real server, and what only a server can suffer.

#![allow(unreachable_pub, reason = "the harness is that of the stories")]

#[path = "../../../tests/it/support/found.rs"]
pub(crate) mod found;
#[path = "../../../tests/it/support/postgres.rs"]
pub(crate) mod server;

mod functions;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trigger_core::StatusState;
use uuid::Uuid;

use self::server::Server;
use super::{PostgresSettings, PostgresStore};
use crate::store::conformance::{
    self, accept, accept_one, claim, claim_at, claim_one, deploy_of, deploy_one, event, message, seconds,
};
use crate::store::{Accept, Admitted, Depths, Error, Settle, Store};

/// A schema of one test's own on the shared server.
struct Schema {
    server: Arc<Server>,
    name: String,
}

impl Schema {
    fn new() -> Self {
        Self { server: Server::shared(), name: format!("t_{}", Uuid::now_v7().simple()) }
    }

    fn settings(&self) -> PostgresSettings {
        settings(&self.server, &self.name)
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(self.settings()).await.unwrap())
    }

    /// What a query in this schema gives.
    fn query(&self, sql: &str) -> String {
        self.server.query(&format!("SET search_path TO {}; {sql}", self.name)).unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        // A server of somebody else's is left as it was.
        if std::env::var_os("TEST_PG_URL").is_some() {
            let _ = self.server.query(&format!("DROP SCHEMA {} CASCADE", self.name));
        }
    }
}

fn settings(server: &Server, schema: &str) -> PostgresSettings {
    let separator = if server.url().contains('?') { '&' } else { '?' };
    format!("{}{separator}schema={schema}", server.url()).parse().unwrap()
}

mod on_a_server {
    use super::*;

    async fn open() -> (Arc<dyn Store>, Schema) {
        let schema = Schema::new();
        (schema.open().await, schema)
    }

    conformance::suite!(open().await);

    #[tokio::test]
    async fn an_unreadable_row_is_parked_and_the_others_flow() {
        let (store, schema) = open().await;
        let spoil = async |id: Uuid| {
            schema.query(&format!("UPDATE queue SET context = 'no JSON' WHERE invocation_id = '{id}'"));
        };
        conformance::an_unreadable_row_is_parked_and_the_others_flow(store, spoil).await;
        assert!(schema.query("SELECT context FROM parked").contains("no JSON"));
    }
}

// -- Several engines -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_dead_engines_messages_are_published_by_another_one_when_its_lease_is_over() {
    let schema = Schema::new();
    let open = async |lease| {
        let settings = PostgresSettings { lease: Duration::from_secs(lease), ..schema.settings() };
        PostgresStore::open(settings).await.unwrap()
    };
    let (dying, other) = (open(3).await, open(60).await);
    dying.outbox_add(vec![message("dead.f")]).await.unwrap();
    let now = chrono::Utc::now();
    let due = async |store: &PostgresStore, after| store.outbox_due(now + seconds(after), 10).await.unwrap().len();
    assert_eq!(due(&dying, 0).await, 1);
    assert_eq!((due(&other, 0).await, due(&other, 3).await), (0, 0), "it is being published");
    assert_eq!(due(&dying, 1).await, 1, "its reader may look again");
    drop(dying);
    assert_eq!(due(&other, 5).await, 1, "nobody publishes it any more");
    let third = open(60).await;
    assert_eq!((due(&third, 60).await, due(&third, 66).await), (0, 1), "each engine's lease is its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_share_a_queue_and_each_row_is_claimed_once() {
    let schema = Schema::new();
    let stores = [schema.open().await, schema.open().await];
    let ids: Vec<Uuid> = {
        let events: Vec<_> = (0..2000).map(|_| event("f")).collect();
        let ids = events.iter().map(|one| one.invocation.invocation_id).collect();
        accept(&stores[0], events).await;
        ids
    };
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..6 {
        let store = stores[index % stores.len()].clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&store, 50).await;
                if claimed.is_empty() {
                    return mine;
                }
                for one in &claimed {
                    let settled = store.settle(one.claim, conformance::ok()).await;
                    assert!(settled.unwrap());
                }
                mine.extend(claimed.iter().map(|one| one.queued.invocation.invocation_id));
            }
        });
    }
    let mut run: Vec<Uuid> = tasks.join_all().await.into_iter().flatten().collect();
    run.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(run, expected);
    assert_eq!(stores[1].depths().await.unwrap(), Depths::default());
}

#[tokio::test]
async fn a_dead_engines_rows_are_claimed_by_another_when_their_lease_is_over() {
    let schema = Schema::new();
    let (one, other) = (schema.open().await, schema.open().await);
    let id = accept_one(&one, event("f")).await;
    let lost = claim_one(&one).await;
    drop(one);
    assert!(claim(&other, 10).await.is_empty());
    let later = chrono::Utc::now() + seconds(61);
    let again = claim_at(&other, later, later + seconds(60), 10).await.remove(0);
    assert_eq!((again.queued.invocation.invocation_id, again.queued.invocation.attempt), (id, 1));
    assert!(!other.settle(lost.claim, Settle::HandBack).await.unwrap(), "its token is worth nothing any more");
    assert!(other.settle(again.claim, conformance::ok()).await.unwrap());
}

#[tokio::test]
async fn rows_of_one_engine_wake_the_others() {
    let schema = Schema::new();
    let (one, other) = (schema.open().await, schema.open().await);
    let woken = async |store: &Arc<dyn Store>| tokio::time::timeout(Duration::from_secs(30), store.woken()).await;
    // The first is for what was told before it listened.
    woken(&other).await.expect("it listens");
    woken(&one).await.expect("it listens");
    accept_one(&one, event("f")).await;
    woken(&other).await.expect("it is told");
    let alone = tokio::time::timeout(Duration::from_millis(300), one.woken()).await;
    assert!(alone.is_err(), "what it did itself wakes it elsewhere");
    assert_eq!(schema.name, schema.settings().channel().trim_end_matches("_queue"));
    // Whoever enqueues in SQL wakes them too.
    schema.query(&format!("NOTIFY {}", schema.settings().channel()));
    woken(&one).await.expect("it is told");
}

#[tokio::test]
async fn a_message_is_published_by_one_engine_at_a_time() {
    let schema = Schema::new();
    let (one, other) = (schema.open().await, schema.open().await);
    one.outbox_add(vec![message("a"), message("b")]).await.unwrap();
    let now = chrono::Utc::now();
    let rows = one.outbox_due(now, 1).await.unwrap();
    let others = other.outbox_due(now, 10).await.unwrap();
    assert_eq!((rows.len(), others.len()), (1, 1));
    assert_ne!(rows[0].id, others[0].id);
    one.outbox_failed(rows[0].id, now, "no \0 route".to_owned()).await.unwrap();
    assert_eq!(other.outbox_due(now, 10).await.unwrap().len(), 2, "what is put off is anybody's");
    let much_later = now + seconds(3600);
    assert_eq!(one.outbox_due(much_later, 10).await.unwrap().len(), 2, "its publisher is gone");
}

#[tokio::test]
async fn engines_that_start_together_make_one_schema() {
    let schema = Schema::new();
    let opened = futures_util::future::join_all((0..6).map(|_| PostgresStore::open(schema.settings()))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(schema.query("SELECT count(*) = count(DISTINCT version) FROM tripline_migrations"), "SET\nt");
}

// -- What is there already -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_newer_schema_and_that_of_another_program_are_refused_and_left_alone() {
    let schema = Schema::new();
    drop(schema.open().await);
    schema.query("INSERT INTO tripline_migrations VALUES (1000, now())");
    let Err(Error::Incompatible(why)) = PostgresStore::open(schema.settings()).await else { panic!() };
    assert!(why.contains("has version 1000") && why.contains("use the engine that wrote it"), "{why}");

    let other = Schema::new();
    other.server.query(&format!("CREATE SCHEMA {0}; CREATE TABLE {0}.orders (id int)", other.name)).unwrap();
    let Err(Error::Incompatible(why)) = PostgresStore::open(other.settings()).await else { panic!() };
    assert!(why.contains("belongs to another program"), "{why}");
    assert_eq!(
        other.query("SELECT count(*) FROM pg_class WHERE relnamespace = current_schema::regnamespace"),
        "SET\n1"
    );
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_without_the_password() {
    let port = found::free_port();
    let away: PostgresSettings = format!("postgres://me:hunter2@127.0.0.1:{port}/app").parse().unwrap();
    let began = Instant::now();
    let Err(Error::Unavailable(why)) = PostgresStore::open(away).await else { panic!() };
    assert!(began.elapsed() < Duration::from_secs(5), "a refusal is told at once");
    assert!(why.contains(&format!("127.0.0.1:{port}")) && !why.contains("hunter2"), "{why}");
    assert_eq!(why.lines().count(), 1);

    let schema = Schema::new();
    let (server, _) = schema.server.url().rsplit_once('/').unwrap();
    let nowhere: PostgresSettings = format!("{server}/nowhere").parse().unwrap();
    let Err(Error::Unavailable(why)) = PostgresStore::open(nowhere).await else { panic!() };
    assert!(why.contains("create the database"), "{why}");
}

// -- What comes from strangers ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_nul_from_outside_is_kept_where_it_matters() {
    let schema = Schema::new();
    let store = schema.open().await;
    let mut queued = event("f");
    queued.invocation.subject = "a\0b".into();
    queued.invocation.idempotency_key = Some("k\0".into());
    accept_one(&store, queued.clone()).await;
    let mut again = queued.clone();
    again.invocation.invocation_id = Uuid::now_v7();
    assert_eq!(accept(&store, vec![again]).await, [Admitted::Duplicate(queued.invocation.invocation_id)]);
    let claimed = claim_one(&store).await;
    assert_eq!(&*claimed.queued.invocation.subject, "a\0b");
    let dead = conformance::dead_letter(&claimed.queued, None);
    assert!(conformance::settle(&store, &claimed, Settle::Dead(dead)).await);
    let listed = store.dead_letters(conformance::any_dead()).await.unwrap();
    assert_eq!(listed[0].subject, "a\u{fffd}b", "a list shows what a text can hold");
    assert_eq!(&*store.dead_letter(listed[0].invocation_id).await.unwrap().unwrap().0.invocation.subject, "a\0b");
}

#[tokio::test]
async fn one_that_cannot_be_written_does_not_take_the_others_with_it() {
    let schema = Schema::new();
    let store = schema.open().await;
    let mut far = event("f");
    far.run_at = chrono::DateTime::<chrono::Utc>::MAX_UTC - chrono::TimeDelta::days(365 * 200_000);
    let only = |event| store.accept(Accept { queued: vec![event], ..Accept::default() });
    let good = futures_util::future::join_all((0..20).map(|_| only(event("f"))));
    let (bad, good) = tokio::join!(only(far), good);
    assert!(matches!(bad, Err(Error::Corrupt { .. })), "{bad:?}");
    assert!(good.iter().all(Result::is_ok), "{good:?}");
    assert_eq!(store.depths().await.unwrap().queued, 20);
}

#[tokio::test]
async fn a_module_that_was_damaged_is_refused_until_it_is_deployed_again() {
    let schema = Schema::new();
    let store = schema.open().await;
    let deploy = deploy_of("f", b"module");
    deploy_one(&store, deploy.clone()).await;
    schema.query("UPDATE module_blobs SET bytes = 'rotten'");
    let read = store.module(deploy.digest).await;
    assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    deploy_one(&store, deploy.clone()).await;
    assert_eq!(store.module(deploy.digest).await.unwrap(), Some(deploy.module));
}

// -- A server that goes away -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_is_given_up_and_hurts_no_other() {
    let schema = Schema::new();
    let settings = PostgresSettings { statement_timeout: Duration::from_millis(200), ..schema.settings() };
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(settings).await.unwrap());
    let (server, name) = (schema.server.clone(), schema.name.clone());
    let blocker = tokio::task::spawn_blocking(move || {
        server.query(&format!("BEGIN; LOCK TABLE {name}.queue; SELECT pg_sleep(3)")).unwrap();
    });
    let given_up = loop {
        match store.depths().await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => break error,
        }
    };
    let Error::Unavailable(why) = given_up else { panic!("{given_up}") };
    assert!(why.contains("longer than a statement may"), "{why}");
    assert!(store.functions().await.unwrap().is_empty(), "what needs no queue works");
    blocker.await.unwrap();
    assert_eq!(store.depths().await.unwrap(), Depths::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_is_unavailable_and_then_works_again() {
    let mut server = tokio::task::spawn_blocking(Server::own).await.unwrap();
    let mut settings = settings(&server, "tripline");
    settings.acquire_timeout = Duration::from_millis(500);
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(settings).await.unwrap());
    deploy_one(&store, deploy_of("f", b"module")).await;
    let waiting = accept_one(&store, event("f")).await;
    let claimed = claim_one(&store).await;
    tokio::task::block_in_place(|| server.kill());
    for _ in 0..3 {
        let results = [
            store.accept(Accept { queued: vec![event("f")], ..Accept::default() }).await.map(drop),
            store.settle(claimed.claim, conformance::ok()).await.map(drop),
            store.depths().await.map(drop),
        ];
        for result in results {
            let Err(Error::Unavailable(why)) = result else { panic!("{result:?}") };
            assert!(why.contains("127.0.0.1"), "{why}");
        }
    }
    tokio::task::block_in_place(|| server.restart());
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.depths().await {
        assert!(matches!(error, Error::Unavailable(_)) && Instant::now() < deadline, "{error}");
    }
    assert!(
        matches!(conformance::state(&store, waiting).await, StatusState::Running { .. }),
        "the claim outlived the server"
    );
    assert!(store.settle(claimed.claim, conformance::ok()).await.unwrap());
    // The notifications are there again too.
    let other: Arc<dyn Store> = Arc::new(PostgresStore::open(self::settings(&server, "tripline")).await.unwrap());
    let heard = async {
        loop {
            accept_one(&other, event("f")).await;
            if tokio::time::timeout(Duration::from_secs(1), store.woken()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.expect("it listens again");
}
