//! Changes of a table in PostgreSQL.
//!
//! The outbox is the truth: a change is read, kept in the engine's store, and only then removed, in the transaction that
//! locked it. Whatever dies in between leaves it there, and its identity makes the second reading no second event. There
//! is no position to remember, so a transaction that began early and commits late is read when it has committed. A
//! notification is a hint; without one the outbox is looked at once a second.
//!
//! Engines share an outbox by skipping what others have locked. Where changes are in order one of them reads at a time,
//! or what one holds could be overtaken by what another one has read behind it.

pub(crate) mod install;
mod sql;

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, Connection as _, PgPool};
use trigger_core::TriggerContext;

use crate::config::{Operation, TableSettings};
use crate::outbox::{Change, HandedOver, MAX_BATCH_BYTES, MAX_CHANGE, Origin, hand_over};
use crate::plan::{Installation, Wanted};
use crate::session::{self, FIRST_PAUSE, LONGEST_PAUSE, jittered, lock_key, told, within};
use crate::{Place, Server};

/// How often the outbox is looked at though nobody said that there is something.
const POLL: Duration = Duration::from_secs(1);

/// How often it is looked whether what captures changes is still there, and where it is not, whether it is by now.
const INSPECTION: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_millis(500);

/// Changes of one table for one function.
pub struct PostgresTrigger {
    server: Server,
    origin: Origin,
    batch: u32,
    installs: bool,
}

/// Why reading came to an end.
enum Ended {
    /// It was asked to.
    Stopped,
    /// The database is away.
    Lost(String),
}

/// What a look at the outbox came to.
enum Look {
    /// There is nothing for this engine.
    Empty,
    /// There may be more.
    More,
    /// The engine cannot take what there is.
    Waits(String),
}

impl PostgresTrigger {
    pub(crate) fn new(database: &str, server: Server, settings: TableSettings, installs: bool) -> Self {
        let origin = Origin { dialect: "postgres", database: database.to_owned(), capture: settings.capture };
        Self { server, origin, batch: settings.batch, installs }
    }

