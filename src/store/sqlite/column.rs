//! How values are written in columns, and read back without trusting them.

use chrono::{DateTime, Utc};
use rusqlite::{Row, types::ValueRef};
use serde::de::DeserializeOwned;
use trigger_core::{Binding, Kind};
use uuid::Uuid;

use crate::store::stored::json_error;
use crate::store::{Error, Result};

/// Microseconds since 1970-01-01 UTC.
pub(super) fn micros(moment: DateTime<Utc>) -> i64 {
    moment.timestamp_micros()
}

/// An unsigned size or count as SQLite has it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The moment in a column.
pub(super) fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    let micros = row.get(column)?;
    DateTime::from_timestamp_micros(micros).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, micros))
}

/// The moment in a column that may be empty.
pub(super) fn optional_moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => moment(row, column).map(Some),
    }
}

/// The id in a column.
pub(super) fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    row.get(column).map(Uuid::from_bytes)
}

/// The count in a column.
pub(super) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// The binding in four columns from `first`.
pub(super) fn binding(row: &Row<'_>, first: usize) -> Result<Binding> {
    let word: String = row.get(first + 3)?;
    let trigger_type = Kind::parse(&word).ok_or_else(|| corrupt("a row's trigger_type", format!("{word:?}")))?;
    Ok(Binding {
        namespace: row.get(first)?,
        function_name: row.get(first + 1)?,
        trigger_id: row.get(first + 2)?,
        trigger_type,
    })
}

/// Reads JSON; `what` says whose, where it cannot be read.
pub(super) fn json<T: DeserializeOwned>(text: &str, what: impl FnOnce() -> String) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what(), json_error(&error)))
}

/// What is stored cannot be read.
pub(super) fn corrupt(what: impl Into<String>, why: impl ToString) -> Error {
    Error::Corrupt { what: what.into(), why: why.to_string() }
}
