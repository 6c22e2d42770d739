//! Bearer tokens of callers.

use sqlx::{PgConnection, Row as _};

use super::column;
use super::error::Outcome;
use crate::store::{MAX_TOKENS, TokenRow};

/// Keeps a new one, unless its namespace has as many as it may. Engines that add at once may have a few more.
pub(super) async fn add(connection: &mut PgConnection, token: &TokenRow) -> Outcome<bool> {
    let added = sqlx::query(
        "INSERT INTO tokens (token_id, namespace, name, digest, functions, scopes, created_at, expires_at)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8
         WHERE (SELECT count(*) FROM tokens WHERE namespace = $2) < $9",
    )
    .bind(&token.id)
    .bind(&token.namespace)
    .bind(&token.name)
    .bind(&token.digest[..])
    .bind(&token.functions)
    .bind(&token.scopes)
    .bind(token.created_at)
    .bind(token.expires_at)
    .bind(i64::from(MAX_TOKENS))
    .execute(connection)
    .await?;
    Ok(added.rows_affected() == 1)
}

/// Those of a namespace, the newest first.
pub(super) async fn list(connection: &mut PgConnection, namespace: &str) -> Outcome<Vec<TokenRow>> {
    let rows = sqlx::query(
        "SELECT token_id, namespace, name, digest, functions, scopes, created_at, expires_at FROM tokens
         WHERE namespace = $1 ORDER BY created_at DESC, token_id DESC LIMIT $2",
    )
    .bind(namespace)
    .bind(i64::from(MAX_TOKENS))
    .fetch_all(connection)
    .await?;
    let token = |row: &sqlx::postgres::PgRow| {
        let id: String = row.try_get(0)?;
        let digest: Vec<u8> = row.try_get(3)?;
        let digest =
            digest.try_into().map_err(|_| column::corrupt(format!("the token {id}"), "its digest has not 32 bytes"))?;
        Ok(TokenRow {
            namespace: row.try_get(1)?,
            name: row.try_get(2)?,
            digest,
            functions: row.try_get(4)?,
            scopes: row.try_get(5)?,
            created_at: column::moment(row, 6)?,
            expires_at: row.try_get(7)?,
            id,
        })
    };
    rows.iter().map(token).collect()
}

/// Forgets one; whether there was one.
pub(super) async fn remove(connection: &mut PgConnection, namespace: &str, id: &str) -> Outcome<bool> {
    let removed = sqlx::query("DELETE FROM tokens WHERE token_id = $1 AND namespace = $2")
        .bind(id)
        .bind(namespace)
        .execute(connection)
        .await?;
    Ok(removed.rows_affected() == 1)
}
