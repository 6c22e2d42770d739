//! Trace rows: filtered by columns, kept as JSON.

use rusqlite::{Connection, ToSql, params};
use uuid::Uuid;

use super::column;
use crate::store::stored::json_error;
use crate::store::{MAX_PAGE, Result, TraceFilter};
use crate::traces::TraceRow;

/// A trace row to be written.
pub(super) struct Row {
    invocation_id: Uuid,
    function_name: Box<str>,
    outcome: &'static str,
    started_at: i64,
    trace: String,
}

impl Row {
    pub(super) fn new(row: &TraceRow) -> Self {
        Self {
            invocation_id: row.invocation_id,
            function_name: row.binding.function_name.clone(),
            outcome: row.outcome.as_str(),
            started_at: column::micros(row.started_at),
            trace: serde_json::to_string(row).expect("a trace row has only string keys and no fallible values"),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.trace.len()
    }
}

/// Adds a row.
pub(super) fn insert(connection: &Connection, row: &Row) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO traces (invocation_id, function_name, outcome, started_at, trace)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![row.invocation_id.as_bytes(), row.function_name, row.outcome, row.started_at, row.trace])?;
    Ok(())
}

/// A page of rows, newest first.
pub(super) fn list(connection: &Connection, filter: &TraceFilter) -> Result<Vec<TraceRow>> {
    let before = filter.before.map(column::micros);
    let before_id = filter.before_id.map(Uuid::into_bytes);
    let invocation_id = filter.invocation_id.map(Uuid::into_bytes);
    let limit = filter.limit.min(MAX_PAGE);
    // Only the conditions that are asked for, so that each question finds its index.
    let mut conditions = vec!["1"];
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
    if let Some(function_name) = &filter.function_name {
        conditions.push("function_name = :function_name");
        values.push((":function_name", function_name));
    }
    if let Some(invocation_id) = &invocation_id {
        conditions.push("invocation_id = :invocation_id");
        values.push((":invocation_id", invocation_id));
    }
    if let Some(outcome) = &filter.outcome {
        conditions.push("outcome = :outcome");
        values.push((":outcome", outcome));
    }
    match (&before, &before_id) {
        (Some(before), Some(before_id)) => {
            conditions.push("(started_at, invocation_id) < (:before, :before_id)");
            values.extend([(":before", before as &dyn ToSql), (":before_id", before_id)]);
        }
        (Some(before), None) => {
            conditions.push("started_at < :before");
            values.push((":before", before));
        }
        (None, _) => {}
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT trace, invocation_id FROM traces WHERE {}
         ORDER BY started_at DESC, invocation_id DESC, rowid DESC LIMIT :limit",
        conditions.join(" AND ")
    ))?;
    let mut rows = select.query(values.as_slice())?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let id = column::id(row, 1)?;
        let trace = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        match serde_json::from_str(trace) {
            Ok(trace) => page.push(trace),
            Err(error) => {
                let error = json_error(&error);
                tracing::warn!(invocation_id = %id, "a trace row cannot be read and is left out: {error}");
            }
        }
    }
    Ok(page)
}
