//! Forgets what is old or too much, a bounded step at a time, so that nobody waits long behind it.

use sqlx::PgConnection;

use super::error::Outcome;
use super::{column, ledger};
use crate::store::Retention;

/// Rows of one table in one step.
const STEP: u64 = 1000;

/// Rows older than a moment, oldest first. Several engines prune: they pass by what another one is removing.
const OLD: [&str; 5] = [
    "DELETE FROM results WHERE invocation_id IN (
        SELECT invocation_id FROM results WHERE keep_until < $1 ORDER BY keep_until LIMIT $2
        FOR UPDATE SKIP LOCKED)",
    "DELETE FROM traces WHERE sequence IN (
        SELECT sequence FROM traces WHERE started_at < $1 ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM accepted_keys WHERE (binding_id, idempotency_key) IN (
        SELECT binding_id, idempotency_key FROM accepted_keys
        WHERE accepted_at < $1 ORDER BY accepted_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM remembered_attempts WHERE (invocation_id, number) IN (
        SELECT invocation_id, number FROM remembered_attempts
        WHERE remembered_at < $1 ORDER BY remembered_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM fires WHERE (binding_id, scheduled_at, manual) IN (
        SELECT binding_id, scheduled_at, manual FROM fires WHERE fired_at < $1 ORDER BY fired_at LIMIT $2
        FOR UPDATE SKIP LOCKED)",
];

/// Unique keys that nobody holds any more. A key that is being given to somebody at this moment is passed by.
const UNHELD: &str = "DELETE FROM unique_keys WHERE (binding_id, unique_key) IN (
    SELECT binding_id, unique_key FROM unique_keys u
    WHERE CASE scope WHEN 'period' THEN held_until <= $1
        ELSE NOT EXISTS (SELECT FROM queue q WHERE q.invocation_id = u.invocation_id) END
    LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Trace rows beyond the newest `$1`. Their numbers grow with every row, so their span is at least the count, and
/// nothing has to be counted.
const TOO_MANY: &str = "DELETE FROM traces WHERE sequence IN (
    SELECT sequence FROM traces WHERE sequence <= (SELECT max(sequence) FROM traces) - $1 ORDER BY sequence LIMIT $2
    FOR UPDATE SKIP LOCKED)";

/// One step. `true` if there may be more to do.
pub(super) async fn step(connection: &mut PgConnection, retention: &Retention) -> Outcome<bool> {
    let moments = [
        retention.results_before,
        retention.traces_before,
        retention.keys_before,
        retention.keys_before,
        retention.fires_before,
    ];
    let mut removed = [0; OLD.len()];
    for ((sql, before), removed) in OLD.into_iter().zip(moments).zip(&mut removed) {
        let deleted = sqlx::query(sql).bind(before).bind(column::signed(STEP)).execute(&mut *connection).await?;
        *removed = deleted.rows_affected();
    }
    let left = STEP.saturating_sub(removed[1]);
    let deleted = sqlx::query(TOO_MANY)
        .bind(column::signed(retention.traces_max_rows))
        .bind(column::signed(left))
        .execute(&mut *connection)
        .await?;
    removed[1] += deleted.rows_affected();
    let unheld = sqlx::query(UNHELD).bind(column::now()).bind(column::signed(STEP)).execute(&mut *connection).await?;
    let folded = ledger::fold(connection, STEP).await?;
    let most = removed.into_iter().chain([unheld.rows_affected(), folded]).max();
    Ok(most.is_some_and(|most| most >= STEP))
}
