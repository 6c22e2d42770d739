//! A database in a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode, InterruptHandle, OpenFlags, Statement, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trigger_core::BoxFuture;
use uuid::Uuid;

use super::{
    Bounds, Collected, Database, Error, MAX_SEALED, OUTBOX_PAGE, OutboxRow, Result, Rows, Settings, Transaction, Value,
};

/// The engine's own tables, and the triggers that capture changes, begin with this.
const OWN: &str = "tripline_";

/// Where guests' effects wait.
const OUTBOX: &str = "tripline_outbox";

/// Where captured changes wait.
const CHANGES: &str = "tripline_changes";

/// What captured changes take their cause from: it has a row within transactions of guests, and is empty to all others.
const CAUSE: &str = "tripline_cause";

/// The longest value, and the longest statement, in bytes.
const MAX_LENGTH: i32 = 64 << 20;
const MAX_STATEMENT: i32 = 1 << 20;

pub(super) struct SqliteDatabase {
    pool: Arc<Pool>,
    cause: Option<Arc<str>>,
}

struct Pool {
    file: PathBuf,
    read_only: bool,
    timeout: Duration,
    bounds: Bounds,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Open>>,
}

/// A connection, and the right to have it.
struct Open {
    connection: Connection,
    /// Set while the engine itself works: guests may neither begin nor end a transaction, nor touch the outbox.
    ours: Arc<AtomicBool>,
}

/// What is under way: dropped before it is done, it stops its statement, and its connection is closed.
struct Running {
    interrupt: Option<InterruptHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(interrupt) = self.interrupt.take() {
            interrupt.interrupt();
        }
    }
}

impl SqliteDatabase {
    pub(super) fn new(file: PathBuf, settings: &Settings) -> Self {
        let pool = Arc::new(Pool {
            file,
            read_only: settings.read_only,
            timeout: settings.timeout,
            bounds: settings.bounds,
            permits: Arc::new(Semaphore::new(settings.max_connections as usize)),
            idle: Mutex::default(),
        });
        Self { pool, cause: None }
    }
}

impl Pool {
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(self.timeout, self.permits.clone().acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("never closed")),
            Err(_) => Err(Error::Unavailable(format!("no connection came free within {:?}", self.timeout))),
        }
    }

    fn open(&self) -> rusqlite::Result<Open> {
        let flags = match self.read_only {
            true => OpenFlags::SQLITE_OPEN_READ_ONLY,
            false => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        };
        let connection = Connection::open_with_flags(&self.file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(self.timeout)?;
        if !self.read_only {
            connection.pragma_update(None, "journal_mode", "WAL")?;
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_LENGTH)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        let ours = Arc::new(AtomicBool::new(false));
        let may_end = ours.clone();
        connection
            .authorizer(Some(move |asked: AuthContext<'_>| authorize(&asked, may_end.load(Ordering::Relaxed))))?;
        Ok(Open { connection, ours })
    }

    /// Runs `work` on a thread that may block, with a connection that is idle or new, or that of a transaction. The
    /// connection is given back when the work has gone well or badly, and lost when nobody waits for it any more.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        open: Option<Open>,
        work: impl FnOnce(&Open) -> Result<T> + Send + 'static,
    ) -> Result<(OwnedSemaphorePermit, Open, Result<T>)> {
        let open = match open.or_else(|| self.idle.lock().pop()) {
            Some(open) => open,
            None => {
                let pool = self.clone();
                let opening = tokio::task::spawn_blocking(move || pool.open());
                opening.await.map_err(lost)?.map_err(|error| {
                    tracing::warn!(file = %self.file.display(), "a guest's database cannot be opened: {error}");
                    Error::Unavailable("the database cannot be opened".to_owned())
                })?
            }
        };
        let mut running = Running { interrupt: Some(open.connection.get_interrupt_handle()) };
        let timeout = self.timeout;
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&open);
            (permit, open, result)
        });
        let ended = tokio::time::timeout(timeout, working).await;
        let ended = ended.map_err(|_| Error::Unavailable(format!("the statement ran longer than {timeout:?}")))?;
        running.interrupt = None;
        ended.map_err(lost)
    }

    /// The same outside of a transaction.
    async fn once<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Open) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permit().await?;
        let (_permit, open, result) = self.run(permit, None, work).await?;
        self.idle.lock().push(open);
        result
    }
}

