//! The engine's own chores, each on a schedule that is a setting: retention, the compiled code on disk, a look at the
//! outbox.
//!
//! tokio-cron-scheduler drives them, in UTC, and users' schedules have nothing to do with it. Measured on 0.15.1: it
//! loses 1.3 to 4.9 % of the firings when 1,000 to 20,000 are due at once, never answers again after a burst of 2,000
//! additions, is an hour off after a change of daylight saving time, ticks every half second and makes up for nothing
//! that it missed. None of that reaches a handful of chores that are added one by one, are late by a second without
//! harm, and do next time what they did not do this time.
//!
//! A firing only rings: each chore has a task of its own that does the work. So a chore never runs twice at once, rings
//! that come while it works are one more run, and a stop waits for the step under way. Chores run on real time, also
//! where the engine's clock is another one: what they remove is judged by that clock, when they look is not.

mod schedule;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::Clock;

use crate::config::{EngineConfig, WhenFull};
use crate::dispatch::Dispatcher;
use crate::executor::WasmExecutor;
use crate::relay::Relay;
use crate::store::{self, DeadLetterSelector, Pruned, Retention, Store};

pub use schedule::check as check_schedule;

/// Firings that may wait in the scheduler; there are as many chores.
const CHANNEL: usize = 16;

/// How long the scheduler has to take a chore: it has been seen to never answer.
const ADD_WITHIN: Duration = Duration::from_secs(10);

/// The pause between two steps of retention, for those who wait behind them.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);

/// How long an event's key is remembered: a duplicate that comes later is a new event.
pub(crate) const KEYS_KEPT: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// How long the fires of schedules are kept.
const FIRES_KEPT: chrono::TimeDelta = chrono::TimeDelta::days(30);

/// The scheduler cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler of the engine's chores: {0}")]
pub struct Error(String);

/// Something that the engine does for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Removes what is too old or too much.
    Retention,
    /// Removes compiled code that is of no use any more.
    CodeCache,
    /// Looks whether messages wait for the bus for long, and has queue and outboxes looked at.
    Outbox,
}

impl Chore {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Retention, Self::CodeCache, Self::Outbox];

    /// Its word in settings, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::CodeCache => "code_cache",
            Self::Outbox => "outbox",
        }
    }
}

/// What was done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    runs: [AtomicU64; Chore::ALL.len()],
    failures: [AtomicU64; Chore::ALL.len()],
    /// Rows that retention removed, by table.
    removed: [AtomicU64; TABLES.len()],
    dead_letters_old: AtomicU64,
    dead_letters_excess: AtomicU64,
    /// Dead letters beyond `max_rows` that are kept all the same.
    dead_letters_over: AtomicU64,
}

const TABLES: [&str; 5] = ["results", "traces", "keys", "attempts", "kv"];

impl Counts {
    /// Runs and failed runs of a chore.
    pub fn runs(&self, chore: Chore) -> (u64, u64) {
        let count = |counters: &[AtomicU64]| counters[chore as usize].load(Ordering::Relaxed);
        (count(&self.runs), count(&self.failures))
    }

    /// Rows that retention removed: what of, and how many. Dead letters are told apart by why they went.
    pub fn removed(&self) -> Vec<(&'static str, u64)> {
        let tables = TABLES.into_iter().zip(&self.removed);
        let dead = [("dead_letters_old", &self.dead_letters_old), ("dead_letters_excess", &self.dead_letters_excess)];
        tables.chain(dead).map(|(what, count)| (what, count.load(Ordering::Relaxed))).collect()
    }

    /// How many dead letters more than `max_rows` there were when it was last looked at: not 0 only where they are
    /// kept all the same.
    pub fn dead_letters_over(&self) -> u64 {
        self.dead_letters_over.load(Ordering::Relaxed)
    }

    fn add(&self, pruned: &Pruned) {
        let removed = [pruned.results, pruned.traces, pruned.keys, pruned.attempts, pruned.kv];
        for (counter, removed) in self.removed.iter().zip(removed) {
            counter.fetch_add(removed, Ordering::Relaxed);
        }
        self.dead_letters_old.fetch_add(pruned.dead_letters_old, Ordering::Relaxed);
        self.dead_letters_excess.fetch_add(pruned.dead_letters_excess, Ordering::Relaxed);
    }
}

