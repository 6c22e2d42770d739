//! Forgets what is old or too much, a bounded step at a time, so that nobody waits long behind it.
//!
//! The file does not shrink: its free pages are used again, so that it is as large as it once had to be. Keeping track
//! of pages so that it could shrink (`auto_vacuum`) makes a row's way through the queue 7 % dearer, measured.

use rusqlite::{Connection, params};

use super::{column, kv};
use crate::store::{Pruned, Result, Retention};

/// Rows of one table in one step.
pub(super) const STEP: usize = 1000;

const RESULTS: &str = "DELETE FROM results WHERE rowid IN (
    SELECT rowid FROM results WHERE keep_until < ?1 ORDER BY keep_until LIMIT ?2)";

const TRACES: &str = "DELETE FROM traces WHERE rowid IN (
    SELECT rowid FROM traces WHERE started_at < ?1 ORDER BY started_at LIMIT ?2)";

const FIRES: &str = "DELETE FROM fires WHERE (binding_id, scheduled_at, manual) IN (
    SELECT binding_id, scheduled_at, manual FROM fires WHERE fired_at < ?1 ORDER BY fired_at LIMIT ?2)";

/// Unique keys that nobody holds any more.
const UNHELD: &str = "DELETE FROM unique_keys WHERE (binding_id, unique_key) IN (
    SELECT binding_id, unique_key FROM unique_keys u
    WHERE CASE scope WHEN 'period' THEN held_until <= ?1
        ELSE NOT EXISTS (SELECT 1 FROM queue q WHERE q.invocation_id = u.invocation_id) END
    LIMIT ?2)";

/// Trace rows beyond the newest `?1`. Row numbers grow with every row, so their span is at least the count, and
/// nothing has to be counted.
const TRACES_EXCESS: &str = "DELETE FROM traces WHERE rowid IN (
    SELECT rowid FROM traces WHERE rowid <= (SELECT max(rowid) FROM traces) - ?1 ORDER BY rowid LIMIT ?2)";

const KEYS: &str = "DELETE FROM accepted_keys WHERE (binding_id, idempotency_key) IN (
    SELECT binding_id, idempotency_key FROM accepted_keys
    WHERE accepted_at < ?1 ORDER BY accepted_at LIMIT ?2)";

const ATTEMPTS: &str = "DELETE FROM remembered_attempts WHERE (invocation_id, number) IN (
    SELECT invocation_id, number FROM remembered_attempts
    WHERE remembered_at < ?1 ORDER BY remembered_at LIMIT ?2)";

const DEAD_LETTERS: &str = "DELETE FROM dead_letters WHERE invocation_id IN (
    SELECT invocation_id FROM dead_letters WHERE died_at < ?1 ORDER BY died_at, invocation_id LIMIT ?2)";

/// The oldest of those beyond `?1`. Counted here, so that nothing goes that another purge has made room for.
const DEAD_LETTERS_EXCESS: &str = "DELETE FROM dead_letters WHERE invocation_id IN (
    SELECT invocation_id FROM dead_letters ORDER BY died_at, invocation_id
    LIMIT min(?2, max(0, (SELECT count(*) FROM dead_letters) - ?1)))";

/// What was unreadable of dead letters that are gone.
const PARKED: &str = "DELETE FROM parked WHERE NOT EXISTS (
    SELECT 1 FROM dead_letters WHERE dead_letters.invocation_id = parked.invocation_id)";

/// One step. `crowded` says that there are more dead letters than may be.
pub(super) fn step(connection: &Connection, retention: &Retention, crowded: bool, now: i64) -> Result<Pruned> {
    let delete = |sql: &str, bound: i64, limit: usize| -> Result<usize> {
        Ok(connection.prepare_cached(sql)?.execute(params![bound, limit as i64])?)
    };
    let results = delete(RESULTS, column::micros(retention.results_before), STEP)?;
    let mut traces = delete(TRACES, column::micros(retention.traces_before), STEP)?;
    traces += delete(TRACES_EXCESS, column::signed(retention.traces_max_rows), STEP.saturating_sub(traces))?;
    let keys = delete(KEYS, column::micros(retention.keys_before), STEP)?;
    let attempts = delete(ATTEMPTS, column::micros(retention.keys_before), STEP)?;
    let fires = delete(FIRES, column::micros(retention.fires_before), STEP)?;
    let unheld = delete(UNHELD, now, STEP)?;
    let kv = kv::remove_expired(connection, None, now, STEP)?;
    let old = delete(DEAD_LETTERS, column::micros(retention.dead_letters_before), STEP)?;
    let excess = match STEP.saturating_sub(old) {
        limit if crowded && limit > 0 => {
            delete(DEAD_LETTERS_EXCESS, column::signed(retention.dead_letters_max_rows), limit)?
        }
        _ => 0,
    };
    if old + excess > 0 {
        connection.prepare_cached(PARKED)?.execute([])?;
    }
    Ok(Pruned {
        results: results as u64,
        traces: traces as u64,
        keys: keys as u64,
        attempts: attempts as u64,
        fires: fires as u64,
        dead_letters_old: old as u64,
        dead_letters_excess: excess as u64,
        kv: kv as u64,
        more: [results, traces, keys, attempts, fires, unheld, kv, old + excess]
            .into_iter()
            .any(|removed| removed >= STEP),
    })
}
