//! Durable work from end to end: accepted, committed, claimed, run by a sandboxed component in a fresh instance, settled
//! and committed, on each store; and what one acknowledged enqueue costs beside a bare insert.
//!
//! See `benches/README.md`. The peers' figures come from `benches/peers/`, run in the same minutes.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(clippy::disallowed_methods, reason = "every task is joined")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use support::{in_process, median, spread};
use tokio::runtime::Runtime;
use trigger_core::{Binding, Clock, Custody, Dispatch as _, InvocationContext, Kind};
use tripline::dispatch::Dispatcher;
use tripline::executor::Executor;
use tripline::store::postgres::{PostgresSettings, PostgresStore};
use tripline::store::sqlite::{Place, SqliteSettings, SqliteStore, Synchronous, sql};
use tripline::store::{Pause, Store};
use uuid::Uuid;

/// Bytes of payload of every job.
const PAYLOAD: usize = 128;
/// Jobs of one measurement.
const JOBS: usize = 20_000;
/// Callers that wait for each answer before the next job, together.
const CLIENTS: usize = 64;

struct Engine {
    dispatcher: Arc<Dispatcher>,
    store: Arc<dyn Store>,
    binding: Arc<Binding>,
    /// When the last guest began.
    began: Arc<Mutex<Instant>>,
}

impl Engine {
    async fn new(store: Arc<dyn Store>) -> Self {
        let began = Arc::new(Mutex::new(Instant::now()));
        let noted = began.clone();
        let begins = move |_: &InvocationContext| *noted.lock() = Instant::now();
        let wrap = |wasm| -> Arc<dyn Executor> { Arc::new(in_process::Noting { wasm, begins }) };
        let in_process::Engine { dispatcher, store, .. } = in_process::Engine::new(store, wrap).await;
        dispatcher.run();
        Self { dispatcher, store, binding: in_process::binding("jobs", Kind::Job), began }
    }

    fn event(&self, keep_result: bool) -> InvocationContext {
        let payload = Bytes::from_static(&[7; PAYLOAD]);
        let mut event = InvocationContext::new(self.binding.clone(), Custody::Engine, payload);
        event.subject = "mail".into();
        if !keep_result {
            event.terms_mut().result_ttl_seconds = Some(0);
        }
        event
    }

    /// Waits until everything accepted has run. Counted in memory: asking the store would be work for the store.
    async fn idle(&self) {
        let counters = self.dispatcher.ledger().counters(&self.binding);
        while counters.sum("ok") + counters.sum("cancelled") < counters.sum("accepted") {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Jobs per second, accepted in lists of this many.
    async fn lists(&self, list: usize, keep_result: bool) -> f64 {
        let began = Instant::now();
        let each = JOBS / list / 4;
        let producers = (0..4).map(|_| async {
            for _ in 0..each {
                let events = (0..list).map(|_| self.event(keep_result)).collect();
                let accepted = self.dispatcher.accept_all(events).await;
                assert!(accepted.iter().all(Result::is_ok));
            }
        });
        join_all(producers).await;
        self.idle().await;
        (each * list * 4) as f64 / began.elapsed().as_secs_f64()
    }

    /// Jobs per second worked off from a backlog: what peers call their throughput.
    async fn backlog(&self) -> f64 {
        let pause = Pause { since: Clock::system().now(), note: "filling".to_owned() };
        self.store.pause((*self.binding).clone(), Some(pause)).await.expect("paused");
        self.dispatcher.learn_pauses().await;
        for _ in 0..JOBS / 1000 {
            self.dispatcher.accept_all((0..1000).map(|_| self.event(false)).collect()).await;
        }
        let began = Instant::now();
        self.store.pause((*self.binding).clone(), None).await.expect("resumed");
        self.dispatcher.learn_pauses().await;
        self.dispatcher.look();
        self.idle().await;
        JOBS as f64 / began.elapsed().as_secs_f64()
    }

    /// Microseconds from asking for a job until its guest begins, and until it is settled, one at a time.
    async fn latency(&self) -> (f64, f64) {
        let (mut begins, mut waits) = (Vec::with_capacity(500), Vec::with_capacity(500));
        for _ in 0..500 {
            let event = self.event(true);
            let (id, asked) = (event.invocation_id, Instant::now());
            self.dispatcher.accept(event).await.expect("accepted");
            self.dispatcher.wait(id, Duration::from_secs(10)).await.expect("a status");
            begins.push((*self.began.lock() - asked).as_secs_f64() * 1e6);
            waits.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        (median(begins), median(waits))
    }

    /// Jobs per second with so many callers, each of which waits until its job is kept.
    /// They are due much later, so that nothing else is measured.
    async fn clients(self: &Arc<Self>, clients: usize, jobs: usize) -> f64 {
        let began = Instant::now();
        let each = jobs / clients;
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let engine = self.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        let mut event = engine.event(false);
                        event.scheduled_at = Some(event.received_at + TimeDelta::days(1));
                        engine.dispatcher.accept(event).await.expect("accepted");
                    }
                })
            })
            .collect();
        join_all(tasks).await;
        let rate = (each * clients) as f64 / began.elapsed().as_secs_f64();
        self.dispatcher.cancel_live(&self.binding).await.expect("taken back");
        rate
    }

    /// Jobs per second with so many callers, each of which waits for its job's result; and the median wait in
    /// milliseconds.
    async fn answered(self: &Arc<Self>, clients: usize, jobs: usize) -> (f64, f64) {
        let began = Instant::now();
        let each = jobs / clients;
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let engine = self.clone();
                tokio::spawn(async move {
                    let mut waits = Vec::with_capacity(each);
                    for _ in 0..each {
                        let event = engine.event(true);
                        let (id, asked) = (event.invocation_id, Instant::now());
                        engine.dispatcher.accept(event).await.expect("accepted");
                        let status = engine.dispatcher.wait(id, Duration::from_secs(10)).await.expect("a status");
                        assert!(matches!(status.expect("known").state, trigger_core::StatusState::Ok { .. }));
                        waits.push(asked.elapsed().as_secs_f64() * 1000.0);
                    }
                    waits
                })
            })
            .collect();
        let waits = join_all(tasks).await.into_iter().flat_map(|waits| waits.expect("a client")).collect();
        ((each * clients) as f64 / began.elapsed().as_secs_f64(), median(waits))
    }
}

