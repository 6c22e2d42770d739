//! Messages on their way to the bus.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::{Headers, Message};
use uuid::Uuid;

use super::column;
use crate::store::stored::json_error;
use crate::store::{OutboxRow, Result};

/// What one page may hold, in bytes, before it stops short of its limit.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// A message to be written.
pub(super) struct Row {
    pub(super) id: Uuid,
    subject: Box<str>,
    reply: Option<Box<str>>,
    headers: String,
    payload: Bytes,
}

impl Row {
    pub(super) fn new(message: &Message) -> Self {
        Self {
            id: Uuid::now_v7(),
            subject: message.subject.clone(),
            reply: message.reply.clone(),
            headers: headers_to_json(&message.headers),
            payload: message.payload.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len()
    }
}

/// Headers as a column has them.
pub(super) fn headers_to_json(headers: &Headers) -> String {
    serde_json::to_string(headers).expect("headers are a list of texts")
}

/// Adds a message, and says which dead letter it is about.
pub(super) fn insert(connection: &Connection, row: &Row, dead_letter_id: Option<Uuid>, now: i64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (id, due_at, dead_letter_id, created_at, subject, reply, headers, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row.id.as_bytes(),
            now,
            dead_letter_id.map(Uuid::into_bytes),
            now,
            row.subject,
            row.reply,
            row.headers,
            row.payload.as_ref(),
        ])?;
    Ok(())
}

/// Messages that are due, the longest due first.
pub(super) fn due(connection: &Connection, now: DateTime<Utc>, limit: u32) -> Result<Vec<OutboxRow>> {
    let mut select = connection.prepare_cached(
        "SELECT id, failures, subject, reply, headers, payload FROM outbox
         WHERE due_at <= ?1 ORDER BY due_at, rowid LIMIT ?2",
    )?;
    let mut rows = select.query(params![column::micros(now), limit])?;
    let mut page: Vec<OutboxRow> = Vec::new();
    let mut bytes = 0;
    while bytes < MAX_PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let id = column::id(row, 0)?;
        let headers: String = row.get(4)?;
        bytes += headers.len();
        let headers = match serde_json::from_str(&headers) {
            Ok(headers) => headers,
            Err(error) => {
                // Without its headers it would lose its depth, and with it the guard against loops.
                let error = json_error(&error);
                tracing::error!(%id, "a message in the outbox cannot be read and stays there: {error}");
                continue;
            }
        };
        let payload = Bytes::copy_from_slice(row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?);
        bytes += payload.len();
        let message = Message { subject: row.get(2)?, reply: row.get(3)?, headers, payload };
        page.push(OutboxRow { id, message, failures: row.get(1)? });
    }
    Ok(page)
}

/// Removes messages that the bus has, and marks their dead letters.
pub(super) fn sent(connection: &Connection, ids: &[Uuid]) -> Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM outbox WHERE id = ?1 RETURNING dead_letter_id")?;
    // A dead letter that was replaced meanwhile has another message of its own.
    let mut mark = connection
        .prepare_cached("UPDATE dead_letters SET published = 1 WHERE invocation_id = ?1 AND outbox_id = ?2")?;
    for id in ids {
        let dead_letter: Option<Option<[u8; 16]>> = delete.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
        if let Some(Some(dead_letter)) = dead_letter {
            mark.execute(params![dead_letter, id.as_bytes()])?;
        }
    }
    Ok(())
}

/// Puts a message off.
pub(super) fn failed(connection: &Connection, id: Uuid, retry_at: DateTime<Utc>, error: &str) -> Result<()> {
    connection
        .prepare_cached("UPDATE outbox SET failures = failures + 1, due_at = ?2, last_error = ?3 WHERE id = ?1")?
        .execute(params![id.as_bytes(), column::micros(retry_at), error])?;
    Ok(())
}
