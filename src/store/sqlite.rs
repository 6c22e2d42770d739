//! The store in one SQLite file, or in memory: the default, and all that one engine needs.
//!
//! One thread owns the one connection that writes. Operations reach it by a bounded queue; it takes what has arrived,
//! does it in one transaction, and answers after the commit, so that a thousand callers cost one `fsync` (see
//! `writer`). Reads that may be long run beside it on connections of their own (`reader`); those that must agree
//! with claims, and all of them where the store is in memory, go through the writer too.
//!
//! Three decisions that a reader would question:
//!
//! - rusqlite on a thread, although the Postgres driver uses sqlx: sqlx pays about 37 µs a statement for the hop to its
//!   worker thread, and a queue in SQLite lives from many small statements inside one commit.
//! - Claims are rows of a temporary table, in memory. A lock file sees to it that one engine at a time has the
//!   database, so a claim needs to be known to that engine only: with its process its claims are gone, and what it ran
//!   is due at once when the next one starts. Claiming then costs no write: a fifth of what rewriting every row cost,
//!   and of three commits that a job took, two are left.
//! - No savepoint for each operation: they made a job half as dear again. A group in which something fails is done
//!   again one operation at a time, which costs nothing until then.

mod accept;
mod attempts;
mod bindings;
mod bulk;
mod claim;
mod column;
mod dead;
mod due;
mod error;
mod fires;
mod functions;
mod inbox;
mod kv;
mod ledger;
mod list;
mod lock;
mod outbox;
mod prune;
mod reader;
mod release;
mod row;
mod schema;
mod settle;
pub mod sql;
mod status;
mod tokens;
mod traces;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, BoxFuture, Cancelled, Clock, Fingerprint, Message, Progress, SkippedFire, Status};
use uuid::Uuid;

use super::{
    Accept, Admitted, BlockedKey, Claim, ClaimRequest, Claimed, DeadLetter, DeadLetterPage, DeadLetterPosition,
    DeadLetterSelector, DeadLetterSummary, Deploy, Deployed, Depths, Error, FailedAttempt, FireFilter, FireRow,
    FunctionRow, KeptDeadLetter, KvBucket, KvEntry, KvLimits, KvWrite, KvWritten, LedgerRow, OutboxRow, Pause, Pruned,
    QueueFilter, QueueRow, QueuedInvocation, RedriveState, Redriven, Release, Renewed, Result, Retention,
    SelectedDeadLetter, Settle, Store, Tally, TokenRow, TraceFilter, VersionRow,
};
use crate::functions::Digest;
use crate::traces::TraceRow;

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory: gone with the store.
    Memory,
    /// In this file. It and its directories are made where they are missing, for this user's eyes only.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Memory => f.write_str("the store in memory"),
            Place::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// When it is on the disk: it survives a loss of power.
    #[default]
    Full,
    /// When the operating system has it: it survives the end of the process, but a loss of power may undo the last
    /// commits.
    Normal,
}

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteSettings {
    /// Where the database is.
    pub place: Place,
    /// When a commit counts as done; of no consequence in memory.
    pub synchronous: Synchronous,
}

impl SqliteSettings {
    /// A database in memory.
    pub fn memory() -> Self {
        Self { place: Place::Memory, synchronous: Synchronous::default() }
    }

    /// A database in this file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::File(path.into()), synchronous: Synchronous::default() }
    }
}

/// The store in SQLite. Dropping it waits for what was begun.
pub struct SqliteStore {
    place: Place,
    clock: Clock,
    bindings: bindings::Bindings,
    // The readers end first, so that the writer's connection is the last and leaves the file tidy.
    readers: Option<reader::Readers>,
    writer: writer::Writer,
}

impl SqliteStore {
    /// Opens the database, makes it where it is missing and brings its schema up to date. Blocks.
    pub fn open(settings: SqliteSettings) -> Result<Self> {
        let SqliteSettings { place, synchronous } = settings;
        let (writer, readers) = match &place {
            Place::Memory => {
                let connection = Connection::open_in_memory().map_err(|error| error::at(&place, error.into()))?;
                schema::prepare_writer(&connection, synchronous).map_err(|error| error::at(&place, error))?;
                (writer::Writer::start(connection, None)?, None)
            }
            Place::File(path) => {
                let lock = lock::Lock::take(path)?;
                let connection = schema::open_writer(lock.database(), synchronous)?;
                let readers = reader::Readers::start(lock.database())?;
                (writer::Writer::start(connection, Some(lock))?, Some(readers))
            }
        };
        Ok(Self { place, clock: Clock::system(), bindings: bindings::Bindings::default(), readers, writer })
    }

