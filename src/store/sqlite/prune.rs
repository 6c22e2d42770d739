//! Forgets what is old or too much, a bounded step at a time, so that nobody waits long behind it.

use rusqlite::{Connection, params};

use super::column;
use crate::store::{Result, Retention};

/// Rows of one table in one step.
pub(super) const STEP: usize = 1000;

/// Rows older than a moment, oldest first.
const OLD: [&str; 5] = [
    "DELETE FROM results WHERE rowid IN (
        SELECT rowid FROM results WHERE keep_until < ?1 ORDER BY keep_until LIMIT ?2)",
    "DELETE FROM traces WHERE rowid IN (
        SELECT rowid FROM traces WHERE started_at < ?1 ORDER BY started_at LIMIT ?2)",
    "DELETE FROM accepted_keys WHERE (binding_id, idempotency_key) IN (
        SELECT binding_id, idempotency_key FROM accepted_keys
        WHERE accepted_at < ?1 ORDER BY accepted_at LIMIT ?2)",
    "DELETE FROM remembered_attempts WHERE (invocation_id, number) IN (
        SELECT invocation_id, number FROM remembered_attempts
        WHERE remembered_at < ?1 ORDER BY remembered_at LIMIT ?2)",
    "DELETE FROM fires WHERE (binding_id, scheduled_at, manual) IN (
        SELECT binding_id, scheduled_at, manual FROM fires WHERE fired_at < ?1 ORDER BY fired_at LIMIT ?2)",
];

/// Unique keys that nobody holds any more.
const UNHELD: &str = "DELETE FROM unique_keys WHERE (binding_id, unique_key) IN (
    SELECT binding_id, unique_key FROM unique_keys u
    WHERE CASE scope WHEN 'period' THEN held_until <= ?1
        ELSE NOT EXISTS (SELECT 1 FROM queue q WHERE q.invocation_id = u.invocation_id) END
    LIMIT ?2)";

/// Trace rows beyond the newest `?1`. Row numbers grow with every row, so their span is at least the count, and
/// nothing has to be counted.
const TOO_MANY: &str = "DELETE FROM traces WHERE rowid IN (
    SELECT rowid FROM traces WHERE rowid <= (SELECT max(rowid) FROM traces) - ?1 ORDER BY rowid LIMIT ?2)";

/// One step. `true` if there may be more to do.
pub(super) fn step(connection: &Connection, retention: &Retention, now: i64) -> Result<bool> {
    let moments = [
        retention.results_before,
        retention.traces_before,
        retention.keys_before,
        retention.keys_before,
        retention.fires_before,
    ];
    let mut removed = [0; OLD.len()];
    for ((sql, before), removed) in OLD.into_iter().zip(moments).zip(&mut removed) {
        *removed = connection.prepare_cached(sql)?.execute(params![column::micros(before), STEP as i64])?;
    }
    let left = STEP - removed[1].min(STEP);
    removed[1] += connection
        .prepare_cached(TOO_MANY)?
        .execute(params![column::signed(retention.traces_max_rows), left as i64])?;
    let unheld = connection.prepare_cached(UNHELD)?.execute(params![now, STEP as i64])?;
    Ok(unheld >= STEP || removed.into_iter().any(|removed| removed >= STEP))
}
