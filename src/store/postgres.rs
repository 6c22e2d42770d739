//! The store in a schema of a PostgreSQL database: what several engines can share.
//!
//! No engine owns the schema. Claims are columns of the queue with the caller's clock as their measure; everything that
//! two engines could do at once is one statement, or takes a lock of the database. Operations are set-based: accepts and
//! settles that arrive together share a statement and a commit (`gather`).
//!
//! Three decisions that a reader would question:
//!
//! - Statements name no schema: each connection's `search_path` is the store's schema alone. Their text is then fixed,
//!   and so are the plans that connections keep. A pooler between engine and server must keep sessions.
//! - `NOTIFY` is sent behind the commits and not in them (`listen`): in them, it would make all commits of the server
//!   that notify wait for each other. An engine that dies in between leaves its rows to the others' polls.
//! - An operation whose connection breaks is not repeated here, since it may have been done. Its caller is told
//!   `Unavailable` and knows whether to try again. One that the server undid to resolve a conflict is repeated.

mod attempts;
mod column;
mod dead;
mod due;
mod error;
mod functions;
mod gather;
mod listen;
mod outbox;
mod prune;
mod queue;
mod schema;
mod settings;
mod settle;
mod status;
#[cfg(test)]
mod tests;
mod traces;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Postgres};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use trigger_core::{Accepted, Binding, BoxFuture, Message, Status};
use uuid::Uuid;

use self::error::{Fail, Outcome};
use self::gather::Gather;
pub use self::settings::{ParseError, PostgresSettings};
use self::settle::{Claim, Ending, Kind};
use super::{
    Claimed, DeadLetter, DeadLetterFilter, DeadLetterSummary, Deploy, Deployed, Depths, Error, FailedAttempt,
    FunctionRow, KeptDeadLetter, OutboxRow, QueuedInvocation, Redriven, Result, Retention, Settle, Store, TraceFilter,
    VersionRow,
};
use crate::functions::Digest;
use crate::traces::TraceRow;

/// How long the server has to answer at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than a statement may take its answer is waited for: it is lost then, and its connection with it.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// How often an operation that lost against another one is tried.
const TRIES: u32 = 5;

/// How long a connection may have been idle before it is tried out.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);

/// Groups of accepts, and of settles, under way at once.
const WORKERS: usize = 3;

/// The store in PostgreSQL.
pub struct PostgresStore {
    core: Arc<Core>,
    accepts: Gather<Vec<queue::Row>, Vec<Accepted>>,
    settles: Gather<Ending, bool>,
    /// Names this engine in what it publishes and tells.
    me: Uuid,
    _stop: DropGuard,
}

/// What the store's tasks work with.
struct Core {
    pool: PgPool,
    place: String,
    /// How long an operation may take on its connection.
    limit: Duration,
    signals: Arc<listen::Signals>,
}