    /// Stamps rows by this clock instead of the system's.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Does `work` in a transaction of the writer; it is committed when this returns. `bytes` is how much memory the
    /// work holds while it waits.
    ///
    /// `work` may run more than once (its group is done again when something in it fails), each time as if it were the
    /// first.
    async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.inbox().run(bytes, work).await.map_err(|error| error::at(&self.place, error))
    }

    /// Does `work` on one snapshot of what is committed.
    async fn read<T: Send + 'static>(&self, work: impl FnMut(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        let inbox = match &self.readers {
            Some(readers) => readers.inbox(),
            None => self.writer.inbox(),
        };
        inbox.run(0, work).await.map_err(|error| error::at(&self.place, error))
    }
}

impl SqliteStore {
    /// The time, as stored.
    fn now(&self) -> i64 {
        column::micros(self.clock.now())
    }

    /// The numbers of triggers, in the order of the question.
    async fn binding_ids(&self, of: Vec<Arc<Binding>>) -> Result<Vec<i64>> {
        if let Some(ids) = of.iter().map(|binding| self.bindings.get(binding)).collect::<Option<Vec<i64>>>() {
            return Ok(ids);
        }
        let asked = of.clone();
        let ids: Vec<i64> = self
            .write(0, move |connection| asked.iter().map(|binding| bindings::resolve(connection, binding)).collect())
            .await?;
        self.bindings.learn(&of, &ids);
        Ok(ids)
    }

    async fn binding_id(&self, of: &Arc<Binding>) -> Result<i64> {
        match self.bindings.get(of) {
            Some(id) => Ok(id),
            None => Ok(self.binding_ids(vec![of.clone()]).await?[0]),
        }
    }

    /// Rows to be written.
    async fn rows(&self, queued: &[QueuedInvocation]) -> Result<Vec<row::Row>> {
        let mut rows = Vec::with_capacity(queued.len());
        for queued in queued {
            let binding_id = self.binding_id(&queued.invocation.binding).await?;
            rows.push(row::Row::new(queued, binding_id));
        }
        Ok(rows)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    fn deploy(&self, namespace: String, functions: Vec<Deploy>) -> BoxFuture<'_, Result<Vec<Deployed>>> {
        let now = self.now();
        Box::pin(async move {
            let bytes = functions.iter().map(|function| function.module.len()).sum();
            let functions = Arc::new(functions);
            let (checked, of) = (functions.clone(), namespace.clone());
            // Hashing megabytes belongs on a thread that may take its time.
            let digests = self.read(move |_| functions::check(&of, &checked)).await?;
            self.write(bytes, move |connection| functions::deploy(connection, &namespace, &functions, &digests, now))
                .await
        })
    }

