//! The ledger: counts are written by the very statements that move events, so that it is exact at every moment.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

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

/// Every trigger's counts, and what is in the queue: one statement, which sees each of the others whole or not at all.
pub(super) async fn read(connection: &mut PgConnection) -> Outcome<Vec<LedgerRow>> {
    let rows = sqlx::query(
        "WITH live AS MATERIALIZED (
            SELECT binding_id, count(*) AS rows, count(claim_token) AS running FROM queue GROUP BY binding_id
         ), counted AS MATERIALIZED (
            SELECT binding_id, array_agg(outcome) AS outcomes, array_agg(reason) AS reasons, array_agg(count) AS counts
            FROM (
                SELECT binding_id, outcome, reason, sum(count)::bigint AS count FROM ledger
                GROUP BY binding_id, outcome, reason HAVING sum(count) <> 0 ORDER BY binding_id, outcome, reason
            ) AS sums GROUP BY binding_id
         )
         SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, b.paused_at, b.paused_note,
            coalesce(live.rows - live.running, 0), coalesce(live.running, 0),
            coalesce(counted.outcomes, '{}'), coalesce(counted.reasons, '{}'), coalesce(counted.counts, '{}'),
            CASE WHEN live.rows > live.running THEN (
                SELECT q.run_at FROM queue q
                WHERE q.binding_id = b.binding_id AND q.state = 1 AND q.claim_token IS NULL ORDER BY q.rank LIMIT 1
            ) END
         FROM bindings b LEFT JOIN live USING (binding_id) LEFT JOIN counted USING (binding_id)
         -- A trigger has its number when it is deployed: one without events is not told of.
         WHERE live.rows IS NOT NULL OR counted.counts IS NOT NULL OR b.paused_at IS NOT NULL
         ORDER BY b.namespace, b.function_name, b.trigger_id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_row).collect()
}

fn read_row(row: &PgRow) -> Outcome<LedgerRow> {
    let (outcomes, reasons): (Vec<String>, Vec<String>) = (row.try_get(8)?, row.try_get(9)?);
    let counts: Vec<i64> = row.try_get(10)?;
    let mut line = LedgerRow {
        binding: column::binding(row, 0)?,
        accepted: 0,
        queued: column::count(row, 6)?,
        running: column::count(row, 7)?,
        ended: Vec::new(),
        paused: pause(row, 4)?,
        oldest_due: row.try_get(11)?,
    };
    for ((outcome, reason), count) in outcomes.into_iter().zip(reasons).zip(counts) {
        let count = u64::try_from(count).map_err(|_| {
            column::corrupt(format!("the ledger of {}", line.binding.path()), format!("{outcome}: {count}"))
        })?;
        match outcome.as_str() {
            "accepted" => line.accepted = count,
            _ => line.ended.push(LedgerCount { outcome, reason, count }),
        }
    }
    Ok(line)
}

/// The pause in two columns from `first`.
pub(super) fn pause(row: &PgRow, first: usize) -> Outcome<Option<Pause>> {
    let Some(since) = row.try_get(first)? else { return Ok(None) };
    Ok(Some(Pause { since, note: row.try_get::<Option<String>, _>(first + 1)?.unwrap_or_default() }))
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
