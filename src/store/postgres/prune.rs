//! Forgets what is old or too much, a bounded step at a time, so that nobody waits long behind it. One engine at a
//! time: two that counted the same rows would both remove what is too much.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

use super::error::Outcome;
use super::{column, kv, ledger};
use crate::store::{Pruned, Retention};

/// Rows of one table in one step.
pub(super) const STEP: u64 = 1000;

/// Whose turn it is.
const TURN: &str =
    "SELECT pg_try_advisory_xact_lock(hashtextextended('tripline retention of ' || current_schema(), 0))";

const RESULTS: &str = "DELETE FROM results WHERE invocation_id IN (
    SELECT invocation_id FROM results WHERE keep_until < $1 ORDER BY keep_until LIMIT $2 FOR UPDATE SKIP LOCKED)";

const TRACES: &str = "DELETE FROM traces WHERE sequence IN (
    SELECT sequence FROM traces WHERE started_at < $1 ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const FIRES: &str = "DELETE FROM fires WHERE (binding_id, scheduled_at, manual) IN (
    SELECT binding_id, scheduled_at, manual FROM fires WHERE fired_at < $1 ORDER BY fired_at LIMIT $2
    FOR UPDATE SKIP LOCKED)";

/// Unique keys that nobody holds any more. A key that is being given to somebody at this moment is passed by.
const UNHELD: &str = "DELETE FROM unique_keys WHERE (binding_id, unique_key) IN (
    SELECT binding_id, unique_key FROM unique_keys u
    WHERE CASE scope WHEN 'period' THEN held_until <= $1
        ELSE NOT EXISTS (SELECT FROM queue q WHERE q.invocation_id = u.invocation_id) END
    LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Trace rows beyond the newest `$1`. Their numbers grow with every row, so their span is at least the count, and
/// nothing has to be counted.
const TRACES_EXCESS: &str = "DELETE FROM traces WHERE sequence IN (
    SELECT sequence FROM traces WHERE sequence <= (SELECT max(sequence) FROM traces) - $1 ORDER BY sequence LIMIT $2
    FOR UPDATE SKIP LOCKED)";

const KEYS: &str = "DELETE FROM accepted_keys WHERE (binding_id, idempotency_key) IN (
    SELECT binding_id, idempotency_key FROM accepted_keys
    WHERE accepted_at < $1 ORDER BY accepted_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const ATTEMPTS: &str = "DELETE FROM remembered_attempts WHERE (invocation_id, number) IN (
    SELECT invocation_id, number FROM remembered_attempts
    WHERE remembered_at < $1 ORDER BY remembered_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const DEAD_LETTERS: &str = "WITH gone AS (
        DELETE FROM dead_letters WHERE invocation_id IN (
            SELECT invocation_id FROM dead_letters WHERE died_at < $1 ORDER BY died_at, invocation_id LIMIT $2
            FOR UPDATE SKIP LOCKED)
        RETURNING invocation_id
    ), unparked AS (DELETE FROM parked WHERE invocation_id IN (SELECT invocation_id FROM gone))
    SELECT count(*) FROM gone";

/// The oldest of those beyond `$1`.
const DEAD_LETTERS_EXCESS: &str = "WITH gone AS (
        DELETE FROM dead_letters WHERE invocation_id IN (
            SELECT invocation_id FROM dead_letters ORDER BY died_at, invocation_id
            LIMIT least($2, greatest(0, (SELECT count(*) FROM dead_letters) - $1)) FOR UPDATE SKIP LOCKED)
        RETURNING invocation_id
    ), unparked AS (DELETE FROM parked WHERE invocation_id IN (SELECT invocation_id FROM gone))
    SELECT count(*) FROM gone";

/// One step; nothing where another engine is at it.
pub(super) async fn step(connection: &mut PgConnection, retention: &Retention, now: DateTime<Utc>) -> Outcome<Pruned> {
    let mut transaction = connection.begin().await?;
    let ours: bool = sqlx::query_scalar(TURN).fetch_one(&mut *transaction).await?;
    if !ours {
        return Ok(Pruned::default());
    }
    let mut pruned = Pruned::default();
    let moments = [
        (RESULTS, retention.results_before, &mut pruned.results),
        (TRACES, retention.traces_before, &mut pruned.traces),
        (KEYS, retention.keys_before, &mut pruned.keys),
        (ATTEMPTS, retention.keys_before, &mut pruned.attempts),
        (FIRES, retention.fires_before, &mut pruned.fires),
    ];
    for (sql, before, removed) in moments {
        let deleted = sqlx::query(sql).bind(before).bind(column::signed(STEP)).execute(&mut *transaction).await?;
        *removed = deleted.rows_affected();
    }
    let deleted = sqlx::query(TRACES_EXCESS)
        .bind(column::signed(retention.traces_max_rows))
        .bind(column::signed(STEP.saturating_sub(pruned.traces)))
        .execute(&mut *transaction)
        .await?;
    pruned.traces += deleted.rows_affected();
    let old = sqlx::query(DEAD_LETTERS).bind(retention.dead_letters_before).bind(column::signed(STEP));
    pruned.dead_letters_old = column::count(&old.fetch_one(&mut *transaction).await?, 0)?;
    let excess = sqlx::query(DEAD_LETTERS_EXCESS)
        .bind(column::signed(retention.dead_letters_max_rows))
        .bind(column::signed(STEP.saturating_sub(pruned.dead_letters_old)));
    pruned.dead_letters_excess = column::count(&excess.fetch_one(&mut *transaction).await?, 0)?;
    let unheld = sqlx::query(UNHELD).bind(now).bind(column::signed(STEP)).execute(&mut *transaction).await?;
    pruned.kv = kv::remove_expired(&mut transaction, None, now, STEP).await?;
    let folded = ledger::fold(&mut transaction, STEP).await?;
    transaction.commit().await?;
    let dead_letters = pruned.dead_letters_old + pruned.dead_letters_excess;
    let (unheld, fires) = (unheld.rows_affected(), pruned.fires);
    let Pruned { results, traces, keys, attempts, kv, .. } = pruned;
    let removed = [results, traces, keys, attempts, fires, unheld, folded, kv, dead_letters];
    pruned.more = removed.into_iter().any(|removed| removed >= STEP);
    Ok(pruned)
}
