//! SQL databases that the engine's settings name and the definition's `allow.sql` grants.
//!
//! ```no_run
//! use tripline_guest::{HostError, sql};
//!
//! fn stock(item: &str) -> Result<Option<i64>, HostError> {
//!     let rows = sql::query("shop", "SELECT amount FROM stock WHERE item = $1", &[item.into()])?;
//!     Ok(rows.rows.first().and_then(|row| row[0].as_integer()))
//! }
//! ```

use crate::bindings::tripline::function::sql;
use crate::{HostError, Reason};

/// The rows of a query: `columns` by name, `rows` with a value for each.
pub use crate::bindings::tripline::function::sql::Rows;
/// A parameter, or a column of a row.
pub use crate::bindings::tripline::function::sql::Value;

/// The rows of one statement; parameters are `$1`, `$2` in PostgreSQL, `?1`, `?2` in SQLite.
///
/// # Errors
///
/// [`Denied`](Reason::Denied) where the database is not granted, or nobody may do this in it;
/// [`Unknown`](Reason::Unknown) where there is none of this name; [`Invalid`](Reason::Invalid) with the database's
/// message; [`Constraint`](Reason::Constraint) with its code and message; [`TooLarge`](Reason::TooLarge) beyond the
/// rows or bytes that its settings allow; [`Conflict`](Reason::Conflict) where others were in the way, and
/// [`Unavailable`](Reason::Unavailable): both may go well when they are tried again.
pub fn query(database: &str, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
    sql::query(database, statement, parameters).map_err(refused)
}

/// Runs one statement and answers how many rows it changed, at once and whatever becomes of the attempt.
///
/// # Errors
///
/// Those of [`query`].
pub fn execute(database: &str, statement: &str, parameters: &[Value]) -> Result<u64, HostError> {
    sql::execute(database, statement, parameters).map_err(refused)
}

/// A transaction under way; dropped it is rolled back.
#[derive(Debug)]
pub struct Transaction(sql::Transaction);

impl Transaction {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// Those of [`query`].
    pub fn begin(database: &str) -> Result<Self, HostError> {
        sql::begin(database).map(Self).map_err(refused)
    }

    /// As [`query`], in the transaction.
    ///
    /// # Errors
    ///
    /// Those of [`query`].
    pub fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
        self.0.query(statement, parameters).map_err(refused)
    }

    /// As [`execute`], with the transaction's commit.
    ///
    /// # Errors
    ///
    /// Those of [`query`].
    pub fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, HostError> {
        self.0.execute(statement, parameters).map_err(refused)
    }

    /// Commits it.
    ///
    /// # Errors
    ///
    /// Those of [`query`].
    pub fn commit(self) -> Result<(), HostError> {
        self.0.commit().map_err(refused)
    }

    /// Commits it together with what was asked for so far and is held back until the attempt succeeds: messages, jobs,
    /// timers, calls that nobody waits for. Either both are done, whatever becomes of the attempt and of the engine, or
    /// neither; whatever this answers, nothing of that is held back any more.
    ///
    /// An attempt that fails behind it is made again: let a unique key in the database, such as the event's idempotency
    /// token, refuse what was committed before, and with it what was asked for.
    ///
    /// # Errors
    ///
    /// Those of [`query`].
    pub fn commit_with_effects(self) -> Result<(), HostError> {
        self.0.commit_with_effects().map_err(refused)
    }
}

impl Value {
    /// The number, where it is a whole one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Real(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Boolean(truth)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

fn refused(error: sql::Error) -> HostError {
    match error {
        sql::Error::Denied(why) => HostError::new(Reason::Denied, why),
        sql::Error::UnknownDatabase(why) => HostError::new(Reason::Unknown, why),
        sql::Error::Invalid(why) => HostError::new(Reason::Invalid, why),
        sql::Error::Constraint((code, why)) => HostError::new(Reason::Constraint, format!("{code}: {why}")),
        sql::Error::Conflict(why) => HostError::new(Reason::Conflict, why),
        sql::Error::TooLarge(why) => HostError::new(Reason::TooLarge, why),
        sql::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    }
}
