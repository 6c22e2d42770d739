//! The ledger: what a transaction counts is written once, before it is committed.
//!
//! An operation of the queue costs microseconds, and a statement for each of its counts would be a third of that. So
//! operations add to a list that belongs to the writer's thread, and the transaction writes the sums: a handful of rows
//! for hundreds of operations. A transaction that is rolled back takes its list with it.

use std::cell::RefCell;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use super::column;
use crate::store::{LedgerCount, LedgerRow, Pause, Result};

/// A count that is not written yet: binding, outcome, reason.
type Count = ((i64, &'static str, &'static str), i64);

thread_local! {
    static COUNTS: RefCell<Vec<Count>> = const { RefCell::new(Vec::new()) };
}

/// Counts in the transaction under way. `accepted` is an outcome here; a negative count takes back.
pub(super) fn add(binding_id: i64, outcome: &'static str, reason: &'static str, count: i64) {
    COUNTS.with_borrow_mut(|counts| {
        let key = (binding_id, outcome, reason);
        match counts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += count,
            None => counts.push((key, count)),
        }
    });
}

/// A transaction begins: what another one left behind was rolled back.
pub(super) fn begin() {
    COUNTS.with_borrow_mut(Vec::clear);
}

/// Writes what the transaction counted.
pub(super) fn write(connection: &Connection) -> Result<()> {
    let counts = COUNTS.take();
    if counts.is_empty() {
        return Ok(());
    }
    let mut upsert = connection.prepare_cached(
        "INSERT INTO ledger (binding_id, outcome, reason, count) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET count = count + excluded.count",
    )?;
    for ((binding_id, outcome, reason), count) in counts {
        upsert.execute(params![binding_id, outcome, reason, count])?;
    }
    Ok(())
}

/// How many events of a trigger are queued or running, with what the transaction has done so far.
pub(super) fn live(connection: &Connection, binding_id: i64) -> Result<u64> {
    let mut select = connection.prepare_cached(
        "SELECT coalesce(sum(CASE outcome WHEN 'accepted' THEN count ELSE -count END), 0)
         FROM ledger WHERE binding_id = ?1",
    )?;
    let written: i64 = select.query_row([binding_id], |row| row.get(0))?;
    let pending: i64 = COUNTS.with_borrow(|counts| {
        let of_this = counts.iter().filter(|((binding, _, _), _)| *binding == binding_id);
        of_this.map(|((_, outcome, _), count)| if *outcome == "accepted" { *count } else { -count }).sum()
    });
    Ok(u64::try_from(written + pending).unwrap_or(0))
}

/// What the writer alone knows of a trigger's rows.
#[derive(Clone, Copy, Default)]
pub(super) struct Claimed {
    running: u64,
    oldest_due: Option<DateTime<Utc>>,
}

/// How many rows of each trigger are claimed, and since when the first of the others is due.
pub(super) fn claimed(connection: &Connection) -> Result<HashMap<i64, Claimed>> {
    let mut of: HashMap<i64, Claimed> = HashMap::new();
    let mut select = connection.prepare_cached("SELECT binding_id, count(*) FROM claims GROUP BY binding_id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        of.insert(row.get(0)?, Claimed { running: column::count(row, 1)?, oldest_due: None });
    }
    let mut select = connection.prepare_cached(
        "SELECT b.binding_id, (
            SELECT run_at FROM queue q WHERE q.binding_id = b.binding_id AND q.state = 1
                AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.invocation_id = q.invocation_id)
            ORDER BY rank LIMIT 1
         ) AS due FROM bindings b WHERE due IS NOT NULL",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        of.entry(row.get(0)?).or_default().oldest_due = column::optional_moment(row, 1)?;
    }
    Ok(of)
}

/// Every trigger's counts, and what is in the queue: one snapshot.
pub(super) fn read(connection: &Connection, claimed: &HashMap<i64, Claimed>) -> Result<Vec<LedgerRow>> {
    // In memory the writer reads too, in the middle of a transaction perhaps.
    write(connection)?;
    let mut select = connection.prepare_cached(
        "WITH live AS MATERIALIZED (SELECT binding_id, count(*) AS rows FROM queue GROUP BY binding_id),
            counted AS MATERIALIZED (
                SELECT binding_id, json_group_array(json_array(outcome, reason, count)) AS counts
                FROM ledger WHERE count <> 0 GROUP BY binding_id
            )
         SELECT b.binding_id, b.namespace, b.function_name, b.trigger_id, b.trigger_type, b.paused_at, b.paused_note,
            coalesce(live.rows, 0), coalesce(counted.counts, '[]')
         FROM bindings b LEFT JOIN live USING (binding_id) LEFT JOIN counted USING (binding_id)
         ORDER BY b.namespace, b.function_name, b.trigger_id",
    )?;
    let mut rows = select.query([])?;
    let mut ledger = Vec::new();
    while let Some(row) = rows.next()? {
        let of_this = claimed.get(&row.get(0)?).copied().unwrap_or_default();
        let live = column::count(row, 7)?;
        let running = of_this.running.min(live);
        let mut line = LedgerRow {
            binding: column::binding(row, 1)?,
            accepted: 0,
            queued: live - running,
            running,
            ended: Vec::new(),
            paused: pause(row, 5)?,
            oldest_due: of_this.oldest_due,
        };
        let counts: String = row.get(8)?;
        let counts: Vec<(String, String, u64)> = column::json(&counts, || "a row of the ledger".to_owned())?;
        for (outcome, reason, count) in counts {
            match outcome.as_str() {
                "accepted" => line.accepted = count,
                _ => line.ended.push(LedgerCount { outcome, reason, count }),
            }
        }
        ledger.push(line);
    }
    Ok(ledger)
}

/// The pause in two columns from `first`.
pub(super) fn pause(row: &rusqlite::Row<'_>, first: usize) -> Result<Option<Pause>> {
    let Some(since) = column::optional_moment(row, first)? else { return Ok(None) };
    Ok(Some(Pause { since, note: row.get::<_, Option<String>>(first + 1)?.unwrap_or_default() }))
}
