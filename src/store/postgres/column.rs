//! How values are written in columns, and read back without trusting them.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use trigger_core::{Binding, Kind};

use super::error::{Fail, Outcome};
use crate::store::Error;
use crate::store::stored::json_error;

/// A text as PostgreSQL can keep it: it takes every character but NUL. Only what is shown or compared goes through
/// here; what must come back unchanged is in JSON or in bytes.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// An unsigned size or count as PostgreSQL has it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The small number in a column.
pub(super) fn number(row: &PgRow, column: usize) -> Outcome<u32> {
    let value: i64 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| corrupt("a stored row", format!("its column {column} is {value}")))
}

/// The small number in a column that may be empty.
pub(super) fn optional_number(row: &PgRow, column: usize) -> Outcome<Option<u32>> {
    match row.try_get::<Option<i64>, _>(column)? {
        None => Ok(None),
        Some(_) => number(row, column).map(Some),
    }
}

/// The count in a column.
pub(super) fn count(row: &PgRow, column: usize) -> Outcome<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| corrupt("a stored row", format!("its column {column} is {value}")))
}

/// The moment in a column.
pub(super) fn moment(row: &PgRow, column: usize) -> Outcome<DateTime<Utc>> {
    Ok(row.try_get(column)?)
}

/// The binding in four columns from `first`.
pub(super) fn binding(row: &PgRow, first: usize) -> Outcome<Binding> {
    let word: String = row.try_get(first + 3)?;
    let trigger_type = Kind::parse(&word).ok_or_else(|| corrupt("a row's trigger_type", format!("{word:?}")))?;
    Ok(Binding {
        namespace: row.try_get(first)?,
        function_name: row.try_get(first + 1)?,
        trigger_id: row.try_get(first + 2)?,
        trigger_type,
    })
}

/// Reads JSON; `what` says whose, where it cannot be read.
pub(super) fn json<T: DeserializeOwned>(text: &str, what: impl FnOnce() -> String) -> Outcome<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what(), json_error(&error)))
}

/// JSON of attempts, failures and headers.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("these have only string keys and no fallible values")
}

/// What is stored cannot be read.
pub(super) fn corrupt(what: impl Into<String>, why: impl ToString) -> Fail {
    Fail::Ended(Error::Corrupt { what: what.into(), why: why.to_string() })
}
