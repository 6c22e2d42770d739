//! The queue: from an accepted event to its end. One statement a step, however many rows it is about.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use trigger_core::{Accepted, Binding};
use uuid::Uuid;

use super::due::{Due, Unreadable};
use super::error::Outcome;
use super::{column, dead};
use crate::store::{Depths, QueuedInvocation};

/// What one claim may hand out, in bytes, before it stops short of its limit.
const MAX_CLAIM_BYTES: i64 = 32 << 20;

/// A row to be written.
pub(super) struct Row {
    pub(super) id: Uuid,
    binding: Arc<Binding>,
    pub(super) run_at: DateTime<Utc>,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
    idempotency_key: Option<Box<str>>,
    scheduled_at: Option<DateTime<Utc>>,
}

impl Row {
    pub(super) fn new(queued: &QueuedInvocation) -> Self {
        let invocation = &queued.invocation;
        Self {
            id: invocation.invocation_id,
            binding: invocation.binding.clone(),
            run_at: queued.run_at,
            attempt: invocation.attempt,
            version: invocation.version,
            redrive_count: queued.redrive_count,
            attempts: (!queued.attempts.is_empty()).then(|| column::to_json(&queued.attempts)),
            context: invocation.to_stored().to_string(),
            payload: invocation.payload.clone(),
            idempotency_key: invocation.idempotency_key.clone(),
            scheduled_at: invocation.scheduled_at,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }

    /// What makes it the same event as another one; without a key it is only the same as itself.
    fn key(&self) -> Option<Key<'_>> {
        let Binding { namespace, function_name, trigger_id, .. } = &*self.binding;
        self.idempotency_key.as_deref().map(|key| Key(namespace, function_name, trigger_id, key))
    }

    /// An event that nobody has seen: its key is not looked at.
    pub(super) fn without_key(mut self) -> Self {
        (self.idempotency_key, self.scheduled_at) = (None, None);
        self
    }
}

/// Namespace, function, trigger and idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key<'a>(&'a str, &'a str, &'a str, &'a str);

/// Takes rows in: those whose key is new, or that have none, and whose id is new. `$14` are the keys, or NULL.
/// Answers each id that took its key and each that came in.
const ACCEPT: &str = "
    WITH input AS (
        SELECT * FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::text[], $11::text[], $12::bytea[], $13::timestamptz[], $14::bytea[]
        ) WITH ORDINALITY AS input (
            invocation_id, namespace, function_name, trigger_id, trigger_type, run_at, attempt, version,
            redrive_count, attempts, context, payload, scheduled_at, idempotency_key, place
        )
    ), keyed AS (
        INSERT INTO accepted_keys (
            namespace, function_name, trigger_id, idempotency_key, invocation_id, accepted_at
        )
        SELECT namespace, function_name, trigger_id, idempotency_key, invocation_id, $15 FROM input
        WHERE idempotency_key IS NOT NULL ORDER BY place
        ON CONFLICT DO NOTHING RETURNING invocation_id
    ), queued AS (
        INSERT INTO queue (
            invocation_id, namespace, function_name, trigger_id, trigger_type,
            run_at, attempt, version, redrive_count, attempts, context, payload
        )
        SELECT invocation_id, namespace, function_name, trigger_id, trigger_type,
            run_at, attempt, version, redrive_count, attempts, context, payload
        FROM input
        WHERE idempotency_key IS NULL OR invocation_id IN (SELECT invocation_id FROM keyed)
        ORDER BY place
        ON CONFLICT DO NOTHING RETURNING invocation_id
    ), scheduled AS (
        INSERT INTO schedules AS s (namespace, function_name, trigger_id, last_scheduled_at)
        SELECT namespace, function_name, trigger_id, max(scheduled_at) FROM input
        WHERE scheduled_at IS NOT NULL AND invocation_id IN (SELECT invocation_id FROM queued)
        GROUP BY namespace, function_name, trigger_id ORDER BY namespace, function_name, trigger_id
        ON CONFLICT (namespace, function_name, trigger_id)
            DO UPDATE SET last_scheduled_at = greatest(s.last_scheduled_at, excluded.last_scheduled_at)
    )
    SELECT invocation_id, true FROM queued
    UNION ALL
    SELECT invocation_id, false FROM keyed
";

