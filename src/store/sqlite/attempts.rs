//! Failed attempts of events that their source redelivers: such events have no row in the queue.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{column, row};
use crate::store::{FailedAttempt, Result};

/// Remembers a failed attempt.
pub(super) fn remember(connection: &Connection, id: Uuid, attempt: &FailedAttempt, now: i64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO remembered_attempts (invocation_id, number, attempt, remembered_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET attempt = excluded.attempt, remembered_at = excluded.remembered_at",
        )?
        .execute(params![id.as_bytes(), attempt.number, row::to_json(attempt), now])?;
    Ok(())
}

/// The remembered attempts, in order.
pub(super) fn remembered(connection: &Connection, id: Uuid) -> Result<Vec<FailedAttempt>> {
    let mut select = connection
        .prepare_cached("SELECT attempt FROM remembered_attempts WHERE invocation_id = ?1 ORDER BY number")?;
    let mut rows = select.query([id.as_bytes()])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        attempts.push(column::json(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?, || {
            format!("a remembered attempt of {id}")
        })?);
    }
    Ok(attempts)
}

/// Forgets them.
pub(super) fn forget(connection: &Connection, id: Uuid) -> Result<()> {
    connection.prepare_cached("DELETE FROM remembered_attempts WHERE invocation_id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}
