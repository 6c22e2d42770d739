//! Dead letters: kept, listed, redriven.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};
use trigger_core::{Binding, DeadReason, Failure, InvocationContext};
use uuid::Uuid;

use super::bulk::Conditions;
use super::{bindings, column, ledger, outbox, row};
use crate::store::stored::json_error;
use crate::store::{DeadLetter, DeadLetterPage, DeadLetterSummary, Error, KeptDeadLetter, MAX_PAGE, Redriven, Result};

/// A dead letter to be written.
pub(super) struct Row {
    pub(super) invocation_id: Uuid,
    pub(super) binding: Arc<Binding>,
    subject: Box<str>,
    pub(super) reason: DeadReason,
    failure: String,
    attempt_count: i64,
    attempts: String,
    died_at: i64,
    redrive_count: u32,
    version: Option<u32>,
    digest: Option<String>,
    context: String,
    payload: Bytes,
    publish: Option<outbox::Row>,
}

impl Row {
    pub(super) fn new(dead: &DeadLetter) -> Self {
        let invocation = &dead.invocation;
        Self {
            invocation_id: invocation.invocation_id,
            binding: invocation.binding.clone(),
            subject: invocation.subject.clone(),
            reason: dead.reason,
            failure: row::to_json(&dead.failure),
            attempt_count: column::signed(dead.attempts.len() as u64),
            attempts: row::to_json(&dead.attempts),
            died_at: column::micros(dead.died_at),
            redrive_count: dead.redrive_count,
            version: dead.version,
            digest: dead.digest.map(|digest| digest.to_string()),
            context: invocation.to_stored(),
            payload: invocation.payload.clone(),
            publish: dead.publish.as_ref().map(outbox::Row::new),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let publish = self.publish.as_ref().map_or(0, outbox::Row::bytes);
        self.attempts.len() + self.context.len() + self.payload.len() + publish
    }
}

/// Keeps a dead letter, in place of an older one of the same invocation, and what to publish about it.
pub(super) fn insert(connection: &Connection, row: &Row, now: i64) -> Result<()> {
    let outbox_id = row.publish.as_ref().map(|message| message.id.as_bytes());
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO dead_letters (
                invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
                attempt_count, died_at, redriven_at, redrive_count, version, digest, outbox_id, published,
                attempts, context, payload
             ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, ?11, ?12, ?13, ?14, 0, ?15, ?16, ?17)",
        )?
        .execute(params![
            row.invocation_id.as_bytes(),
            row.binding.namespace,
            row.binding.function_name,
            row.binding.trigger_id,
            row.binding.trigger_type.as_str(),
            row.subject,
            row.reason.as_str(),
            row.failure,
            row.attempt_count,
            row.died_at,
            row.redrive_count,
            row.version,
            row.digest,
            outbox_id,
            row.attempts,
            row.context,
            row.payload.as_ref(),
        ])?;
    match &row.publish {
        Some(message) => outbox::insert(connection, message, Some(row.invocation_id), now),
        None => Ok(()),
    }
}

/// A page of dead letters, newest first.
pub(super) fn list(connection: &Connection, page: &DeadLetterPage) -> Result<Vec<DeadLetterSummary>> {
    let mut conditions = Conditions::of(&page.selector);
    if let Some(behind) = page.behind {
        conditions.beside("(died_at, invocation_id) < (?, ?)", behind);
    }
    let sql = format!(
        "SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
            attempt_count, died_at, redriven_at, outbox_id IS NOT NULL, published
         FROM dead_letters WHERE {} ORDER BY died_at DESC, invocation_id DESC LIMIT ?",
        conditions.sql()
    );
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(conditions.values_and(page.limit.min(MAX_PAGE)))?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        match summary(row) {
            Ok(summary) => page.push(summary),
            // One that cannot be read does not hide the others.
            Err(error) => {
                tracing::error!(invocation_id = ?column::id(row, 0).ok(), "a dead letter is left out: {error}")
            }
        }
    }
    Ok(page)
}