/// Takes new events in; one whose key, or whose id, is known is a duplicate.
pub(super) async fn accept(connection: &mut PgConnection, rows: &[Row]) -> Outcome<Vec<Accepted>> {
    // Where the first row of each key, and of each id, is in this list.
    let mut firsts: HashMap<Key<'_>, usize> = HashMap::new();
    let mut ids: HashMap<Uuid, usize> = HashMap::new();
    let mut ask: Vec<&Row> = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let first_of_key = row.key().is_none_or(|key| *firsts.entry(key).or_insert(index) == index);
        if first_of_key && *ids.entry(row.id).or_insert(index) == index {
            ask.push(row);
        }
    }
    // In one order everywhere, so that two lists with the same keys wait for each other instead of both.
    ask.sort_by_key(|row| (row.key(), row.id));
    let Taken { mut queued, mut keyed } = take(connection, &ask).await?;
    // Keys that were taken before: whose they are. One that was forgotten meanwhile is free again.
    let mut known: HashMap<Key<'_>, Uuid> = HashMap::new();
    loop {
        let missing = unknown(&ask, &known, &keyed);
        holders(connection, &missing, &mut known).await?;
        let free = unknown(&missing, &known, &keyed);
        if free.is_empty() {
            break;
        }
        let again = take(connection, &free).await?;
        queued.extend(again.queued);
        keyed.extend(again.keyed);
    }
    let mut seen: HashSet<Uuid> = HashSet::with_capacity(rows.len());
    Ok(rows
        .iter()
        .map(|row| {
            let holder = row.key().map(|key| known.get(&key).copied().unwrap_or(rows[firsts[&key]].id));
            let invocation_id = holder.unwrap_or(row.id);
            let new = invocation_id == row.id && queued.contains(&row.id) && seen.insert(row.id);
            Accepted { invocation_id, duplicate: !new }
        })
        .collect())
}

/// The rows whose key is somebody's, and nobody knows yet whose.
fn unknown<'r>(rows: &[&'r Row], known: &HashMap<Key<'_>, Uuid>, keyed: &HashSet<Uuid>) -> Vec<&'r Row> {
    let is_unknown = |row: &&&Row| row.key().is_some_and(|key| !keyed.contains(&row.id) && !known.contains_key(&key));
    rows.iter().filter(is_unknown).copied().collect()
}

/// Which rows took their key, and which came in.
struct Taken {
    queued: HashSet<Uuid>,
    keyed: HashSet<Uuid>,
}

async fn take(connection: &mut PgConnection, rows: &[&Row]) -> Outcome<Taken> {
    let mut taken = Taken { queued: HashSet::with_capacity(rows.len()), keyed: HashSet::new() };
    if rows.is_empty() {
        return Ok(taken);
    }
    let all = |value: fn(&Binding) -> &str| rows.iter().map(|row| value(&row.binding)).collect::<Vec<&str>>();
    let answers: Vec<(Uuid, bool)> = sqlx::query_as(ACCEPT)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(all(|binding| &binding.namespace))
        .bind(all(|binding| &binding.function_name))
        .bind(all(|binding| &binding.trigger_id))
        .bind(all(|binding| binding.trigger_type.as_str()))
        .bind(rows.iter().map(|row| row.run_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.attempt)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version.map(i64::from)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.redrive_count)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.attempts.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.context.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.as_ref()).collect::<Vec<&[u8]>>())
        .bind(rows.iter().map(|row| row.scheduled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.idempotency_key.as_deref().map(str::as_bytes)).collect::<Vec<_>>())
        .bind(Utc::now())
        .fetch_all(connection)
        .await?;
    for (id, is_queued) in answers {
        if is_queued {
            taken.queued.insert(id)
        } else {
            taken.keyed.insert(id)
        };
    }
    Ok(taken)
}

/// Whose these rows' keys are.
async fn holders<'r>(
    connection: &mut PgConnection,
    rows: &[&'r Row],
    known: &mut HashMap<Key<'r>, Uuid>,
) -> Outcome<()> {
    let keys: Vec<Key<'r>> = rows.iter().filter_map(|row| row.key()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let found: Vec<(i64, Uuid)> = sqlx::query_as(
        "SELECT asked.place, k.invocation_id
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
            WITH ORDINALITY AS asked (namespace, function_name, trigger_id, idempotency_key, place)
         JOIN accepted_keys k USING (namespace, function_name, trigger_id, idempotency_key)",
    )
    .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.2).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.3.as_bytes()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    known.extend(found.into_iter().filter_map(|(place, id)| {
        let place = usize::try_from(place).ok()?.checked_sub(1)?;
        Some((*keys.get(place)?, id))
    }));
    Ok(())
}

/// Puts one row in the queue, unless it is there.
pub(super) async fn insert(connection: &mut PgConnection, row: &Row) -> Outcome<()> {
    take(connection, &[row]).await.map(drop)
}

/// When the newest scheduled event of a trigger was due.
pub(super) async fn last_scheduled(connection: &mut PgConnection, binding: &Binding) -> Outcome<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar(
        "SELECT last_scheduled_at FROM schedules WHERE namespace = $1 AND function_name = $2 AND trigger_id = $3",
    )
    .bind(&*binding.namespace)
    .bind(&*binding.function_name)
    .bind(&*binding.trigger_id)
    .fetch_optional(connection)
    .await?)
}

