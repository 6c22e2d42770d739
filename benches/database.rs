//! PostgreSQL as a source beside a bare listener, and what capturing changes costs writers: one server, interleaved.
//!
//! See `benches/README.md` for how to run it and what it needs.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, Connection as _};
use support::{Tripline, median, spread};

const FUNCTIONS: &str = r#"
[functions.notified]
module = "GUESTS/echo.component.wasm"
[[functions.notified.triggers]]
type = "database"
database = "bench"
channel = "bench"

[functions.changed]
module = "GUESTS/echo.component.wasm"
[[functions.changed.triggers]]
type = "database"
database = "bench"
table = "bench_captured"
operations = ["insert"]
key = []
"#;

const OK: (&str, &str) = ("tripline_invocations_total", "outcome=\"ok\"");

#[tokio::main]
async fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let url = std::env::var("BENCH_PG_URL").expect("BENCH_PG_URL names a database that may be written to");
    let setting =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (rounds, events) = (setting("ROUNDS", 5), setting("EVENTS", 20_000));
    let mut writer = PgConnection::connect(&url).await.expect("a server");
    for table in ["bench_bare", "bench_captured"] {
        run(
            &mut writer,
            format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id bigserial PRIMARY KEY, text text)"),
        )
        .await;
    }
    let engine = format!("[engine.databases.bench]\nurl = {url:?}");
    let tripline = Tripline::start("database", &engine, FUNCTIONS);
    install(&tripline, "apply");
    // Both are there when each has run once.
    while tripline.metric(OK.0, OK.1) < 2.0 {
        run(&mut writer, "INSERT INTO bench_captured (text) VALUES ('x'); NOTIFY bench".to_owned()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    for at_once in [1, 100] {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(bare_listener(&url, &mut writer, events, at_once).await);
            ours.push(notified(&tripline, &mut writer, events, at_once).await);
        }
        println!("NOTIFY, {at_once} a transaction, {events} of them; notifications/s, median (min..max)");
        println!("  bare listener             {}", spread(&bare));
        println!("  tripline → component      {}", spread(&ours));
        println!("  ratio {:.3}", median(ours) / median(bare));
    }

    let mut waits = Vec::new();
    for _ in 0..500 {
        let before = tripline.metric(OK.0, OK.1);
        run(&mut writer, "INSERT INTO bench_captured (text) VALUES ('x')".to_owned()).await;
        let began = Instant::now();
        while tripline.metric(OK.0, OK.1) <= before {}
        waits.push(began.elapsed().as_secs_f64() * 1e3);
    }
    println!("commit of a change → outcome, one at a time, seen by asking for metrics (ms): {}", spread(&waits));

    for rows in [1_usize, 1000] {
        let (mut plain, mut captured, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            plain.push(insert(&mut writer, "bench_bare", events, rows).await);
            let before = tripline.metric(OK.0, OK.1);
            let began = Instant::now();
            captured.push(insert(&mut writer, "bench_captured", events, rows).await);
            settled(&tripline, before + events as f64).await;
            ended.push(events as f64 / began.elapsed().as_secs_f64());
        }
        println!("inserts of {rows} rows, {events} rows; rows/s, median (min..max)");
        println!("  a table                   {}", spread(&plain));
        println!("  a table that is captured  {}", spread(&captured));
        println!("  cost to the writer {:.1} %", 100.0 * (1.0 - median(captured) / median(plain)));
        println!("  changes to outcomes       {}", spread(&ended));
    }
    install(&tripline, "drop");
}

async fn run(connection: &mut PgConnection, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.expect("the server does it");
}

fn install(tripline: &Tripline, verb: &str) {
    let arguments = ["database", verb, "tripline.toml"];
    let discard = (verb == "drop").then_some("--discard");
    let done = Command::new(env!("CARGO_BIN_EXE_tripline"))
        .args(arguments.into_iter().chain(discard))
        .current_dir(&tripline.directory)
        .status()
        .expect("tripline runs");
    assert!(done.success(), "tripline database {verb}");
}

/// Notifies so often, so many in a transaction.
async fn notify(writer: &mut PgConnection, channel: &str, events: usize, at_once: usize) {
    for first in (0..events).step_by(at_once) {
        // Equal ones of a transaction would be one.
        let last = (first + at_once).min(events) - 1;
        run(writer, format!("SELECT pg_notify('{channel}', n::text) FROM generate_series({first}, {last}) n")).await;
    }
}

async fn bare_listener(url: &str, writer: &mut PgConnection, events: usize, at_once: usize) -> f64 {
    let mut listener = PgListener::connect(url).await.expect("a listener");
    listener.listen("bench_bare").await.expect("the server listens");
    let began = Instant::now();
    let hearing = async {
        for _ in 0..events {
            listener.recv().await.expect("a notification");
        }
    };
    tokio::join!(notify(writer, "bench_bare", events, at_once), hearing);
    events as f64 / began.elapsed().as_secs_f64()
}

async fn notified(tripline: &Tripline, writer: &mut PgConnection, events: usize, at_once: usize) -> f64 {
    let before = tripline.metric(OK.0, OK.1);
    let began = Instant::now();
    notify(writer, "bench", events, at_once).await;
    settled(tripline, before + events as f64).await;
    events as f64 / began.elapsed().as_secs_f64()
}

async fn settled(tripline: &Tripline, count: f64) {
    let began = Instant::now();
    while tripline.metric(OK.0, OK.1) < count {
        assert!(began.elapsed() < Duration::from_secs(120), "events are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Rows a second.
async fn insert(writer: &mut PgConnection, table: &str, events: usize, rows: usize) -> f64 {
    let began = Instant::now();
    for _ in 0..events.div_ceil(rows) {
        run(writer, format!("INSERT INTO {table} (text) SELECT 'some text' FROM generate_series(1, {rows})")).await;
    }
    events as f64 / began.elapsed().as_secs_f64()
}