/// Single inserts per second by a bare connection: one transaction each, as one client of a database would.
fn bare_inserts(path: &Path, synchronous: Synchronous, rows: usize) -> f64 {
    let connection = Connection::open(path).expect("the store's file");
    connection.execute_batch(sql::WRITER_SETTINGS).expect("settings");
    connection.execute_batch(&format!("PRAGMA synchronous = {synchronous:?}")).expect("synchronous");
    let trigger = "INSERT OR IGNORE INTO bindings (binding_id, namespace, function_name, trigger_id, trigger_type)
        VALUES (1, 'default', 'bare', 'bare', 'job')";
    connection.execute_batch(trigger).expect("a trigger");
    let payload = vec![7_u8; PAYLOAD];
    let began = Instant::now();
    for _ in 0..rows {
        let none: Option<u32> = None;
        connection
            .prepare_cached(sql::INSERT_QUEUE)
            .and_then(|mut insert| {
                insert.execute(params![
                    Uuid::now_v7().as_bytes(),
                    1,
                    0,
                    i64::MAX,
                    i64::MAX,
                    1,
                    none,
                    0,
                    none,
                    none,
                    none,
                    none,
                    "{}",
                    payload
                ])
            })
            .expect("inserted");
    }
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    connection.execute_batch("DELETE FROM queue").expect("removed");
    rate
}

fn line(what: &str, figures: &[f64]) {
    println!("{what:<58} {:>10.0}  {}", median(figures.to_vec()), spread(figures));
}

async fn measure(word: &str, engine: Arc<Engine>, rounds: usize) {
    engine.lists(100, false).await;
    let (mut kept, mut plain, mut clients, mut answered, mut waits) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut backlog, mut begun, mut alone) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        plain.push(engine.lists(100, false).await);
        kept.push(engine.lists(100, true).await);
        backlog.push(engine.backlog().await);
        let (begins, settled) = engine.latency().await;
        begun.push(begins);
        alone.push(settled);
        clients.push(engine.clients(CLIENTS, JOBS / 2).await);
        let (rate, wait) = engine.answered(CLIENTS, JOBS / 2).await;
        answered.push(rate);
        waits.push(wait * 1000.0);
    }
    line(&format!("{word}: jobs/s, lists of 100, no result kept"), &plain);
    line(&format!("{word}: jobs/s, lists of 100, result kept"), &kept);
    line(&format!("{word}: jobs/s, worked off from a backlog"), &backlog);
    line(&format!("{word}: µs from asking until it begins, one at a time"), &begun);
    line(&format!("{word}: µs from asking to settled, one at a time"), &alone);
    line(&format!("{word}: acknowledged enqueues/s, {CLIENTS} clients"), &clients);
    line(&format!("{word}: kept, run and answered/s, {CLIENTS} clients"), &answered);
    line(&format!("{word}: the same, median wait in µs"), &waits);
}

/// Single enqueues in SQLite beside bare inserts, then everything.
fn sqlite(runtime: &Runtime, rounds: usize) {
    for synchronous in [Synchronous::Normal, Synchronous::Full] {
        let word = format!("SQLite {}", format!("{synchronous:?}").to_uppercase());
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        let open = || {
            let settings = SqliteSettings { place: Place::File(path.clone()), synchronous };
            Arc::new(SqliteStore::open(settings).expect("a store"))
        };
        drop(open());
        let (mut bare, mut one) = (vec![], vec![]);
        for _ in 0..rounds {
            bare.push(bare_inserts(&path, synchronous, 4000));
            let engine = Arc::new(runtime.block_on(Engine::new(open())));
            one.push(runtime.block_on(engine.clients(1, 4000)));
            runtime.block_on(engine.dispatcher.drain(Duration::from_secs(5)));
        }
        line(&format!("{word}: bare single inserts/s"), &bare);
        line(&format!("{word}: acknowledged enqueues/s, 1 client"), &one);
        runtime.block_on(async {
            let engine = Arc::new(Engine::new(open()).await);
            measure(&word, engine.clone(), rounds).await;
            engine.dispatcher.drain(Duration::from_secs(5)).await;
        });
    }
}

async fn postgres(rounds: usize) {
    let Ok(url) = std::env::var("BENCH_PG_URL") else {
        return println!("PostgreSQL: set BENCH_PG_URL=postgres://…/…?schema=bench to measure it too");
    };
    let settings: PostgresSettings = url.parse().expect("BENCH_PG_URL");
    let store = Arc::new(PostgresStore::open(settings).await.expect("a store"));
    measure("PostgreSQL", Arc::new(Engine::new(store).await), rounds).await;
}

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let only = std::env::var("STORE").ok();
    let asked = |store: &str| only.as_deref().is_none_or(|only| only == store);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if asked("sqlite") {
        sqlite(&runtime, rounds);
    }
    if asked("postgres") {
        runtime.block_on(postgres(rounds));
    }
}
