//! Events that are taken back, and whose turn it is when a row of an ordering key goes.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};
use trigger_core::Cancelled;
use uuid::Uuid;

use super::error::{Fail, Outcome};
use super::lock;
use crate::store::Error;

/// Gives the rows behind those of `gone` their turn, where these were the first of their keys. The keys are locked.
/// `$now` is the current time.
macro_rules! promote {
    ($now:literal) => {
        concat!(
            "promoted AS (
                UPDATE queue q SET state = CASE WHEN q.run_at <= ",
            $now,
            " THEN 1 ELSE 0 END
                FROM (
                    SELECT (
                        SELECT n.invocation_id FROM queue n
                        WHERE n.binding_id = g.binding_id AND n.ordering_key = g.ordering_key
                            AND n.position > g.position
                            AND n.invocation_id NOT IN (SELECT invocation_id FROM gone)
                        ORDER BY n.position LIMIT 1
                    ) AS invocation_id
                    FROM gone g WHERE g.ordering_key IS NOT NULL AND g.state <> 2
                ) AS next
                WHERE q.invocation_id = ANY (ARRAY[next.invocation_id]) AND q.state = 2
            )"
        )
    };
}

/// A row that was taken back.
pub(super) struct Gone {
    pub(super) id: Uuid,
    pub(super) binding_id: i64,
    pub(super) ordering_key: Option<String>,
}

/// Removes rows that wait; keeps that they were cancelled until `$2`, where that is said. Those with an ordering key
/// stay unless `$4`: their keys are locked then.
pub(super) const TAKE_BACK: &str = concat!(
    "WITH gone AS (
        DELETE FROM queue q USING unnest($1::uuid[], $2::timestamptz[]) AS asked (invocation_id, keep_until)
        WHERE q.invocation_id = ANY (ARRAY[asked.invocation_id]) AND q.claim_token IS NULL AND ($4 OR q.ordering_key IS NULL)
        RETURNING q.invocation_id, q.binding_id, q.attempt, q.ordering_key, q.position, q.state, asked.keep_until
    ), kept AS (
        INSERT INTO results (invocation_id, binding_id, state, attempts, finished_at, keep_until, body)
        SELECT invocation_id, binding_id, 'cancelled', greatest(attempt - 1, 0), $3, keep_until, '' FROM gone
        WHERE keep_until IS NOT NULL
        ON CONFLICT (invocation_id) DO UPDATE SET binding_id = excluded.binding_id, state = excluded.state,
            attempts = excluded.attempts, finished_at = excluded.finished_at, keep_until = excluded.keep_until,
            http_status = NULL, http_headers = NULL, body = excluded.body
    ), ",
    promote!("$3"),
    ", ",
    count!("SELECT binding_id, 'cancelled', '', count(*) FROM gone GROUP BY binding_id"),
    " SELECT invocation_id, binding_id, ordering_key FROM gone"
);

/// Removes those of these rows that nobody works on, in the caller's transaction, which has locked their ordering keys.
pub(super) async fn take_back(
    connection: &mut PgConnection,
    rows: &[(Uuid, Option<DateTime<Utc>>)],
    now: DateTime<Utc>,
) -> Outcome<Vec<Gone>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    remove(connection, rows, now, true).await
}

async fn remove(
    connection: &mut PgConnection,
    rows: &[(Uuid, Option<DateTime<Utc>>)],
    now: DateTime<Utc>,
    locked: bool,
) -> Outcome<Vec<Gone>> {
    let (ids, keep): (Vec<Uuid>, Vec<Option<DateTime<Utc>>>) = rows.iter().copied().unzip();
    let gone = sqlx::query(TAKE_BACK).bind(ids).bind(keep).bind(now).bind(locked).fetch_all(connection).await?;
    gone.iter()
        .map(|row| Ok(Gone { id: row.try_get(0)?, binding_id: row.try_get(1)?, ordering_key: row.try_get(2)? }))
        .collect()
}

/// Marks a row that runs. Answers whether there was one, whether one waits, and whether it has ended.
const ASK: &str = "
    WITH asked AS (
        UPDATE queue SET cancel_requested_at = $2 WHERE invocation_id = $1 AND claim_token IS NOT NULL
        RETURNING invocation_id
    )
    SELECT EXISTS (SELECT FROM asked), EXISTS (SELECT FROM queue WHERE invocation_id = $1),
        EXISTS (SELECT FROM results WHERE invocation_id = $1)
            OR EXISTS (SELECT FROM dead_letters WHERE invocation_id = $1)
";

/// Takes an event back, or asks whoever runs it to.
pub(super) async fn cancel(
    connection: &mut PgConnection,
    id: Uuid,
    keep_until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Outcome<Cancelled> {
    let rows = [(id, keep_until)];
    if !remove(connection, &rows, now, false).await?.is_empty() {
        return Ok(Cancelled::Cancelled);
    }
    match ask(connection, id, now).await? {
        Some(answer) => return Ok(answer),
        None => {
            let mut transaction = connection.begin().await?;
            let mut keys = lock::Keys::default();
            keys.of_queued(id);
            keys.lock(&mut transaction).await?;
            let gone = remove(&mut transaction, &rows, now, true).await?;
            transaction.commit().await?;
            if !gone.is_empty() {
                return Ok(Cancelled::Cancelled);
            }
        }
    }
    let moves = || Fail::Lost(Error::Unavailable(format!("{id} begins and ends all the time")));
    ask(connection, id, now).await?.ok_or_else(moves)
}

/// What can be said of an event that could not be removed; `None` if it waits.
async fn ask(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Outcome<Option<Cancelled>> {
    let (asked, waits, ended): (bool, bool, bool) =
        sqlx::query_as(ASK).bind(id).bind(now).fetch_one(connection).await?;
    Ok(match (asked, waits, ended) {
        (true, _, _) => Some(Cancelled::Asked),
        (_, true, _) => None,
        (_, _, true) => Some(Cancelled::Ended),
        _ => Some(Cancelled::Unknown),
    })
}