fn summary(row: &rusqlite::Row<'_>) -> Result<DeadLetterSummary> {
    Ok(DeadLetterSummary {
        invocation_id: column::id(row, 0)?,
        binding: column::binding(row, 1)?,
        subject: row.get(5)?,
        reason: reason(row, 6)?,
        failure: failure(row, 7)?,
        attempts: row.get(8)?,
        died_at: column::moment(row, 9)?,
        redriven_at: column::optional_moment(row, 10)?,
        published: if row.get(11)? { Some(row.get(12)?) } else { None },
    })
}

/// The reason in a column.
pub(super) fn reason(row: &rusqlite::Row<'_>, column: usize) -> Result<DeadReason> {
    let word: String = row.get(column)?;
    DeadReason::parse(&word).ok_or_else(|| column::corrupt("a dead letter's reason", format!("{word:?}")))
}

/// The failure in a column.
pub(super) fn failure(row: &rusqlite::Row<'_>, column: usize) -> Result<Failure> {
    let json: String = row.get(column)?;
    column::json(&json, || "a dead letter's failure".to_owned())
}

/// A dead letter, and when it was redriven.
pub(super) fn get(connection: &Connection, id: Uuid) -> Result<Option<KeptDeadLetter>> {
    let mut select = connection.prepare_cached(
        "SELECT context, payload, version, digest, attempts, reason, failure, died_at, redrive_count, redriven_at
         FROM dead_letters WHERE invocation_id = ?1",
    )?;
    let mut rows = select.query([id.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let whose = || format!("dead letter {id}");
    let (context, attempts): (String, String) = (row.get(0)?, row.get(4)?);
    let payload = Bytes::copy_from_slice(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
    let digest: Option<String> = row.get(3)?;
    let digest = digest.map(|text| text.parse()).transpose().map_err(|error| column::corrupt(whose(), error))?;
    let dead = DeadLetter {
        invocation: InvocationContext::from_stored(&context, payload)
            .map_err(|error| column::corrupt(whose(), json_error(&error)))?,
        version: row.get(2)?,
        digest,
        attempts: column::json(&attempts, whose)?,
        reason: reason(row, 5)?,
        failure: failure(row, 6)?,
        died_at: column::moment(row, 7)?,
        redrive_count: row.get(8)?,
        publish: None,
    };
    Ok(Some((dead, column::optional_moment(row, 9)?)))
}

/// What the events that one step puts back may hold together, in bytes, before it stops short.
const MAX_REDRIVE_BYTES: usize = 8 << 20;

/// Puts events back in the queue as if they had just come, and marks their dead letters.
pub(super) fn redrive(
    connection: &Connection,
    ids: &[Uuid],
    version: Option<u32>,
    run_at: DateTime<Utc>,
    now: i64,
) -> Result<Vec<Redriven>> {
    let mut mark = connection.prepare_cached("UPDATE dead_letters SET redriven_at = ?2 WHERE invocation_id = ?1")?;
    let (mut answers, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        if bytes >= MAX_REDRIVE_BYTES {
            break;
        }
        let (dead, redriven_at) = match get(connection, *id) {
            Ok(Some(found)) => found,
            Ok(None) => {
                answers.push(Redriven::Unknown);
                continue;
            }
            // One that cannot be read must not keep the others from being redriven.
            Err(error @ Error::Corrupt { .. }) => {
                tracing::error!(invocation_id = %id, "a dead letter cannot be redriven: {error}");
                answers.push(Redriven::Unreadable);
                continue;
            }
            Err(error) => return Err(error),
        };
        if redriven_at.is_some() {
            answers.push(Redriven::Already);
            continue;
        }
        let (reason, binding_id) = (dead.reason, bindings::resolve(connection, &dead.invocation.binding)?);
        let row = row::Row::new(&dead.redriven(version, run_at), binding_id);
        bytes += row.bytes();
        row::insert(connection, &row, now)?;
        // It is dead no more.
        ledger::add(binding_id, "dead", reason.as_str(), -1);
        mark.execute(params![id.as_bytes(), now])?;
        answers.push(Redriven::Queued);
    }
    Ok(answers)
}
