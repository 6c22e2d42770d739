//! Forgets what is old or too much, a bounded step at a time, so that nobody waits long behind it.

use sqlx::PgConnection;

use super::column;
use super::error::Outcome;
use crate::store::Retention;

/// Rows of one table in one step.
const STEP: u64 = 1000;

/// Rows older than a moment, oldest first. Several engines prune: they pass by what another one is removing.
const OLD: [&str; 4] = [
    "DELETE FROM results WHERE invocation_id IN (
        SELECT invocation_id FROM results WHERE finished_at < $1 ORDER BY finished_at LIMIT $2
        FOR UPDATE SKIP LOCKED)",
    "DELETE FROM traces WHERE sequence IN (
        SELECT sequence FROM traces WHERE started_at < $1 ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM accepted_keys WHERE (namespace, function_name, trigger_id, idempotency_key) IN (
        SELECT namespace, function_name, trigger_id, idempotency_key FROM accepted_keys
        WHERE accepted_at < $1 ORDER BY accepted_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM remembered_attempts WHERE (invocation_id, number) IN (
        SELECT invocation_id, number FROM remembered_attempts
        WHERE remembered_at < $1 ORDER BY remembered_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
];

/// Trace rows beyond the newest `$1`. Their numbers grow with every row, so their span is at least the count, and
/// nothing has to be counted.
const TOO_MANY: &str = "DELETE FROM traces WHERE sequence IN (
    SELECT sequence FROM traces WHERE sequence <= (SELECT max(sequence) FROM traces) - $1 ORDER BY sequence LIMIT $2
    FOR UPDATE SKIP LOCKED)";

/// One step. `true` if there may be more to do.
pub(super) async fn step(connection: &mut PgConnection, retention: &Retention) -> Outcome<bool> {
    let moments = [retention.results_before, retention.traces_before, retention.keys_before, retention.keys_before];
    let mut removed = [0; OLD.len()];
    for ((sql, before), removed) in OLD.into_iter().zip(moments).zip(&mut removed) {
        let deleted = sqlx::query(sql).bind(before).bind(column::signed(STEP)).execute(&mut *connection).await?;
        *removed = deleted.rows_affected();
    }
    let left = STEP.saturating_sub(removed[1]);
    let deleted = sqlx::query(TOO_MANY)
        .bind(column::signed(retention.traces_max_rows))
        .bind(column::signed(left))
        .execute(connection)
        .await?;
    removed[1] += deleted.rows_affected();
    Ok(removed.into_iter().any(|removed| removed >= STEP))
}
