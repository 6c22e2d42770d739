//! Trace rows: filtered by columns, kept as JSON.

use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::column;
use super::error::Outcome;
use crate::store::stored::json_error;
use crate::store::{MAX_PAGE, TraceFilter};
use crate::traces::TraceRow;

/// Adds rows.
pub(super) async fn insert(connection: &mut PgConnection, rows: &[TraceRow]) -> Outcome<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO traces (invocation_id, function_name, outcome, started_at, trace)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])",
    )
    .bind(rows.iter().map(|row| row.invocation_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.binding.function_name).collect::<Vec<&str>>())
    .bind(rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<&str>>())
    .bind(rows.iter().map(|row| row.started_at).collect::<Vec<_>>())
    .bind(rows.iter().map(column::to_json).collect::<Vec<String>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of rows, newest first.
pub(super) async fn list(connection: &mut PgConnection, filter: &TraceFilter) -> Outcome<Vec<TraceRow>> {
    // Only the conditions that are asked for, so that each question finds its index.
    let mut select: QueryBuilder<Postgres> = QueryBuilder::new("SELECT trace, invocation_id FROM traces WHERE true");
    if let Some(function_name) = &filter.function_name {
        select.push(" AND function_name = ").push_bind(column::text(function_name).into_owned());
    }
    if let Some(invocation_id) = filter.invocation_id {
        select.push(" AND invocation_id = ").push_bind(invocation_id);
    }
    if let Some(outcome) = &filter.outcome {
        select.push(" AND outcome = ").push_bind(column::text(outcome).into_owned());
    }
    match (filter.before, filter.before_id) {
        (Some(before), Some(before_id)) => {
            select.push(" AND (started_at, invocation_id) < (").push_bind(before);
            select.push(", ").push_bind(before_id).push(")");
        }
        (Some(before), None) => {
            select.push(" AND started_at < ").push_bind(before);
        }
        (None, _) => {}
    }
    select.push(" ORDER BY started_at DESC, invocation_id DESC, sequence DESC LIMIT ");
    select.push_bind(i64::from(filter.limit.min(MAX_PAGE)));
    let rows: Vec<(String, Uuid)> = select.build_query_as().fetch_all(connection).await?;
    let mut page = Vec::with_capacity(rows.len());
    for (trace, id) in rows {
        match serde_json::from_str(&trace) {
            Ok(trace) => page.push(trace),
            Err(error) => {
                let error = json_error(&error);
                tracing::warn!(invocation_id = %id, "a trace row cannot be read and is left out: {error}");
            }
        }
    }
    Ok(page)
}
