//! Dead letters by the many: what a selector means, how many it selects, which come next, what becomes of them.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, ParamsFromIter, params, params_from_iter};
use trigger_core::DeadReason;
use uuid::Uuid;

use super::column;
use crate::store::{DeadLetterPosition, DeadLetterSelector, MAX_PAGE, RedriveState, Result, SelectedDeadLetter};

/// A selector as SQL: only what is asked for, so that each question finds its index. Values stand in the order of
/// their question marks.
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

/// What text is looked for in. A failure whose JSON is damaged has no message.
const TEXTS: &str = "(instr(lower(subject), ?) > 0
    OR instr(lower(CASE WHEN json_valid(failure) THEN failure ->> '$.message' END), ?) > 0)";

impl Conditions {
    pub(super) fn of(selector: &DeadLetterSelector) -> Self {
        let mut conditions = Self { sql: "1".to_owned(), values: Vec::new() };
        if !selector.include_redriven {
            conditions.and("redriven_at IS NULL", []);
        }
        let texts = [
            ("namespace = ?", selector.namespace.clone()),
            ("function_name = ?", selector.function_name.clone()),
            ("trigger_id = ?", selector.trigger_id.clone()),
            ("reason = ?", selector.reason.map(DeadReason::as_str).map(str::to_owned)),
        ];
        for (sql, text) in texts {
            if let Some(text) = text {
                conditions.and(sql, [Value::Text(text)]);
            }
        }
        if let Some(version) = selector.version {
            conditions.and("version = ?", [Value::Integer(version.into())]);
        }
        for (sql, moment) in [("died_at >= ?", selector.died_after), ("died_at < ?", selector.died_before)] {
            if let Some(moment) = moment {
                conditions.and(sql, [Value::Integer(column::micros(moment))]);
            }
        }
        if let Some(text) = selector.folded_text() {
            conditions.and(TEXTS, [Value::Text(text.clone()), Value::Text(text)]);
        }
        if !selector.ids.is_empty() {
            let marks = vec!["?"; selector.ids.len()].join(", ");
            conditions.and(&format!("invocation_id IN ({marks})"), selector.ids.iter().map(|id| blob(*id)));
        }
        conditions
    }

    fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    /// Adds a comparison with a place in the order.
    pub(super) fn beside(&mut self, sql: &str, position: DeadLetterPosition) {
        self.and(sql, [Value::Integer(column::micros(position.died_at)), blob(position.invocation_id)]);
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// The values, and behind them a limit.
    pub(super) fn values_and(mut self, limit: u32) -> ParamsFromIter<Vec<Value>> {
        self.values.push(Value::Integer(limit.into()));
        params_from_iter(self.values)
    }
}

fn blob(id: Uuid) -> Value {
    Value::Blob(id.as_bytes().to_vec())
}

/// How many are selected.
pub(super) fn count(connection: &Connection, selector: &DeadLetterSelector) -> Result<u64> {
    let conditions = Conditions::of(selector);
    let sql = format!("SELECT count(*) FROM dead_letters WHERE {}", conditions.sql);
    Ok(connection.prepare_cached(&sql)?.query_row(params_from_iter(conditions.values), |row| column::count(row, 0))?)
}

/// Those that are selected, the oldest first, behind a place in that order.
pub(super) fn select(
    connection: &Connection,
    selector: &DeadLetterSelector,
    behind: Option<DeadLetterPosition>,
    limit: u32,
) -> Result<Vec<SelectedDeadLetter>> {
    let mut conditions = Conditions::of(selector);
    if let Some(behind) = behind {
        conditions.beside("(died_at, invocation_id) > (?, ?)", behind);
    }
    let sql = format!(
        "SELECT died_at, invocation_id, namespace, function_name FROM dead_letters WHERE {}
         ORDER BY died_at, invocation_id LIMIT ?",
        conditions.sql()
    );
    let mut select = connection.prepare_cached(&sql)?;
    let rows = select.query_map(conditions.values_and(limit.min(MAX_PAGE)), |row| {
        let position = DeadLetterPosition { died_at: column::moment(row, 0)?, invocation_id: column::id(row, 1)? };
        Ok(SelectedDeadLetter { position, namespace: row.get(2)?, function_name: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How redriven events stand.
pub(super) fn states(connection: &Connection, ids: &[Uuid]) -> Result<Vec<RedriveState>> {
    let mut select = connection.prepare_cached(
        "SELECT redriven_at IS NULL, EXISTS (SELECT 1 FROM queue WHERE queue.invocation_id = dead_letters.invocation_id)
         FROM dead_letters WHERE invocation_id = ?1",
    )?;
    let mut states = Vec::with_capacity(ids.len());
    for id in ids {
        let found: Option<(bool, bool)> =
            select.query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        states.push(match found {
            None => RedriveState::Unknown,
            Some((_, true)) => RedriveState::Queued,
            Some((true, false)) => RedriveState::Dead,
            Some((false, false)) => RedriveState::Ended,
        });
    }
    Ok(states)
}

/// Forgets dead letters that still are where they were, and what was unreadable of them.
pub(super) fn purge(connection: &Connection, positions: &[DeadLetterPosition], include_redriven: bool) -> Result<u64> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM dead_letters WHERE invocation_id = ?1 AND died_at = ?2 AND (?3 OR redriven_at IS NULL)",
    )?;
    let mut unpark = connection.prepare_cached("DELETE FROM parked WHERE invocation_id = ?1")?;
    let mut purged = 0;
    for position in positions {
        let (id, died_at) = (position.invocation_id.as_bytes(), column::micros(position.died_at));
        if delete.execute(params![id, died_at, include_redriven])? > 0 {
            unpark.execute([id])?;
            purged += 1;
        }
    }
    Ok(purged)
}

/// Whether there are more dead letters than this. Reads no further than that.
pub(super) fn more_than(connection: &Connection, rows: u64) -> Result<bool> {
    let mut select = connection.prepare_cached("SELECT 1 FROM dead_letters ORDER BY died_at LIMIT 1 OFFSET ?1")?;
    Ok(select.exists([column::signed(rows)])?)
}
