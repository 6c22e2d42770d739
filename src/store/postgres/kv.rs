//! What functions keep under keys.
//!
//! A write is a transaction under locks of its keys: a key that is not there yet has no row that could be locked. Its
//! row, where there is one, is locked as well, so that it does not expire meanwhile.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::column;
use super::error::Outcome;
use crate::store::MAX_KEYS_PAGE;
use crate::store::kv::{self, KvBucket, KvEntry, KvLimits, KvUsage, KvWrite, KvWritten};

/// Rows that a namespace's usage is spread over.
const STRIPES: i16 = 16;

const LOCK: &str = "SELECT pg_advisory_xact_lock(lock)::text FROM (
    SELECT DISTINCT hashtextextended(concat_ws('/', 'kv', $1::text, $2::text, encode(key, 'hex')), 0) AS lock
    FROM unnest($3::bytea[]) AS key ORDER BY lock) AS locks";

const GET: &str = "SELECT key, value, version, expires_at FROM kv WHERE namespace = $1 AND bucket = $2 AND key = $3";

const STORED: &str = "SELECT key, value, version, expires_at FROM kv
    WHERE namespace = $1 AND bucket = $2 AND key = ANY ($3) ORDER BY key FOR UPDATE";

const SET: &str = "INSERT INTO kv (namespace, bucket, key, value, version, expires_at)
    SELECT $1, $2, key, value, nextval('kv_versions'), expires_at
    FROM unnest($3::bytea[], $4::bytea[], $5::timestamptz[]) AS input (key, value, expires_at)
    ON CONFLICT (namespace, bucket, key) DO UPDATE
        SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at
    RETURNING key, version";

const ADD: &str = "INSERT INTO kv_usage AS u (namespace, stripe, keys, bytes) VALUES ($1, $2, $3, $4)
    ON CONFLICT (namespace, stripe) DO UPDATE SET keys = u.keys + excluded.keys, bytes = u.bytes + excluded.bytes";

/// Entries that have expired. What is being written just now is passed by.
const REMOVE_EXPIRED: &str = "WITH gone AS (
        DELETE FROM kv WHERE (namespace, bucket, key) IN (
            SELECT namespace, bucket, key FROM kv
            WHERE expires_at <= $1 AND ($2::text IS NULL OR namespace = $2) ORDER BY expires_at LIMIT $3
            FOR UPDATE SKIP LOCKED)
        RETURNING namespace, length(key) + length(value) AS bytes
    ), counted AS (
        INSERT INTO kv_usage AS u (namespace, stripe, keys, bytes)
        SELECT namespace, 0, -count(*), -sum(bytes) FROM gone GROUP BY namespace ORDER BY namespace
        ON CONFLICT (namespace, stripe) DO UPDATE SET keys = u.keys + excluded.keys, bytes = u.bytes + excluded.bytes
    )
    SELECT count(*) FROM gone";

/// The entry of a key.
pub(super) async fn get(
    connection: &mut PgConnection,
    bucket: &KvBucket,
    key: &str,
    now: DateTime<Utc>,
) -> Outcome<Option<KvEntry>> {
    let row = sqlx::query(GET)
        .bind(&bucket.namespace)
        .bind(&bucket.name)
        .bind(key.as_bytes())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(entry).transpose()?.filter(|entry| entry.is_live(now)))
}

fn entry(row: &sqlx::postgres::PgRow) -> Outcome<KvEntry> {
    Ok(KvEntry {
        value: row.try_get::<Vec<u8>, _>(1)?.into(),
        version: column::count(row, 2)?,
        expires_at: row.try_get(3)?,
    })
}

