//! The fires of schedules: one row for each moment, whoever sees it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use trigger_core::SkipReason;

use super::column;
use super::error::Outcome;
use crate::store::{FireFilter, FireRow, MAX_PAGE};

/// Makes the newest moment of `$moments` (binding, moment) that of its trigger, where it is newer. The trigger's row is
/// one that every engine reads, so it is written only then; rows are locked in one order everywhere.
macro_rules! newest {
    ($moments:expr) => {
        concat!(
            "newest AS (
                SELECT binding_id, max(moment) AS moment FROM (",
            $moments,
            ") AS m (binding_id, moment) GROUP BY binding_id
            ), stale AS MATERIALIZED (
                SELECT b.binding_id, newest.moment FROM bindings b JOIN newest USING (binding_id)
                WHERE b.last_scheduled_at IS NULL OR b.last_scheduled_at < newest.moment
                ORDER BY b.binding_id FOR NO KEY UPDATE OF b
            ), remembered AS (
                UPDATE bindings b SET last_scheduled_at = stale.moment FROM stale
                WHERE b.binding_id = stale.binding_id
            )"
        )
    };
}

/// Fires that were not made, by column.
#[derive(Default)]
pub(super) struct Skipped {
    pub(super) bindings: Vec<i64>,
    moments: Vec<DateTime<Utc>>,
    manual: Vec<bool>,
    until: Vec<DateTime<Utc>>,
    counts: Vec<i64>,
    reasons: Vec<&'static str>,
}

impl Skipped {
    pub(super) fn add(&mut self, binding_id: i64, scheduled_at: DateTime<Utc>, manual: bool, reason: SkipReason) {
        self.add_range(binding_id, (scheduled_at, scheduled_at), manual, 1, reason);
    }

    pub(super) fn add_range(
        &mut self,
        binding_id: i64,
        (scheduled_at, until): (DateTime<Utc>, DateTime<Utc>),
        manual: bool,
        count: u64,
        reason: SkipReason,
    ) {
        self.bindings.push(binding_id);
        self.moments.push(scheduled_at);
        self.manual.push(manual);
        self.until.push(until);
        self.counts.push(column::signed(count));
        self.reasons.push(reason.as_str());
    }
}

/// Keeps rows about fires that were not made, and counts those that are new.
const SKIP: &str = concat!(
    "WITH input AS (
        SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::boolean[], $4::timestamptz[], $5::bigint[],
            $6::text[]) AS input (binding_id, scheduled_at, manual, until, count, reason)
     ), kept AS (
        INSERT INTO fires (binding_id, scheduled_at, manual, until, count, skipped, fired_at)
        SELECT binding_id, scheduled_at, manual, nullif(until, scheduled_at), count, reason, $7 FROM input
        ORDER BY binding_id, scheduled_at, manual
        ON CONFLICT DO NOTHING RETURNING binding_id, skipped, count
     ), ",
    newest!("SELECT binding_id, until FROM input WHERE NOT manual"),
    ", ",
    count!(
        "SELECT binding_id, 'accepted', '', count FROM kept UNION ALL SELECT binding_id, 'skipped', skipped, count
         FROM kept"
    ),
    " SELECT count(*) FROM kept"
);

/// Keeps rows about fires that were not made. Answers how many were new.
pub(super) async fn skip(connection: &mut PgConnection, skipped: &Skipped) -> Outcome<u64> {
    if skipped.bindings.is_empty() {
        return Ok(0);
    }
    let row = sqlx::query(SKIP)
        .bind(&skipped.bindings)
        .bind(&skipped.moments)
        .bind(&skipped.manual)
        .bind(&skipped.until)
        .bind(&skipped.counts)
        .bind(&skipped.reasons)
        .bind(column::now())
        .fetch_one(connection)
        .await?;
    column::count(&row, 0)
}

/// When the newest scheduled event of a trigger was due.
pub(super) async fn last_scheduled(connection: &mut PgConnection, binding_id: i64) -> Outcome<Option<DateTime<Utc>>> {
    let found: Option<Option<DateTime<Utc>>> =
        sqlx::query_scalar("SELECT last_scheduled_at FROM bindings WHERE binding_id = $1")
            .bind(binding_id)
            .fetch_optional(connection)
            .await?;
    Ok(found.flatten())
}

/// A page of a trigger's fires, newest first.
pub(super) async fn list(connection: &mut PgConnection, binding_id: i64, filter: &FireFilter) -> Outcome<Vec<FireRow>> {
    let mut select: QueryBuilder<Postgres> = QueryBuilder::new(
        "SELECT scheduled_at, until, count, cause, skipped, fired_at, invocation_id FROM fires WHERE binding_id = ",
    );
    select.push_bind(binding_id);
    if let Some(from) = filter.from {
        select.push(" AND scheduled_at >= ").push_bind(from);
    }
    if let Some(before) = filter.before {
        select.push(" AND scheduled_at < ").push_bind(before);
    }
    if filter.skipped_only {
        select.push(" AND skipped IS NOT NULL");
    }
    select.push(" ORDER BY scheduled_at DESC, manual DESC LIMIT ").push_bind(i64::from(filter.limit.min(MAX_PAGE)));
    let rows = select.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(FireRow {
                scheduled_at: column::moment(row, 0)?,
                until: row.try_get(1)?,
                count: column::count(row, 2)?,
                cause: row.try_get(3)?,
                skipped: row.try_get(4)?,
                fired_at: column::moment(row, 5)?,
                invocation_id: row.try_get(6)?,
            })
        })
        .collect()
}
