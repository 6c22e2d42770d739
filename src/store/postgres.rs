//! The store in a schema of a PostgreSQL database: what several engines can share.
//!
//! No engine owns the schema. Claims are columns of the queue with the caller's clock as their measure; everything that
//! two engines could do at once is one statement, or takes a lock of the database. Operations are set-based: accepts and
//! settles that arrive together share a statement and a commit (`gather`).
//!
//! Four decisions that a reader would question:
//!
//! - A step is one statement, and a commit of its own, wherever rows need no agreement with others. Ordering and unique
//!   keys do: what is said of them is decided in transactions, under advisory locks of the keys (`lock`, `decide`).
//! - Statements name no schema: each connection's `search_path` is the store's schema alone. Their text is then fixed,
//!   and so are the plans that connections keep. A pooler between engine and server must keep sessions.
//! - `NOTIFY` is sent behind the commits and not in them (`listen`): in them, it would make all commits of the server
//!   that notify wait for each other. An engine that dies in between leaves its rows to the others' polls.
//! - An operation whose connection breaks is not repeated here, since it may have been done. Its caller is told
//!   `Unavailable` and knows whether to try again. One that the server undid to resolve a conflict is repeated.

// Those that define macros come before those that use them.
#[macro_use]
mod work;
#[macro_use]
mod ledger;
#[macro_use]
mod fires;
#[macro_use]
mod cancel;

mod accept;
mod attempts;
mod bindings;
mod bulk;
mod claim;
mod column;
mod dead;
mod decide;
mod due;
mod error;
mod functions;
mod gather;
mod kv;
mod list;
mod listen;
mod lock;
mod outbox;
mod prune;
mod release;
mod row;
mod schema;
mod settings;
mod settle;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod traces;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use trigger_core::{Binding, BoxFuture, Cancelled, Clock, Fingerprint, Message, Progress, SkippedFire, Status};
use uuid::Uuid;

use self::error::Fail;
use self::gather::Gather;
pub use self::settings::{ParseError, PostgresSettings};
use self::settle::Ending;
use self::work::Core;
use super::{
    Accept, Admitted, BlockedKey, Claim, ClaimRequest, Claimed, DeadLetter, DeadLetterPage, DeadLetterPosition,
    DeadLetterSelector, DeadLetterSummary, Deploy, Deployed, Depths, Error, FailedAttempt, FireFilter, FireRow,
    FunctionRow, KeptDeadLetter, KvBucket, KvEntry, KvLimits, KvWrite, KvWritten, LedgerRow, OutboxRow, Pause, Pruned,
    QueueFilter, QueueRow, QueuedInvocation, RedriveState, Redriven, Release, Renewed, Result, Retention,
    SelectedDeadLetter, Settle, Store, Tally, TokenRow, TraceFilter, VersionRow,
};
use crate::functions::Digest;
use crate::traces::TraceRow;

/// How long the server has to answer at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than a statement may take its answer is waited for: it is lost then, and its connection with it.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Groups of accepts, and of settles, under way at once.
const WORKERS: usize = 3;

/// The store in PostgreSQL.
pub struct PostgresStore {
    core: Arc<Core>,
    accepts: Gather<accept::List, Vec<Admitted>>,
    settles: Gather<Ending, bool>,
    /// Names this engine in what it publishes and tells.
    me: Uuid,
    /// How long a message that was read is this engine's to publish.
    lease: TimeDelta,
    _stop: DropGuard,
}

impl PostgresStore {
    /// Connects, and makes the schema or brings it up to date. A server that is away is an error.
    pub async fn open(settings: PostgresSettings) -> Result<Self> {
        Self::open_on(settings, Clock::system()).await
    }

    /// The same; rows are stamped by this clock.
    pub async fn open_on(settings: PostgresSettings, clock: Clock) -> Result<Self> {
        let place = settings.place.clone();
        Self::connect(settings, clock).await.map_err(|error| error::at(&place, error))
    }