/// Does writes to different keys, all or none.
pub(super) async fn write(
    connection: &mut PgConnection,
    bucket: &KvBucket,
    writes: &[KvWrite],
    limits: &KvLimits,
    now: DateTime<Utc>,
) -> Outcome<KvWritten> {
    let keys: Vec<&[u8]> = writes.iter().map(|write| write.key.as_bytes()).collect();
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).bind(&bucket.namespace).bind(&bucket.name).bind(&keys).execute(&mut *transaction).await?;
    let rows =
        sqlx::query(STORED).bind(&bucket.namespace).bind(&bucket.name).bind(&keys).fetch_all(&mut *transaction).await?;
    let mut found: HashMap<Vec<u8>, KvEntry> = HashMap::with_capacity(rows.len());
    for row in &rows {
        found.insert(row.try_get(0)?, entry(row)?);
    }
    let stored: Vec<Option<KvEntry>> = keys.iter().map(|key| found.remove(*key)).collect();
    let (steps, more) = match kv::plan(writes, &stored, now) {
        Ok(planned) => planned,
        Err(refused) => return Ok(Err(refused)),
    };
    if more.keys > 0 || more.bytes > 0 {
        // Writes that end at the same time do not see each other: a namespace may have a little more than its limit.
        let usage = usage(&mut transaction, &bucket.namespace).await?;
        if let Err(refused) = usage.room_for(more, limits) {
            return Ok(Err(refused));
        }
    }
    let (mut set, mut values, mut expiries, mut deleted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in &steps {
        match &step.next {
            Some((value, expires_at)) => {
                set.push(step.key.as_bytes());
                values.push(&value[..]);
                expiries.push(*expires_at);
            }
            None if step.stored => deleted.push(step.key.as_bytes()),
            None => {}
        }
    }
    let mut versions: HashMap<Vec<u8>, u64> = HashMap::with_capacity(set.len());
    if !set.is_empty() {
        let rows = sqlx::query(SET)
            .bind(&bucket.namespace)
            .bind(&bucket.name)
            .bind(&set)
            .bind(&values)
            .bind(&expiries)
            .fetch_all(&mut *transaction)
            .await?;
        for row in &rows {
            versions.insert(row.try_get(0)?, column::count(row, 1)?);
        }
    }
    if !deleted.is_empty() {
        sqlx::query("DELETE FROM kv WHERE namespace = $1 AND bucket = $2 AND key = ANY ($3)")
            .bind(&bucket.namespace)
            .bind(&bucket.name)
            .bind(&deleted)
            .execute(&mut *transaction)
            .await?;
    }
    if more != KvUsage::default() {
        // After the rows, and one stripe only: whoever waits for it holds nothing that its holder wants.
        sqlx::query(ADD)
            .bind(&bucket.namespace)
            .bind(fastrand::i16(0..STRIPES))
            .bind(more.keys)
            .bind(more.bytes)
            .execute(&mut *transaction)
            .await?;
    }
    let done = steps
        .into_iter()
        .map(|step| {
            let version = versions.get(step.key.as_bytes()).copied().unwrap_or(0);
            step.done(version)
        })
        .collect();
    transaction.commit().await?;
    Ok(Ok(done))
}

async fn usage(connection: &mut PgConnection, namespace: &str) -> Outcome<KvUsage> {
    let (keys, bytes): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(sum(keys), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM kv_usage WHERE namespace = $1",
    )
    .bind(namespace)
    .fetch_one(connection)
    .await?;
    Ok(KvUsage { keys, bytes })
}

/// Keys that begin with `prefix`, behind `after`, in the order of their bytes.
pub(super) async fn keys(
    connection: &mut PgConnection,
    bucket: &KvBucket,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
    now: DateTime<Utc>,
) -> Outcome<Vec<String>> {
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT key FROM kv WHERE namespace = $1 AND bucket = $2 AND key >= $3 AND ($4::bytea IS NULL OR key < $4)
            AND ($5::bytea IS NULL OR key > $5) AND (expires_at IS NULL OR expires_at > $6)
         ORDER BY key LIMIT $7",
    )
    .bind(&bucket.namespace)
    .bind(&bucket.name)
    .bind(prefix.max(after.unwrap_or("")).as_bytes())
    .bind(kv::behind(prefix.as_bytes()))
    .bind(after.map(str::as_bytes))
    .bind(now)
    .bind(i64::from(limit.min(MAX_KEYS_PAGE)))
    .fetch_all(connection)
    .await?;
    let text = |key| String::from_utf8(key).map_err(|error| column::corrupt("a key", error));
    keys.into_iter().map(text).collect()
}

/// Removes entries that have expired, of one namespace or of all. Answers how many.
pub(super) async fn remove_expired(
    connection: &mut PgConnection,
    namespace: Option<&str>,
    now: DateTime<Utc>,
    limit: u64,
) -> Outcome<u64> {
    let row =
        sqlx::query(REMOVE_EXPIRED).bind(now).bind(namespace).bind(column::signed(limit)).fetch_one(connection).await?;
    column::count(&row, 0)
}
