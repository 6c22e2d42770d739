//! What waits, for people: rows of the queue, keys that hold others up, pauses, depths.

use rusqlite::{Connection, ToSql, params};
use trigger_core::Binding;

use super::{column, ledger};
use crate::store::{BlockedKey, Depths, MAX_PAGE, Pause, QueueFilter, QueueRow, Result, queued};

/// A page of the queue, the longest due first.
pub(super) fn queue(connection: &Connection, filter: &QueueFilter) -> Result<Vec<QueueRow>> {
    let limit = filter.limit.min(MAX_PAGE);
    let after = filter.after.map(|(moment, id)| (column::micros(moment), id.into_bytes()));
    let mut conditions = vec!["1"];
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
    for (name, condition, value) in [
        (":namespace", "b.namespace = :namespace", &filter.namespace),
        (":function_name", "b.function_name = :function_name", &filter.function_name),
        (":trigger_id", "b.trigger_id = :trigger_id", &filter.trigger_id),
        (":trigger_type", "b.trigger_type = :trigger_type", &filter.trigger_type),
    ] {
        if let Some(value) = value {
            conditions.push(condition);
            values.push((name, value));
        }
    }
    if let Some((moment, id)) = &after {
        conditions.push("(q.run_at, q.invocation_id) > (:moment, :id)");
        values.extend([(":moment", moment as &dyn ToSql), (":id", id)]);
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT q.invocation_id, b.namespace, b.function_name, b.trigger_id, b.trigger_type, q.run_at, q.attempt,
            q.rank, EXISTS (SELECT 1 FROM claims c WHERE c.invocation_id = q.invocation_id), q.state = 2,
            q.ordering_key, q.unique_key, q.progress, length(q.payload)
         FROM queue q JOIN bindings b USING (binding_id)
         WHERE {} ORDER BY q.run_at, q.invocation_id LIMIT :limit",
        conditions.join(" AND ")
    ))?;
    let mut rows = select.query(values.as_slice())?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let run_at = column::moment(row, 5)?;
        page.push(QueueRow {
            invocation_id: column::id(row, 0)?,
            binding: column::binding(row, 1)?,
            run_at,
            attempt: row.get(6)?,
            priority: queued::priority_of(run_at, column::moment(row, 7)?),
            running: row.get(8)?,
            blocked: row.get(9)?,
            ordering_key: row.get(10)?,
            unique_key: row.get(11)?,
            progress: queued::read_progress(row.get::<_, Option<String>>(12)?.as_deref()),
            payload_bytes: column::count(row, 13)?,
        });
    }
    Ok(page)
}

/// Ordering keys whose first event has failed and is due again, with how many wait behind it.
pub(super) fn blocked_keys(connection: &Connection, limit: u32) -> Result<Vec<BlockedKey>> {
    let mut select = connection.prepare_cached(
        "SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, q.ordering_key, q.invocation_id, q.attempt,
            q.run_at,
            (SELECT count(*) FROM queue w WHERE w.binding_id = q.binding_id AND w.ordering_key = q.ordering_key
                AND w.state = 2)
         FROM queue q JOIN bindings b USING (binding_id)
         WHERE q.ordering_key IS NOT NULL AND q.state <> 2 AND q.attempt > 1
         ORDER BY q.run_at LIMIT ?1",
    )?;
    let mut rows = select.query([limit.min(MAX_PAGE)])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(BlockedKey {
            binding: column::binding(row, 0)?,
            ordering_key: row.get(4)?,
            head: column::id(row, 5)?,
            attempt: row.get(6)?,
            run_at: column::moment(row, 7)?,
            waiting: column::count(row, 8)?,
        });
    }
    Ok(keys)
}

/// Pauses a trigger, or lets it go on.
pub(super) fn pause(connection: &Connection, binding_id: i64, pause: Option<&Pause>) -> Result<()> {
    let (since, note) = pause.map(|pause| (column::micros(pause.since), pause.note.as_str())).unzip();
    connection
        .prepare_cached("UPDATE bindings SET paused_at = ?2, paused_note = ?3 WHERE binding_id = ?1")?
        .execute(params![binding_id, since, note])?;
    Ok(())
}

/// Every paused trigger.
pub(super) fn paused(connection: &Connection) -> Result<Vec<(Binding, Pause)>> {
    let mut select = connection.prepare_cached(
        "SELECT namespace, function_name, trigger_id, trigger_type, paused_at, paused_note FROM bindings
         WHERE paused_at IS NOT NULL ORDER BY namespace, function_name, trigger_id",
    )?;
    let mut rows = select.query([])?;
    let mut paused = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(pause) = ledger::pause(row, 4)? {
            paused.push((column::binding(row, 0)?, pause));
        }
    }
    Ok(paused)
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