    fn functions(&self) -> BoxFuture<'_, Result<Vec<FunctionRow>>> {
        Box::pin(self.read(functions::routed))
    }

    fn versions(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Vec<VersionRow>>> {
        Box::pin(self.read(move |connection| functions::versions(connection, &namespace, &name)))
    }

    fn version(&self, namespace: String, name: String, number: u32) -> BoxFuture<'_, Result<Option<VersionRow>>> {
        Box::pin(self.read(move |connection| functions::version(connection, &namespace, &name, number)))
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(self.read(move |connection| functions::module(connection, digest)))
    }

    fn accept(&self, accept: Accept) -> BoxFuture<'_, Result<Vec<Admitted>>> {
        let now = self.now();
        Box::pin(async move {
            let rows = self.rows(&accept.queued).await?;
            let bytes = rows.iter().map(row::Row::bytes).sum();
            let lease = accept.lease.map(|lease| (lease.token, column::micros(lease.until)));
            let keep_until = accept.keep_until.map_or(0, column::micros);
            let list = accept::List { rows, lease, max_backlog: accept.max_backlog, keep_until };
            self.write(bytes, move |connection| accept::accept(connection, &list, now)).await
        })
    }

    fn release(&self, release: Release) -> BoxFuture<'_, Result<Option<Vec<Admitted>>>> {
        let now = self.now();
        Box::pin(async move {
            let rows = self.rows(&release.events).await?;
            let messages: Vec<outbox::Row> = release.messages.iter().map(outbox::Row::new).collect();
            let bytes = rows.iter().map(row::Row::bytes).chain(messages.iter().map(outbox::Row::bytes)).sum();
            let keep_until = release.keep_until.map_or(0, column::micros);
            let events = accept::List { rows, lease: None, max_backlog: None, keep_until };
            self.write(bytes, move |connection| release::release(connection, release.id, &messages, &events, now)).await
        })
    }

    fn keep(&self, queued: QueuedInvocation) -> BoxFuture<'_, Result<()>> {
        let now = self.now();
        Box::pin(async move {
            let row = self.rows(std::slice::from_ref(&queued)).await?.remove(0);
            self.write(row.bytes(), move |connection| {
                if row::insert(connection, &row, now)?.is_some() {
                    ledger::add(row.binding_id, "accepted", "", 1);
                }
                Ok(())
            })
            .await
        })
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claimed>>> {
        let now = self.now();
        Box::pin(async move {
            let limited = request.limits.iter().map(|(binding, _)| binding.clone()).collect();
            let ids = self.binding_ids(limited).await?;
            let request = Arc::new(claim::Request {
                now: column::micros(request.now),
                lease_until: column::micros(request.lease_until),
                token: Uuid::now_v7(),
                limit: request.limit as usize,
                limits: ids.into_iter().zip(request.limits.iter().map(|(_, limit)| *limit as usize)).collect(),
            });
            let token = request.token;
            loop {
                let asked = request.clone();
                let rows = self.write(0, move |connection| claim::claim(connection, &asked)).await?;
                // Reading JSON is done here rather than on the writer's thread, which everybody waits for.
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
                let bytes = parked.iter().map(|row| row.bytes()).sum();
                let park = move |connection: &Connection| {
                    parked.iter().try_for_each(|row| claim::park(connection, row, token, now))
                };
                match self.write(bytes, park).await {
                    Ok(()) if claimed.is_empty() => {}
                    Ok(()) => return Ok(claimed),
                    Err(error) if claimed.is_empty() => return Err(error),
                    // They come again when their lease has run out; the others need not wait for that.
                    Err(error) => {
                        tracing::error!("unreadable events could not be parked: {error}");
                        return Ok(claimed);
                    }
                }
            }
        })
    }

    fn renew(&self, claims: Vec<Claim>, lease_until: DateTime<Utc>) -> BoxFuture<'_, Result<Renewed>> {
        Box::pin(self.write(0, move |connection| claim::renew(connection, &claims, column::micros(lease_until))))
    }

    fn settle(&self, claim: Claim, settle: Settle) -> BoxFuture<'_, Result<bool>> {
        let now = self.now();
        Box::pin(async move {
            let events = match &settle {
                Settle::Ok { events, .. } => self.rows(events).await?,
                _ => Vec::new(),
            };
            let ending = settle::Ending::new(claim.invocation_id, &settle, events)?;
            self.write(ending.bytes(), move |connection| settle::settle(connection, claim, &ending, now)).await
        })
    }

    fn cancel(&self, invocation_id: Uuid, keep_until: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Cancelled>> {
        let now = self.now();
        let keep_until = keep_until.map(column::micros);
        Box::pin(self.write(0, move |connection| settle::cancel(connection, invocation_id, keep_until, now)))
    }

    fn fingerprint(&self, binding: Binding, idempotency_key: String) -> BoxFuture<'_, Result<Option<Fingerprint>>> {
        Box::pin(self.read(move |connection| match bindings::find(connection, &binding)? {
            Some(id) => accept::fingerprint(connection, id, &idempotency_key),
            None => Ok(None),
        }))
    }

    fn unique_holder(&self, binding: Binding, unique_key: String) -> BoxFuture<'_, Result<Option<Uuid>>> {
        let now = self.now();
        Box::pin(self.write(0, move |connection| match bindings::find(connection, &binding)? {
            Some(id) => accept::holder(connection, id, &unique_key, now),
            None => Ok(None),
        }))
    }

    fn progress(&self, claim: Claim, progress: Progress) -> BoxFuture<'_, Result<bool>> {
        let progress = row::to_json(&progress);
        Box::pin(self.write(progress.len(), move |connection| settle::progress(connection, claim, &progress)))
    }

    fn pause(&self, binding: Binding, pause: Option<Pause>) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.write(0, move |connection| {
            if bindings::find(connection, &binding)?.is_none() && !functions::has_trigger(connection, &binding)? {
                return Ok(false);
            }
            list::pause(connection, bindings::resolve(connection, &binding)?, pause.as_ref())?;
            Ok(true)
        }))
    }

    fn paused(&self) -> BoxFuture<'_, Result<Vec<(Binding, Pause)>>> {
        Box::pin(self.read(list::paused))
    }

    fn queue(&self, filter: QueueFilter) -> BoxFuture<'_, Result<Vec<QueueRow>>> {
        Box::pin(self.write(0, move |connection| list::queue(connection, &filter)))
    }

    fn blocked_keys(&self, limit: u32) -> BoxFuture<'_, Result<Vec<BlockedKey>>> {
        Box::pin(self.read(move |connection| list::blocked_keys(connection, limit)))
    }

    fn tally(&self, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ids = self.binding_ids(tallies.iter().map(|tally| tally.binding.clone()).collect()).await?;
            self.write(0, move |_| {
                for (tally, id) in tallies.iter().zip(&ids) {
                    let count = column::signed(tally.count);
                    ledger::add(*id, "accepted", "", count);
                    ledger::add(*id, tally.outcome, tally.reason.unwrap_or(""), count);
                }
                Ok(())
            })
            .await
        })
    }

    fn ledger(&self) -> BoxFuture<'_, Result<Vec<LedgerRow>>> {
        Box::pin(async move {
            let claimed = self.write(0, ledger::claimed).await?;
            // Counting rows may take a while, and claims are the writer's alone.
            self.read(move |connection| ledger::read(connection, &claimed)).await
        })
    }

    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<()>> {
        let now = self.now();
        Box::pin(async move {
            let ids = self.binding_ids(skipped.iter().map(|fire| fire.binding.clone()).collect()).await?;
            let rows: Vec<fires::Skipped> = skipped
                .iter()
                .zip(ids)
                .map(|(fire, binding_id)| fires::Skipped {
                    binding_id,
                    scheduled_at: column::micros(fire.scheduled_at),
                    until: column::micros(fire.until),
                    count: fire.count,
                    reason: fire.reason.as_str(),
                })
                .collect();
            self.write(0, move |connection| fires::skip(connection, &rows, now)).await
        })
    }

    fn fires(&self, binding: Binding, filter: FireFilter) -> BoxFuture<'_, Result<Vec<FireRow>>> {
        Box::pin(self.read(move |connection| match bindings::find(connection, &binding)? {
            Some(id) => fires::list(connection, id, &filter),
            None => Ok(Vec::new()),
        }))
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>> {
        Box::pin(self.write(0, claim::next_due))
    }

    fn bury(&self, dead: Box<DeadLetter>) -> BoxFuture<'_, Result<()>> {
        let now = self.now();
        Box::pin(async move {
            let row = dead::Row::new(&dead);
            self.write(row.bytes(), move |connection| {
                dead::insert(connection, &row, now)?;
                let binding_id = bindings::resolve(connection, &row.binding)?;
                ledger::add(binding_id, "accepted", "", 1);
                ledger::add(binding_id, "dead", row.reason.as_str(), 1);
                attempts::forget(connection, row.invocation_id)
            })
            .await
        })
    }

    fn remember_attempt(&self, invocation_id: Uuid, attempt: FailedAttempt) -> BoxFuture<'_, Result<()>> {
        let now = self.now();
        Box::pin(self.write(0, move |connection| attempts::remember(connection, invocation_id, &attempt, now)))
    }

    fn remembered_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Vec<FailedAttempt>>> {
        Box::pin(self.read(move |connection| attempts::remembered(connection, invocation_id)))
    }

    fn forget_attempts(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write(0, move |connection| attempts::forget(connection, invocation_id)))
    }

    fn status(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>>> {
        Box::pin(self.write(0, move |connection| status::of(connection, invocation_id)))
    }

    fn last_scheduled(&self, binding: Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>>> {
        Box::pin(self.read(move |connection| match bindings::find(connection, &binding)? {
            Some(id) => fires::last_scheduled(connection, id),
            None => Ok(None),
        }))
    }

    fn dead_letters(&self, page: DeadLetterPage) -> BoxFuture<'_, Result<Vec<DeadLetterSummary>>> {
        Box::pin(self.read(move |connection| dead::list(connection, &page)))
    }

    fn dead_letter_count(&self, selector: DeadLetterSelector) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.read(move |connection| bulk::count(connection, &selector)))
    }

    fn select_dead_letters(
        &self,
        selector: DeadLetterSelector,
        behind: Option<DeadLetterPosition>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<SelectedDeadLetter>>> {
        Box::pin(self.read(move |connection| bulk::select(connection, &selector, behind, limit)))
    }

    fn dead_letter(&self, invocation_id: Uuid) -> BoxFuture<'_, Result<Option<KeptDeadLetter>>> {
        Box::pin(self.read(move |connection| dead::get(connection, invocation_id)))
    }

    fn redrive_all(
        &self,
        invocation_ids: Vec<Uuid>,
        version: Option<u32>,
        run_at: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<Redriven>>> {
        let now = self.now();
        Box::pin(self.write(0, move |connection| dead::redrive(connection, &invocation_ids, version, run_at, now)))
    }

    fn redrive_states(&self, invocation_ids: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<RedriveState>>> {
        Box::pin(self.read(move |connection| bulk::states(connection, &invocation_ids)))
    }

    fn purge_dead_letters(
        &self,
        positions: Vec<DeadLetterPosition>,
        include_redriven: bool,
    ) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.write(0, move |connection| bulk::purge(connection, &positions, include_redriven)))
    }

    fn outbox_add(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        let now = self.now();
        Box::pin(async move {
            let rows: Vec<outbox::Row> = messages.iter().map(outbox::Row::new).collect();
            let bytes = rows.iter().map(outbox::Row::bytes).sum();
            self.write(bytes, move |connection| {
                rows.iter().try_for_each(|row| outbox::insert(connection, row, None, now))
            })
            .await
        })
    }

    fn outbox_due(&self, now: DateTime<Utc>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxRow>>> {
        Box::pin(self.read(move |connection| outbox::due(connection, now, limit)))
    }

    fn outbox_sent(&self, ids: Vec<Uuid>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write(0, move |connection| outbox::sent(connection, &ids)))
    }

    fn outbox_failed(&self, id: Uuid, retry_at: DateTime<Utc>, error: String) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write(0, move |connection| outbox::failed(connection, id, retry_at, &error)))
    }

    fn write_traces(&self, rows: Vec<TraceRow>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let rows: Vec<traces::Row> = rows.iter().map(traces::Row::new).collect();
            let bytes = rows.iter().map(traces::Row::bytes).sum();
            self.write(bytes, move |connection| rows.iter().try_for_each(|row| traces::insert(connection, row))).await
        })
    }

    fn traces(&self, filter: TraceFilter) -> BoxFuture<'_, Result<Vec<TraceRow>>> {
        Box::pin(self.read(move |connection| traces::list(connection, &filter)))
    }

    fn kv_get(&self, bucket: KvBucket, key: String, now: DateTime<Utc>) -> BoxFuture<'_, Result<Option<KvEntry>>> {
        Box::pin(self.read(move |connection| kv::get(connection, &bucket, &key, now)))
    }

    fn kv_write(
        &self,
        bucket: KvBucket,
        writes: Vec<KvWrite>,
        limits: KvLimits,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<KvWritten>> {
        let bytes = writes.iter().map(KvWrite::bytes).sum();
        Box::pin(self.write(bytes, move |connection| {
            let written = kv::write(connection, &bucket, &writes, &limits, now)?;
            match written {
                Err(refused) if refused.for_want_of_room() => {
                    kv::remove_expired(connection, Some(&bucket.namespace), column::micros(now), prune::STEP)?;
                    kv::write(connection, &bucket, &writes, &limits, now)
                }
                written => Ok(written),
            }
        }))
    }

    fn kv_keys(
        &self,
        bucket: KvBucket,
        prefix: String,
        after: Option<String>,
        limit: u32,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(self.read(move |connection| kv::keys(connection, &bucket, &prefix, after.as_deref(), limit, now)))
    }

    fn add_token(&self, token: TokenRow) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.write(0, move |connection| tokens::add(connection, &token)))
    }

    fn tokens(&self, namespace: String) -> BoxFuture<'_, Result<Vec<TokenRow>>> {
        Box::pin(self.read(move |connection| tokens::list(connection, &namespace)))
    }

    fn remove_token(&self, namespace: String, id: String) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.write(0, move |connection| tokens::remove(connection, &namespace, &id)))
    }

    fn depths(&self) -> BoxFuture<'_, Result<Depths>> {
        Box::pin(self.write(0, list::depths))
    }

    fn prune(&self, retention: Retention) -> BoxFuture<'_, Result<Pruned>> {
        let now = self.now();
        Box::pin(async move {
            // Looked for beside the writer, which everybody waits for: mostly there are not too many.
            let crowded =
                self.read(move |connection| bulk::more_than(connection, retention.dead_letters_max_rows)).await?;
            self.write(0, move |connection| prune::step(connection, &retention, crowded, now)).await
        })
    }
}

/// What an operation says when the thread that should have done it is gone.
fn gone() -> Error {
    Error::Unavailable("its thread has ended; restart the engine".to_owned())
}
