//! What SQLite's errors mean to callers: try again, or do not.

use rusqlite::ErrorCode;

use super::Place;
use crate::store::Error;

/// Stands for the database's name until [`at`] knows it.
const DATABASE: &str = "the database";

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    let why = format!("{error}; stop the engine, keep a copy of the file and restore a backup");
                    Error::Corrupt { what: DATABASE.to_owned(), why }
                }
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                    Error::Corrupt { what: "a row to be written".to_owned(), why: error.to_string() }
                }
                ErrorCode::DiskFull => Error::Unavailable(format!(
                    "{error}: free some space on its disk; the engine goes on by itself then"
                )),
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                    Error::Unavailable(format!("{error}: another program holds a lock on it; let it finish or stop it"))
                }
                ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                    Error::Unavailable(format!("{error}: make it and its directory writable for the engine's user"))
                }
                _ => Error::Unavailable(error.to_string()),
            },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => {
                Error::Corrupt { what: "a stored row".to_owned(), why: error.to_string() }
            }
            _ => Error::Unavailable(error.to_string()),
        }
    }
}

/// The same error, naming the database.
pub(super) fn at(place: &Place, error: Error) -> Error {
    match error {
        Error::Unavailable(why) => Error::Unavailable(format!("{place}: {why}")),
        Error::Incompatible(why) => Error::Incompatible(format!("{place}: {why}")),
        Error::Corrupt { what, why } if what == DATABASE => Error::Corrupt { what: place.to_string(), why },
        other => other,
    }
}
