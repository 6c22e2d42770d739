//! Work on the pool's connections: what is tried again, what is given up on, what is done together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgPool, Postgres};
use trigger_core::Accepted;

use super::error::{Fail, Outcome};
use super::settings::PostgresSettings;
use super::settle::{Claim, Ending, Kind};
use super::{error, listen, queue, settle};
use crate::store::{Error, Result};

/// How often an operation that lost against another one is tried.
const TRIES: u32 = 5;

/// How long a connection may have been idle before it is tried out.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);

/// What the store's tasks work with.
pub(super) struct Core {
    pub(super) pool: PgPool,
    pub(super) place: String,
    /// How long an operation may take on its connection.
    pub(super) limit: Duration,
    pub(super) signals: Arc<listen::Signals>,
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
            let $connection: &mut sqlx::PgConnection = &mut acquired;
            let done = tokio::time::timeout(core.limit, $work).await;
            match core.judge(done, tries) {
                $crate::store::postgres::work::Judged::Ended(result) => break result,
                $crate::store::postgres::work::Judged::Hung(error) => {
                    // Whatever is the matter with it, nobody should have to wait for it again.
                    acquired.close_on_drop();
                    break Err(error);
                }
                $crate::store::postgres::work::Judged::Again(pause) => {
                    drop(acquired);
                    tries += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }};
}

/// What to do after a try.
pub(super) enum Judged<T> {
    Ended(Result<T>),
    Hung(Error),
    Again(Duration),
}

impl Core {
    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(|error| error::at(&self.place, Fail::from(error).into_error()))
    }

    pub(super) fn judge<T>(
        &self,
        done: std::result::Result<Outcome<T>, tokio::time::error::Elapsed>,
        tries: u32,
    ) -> Judged<T> {
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
    pub(super) async fn accept(&self, lists: Vec<Vec<queue::Row>>) -> Vec<Result<Vec<Accepted>>> {
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
    pub(super) async fn settle(&self, endings: Vec<Ending>) -> Vec<Result<bool>> {
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
    pub(super) fn due_now(&self, mut moments: impl Iterator<Item = DateTime<Utc>>) {
        let now = Utc::now();
        if moments.any(|moment| moment <= now) {
            self.signals.tell.notify_one();
        }
    }
}

/// The pool. Opens no connection yet.
pub(super) fn pool(settings: &PostgresSettings) -> PgPool {
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
