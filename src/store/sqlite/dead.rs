//! Dead letters: kept, listed, redriven.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, ToSql, params};
use trigger_core::{Binding, Custody, DeadReason, Failure, InvocationContext};
use uuid::Uuid;

use super::{bindings, column, ledger, outbox, row};
use crate::store::stored::json_error;
use crate::store::{
    DeadLetter, DeadLetterFilter, DeadLetterSummary, KeptDeadLetter, MAX_PAGE, QueuedInvocation, Redriven, Result,
};

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
pub(super) fn list(connection: &Connection, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterSummary>> {
    let before = filter.before.map(column::micros);
    let before_id = filter.before_id.map(Uuid::into_bytes);
    let reason_word = filter.reason.map(DeadReason::as_str);
    let limit = filter.limit.min(MAX_PAGE);
    // Only the conditions that are asked for, so that each question finds its index.
    let mut conditions = vec!["1"];
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
    if !filter.include_redriven {
        conditions.push("redriven_at IS NULL");
    }
    if let Some(namespace) = &filter.namespace {
        conditions.push("namespace = :namespace");
        values.push((":namespace", namespace));
    }
    if let Some(function_name) = &filter.function_name {
        conditions.push("function_name = :function_name");
        values.push((":function_name", function_name));
    }
    if let Some(reason_word) = &reason_word {
        conditions.push("reason = :reason");
        values.push((":reason", reason_word));
    }
    match (&before, &before_id) {
        (Some(before), Some(before_id)) => {
            conditions.push("(died_at, invocation_id) < (:before, :before_id)");
            values.extend([(":before", before as &dyn ToSql), (":before_id", before_id)]);
        }
        (Some(before), None) => {
            conditions.push("died_at < :before");
            values.push((":before", before));
        }
        (None, _) => {}
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
            attempt_count, died_at, redriven_at, outbox_id IS NOT NULL, published
         FROM dead_letters WHERE {} ORDER BY died_at DESC, invocation_id DESC LIMIT :limit",
        conditions.join(" AND ")
    ))?;
    let mut rows = select.query(values.as_slice())?;
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

/// Puts the event back in the queue as if it had just come, and marks the dead letter.
pub(super) fn redrive(connection: &Connection, id: Uuid, run_at: DateTime<Utc>, now: i64) -> Result<Redriven> {
    let Some((dead, redriven_at)) = get(connection, id)? else { return Ok(Redriven::Unknown) };
    if redriven_at.is_some() {
        return Ok(Redriven::Already);
    }
    let reason = dead.reason;
    let mut invocation = dead.invocation;
    let binding_id = bindings::resolve(connection, &invocation.binding)?;
    invocation.attempt = 1;
    invocation.version = None;
    invocation.custody = Custody::Engine;
    let redrive_count = dead.redrive_count.saturating_add(1);
    let queued = QueuedInvocation { invocation, run_at, attempts: Vec::new(), redrive_count };
    row::insert(connection, &row::Row::new(&queued, binding_id), now)?;
    // It is dead no more.
    ledger::add(binding_id, "dead", reason.as_str(), -1);
    connection
        .prepare_cached("UPDATE dead_letters SET redriven_at = ?2 WHERE invocation_id = ?1")?
        .execute(params![id.as_bytes(), now])?;
    Ok(Redriven::Queued)
}
