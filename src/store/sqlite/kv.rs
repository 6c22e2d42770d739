//! What functions keep under keys.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::column;
use crate::store::kv::{self, KvBucket, KvEntry, KvLimits, KvUsage, KvWrite, KvWritten};
use crate::store::{MAX_KEYS_PAGE, Result};

/// What is stored under a key, expired or not.
fn stored(connection: &Connection, bucket: &KvBucket, key: &str) -> Result<Option<KvEntry>> {
    let mut select = connection.prepare_cached(
        "SELECT value, version, expires_at FROM kv WHERE namespace = ?1 AND bucket = ?2 AND key = ?3",
    )?;
    let entry = select.query_row(params![bucket.namespace, bucket.name, key.as_bytes()], |row| {
        Ok(KvEntry {
            value: row.get::<_, Vec<u8>>(0)?.into(),
            version: column::count(row, 1)?,
            expires_at: column::optional_moment(row, 2)?,
        })
    });
    Ok(entry.optional()?)
}

/// The entry of a key.
pub(super) fn get(
    connection: &Connection,
    bucket: &KvBucket,
    key: &str,
    now: DateTime<Utc>,
) -> Result<Option<KvEntry>> {
    Ok(stored(connection, bucket, key)?.filter(|entry| entry.is_live(now)))
}

/// Does writes to different keys, all or none.
pub(super) fn write(
    connection: &Connection,
    bucket: &KvBucket,
    writes: &[KvWrite],
    limits: &KvLimits,
    now: DateTime<Utc>,
) -> Result<KvWritten> {
    let entries: Result<Vec<_>> = writes.iter().map(|write| stored(connection, bucket, &write.key)).collect();
    let (steps, more) = match kv::plan(writes, &entries?, now) {
        Ok(planned) => planned,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Err(refused) = usage(connection, &bucket.namespace)?.room_for(more, limits) {
        return Ok(Err(refused));
    }
    let version = add(connection, &bucket.namespace, more)?;
    let mut set = connection.prepare_cached(
        "INSERT INTO kv (namespace, bucket, key, value, version, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (namespace, bucket, key) DO UPDATE
            SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM kv WHERE namespace = ?1 AND bucket = ?2 AND key = ?3")?;
    for step in &steps {
        let key = step.key.as_bytes();
        match &step.next {
            Some((value, expires_at)) => {
                let expires_at = expires_at.map(column::micros);
                let values = params![bucket.namespace, bucket.name, key, &value[..], version, expires_at];
                set.execute(values)?;
            }
            None if step.stored => {
                delete.execute(params![bucket.namespace, bucket.name, key])?;
            }
            None => {}
        }
    }
    Ok(Ok(steps.into_iter().map(|step| step.done(version.unsigned_abs())).collect()))
}

/// Keys that begin with `prefix`, behind `after`, in the order of their bytes.
pub(super) fn keys(
    connection: &Connection,
    bucket: &KvBucket,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Vec<String>> {
    let mut select = connection.prepare_cached(
        "SELECT key FROM kv WHERE namespace = ?1 AND bucket = ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
            AND (?5 IS NULL OR key > ?5) AND (expires_at IS NULL OR expires_at > ?6)
         ORDER BY key LIMIT ?7",
    )?;
    let from = prefix.max(after.unwrap_or(""));
    let mut rows = select.query(params![
        bucket.namespace,
        bucket.name,
        from.as_bytes(),
        kv::behind(prefix.as_bytes()),
        after.map(str::as_bytes),
        column::micros(now),
        limit.min(MAX_KEYS_PAGE)
    ])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let key = String::from_utf8(row.get(0)?).map_err(|error| column::corrupt("a key", error))?;
        keys.push(key);
    }
    Ok(keys)
}

fn usage(connection: &Connection, namespace: &str) -> Result<KvUsage> {
    let mut select = connection.prepare_cached("SELECT keys, bytes FROM kv_usage WHERE namespace = ?1")?;
    let usage = select.query_row([namespace], |row| Ok(KvUsage { keys: row.get(0)?, bytes: row.get(1)? }));
    Ok(usage.optional()?.unwrap_or_default())
}

/// Adds to the usage of a namespace, and makes the version of what is written with it.
fn add(connection: &Connection, namespace: &str, more: KvUsage) -> Result<i64> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO kv_usage (namespace, keys, bytes, version) VALUES (?1, ?2, ?3, 1)
         ON CONFLICT (namespace) DO UPDATE
            SET keys = keys + excluded.keys, bytes = bytes + excluded.bytes, version = version + 1
         RETURNING version",
    )?;
    Ok(upsert.query_row(params![namespace, more.keys, more.bytes], |row| row.get(0))?)
}

/// Removes entries that have expired, of one namespace or of all. Answers how many.
pub(super) fn remove_expired(
    connection: &Connection,
    namespace: Option<&str>,
    now: i64,
    limit: usize,
) -> Result<usize> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM kv WHERE rowid IN (
            SELECT rowid FROM kv WHERE expires_at <= ?1 AND (?2 IS NULL OR namespace = ?2) ORDER BY expires_at LIMIT ?3)
         RETURNING namespace, length(key) + length(value)",
    )?;
    let mut rows = delete.query(params![now, namespace, limit as i64])?;
    let mut less: HashMap<String, KvUsage> = HashMap::new();
    let mut removed = 0;
    while let Some(row) = rows.next()? {
        let usage = less.entry(row.get(0)?).or_default();
        usage.keys -= 1;
        usage.bytes -= row.get::<_, i64>(1)?;
        removed += 1;
    }
    for (namespace, usage) in less {
        add(connection, &namespace, usage)?;
    }
    Ok(removed)
}
