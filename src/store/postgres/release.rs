//! What was asked for together, kept once.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::accept::{self, List};
use super::error::Outcome;
use super::{decide, lock, outbox};
use crate::store::Admitted;

/// Keeps messages and events, unless the id is known. It is remembered among the events' keys, as one of a trigger that
/// is nobody's: bindings are numbered from 1.
pub(super) async fn release(
    connection: &mut PgConnection,
    id: Uuid,
    messages: &[outbox::Row],
    events: &List,
    now: DateTime<Utc>,
) -> Outcome<Option<Vec<Admitted>>> {
    let mut transaction = connection.begin().await?;
    let mut keys = lock::Keys::default();
    events.rows.iter().for_each(|row| keys.of_new(row));
    let locked = keys.lock(&mut transaction).await?;
    let first = sqlx::query(
        "INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at)
         VALUES (0, $1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(id.as_bytes().as_slice())
    .bind(id)
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    if first.rows_affected() == 0 {
        return Ok(None);
    }
    outbox::add(&mut transaction, messages, now).await?;
    let mut admitted = match events.needs_locks() {
        true => decide::accept(&mut transaction, &[events], &locked, now).await?,
        false => accept::accept(&mut transaction, &[events], now).await?,
    };
    transaction.commit().await?;
    Ok(admitted.pop())
}
