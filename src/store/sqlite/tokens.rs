//! Bearer tokens of callers.

use rusqlite::{Connection, params};

use super::column;
use crate::store::{MAX_TOKENS, Result, TokenRow};

/// Keeps a new one, unless its namespace has as many as it may.
pub(super) fn add(connection: &Connection, token: &TokenRow) -> Result<bool> {
    let list = |list: &[String]| serde_json::to_string(list).expect("texts become JSON");
    let mut insert = connection.prepare_cached(
        "INSERT INTO tokens (token_id, namespace, name, digest, functions, scopes, created_at, expires_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
         WHERE (SELECT count(*) FROM tokens WHERE namespace = ?2) < ?9",
    )?;
    let added = insert.execute(params![
        token.id,
        token.namespace,
        token.name,
        token.digest,
        list(&token.functions),
        list(&token.scopes),
        column::micros(token.created_at),
        token.expires_at.map(column::micros),
        MAX_TOKENS,
    ])?;
    Ok(added == 1)
}

/// Those of a namespace, the newest first.
pub(super) fn list(connection: &Connection, namespace: &str) -> Result<Vec<TokenRow>> {
    let mut select = connection.prepare_cached(
        "SELECT token_id, namespace, name, digest, functions, scopes, created_at, expires_at FROM tokens
         WHERE namespace = ?1 ORDER BY created_at DESC, token_id DESC LIMIT ?2",
    )?;
    let mut rows = select.query(params![namespace, MAX_TOKENS])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let words = |at: usize| {
            let text: String = row.get(at)?;
            column::json(&text, || format!("the token {id}"))
        };
        tokens.push(TokenRow {
            namespace: row.get(1)?,
            name: row.get(2)?,
            digest: row.get(3)?,
            functions: words(4)?,
            scopes: words(5)?,
            created_at: column::moment(row, 6)?,
            expires_at: column::optional_moment(row, 7)?,
            id,
        });
    }
    Ok(tokens)
}

/// Forgets one; whether there was one.
pub(super) fn remove(connection: &Connection, namespace: &str, id: &str) -> Result<bool> {
    let mut delete = connection.prepare_cached("DELETE FROM tokens WHERE token_id = ?1 AND namespace = ?2")?;
    Ok(delete.execute(params![id, namespace])? == 1)
}
