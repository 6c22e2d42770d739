//! New events on their way into the queue: which are old ones, which have to wait behind others, which have no place.

use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::{Fingerprint, FireCause, SkipReason, Unique, UniqueConflict, UniqueScope};
use uuid::Uuid;

use super::row::{self, READY, Row};
use super::{column, ledger, settle, sql};
use crate::store::{Admitted, Result};

/// A list of new events, ready to be written.
pub(super) struct List {
    pub(super) rows: Vec<Row>,
    pub(super) lease: Option<(Uuid, i64)>,
    pub(super) max_backlog: Option<u64>,
    /// Until when it is kept that an event was replaced.
    pub(super) keep_until: i64,
}

/// Takes new events in.
pub(super) fn accept(connection: &Connection, list: &List, now: i64) -> Result<Vec<Admitted>> {
    list.rows
        .iter()
        .map(|row| {
            let admitted = admit(connection, list, row, now)?;
            ledger::add(row.binding_id, "accepted", "", 1);
            match admitted {
                Admitted::New { .. } => {}
                Admitted::Duplicate(_) => ledger::add(row.binding_id, "skipped", SkipReason::Duplicate.as_str(), 1),
                Admitted::Skipped(reason) => ledger::add(row.binding_id, "skipped", reason.as_str(), 1),
                Admitted::Full => ledger::add(row.binding_id, "shed", trigger_core::Shed::Backlog.as_str(), 1),
            }
            Ok(admitted)
        })
        .collect()
}

fn admit(connection: &Connection, list: &List, row: &Row, now: i64) -> Result<Admitted> {
    if let Some(first) = first_of_its_kind(connection, row)? {
        return Ok(Admitted::Duplicate(first));
    }
    let holder = match &row.unique {
        Some(unique) => holder(connection, row.binding_id, &unique.key, now)?,
        None => None,
    };
    let replaced = match (&row.unique, holder) {
        (Some(Unique { conflict: UniqueConflict::Replace, .. }), Some(id)) => Some(id),
        (_, Some(id)) => return Ok(Admitted::Duplicate(id)),
        (_, None) => None,
    };
    if let Some(ordering) = &row.ordering
        && let Some(limit) = ordering.limit
        && live_of_key(connection, row.binding_id, &ordering.key, limit)? >= limit
    {
        if row.fire.is_some() {
            insert_fire(connection, row, Some(SkipReason::Overlap), now)?;
        }
        return Ok(Admitted::Skipped(SkipReason::Overlap));
    }
    if let Some(limit) = list.max_backlog
        && ledger::live(connection, row.binding_id)? >= limit
    {
        return Ok(Admitted::Full);
    }
    // One that runs already cannot be replaced: it goes on, and the new one is another event.
    let replaced = match replaced {
        Some(id) if settle::take_back(connection, id, Some(list.keep_until), now)? => Some(id),
        _ => None,
    };
    let Some(state) = row::insert(connection, row, now)? else { return Ok(Admitted::Duplicate(row.id)) };
    remember(connection, row, now)?;
    let claimed = match list.lease {
        Some((token, until)) if state == READY => {
            connection.prepare_cached(sql::INSERT_CLAIM)?.execute(params![
                row.id.as_bytes(),
                token.as_bytes(),
                until,
                row.binding_id,
                row.attempt
            ])?;
            true
        }
        _ => false,
    };
    Ok(Admitted::New { claimed, replaced })
}

/// The event that this one is, by its schedule's moment or its source's identity.
fn first_of_its_kind(connection: &Connection, row: &Row) -> Result<Option<Uuid>> {
    if let (Some(cause), Some(scheduled_at)) = (row.fire, row.scheduled_at) {
        let mut select = connection.prepare_cached(
            "SELECT invocation_id FROM fires WHERE binding_id = ?1 AND scheduled_at = ?2 AND manual = ?3",
        )?;
        let fire = select
            .query_row(params![row.binding_id, scheduled_at, cause.is_asked_for()], |found| {
                found.get::<_, Option<[u8; 16]>>(0)
            })
            .optional()?;
        return Ok(fire.map(|id| id.map_or(row.id, Uuid::from_bytes)));
    }
    let Some(key) = &row.idempotency_key else { return Ok(None) };
    let mut first = connection
        .prepare_cached("SELECT invocation_id FROM accepted_keys WHERE binding_id = ?1 AND idempotency_key = ?2")?;
    Ok(first.query_row(params![row.binding_id, key], |row| column::id(row, 0)).optional()?)
}