/// Claims rows that are due at `$1` and that nobody has, or whose lease ran out before then. Rows that another engine
/// is claiming at this moment are passed by instead of waited for.
const CLAIM: &str = "
    WITH due AS MATERIALIZED (
        SELECT invocation_id, run_at, octet_length(payload)::bigint + octet_length(context) AS bytes
        FROM queue WHERE run_at <= $1 AND (claim_token IS NULL OR lease_until < $1)
        ORDER BY run_at LIMIT $4 FOR UPDATE SKIP LOCKED
    ), fitting AS MATERIALIZED (
        SELECT invocation_id FROM (
            SELECT invocation_id,
                sum(bytes) OVER (ORDER BY run_at, invocation_id ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
            FROM due
        ) sized WHERE bytes_before < $5
    )
    UPDATE queue SET claim_token = $2, lease_until = $3
    WHERE invocation_id IN (SELECT invocation_id FROM fitting)
    RETURNING invocation_id, namespace, function_name, trigger_id, trigger_type,
        run_at, attempt, version, redrive_count, attempts, context, payload
";

/// Claims rows that are due.
pub(super) async fn claim(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    token: Uuid,
    limit: u32,
) -> Outcome<Vec<Due>> {
    let rows = sqlx::query(CLAIM)
        .bind(now)
        .bind(token)
        .bind(lease_until)
        .bind(i64::from(limit))
        .bind(MAX_CLAIM_BYTES)
        .fetch_all(connection)
        .await?;
    let mut claimed = rows.iter().map(Due::from_row).collect::<Outcome<Vec<Due>>>()?;
    claimed.sort_by_key(|due| due.run_at);
    Ok(claimed)
}

/// Moves a claimed row that cannot be read out of the way.
pub(super) async fn park(connection: &mut PgConnection, row: &Unreadable, token: Uuid) -> Outcome<()> {
    let mut transaction = connection.begin().await?;
    let ours = sqlx::query(
        "WITH gone AS (
            DELETE FROM queue WHERE invocation_id = $1 AND claim_token = $2 RETURNING invocation_id, context, attempts
         )
         INSERT INTO parked (invocation_id, reason, context, attempts, parked_at)
         SELECT invocation_id, $3, context, attempts, $4 FROM gone
         ON CONFLICT (invocation_id) DO UPDATE SET reason = excluded.reason, context = excluded.context,
            attempts = excluded.attempts, parked_at = excluded.parked_at",
    )
    .bind(row.dead.invocation_id)
    .bind(token)
    .bind(column::text(&row.reason))
    .bind(Utc::now())
    .execute(&mut *transaction)
    .await?;
    if ours.rows_affected() == 1 {
        dead::insert(&mut transaction, &row.dead).await?;
    }
    Ok(transaction.commit().await?)
}

/// Prolongs claims.
pub(super) async fn renew(
    connection: &mut PgConnection,
    claims: &[(Uuid, Uuid)],
    lease_until: DateTime<Utc>,
) -> Outcome<Vec<Uuid>> {
    let (ids, tokens): (Vec<Uuid>, Vec<Uuid>) = claims.iter().copied().unzip();
    Ok(sqlx::query_scalar(
        "UPDATE queue q SET lease_until = $3
         FROM unnest($1::uuid[], $2::uuid[]) AS held (invocation_id, claim_token)
         WHERE q.invocation_id = held.invocation_id AND q.claim_token = held.claim_token
         RETURNING q.invocation_id",
    )
    .bind(ids)
    .bind(tokens)
    .bind(lease_until)
    .fetch_all(connection)
    .await?)
}

/// When the next row that nobody has claimed is due.
pub(super) async fn next_due(connection: &mut PgConnection) -> Outcome<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar("SELECT run_at FROM queue WHERE claim_token IS NULL ORDER BY run_at LIMIT 1")
        .fetch_optional(connection)
        .await?)
}

/// How many rows wait.
pub(super) async fn depths(connection: &mut PgConnection) -> Outcome<Depths> {
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE claim_token IS NULL), count(*) FILTER (WHERE claim_token IS NOT NULL),
            (SELECT count(*) FROM dead_letters WHERE redriven_at IS NULL), (SELECT count(*) FROM outbox)
         FROM queue",
    )
    .fetch_one(connection)
    .await?;
    Ok(Depths {
        queued: column::count(&row, 0)?,
        running: column::count(&row, 1)?,
        dead: column::count(&row, 2)?,
        outbox: column::count(&row, 3)?,
    })
}
