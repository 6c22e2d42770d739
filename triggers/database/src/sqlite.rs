//! Changes of a table in a SQLite file.
//!
//! The same outbox, in the same file. Nobody tells when another process has written, so the file's version
//! (`PRAGMA data_version`) is asked for, which costs a look at shared memory; the outbox is looked at when it has
//! changed. Writers have one another's locks to wait for, so none is held while the engine keeps what was read.

pub(crate) mod install;
mod sql;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use trigger_core::TriggerContext;

use crate::Place;
use crate::config::{Operation, TableSettings};
use crate::outbox::{Change, HandedOver, MAX_BATCH_BYTES, MAX_CHANGE, Origin, hand_over};
use crate::plan::{Installation, Wanted};
use crate::session::{FIRST_PAUSE, LONGEST_PAUSE, PATIENCE, jittered};

/// How often the file's version is asked for.
const POLL: Duration = Duration::from_millis(50);

/// How often it is looked whether what captures changes is still there, and where it is not, whether it is by now.
const INSPECTION: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_millis(500);

/// Changes of one table for one function.
pub struct SqliteTrigger {
    file: PathBuf,
    origin: Origin,
    batch: u32,
    installs: bool,
}

/// A connection that is lent to threads that may block.
struct File(Option<Connection>);

impl File {
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let mut connection = self.0.take().ok_or("the file's connection was lost")?;
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&mut connection);
            (connection, done)
        });
        let (connection, done) = working.await.map_err(|_| "the file's connection was lost")?;
        self.0 = Some(connection);
        done
    }
}

/// Opens a file that there is.
pub(crate) fn open(file: &Path) -> Result<Connection, String> {
    if !file.exists() {
        return Err(format!("there is no file {}: whoever writes to it makes it", file.display()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(PATIENCE)?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| format!("the file {} cannot be opened: {error}", file.display()))
}

fn told(error: rusqlite::Error) -> String {
    error.to_string()
}

impl SqliteTrigger {
    pub(crate) fn new(database: &str, file: PathBuf, settings: TableSettings, installs: bool) -> Self {
        let origin = Origin { dialect: "sqlite", database: database.to_owned(), capture: settings.capture };
        Self { file, origin, batch: settings.batch, installs }
    }

    pub(crate) async fn run(self, cx: TriggerContext) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = tokio::time::Instant::now();
            match self.serve(&cx).await {
                Ok(()) => return,
                Err(why) => cx.degraded(format!("{why}; changes wait in the file")),
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = cx.shutdown.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads until asked to stop, or until the file cannot be used.
    async fn serve(&self, cx: &TriggerContext) -> Result<(), String> {
        let path = self.file.clone();
        let opening = tokio::task::spawn_blocking(move || open(&path));
        let mut file = File(Some(opening.await.map_err(|_| "the file could not be opened")??));
        loop {
            let Some(id) = self.installed(cx, &mut file).await? else { return Ok(()) };
            let inspected = tokio::time::Instant::now();
            // A version that was not looked at.
            let mut seen = None;
            while inspected.elapsed() < INSPECTION {
                let version = file.run(|connection| version(connection).map_err(told)).await?;
                let mut pause = POLL;
                if seen != Some(version) {
                    let _busy = cx.clock.busy(|| format!("changes for {}", cx.binding.path()));
                    match self.look(cx, &mut file, id).await? {
                        Look::Empty => {
                            cx.healthy();
                            seen = Some(version);
                        }
                        Look::More => {
                            cx.healthy();
                            pause = Duration::ZERO;
                        }
                        Look::Waits(why) => {
                            cx.degraded(format!("changes cannot be taken over, trying again: {why}"));
                            pause = WAIT;
                        }
                    }
                }
                tokio::select! {
                    biased;
                    () = cx.shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// The number of what captures this trigger's changes; waits for it to be installed as it is wanted. `None` when
    /// asked to stop meanwhile.
    async fn installed(&self, cx: &TriggerContext, file: &mut File) -> Result<Option<i64>, String> {
        loop {
            let wanted = Wanted { trigger: cx.binding.path(), capture: self.origin.capture.clone() };
            let found = file.run(move |connection| install::state(connection, &wanted).map_err(told)).await?;
            let state = match found {
                install::State::Whole(id) => return Ok(Some(id)),
                install::State::Other => "installed otherwise than the manifest says",
                install::State::Absent => "not installed",
            };
            let database = &self.origin.database;
            if self.installs {
                let (place, capture) = (Place::Sqlite(self.file.clone()), self.origin.capture.clone());
                let applied = Installation::of_one(database, place, cx.binding.path(), capture).apply(false).await?;
                match applied.problems.first() {
                    None => continue,
                    Some(problem) => cx.degraded(format!("the trigger is {state}: {problem}")),
                }
            } else {
                cx.degraded(format!("the trigger is {state} in database {database}: run tripline database apply"));
            }
            tokio::select! {
                () = tokio::time::sleep(WAIT) => {}
                () = cx.shutdown.cancelled() => return Ok(None),
            }
        }
    }

    /// Takes over the next changes.
    async fn look(&self, cx: &TriggerContext, file: &mut File, id: i64) -> Result<Look, String> {
        let batch = self.batch;
        let changes = file.run(move |connection| read(connection, id, batch).map_err(told)).await?;
        if changes.is_empty() {
            return Ok(Look::Empty);
        }
        let HandedOver { taken, refused, waits } = hand_over(cx, &self.origin, changes).await;
        let removing = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (change, why) in &refused {
                transaction.execute(sql::PUT_ASIDE, params![change, why])?;
            }
            let gone = taken.iter().chain(refused.iter().map(|(change, _)| change));
            for change in gone {
                transaction.prepare_cached("DELETE FROM tripline_changes WHERE id = ?1")?.execute([change])?;
            }
            transaction.commit()
        };
        file.run(move |connection| removing(connection).map_err(told)).await?;
        Ok(waits.map_or(Look::More, Look::Waits))
    }
}

/// What a look at the outbox came to.
enum Look {
    Empty,
    More,
    Waits(String),
}

/// What is another number when another connection has committed.
fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// The next changes: those that begin within so many bytes.
fn read(connection: &Connection, id: i64, batch: u32) -> rusqlite::Result<Vec<Change>> {
    let mut select = connection.prepare_cached(sql::READ)?;
    let mut rows = select.query(params![id, batch, MAX_CHANGE as i64])?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_BATCH_BYTES
        && let Some(row) = rows.next()?
    {
        // What a file calls text may be anything.
        let text = |at: usize| -> rusqlite::Result<Option<String>> {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => None,
                ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Integer(number) => Some(number.to_string()),
                ValueRef::Real(number) => Some(number.to_string()),
            })
        };
        let Some(operation) = text(2)?.as_deref().and_then(Operation::parse) else { continue };
        let (old, new) = (text(5)?, text(6)?);
        bytes += old.as_ref().map_or(0, String::len) + new.as_ref().map_or(0, String::len);
        changes.push(Change {
            id: row.get(0)?,
            xid: None,
            at_micros: row.get::<_, i64>(1)?.saturating_mul(1000),
            operation,
            key: text(3)?,
            cause: text(4)?,
            old,
            new,
            too_large: row.get(7)?,
        });
    }
    Ok(changes)
}