/// What the event said that a key was accepted with.
pub(super) fn fingerprint(connection: &Connection, binding_id: i64, key: &str) -> Result<Option<Fingerprint>> {
    let mut select = connection
        .prepare_cached("SELECT fingerprint FROM accepted_keys WHERE binding_id = ?1 AND idempotency_key = ?2")?;
    Ok(select.query_row(params![binding_id, key], |row| row.get(0)).optional()?.flatten())
}

/// Who holds a unique key now.
pub(super) fn holder(connection: &Connection, binding_id: i64, key: &str, now: i64) -> Result<Option<Uuid>> {
    let mut select = connection.prepare_cached(
        "SELECT invocation_id FROM unique_keys u
         WHERE binding_id = ?1 AND unique_key = ?2 AND CASE scope
            WHEN 'period' THEN held_until > ?3
            WHEN 'live' THEN EXISTS (SELECT 1 FROM queue q WHERE q.invocation_id = u.invocation_id)
            ELSE EXISTS (
                SELECT 1 FROM queue q WHERE q.invocation_id = u.invocation_id AND q.attempt = 1
                AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.invocation_id = u.invocation_id))
         END",
    )?;
    Ok(select.query_row(params![binding_id, key, now], |row| column::id(row, 0)).optional()?)
}

/// How many rows of an ordering key there are; counts no further than `limit`.
fn live_of_key(connection: &Connection, binding_id: i64, key: &str, limit: u32) -> Result<u32> {
    let mut count = connection.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM queue WHERE binding_id = ?1 AND ordering_key = ?2 LIMIT ?3)",
    )?;
    Ok(count.query_row(params![binding_id, key, limit], |row| row.get(0))?)
}

/// Remembers by what the event will be known again.
fn remember(connection: &Connection, row: &Row, now: i64) -> Result<()> {
    if row.fire.is_some() && row.scheduled_at.is_some() {
        insert_fire(connection, row, None, now)?;
    } else if let Some(key) = &row.idempotency_key {
        connection
            .prepare_cached(
                "INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at, fingerprint)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![row.binding_id, key, row.id.as_bytes(), now, row.fingerprint])?;
    }
    if let Some(unique) = &row.unique {
        let (scope, held_until) = match unique.scope {
            UniqueScope::Queued => ("queued", None),
            UniqueScope::Live => ("live", None),
            UniqueScope::Period(seconds) => ("period", Some(now + i64::from(seconds) * 1_000_000)),
        };
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO unique_keys (binding_id, unique_key, invocation_id, scope, held_until)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![row.binding_id, unique.key, row.id.as_bytes(), scope, held_until])?;
    }
    Ok(())
}

/// Keeps the row of a fire, and the moment as the trigger's newest.
fn insert_fire(connection: &Connection, row: &Row, skipped: Option<SkipReason>, now: i64) -> Result<()> {
    let (Some(cause), Some(scheduled_at)) = (row.fire, row.scheduled_at) else { return Ok(()) };
    connection
        .prepare_cached(
            "INSERT INTO fires (binding_id, scheduled_at, manual, cause, skipped, fired_at, invocation_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            row.binding_id,
            scheduled_at,
            cause.is_asked_for(),
            skipped.is_none().then(|| cause.as_str()),
            skipped.map(SkipReason::as_str),
            now,
            skipped.is_none().then(|| row.id.into_bytes()),
        ])?;
    if matches!(cause, FireCause::Due | FireCause::CatchUp) {
        super::fires::remember(connection, row.binding_id, scheduled_at)?;
    }
    Ok(())
}
