//! A database on a PostgreSQL server.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};
use futures_util::TryStreamExt as _;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgPoolOptions, PgRow, PgTypeInfo, PgTypeKind, PgValueRef};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Column as _, Decode, Encode, PgConnection, PgPool, Postgres, Row as _, Type, TypeInfo as _,
    ValueRef as _,
};
use trigger_core::BoxFuture;
use uuid::Uuid;

use super::{
    Bounds, Collected, Database, Error, MAX_SEALED, OUTBOX_PAGE, OutboxRow, Result, Rows, Settings, Transaction, Value,
};
use crate::config::Secret;
use crate::store::postgres::PostgresSettings;

/// Words that statements may not begin with: they change the connection, or a transaction that is not theirs to end.
const REFUSED: &[&str] = &[
    "abort",
    "begin",
    "commit",
    "copy",
    "deallocate",
    "discard",
    "end",
    "listen",
    "load",
    "prepare",
    "release",
    "reset",
    "rollback",
    "savepoint",
    "set",
    "start",
    "unlisten",
];

#[derive(Clone)]
pub(super) struct PostgresDatabase {
    /// `None` where the address says nothing that can be connected to; settings are checked before.
    pool: Option<PgPool>,
    read_only: bool,
    timeout: Duration,
    bounds: Bounds,
    cause: Option<String>,
}

impl PostgresDatabase {
    pub(super) fn new(address: &Secret, settings: &Settings) -> Self {
        let milliseconds = settings.timeout.as_millis().to_string();
        let pool = PostgresSettings::from_secret(address).ok().map(|address| {
            let limits = [("statement_timeout", &milliseconds), ("idle_in_transaction_session_timeout", &milliseconds)];
            PgPoolOptions::new()
                .max_connections(settings.max_connections)
                .acquire_timeout(settings.timeout)
                .after_release(|connection, _| {
                    Box::pin(async move {
                        // Nobody waits for this. What fails here closes the connection.
                        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
                        sqlx::raw_sql("DISCARD ALL").execute(&mut *connection).await?;
                        Ok(true)
                    })
                })
                .connect_lazy_with(address.options.options(limits).statement_cache_capacity(0))
        });
        Self { pool, read_only: settings.read_only, timeout: settings.timeout, bounds: settings.bounds, cause: None }
    }

    async fn session(&self) -> Result<Session> {
        let Some(pool) = &self.pool else {
            return Err(Error::Unavailable("the database's address cannot be used".to_owned()));
        };
        let connection = pool.acquire().await.map_err(told)?;
        Ok(Session { connection, busy: false, timeout: self.timeout, bounds: self.bounds })
    }

    /// A session, in a transaction where there must be one.
    async fn begin(&self, transaction: bool) -> Result<Session> {
        let mut session = self.session().await?;
        if self.read_only {
            // The first snapshot is what nobody can write behind any more, whatever the statement says.
            session.control("BEGIN READ ONLY").await?;
            session.control("SELECT 1").await?;
            return Ok(session);
        }
        // Installed triggers read it. It goes with the transaction, or when the connection is given back.
        let cause = self.cause.as_ref().map(|cause| (if transaction { "LOCAL " } else { "" }, cause));
        let cause = cause.map(|(local, cause)| format!("SET {local}tripline.cause = '{cause}'"));
        let begin = transaction.then(|| "BEGIN".to_owned());
        let statements: Vec<String> = begin.into_iter().chain(cause).collect();
        if !statements.is_empty() {
            session.control(statements.join("; ")).await?;
        }
        Ok(session)
    }
}

/// A connection in use. Dropped in the middle of a statement it is closed: nobody knows what it would answer next.
struct Session {
    connection: PoolConnection<Postgres>,
    busy: bool,
    timeout: Duration,
    bounds: Bounds,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.busy {
            self.connection.close_on_drop();
        }
    }
}

impl Session {
    async fn within<T>(&mut self, work: impl AsyncFnOnce(&mut PoolConnection<Postgres>) -> Result<T>) -> Result<T> {
        self.busy = true;
        // The server ends what runs longer; only one that is gone does not answer.
        let patience = self.timeout + Duration::from_secs(5);
        let done = tokio::time::timeout(patience, work(&mut self.connection)).await;
        let done = done.map_err(|_| Error::Unavailable("the database does not answer".to_owned()))?;
        // A statement that was cut by its bounds has more to say.
        self.busy = matches!(done, Err(Error::TooLarge(_) | Error::Unavailable(_)));
        done
    }

    async fn control(&mut self, statement: impl Into<String>) -> Result<()> {
        let statement = AssertSqlSafe(statement.into());
        self.within(async |connection| {
            sqlx::raw_sql(statement).execute(&mut **connection).await.map(drop).map_err(told)
        })
        .await
    }

    /// A transaction one of whose statements failed is rolled back by COMMIT, which says so nowhere but in its tag.
    async fn check_whole(&mut self) -> Result<()> {
        self.control("SELECT 1").await.map_err(|error| match error {
            Error::Invalid(_) => Error::Invalid("a statement of the transaction failed: it is undone".to_owned()),
            other => other,
        })
    }

