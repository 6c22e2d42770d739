//! Opens connections and brings the schema up to date.
//!
//! `user_version` counts the migrations that were applied, `application_id` says whose file it is: a database of
//! another program, or of a newer engine, is refused before anything in it is changed.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Place, Synchronous, error, sql};
use crate::store::{Error, Result};

/// Applied in order. The list only grows; what is in it never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../../migrations/sqlite/0002_queue.sql"),
    include_str!("../../../migrations/sqlite/0003_key_value.sql"),
    include_str!("../../../migrations/sqlite/0004_tokens.sql"),
    include_str!("../../../migrations/sqlite/0005_fingerprints.sql"),
];

/// `trip`, in the file's header.
const APPLICATION_ID: i64 = 0x7472_6970;

/// How long a connection waits for another program's lock (a backup, a shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that a connection keeps compiled; more than there are.
const STATEMENTS: usize = 128;

/// Opens a file for writing and brings its schema up to date.
pub(super) fn open_writer(path: &Path, synchronous: Synchronous) -> Result<Connection> {
    let place = Place::File(path.to_owned());
    let open = || {
        let connection = Connection::open_with_flags(path, flags() | OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare_writer(&connection, synchronous)?;
        Ok(connection)
    };
    open().map_err(|error| error::at(&place, error))
}

/// Settings, migrations and the table of claims.
pub(super) fn prepare_writer(connection: &Connection, synchronous: Synchronous) -> Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Before anything is written: switching the journal's mode is a write.
    let applied = applied(connection)?;
    connection.execute_batch(sql::WRITER_SETTINGS)?;
    // SQLite says nothing when it cannot have the journal that was asked for; without it readers block the writer.
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if !matches!(journal.as_str(), "wal" | "memory") {
        return Err(Error::Unavailable(format!(
            "its file system allows no write-ahead log (the journal is {journal:?}); choose a path on a local disk"
        )));
    }
    connection.execute_batch(match synchronous {
        Synchronous::Full => "PRAGMA synchronous = FULL",
        Synchronous::Normal => "PRAGMA synchronous = NORMAL",
    })?;
    migrate(connection, applied)?;
    connection.execute_batch(sql::CREATE_CLAIMS)?;
    Ok(())
}

/// Opens a file for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags() | OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096")?;
    Ok(connection)
}

/// A connection is used by one thread only, so SQLite need not lock it.
fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// How many migrations the database has had. Refuses one that is not ours, or newer than we are.
fn applied(connection: &Connection) -> Result<usize> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version").map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Incompatible("the file is not a SQLite database".to_owned()),
        _ => error.into(),
    })?;
    let owner = number("PRAGMA application_id")?;
    if owner != APPLICATION_ID && (version != 0 || owner != 0 || number("SELECT count(*) FROM sqlite_schema")? != 0) {
        return Err(Error::Incompatible("the database belongs to another program; choose another path".to_owned()));
    }
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Error::Incompatible(format!(
            "its schema has version {version}, this engine knows up to {}; use the engine that wrote it",
            MIGRATIONS.len()
        ))),
    }
}

fn migrate(connection: &Connection, applied: usize) -> Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(applied) {
        // One transaction each: the version and what it stands for cannot part.
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {}; PRAGMA application_id = {APPLICATION_ID}; COMMIT",
            index + 1
        ))?;
    }
    Ok(())
}