fn lost(_: tokio::task::JoinError) -> Error {
    Error::Unavailable("the statement was lost".to_owned())
}

impl Database for SqliteDatabase {
    fn caused_by(&self, cause: String) -> Arc<dyn Database> {
        Arc::new(Self { pool: self.pool.clone(), cause: Some(cause.into()) })
    }

    fn query(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>> {
        let (bounds, cause) = (self.pool.bounds, self.cause.clone());
        Box::pin(self.pool.clone().once(move |open| {
            open.caused(cause.as_deref(), &statement, || query(open, &statement, parameters, bounds))
        }))
    }

    fn execute(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>> {
        let cause = self.cause.clone();
        Box::pin(
            self.pool
                .clone()
                .once(move |open| open.caused(cause.as_deref(), &statement, || execute(open, &statement, parameters))),
        )
    }

    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn Transaction>>> {
        Box::pin(async move {
            let (pool, cause) = (self.pool.clone(), self.cause.clone().filter(|_| !self.pool.read_only));
            let permit = pool.permit().await?;
            // Whoever may write takes its turn now: a lock that is asked for in the middle may not be waited for.
            let begin = if pool.read_only { "BEGIN" } else { "BEGIN IMMEDIATE" };
            let (permit, open, begun) = pool.run(permit, None, move |open| open.begin(begin, cause.as_deref())).await?;
            begun?;
            Ok(Box::new(SqliteTransaction { pool, open: Some((permit, open)) }) as Box<dyn Transaction>)
        })
    }

    fn outbox(&self, engine: String, after: Uuid) -> BoxFuture<'_, Result<Vec<OutboxRow>>> {
        Box::pin(async move {
            // Whoever only looks makes no file.
            let there = tokio::fs::try_exists(&self.pool.file).await.unwrap_or(false);
            if self.pool.read_only || !there {
                return Ok(Vec::new());
            }
            self.pool.clone().once(move |open| open.as_engine(|connection| outbox(connection, &engine, after))).await
        })
    }

    fn outbox_remove(&self, engine: String, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.pool.clone().once(move |open| {
            open.as_engine(|connection| {
                connection.execute_batch("BEGIN IMMEDIATE")?;
                let removed = ids.iter().try_for_each(|id| {
                    let remove = "DELETE FROM tripline_outbox WHERE engine = ?1 AND id = ?2";
                    connection.execute(remove, params![engine, id.as_bytes()]).map(drop)
                });
                connection.execute_batch(if removed.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
                removed
            })
        }))
    }
}

/// Dropped with its connection, which is closed: that is its rollback.
struct SqliteTransaction {
    pool: Arc<Pool>,
    /// `None` once a statement of it was cut.
    open: Option<(OwnedSemaphorePermit, Open)>,
}

impl SqliteTransaction {
    async fn run<T: Send + 'static>(&mut self, work: impl FnOnce(&Open) -> Result<T> + Send + 'static) -> Result<T> {
        let (permit, open) = self.open.take().ok_or_else(over)?;
        let (permit, open, result) = self.pool.run(permit, Some(open), work).await?;
        self.open = Some((permit, open));
        result
    }

    /// Does its last work; what fails leaves it as it is, and that is dropped.
    async fn end(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Result<()> {
        self.run(|open| open.as_engine(work)).await?;
        if let Some((_permit, open)) = self.open.take() {
            self.pool.idle.lock().push(open);
        }
        Ok(())
    }
}

fn over() -> Error {
    Error::Invalid("the transaction is over".to_owned())
}

impl Transaction for SqliteTransaction {
    fn query(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>> {
        let bounds = self.pool.bounds;
        Box::pin(self.run(move |open| query(open, &statement, parameters, bounds)))
    }

    fn execute(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.run(move |open| execute(open, &statement, parameters)))
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.end(|connection| {
                forget_cause(connection)?;
                connection.execute_batch("COMMIT")
            })
            .await
        })
    }

    fn commit_with(mut self: Box<Self>, engine: String, row: OutboxRow) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.end(move |connection| {
                connection.execute_batch(
                    "CREATE TABLE IF NOT EXISTS tripline_outbox (
                        engine TEXT NOT NULL, id BLOB NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (engine, id)
                     ) STRICT",
                )?;
                let insert = "INSERT INTO tripline_outbox (engine, id, sealed) VALUES (?1, ?2, ?3)";
                connection.execute(insert, params![engine, row.id.as_bytes(), row.sealed])?;
                forget_cause(connection)?;
                connection.execute_batch("COMMIT")
            })
            .await
        })
    }
}

