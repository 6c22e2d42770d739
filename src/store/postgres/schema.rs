//! Makes the schema and brings it up to date.
//!
//! The table `tripline_migrations` says whose schema it is and what was applied: the schema of another program, or of a
//! newer engine, is refused before anything in it is changed. Nodes that start together take turns.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::Outcome;
use crate::store::Error;

/// Applied in order. The list only grows; what is in it never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_initial.sql"),
    include_str!("../../../migrations/postgres/0002_queue.sql"),
    include_str!("../../../migrations/postgres/0003_functions.sql"),
    include_str!("../../../migrations/postgres/0004_dead_letters.sql"),
    include_str!("../../../migrations/postgres/0006_key_value.sql"),
    include_str!("../../../migrations/postgres/0007_tokens.sql"),
    include_str!("../../../migrations/postgres/0008_fingerprints.sql"),
];

/// The oldest server that the statements are tested on.
const OLDEST_SERVER: i32 = 150_000;

/// Brings the schema up to date. Its name has been checked: letters, digits and `_`.
pub(super) async fn migrate(connection: &mut PgConnection, schema: &str) -> Outcome<()> {
    check_server(connection).await?;
    let mut transaction = connection.begin().await?;
    // Making indexes on a full table takes as long as it takes, and so does another node that is doing it.
    sqlx::query("SELECT set_config('statement_timeout', '0', true), set_config('search_path', $1, true)")
        .bind(schema)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tripline migrations of ' || $1, 0))")
        .bind(schema)
        .execute(&mut *transaction)
        .await?;
    let applied = applied(&mut transaction, schema).await?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(applied) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO tripline_migrations (version, applied_at) VALUES ($1, now())")
            .bind(index as i64 + 1)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

async fn check_server(connection: &mut PgConnection) -> Outcome<()> {
    let (version, encoding): (i32, String) =
        sqlx::query_as("SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')")
            .fetch_one(connection)
            .await?;
    if version < OLDEST_SERVER {
        let (is, needed) = (version / 10_000, OLDEST_SERVER / 10_000);
        let why = format!("the server is PostgreSQL {is}, the engine needs {needed} or newer; upgrade it");
        return Err(Error::Incompatible(why).into());
    }
    if encoding != "UTF8" {
        let why = format!("the database's encoding is {encoding}; create one with ENCODING 'UTF8'");
        return Err(Error::Incompatible(why).into());
    }
    Ok(())
}

/// How many migrations the schema has had; makes it where it is missing. Refuses one that is not ours, or newer.
async fn applied(connection: &mut PgConnection, schema: &str) -> Outcome<usize> {
    let (exists, ours, others): (bool, bool, bool) = sqlx::query_as(
        "SELECT to_regnamespace(quote_ident($1)) IS NOT NULL, to_regclass(quote_ident($1) || '.tripline_migrations') IS NOT NULL,
            EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1)))",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await?;
    if !ours {
        if others {
            let why = format!("the schema {schema:?} belongs to another program; name another one with ?schema=");
            return Err(Error::Incompatible(why).into());
        }
        if !exists {
            // The name holds nothing that would have to be quoted.
            sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\""))).execute(&mut *connection).await?;
        }
        sqlx::raw_sql(
            "CREATE TABLE tripline_migrations (
                version bigint NOT NULL PRIMARY KEY, applied_at timestamptz NOT NULL
            )",
        )
        .execute(&mut *connection)
        .await?;
    }
    let version: i64 =
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM tripline_migrations").fetch_one(connection).await?;
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Error::Incompatible(format!(
            "the schema {schema:?} has version {version}, this engine knows up to {}; use the engine that wrote it",
            MIGRATIONS.len()
        ))
        .into()),
    }
}