    async fn query(&mut self, statement: String, parameters: Vec<Value>) -> Result<Rows> {
        check(&statement)?;
        let bounds = self.bounds;
        self.within(async |connection| {
            let mut rows = bound(statement, parameters).fetch(&mut **connection);
            let mut collected: Option<Collected> = None;
            while let Some(row) = rows.try_next().await.map_err(told)? {
                let columns = || row.columns().iter().map(|column| column.name().to_owned()).collect();
                let collected = collected.get_or_insert_with(|| Collected::new(columns(), bounds));
                collected.push(values(&row)?)?;
            }
            Ok(collected.map(|collected| collected.rows).unwrap_or_default())
        })
        .await
    }

    async fn execute(&mut self, statement: String, parameters: Vec<Value>) -> Result<u64> {
        check(&statement)?;
        self.within(async |connection| {
            let done = bound(statement, parameters).execute(&mut **connection).await.map_err(told)?;
            Ok(done.rows_affected())
        })
        .await
    }
}

impl Database for PostgresDatabase {
    fn caused_by(&self, cause: String) -> Arc<dyn Database> {
        Arc::new(Self { cause: Some(cause), ..self.clone() })
    }

    fn query(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>> {
        Box::pin(async move { self.begin(false).await?.query(statement, parameters).await })
    }

    fn execute(&self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.begin(false).await?.execute(statement, parameters).await })
    }

    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn Transaction>>> {
        Box::pin(async move { Ok(Box::new(self.begin(true).await?) as Box<dyn Transaction>) })
    }

    fn outbox(&self, engine: String, after: Uuid) -> BoxFuture<'_, Result<Vec<OutboxRow>>> {
        Box::pin(async move {
            if self.read_only {
                return Ok(Vec::new());
            }
            self.session().await?.within(async |connection| outbox(connection, engine, after).await.map_err(told)).await
        })
    }

    fn outbox_remove(&self, engine: String, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let remove = "DELETE FROM tripline_outbox WHERE engine = $1 AND id = ANY ($2)";
            let remove = sqlx::query(remove).persistent(false).bind(engine).bind(ids);
            self.session()
                .await?
                .within(async |connection| remove.execute(&mut **connection).await.map(drop).map_err(told))
                .await
        })
    }
}

impl Transaction for Session {
    fn query(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<Rows>> {
        Box::pin(self.query(statement, parameters))
    }

    fn execute(&mut self, statement: String, parameters: Vec<Value>) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.execute(statement, parameters))
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.check_whole().await?;
            self.control("COMMIT").await
        })
    }

    fn commit_with(mut self: Box<Self>, engine: String, row: OutboxRow) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.check_whole().await?;
            self.within(async |connection| outbox_add(connection, engine, row).await.map_err(told)).await?;
            self.control("COMMIT").await
        })
    }
}

/// Adds a row to an outbox. Two that make the table at the same time would be in each other's way.
async fn outbox_add(connection: &mut PgConnection, engine: String, row: OutboxRow) -> sqlx::Result<()> {
    if !outbox_exists(connection).await? {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('tripline_outbox', 0))";
        sqlx::raw_sql(lock).execute(&mut *connection).await?;
        let create = "CREATE TABLE IF NOT EXISTS tripline_outbox (
            engine text NOT NULL, id uuid NOT NULL, sealed bytea NOT NULL, PRIMARY KEY (engine, id)
        )";
        sqlx::raw_sql(create).execute(&mut *connection).await?;
    }
    let insert = "INSERT INTO tripline_outbox (engine, id, sealed) VALUES ($1, $2, $3)";
    let insert = sqlx::query(insert).persistent(false).bind(engine).bind(row.id).bind(row.sealed);
    insert.execute(connection).await?;
    Ok(())
}

async fn outbox_exists(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let exists = sqlx::query_scalar("SELECT to_regclass('tripline_outbox') IS NOT NULL");
    exists.persistent(false).fetch_one(connection).await
}

/// The next rows of an outbox, if there is one: those that begin within so many bytes.
async fn outbox(connection: &mut PgConnection, engine: String, after: Uuid) -> sqlx::Result<Vec<OutboxRow>> {
    if !outbox_exists(connection).await? {
        return Ok(Vec::new());
    }
    let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
        "SELECT o.id, CASE WHEN size > 0 THEN sealed ELSE '' END
         FROM (
            SELECT id, size, sum(size) OVER (ORDER BY id) - size AS before FROM (
                SELECT id, CASE WHEN octet_length(sealed) <= $3 THEN octet_length(sealed) ELSE 0 END AS size
                FROM tripline_outbox WHERE engine = $1 AND id > $2 ORDER BY id LIMIT $4
            ) AS sized
         ) AS page JOIN tripline_outbox o ON o.engine = $1 AND o.id = page.id
         WHERE before < $3 ORDER BY o.id",
    )
    .persistent(false)
    .bind(engine)
    .bind(after)
    .bind(MAX_SEALED as i32)
    .bind(i64::from(OUTBOX_PAGE))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, sealed)| OutboxRow { id, sealed }).collect())
}