impl Open {
    /// Begins a transaction, whose changes have this cause.
    fn begin(&self, statement: &str, cause: Option<&str>) -> Result<()> {
        self.as_engine(|connection| {
            connection.execute_batch(statement)?;
            match cause {
                Some(cause) if captures(connection)? => {
                    connection.execute("INSERT INTO tripline_cause (cause) VALUES (?1)", [cause]).map(drop)
                }
                _ => Ok(()),
            }
        })
    }

    /// Runs a statement that is no part of a transaction; in one of its own where its changes are captured.
    fn caused<T>(&self, cause: Option<&str>, statement: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        // What cannot be prepared says so itself.
        let writes = || self.connection.prepare(statement).is_ok_and(|prepared| !prepared.readonly());
        if cause.is_none() || !self.as_engine(captures)? || !writes() {
            return run();
        }
        self.begin("BEGIN IMMEDIATE", cause)?;
        let done = run();
        let end = self.as_engine(|connection| match &done {
            Ok(_) => {
                forget_cause(connection)?;
                connection.execute_batch("COMMIT")
            }
            Err(_) => connection.execute_batch("ROLLBACK"),
        });
        // Some failures have rolled back already.
        done.and_then(|done| end.map(|()| done))
    }

    /// Does what guests' statements may not.
    fn as_engine<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.ours.store(true, Ordering::Relaxed);
        let done = work(&self.connection).map_err(told);
        self.ours.store(false, Ordering::Relaxed);
        done
    }
}

/// Whether changes are captured in this file. A table that another connection has made is found by a query alone.
fn captures(connection: &Connection) -> rusqlite::Result<bool> {
    let ask = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
    connection.prepare_cached(ask)?.query_row([CAUSE], |row| row.get(0))
}

/// Before a commit: nobody else must find the cause.
fn forget_cause(connection: &Connection) -> rusqlite::Result<()> {
    match captures(connection)? {
        true => connection.execute("DELETE FROM tripline_cause", []).map(drop),
        false => Ok(()),
    }
}

/// The next rows of an outbox, if there is one.
fn outbox(connection: &Connection, engine: &str, after: Uuid) -> rusqlite::Result<Vec<OutboxRow>> {
    if !connection.table_exists(None, OUTBOX)? {
        return Ok(Vec::new());
    }
    let mut select = connection.prepare(
        "SELECT id, CASE WHEN typeof(sealed) = 'blob' AND length(sealed) <= ?3 THEN sealed ELSE x'' END
         FROM tripline_outbox WHERE engine = ?1 AND id > ?2 AND typeof(id) = 'blob' AND length(id) = 16
         ORDER BY id LIMIT ?4",
    )?;
    let mut rows = select.query(params![engine, after.as_bytes(), MAX_SEALED as i64, OUTBOX_PAGE])?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_SEALED
        && let Some(row) = rows.next()?
    {
        let (id, sealed): ([u8; 16], Vec<u8>) = (row.get(0)?, row.get(1)?);
        bytes += sealed.len();
        page.push(OutboxRow { id: Uuid::from_bytes(id), sealed });
    }
    Ok(page)
}

/// What guests' statements may do: everything within the database but for what is the engine's, nothing to the
/// connection.
fn authorize(asked: &AuthContext<'_>, ours: bool) -> Authorization {
    match asked.action {
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::Unknown { .. } => Authorization::Deny,
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } if !ours => Authorization::Deny,
        AuthAction::Pragma { pragma_name, .. } if !is_harmless(pragma_name) => Authorization::Deny,
        AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Deny
        }
        // What captures changes works for guests too. Nobody but the engine makes triggers of such names; a query may
        // bear one, and learns its own cause.
        AuthAction::Insert { table_name: CHANGES } | AuthAction::Read { table_name: CAUSE, .. }
            if asked.accessor.is_some_and(is_own) =>
        {
            Authorization::Allow
        }
        action if !ours && [table(&action), trigger(&action)].into_iter().flatten().any(is_own) => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