    async fn connect(settings: PostgresSettings, clock: Clock) -> Result<Self> {
        // Not through the pool, which tries again until its time is over and then knows no reason.
        let connect = PgConnection::connect_with(&settings.options);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        let mut connection =
            connected.map_err(|_| error::too_long(CONNECT_TIMEOUT))?.map_err(|error| Fail::from(error).into_error())?;
        schema::migrate(&mut connection, &settings.schema).await.map_err(Fail::into_error)?;
        // A connection that ends badly is of no consequence any more.
        let _ = connection.close().await;

        let core = Arc::new(Core {
            pool: work::pool(&settings),
            place: settings.place.clone(),
            limit: settings.statement_timeout + ANSWER_GRACE,
            signals: Arc::default(),
            bindings: bindings::Bindings::default(),
            clock,
        });
        let lease = TimeDelta::from_std(settings.lease).unwrap_or(TimeDelta::MAX);
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
            lease,
            _stop: stop.drop_guard(),
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn deploy(&self, namespace: String, functions: Vec<Deploy>) -> BoxFuture<'_, Result<Vec<Deployed>>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            // Hashing megabytes belongs on a thread that may take its time.
            let (functions, digests) = blocking(move || {
                let digests = functions::check(&namespace, &functions)?;
                Ok(((namespace, functions), digests))
            })
            .await?;
            let (namespace, functions) = functions;
            on_connection!(self.core, |connection| functions::deploy(connection, &namespace, &functions, &digests, now))
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

    fn accept(&self, accept: Accept) -> BoxFuture<'_, Result<Vec<Admitted>>> {
        Box::pin(async move {
            let rows = self.core.rows(&accept.queued).await?;
            let Accept { lease, max_backlog, keep_until, .. } = accept;
            let list = accept::List { rows, lease, max_backlog, keep_until };
            let bytes = list.bytes();
            self.accepts.run(list, bytes).await
        })
    }

