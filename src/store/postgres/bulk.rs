//! Dead letters by the many: what a selector means, how many it selects, which come next, what becomes of them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::column;
use super::error::Outcome;
use crate::store::{DeadLetterPosition, DeadLetterSelector, MAX_PAGE, RedriveState, SelectedDeadLetter};

/// Adds what a selector means: only what is asked for, so that each question finds its index.
pub(super) fn push_conditions(select: &mut QueryBuilder<Postgres>, selector: &DeadLetterSelector) {
    select.push(if selector.include_redriven { "true" } else { "redriven_at IS NULL" });
    let texts = [
        (" AND namespace = ", selector.namespace.as_deref()),
        (" AND function_name = ", selector.function_name.as_deref()),
        (" AND trigger_id = ", selector.trigger_id.as_deref()),
        (" AND reason = ", selector.reason.map(|reason| reason.as_str())),
    ];
    for (sql, text) in texts {
        if let Some(text) = text {
            select.push(sql).push_bind(column::text(text).into_owned());
        }
    }
    if let Some(version) = selector.version {
        select.push(" AND version = ").push_bind(i64::from(version));
    }
    for (sql, moment) in [(" AND died_at >= ", selector.died_after), (" AND died_at < ", selector.died_before)] {
        if let Some(moment) = moment {
            select.push(sql).push_bind(moment);
        }
    }
    if let Some(text) = selector.folded_text() {
        let text = column::text(&text).into_owned();
        // The collation says that only ASCII letters have two cases.
        select.push(" AND (position(").push_bind(text.clone()).push(" IN lower(subject COLLATE \"C\")) > 0");
        select.push(" OR position(").push_bind(text).push(" IN lower(failure_message(failure) COLLATE \"C\")) > 0)");
    }
    if !selector.ids.is_empty() {
        select.push(" AND invocation_id = ANY (").push_bind(selector.ids.clone()).push(")");
    }
}

/// How many are selected.
pub(super) async fn count(connection: &mut PgConnection, selector: &DeadLetterSelector) -> Outcome<u64> {
    let mut select = QueryBuilder::new("SELECT count(*) FROM dead_letters WHERE ");
    push_conditions(&mut select, selector);
    column::count(&select.build().fetch_one(connection).await?, 0)
}

/// Those that are selected, the oldest first, behind a place in that order.
pub(super) async fn select(
    connection: &mut PgConnection,
    selector: &DeadLetterSelector,
    behind: Option<DeadLetterPosition>,
    limit: u32,
) -> Outcome<Vec<SelectedDeadLetter>> {
    let mut select =
        QueryBuilder::new("SELECT died_at, invocation_id, namespace, function_name FROM dead_letters WHERE ");
    push_conditions(&mut select, selector);
    if let Some(behind) = behind {
        select.push(" AND (died_at, invocation_id) > (").push_bind(behind.died_at);
        select.push(", ").push_bind(behind.invocation_id).push(")");
    }
    select.push(" ORDER BY died_at, invocation_id LIMIT ").push_bind(i64::from(limit.min(MAX_PAGE)));
    let rows = select.build().fetch_all(connection).await?;
    let selected = rows.iter().map(|row| {
        let position = DeadLetterPosition { died_at: column::moment(row, 0)?, invocation_id: row.try_get(1)? };
        Ok(SelectedDeadLetter { position, namespace: row.try_get(2)?, function_name: row.try_get(3)? })
    });
    selected.collect()
}

/// How redriven events stand.
pub(super) async fn states(connection: &mut PgConnection, ids: &[Uuid]) -> Outcome<Vec<RedriveState>> {
    let rows: Vec<(Uuid, bool, bool)> = sqlx::query_as(
        "SELECT invocation_id, redriven_at IS NULL,
            EXISTS (SELECT FROM queue WHERE queue.invocation_id = dead_letters.invocation_id)
         FROM dead_letters WHERE invocation_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let found: HashMap<Uuid, (bool, bool)> = rows.into_iter().map(|(id, dead, queued)| (id, (dead, queued))).collect();
    let state = |id: &Uuid| match found.get(id) {
        None => RedriveState::Unknown,
        Some((_, true)) => RedriveState::Queued,
        Some((true, false)) => RedriveState::Dead,
        Some((false, false)) => RedriveState::Ended,
    };
    Ok(ids.iter().map(state).collect())
}

/// Forgets dead letters that still are where they were, and what was unreadable of them.
pub(super) async fn purge(
    connection: &mut PgConnection,
    positions: &[DeadLetterPosition],
    include_redriven: bool,
) -> Outcome<u64> {
    let purged: i64 = sqlx::query_scalar(
        "WITH named AS (
            SELECT d.invocation_id FROM dead_letters d
            JOIN unnest($1::uuid[], $2::timestamptz[]) AS position (invocation_id, died_at)
                ON d.invocation_id = position.invocation_id AND d.died_at = position.died_at
            WHERE $3 OR d.redriven_at IS NULL
            ORDER BY d.invocation_id FOR UPDATE OF d
         ), gone AS (
            DELETE FROM dead_letters WHERE invocation_id IN (SELECT invocation_id FROM named) RETURNING invocation_id
         ), unparked AS (
            DELETE FROM parked WHERE invocation_id IN (SELECT invocation_id FROM gone)
         )
         SELECT count(*) FROM gone",
    )
    .bind(positions.iter().map(|position| position.invocation_id).collect::<Vec<Uuid>>())
    .bind(positions.iter().map(|position| position.died_at).collect::<Vec<DateTime<Utc>>>())
    .bind(include_redriven)
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(purged).unwrap_or_default())
}
