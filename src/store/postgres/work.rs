//! Work on the pool's connections: what is tried again, what is given up on, what is done together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgPool, Postgres};
use trigger_core::{Binding, Clock};

use super::accept::{self, List};
use super::bindings::{self, Bindings};
use super::due::Due;
use super::error::{Fail, Outcome};
use super::row::Row;
use super::settings::PostgresSettings;
use super::settle::{self, Ending, Kind};
use super::{decide, error, listen};
use crate::store::{Admitted, Error, QueuedInvocation, Result};

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
    pub(super) bindings: Bindings,
    /// What rows are stamped by.
    pub(super) clock: Clock,
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

    /// The numbers of triggers, in the order of the question.
    pub(super) async fn binding_ids(&self, of: &[&Arc<Binding>]) -> Result<Vec<i64>> {
        loop {
            let known: Vec<Option<i64>> = of.iter().map(|binding| self.bindings.id(binding)).collect();
            let missing = of.iter().zip(&known).filter(|(_, id)| id.is_none()).map(|(binding, _)| &***binding);
            let missing: Vec<&Binding> = missing.collect();
            if missing.is_empty() {
                return Ok(known.into_iter().flatten().collect());
            }
            let found = on_connection!(self, |connection| bindings::resolve(connection, &missing))?;
            self.bindings.learn(found);
        }
    }

    /// Rows to be written.
    pub(super) async fn rows(&self, queued: &[QueuedInvocation]) -> Result<Vec<Row>> {
        let of: Vec<&Arc<Binding>> = queued.iter().map(|queued| &queued.invocation.binding).collect();
        let ids = self.binding_ids(&of).await?;
        Ok(queued.iter().zip(ids).map(|(queued, id)| Row::new(queued, id)).collect())
    }

    /// The triggers of claimed rows.
    pub(super) async fn bindings_of(&self, rows: &[Due]) -> Result<Vec<Arc<Binding>>> {
        let missing: Vec<i64> =
            rows.iter().map(|row| row.binding_id).filter(|id| self.bindings.binding(*id).is_none()).collect();
        if !missing.is_empty() {
            let found = on_connection!(self, |connection| bindings::of(connection, &missing))?;
            self.bindings.learn(found);
        }
        let of = |row: &Due| {
            let unknown = || Error::Corrupt {
                what: "a queued event".to_owned(),
                why: format!("the table `bindings` has no row {}", row.binding_id),
            };
            self.bindings.binding(row.binding_id).ok_or_else(unknown)
        };
        rows.iter().map(of).collect()
    }

    /// Accepts lists of rows together: those that need no locks with one statement, the others in one transaction.
    pub(super) async fn accept(&self, lists: Vec<List>) -> Vec<Result<Vec<Admitted>>> {
        let since = self.clock.now();
        let mut answers: Vec<Result<Vec<Admitted>>> = lists.iter().map(|_| Ok(Vec::new())).collect();
        let (with_keys, without): (Vec<usize>, Vec<usize>) =
            (0..lists.len()).partition(|index| lists[*index].needs_locks());
        for group in [without, with_keys] {
            if !group.is_empty() {
                self.accept_group(&lists, &group, &mut answers).await;
            }
        }
        for (list, answer) in lists.iter().zip(&answers) {
            let Ok(admitted) = answer else { continue };
            let left = list
                .rows
                .iter()
                .zip(admitted)
                .filter(|(_, admitted)| matches!(admitted, Admitted::New { claimed: false, .. }));
            self.due(since, left.map(|(row, _)| row.run_at));
        }
        answers
    }

    async fn accept_group(&self, lists: &[List], group: &[usize], answers: &mut [Result<Vec<Admitted>>]) {
        let together: Vec<&List> = group.iter().map(|index| &lists[*index]).collect();
        match self.accept_lists(&together).await {
            Ok(admitted) => {
                group.iter().zip(admitted).for_each(|(index, admitted)| answers[*index] = Ok(admitted));
            }
            // One that cannot be written must not take the others with it.
            Err(Error::Corrupt { .. }) if together.len() > 1 => {
                for index in group {
                    let alone = self.accept_lists(&[&lists[*index]]).await;
                    answers[*index] = alone.map(|mut admitted| admitted.pop().unwrap_or_default());
                }
            }
            Err(error) => group.iter().for_each(|index| answers[*index] = Err(error.clone())),
        }
    }

    async fn accept_lists(&self, lists: &[&List]) -> Result<Vec<Vec<Admitted>>> {
        let now = self.clock.now();
        if lists.iter().any(|list| list.needs_locks()) {
            return on_connection!(self, |connection| decide::accept_locked(connection, lists, now));
        }
        on_connection!(self, |connection| accept::accept(connection, lists, now))
    }

    /// Ends claims together.
    pub(super) async fn settle(&self, endings: Vec<Ending>) -> Vec<Result<bool>> {
        let mut answers: Vec<Result<bool>> = endings.iter().map(|_| Ok(false)).collect();
        let mut seen = HashSet::with_capacity(endings.len());
        // A claim ends once: whoever names it a second time has lost it.
        let firsts: Vec<usize> = (0..endings.len()).filter(|index| seen.insert(endings[*index].held())).collect();
        for (kind, locks) in Kind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let is_of = |ending: &Ending| ending.kind() == kind && ending.needs_locks() == locks;
            let mut of_kind: Vec<usize> = firsts.iter().copied().filter(|index| is_of(&endings[*index])).collect();
            // In one order everywhere, so that groups which touch the same rows wait for each other instead of both.
            of_kind.sort_by_key(|index| endings[*index].held());
            if !of_kind.is_empty() {
                self.settle_kind(kind, &endings, &of_kind, &mut answers).await;
            }
        }
        answers
    }

    async fn settle_kind(&self, kind: Kind, endings: &[Ending], of_kind: &[usize], answers: &mut [Result<bool>]) {
        let since = self.clock.now();
        let group: Vec<&Ending> = of_kind.iter().map(|index| &endings[*index]).collect();
        match on_connection!(self, |connection| settle::settle(connection, kind, &group, since)) {
            Ok(ended) => of_kind.iter().for_each(|index| answers[*index] = Ok(ended.contains(&endings[*index].held()))),
            Err(Error::Corrupt { .. }) if group.len() > 1 => {
                for index in of_kind {
                    let alone = [&endings[*index]];
                    let ended = on_connection!(self, |connection| settle::settle(connection, kind, &alone, since));
                    answers[*index] = ended.map(|ended| !ended.is_empty());
                }
            }
            Err(error) => of_kind.iter().for_each(|index| answers[*index] = Err(error.clone())),
        }
        // What was handed back, and whose turn it is behind an ordered row, is anybody's.
        if kind == Kind::HandBack || group.iter().any(|ending| ending.claim.ordered && ending.needs_locks()) {
            self.changed();
        }
        self.due(since, group.iter().flat_map(|ending| ending.due_again().into_iter().chain(ending.events_due())));
    }

    /// Rows that were written since `since` are due at these moments. The other engines are told of those that are due
    /// already. One that is due later is its own engine's to wait for, and a poll's if that engine is gone.
    pub(super) fn due(&self, since: DateTime<Utc>, moments: impl Iterator<Item = DateTime<Utc>>) {
        let now = self.clock.now();
        let mut tell = false;
        for moment in moments {
            // Those that were due when they were written are ready.
            if moment > since {
                self.signals.waiting.add(moment);
            }
            tell |= moment <= now;
        }
        if tell {
            self.signals.tell.notify_one();
        }
    }

    /// Rows have changed in a way that others, and the next claim here, have to look for.
    pub(super) fn changed(&self) {
        self.signals.waiting.forget();
        self.signals.tell.notify_one();
    }
}

/// What a connection is set to: `$1` is the schema, `$2` how long a statement may take.
///
/// Planning a claim takes longer than making it, so plans are made once for a connection and kept. They must then not
/// depend on what the tables held at that moment: a queue that is empty when the engine starts is read from end to end
/// as cheaply as by its index, and a day later is not. So rows are found by indexes, and tables joined by way of them,
/// wherever that can be done at all.
///
/// Where rows are looked up that a list names, their ids are compared by `= ANY (ARRAY[id])`. It says the same as `=`,
/// but no order of an index helps with it: else the whole index of a queue that was empty when the plan was made would be
/// read, in its order, for each row that ends.
pub(super) const SESSION: &str = "
    SELECT set_config('search_path', $1, false), set_config('statement_timeout', $2, false),
        set_config('idle_in_transaction_session_timeout', $2, false),
        set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),
        set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
        set_config('enable_mergejoin', 'off', false)
";

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
                sqlx::query(SESSION).bind(&*schema).bind(milliseconds).execute(&mut *connection).await?;
                if !durable {
                    sqlx::raw_sql("SET synchronous_commit = off").execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(settings.options.clone())
}
