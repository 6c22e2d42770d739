//! What the queue costs: events taken in, claimed and settled per second, through the store and, beside it in the same
//! run, by a bare loop over the same statements. The ratio is what the store adds: a thread, a channel, JSON.
//!
//! `cargo bench --bench store`; `cargo bench --bench store -- 5` measures each line for five seconds instead of two.

#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::future::join_all;
use rusqlite::{Connection, params};
use trigger_core::{Binding, Clock, Custody, Headers, InvocationContext, Kind, Response};
use tripline::store::sqlite::{Place, SqliteSettings, SqliteStore, Synchronous, sql};
use tripline::store::{Accept, ClaimRequest, QueuedInvocation, Settle, Store};
use uuid::Uuid;

/// Bytes of payload of every event.
const PAYLOAD: usize = 128;

fn main() {
    // Cargo hands `--bench` to every benchmark.
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("accept, claim and settle, {PAYLOAD} bytes of payload, rows of one step in the first column");
    println!("{:>5}  {:<6}  {:>10}  {:>10}  {:>6}", "rows", "sync", "store/s", "bare/s", "ratio");
    for synchronous in [Synchronous::Normal, Synchronous::Full] {
        for batch in [1, 64, 500] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("state.db");
            let settings = SqliteSettings { place: Place::File(path.clone()), synchronous };
            let store: Arc<dyn Store> = Arc::new(SqliteStore::open(settings).expect("a store"));
            let through_store = runtime.block_on(cycle(&*store, batch, time));
            drop(store);
            let bare = bare(&path, synchronous, batch, time);
            let word = format!("{synchronous:?}").to_lowercase();
            let ratio = through_store / bare;
            println!("{batch:>5}  {word:<6}  {through_store:>10.0}  {bare:>10.0}  {ratio:>6.2}");
        }
    }
}

fn event(binding: &Arc<Binding>, payload: &Bytes) -> QueuedInvocation {
    let mut invocation = InvocationContext::new(binding.clone(), Custody::Engine, payload.clone());
    invocation.subject = "/thumbnails".into();
    invocation.content_type = Some("application/json".into());
    invocation.headers = Headers::List(vec![
        ("host".to_owned(), Bytes::from_static(b"localhost:7070")),
        ("user-agent".to_owned(), Bytes::from_static(b"curl/8.9.1")),
    ]);
    invocation.attributes = vec![("method".into(), "POST".to_owned()), ("path".into(), "/thumbnails".to_owned())];
    QueuedInvocation::new(invocation)
}

fn binding() -> Arc<Binding> {
    Arc::new(Binding {
        namespace: "default".into(),
        function_name: "thumbnail".into(),
        trigger_id: "http-1".into(),
        trigger_type: Kind::Http,
    })
}

/// Rows per second through the store: one `accept` and one `claim` a step, one `settle` a row, all of them at once.
async fn cycle(store: &dyn Store, batch: u32, time: Duration) -> f64 {
    let (binding, payload) = (binding(), Bytes::from(vec![7; PAYLOAD]));
    let start = Instant::now();
    let mut rows = 0;
    while start.elapsed() < time {
        let events = (0..batch).map(|_| event(&binding, &payload)).collect();
        store.accept(Accept { queued: events, ..Accept::default() }).await.expect("accepted");
        let now = Clock::system().now();
        let lease_until = now + TimeDelta::seconds(60);
        let request = ClaimRequest { now, lease_until, limit: batch, limits: Vec::new() };
        let claimed = store.claim(request).await.expect("claimed");
        assert_eq!(claimed.len() as u32, batch);
        let settled = join_all(claimed.iter().map(|claimed| {
            let response = Response::from(Bytes::from_static(b"done"));
            let settle =
                Settle::Ok { response, keep_until: Some(lease_until), effects: Vec::new(), events: Vec::new() };
            store.settle(claimed.claim, settle)
        }));
        assert!(settled.await.into_iter().all(|settled| settled.expect("settled")));
        rows += batch;
    }
    f64::from(rows) / start.elapsed().as_secs_f64()
}

/// Rows per second by the same statements in three transactions a step, on the thread that asks.
fn bare(path: &Path, synchronous: Synchronous, batch: u32, time: Duration) -> f64 {
    let connection = Connection::open(path).expect("the store's file");
    connection.execute_batch(sql::WRITER_SETTINGS).expect("settings");
    connection.execute_batch(&format!("PRAGMA synchronous = {synchronous:?}")).expect("synchronous");
    let trigger = "INSERT OR IGNORE INTO bindings (binding_id, namespace, function_name, trigger_id, trigger_type)
        VALUES (1, 'default', 'bare', 'bare', 'job')";
    connection.execute_batch(trigger).expect("a trigger");
    connection.execute_batch(sql::CREATE_CLAIMS).expect("claims");
    connection.set_prepared_statement_cache_capacity(32);
    let execute = |sql: &str| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).expect("a transaction");
    };
    let context = event(&binding(), &Bytes::new()).invocation.to_stored();
    let payload = vec![7_u8; PAYLOAD];
    let start = Instant::now();
    let mut rows = 0;
    while start.elapsed() < time {
        let now = Clock::system().now().timestamp_micros();
        execute("BEGIN IMMEDIATE");
        for _ in 0..batch {
            let id = Uuid::now_v7();
            let none: Option<u32> = None;
            connection
                .prepare_cached(sql::INSERT_QUEUE)
                .and_then(|mut insert| {
                    insert.execute(params![
                        id.as_bytes(),
                        1,
                        1,
                        now,
                        now,
                        1,
                        none,
                        0,
                        none,
                        none,
                        none,
                        none,
                        context,
                        payload
                    ])
                })
                .expect("inserted");
        }
        execute("COMMIT");

        execute("BEGIN IMMEDIATE");
        let token = Uuid::now_v7();
        let ids: Vec<[u8; 16]> = {
            let mut select = connection.prepare_cached(sql::SELECT_READY).expect("a statement");
            let rows = select.query_map(params![1, now, batch], |row| {
                let (_context, _payload): (String, Vec<u8>) = (row.get(7)?, row.get(8)?);
                row.get(0)
            });
            rows.expect("rows").collect::<Result<_, _>>().expect("ids")
        };
        assert_eq!(ids.len() as u32, batch);
        for id in &ids {
            let mut insert = connection.prepare_cached(sql::INSERT_CLAIM).expect("a statement");
            insert.execute(params![id, token.as_bytes(), now, 1, 1]).expect("claimed");
        }
        execute("COMMIT");

        execute("BEGIN IMMEDIATE");
        for id in &ids {
            let none: Option<u32> = None;
            let ended = connection
                .prepare_cached(sql::DELETE_CLAIM)
                .and_then(|mut delete| delete.query_row(params![id, token.as_bytes()], |row| row.get::<_, i64>(0)))
                .expect("ended");
            assert_eq!(ended, 1);
            connection
                .prepare_cached(sql::INSERT_RESULT)
                .and_then(|mut insert| insert.execute(params![id, 1, "ok", 1, now, now, none, none, b"done"]))
                .expect("kept");
            connection.prepare_cached(sql::DELETE_QUEUE).and_then(|mut delete| delete.execute([id])).expect("removed");
        }
        execute("COMMIT");
        rows += batch;
    }
    f64::from(rows) / start.elapsed().as_secs_f64()
}
