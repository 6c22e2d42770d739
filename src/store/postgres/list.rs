//! What waits, for people: rows of the queue, keys that hold others up, pauses, depths.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use trigger_core::Binding;

use super::error::Outcome;
use super::{column, ledger};
use crate::store::{BlockedKey, Depths, MAX_PAGE, Pause, QueueFilter, QueueRow, queued};

/// A page of the queue, the longest due first.
pub(super) async fn queue(connection: &mut PgConnection, filter: &QueueFilter) -> Outcome<Vec<QueueRow>> {
    let mut select: QueryBuilder<Postgres> = QueryBuilder::new(
        "SELECT q.invocation_id, b.namespace, b.function_name, b.trigger_id, b.trigger_type, q.run_at,
            q.attempt::bigint, q.rank, q.claim_token IS NOT NULL, q.state = 2, q.ordering_key, q.unique_key, q.progress,
            octet_length(q.payload)::bigint
         FROM queue q JOIN bindings b USING (binding_id) WHERE true",
    );
    for (condition, value) in [
        (" AND b.namespace = ", &filter.namespace),
        (" AND b.function_name = ", &filter.function_name),
        (" AND b.trigger_id = ", &filter.trigger_id),
        (" AND b.trigger_type = ", &filter.trigger_type),
    ] {
        if let Some(value) = value {
            select.push(condition).push_bind(column::text(value).into_owned());
        }
    }
    if let Some((moment, id)) = filter.after {
        select.push(" AND (q.run_at, q.invocation_id) > (").push_bind(moment);
        select.push(", ").push_bind(id).push(")");
    }
    select.push(" ORDER BY q.run_at, q.invocation_id LIMIT ").push_bind(i64::from(filter.limit.min(MAX_PAGE)));
    let rows = select.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let run_at = column::moment(row, 5)?;
            Ok(QueueRow {
                invocation_id: row.try_get(0)?,
                binding: column::binding(row, 1)?,
                run_at,
                attempt: column::number(row, 6)?,
                priority: queued::priority_of(run_at, column::moment(row, 7)?),
                running: row.try_get(8)?,
                blocked: row.try_get(9)?,
                ordering_key: row.try_get(10)?,
                unique_key: row.try_get(11)?,
                progress: queued::read_progress(row.try_get(12)?),
                payload_bytes: column::count(row, 13)?,
            })
        })
        .collect()
}

/// Ordering keys whose first event has failed and is due again, with how many wait behind it.
pub(super) async fn blocked_keys(connection: &mut PgConnection, limit: u32) -> Outcome<Vec<BlockedKey>> {
    let rows = sqlx::query(
        "SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, q.ordering_key, q.invocation_id,
            q.attempt::bigint, q.run_at,
            (SELECT count(*) FROM queue w
             WHERE w.binding_id = q.binding_id AND w.ordering_key = q.ordering_key AND w.state = 2)
         FROM queue q JOIN bindings b USING (binding_id)
         WHERE q.ordering_key IS NOT NULL AND q.state <> 2 AND q.attempt > 1
         ORDER BY q.run_at LIMIT $1",
    )
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(BlockedKey {
                binding: column::binding(row, 0)?,
                ordering_key: row.try_get(4)?,
                head: row.try_get(5)?,
                attempt: column::number(row, 6)?,
                run_at: column::moment(row, 7)?,
                waiting: column::count(row, 8)?,
            })
        })
        .collect()
}

/// Pauses a trigger, or lets it go on.
pub(super) async fn pause(connection: &mut PgConnection, binding_id: i64, pause: Option<&Pause>) -> Outcome<()> {
    let (since, note): (Option<DateTime<Utc>>, _) = pause.map(|pause| (pause.since, column::text(&pause.note))).unzip();
    sqlx::query("UPDATE bindings SET paused_at = $2, paused_note = $3 WHERE binding_id = $1")
        .bind(binding_id)
        .bind(since)
        .bind(note)
        .execute(connection)
        .await?;
    Ok(())
}

/// Every paused trigger.
pub(super) async fn paused(connection: &mut PgConnection) -> Outcome<Vec<(Binding, Pause)>> {
    let rows = sqlx::query(
        "SELECT namespace, function_name, trigger_id, trigger_type, paused_at, paused_note FROM bindings
         WHERE paused_at IS NOT NULL ORDER BY namespace, function_name, trigger_id",
    )
    .fetch_all(connection)
    .await?;
    let mut paused = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(pause) = ledger::pause(row, 4)? {
            paused.push((column::binding(row, 0)?, pause));
        }
    }
    Ok(paused)
}

/// How many rows wait.
pub(super) async fn depths(connection: &mut PgConnection) -> Outcome<Depths> {
    let row = sqlx::query(
        "SELECT count(*) - count(claim_token), count(claim_token),
            (SELECT count(*) FROM dead_letters WHERE redriven_at IS NULL), (SELECT count(*) FROM outbox)
         FROM queue",
    )
    .fetch_one(connection)
    .await?;
    Ok(Depths {
        queued: column::count(&row, 0)?,
        running: column::count(&row, 1)?,
        dead: column::count(&row, 2)?,
        outbox: column::count(&row, 3)?,
    })
}