/// Refuses what would change the connection.
fn check(statement: &str) -> Result<()> {
    let word = first_word(statement).to_ascii_lowercase();
    match REFUSED.contains(&&*word) {
        true => Err(Error::Denied(format!("a statement may not begin with {}", word.to_ascii_uppercase()))),
        false => Ok(()),
    }
}

/// The first word behind blanks and comments.
fn first_word(statement: &str) -> &str {
    let mut rest = statement.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = behind_comment(comment).trim_start();
        } else {
            break;
        }
    }
    let end = rest.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(rest.len());
    &rest[..end]
}

/// What follows a comment, which may have comments in it.
fn behind_comment(comment: &str) -> &str {
    let (mut rest, mut depth) = (comment, 1);
    while depth > 0 {
        let Some(at) = [rest.find("/*"), rest.find("*/")].into_iter().flatten().min() else { return "" };
        depth = if rest[at..].starts_with("/*") { depth + 1 } else { depth - 1 };
        rest = &rest[at + 2..];
    }
    rest
}

fn bound(statement: String, parameters: Vec<Value>) -> Query<'static, Postgres, PgArguments> {
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
    parameters.into_iter().fold(query, |query, parameter| match parameter {
        Value::Null => query.bind(Null),
        Value::Boolean(truth) => query.bind(truth),
        Value::Integer(number) => query.bind(number),
        Value::Real(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// NULL of whatever type the server infers.
struct Null;

impl Type<Postgres> for Null {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Null {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

fn values(row: &PgRow) -> Result<Vec<Value>> {
    (0..row.len())
        .map(|index| {
            let raw = row.try_get_raw(index).map_err(told)?;
            let name = row.column(index).name();
            value(raw).map_err(|why| Error::Invalid(format!("column {name:?}: {why}")))
        })
        .collect()
}

fn value(raw: PgValueRef<'_>) -> std::result::Result<Value, String> {
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let of = raw.type_info().into_owned();
    fn read<'r, T: Decode<'r, Postgres>>(raw: PgValueRef<'r>) -> std::result::Result<T, String> {
        T::decode(raw).map_err(|error| error.to_string())
    }
    let micros = |time: NaiveDateTime| time.format("%Y-%m-%dT%H:%M:%S%.f").to_string();
    Ok(match of.name() {
        "BOOL" => Value::Boolean(read(raw)?),
        "INT2" => Value::Integer(read::<i16>(raw)?.into()),
        "INT4" => Value::Integer(read::<i32>(raw)?.into()),
        "INT8" => Value::Integer(read(raw)?),
        "FLOAT4" => Value::Real(read::<f32>(raw)?.into()),
        "FLOAT8" => Value::Real(read(raw)?),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" => Value::Text(read(raw)?),
        "BYTEA" => Value::Bytes(read(raw)?),
        "JSON" | "JSONB" => Value::Text(read::<serde_json::Value>(raw)?.to_string()),
        "UUID" => Value::Text(read::<Uuid>(raw)?.to_string()),
        "TIMESTAMPTZ" => Value::Text(read::<DateTime<Utc>>(raw)?.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        "TIMESTAMP" => Value::Text(micros(read(raw)?)),
        "DATE" => Value::Text(read::<NaiveDate>(raw)?.to_string()),
        "TIME" => Value::Text(read::<NaiveTime>(raw)?.to_string()),
        "VOID" => Value::Null,
        _ if matches!(of.kind(), PgTypeKind::Enum(_)) => Value::Text(read(raw)?),
        other => return Err(format!("its type {other} has no counterpart: cast it, as in ::text")),
    })
}

/// What an error means to a guest. Where the server is, and what is the matter with it, is for the log.
fn told(error: sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = &error else {
        tracing::warn!("a guest's database cannot be used: {error}");
        return Error::Unavailable(match error {
            sqlx::Error::PoolTimedOut => "no connection came free in time".to_owned(),
            _ => "the database cannot be reached".to_owned(),
        });
    };
    let (code, message) = (database.code().unwrap_or_default().into_owned(), database.message().to_owned());
    match &*code {
        "57014" => Error::Unavailable("the statement ran longer than the database's settings allow".to_owned()),
        "40001" | "40P01" | "55P03" => Error::Conflict(message),
        "42501" | "25006" => Error::Denied(message),
        // Another number of parameters than the statement has.
        "08P01" => Error::Invalid(message),
        _ if code.starts_with("23") => Error::Constraint(code, message),
        _ if ["08", "28", "3D", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
            tracing::warn!("a guest's database cannot be used: {code}: {message}");
            Error::Unavailable("the database cannot be used now".to_owned())
        }
        _ => Error::Invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_the_connection_is_known_by_its_first_word() {
        for refused in ["COMMIT", " begin;", "-- x\nSET a = 1", "/* a /* b */ c */ Rollback", "--\n/**/end"] {
            assert!(matches!(check(refused), Err(Error::Denied(_))), "{refused}");
        }
        for sound in ["SELECT 1", "/* commit */ SELECT 1", "-- commit", "", "(SELECT 1)", "commitment", "/* open"] {
            assert_eq!(check(sound), Ok(()), "{sound}");
        }
    }
}