/// What does the chores.
pub struct Housekeeping {
    config: EngineConfig,
    clock: Clock,
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    relay: Arc<Relay>,
    executor: Arc<WasmExecutor>,
    counts: Counts,
    /// Messages that waited for the bus at the last look.
    waiting: AtomicU64,
}

impl Housekeeping {
    /// Does nothing yet.
    pub fn new(
        config: EngineConfig,
        clock: Clock,
        store: Arc<dyn Store>,
        dispatcher: Arc<Dispatcher>,
        relay: Arc<Relay>,
        executor: Arc<WasmExecutor>,
    ) -> Arc<Self> {
        let (counts, waiting) = (Counts::default(), AtomicU64::new(0));
        Arc::new(Self { config, clock, store, dispatcher, relay, executor, counts, waiting })
    }

    /// What was done.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Does the chores on their schedules until `stop`; whoever waits for `tasks` waits for the step under way.
    pub async fn start(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| Error(error.to_string());
        let mut scheduler = JobScheduler::new_with_channel_size(CHANNEL).await.map_err(|error| failed(&error))?;
        for chore in Chore::ALL {
            let due = Arc::new(Notify::new());
            // The scheduler never lets go of what it was given, so that is a bell and nothing more.
            let bell = due.clone();
            let ring = move |_, _| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
                let bell = bell.clone();
                Box::pin(async move { bell.notify_one() })
            };
            let job = Job::new_async(self.schedule(chore), ring).map_err(|error| failed(&error))?;
            // One by one: a burst of additions is what it does not survive.
            let added = tokio::time::timeout(ADD_WITHIN, scheduler.add(job)).await;
            added.map_err(|_| Error("it does not answer".to_owned()))?.map_err(|error| failed(&error))?;
            let (this, stop) = (self.clone(), stop.clone());
            let run = {
                let stop = stop.clone();
                move || {
                    let (this, stop) = (this.clone(), stop.clone());
                    async move { this.run(chore, &stop).await }
                }
            };
            tasks.spawn(serve(due, stop, run));
        }
        scheduler.start().await.map_err(|error| failed(&error))?;
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            if let Err(error) = scheduler.shutdown().await {
                tracing::warn!("the scheduler of the engine's chores: {error}");
            }
        });
        Ok(())
    }

    fn schedule(&self, chore: Chore) -> &str {
        let settings = &self.config.housekeeping;
        match chore {
            Chore::Retention => &settings.retention,
            Chore::CodeCache => &settings.code_cache,
            Chore::Outbox => &settings.outbox,
        }
    }

    /// Does a chore once, a bounded step at a time, and none after `stop`.
    pub async fn run(&self, chore: Chore, stop: &CancellationToken) {
        let done = match chore {
            Chore::Retention => self.retention(stop).await,
            Chore::CodeCache => self.code_cache().await,
            Chore::Outbox => self.outbox().await,
        };
        self.counts.runs[chore as usize].fetch_add(1, Ordering::Relaxed);
        if let Err(error) = done {
            self.counts.failures[chore as usize].fetch_add(1, Ordering::Relaxed);
            tracing::warn!(chore = chore.as_str(), "a chore is left for the next time: {error}");
        }
    }

    async fn retention(&self, stop: &CancellationToken) -> Result<(), String> {
        let now = self.clock.now();
        let dead_letters = &self.config.dead_letters;
        let retention = Retention {
            results_before: now,
            fires_before: now - FIRES_KEPT,
            traces_before: now - self.config.traces.keep,
            traces_max_rows: self.config.traces.max_rows,
            keys_before: now - KEYS_KEPT,
            dead_letters_before: now - dead_letters.keep,
            dead_letters_max_rows: match dead_letters.when_full {
                WhenFull::DropOldest => dead_letters.max_rows,
                WhenFull::Keep => Retention::NOTHING.dead_letters_max_rows,
            },
        };
        let (mut old, mut excess) = (0, 0);
        let ended = loop {
            match self.store.prune(retention).await {
                Ok(pruned) => {
                    self.counts.add(&pruned);
                    old += pruned.dead_letters_old;
                    excess += pruned.dead_letters_excess;
                    if !pruned.more {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error.to_string()),
            }
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = tokio::time::sleep(BETWEEN_STEPS) => {}
            }
        };
        // What an operator may still have wanted does not go without a word.
        if old > 0 {
            tracing::info!(removed = old, "dead letters older than dead_letters.keep_days were removed");
        }
        if excess > 0 {
            let kept = dead_letters.max_rows;
            tracing::warn!(
                removed = excess,
                kept,
                "the oldest dead letters were removed to keep dead_letters.max_rows"
            );
        }
        ended?;
        self.look_for_crowd().await.map_err(|error| error.to_string())
    }

    /// Where dead letters are kept beyond their number, says so each time.
    async fn look_for_crowd(&self) -> store::Result<()> {
        let dead_letters = &self.config.dead_letters;
        if dead_letters.when_full != WhenFull::Keep {
            return Ok(());
        }
        let all = DeadLetterSelector { include_redriven: true, ..DeadLetterSelector::default() };
        let kept = self.store.dead_letter_count(all).await?;
        let over = kept.saturating_sub(dead_letters.max_rows);
        self.counts.dead_letters_over.store(over, Ordering::Relaxed);
        if over > 0 {
            tracing::warn!(
                kept,
                max_rows = dead_letters.max_rows,
                "there are more dead letters than dead_letters.max_rows: redrive or purge some"
            );
        }
        Ok(())
    }

    async fn code_cache(&self) -> Result<(), String> {
        let settings = &self.config.housekeeping;
        let cleaned = self.executor.clean_cache(settings.code_cache_keep, settings.code_cache_max_bytes).await;
        let cleaned = cleaned.map_err(|error| error.to_string())?;
        if cleaned.files > 0 {
            tracing::info!(files = cleaned.files, bytes = cleaned.bytes, "compiled code of no use was removed");
        }
        Ok(())
    }

    /// The dispatcher looks by itself, woken or each second. This is for the day when it does not, and to say that the
    /// bus takes nothing. A claim whose lease ran out needs no sweep: every look at the queue takes such rows.
    async fn outbox(&self) -> Result<(), String> {
        self.dispatcher.wake();
        self.relay.wake();
        let depths = self.store.depths().await.map_err(|error| error.to_string())?;
        let before = self.waiting.swap(depths.outbox, Ordering::Relaxed);
        if before > 0 && depths.outbox >= before {
            tracing::warn!(messages = depths.outbox, "messages wait in the outbox, and they do not get fewer");
        }
        Ok(())
    }
}

