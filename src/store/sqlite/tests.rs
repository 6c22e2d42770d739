//! The conformance suite on a file and in memory, and what only a file can suffer.

mod room;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use trigger_core::StatusState;
use uuid::Uuid;

use super::{SqliteSettings, SqliteStore, Synchronous};
use crate::functions::Digest;
use crate::store::conformance::{self, accept_one, claim, claim_one, deploy_of, deploy_one, event, message};
use crate::store::{Accept, ClaimRequest, Depths, Error, QueuedInvocation, Result, Store};

mod in_memory {
    use super::*;

    fn open() -> (Arc<dyn Store>, ()) {
        (Arc::new(SqliteStore::open(SqliteSettings::memory()).unwrap()), ())
    }

    conformance::suite!(open());
}

mod in_a_file {
    use super::*;

    fn open() -> (Arc<dyn Store>, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        // What a commit means for the disk is none of the suite's business, and its 10,000 rows need not wait for it.
        let settings = SqliteSettings {
            synchronous: Synchronous::Normal,
            ..SqliteSettings::file(directory.path().join("state.db"))
        };
        (Arc::new(SqliteStore::open(settings).unwrap()), directory)
    }

    conformance::suite!(open());
}

/// A store in a directory of its own, and both of its faces.
struct Fixture {
    directory: TempDir,
    driver: Arc<SqliteStore>,
    store: Arc<dyn Store>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let driver = Arc::new(open_in(directory.path()).unwrap());
        Self { store: driver.clone(), driver, directory }
    }

    /// Runs statements on the writer's connection.
    async fn execute(&self, sql: impl Into<String>) {
        let sql = sql.into();
        self.driver.write(0, move |connection| Ok(connection.execute_batch(&sql)?)).await.unwrap();
    }

    fn reopen(self) -> Self {
        let Self { directory, driver, store } = self;
        drop((driver, store));
        let driver = Arc::new(open_in(directory.path()).unwrap());
        Self { store: driver.clone(), driver, directory }
    }
}

fn open_in(directory: &Path) -> Result<SqliteStore> {
    SqliteStore::open(SqliteSettings::file(directory.join("state.db")))
}

/// A list of events.
fn of(queued: Vec<QueuedInvocation>) -> Accept {
    Accept { queued, ..Accept::default() }
}

/// The message of a refusal to open.
fn refused(path: impl AsRef<Path>) -> Error {
    SqliteStore::open(SqliteSettings::file(path.as_ref())).expect_err("it must be refused")
}

// -- Opening ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn reopening_finds_everything_and_no_claims() {
    let fixture = Fixture::new();
    deploy_one(&fixture.store, deploy_of("f", b"module")).await;
    let waiting = accept_one(&fixture.store, event("f")).await;
    let claimed = claim_one(&fixture.store).await;
    let ended = accept_one(&fixture.store, event("f")).await;
    let second = claim_one(&fixture.store).await;
    assert!(fixture.store.settle(second.claim, conformance::ok()).await.unwrap());
    fixture.store.bury(conformance::dead_letter(&event("f"), Some(message("dead")))).await.unwrap();

    let fixture = fixture.reopen();
    let store = &fixture.store;
    assert_eq!(store.functions().await.unwrap().len(), 1);
    assert!(store.module(Digest::of(b"module")).await.unwrap().is_some());
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 1, running: 0, dead: 1, outbox: 1 });
    assert!(matches!(store.status(ended).await.unwrap().unwrap().state, StatusState::Ok { .. }));
    assert!(!store.settle(claimed.claim, conformance::ok()).await.unwrap(), "its engine is gone");
    let again = claim_one(store).await;
    assert_eq!(again.queued.invocation.invocation_id, waiting, "and what it ran is due at once");
    assert_eq!(again.queued.invocation.attempt, 1);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash() {
    let fixture = Fixture::new();
    deploy_one(&fixture.store, deploy_of("f", b"module")).await;
    let waiting = accept_one(&fixture.store, event("f")).await;
    let claimed = claim_one(&fixture.store).await;
    assert!(fixture.store.settle(claimed.claim, conformance::ok()).await.unwrap());
    let ids = [accept_one(&fixture.store, event("f")).await, accept_one(&fixture.store, event("f")).await];
    claim(&fixture.store, 1).await;

    // What a crash leaves behind: the files as they are, nothing closed.
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        fs::copy(fixture.directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let store = open_in(copy.path()).unwrap();
    assert_eq!(store.depths().await.unwrap(), Depths { queued: 2, ..Depths::default() });
    assert!(matches!(store.status(waiting).await.unwrap().unwrap().state, StatusState::Ok { .. }));
    for id in ids {
        assert!(matches!(store.status(id).await.unwrap().unwrap().state, StatusState::Queued { .. }));
    }
    assert_eq!(store.functions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_engine_is_refused_until_the_first_is_gone() {
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("state.db");
    let Error::Unavailable(why) = refused(&path) else { panic!() };
    assert!(why.contains(&path.display().to_string()), "{why}");
    assert!(why.contains(&format!("another engine (process {}) has this database", std::process::id())), "{why}");
    let link = fixture.directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link), Error::Unavailable(_)), "the same file by another name");
    accept_one(&fixture.store, event("f")).await;
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.depths().await.unwrap().queued, 1);
}

