//! The fires of schedules: one row for each moment, whoever sees it.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use uuid::Uuid;

use super::{column, ledger};
use crate::store::{FireFilter, FireRow, MAX_PAGE, Result};

/// A fire that was not made.
pub(super) struct Skipped {
    pub(super) binding_id: i64,
    pub(super) scheduled_at: i64,
    pub(super) until: i64,
    pub(super) count: u64,
    pub(super) reason: &'static str,
}

/// Keeps rows about fires that were not made.
pub(super) fn skip(connection: &Connection, skipped: &[Skipped], now: i64) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO fires (binding_id, scheduled_at, manual, until, count, skipped, fired_at)
         VALUES (?1, ?2, 0, nullif(?3, ?2), ?4, ?5, ?6) ON CONFLICT DO NOTHING",
    )?;
    for fire in skipped {
        let count = column::signed(fire.count);
        let new = insert.execute(params![fire.binding_id, fire.scheduled_at, fire.until, count, fire.reason, now])?;
        remember(connection, fire.binding_id, fire.until)?;
        if new == 1 {
            ledger::add(fire.binding_id, "accepted", "", count);
            ledger::add(fire.binding_id, "skipped", fire.reason, count);
        }
    }
    Ok(())
}

/// Remembers the newest moment of a trigger.
pub(super) fn remember(connection: &Connection, binding_id: i64, scheduled_at: i64) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE bindings SET last_scheduled_at = max(coalesce(last_scheduled_at, ?2), ?2) WHERE binding_id = ?1",
        )?
        .execute(params![binding_id, scheduled_at])?;
    Ok(())
}

/// When the newest scheduled event of a trigger was due.
pub(super) fn last_scheduled(connection: &Connection, binding_id: i64) -> Result<Option<DateTime<Utc>>> {
    let mut select = connection.prepare_cached("SELECT last_scheduled_at FROM bindings WHERE binding_id = ?1")?;
    Ok(select.query_row([binding_id], |row| column::optional_moment(row, 0)).optional()?.flatten())
}

/// A page of a trigger's fires, newest first.
pub(super) fn list(connection: &Connection, binding_id: i64, filter: &FireFilter) -> Result<Vec<FireRow>> {
    let limit = filter.limit.min(MAX_PAGE);
    let (from, before) = (filter.from.map(column::micros), filter.before.map(column::micros));
    let mut conditions = vec!["binding_id = :binding_id"];
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":binding_id", &binding_id), (":limit", &limit)];
    if let Some(from) = &from {
        conditions.push("scheduled_at >= :from");
        values.push((":from", from));
    }
    if let Some(before) = &before {
        conditions.push("scheduled_at < :before");
        values.push((":before", before));
    }
    if filter.skipped_only {
        conditions.push("skipped IS NOT NULL");
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT scheduled_at, until, count, cause, skipped, fired_at, invocation_id FROM fires
         WHERE {} ORDER BY scheduled_at DESC, manual DESC LIMIT :limit",
        conditions.join(" AND ")
    ))?;
    let mut rows = select.query(values.as_slice())?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(FireRow {
            scheduled_at: column::moment(row, 0)?,
            until: column::optional_moment(row, 1)?,
            count: column::count(row, 2)?,
            cause: row.get(3)?,
            skipped: row.get(4)?,
            fired_at: column::moment(row, 5)?,
            invocation_id: row.get::<_, Option<[u8; 16]>>(6)?.map(Uuid::from_bytes),
        });
    }
    Ok(page)
}
