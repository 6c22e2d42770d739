//! The ledger: counts are written by the very statements that move events, so that it is exact at every moment.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use trigger_core::Binding;

use super::column;
use super::error::Outcome;
use crate::store::{LedgerCount, LedgerRow, Pause};

/// Counts what `$counts` selects (binding, outcome, reason, how many), with `accepted` as an outcome; a negative count
/// takes back. Rows are written in one order everywhere, so that two statements wait for each other instead of both.
macro_rules! count {
    ($counts:expr) => {
        concat!(
            "counted AS (
                INSERT INTO ledger AS l (binding_id, outcome, reason, stripe, count)
                SELECT binding_id, outcome, reason, pg_backend_pid() % 16, sum(count)::bigint
                FROM (",
            $counts,
            ") AS c (binding_id, outcome, reason, count)
                GROUP BY binding_id, outcome, reason HAVING sum(count) <> 0 ORDER BY binding_id, outcome, reason
                ON CONFLICT (binding_id, outcome, reason, stripe) DO UPDATE SET count = l.count + excluded.count
            )"
        )
    };
}

/// Counts that are known before the statement that writes them.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) bindings: Vec<i64>,
    pub(super) outcomes: Vec<&'static str>,
    pub(super) reasons: Vec<&'static str>,
    pub(super) counts: Vec<i64>,
}

impl Counts {
    pub(super) fn add(&mut self, binding_id: i64, outcome: &'static str, reason: &'static str, count: i64) {
        self.bindings.push(binding_id);
        self.outcomes.push(outcome);
        self.reasons.push(reason);
        self.counts.push(count);
    }

    /// An event that came and did not stay.
    pub(super) fn turned_away(&mut self, binding_id: i64, outcome: &'static str, reason: &'static str) {
        self.add(binding_id, "accepted", "", 1);
        self.add(binding_id, outcome, reason, 1);
    }
}

/// Adds counts.
pub(super) async fn add(connection: &mut PgConnection, counts: &Counts) -> Outcome<()> {
    if counts.bindings.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        "WITH ",
        count!("SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])"),
        " SELECT"
    ))
    .bind(&counts.bindings)
    .bind(&counts.outcomes)
    .bind(&counts.reasons)
    .bind(&counts.counts)
    .execute(connection)
    .await?;
    Ok(())
}

/// Every trigger's name and pause, what it has in the queue, and its counts: three kinds of rows of one statement, which
/// sees each of the others whole or not at all.
const READ: &str = "
    SELECT 1, binding_id, paused_at, NULL::bigint, NULL::bigint, paused_note, NULL, namespace, function_name,
        trigger_id, trigger_type
    FROM bindings
    UNION ALL
    SELECT 2, live.binding_id, CASE WHEN rows > running THEN (
            SELECT q.run_at FROM queue q
            WHERE q.binding_id = live.binding_id AND q.state = 1 AND q.claim_token IS NULL ORDER BY q.rank LIMIT 1
        ) END, rows, running, NULL, NULL, NULL, NULL, NULL, NULL
    FROM (
        SELECT binding_id, count(*) AS rows, count(claim_token) AS running FROM queue GROUP BY binding_id
    ) AS live
    UNION ALL
    SELECT 3, binding_id, NULL, sum(count)::bigint, NULL, outcome, reason, NULL, NULL, NULL, NULL
    FROM ledger GROUP BY binding_id, outcome, reason HAVING sum(count) <> 0
";

/// Every trigger that has anything to tell.
pub(super) async fn read(connection: &mut PgConnection) -> Outcome<Vec<LedgerRow>> {
    let mut lines: HashMap<i64, LedgerRow> = HashMap::new();
    let mut told: HashSet<i64> = HashSet::new();
    // Names come first: the kinds are in the order of the statement.
    for row in sqlx::query(READ).fetch_all(connection).await? {
        let (kind, id): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
        if kind == 1 {
            let paused = pause(&row, (2, 5))?;
            // A trigger has its number when it is deployed: one without events is not told of.
            if paused.is_some() {
                told.insert(id);
            }
            lines.insert(id, empty(column::binding(&row, 7)?, paused));
            continue;
        }
        let unnamed = || column::corrupt("the ledger", format!("the table `bindings` has no row {id}"));
        let line = lines.get_mut(&id).ok_or_else(unnamed)?;
        told.insert(id);
        if kind == 2 {
            line.oldest_due = row.try_get(2)?;
            line.running = column::count(&row, 4)?;
            line.queued = column::count(&row, 3)?.saturating_sub(line.running);
            continue;
        }
        let (outcome, reason): (String, String) = (row.try_get(5)?, row.try_get(6)?);
        let count = column::count(&row, 3)?;
        match outcome.as_str() {
            "accepted" => line.accepted = count,
            _ => line.ended.push(LedgerCount { outcome, reason, count }),
        }
    }
    let mut ledger: Vec<LedgerRow> =
        lines.into_iter().filter(|(id, _)| told.contains(id)).map(|(_, line)| line).collect();
    for line in &mut ledger {
        line.ended.sort_by(|one, other| (&one.outcome, &one.reason).cmp(&(&other.outcome, &other.reason)));
    }
    let name = |binding: &Binding| {
        (
            binding.namespace.clone(),
            binding.function_name.clone(),
            binding.trigger_id.clone(),
            binding.trigger_type.as_str(),
        )
    };
    ledger.sort_by_cached_key(|line| name(&line.binding));
    Ok(ledger)
}

fn empty(binding: Binding, paused: Option<Pause>) -> LedgerRow {
    LedgerRow { binding, accepted: 0, queued: 0, running: 0, ended: Vec::new(), paused, oldest_due: None }
}

/// The pause in two columns: since when, and why.
pub(super) fn pause(row: &PgRow, (since, note): (usize, usize)) -> Outcome<Option<Pause>> {
    let Some(since) = row.try_get(since)? else { return Ok(None) };
    Ok(Some(Pause { since, note: row.try_get::<Option<String>, _>(note)?.unwrap_or_default() }))
}

/// Takes counts of other transactions into those of engines: at most `limit` rows. Answers how many.
pub(super) async fn fold(connection: &mut PgConnection, limit: u64) -> Outcome<u64> {
    let folded: i64 = sqlx::query_scalar(concat!(
        "WITH gone AS (
            DELETE FROM ledger WHERE (binding_id, outcome, reason, stripe) IN (
                SELECT binding_id, outcome, reason, stripe FROM ledger WHERE stripe >= 16
                ORDER BY binding_id, outcome, reason, stripe LIMIT $1 FOR UPDATE SKIP LOCKED
            ) RETURNING binding_id, outcome, reason, count
         ), ",
        count!("SELECT * FROM gone"),
        " SELECT count(*) FROM gone"
    ))
    .bind(column::signed(limit))
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(folded).unwrap_or(0))
}
