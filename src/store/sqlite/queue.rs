//! The queue: from an accepted event to its end.
//!
//! What needs JSON is prepared and read by the callers ([`Row`], [`Ending`], [`Due`]); the functions that run on the
//! writer's thread only move columns.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::{Accepted, Binding, Headers};
use uuid::Uuid;

use super::due::{Due, Unreadable};
use super::{column, dead, outbox, sql};
use crate::store::{Depths, QueuedInvocation, Result, Settle};

/// What one claim may hand out, in bytes, before it stops short of its limit.
const MAX_CLAIM_BYTES: usize = 32 << 20;

/// A row to be written.
pub(super) struct Row {
    id: Uuid,
    binding: Arc<Binding>,
    run_at: i64,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
    idempotency_key: Option<Box<str>>,
    scheduled_at: Option<i64>,
}

impl Row {
    pub(super) fn new(queued: &QueuedInvocation) -> Self {
        let invocation = &queued.invocation;
        Self {
            id: invocation.invocation_id,
            binding: invocation.binding.clone(),
            run_at: column::micros(queued.run_at),
            attempt: invocation.attempt,
            version: invocation.version,
            redrive_count: queued.redrive_count,
            attempts: (!queued.attempts.is_empty()).then(|| to_json(&queued.attempts)),
            context: invocation.to_stored().to_string(),
            payload: invocation.payload.clone(),
            idempotency_key: invocation.idempotency_key.clone(),
            scheduled_at: invocation.scheduled_at.map(column::micros),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }
}

/// JSON of attempts.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("attempts and failures have only string keys and no fallible values")
}

/// Puts a row in the queue; `false` if it was there.
pub(super) fn insert(connection: &Connection, row: &Row) -> Result<bool> {
    let inserted = connection.prepare_cached(sql::INSERT_QUEUE)?.execute(params![
        row.id.as_bytes(),
        row.binding.namespace,
        row.binding.function_name,
        row.binding.trigger_id,
        row.binding.trigger_type.as_str(),
        row.run_at,
        row.attempt,
        row.version,
        row.redrive_count,
        row.attempts,
        row.context,
        row.payload.as_ref(),
    ])?;
    Ok(inserted == 1)
}

/// Takes new events in; one whose key, or whose id, is known is a duplicate.
pub(super) fn accept(connection: &Connection, rows: &[Row]) -> Result<Vec<Accepted>> {
    rows.iter()
        .map(|row| {
            if let Some(first) = first_with_key(connection, row)? {
                return Ok(Accepted { invocation_id: first, duplicate: true });
            }
            let new = insert(connection, row)?;
            if new && let Some(scheduled_at) = row.scheduled_at {
                remember_schedule(connection, &row.binding, scheduled_at)?;
            }
            Ok(Accepted { invocation_id: row.id, duplicate: !new })
        })
        .collect()
}

/// The invocation that took this row's key; `None` where it has none, or takes it now.
fn first_with_key(connection: &Connection, row: &Row) -> Result<Option<Uuid>> {
    let Some(key) = &row.idempotency_key else { return Ok(None) };
    let Binding { namespace, function_name, trigger_id, .. } = &*row.binding;
    let taken = connection
        .prepare_cached(
            "INSERT INTO accepted_keys (
                namespace, function_name, trigger_id, idempotency_key, invocation_id, accepted_at
             ) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        )?
        .execute(params![namespace, function_name, trigger_id, key, row.id.as_bytes(), column::now()])?;
    if taken == 1 {
        return Ok(None);
    }
    let mut first = connection.prepare_cached(
        "SELECT invocation_id FROM accepted_keys
         WHERE namespace = ?1 AND function_name = ?2 AND trigger_id = ?3 AND idempotency_key = ?4",
    )?;
    Ok(Some(first.query_row(params![namespace, function_name, trigger_id, key], |row| column::id(row, 0))?))
}

fn remember_schedule(connection: &Connection, binding: &Binding, scheduled_at: i64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO schedules (namespace, function_name, trigger_id, last_scheduled_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET last_scheduled_at = max(last_scheduled_at, excluded.last_scheduled_at)",
        )?
        .execute(params![binding.namespace, binding.function_name, binding.trigger_id, scheduled_at])?;
    Ok(())
}

/// When the newest scheduled event of a trigger was due.
pub(super) fn last_scheduled(connection: &Connection, binding: &Binding) -> Result<Option<DateTime<Utc>>> {
    let mut select = connection.prepare_cached(
        "SELECT last_scheduled_at FROM schedules WHERE namespace = ?1 AND function_name = ?2 AND trigger_id = ?3",
    )?;
    Ok(select
        .query_row(params![binding.namespace, binding.function_name, binding.trigger_id], |row| column::moment(row, 0))
        .optional()?)
}

/// Claims rows that are due.
pub(super) fn claim(
    connection: &Connection,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    token: Uuid,
    limit: u32,
) -> Result<Vec<Due>> {
    let mut select = connection.prepare_cached(sql::SELECT_DUE)?;
    let mut rows = select.query(params![column::micros(now), limit])?;
    let mut claimed: Vec<Due> = Vec::new();
    let mut bytes = 0;
    while bytes < MAX_CLAIM_BYTES
        && let Some(row) = rows.next()?
    {
        let due = Due::from_row(row)?;
        bytes += due.bytes();
        claimed.push(due);
    }
    drop(rows);
    let mut insert = connection.prepare_cached(sql::INSERT_CLAIM)?;
    for due in &claimed {
        insert.execute(params![due.id().as_bytes(), token.as_bytes(), column::micros(lease_until)])?;
    }
    Ok(claimed)
}