/// Whether a name is the engine's.
fn is_own(name: &str) -> bool {
    name.get(..OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN))
}

/// The trigger that something is done with.
fn trigger<'a>(action: &AuthAction<'a>) -> Option<&'a str> {
    match *action {
        AuthAction::CreateTrigger { trigger_name, .. } | AuthAction::DropTrigger { trigger_name, .. } => {
            Some(trigger_name)
        }
        _ => None,
    }
}

/// The table that something is done with.
fn table<'a>(action: &AuthAction<'a>) -> Option<&'a str> {
    match *action {
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::CreateTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. } => Some(table_name),
        AuthAction::CreateView { view_name } => Some(view_name),
        _ => None,
    }
}

/// Pragmas that ask and change nothing.
fn is_harmless(name: &str) -> bool {
    ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"]
        .iter()
        .any(|harmless| name.eq_ignore_ascii_case(harmless))
}

/// The one statement of a text.
fn prepared<'a>(open: &'a Open, statement: &'a str, parameters: Vec<Value>) -> Result<Statement<'a>> {
    let mut batch = Batch::new(&open.connection, statement);
    let Some(mut prepared) = batch.next().map_err(told)? else {
        return Err(Error::Invalid("there is no statement".to_owned()));
    };
    if batch.next().map_err(told)?.is_some() {
        return Err(Error::Invalid("there is more than one statement: make them one after another".to_owned()));
    }
    let (wanted, given) = (prepared.parameter_count(), parameters.len());
    if wanted != given {
        return Err(Error::Invalid(format!("the statement has {wanted} parameters and {given} were given")));
    }
    for (index, parameter) in parameters.into_iter().enumerate() {
        let value = match parameter {
            Value::Null => rusqlite::types::Value::Null,
            Value::Boolean(truth) => rusqlite::types::Value::Integer(i64::from(truth)),
            Value::Integer(number) => rusqlite::types::Value::Integer(number),
            Value::Real(number) => rusqlite::types::Value::Real(number),
            Value::Text(text) => rusqlite::types::Value::Text(text),
            Value::Bytes(bytes) => rusqlite::types::Value::Blob(bytes),
        };
        prepared.raw_bind_parameter(index + 1, value).map_err(told)?;
    }
    Ok(prepared)
}

fn query(open: &Open, statement: &str, parameters: Vec<Value>, bounds: Bounds) -> Result<Rows> {
    let mut prepared = prepared(open, statement, parameters)?;
    let columns: Vec<String> = prepared.column_names().into_iter().map(str::to_owned).collect();
    let width = columns.len();
    let mut collected = Collected::new(columns, bounds);
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next().map_err(told)? {
        let values = (0..width).map(|index| Ok(value(row.get_ref(index).map_err(told)?)));
        collected.push(values.collect::<Result<_>>()?)?;
    }
    Ok(collected.rows)
}

fn execute(open: &Open, statement: &str, parameters: Vec<Value>) -> Result<u64> {
    let mut prepared = prepared(open, statement, parameters)?;
    let mut rows = prepared.raw_query();
    // Statements that answer rows are run to their end too.
    while rows.next().map_err(told)?.is_some() {}
    drop(rows);
    Ok(if prepared.readonly() { 0 } else { open.connection.changes() })
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        // What a file calls text may be anything.
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(text.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

fn told(error: rusqlite::Error) -> Error {
    let message = error.to_string();
    let Some(code) = error.sqlite_error() else { return Error::Invalid(message) };
    match code.code {
        ErrorCode::ConstraintViolation => Error::Constraint(code.extended_code.to_string(), message),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::Conflict(message),
        ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            Error::Denied(message)
        }
        ErrorCode::TooBig => Error::TooLarge(message),
        ErrorCode::OperationInterrupted
        | ErrorCode::SystemIoFailure
        | ErrorCode::DiskFull
        | ErrorCode::CannotOpen
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::OutOfMemory => Error::Unavailable(message),
        _ => Error::Invalid(message),
    }
}