/// Does the work each time that the bell has rung, and never twice at once: rings that come meanwhile are one.
async fn serve<F: Future<Output = ()>>(due: Arc<Notify>, stop: CancellationToken, mut work: impl FnMut() -> F) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = due.notified() => {}
        }
        work().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn a_chore_never_runs_twice_at_once_and_stops_with_the_engine() {
        let (due, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (begun, running) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let go_on = Notify::new();
        let served = serve(due.clone(), stop.clone(), || async {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
            begun.fetch_add(1, Ordering::SeqCst);
            go_on.notified().await;
            running.fetch_sub(1, Ordering::SeqCst);
        });
        tokio::pin!(served);
        let mut poll = || futures_util::FutureExt::now_or_never(served.as_mut());
        assert!(poll().is_none() && begun.load(Ordering::SeqCst) == 0, "nothing rang");
        (0..5).for_each(|_| due.notify_one());
        assert!(poll().is_none() && begun.load(Ordering::SeqCst) == 1);
        (0..5).for_each(|_| due.notify_one());
        go_on.notify_one();
        assert!(poll().is_none() && begun.load(Ordering::SeqCst) == 2, "what rang meanwhile is one run more");
        stop.cancel();
        due.notify_one();
        assert!(poll().is_none(), "the run under way is waited for");
        go_on.notify_one();
        assert!(poll().is_some() && begun.load(Ordering::SeqCst) == 2, "and no other one begins");
    }
}
