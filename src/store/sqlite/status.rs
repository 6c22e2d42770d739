//! How an accepted invocation stands.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rusqlite::Connection;
use trigger_core::{Headers, HttpParts, Status, StatusState};
use uuid::Uuid;

use super::{column, dead};
use crate::store::{Result, queued};

/// How an invocation stands: in the queue, ended, or given up on.
pub(super) fn of(connection: &Connection, id: Uuid) -> Result<Option<Status>> {
    for look in [in_queue, in_results, in_dead_letters] {
        if let Some(status) = look(connection, id)? {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

fn in_queue(connection: &Connection, id: Uuid) -> Result<Option<Status>> {
    let mut select = connection.prepare_cached(
        "SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, q.attempt, q.run_at,
            EXISTS (SELECT 1 FROM claims WHERE claims.invocation_id = q.invocation_id), q.progress
         FROM queue q JOIN bindings b USING (binding_id) WHERE q.invocation_id = ?1",
    )?;
    let mut rows = select.query([id.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let attempt: u32 = row.get(4)?;
    let (attempts, state) = match row.get(6)? {
        true => {
            let progress = queued::read_progress(row.get::<_, Option<String>>(7)?.as_deref());
            (attempt, StatusState::Running { progress })
        }
        false => (attempt.saturating_sub(1), StatusState::Queued { run_at: column::moment(row, 5)? }),
    };
    Ok(Some(Status { binding: column::binding(row, 0)?, attempts, state }))
}

fn in_results(connection: &Connection, id: Uuid) -> Result<Option<Status>> {
    let mut select = connection.prepare_cached(
        "SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, r.attempts, r.http_status, r.http_headers,
            r.body, r.state
         FROM results r JOIN bindings b USING (binding_id) WHERE r.invocation_id = ?1",
    )?;
    let mut rows = select.query([id.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if row.get_ref(8)?.as_str().map_err(rusqlite::Error::from)? == "cancelled" {
        let binding = column::binding(row, 0)?;
        return Ok(Some(Status { binding, attempts: row.get(4)?, state: StatusState::Cancelled }));
    }
    let body = Bytes::copy_from_slice(row.get_ref(7)?.as_blob().map_err(rusqlite::Error::from)?);
    let http = match row.get::<_, Option<u16>>(5)? {
        None => None,
        Some(status) => {
            let headers: Option<String> = row.get(6)?;
            Some(Box::new(http_parts(status, headers.as_deref().unwrap_or("[]"), id)?))
        }
    };
    let state = StatusState::Ok { body, http };
    Ok(Some(Status { binding: column::binding(row, 0)?, attempts: row.get(4)?, state }))
}

fn http_parts(status: u16, headers: &str, id: Uuid) -> Result<HttpParts> {
    let whose = || format!("the result of {id}");
    let stored: Headers = column::json(headers, whose)?;
    let mut headers = HeaderMap::new();
    for (name, value) in stored.iter() {
        let name: HeaderName = name.parse().map_err(|error| column::corrupt(whose(), error))?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|error| column::corrupt(whose(), error))?);
    }
    let status = StatusCode::from_u16(status).map_err(|error| column::corrupt(whose(), error))?;
    Ok(HttpParts { status, headers })
}

fn in_dead_letters(connection: &Connection, id: Uuid) -> Result<Option<Status>> {
    // One that was redriven and is not in the queue ended well, and its result was forgotten since.
    let mut select = connection.prepare_cached(
        "SELECT namespace, function_name, trigger_id, trigger_type, attempt_count, reason, failure
         FROM dead_letters WHERE invocation_id = ?1 AND redriven_at IS NULL",
    )?;
    let mut rows = select.query([id.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let state = StatusState::Dead { reason: dead::reason(row, 5)?, failure: dead::failure(row, 6)? };
    Ok(Some(Status { binding: column::binding(row, 0)?, attempts: row.get(4)?, state }))
}
