//! Databases that guests may use: named by the engine's settings, granted by definitions, opened when they are first
//! asked for.
//!
//! One statement at a time with bound parameters, within limits of rows and bytes. What a statement could leave behind
//! in a connection (settings, temporary tables, an open transaction) is refused, or gone before anybody else has it.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trigger_core::BoxFuture;
use uuid::Uuid;

use crate::config::Secret;

/// What a database's settings say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub place: Place,
    /// Whether nothing may be changed in it.
    pub read_only: bool,
    /// Connections, and so statements and transactions at once.
    pub max_connections: u32,
    /// How long a statement may run, and how long one waits for a connection.
    pub timeout: Duration,
    /// Bounds of what one statement answers.
    pub bounds: Bounds,
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, made where there is none.
    Sqlite(PathBuf),
    /// A server. The address may hold a password.
    Postgres(Secret),
}

/// Bounds of what one statement answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Rows.
    pub max_rows: usize,
    /// Bytes of all values together.
    pub max_bytes: usize,
}

/// A parameter, or a column of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// `true` or `false`; 1 or 0 where a database has no such type.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number in floating point.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// What it counts towards `max_bytes`.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Null | Value::Boolean(_) => 1,
            Value::Integer(_) | Value::Real(_) => 8,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        }
    }
}

/// What a query answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, a value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// Why a statement was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody may do this.
    #[error("denied: {0}")]
    Denied(String),
    /// The statement or its parameters are wrong.
    #[error("invalid: {0}")]
    Invalid(String),
    /// A constraint forbids it: its code, and the database's message.
    #[error("constraint {0}: {1}")]
    Constraint(String, String),
    /// Others were in the way.
    #[error("conflict: {0}")]
    Conflict(String),
    /// It answers more than the bounds allow.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The database could not do it now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// The longest `sealed` of an [`OutboxRow`], in bytes.
pub const MAX_SEALED: usize = 16 << 20;

/// Rows of an outbox that are read at once.
const OUTBOX_PAGE: u32 = 64;

/// What a transaction was committed with, in the table `tripline_outbox` of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its identity.
    pub id: Uuid,
    /// What it says, in a form that nobody else can write. Empty for one that is longer than [`MAX_SEALED`].
    pub sealed: Vec<u8>,
}

/// The result of a statement.
pub type Result<T> = std::result::Result<T, Error>;

/// One database. A future that is dropped stops its statement.
pub trait Database: Send + Sync + 'static {
    /// The same database for one cause ([`InvocationContext::cause`](trigger_core::InvocationContext::cause)), which
    /// goes along with every change: whoever captures changes finds it there.
    fn caused_by(&self, cause: String) -> Arc<dyn Database>;

    /// The rows of one statement.
    fn query(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>>;

    /// Runs one statement and answers how many rows it changed.
    fn execute(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>>;

    /// Begins a transaction; dropped it is rolled back.
    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn Transaction>>>;

    /// Rows of an engine's outbox whose ids come behind `after`, in the order of their ids: the next few, and at least
    /// one if there are any. There are none where the database, or its outbox, was never made or may not be written.
    fn outbox(&self, engine: String, after: Uuid) -> BoxFuture<'_, Result<Vec<OutboxRow>>>;

    /// Removes rows from it.
    fn outbox_remove(&self, engine: String, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>>;
}

/// A transaction under way.
pub trait Transaction: Send + 'static {
    /// The rows of one statement.
    fn query(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>>;

    /// Runs one statement and answers how many rows it changed.
    fn execute(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>>;

    /// Commits it.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>>;

    /// Commits it with a row in an engine's outbox, whose table is made where there is none.
    fn commit_with(self: Box<Self>, engine: String, row: OutboxRow) -> BoxFuture<'static, Result<()>>;
}

/// The databases by name.
#[derive(Clone, Default)]
pub struct Databases(Arc<BTreeMap<String, Arc<dyn Database>>>);

impl Databases {
    /// Those that the settings name. Opens none: one that is away is so for those who ask for it, and comes back.
    pub fn new(settings: &BTreeMap<String, Settings>) -> Self {
        let open = |settings: &Settings| -> Arc<dyn Database> {
            match &settings.place {
                Place::Sqlite(file) => Arc::new(sqlite::SqliteDatabase::new(file.clone(), settings)),
                Place::Postgres(address) => Arc::new(postgres::PostgresDatabase::new(address, settings)),
            }
        };
        Self(Arc::new(settings.iter().map(|(name, settings)| (name.clone(), open(settings))).collect()))
    }

    /// The database of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Database>> {
        self.0.get(name).cloned()
    }

    /// The names that there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Rows as they come, within bounds.
struct Collected {
    rows: Rows,
    bytes: usize,
    bounds: Bounds,
}

impl Collected {
    fn new(columns: Vec<String>, bounds: Bounds) -> Self {
        Self { rows: Rows { columns, rows: Vec::new() }, bytes: 0, bounds }
    }

    fn push(&mut self, row: Vec<Value>) -> Result<()> {
        let Bounds { max_rows, max_bytes } = self.bounds;
        if self.rows.rows.len() == max_rows {
            return Err(Error::TooLarge(format!("the query has more than {max_rows} rows: use LIMIT")));
        }
        self.bytes = self.bytes.saturating_add(row.iter().map(Value::bytes).sum());
        if self.bytes > max_bytes {
            return Err(Error::TooLarge(format!("the query's rows have more than {max_bytes} bytes: ask for less")));
        }
        self.rows.rows.push(row);
        Ok(())
    }
}