    fn release(&self, release: Release) -> BoxFuture<'_, Result<Option<Vec<Admitted>>>> {
        Box::pin(async move {
            let since = self.core.clock.now();
            let rows = self.core.rows(&release.events).await?;
            let messages: Vec<outbox::Row> = release.messages.iter().map(outbox::Row::new).collect();
            let events = accept::List { rows, lease: None, max_backlog: None, keep_until: release.keep_until };
            let admitted = on_connection!(self.core, |connection| {
                release::release(connection, release.id, &messages, &events, since)
            })?;
            self.core.due(since, events.rows.iter().map(|row| row.run_at));
            Ok(admitted)
        })
    }

    fn keep(&self, queued: QueuedInvocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let since = self.core.clock.now();
            let row = self.core.rows(std::slice::from_ref(&queued)).await?.remove(0).without_keys();
            on_connection!(self.core, |connection| decide::keep(connection, &row, since))?;
            self.core.due(since, std::iter::once(queued.run_at));
            Ok(())
        })
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claimed>>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            let limited: Vec<&Arc<Binding>> = request.limits.iter().map(|(binding, _)| binding).collect();
            let request = claim::Request {
                now: request.now,
                lease_until: request.lease_until,
                token: Uuid::now_v7(),
                limit: request.limit,
                limited: self.core.binding_ids(&limited).await?,
                limits: request.limits.iter().map(|(_, limit)| i64::from(*limit)).collect(),
            };
            let token = request.token;
            loop {
                let waiting = &self.core.signals.waiting;
                let rows = on_connection!(self.core, |connection| claim::claim(connection, waiting, &request))?;
                let bindings = self.core.bindings_of(&rows).await?;
                let mut claimed = Vec::with_capacity(rows.len());
                let mut parked = Vec::new();
                for (row, binding) in rows.into_iter().zip(bindings) {
                    match row.read(binding, token) {
                        Ok(row) => claimed.push(row),
                        Err(unreadable) => parked.push(unreadable),
                    }
                }
                if parked.is_empty() {
                    return Ok(claimed);
                }
                for row in parked {
                    match on_connection!(self.core, |connection| claim::park(connection, &row, token, now)) {
                        Ok(()) if row.ordered => self.core.changed(),
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

    fn renew(&self, claims: Vec<Claim>, lease_until: DateTime<Utc>) -> BoxFuture<'_, Result<Renewed>> {
        Box::pin(async move { on_connection!(self.core, |connection| claim::renew(connection, &claims, lease_until)) })
    }

    fn settle(&self, claim: Claim, settle: Settle) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let events = match &settle {
                Settle::Ok { events, .. } => self.core.rows(events).await?,
                _ => Vec::new(),
            };
            let ending = Ending::new(claim, &settle, events)?;
            let bytes = ending.bytes();
            self.settles.run(ending, bytes).await
        })
    }

    fn cancel(&self, invocation_id: Uuid, keep_until: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Cancelled>> {
        Box::pin(async move {
            let now = self.core.clock.now();
            let cancelled =
                on_connection!(self.core, |connection| cancel::cancel(connection, invocation_id, keep_until, now))?;
            // Whoever runs it need not find out by itself, and another one of its key may have its turn.
            if matches!(cancelled, Cancelled::Asked | Cancelled::Cancelled) {
                self.core.changed();
            }
            Ok(cancelled)
        })
    }

    fn fingerprint(&self, binding: Binding, idempotency_key: String) -> BoxFuture<'_, Result<Option<Fingerprint>>> {
        Box::pin(async move {
            let Some(id) = self.find(&binding).await? else { return Ok(None) };
            on_connection!(self.core, |connection| accept::fingerprint(connection, id, &idempotency_key))
        })
    }

    fn unique_holder(&self, binding: Binding, unique_key: String) -> BoxFuture<'_, Result<Option<Uuid>>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            let Some(id) = self.find(&binding).await? else { return Ok(None) };
            on_connection!(self.core, |connection| decide::holder(connection, id, &unique_key, now))
        })
    }

    fn progress(&self, claim: Claim, progress: Progress) -> BoxFuture<'_, Result<bool>> {
        let progress = column::to_json(&progress);
        Box::pin(async move { on_connection!(self.core, |connection| claim::progress(connection, claim, &progress)) })
    }

    fn pause(&self, binding: Binding, pause: Option<Pause>) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let deployed = on_connection!(self.core, |connection| functions::has_trigger(connection, &binding))?;
            if !deployed && self.find(&binding).await?.is_none() {
                return Ok(false);
            }
            let id = self.core.binding_ids(&[&Arc::new(binding)]).await?[0];
            on_connection!(self.core, |connection| list::pause(connection, id, pause.as_ref()))?;
            self.core.changed();
            Ok(true)
        })
    }

    fn paused(&self) -> BoxFuture<'_, Result<Vec<(Binding, Pause)>>> {
        Box::pin(async move { on_connection!(self.core, |connection| list::paused(connection)) })
    }

    fn queue(&self, filter: QueueFilter) -> BoxFuture<'_, Result<Vec<QueueRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| list::queue(connection, &filter)) })
    }

    fn blocked_keys(&self, limit: u32) -> BoxFuture<'_, Result<Vec<BlockedKey>>> {
        Box::pin(async move { on_connection!(self.core, |connection| list::blocked_keys(connection, limit)) })
    }

    fn tally(&self, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let of: Vec<&Arc<Binding>> = tallies.iter().map(|tally| &tally.binding).collect();
            let mut counts = ledger::Counts::default();
            for (tally, id) in tallies.iter().zip(self.core.binding_ids(&of).await?) {
                let count = column::signed(tally.count);
                counts.add(id, "accepted", "", count);
                counts.add(id, tally.outcome, tally.reason.unwrap_or(""), count);
            }
            on_connection!(self.core, |connection| ledger::add(connection, &counts))
        })
    }

    fn ledger(&self) -> BoxFuture<'_, Result<Vec<LedgerRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| ledger::read(connection)) })
    }

    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<()>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            let of: Vec<&Arc<Binding>> = skipped.iter().map(|fire| &fire.binding).collect();
            let mut rows = fires::Skipped::default();
            for (fire, id) in skipped.iter().zip(self.core.binding_ids(&of).await?) {
                rows.add_range(id, (fire.scheduled_at, fire.until), false, fire.count, fire.reason);
            }
            on_connection!(self.core, |connection| fires::skip(connection, &rows, now)).map(drop)
        })
    }

    fn fires(&self, binding: Binding, filter: FireFilter) -> BoxFuture<'_, Result<Vec<FireRow>>> {
        Box::pin(async move {
            let Some(id) = self.find(&binding).await? else { return Ok(Vec::new()) };
            on_connection!(self.core, |connection| fires::list(connection, id, &filter))
        })
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>> {
        let waiting = &self.core.signals.waiting;
        Box::pin(async move { on_connection!(self.core, |connection| claim::next_due(connection, waiting)) })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.core.signals.woken())
    }

    fn bury(&self, dead: Box<DeadLetter>) -> BoxFuture<'_, Result<()>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            let id = self.core.binding_ids(&[&dead.invocation.binding]).await?[0];
            let row = dead::Row::new(&dead, id);
            on_connection!(self.core, |connection| dead::bury(connection, &row, now))
        })
    }

    fn remember_attempt(&self, invocation_id: Uuid, attempt: FailedAttempt) -> BoxFuture<'_, Result<()>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            on_connection!(self.core, |connection| attempts::remember(connection, invocation_id, &attempt, now))
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
        Box::pin(async move {
            let Some(id) = self.find(&binding).await? else { return Ok(None) };
            on_connection!(self.core, |connection| fires::last_scheduled(connection, id))
        })
    }

    fn dead_letters(&self, page: DeadLetterPage) -> BoxFuture<'_, Result<Vec<DeadLetterSummary>>> {
        Box::pin(async move { on_connection!(self.core, |connection| dead::list(connection, &page)) })
    }

    fn dead_letter_count(&self, selector: DeadLetterSelector) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { on_connection!(self.core, |connection| bulk::count(connection, &selector)) })
    }

    fn select_dead_letters(
        &self,
        selector: DeadLetterSelector,
        behind: Option<DeadLetterPosition>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<SelectedDeadLetter>>> {
        Box::pin(
            async move { on_connection!(self.core, |connection| bulk::select(connection, &selector, behind, limit)) },
        )
    }

    fn dead_letter(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<KeptDeadLetter>>> {
        Box::pin(async move { on_connection!(self.core, |connection| dead::get(connection, invocation_id)) })
    }

    fn redrive_all(
        &self,
        invocation_ids: Vec<Uuid>,
        version: Option<u32>,
        run_at: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<Redriven>>> {
        Box::pin(async move {
            let since = self.core.clock.now();
            let redriven = on_connection!(self.core, |connection| {
                dead::redrive(connection, &invocation_ids, version, run_at, since)
            })?;
            if redriven.contains(&Redriven::Queued) {
                self.core.due(since, std::iter::once(run_at));
            }
            Ok(redriven)
        })
    }

    fn redrive_states(&self, invocation_ids: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<RedriveState>>> {
        Box::pin(async move { on_connection!(self.core, |connection| bulk::states(connection, &invocation_ids)) })
    }

    fn purge_dead_letters(
        &self,
        positions: Vec<DeadLetterPosition>,
        include_redriven: bool,
    ) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            on_connection!(self.core, |connection| bulk::purge(connection, &positions, include_redriven))
        })
    }

    fn outbox_add(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        let now = self.core.clock.now();
        Box::pin(async move {
            let rows: Vec<outbox::Row> = messages.iter().map(outbox::Row::new).collect();
            on_connection!(self.core, |connection| outbox::add(connection, &rows, now))
        })
    }

    fn outbox_due(&self, now: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxRow>>> {
        Box::pin(async move {
            on_connection!(self.core, |connection| outbox::due(connection, self.me, now, self.lease, limit))
        })
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

    fn kv_get(&self, bucket: KvBucket, key: String, now: DateTime<Utc>) -> BoxFuture<'_, Result<Option<KvEntry>>> {
        Box::pin(async move { on_connection!(self.core, |connection| kv::get(connection, &bucket, &key, now)) })
    }

    fn kv_write(
        &self,
        bucket: KvBucket,
        writes: Vec<KvWrite>,
        limits: KvLimits,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<KvWritten>> {
        Box::pin(async move {
            let written =
                on_connection!(self.core, |connection| kv::write(connection, &bucket, &writes, &limits, now))?;
            match written {
                Err(refused) if refused.for_want_of_room() => {
                    let (namespace, step) = (Some(&*bucket.namespace), prune::STEP);
                    on_connection!(self.core, |connection| kv::remove_expired(connection, namespace, now, step))?;
                    on_connection!(self.core, |connection| kv::write(connection, &bucket, &writes, &limits, now))
                }
                written => Ok(written),
            }
        })
    }

    fn kv_keys(
        &self,
        bucket: KvBucket,
        prefix: String,
        after: Option<String>,
        limit: u32,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            on_connection!(self.core, |connection| {
                kv::keys(connection, &bucket, &prefix, after.as_deref(), limit, now)
            })
        })
    }

    fn add_token(&self, token: TokenRow) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { on_connection!(self.core, |connection| tokens::add(connection, &token)) })
    }

    fn tokens(&self, namespace: String) -> BoxFuture<'_, Result<Vec<TokenRow>>> {
        Box::pin(async move { on_connection!(self.core, |connection| tokens::list(connection, &namespace)) })
    }

    fn remove_token(&self, namespace: String, id: String) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { on_connection!(self.core, |connection| tokens::remove(connection, &namespace, &id)) })
    }

    fn depths(&self) -> BoxFuture<'_, Result<Depths>> {
        Box::pin(async move { on_connection!(self.core, |connection| list::depths(connection)) })
    }

    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<Pruned>> {
        let now = self.core.clock.now();
        Box::pin(async move { on_connection!(self.core, |connection| prune::step(connection, &retention, now)) })
    }
}

impl PostgresStore {
    /// The number of a trigger, if it has one. One that was never seen is not made by asking.
    async fn find(&self, binding: &Binding) -> Result<Option<i64>> {
        match self.core.bindings.id(binding) {
            Some(id) => Ok(Some(id)),
            None => on_connection!(self.core, |connection| bindings::find(connection, binding)),
        }
    }
}

/// Does what takes long without waiting on a thread that may do so.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Unavailable(format!("the operation ended early: {error}"))))
}
