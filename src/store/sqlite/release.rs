//! What was asked for together, kept once.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::accept::{self, List};
use super::outbox;
use crate::store::{Admitted, Result};

/// Keeps messages and events, unless the id is known. It is remembered among the events' keys, as one of a trigger that
/// is nobody's: bindings are numbered from 1.
pub(super) fn release(
    connection: &Connection,
    id: Uuid,
    messages: &[outbox::Row],
    events: &List,
    now: i64,
) -> Result<Option<Vec<Admitted>>> {
    let first = connection
        .prepare_cached(
            "INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at)
             VALUES (0, ?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![id.to_string(), id.as_bytes(), now])?;
    if first == 0 {
        return Ok(None);
    }
    messages.iter().try_for_each(|message| outbox::insert(connection, message, None, now))?;
    accept::accept(connection, events, now).map(Some)
}