    pub(crate) async fn run(self, cx: TriggerContext) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = tokio::time::Instant::now();
            let pool = session::pool(&self.server, &cx.binding, 2);
            let ended = match self.serve(&cx, &pool).await {
                Ok(()) => Ended::Stopped,
                Err(why) => Ended::Lost(why),
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), pool.close()).await;
            match ended {
                Ended::Stopped => return,
                Ended::Lost(why) => cx.degraded(format!("{why}; changes wait in the database")),
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = cx.shutdown.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads until asked to stop, or until the database is away.
    async fn serve(&self, cx: &TriggerContext, pool: &PgPool) -> Result<(), String> {
        let starting = async {
            session::probe(&self.server).await?;
            let reader = within(async {
                let mut reader = pool.acquire().await?;
                // What an engine that was stopped in the middle holds is another one's after that.
                let bounds = "SET idle_in_transaction_session_timeout = '30s'; SET statement_timeout = '30s'";
                sqlx::raw_sql(bounds).execute(&mut *reader).await?;
                Ok(reader)
            });
            let mut listener = within(PgListener::connect_with(pool)).await?;
            listener.ignore_pool_close_event(true);
            listener.eager_reconnect(false);
            // Before the first look, so that nothing is written in between.
            within(listener.listen(&self.server.schema)).await?;
            Ok::<_, String>((reader.await?, listener))
        };
        let (mut reader, mut listener) = tokio::select! {
            started = starting => started?,
            () = cx.shutdown.cancelled() => return Ok(()),
        };
        loop {
            let id = tokio::select! {
                id = self.installed(cx, &mut reader) => id?,
                () = cx.shutdown.cancelled() => return Ok(()),
            };
            let inspected = tokio::time::Instant::now();
            while inspected.elapsed() < INSPECTION {
                if cx.shutdown.is_cancelled() {
                    return Ok(());
                }
                let look = {
                    let _busy = cx.clock.busy(|| format!("changes for {}", cx.binding.path()));
                    self.look(cx, &mut reader, id).await?
                };
                match look {
                    Look::More => cx.healthy(),
                    Look::Empty => {
                        cx.healthy();
                        tokio::select! {
                            woken = woken(&mut listener, id) => woken?,
                            () = tokio::time::sleep(jittered(POLL)) => {}
                            () = cx.shutdown.cancelled() => return Ok(()),
                        }
                    }
                    Look::Waits(why) => {
                        cx.degraded(format!("changes cannot be taken over, trying again: {why}"));
                        tokio::select! {
                            () = tokio::time::sleep(jittered(POLL)) => {}
                            () = cx.shutdown.cancelled() => return Ok(()),
                        }
                    }
                }
            }
        }
    }

    /// The number of what captures this trigger's changes; waits for it to be installed as it is wanted.
    async fn installed(&self, cx: &TriggerContext, reader: &mut PgConnection) -> Result<i32, String> {
        let wanted = Wanted { trigger: cx.binding.path(), capture: self.origin.capture.clone() };
        let place = || Place::Postgres(self.server.clone());
        loop {
            let found = match install::installed(reader, &self.server.schema, Some(&wanted.trigger)).await {
                Ok(found) => found.and_then(|mut found| found.remove(&wanted.trigger)),
                Err(sqlx::Error::Database(why)) if why.code().as_deref() == Some("42501") => {
                    return Err(self.no_right(why.message()));
                }
                Err(error) => return Err(told(&error)),
            };
            let state = match &found {
                Some(installed) if installed.is(&wanted) => return Ok(installed.id),
                Some(_) => "installed otherwise than the manifest says",
                None => "not installed",
            };
            let database = &self.origin.database;
            let why = format!("the trigger is {state} in database {database}: run tripline database apply");
            if self.installs {
                let (trigger, capture) = (wanted.trigger.clone(), wanted.capture.clone());
                let applied = Installation::of_one(database, place(), trigger, capture).apply(false).await?;
                match applied.problems.first() {
                    None => continue,
                    Some(problem) => cx.degraded(format!("the trigger is {state}: {problem}")),
                }
            } else {
                cx.degraded(why);
            }
            tokio::time::sleep(WAIT).await;
        }
    }

    fn no_right(&self, message: &str) -> String {
        let (schema, user) = (sql::name(&self.server.schema), sql::name(self.server.options.get_username()));
        format!(
            "{message}: GRANT USAGE ON SCHEMA {schema} TO {user}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}"
        )
    }

    /// Takes over the next changes.
    async fn look(&self, cx: &TriggerContext, reader: &mut PgConnection, id: i32) -> Result<Look, String> {
        let schema = sql::name(&self.server.schema);
        let mut transaction = within(reader.begin()).await?;
        if self.origin.capture.is_ordered() {
            let key = lock_key(&format!("{}/{}", self.server.schema, id));
            let turn = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(key);
            if !within(turn.fetch_one(&mut *transaction)).await? {
                within(transaction.rollback()).await?;
                return Ok(Look::Empty);
            }
        }
        let changes = within(read(&mut transaction, &schema, id, self.batch)).await;
        let changes = changes.map_err(|why| match why.contains("permission denied") {
            true => self.no_right(&why),
            false => why,
        })?;
        if changes.is_empty() {
            within(transaction.rollback()).await?;
            return Ok(Look::Empty);
        }
        let HandedOver { taken, refused, waits } = hand_over(cx, &self.origin, changes).await;
        let (refused, why): (Vec<i64>, Vec<String>) =
            refused.into_iter().map(|(change, why)| (change, why.into_owned())).unzip();
        within(async {
            if !taken.is_empty() {
                let remove = format!("DELETE FROM {schema}.changes WHERE trigger = $1 AND id = ANY ($2)");
                sqlx::query(AssertSqlSafe(remove)).bind(id).bind(&taken).execute(&mut *transaction).await?;
            }
            if !refused.is_empty() {
                let aside = format!(
                    "WITH why AS (SELECT * FROM unnest($2::bigint[], $3::text[]) AS why (id, why)),
                     gone AS (DELETE FROM {schema}.changes c USING why
                         WHERE c.trigger = $1 AND c.id = why.id RETURNING c.*, why.why)
                     INSERT INTO {schema}.refused
                         (trigger, id, xid, at, operation, key, cause, old_row, new_row, why)
                     SELECT trigger, id, xid, at, operation, key, cause, old_row, new_row, why FROM gone"
                );
                let aside = sqlx::query(AssertSqlSafe(aside)).bind(id).bind(&refused).bind(&why);
                aside.execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await?;
        Ok(waits.map_or(Look::More, Look::Waits))
    }
}

/// A row of the outbox, as it is asked for.
type Row = (i64, String, i64, String, Option<String>, Option<String>, Option<String>, Option<String>, bool);

/// Locks the next changes and reads them: those that begin within so many bytes. One is locked by whoever reads it
/// first, and skipped by the others.
async fn read(connection: &mut PgConnection, schema: &str, id: i32, batch: u32) -> sqlx::Result<Vec<Change>> {
    let ask = format!(
        "SELECT c.id, c.xid::text, (extract(epoch FROM c.at) * 1000000)::bigint, c.operation, left(c.key, 255),
            left(c.cause, 300),
            CASE WHEN page.size <= $4 THEN c.old_row END, CASE WHEN page.size <= $4 THEN c.new_row END,
            page.size > $4
         FROM (
            SELECT id, size, sum(least(size, $4)) OVER (ORDER BY id) - least(size, $4) AS before FROM (
                SELECT id, coalesce(octet_length(old_row), 0)::bigint + coalesce(octet_length(new_row), 0) AS size
                FROM {schema}.changes WHERE trigger = $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
            ) AS locked
         ) AS page JOIN {schema}.changes c ON c.trigger = $1 AND c.id = page.id
         WHERE page.before < $3 ORDER BY c.id"
    );
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(ask))
        .bind(id)
        .bind(i64::from(batch))
        .bind(MAX_BATCH_BYTES as i64)
        .bind(MAX_CHANGE as i64)
        .fetch_all(connection)
        .await?;
    let change = |(id, xid, at_micros, operation, key, cause, old, new, too_large): Row| {
        let operation = Operation::parse(&operation)?;
        Some(Change { id, xid: Some(xid), at_micros, operation, key, cause, old, new, too_large })
    };
    Ok(rows.into_iter().filter_map(change).collect())
}

/// Ends when somebody says that there are changes of this trigger, however many said so.
async fn woken(listener: &mut PgListener, id: i32) -> Result<(), String> {
    let id = id.to_string();
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) if notification.payload() == id => break,
            Ok(Some(_)) => {}
            Ok(None) => return Err("the connection to the server was lost".to_owned()),
            Err(error) => return Err(told(&error)),
        }
    }
    while let Ok(another) = tokio::time::timeout(Duration::ZERO, listener.try_recv()).await {
        if !matches!(another, Ok(Some(_))) {
            return Err("the connection to the server was lost".to_owned());
        }
    }
    Ok(())
}
