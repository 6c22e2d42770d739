//! Which rows are given out, and to whom.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::due::{Due, Unreadable};
use super::error::Outcome;
use super::{column, dead, lock};
use crate::store::{Claim, Renewed};

/// What one claim may hand out, in bytes, before it stops short of its limit.
const MAX_CLAIM_BYTES: i64 = 32 << 20;

/// Rows that become ready in one step.
const MAX_READY: i64 = 2000;

/// How long it may stay unnoticed that a row of another engine has come due, in microseconds.
const LOOK_EVERY: i64 = 1_000_000;

/// Which rows to claim.
pub(super) struct Request {
    pub(super) now: DateTime<Utc>,
    pub(super) lease_until: DateTime<Utc>,
    pub(super) token: Uuid,
    pub(super) limit: u32,
    /// Triggers that may have only so many.
    pub(super) limited: Vec<i64>,
    pub(super) limits: Vec<i64>,
}

// -- Rows that wait for their moment ---------------------------------------------------------------------------------

/// When a row that waits may come due: a claim need not look for such rows before. Moments are microseconds.
pub(super) struct Waiting {
    /// No row that this engine knows of is due before.
    next: AtomicI64,
    /// When it was looked last, by the clock of whoever asked.
    looked_at: AtomicI64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { next: AtomicI64::new(i64::MIN), looked_at: AtomicI64::new(i64::MIN) }
    }
}

impl Waiting {
    /// A row is due at this moment.
    pub(super) fn add(&self, moment: DateTime<Utc>) {
        self.next.fetch_min(moment.timestamp_micros(), Ordering::AcqRel);
    }

    /// Anything may be due.
    pub(super) fn forget(&self) {
        self.next.store(i64::MIN, Ordering::Release);
    }

    /// Whether a row may have come due by now.
    fn may_be_due(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp_micros();
        let since = now.saturating_sub(self.looked_at.load(Ordering::Acquire));
        since.saturating_abs() >= LOOK_EVERY || self.next.load(Ordering::Acquire) <= now
    }

    /// Somebody looks. What is added from now on counts, whatever is found.
    fn look(&self, now: DateTime<Utc>) {
        self.looked_at.store(now.timestamp_micros(), Ordering::Release);
        self.next.store(i64::MAX, Ordering::Release);
    }
}

/// Makes rows ready whose moment has come at `$1`, at most `$2`. Answers how many, and when the next one's comes.
pub(super) const MAKE_READY: &str = "
    WITH due AS MATERIALIZED (
        SELECT invocation_id FROM queue WHERE state = 0 AND run_at <= $1 ORDER BY run_at LIMIT $2
        FOR UPDATE SKIP LOCKED
    ), ready AS (
        UPDATE queue SET state = 1 WHERE invocation_id = ANY (ARRAY (SELECT invocation_id FROM due))
    )
    SELECT (SELECT count(*) FROM due), (SELECT run_at FROM queue WHERE state = 0 AND run_at > $1 ORDER BY run_at LIMIT 1)
";

/// Makes rows ready whose moment has come, where there may be any.
async fn make_ready(connection: &mut PgConnection, waiting: &Waiting, now: DateTime<Utc>) -> Outcome<()> {
    if !waiting.may_be_due(now) {
        return Ok(());
    }
    waiting.look(now);
    let made = sqlx::query_as::<_, (i64, Option<DateTime<Utc>>)>(MAKE_READY).bind(now).bind(MAX_READY);
    match made.fetch_one(&mut *connection).await {
        Ok((made, next)) => {
            if made >= MAX_READY {
                waiting.add(now);
            }
            next.into_iter().for_each(|next| waiting.add(next));
            Ok(())
        }
        Err(error) => {
            waiting.forget();
            Err(error.into())
        }
    }
}

/// When the next row that waits for its moment is due.
pub(super) async fn next_due(connection: &mut PgConnection, waiting: &Waiting) -> Outcome<Option<DateTime<Utc>>> {
    let next: Option<DateTime<Utc>> =
        sqlx::query_scalar("SELECT run_at FROM queue WHERE state = 0 ORDER BY run_at LIMIT 1")
            .fetch_optional(connection)
            .await?;
    next.into_iter().for_each(|next| waiting.add(next));
    Ok(next)
}

