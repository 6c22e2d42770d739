//! Failed attempts of events that their source redelivers: such events have no row in the queue.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::column;
use super::error::Outcome;
use crate::store::FailedAttempt;

/// Remembers a failed attempt.
pub(super) async fn remember(
    connection: &mut PgConnection,
    id: Uuid,
    attempt: &FailedAttempt,
    now: DateTime<Utc>,
) -> Outcome<()> {
    sqlx::query(
        "INSERT INTO remembered_attempts (invocation_id, number, attempt, remembered_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (invocation_id, number)
            DO UPDATE SET attempt = excluded.attempt, remembered_at = excluded.remembered_at",
    )
    .bind(id)
    .bind(i64::from(attempt.number))
    .bind(column::to_json(attempt))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// The remembered attempts, in order.
pub(super) async fn remembered(connection: &mut PgConnection, id: Uuid) -> Outcome<Vec<FailedAttempt>> {
    let attempts: Vec<String> =
        sqlx::query_scalar("SELECT attempt FROM remembered_attempts WHERE invocation_id = $1 ORDER BY number")
            .bind(id)
            .fetch_all(connection)
            .await?;
    attempts.iter().map(|json| column::json(json, || format!("a remembered attempt of {id}"))).collect()
}

/// Forgets them.
pub(super) async fn forget(connection: &mut PgConnection, id: Uuid) -> Outcome<()> {
    sqlx::query("DELETE FROM remembered_attempts WHERE invocation_id = $1").bind(id).execute(connection).await?;
    Ok(())
}