/// Moves a claimed row that cannot be read out of the way.
pub(super) fn park(connection: &Connection, row: &Unreadable, token: Uuid) -> Result<()> {
    let id = row.dead.invocation_id;
    if !unclaim(connection, id, token)? {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO parked (invocation_id, reason, context, attempts, parked_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id.as_bytes(), row.reason, row.context, row.attempts, column::now()])?;
    dead::insert(connection, &row.dead)?;
    remove(connection, id)
}

/// Prolongs claims.
pub(super) fn renew(connection: &Connection, claims: &[(Uuid, Uuid)], lease_until: DateTime<Utc>) -> Result<Vec<Uuid>> {
    let mut update = connection
        .prepare_cached("UPDATE claims SET lease_until = ?3 WHERE invocation_id = ?1 AND claim_token = ?2")?;
    let mut held = Vec::with_capacity(claims.len());
    for (id, token) in claims {
        if update.execute(params![id.as_bytes(), token.as_bytes(), column::micros(lease_until)])? == 1 {
            held.push(*id);
        }
    }
    Ok(held)
}

/// How a claim ends, ready to be written.
pub(super) enum Ending {
    Ok { body: Bytes, http: Option<(u16, String)>, effects: Vec<outbox::Row> },
    Retry { run_at: i64, version: u32, attempt: String },
    Dead(Box<dead::Row>),
    HandBack,
}

impl Ending {
    pub(super) fn new(invocation_id: Uuid, settle: &Settle) -> Result<Self> {
        Ok(match settle {
            Settle::Ok { response, effects } => Ending::Ok {
                body: response.body.clone(),
                http: response.http.as_deref().map(|parts| {
                    let headers = Headers::Http(Box::new(parts.headers.clone()));
                    (parts.status.as_u16(), outbox::headers_to_json(&headers))
                }),
                effects: effects.iter().map(outbox::Row::new).collect(),
            },
            Settle::Retry { run_at, attempt } => {
                Ending::Retry { run_at: column::micros(*run_at), version: attempt.version, attempt: to_json(attempt) }
            }
            Settle::Dead(dead) if dead.invocation.invocation_id != invocation_id => {
                let why = format!("it is that of {}", dead.invocation.invocation_id);
                return Err(column::corrupt(format!("the dead letter of {invocation_id}"), why));
            }
            Settle::Dead(dead) => Ending::Dead(Box::new(dead::Row::new(dead))),
            Settle::HandBack => Ending::HandBack,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Ending::Ok { body, effects, .. } => body.len() + effects.iter().map(outbox::Row::bytes).sum::<usize>(),
            Ending::Dead(dead) => dead.bytes(),
            Ending::Retry { attempt, .. } => attempt.len(),
            Ending::HandBack => 0,
        }
    }
}

/// Ends a claim, if it is still the token's.
pub(super) fn settle(connection: &Connection, id: Uuid, token: Uuid, ending: &Ending) -> Result<bool> {
    if !unclaim(connection, id, token)? {
        return Ok(false);
    }
    match ending {
        Ending::Ok { body, http, effects } => {
            let (status, headers) = http.as_ref().map(|(status, headers)| (*status, headers.as_str())).unzip();
            connection.prepare_cached(sql::INSERT_RESULT)?.execute(params![
                id.as_bytes(),
                column::now(),
                status,
                headers,
                body.as_ref()
            ])?;
            effects.iter().try_for_each(|row| outbox::insert(connection, row, None))?;
            remove(connection, id)?;
        }
        Ending::Retry { run_at, version, attempt } => {
            connection
                .prepare_cached(
                    "UPDATE queue SET run_at = ?2, attempt = attempt + 1,
                        -- 0 stands for an attempt that found no version to run on.
                        version = coalesce(version, nullif(?3, 0)),
                        attempts = json_insert(coalesce(attempts, '[]'), '$[#]', json(?4))
                     WHERE invocation_id = ?1",
                )?
                .execute(params![id.as_bytes(), run_at, version, attempt])?;
        }
        Ending::Dead(dead) => {
            dead::insert(connection, dead)?;
            remove(connection, id)?;
        }
        // The row was never touched: it is due since it was claimed.
        Ending::HandBack => {}
    }
    Ok(true)
}

/// The fence.
fn unclaim(connection: &Connection, id: Uuid, token: Uuid) -> Result<bool> {
    Ok(connection.prepare_cached(sql::DELETE_CLAIM)?.execute([id.as_bytes(), token.as_bytes()])? == 1)
}

fn remove(connection: &Connection, id: Uuid) -> Result<()> {
    connection.prepare_cached(sql::DELETE_QUEUE)?.execute([id.as_bytes()])?;
    Ok(())
}

/// When the next row that nobody has claimed is due.
pub(super) fn next_due(connection: &Connection) -> Result<Option<DateTime<Utc>>> {
    let mut select = connection.prepare_cached(
        "SELECT run_at FROM queue
         WHERE NOT EXISTS (SELECT 1 FROM claims WHERE claims.invocation_id = queue.invocation_id)
         ORDER BY run_at LIMIT 1",
    )?;
    Ok(select.query_row([], |row| column::moment(row, 0)).optional()?)
}

/// How many rows wait.
pub(super) fn depths(connection: &Connection) -> Result<Depths> {
    let mut select = connection.prepare_cached(
        "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM claims),
            (SELECT count(*) FROM dead_letters WHERE redriven_at IS NULL), (SELECT count(*) FROM outbox)",
    )?;
    Ok(select.query_row([], |row| {
        let running = column::count(row, 1)?;
        Ok(Depths {
            queued: column::count(row, 0)?.saturating_sub(running),
            running,
            dead: column::count(row, 2)?,
            outbox: column::count(row, 3)?,
        })
    })?)
}
