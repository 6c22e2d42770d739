//! Messages on their way to the bus.
//!
//! Several engines publish from one table. Whoever reads a row has it for a lease: the others see it again when that
//! is over, or when its publisher puts it off. A row that is published and not marked within that time is published
//! twice, with the same id.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, Row as _};
use trigger_core::Message;
use uuid::Uuid;

use super::column;
use super::error::Outcome;
use crate::store::OutboxRow;
use crate::store::stored::json_error;

/// What one page may hold, in bytes, before it stops short of its limit.
const MAX_PAGE_BYTES: i64 = 32 << 20;

/// A message to be written.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) headers: String,
    pub(super) payload: Bytes,
}

impl Row {
    pub(super) fn new(message: &Message) -> Self {
        Self {
            id: Uuid::now_v7(),
            subject: column::text(&message.subject).into_owned(),
            reply: message.reply.as_deref().map(|reply| column::text(reply).into_owned()),
            headers: column::to_json(&message.headers),
            payload: message.payload.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len()
    }
}

/// Rows by column, as statements take them.
#[derive(Default)]
pub(super) struct Columns<'r> {
    pub(super) ids: Vec<Uuid>,
    pub(super) subjects: Vec<&'r str>,
    pub(super) replies: Vec<Option<&'r str>>,
    pub(super) headers: Vec<&'r str>,
    pub(super) payloads: Vec<&'r [u8]>,
}

impl<'r> FromIterator<&'r Row> for Columns<'r> {
    fn from_iter<I: IntoIterator<Item = &'r Row>>(rows: I) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.ids.push(row.id);
            columns.subjects.push(&row.subject);
            columns.replies.push(row.reply.as_deref());
            columns.headers.push(&row.headers);
            columns.payloads.push(&row.payload);
        }
        columns
    }
}

/// Adds messages.
pub(super) async fn add(connection: &mut PgConnection, rows: &[Row]) -> Outcome<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns: Columns<'_> = rows.iter().collect();
    sqlx::query(
        "INSERT INTO outbox (id, due_at, created_at, subject, reply, headers, payload)
         SELECT id, $6, $6, subject, reply, headers, payload
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[])
            AS message (id, subject, reply, headers, payload)",
    )
    .bind(columns.ids)
    .bind(columns.subjects)
    .bind(columns.replies)
    .bind(columns.headers)
    .bind(columns.payloads)
    .bind(column::now())
    .execute(connection)
    .await?;
    Ok(())
}

/// Messages that are due, the longest due first, which `publisher` has from now on for a lease.
pub(super) async fn due(
    connection: &mut PgConnection,
    publisher: Uuid,
    now: DateTime<Utc>,
    lease: TimeDelta,
    limit: u32,
) -> Outcome<Vec<OutboxRow>> {
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
            SELECT id, due_at, octet_length(payload)::bigint + octet_length(headers) AS bytes FROM outbox
            WHERE due_at <= $1 AND (publisher IS NULL OR publisher = $2 OR publisher_until < $1)
            ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
         ), fitting AS MATERIALIZED (
            SELECT id FROM (
                SELECT id, sum(bytes) OVER (ORDER BY due_at, id ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
                FROM due
            ) sized WHERE bytes_before < $5
         )
         UPDATE outbox SET publisher = $2, publisher_until = $3 WHERE id IN (SELECT id FROM fitting)
         RETURNING id, failures, subject, reply, headers, payload, due_at",
    )
    .bind(now)
    .bind(publisher)
    .bind(now.checked_add_signed(lease).unwrap_or(now))
    .bind(i64::from(limit))
    .bind(MAX_PAGE_BYTES)
    .fetch_all(connection)
    .await?;
    let mut page: Vec<(DateTime<Utc>, OutboxRow)> = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: Uuid = row.try_get(0)?;
        let headers = match serde_json::from_str(row.try_get(4)?) {
            Ok(headers) => headers,
            Err(error) => {
                // Without its headers it would lose its depth, and with it the guard against loops.
                let error = json_error(&error);
                tracing::error!(%id, "a message in the outbox cannot be read and stays there: {error}");
                continue;
            }
        };
        let payload = Bytes::from(row.try_get::<Vec<u8>, _>(5)?);
        let message = Message { subject: row.try_get(2)?, reply: row.try_get(3)?, headers, payload };
        let failures = column::number(row, 1)?;
        page.push((column::moment(row, 6)?, OutboxRow { id, message, failures }));
    }
    page.sort_by_key(|(due_at, row)| (*due_at, row.id));
    Ok(page.into_iter().map(|(_, row)| row).collect())
}

/// Removes messages that the bus has, and marks their dead letters. One that was replaced meanwhile has another message
/// of its own.
pub(super) async fn sent(connection: &mut PgConnection, ids: &[Uuid]) -> Outcome<()> {
    sqlx::query(
        "WITH gone AS (DELETE FROM outbox WHERE id = ANY ($1) RETURNING id, dead_letter_id)
         UPDATE dead_letters d SET published = true FROM gone
         WHERE d.invocation_id = gone.dead_letter_id AND d.outbox_id = gone.id",
    )
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Puts a message off; whoever comes first then publishes it.
pub(super) async fn failed(
    connection: &mut PgConnection,
    id: Uuid,
    retry_at: DateTime<Utc>,
    error: &str,
) -> Outcome<()> {
    sqlx::query(
        "UPDATE outbox SET failures = failures + 1, due_at = $2, last_error = $3,
            publisher = NULL, publisher_until = NULL
         WHERE id = $1",
    )
    .bind(id)
    .bind(retry_at)
    .bind(column::text(error))
    .execute(connection)
    .await?;
    Ok(())
}