/// Does `$work` with `$connection`, again when it lost against another operation. A macro, because no bound says yet
/// that the future of a closure which borrows its argument can move between threads.
macro_rules! on_connection {
    ($core:expr, |$connection:ident| $work:expr) => {{
        let core = &*$core;
        let mut tries = 1;
        loop {
            let mut acquired = match core.acquire().await {
                Ok(acquired) => acquired,
                Err(error) => break Err(error),
            };
            let $connection: &mut PgConnection = &mut acquired;
            let done = tokio::time::timeout(core.limit, $work).await;
            match core.judge(done, tries) {
                Judged::Ended(result) => break result,
                Judged::Hung(error) => {
                    // Whatever is the matter with it, nobody should have to wait for it again.
                    acquired.close_on_drop();
                    break Err(error);
                }
                Judged::Again(pause) => {
                    drop(acquired);
                    tries += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }};
}

/// What to do after a try.
enum Judged<T> {
    Ended(Result<T>),
    Hung(Error),
    Again(Duration),
}

impl Core {
    async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(|error| error::at(&self.place, Fail::from(error).into_error()))
    }

    fn judge<T>(&self, done: std::result::Result<Outcome<T>, tokio::time::error::Elapsed>, tries: u32) -> Judged<T> {
        match done {
            Ok(Ok(value)) => Judged::Ended(Ok(value)),
            // Those that lost against each other must not meet again.
            Ok(Err(Fail::Lost(_))) if tries < TRIES => {
                Judged::Again(Duration::from_millis(fastrand::u64(1..=10 * u64::from(tries))))
            }
            Ok(Err(fail)) => Judged::Ended(Err(error::at(&self.place, fail.into_error()))),
            Err(_) => Judged::Hung(error::at(&self.place, error::too_long(self.limit))),
        }
    }

    /// Accepts lists of rows together.
    async fn accept(&self, lists: Vec<Vec<queue::Row>>) -> Vec<Result<Vec<Accepted>>> {
        let lengths: Vec<usize> = lists.iter().map(Vec::len).collect();
        let rows: Vec<queue::Row> = lists.into_iter().flatten().collect();
        match on_connection!(self, |connection| queue::accept(connection, &rows)) {
            Ok(accepted) => {
                self.due_now(rows.iter().map(|row| row.run_at));
                let mut accepted = accepted.into_iter();
                lengths.into_iter().map(|length| Ok(accepted.by_ref().take(length).collect())).collect()
            }
            // One that cannot be written must not take the others with it.
            Err(Error::Corrupt { .. }) if lengths.len() > 1 => {
                let mut answers = Vec::with_capacity(lengths.len());
                let mut rest = rows.as_slice();
                for length in lengths {
                    let (list, others) = rest.split_at(length);
                    rest = others;
                    answers.push(on_connection!(self, |connection| queue::accept(connection, list)));
                }
                self.signals.tell.notify_one();
                answers
            }
            Err(error) => lengths.into_iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Ends claims together.
    async fn settle(&self, endings: Vec<Ending>) -> Vec<Result<bool>> {
        let mut answers: Vec<Result<bool>> = endings.iter().map(|_| Ok(false)).collect();
        let mut seen: HashSet<Claim> = HashSet::with_capacity(endings.len());
        // A claim ends once: whoever names it a second time has lost it.
        let firsts: Vec<usize> = (0..endings.len()).filter(|index| seen.insert(endings[*index].claim)).collect();
        for kind in Kind::ALL {
            let mut of_kind: Vec<usize> =
                firsts.iter().copied().filter(|index| endings[*index].kind() == kind).collect();
            // In one order everywhere, so that groups which touch the same rows wait for each other instead of both.
            of_kind.sort_by_key(|index| endings[*index].claim);
            if !of_kind.is_empty() {
                self.settle_kind(kind, &endings, &of_kind, &mut answers).await;
            }
        }
        answers
    }

    async fn settle_kind(&self, kind: Kind, endings: &[Ending], of_kind: &[usize], answers: &mut [Result<bool>]) {
        let group: Vec<&Ending> = of_kind.iter().map(|index| &endings[*index]).collect();
        match on_connection!(self, |connection| settle::settle(connection, kind, &group)) {
            Ok(ended) => of_kind.iter().for_each(|index| answers[*index] = Ok(ended.contains(&endings[*index].claim))),
            Err(Error::Corrupt { .. }) if group.len() > 1 => {
                for index in of_kind {
                    let alone = [&endings[*index]];
                    let ended = on_connection!(self, |connection| settle::settle(connection, kind, &alone));
                    answers[*index] = ended.map(|ended| !ended.is_empty());
                }
            }
            Err(error) => of_kind.iter().for_each(|index| answers[*index] = Err(error.clone())),
        }
        if kind == Kind::HandBack {
            self.signals.tell.notify_one();
        }
    }

    /// Tells the other engines of rows that are due already. One that is due later is its own engine's to wait for, and
    /// a poll's if that engine is gone.
    fn due_now(&self, mut moments: impl Iterator<Item = DateTime<Utc>>) {
        let now = Utc::now();
        if moments.any(|moment| moment <= now) {
            self.signals.tell.notify_one();
        }
    }
}

impl PostgresStore {
    /// Connects, and makes the schema or brings it up to date. A server that is away is an error.
    pub async fn open(settings: PostgresSettings) -> Result<Self> {
        let place = settings.place.clone();
        Self::connect(settings).await.map_err(|error| error::at(&place, error))
    }

    async fn connect(settings: PostgresSettings) -> Result<Self> {
        // Not through the pool, which tries again until its time is over and then knows no reason.
        let connect = PgConnection::connect_with(&settings.options);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        let mut connection =
            connected.map_err(|_| error::too_long(CONNECT_TIMEOUT))?.map_err(|error| Fail::from(error).into_error())?;
        schema::migrate(&mut connection, &settings.schema).await.map_err(Fail::into_error)?;
        // A connection that ends badly is of no consequence any more.
        let _ = connection.close().await;

        let core = Arc::new(Core {
            pool: pool(&settings),
            place: settings.place.clone(),
            limit: settings.statement_timeout + ANSWER_GRACE,
            signals: Arc::default(),
        });
        let (tasks, stop, me) = (TaskTracker::new(), CancellationToken::new(), Uuid::now_v7());
        let (pool, channel, signals) = (core.pool.clone(), settings.channel(), core.signals.clone());
        tasks.spawn(listen::tell(pool, channel, me, signals.clone(), stop.clone()));
        tasks.spawn(listen::hear(settings, me, signals, stop.clone()));
        let (accepting, settling) = (core.clone(), core.clone());
        Ok(Self {
            accepts: Gather::start(&tasks, WORKERS, move |lists| {
                let core = accepting.clone();
                Box::pin(async move { core.accept(lists).await })
            }),
            settles: Gather::start(&tasks, WORKERS, move |endings| {
                let core = settling.clone();
                Box::pin(async move { core.settle(endings).await })
            }),
            core,
            me,
            _stop: stop.drop_guard(),
        })
    }
}

fn pool(settings: &PostgresSettings) -> PgPool {
    let schema: Arc<str> = settings.schema.as_str().into();
    let milliseconds = settings.statement_timeout.as_millis().to_string();
    let durable = settings.durable;
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > IDLE_TRUSTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            let (schema, milliseconds) = (schema.clone(), milliseconds.clone());
            Box::pin(async move {
                sqlx::query(
                    "SELECT set_config('search_path', $1, false), set_config('statement_timeout', $2, false),
                        set_config('idle_in_transaction_session_timeout', $2, false)",
                )
                .bind(&*schema)
                .bind(milliseconds)
                .execute(&mut *connection)
                .await?;
                if !durable {
                    sqlx::raw_sql("SET synchronous_commit = off").execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(settings.options.clone())
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn deploy(&self, namespace: String, functions: Vec<Deploy>) -> BoxFuture<'_, Result<Vec<Deployed>>> {
        Box::pin(async move {
            // Hashing megabytes belongs on a thread that may take its time.
            let (functions, digests) = blocking(move || {
                let digests = functions::check(&namespace, &functions)?;
                Ok(((namespace, functions), digests))
            })
            .await?;
            let (namespace, functions) = functions;
            on_connection!(self.core, |connection| functions::deploy(connection, &namespace, &functions, &digests))
        })
    }

    fn functions(&self) -> BoxFuture<'_, Result<Vec<FunctionRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| functions::routed(connection)) })
    }

    fn versions(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Vec<VersionRow>>> {
        Box::pin(
            async move { on_connection!(self.core, |connection| functions::versions(connection, &namespace, &name)) },
        )
    }

    fn version(&self, namespace: String, name: String, number: u32) -> BoxFuture<'_, Result<Option<VersionRow>>> {
        Box::pin(async move {
            on_connection!(self.core, |connection| functions::version(connection, &namespace, &name, number))
        })
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(async move {
            let bytes = on_connection!(self.core, |connection| functions::module(connection, digest))?;
            let Some(bytes) = bytes else { return Ok(None) };
            blocking(move || {
                if Digest::of(&bytes) == digest {
                    return Ok(Some(Bytes::from(bytes)));
                }
                let why = "its bytes have another digest; deploy it again".to_owned();
                Err(Error::Corrupt { what: format!("module {digest}"), why })
            })
            .await
        })
    }

    fn accept(&self, queued: Vec<QueuedInvocation>) -> BoxFuture<'_, Result<Vec<Accepted>>> {
        Box::pin(async move {
            let rows: Vec<queue::Row> = queued.iter().map(queue::Row::new).collect();
            let bytes = rows.iter().map(queue::Row::bytes).sum();
            self.accepts.run(rows, bytes).await
        })
    }

    fn keep(&self, queued: QueuedInvocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let row = queue::Row::new(&queued).without_key();
            on_connection!(self.core, |connection| queue::insert(connection, &row))?;
            self.core.due_now(std::iter::once(queued.run_at));
            Ok(())
        })
    }

    fn claim(&self, now: DateTime<Utc>, lease_until: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<Claimed>>> {
        Box::pin(async move {
            loop {
                let token = Uuid::now_v7();
                let rows = on_connection!(self.core, |connection| {
                    queue::claim(connection, now, lease_until, token, limit)
                })?;
                let mut claimed = Vec::with_capacity(rows.len());
                let mut parked = Vec::new();
                for row in rows {
                    match row.read(token) {
                        Ok(row) => claimed.push(row),
                        Err(unreadable) => parked.push(unreadable),
                    }
                }
                if parked.is_empty() {
                    return Ok(claimed);
                }
                for row in parked {
                    match on_connection!(self.core, |connection| queue::park(connection, &row, token)) {
                        Ok(()) => {}
                        Err(error) if claimed.is_empty() => return Err(error),
                        // They come again when their lease has run out; the others need not wait for that.
                        Err(error) => {
                            tracing::error!("unreadable events could not be parked: {error}");
                            return Ok(claimed);
                        }
                    }
                }
                if !claimed.is_empty() {
                    return Ok(claimed);
                }
            }
        })
    }

    fn renew(&self, claims: Vec<(Uuid, Uuid)>, lease_until: DateTime<Utc>) -> BoxFuture<'_, Result<Vec<Uuid>>> {
        Box::pin(async move { on_connection!(self.core, |connection| queue::renew(connection, &claims, lease_until)) })
    }

    fn settle(&self, invocation_id: Uuid, token: Uuid, settle: Settle) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let ending = Ending::new((invocation_id, token), &settle)?;
            let bytes = ending.bytes();
            self.settles.run(ending, bytes).await
        })
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>> {
        Box::pin(async move { on_connection!(self.core, |connection| queue::next_due(connection)) })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.core.signals.woken.notified())
    }

    fn bury(&self, dead: Box<DeadLetter>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let row = dead::Row::new(&dead);
            on_connection!(self.core, |connection| dead::insert(connection, &row))
        })
    }

    fn remember_attempt(&self, invocation_id: Uuid, attempt: FailedAttempt) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            on_connection!(self.core, |connection| attempts::remember(connection, invocation_id, &attempt))
        })
    }

    fn remembered_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Vec<FailedAttempt>>> {
        Box::pin(async move { on_connection!(self.core, |connection| attempts::remembered(connection, invocation_id)) })
    }

    fn forget_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { on_connection!(self.core, |connection| attempts::forget(connection, invocation_id)) })
    }

    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>>> {
        Box::pin(async move { on_connection!(self.core, |connection| status::of(connection, invocation_id)) })
    }

    fn last_scheduled(&self, binding: Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>> {
        Box::pin(async move { on_connection!(self.core, |connection| queue::last_scheduled(connection, &binding)) })
    }

    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetterSummary>>> {
        Box::pin(async move { on_connection!(self.core, |connection| dead::list(connection, &filter)) })
    }

    fn dead_letter(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<KeptDeadLetter>>> {
        Box::pin(async move { on_connection!(self.core, |connection| dead::get(connection, invocation_id, false)) })
    }

    fn redrive(&self, invocation_id: Uuid, run_at: DateTime<Utc>) -> BoxFuture<'_, Result<Redriven>> {
        Box::pin(async move {
            let redriven = on_connection!(self.core, |connection| dead::redrive(connection, invocation_id, run_at))?;
            if redriven == Redriven::Queued {
                self.core.due_now(std::iter::once(run_at));
            }
            Ok(redriven)
        })
    }

    fn outbox_add(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let rows: Vec<outbox::Row> = messages.iter().map(outbox::Row::new).collect();
            on_connection!(self.core, |connection| outbox::add(connection, &rows))
        })
    }

    fn outbox_due(&self, now: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| outbox::due(connection, self.me, now, limit)) })
    }

    fn outbox_sent(&self, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { on_connection!(self.core, |connection| outbox::sent(connection, &ids)) })
    }

    fn outbox_failed(&self, id: Uuid, retry_at: DateTime<Utc>, error: String) -> BoxFuture<'_, Result<()>> {
        Box::pin(
            async move { on_connection!(self.core, |connection| outbox::failed(connection, id, retry_at, &error)) },
        )
    }

    fn write_traces(&self, rows: Vec<TraceRow>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { on_connection!(self.core, |connection| traces::insert(connection, &rows)) })
    }

    fn traces(&self, filter: TraceFilter) -> BoxFuture<'_, Result<Vec<TraceRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| traces::list(connection, &filter)) })
    }

    fn depths(&self) -> BoxFuture<'_, Result<Depths>> {
        Box::pin(async move { on_connection!(self.core, |connection| queue::depths(connection)) })
    }

    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { on_connection!(self.core, |connection| prune::step(connection, &retention)) })
    }
}

/// Does what takes long without waiting on a thread that may do so.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Unavailable(format!("the operation ended early: {error}"))))
}
