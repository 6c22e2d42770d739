//! What PostgreSQL's errors mean to callers: try again, or do not.
//!
//! Only the server's message and code are told. Its details quote rows, and those hold what others must not see.

use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::store::Error;

/// What an operation on a connection gives.
pub(super) type Outcome<T> = std::result::Result<T, Fail>;

/// An operation failed.
#[derive(Debug)]
pub(super) enum Fail {
    /// It lost against another one and was undone: the same again may succeed at once.
    Lost(Error),
    /// It is over.
    Ended(Error),
}

impl Fail {
    /// What callers are told.
    pub(super) fn into_error(self) -> Error {
        match self {
            Fail::Lost(error) | Fail::Ended(error) => error,
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Fail::Ended(error)
    }
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = |why: String| Fail::Ended(Error::Unavailable(why));
        match &error {
            sqlx::Error::Database(cause) => from_server(&**cause),
            sqlx::Error::PoolTimedOut => unavailable(
                "no connection could be had in time: the server is away, or every connection of the pool is busy"
                    .to_owned(),
            ),
            sqlx::Error::Io(cause) => unavailable(format!("the connection failed: {cause}")),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
                Fail::Ended(Error::Corrupt { what: "a stored row".to_owned(), why: error.to_string() })
            }
            sqlx::Error::Encode(_) => {
                Fail::Ended(Error::Corrupt { what: "a row to be written".to_owned(), why: error.to_string() })
            }
            _ => unavailable(error.to_string()),
        }
    }
}

/// What the server said.
fn from_server(cause: &dyn DatabaseError) -> Fail {
    let (code, message) = (cause.code().unwrap_or_default().into_owned(), cause.message());
    let unavailable = |help: &str| {
        let separator = if help.is_empty() { "" } else { ": " };
        Error::Unavailable(format!("{message} ({code}){separator}{help}"))
    };
    Fail::Ended(match (code.get(..2).unwrap_or_default(), code.as_str()) {
        (_, "40001" | "40P01") => return Fail::Lost(unavailable("")),
        ("22" | "23" | "54", _) => {
            Error::Corrupt { what: "a row to be written".to_owned(), why: format!("{message} ({code})") }
        }
        // Whoever changed it may be putting it right: nothing that waits for it is given up meanwhile.
        (_, "42P01" | "42703" | "42704" | "42883" | "3F000") => {
            unavailable("its schema was changed by something else; restore it, or restart the engine with another one")
        }
        (_, "42501") => unavailable("grant the engine's user what it needs"),
        ("28", _) => unavailable("correct the user and the password in `store`"),
        (_, "3D000") => unavailable("create the database, or correct its name in `store`"),
        (_, "25006") => unavailable("the server takes no writes; name the primary in `store`"),
        (_, "53100") => unavailable("free some space on its disk; the engine goes on by itself then"),
        (_, "53300") => unavailable("raise its max_connections, or lower max_connections in `store`"),
        (_, "57014") => unavailable("it took longer than a statement may"),
        _ => unavailable(""),
    })
}

/// An operation did not end in time.
pub(super) fn too_long(limit: Duration) -> Error {
    Error::Unavailable(format!("no answer within {} s", limit.as_secs()))
}

/// The same error, naming the database.
pub(super) fn at(place: &str, error: Error) -> Error {
    match error {
        Error::Unavailable(why) => Error::Unavailable(format!("{place}: {why}")),
        Error::Incompatible(why) => Error::Incompatible(format!("{place}: {why}")),
        other @ Error::Corrupt { .. } => other,
    }
}
