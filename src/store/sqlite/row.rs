//! A row of the queue, ready to be written. What needs JSON is prepared by the callers: the functions that run on the
//! writer's thread only move columns.

use bytes::Bytes;
use rusqlite::{Connection, params};
use trigger_core::{Fingerprint, FireCause, Ordering, Unique};
use uuid::Uuid;

use super::{column, sql};
use crate::store::{QueuedInvocation, Result};

/// A row that waits for its moment.
pub(super) const WAITING: i64 = 0;
/// A row that may be claimed.
pub(super) const READY: i64 = 1;
/// A row behind another one of its ordering key.
pub(super) const BEHIND: i64 = 2;

/// A row to be written.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) binding_id: i64,
    pub(super) run_at: i64,
    rank: i64,
    pub(super) attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    pub(super) ordering: Option<Ordering>,
    pub(super) unique: Option<Unique>,
    pub(super) fire: Option<FireCause>,
    pub(super) idempotency_key: Option<Box<str>>,
    /// Kept with the key.
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) scheduled_at: Option<i64>,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
}

impl Row {
    pub(super) fn new(queued: &QueuedInvocation, binding_id: i64) -> Self {
        let invocation = &queued.invocation;
        Self {
            id: invocation.invocation_id,
            binding_id,
            run_at: column::micros(queued.run_at),
            rank: column::micros(queued.rank()),
            attempt: invocation.attempt,
            version: invocation.version,
            redrive_count: queued.redrive_count,
            ordering: invocation.ordering().cloned(),
            unique: invocation.unique().cloned(),
            fire: invocation.terms.as_ref().and_then(|terms| terms.fire),
            idempotency_key: invocation.idempotency_key.clone(),
            fingerprint: invocation.terms.as_ref().and_then(|terms| terms.fingerprint),
            scheduled_at: invocation.scheduled_at.map(column::micros),
            attempts: (!queued.attempts.is_empty()).then(|| to_json(&queued.attempts)),
            context: invocation.to_stored(),
            payload: invocation.payload.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }
}

/// JSON of what the engine itself made.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("attempts, failures and progress have only string keys")
}

/// Puts a row in the queue, behind those of its ordering key; answers the state that it has, or `None` if it was there.
pub(super) fn insert(connection: &Connection, row: &Row, now: i64) -> Result<Option<i64>> {
    let last = match &row.ordering {
        None => None,
        Some(ordering) => last_position(connection, row.binding_id, &ordering.key)?,
    };
    let state = match (last, row.run_at <= now) {
        (Some(_), _) => BEHIND,
        (None, true) => READY,
        (None, false) => WAITING,
    };
    let inserted = connection.prepare_cached(sql::INSERT_QUEUE)?.execute(params![
        row.id.as_bytes(),
        row.binding_id,
        state,
        row.run_at,
        row.rank,
        row.attempt,
        row.version,
        row.redrive_count,
        row.ordering.as_ref().map(|ordering| &*ordering.key),
        row.ordering.as_ref().map(|_| last.map_or(1, |last| last + 1)),
        row.unique.as_ref().map(|unique| &*unique.key),
        row.attempts,
        row.context,
        row.payload.as_ref(),
    ])?;
    Ok((inserted == 1).then_some(state))
}

/// The place of the last row of an ordering key.
fn last_position(connection: &Connection, binding_id: i64, key: &str) -> Result<Option<i64>> {
    use rusqlite::OptionalExtension as _;
    let mut select = connection.prepare_cached(
        "SELECT position FROM queue WHERE binding_id = ?1 AND ordering_key = ?2 ORDER BY position DESC LIMIT 1",
    )?;
    Ok(select.query_row(params![binding_id, key], |row| row.get(0)).optional()?)
}

/// Removes a row; the next one of its ordering key has its turn.
pub(super) fn remove(connection: &Connection, id: Uuid, ordered: bool, now: i64) -> Result<()> {
    if !ordered {
        connection.prepare_cached(sql::DELETE_QUEUE)?.execute([id.as_bytes()])?;
        return Ok(());
    }
    let mut delete = connection
        .prepare_cached("DELETE FROM queue WHERE invocation_id = ?1 RETURNING binding_id, ordering_key, state")?;
    let mut rows = delete.query([id.as_bytes()])?;
    let gone = match rows.next()? {
        Some(row) => Some((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, i64>(2)?)),
        None => None,
    };
    drop(rows);
    if let Some((binding_id, Some(key), state)) = gone
        && state != BEHIND
    {
        connection
            .prepare_cached(
                "UPDATE queue SET state = CASE WHEN run_at <= ?3 THEN 1 ELSE 0 END
                 WHERE invocation_id = (
                    SELECT invocation_id FROM queue WHERE binding_id = ?1 AND ordering_key = ?2
                    ORDER BY position LIMIT 1)",
            )?
            .execute(params![binding_id, key, now])?;
    }
    Ok(())
}
