//! `kill -9` at random moments under load, many times over: what was accepted is somewhere, nothing ends twice, the
//! books balance, every moment of a schedule has its row.
//!
//! `CRASHES=1000 tests/run -E 'test(crashes)'` for a longer look; `CRASH_SEED` repeats one.

#![allow(clippy::print_stdout, reason = "a failure is repeated by its seed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

/// How often the engine is killed.
const CRASHES: u32 = 50;

/// A function that works, one whose jobs keep their order, and one that a schedule runs every second.
const FUNCTIONS: &str = r#"
[functions.work]
module = "steer.wasm"
retry_count = 1
retry_delay_seconds = 0.02
retry = { backoff = "fixed", jitter = "none" }
dlq_topic = "dead.work"
[[functions.work.triggers]]
type = "job"
queue = "work"

[functions.tick]
module = "steer.wasm"
[[functions.tick.triggers]]
type = "cron"
name = "tick"
schedule = "* * * * * *"
missed = { max = 1000, window_seconds = 3600 }
"#;

/// Looks into the store from outside.
trait Look {
    /// The first row's columns, separated by `|`.
    fn query(&self, sql: &str) -> String;
    /// A moment's column as whole seconds since 1970.
    fn seconds(&self, column: &str) -> String;
}

struct File<'a>(&'a Project);

impl Look for File<'_> {
    fn query(&self, sql: &str) -> String {
        let path = self.0.path(".tripline/state.db");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(path, flags).unwrap();
        connection
            .query_row(sql, [], |row| {
                let columns = row.as_ref().column_count();
                let text = |index| {
                    Ok(match row.get_ref(index)? {
                        rusqlite::types::ValueRef::Null => String::new(),
                        rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                        value => String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned(),
                    })
                };
                Ok((0..columns).map(text).collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
            })
            .unwrap()
    }

    fn seconds(&self, column: &str) -> String {
        format!("{column} / 1000000")
    }
}

impl Look for Server {
    fn query(&self, sql: &str) -> String {
        self.query(&format!("SET search_path = tripline; {sql}")).unwrap().trim_start_matches("SET").trim().to_owned()
    }

    fn seconds(&self, column: &str) -> String {
        format!("extract(epoch FROM {column})::bigint")
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_many_crashes_on_sqlite() {
    let project = Project::new("", FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    crash_often(&project, &File(&project)).await;
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_many_crashes_on_postgres() {
    let server = Server::own();
    // A dead engine's claims are anybody's once their lease is over.
    let project = Project::new(&format!("store = \"{}\"\nlease_seconds = 1", server.url()), FUNCTIONS);
    project.guest("steer.wat", "steer.wasm");
    crash_often(&project, &server).await;
}

/// Jobs that the engine said it has, by their key.
type Kept = Arc<Mutex<BTreeMap<String, String>>>;

async fn crash_often(project: &Project, look: &impl Look) {
    let crashes: u32 = std::env::var("CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(CRASHES);
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (kept, done) = (Kept::default(), Arc::new(AtomicBool::new(false)));

    let mut engine = project.serve().await;
    let mut clients = JoinSet::new();
    for client in 0..4 {
        clients.spawn(enqueue(project.admin, client, kept.clone(), done.clone()));
    }
    for _ in 0..crashes {
        // The moment is the point: anywhere between a start and the middle of everything.
        tokio::time::sleep(Duration::from_millis(random.u64(5..200))).await;
        engine.kill();
        engine = project.serve().await;
    }
    done.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let kept = kept.lock().await.clone();
    assert!(kept.len() > crashes as usize, "only {} jobs came in between", kept.len());

    eventually("the queue to be empty", async || {
        look.query(
            "SELECT count(*) FROM queue q JOIN bindings b ON b.binding_id = q.binding_id WHERE b.trigger_type = 'job'",
        ) == "0"
    })
    .await;
    // Every job that was acknowledged has ended, in the way that its payload asks for.
    for (key, id) in &kept {
        let status = project.admin(&format!("/api/v1/invocations/{id}")).await;
        let expected = if key.ends_with('f') { "dead" } else { "ok" };
        assert_eq!(status["state"], expected, "job {key}: {status}");
    }
    let fails = kept.keys().filter(|key| key.ends_with('f')).count();
    eventually("every dead letter's message", async || look.query("SELECT count(*) FROM outbox") == "0").await;
    let of_work = "FROM ledger l JOIN bindings b ON b.binding_id = l.binding_id WHERE b.function_name = 'work'";
    let count =
        |outcome: &str| look.query(&format!("SELECT coalesce(sum(l.count), 0) {of_work} AND l.outcome = '{outcome}'"));
    // A job whose answer was lost in a crash was put in again with its key: it is one job, and its second coming is a
    // duplicate. Ending twice would show here.
    assert_eq!(count("ok"), (kept.len() - fails).to_string());
    assert_eq!(count("dead"), fails.to_string());
    assert_eq!(look.query("SELECT count(*) FROM dead_letters"), fails.to_string());
    assert_eq!(look.query("SELECT count(*) FROM results r JOIN bindings b ON b.binding_id = r.binding_id WHERE b.function_name = 'work'"), (kept.len() - fails).to_string());

    assert!(engine.stop().await.success());
    let drift = "SELECT count(*) FROM (
            SELECT b.binding_id,
                (SELECT coalesce(sum(CASE outcome WHEN 'accepted' THEN count ELSE -count END), 0) FROM ledger l
                    WHERE l.binding_id = b.binding_id)
                - (SELECT count(*) FROM queue q WHERE q.binding_id = b.binding_id) AS drift
            FROM bindings b) AS books WHERE drift <> 0";
    assert_eq!(look.query(drift), "0", "the books do not balance");
    // One row for each second from the first to the last, whether an engine was there or not.
    let at = look.seconds("f.scheduled_at");
    let fires = format!(
        "SELECT count(*), count(DISTINCT f.scheduled_at), max({at}) - min({at}) + 1, sum(CASE WHEN f.skipped IS NULL THEN 0 ELSE 1 END)
         FROM fires f"
    );
    let fires = look.query(&fires);
    let fires: Vec<u64> = fires.split('|').map(|text| text.parse().unwrap()).collect();
    assert_eq!(fires[0], fires[1], "a second has two fires");
    assert_eq!(fires[0], fires[2], "a second has no fire");
    assert_eq!(fires[3], 0, "none had a reason to be skipped");
}

/// Puts jobs in until told to stop, each again and again until the engine says that it has it.
async fn enqueue(admin: u16, client: u32, kept: Kept, done: Arc<AtomicBool>) {
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let (payload, word) = if number % 7 == 0 { ("f", "f") } else { ("done", "ok") };
        let key = format!("{client}-{number}-{word}");
        let body = json!({"payload": payload, "key": key}).to_string();
        loop {
            match post(admin, "/api/v1/jobs/work", &body).await {
                Some(answer) => {
                    let id = answer["invocation_id"].as_str().unwrap().to_owned();
                    kept.lock().await.insert(key, id);
                    break;
                }
                // Dead, or not there yet.
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// The JSON of a good answer; `None` where there was none.
async fn post(admin: u16, path: &str, body: &str) -> Option<Value> {
    let answer = crate::support::engine::try_post(admin, path, body).await?;
    answer.status.is_success().then(|| answer.json())
}
