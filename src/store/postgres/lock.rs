//! Locks of keys: what is said of an ordering or unique key is decided by one transaction at a time, whichever engine's.
//!
//! They are advisory locks of the transaction, taken with its first statement and all of them together, in one order
//! everywhere. What it reads is read by later statements, which see what the holders before it have committed. Locks
//! are named by a hash: two keys that share one wait for each other without need, and nothing worse.

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::column;
use super::error::Outcome;
use super::row::Row;

/// Keys to lock.
#[derive(Default)]
pub(super) struct Keys<'r> {
    /// Rows of the queue, whose ordering keys are locked.
    rows: Vec<Uuid>,
    bindings: Vec<i64>,
    names: Vec<String>,
    holder_bindings: Vec<i64>,
    holder_keys: Vec<&'r [u8]>,
}

/// Locks that the transaction has.
pub(super) struct Locked(HashSet<i64>);

/// The lock of an ordering key.
macro_rules! ordering_lock {
    ($key:literal, $binding_id:literal) => {
        concat!("hashtextextended('o' || ", $key, ", ", $binding_id, ")")
    };
}

const LOCK: &str = concat!(
    "SELECT lock, pg_advisory_xact_lock(lock)::text FROM (
        SELECT ",
    ordering_lock!("ordering_key", "binding_id"),
    " AS lock FROM queue WHERE invocation_id = ANY ($1) AND ordering_key IS NOT NULL
        UNION
        SELECT hashtextextended(name, binding_id) FROM unnest($2::bigint[], $3::text[]) AS asked (binding_id, name)
        UNION
        SELECT ",
    ordering_lock!("q.ordering_key", "q.binding_id"),
    " FROM unnest($4::bigint[], $5::bytea[]) AS asked (binding_id, unique_key)
        JOIN unique_keys u USING (binding_id, unique_key) JOIN queue q ON q.invocation_id = u.invocation_id
        WHERE q.ordering_key IS NOT NULL
        ORDER BY lock
    ) AS locks"
);

impl<'r> Keys<'r> {
    /// The ordering key of a row that is in the queue.
    pub(super) fn of_queued(&mut self, id: Uuid) {
        self.rows.push(id);
    }

    /// The keys of a row that is to come in, and the ordering key of whoever holds its unique key.
    pub(super) fn of_new(&mut self, row: &'r Row) {
        if let Some(ordering) = &row.ordering {
            self.bindings.push(row.binding_id);
            self.names.push(format!("o{}", ordering.key));
        }
        if let Some(unique) = &row.unique {
            self.bindings.push(row.binding_id);
            self.names.push(format!("u{}", column::text(&unique.key)));
            self.holder_bindings.push(row.binding_id);
            self.holder_keys.push(unique.key.as_bytes());
        }
    }

    /// Locks them until the transaction ends.
    pub(super) async fn lock(self, connection: &mut PgConnection) -> Outcome<Locked> {
        let rows = sqlx::query(LOCK)
            .bind(self.rows)
            .bind(self.bindings)
            .bind(self.names)
            .bind(self.holder_bindings)
            .bind(self.holder_keys)
            .fetch_all(connection)
            .await?;
        let mut locks = HashSet::with_capacity(rows.len());
        for row in &rows {
            locks.insert(row.try_get(0)?);
        }
        Ok(Locked(locks))
    }
}

impl Locked {
    /// Whether this lock is among them.
    pub(super) fn has(&self, lock: i64) -> bool {
        self.0.contains(&lock)
    }
}