// -- Claims ----------------------------------------------------------------------------------------------------------

/// Claims rows that are ready at `$1` (another clock may have found them so) and that nobody has, or whose lease ran out
/// before then. `$6` and `$7` are triggers that
/// may have only so many.
///
/// `lanes` are the triggers that have ready rows, found by stepping over the index from one to the next. Where there is
/// more than one, `shares` deals the places out in rounds: to every namespace one after another, within it to every
/// trigger; who takes the first of a round is left to chance. A trigger offers no more rows than it could get, or than
/// eight times its even share, so that many triggers with many rows cost no more than a few. The rows that come of
/// it are locked by trigger and rank; those that another engine is claiming at this moment are passed by instead of
/// waited for. They are updated by an array of ids, not by a join, which the planner would expect to be large: it does
/// not know the limit when it makes a plan to keep, and would read the whole queue.
pub(super) const CLAIM: &str = "
    WITH RECURSIVE ready (binding_id) AS (
        (SELECT binding_id FROM queue WHERE state = 1 ORDER BY binding_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT q.binding_id FROM queue q WHERE q.state = 1 AND q.binding_id > ready.binding_id
            ORDER BY q.binding_id LIMIT 1
        ) FROM ready WHERE ready.binding_id IS NOT NULL
    ), lanes AS MATERIALIZED (
        SELECT b.binding_id, b.namespace, least(coalesce(limited.room, $4), $4) AS room, random() AS chance,
            count(*) OVER () AS lanes
        FROM ready JOIN bindings b USING (binding_id)
        LEFT JOIN unnest($6::bigint[], $7::bigint[]) AS limited (binding_id, room) USING (binding_id)
        WHERE b.paused_at IS NULL AND coalesce(limited.room, $4) > 0
    ), offers AS (
        SELECT l.*, (
            SELECT count(*) FROM (
                SELECT FROM queue q
                WHERE q.binding_id = l.binding_id AND q.state = 1 AND q.run_at <= $1
                    AND (q.claim_token IS NULL OR q.lease_until < $1)
                ORDER BY q.rank LIMIT least(l.room, 1 + 8 * $4 / l.lanes)
            ) AS rows
        ) AS offer FROM lanes l WHERE l.lanes > 1
    ), shares AS MATERIALIZED (
        SELECT binding_id, room AS share FROM lanes WHERE lanes = 1
        UNION ALL
        SELECT binding_id, count(*) FROM (
            SELECT binding_id FROM (
                SELECT o.binding_id, n.chance,
                    row_number() OVER (PARTITION BY o.namespace ORDER BY place, o.chance) AS round
                FROM offers o
                JOIN (SELECT namespace, random() AS chance FROM offers GROUP BY namespace) AS n USING (namespace)
                CROSS JOIN LATERAL generate_series(1, o.offer) AS place
            ) AS dealt ORDER BY round, chance LIMIT $4
        ) AS taken GROUP BY binding_id
    ), due AS MATERIALIZED (
        SELECT q.* FROM shares CROSS JOIN LATERAL (
            SELECT invocation_id, rank, octet_length(payload)::bigint + octet_length(context) AS bytes
            FROM queue
            WHERE binding_id = shares.binding_id AND state = 1 AND run_at <= $1
                AND (claim_token IS NULL OR lease_until < $1)
            ORDER BY rank LIMIT shares.share FOR UPDATE SKIP LOCKED
        ) AS q
    ), fitting AS MATERIALIZED (
        SELECT invocation_id FROM (
            SELECT invocation_id,
                sum(bytes) OVER (ORDER BY rank, invocation_id ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
            FROM due
        ) AS sized WHERE bytes_before < $5
    )
    UPDATE queue q SET claim_token = $2, lease_until = $3
    WHERE q.invocation_id = ANY (ARRAY (SELECT invocation_id FROM fitting))
    RETURNING q.invocation_id, q.binding_id, q.run_at, q.attempt::bigint, q.version::bigint, q.redrive_count::bigint,
        q.ordering_key IS NOT NULL, q.attempts, q.context, q.payload, q.rank
";

/// Claims rows that are due, those of the lowest rank first.
pub(super) async fn claim(connection: &mut PgConnection, waiting: &Waiting, request: &Request) -> Outcome<Vec<Due>> {
    make_ready(connection, waiting, request.now).await?;
    if request.limit == 0 {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(CLAIM)
        .bind(request.now)
        .bind(request.token)
        .bind(request.lease_until)
        .bind(i64::from(request.limit))
        .bind(MAX_CLAIM_BYTES)
        .bind(&request.limited)
        .bind(&request.limits)
        .fetch_all(connection)
        .await?;
    let mut claimed = rows.iter().map(Due::from_row).collect::<Outcome<Vec<Due>>>()?;
    claimed.sort_by_key(Due::rank);
    Ok(claimed)
}

/// Moves a claimed row that cannot be read out of the way. Answers whether its claim held.
const PARK: &str = concat!(
    "WITH gone AS (
        DELETE FROM queue WHERE invocation_id = $1 AND claim_token = $2
        RETURNING invocation_id, binding_id, ordering_key, position, state, context, attempts
    ), parked AS (
        INSERT INTO parked (invocation_id, reason, context, attempts, parked_at)
        SELECT invocation_id, $3, context, attempts, $4 FROM gone
        ON CONFLICT (invocation_id) DO UPDATE SET reason = excluded.reason, context = excluded.context,
            attempts = excluded.attempts, parked_at = excluded.parked_at
    ), ",
    promote!("$4"),
    ", ",
    count!("SELECT binding_id, 'dead', $5::text, 1 FROM gone"),
    " SELECT count(*) FROM gone"
);

/// Moves a claimed row that cannot be read out of the way.
pub(super) async fn park(
    connection: &mut PgConnection,
    row: &Unreadable,
    token: Uuid,
    now: DateTime<Utc>,
) -> Outcome<()> {
    let mut transaction = connection.begin().await?;
    if row.ordered {
        let mut keys = lock::Keys::default();
        keys.of_queued(row.dead.invocation_id);
        keys.lock(&mut transaction).await?;
    }
    let ours = sqlx::query(PARK)
        .bind(row.dead.invocation_id)
        .bind(token)
        .bind(column::text(&row.reason))
        .bind(now)
        .bind(row.dead.reason.as_str())
        .fetch_one(&mut *transaction)
        .await?;
    if column::count(&ours, 0)? == 1 {
        dead::keep(&mut transaction, &row.dead, now).await?;
    }
    Ok(transaction.commit().await?)
}

/// Prolongs claims.
pub(super) async fn renew(
    connection: &mut PgConnection,
    claims: &[Claim],
    lease_until: DateTime<Utc>,
) -> Outcome<Renewed> {
    let (ids, tokens): (Vec<Uuid>, Vec<Uuid>) = claims.iter().map(|claim| (claim.invocation_id, claim.token)).unzip();
    let rows = sqlx::query(
        "UPDATE queue q SET lease_until = $3
         FROM unnest($1::uuid[], $2::uuid[]) AS held (invocation_id, claim_token)
         WHERE q.invocation_id = ANY (ARRAY[held.invocation_id]) AND q.claim_token = held.claim_token
         RETURNING q.invocation_id, q.cancel_requested_at IS NOT NULL",
    )
    .bind(ids)
    .bind(tokens)
    .bind(lease_until)
    .fetch_all(connection)
    .await?;
    let mut renewed = Renewed::default();
    for row in &rows {
        let id: Uuid = row.try_get(0)?;
        renewed.held.push(id);
        if row.try_get(1)? {
            renewed.cancel.push(id);
        }
    }
    Ok(renewed)
}

/// Keeps what a running attempt says of its progress.
pub(super) async fn progress(connection: &mut PgConnection, claim: Claim, progress: &str) -> Outcome<bool> {
    let updated = sqlx::query("UPDATE queue SET progress = $3 WHERE invocation_id = $1 AND claim_token = $2")
        .bind(claim.invocation_id)
        .bind(claim.token)
        .bind(progress)
        .execute(connection)
        .await?;
    Ok(updated.rows_affected() == 1)
}