#[tokio::test]
async fn files_and_directories_are_made_for_this_user_only() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("a/b");
    let store = SqliteStore::open(SqliteSettings::file(inner.join("state.db"))).unwrap();
    accept_one(&(Arc::new(store) as Arc<dyn Store>), event("f")).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(inner.parent().unwrap()), 0o700);
    for entry in fs::read_dir(&inner).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_path_that_cannot_be_used_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    for path in [file.join("state.db"), directory.path().to_owned(), Path::new("/proc/state.db").to_owned()] {
        let error = refused(&path);
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.to_string().contains("choose another path"), "{error}");
    }
}

#[test]
fn what_is_not_ours_is_refused_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    fs::write(&text, "this is a text, and long enough not to be taken for an empty database".repeat(20)).unwrap();
    let foreign = directory.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE notes (note)").unwrap();
    let newer = directory.path().join("newer.db");
    drop(SqliteStore::open(SqliteSettings::file(&newer)).unwrap());
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();

    for (path, why) in [(text, "not a SQLite database"), (foreign, "another program"), (newer, "version 99")] {
        let before = fs::read(&path).unwrap();
        let error = refused(&path);
        assert!(matches!(error, Error::Incompatible(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn the_settings_reach_sqlite() {
    for (synchronous, level) in [(Synchronous::Full, 2), (Synchronous::Normal, 1)] {
        let directory = tempfile::tempdir().unwrap();
        let settings = SqliteSettings { synchronous, ..SqliteSettings::file(directory.path().join("state.db")) };
        let store = SqliteStore::open(settings).unwrap();
        let asked = store
            .write(0, |connection| {
                let number =
                    |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
                let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
                Ok((number("synchronous")?, number("foreign_keys")?, number("temp_store")?, journal))
            })
            .await
            .unwrap();
        assert_eq!(asked, (level, 1, 2, "wal".to_owned()));
    }
    assert_eq!(serde_json::from_str::<Synchronous>("\"normal\"").unwrap(), Synchronous::Normal);
    assert_eq!(SqliteSettings::memory().synchronous, Synchronous::Full);
}

// -- The writer ------------------------------------------------------------------------------------------------------

/// Holds the writer up until dropped, so that what comes meanwhile becomes one group.
type HeldUp = std::sync::mpsc::Sender<()>;

async fn hold_up(fixture: &Fixture) -> HeldUp {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let mut began = Some(began);
    let mut work = Box::pin(fixture.driver.write(0, move |_| {
        if let Some(began) = began.take() {
            let _ = began.send(());
            let _ = held.recv();
        }
        Ok(())
    }));
    assert!(futures_util::poll!(&mut work).is_pending());
    begun.await.unwrap();
    release
}

#[tokio::test]
async fn one_failing_operation_does_not_hurt_its_group() {
    let fixture = Fixture::new();
    let held = hold_up(&fixture).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let failing = fixture.driver.write(0, move |connection| {
        counted.fetch_add(1, Ordering::Relaxed);
        connection.execute_batch(
            "INSERT INTO unique_keys VALUES (1, 'never', x'00', 'live', NULL);
             INSERT INTO unique_keys VALUES (NULL, NULL, x'00', 'live', NULL)",
        )?;
        Ok(())
    });
    let harmless = fixture.driver.write(0, |_| Err::<(), _>(Error::Unavailable("by itself".to_owned())));
    let (before, after) = (event("before"), event("after"));
    let results = async {
        tokio::join!(fixture.store.accept(of(vec![before])), failing, harmless, fixture.store.accept(of(vec![after])),)
    };
    let (first, failed, harmless, last) = release_once_waiting(held, results).await;
    assert_eq!(first.unwrap(), [conformance::NEW]);
    assert_eq!(last.unwrap(), [conformance::NEW]);
    assert!(matches!(failed, Err(Error::Corrupt { .. })), "{failed:?}");
    assert!(harmless.unwrap_err().to_string().contains("by itself"));
    assert_eq!(runs.load(Ordering::Relaxed), 2, "once with its group and once alone");
    assert_eq!(fixture.store.depths().await.unwrap().queued, 2);
    let never = fixture.driver.read(|connection| {
        Ok(connection.query_row("SELECT count(*) FROM unique_keys", [], |row| row.get::<_, u32>(0))?)
    });
    assert_eq!(never.await.unwrap(), 0, "what the failed one wrote is undone");
}

/// Polls everything once, so that it waits in the writer's queue, and then lets the writer go.
async fn release_once_waiting<T>(held: HeldUp, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    assert!(futures_util::poll!(work.as_mut()).is_pending());
    drop(held);
    work.await
}

#[tokio::test]
async fn an_operation_whose_caller_went_away_is_not_done() {
    let fixture = Fixture::new();
    let held = hold_up(&fixture).await;
    {
        let mut abandoned = fixture.store.accept(of(vec![event("abandoned")]));
        assert!(futures_util::poll!(&mut abandoned).is_pending());
    }
    release_once_waiting(held, fixture.store.accept(of(vec![event("f")]))).await.unwrap();
    assert_eq!(fixture.store.depths().await.unwrap().queued, 1);
}

#[tokio::test]
async fn a_panic_costs_one_operation() {
    let fixture = Fixture::new();
    for write in [true, false] {
        let work = |connection: &Connection| -> Result<()> {
            connection.query_row("SELECT 1", [], |_| Ok(()))?;
            panic!("on purpose")
        };
        let result = if write { fixture.driver.write(0, work).await } else { fixture.driver.read(work).await };
        assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    }
    accept_one(&fixture.store, event("f")).await;
    assert!(fixture.store.functions().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes() {
    let fixture = Fixture::new();
    let held = hold_up(&fixture).await;
    let big = || fixture.driver.write(40 << 20, |_| Ok(()));
    let (mut first, mut second) = (Box::pin(big()), Box::pin(big()));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    let larger_than_the_bound = fixture.driver.write(1 << 30, |_| Ok(()));
    drop(held);
    first.await.unwrap();
    second.await.unwrap();
    larger_than_the_bound.await.unwrap();
}

// -- A disk that fails -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_full_disk_is_told_and_gone_on_from() {
    let fixture = Fixture::new();
    let first = accept_one(&fixture.store, event("f")).await;
    let large = |name: &str| {
        let mut queued = event(name);
        queued.invocation.payload = Bytes::from(vec![1; 200_000]);
        queued
    };
    // SQLite's own limit fails as a full disk does.
    fixture.execute("PRAGMA max_page_count = 1").await;
    let held = hold_up(&fixture).await;
    let group =
        async { tokio::join!(fixture.store.accept(of(vec![large("a")])), fixture.store.accept(of(vec![large("b")]))) };
    let (one, other) = release_once_waiting(held, group).await;
    for result in [one, other] {
        let Err(Error::Unavailable(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("full") && why.contains("free some space") && why.contains("state.db"), "{why}");
    }
    assert_eq!(claim_one(&fixture.store).await.queued.invocation.invocation_id, first, "what needs no room goes on");
    assert_eq!(fixture.store.depths().await.unwrap(), Depths { running: 1, ..Depths::default() });

    fixture.execute("PRAGMA max_page_count = 4294967294").await;
    accept_one(&fixture.store, large("a")).await;
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.depths().await.unwrap().queued, 2);
}

#[tokio::test]
async fn a_torn_file_is_an_error_and_no_panic() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.accept(of((0..500).map(|_| event("f")).collect())).await.unwrap();
    let path = fixture.directory.path().join("state.db");
    let Fixture { directory, driver, store } = fixture;
    drop((driver, store));

    let mut bytes = fs::read(&path).unwrap();
    // The first pages say what is where; the rows behind them are garbage now.
    let from = bytes.len() / 2;
    bytes[from..].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let store = open_in(directory.path()).unwrap();
    let now = chrono::Utc::now();
    let request = ClaimRequest { now, lease_until: now, limit: 500, limits: Vec::new() };
    let result = store.claim(request).await;
    let Err(Error::Corrupt { what, why }) = result else { panic!("{result:?}") };
    assert!(what.contains("state.db"), "{what}");
    assert!(why.contains("backup"), "{why}");
    assert!(store.functions().await.unwrap().is_empty(), "what can be read is");
}

#[tokio::test]
async fn another_programs_lock_is_told() {
    let fixture = Fixture::new();
    fixture.execute("PRAGMA busy_timeout = 1").await;
    let other = Connection::open(fixture.directory.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held = fixture.store.accept(of(vec![event("f")])).await;
    let Err(Error::Unavailable(why)) = held else { panic!("{held:?}") };
    assert!(why.contains("another program holds a lock"), "{why}");
    other.execute_batch("COMMIT").unwrap();
    accept_one(&fixture.store, event("f")).await;
}

// -- What is stored --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_unreadable_row_is_parked() {
    for spoilt in
        ["context = '{\"cut'", "context = CAST(x'ff00' AS TEXT)", "context = '{}'", "attempts = 'x'", "run_at = -9e18"]
    {
        let spoilt = spoilt.replace("-9e18", "-9000000000000000000");
        let fixture = Fixture::new();
        conformance::an_unreadable_row_is_parked_and_the_others_flow(fixture.store.clone(), async |id| {
            fixture.execute(format!("UPDATE queue SET {spoilt} WHERE invocation_id = x'{}'", id.simple())).await;
        })
        .await;
        let parked = fixture.driver.read(|connection| {
            Ok(connection.query_row("SELECT count(*), max(reason) FROM parked", [], |row| {
                Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?))
            })?)
        });
        let (parked, reason) = parked.await.unwrap();
        assert_eq!(parked, 2, "{spoilt}");
        assert!(!reason.contains("cut"), "an error quotes nothing of an event: {reason}");
    }
}

#[tokio::test]
async fn a_module_whose_bytes_changed_is_corrupt_until_deployed_again() {
    let fixture = Fixture::new();
    deploy_one(&fixture.store, deploy_of("f", b"module")).await;
    fixture.execute("UPDATE module_blobs SET bytes = x'00'").await;
    let result = fixture.store.module(Digest::of(b"module")).await;
    assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    deploy_one(&fixture.store, deploy_of("f", b"module")).await;
    assert!(fixture.store.module(Digest::of(b"module")).await.unwrap().is_some());
}

#[tokio::test]
async fn no_list_reads_module_bytes() {
    let fixture = Fixture::new();
    deploy_one(&fixture.store, deploy_of("f", b"module")).await;
    // Whatever touched the table would fail without it.
    fixture.execute("ALTER TABLE module_blobs RENAME TO elsewhere").await;
    let store = &fixture.store;
    assert_eq!(store.functions().await.unwrap()[0].version.module_bytes, 6);
    assert_eq!(store.versions("default".to_owned(), "f".to_owned()).await.unwrap().len(), 1);
    assert!(store.version("default".to_owned(), "f".to_owned(), 1).await.unwrap().is_some());
    assert!(store.module(Digest::of(b"module")).await.is_err());
}

#[tokio::test]
async fn an_unreadable_dead_letter_or_message_hides_no_other() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let queued = [event("f"), event("g")];
    for queued in &queued {
        store.bury(conformance::dead_letter(queued, Some(message("dead")))).await.unwrap();
    }
    fixture.execute("UPDATE dead_letters SET reason = 'unheard_of', context = '{' WHERE function_name = 'f'").await;
    fixture.execute("UPDATE outbox SET headers = '{' WHERE rowid = 1").await;
    let listed = store.dead_letters(crate::store::DeadLetterPage { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|one| &*one.binding.function_name).collect::<Vec<_>>(), ["g"]);
    assert!(matches!(store.dead_letter(queued[0].invocation.invocation_id).await, Err(Error::Corrupt { .. })));
    let run_at = conformance::now();
    let ids = queued.iter().map(|queued| queued.invocation.invocation_id).collect();
    let redriven = store.redrive_all(ids, None, run_at).await.unwrap();
    assert_eq!(redriven, [crate::store::Redriven::Unreadable, crate::store::Redriven::Queued]);
    assert_eq!(store.outbox_due(chrono::Utc::now(), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_claim_stops_short_where_payloads_are_large() {
    let fixture = Fixture::new();
    for _ in 0..6 {
        let mut queued = event("f");
        queued.invocation.payload = Bytes::from(vec![0; 8 << 20]);
        accept_one(&fixture.store, queued).await;
    }
    assert_eq!(claim(&fixture.store, 6).await.len(), 4, "32 MiB at once");
    assert_eq!(claim(&fixture.store, 6).await.len(), 2);
}

#[tokio::test]
async fn hot_questions_are_answered_from_an_index() {
    let fixture = Fixture::new();
    let plans = fixture.driver.write(0, |connection| {
        let plan = |sql: &str, values: &[i64]| -> Result<String> {
            let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let mut rows = explain.query(rusqlite::params_from_iter(values))?;
            let mut plan = String::new();
            while let Some(row) = rows.next()? {
                plan.push_str(&row.get::<_, String>(3)?);
                plan.push('\n');
            }
            Ok(plan)
        };
        Ok([plan(super::sql::SELECT_READY, &[1, 2, 3])?, plan(super::sql::DELETE_QUEUE, &[1])?])
    });
    for plan in plans.await.unwrap() {
        assert!(
            plan.contains("USING INDEX") && !plan.contains("SCAN queue") && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
}

#[tokio::test]
async fn closing_waits_for_what_was_begun() {
    let fixture = Fixture::new();
    let id = Uuid::now_v7();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let mut began = Some(began);
    let mut work = Box::pin(fixture.driver.write(0, move |connection| {
        if let Some(began) = began.take() {
            let _ = began.send(());
            let _ = held.recv();
        }
        super::attempts::remember(connection, id, &conformance::failed(1), 0)
    }));
    assert!(futures_util::poll!(&mut work).is_pending());
    begun.await.unwrap();
    drop(work);
    // Most likely released while the store is being dropped; sooner would do as well.
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(release);
    });
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.remembered_attempts(id).await.unwrap().len(), 1);
    releasing.join().unwrap();
}
