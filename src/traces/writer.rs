//! Puts records into the store, behind the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Outcome, Ring, TraceRow};
use crate::store::Store;

/// How the writer works.
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// How often it looks.
    pub interval: Duration,
    /// How many successes a second become rows; failures all do.
    pub ok_rows_per_second: u32,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self { interval: Duration::from_millis(50), ok_rows_per_second: 500 }
    }
}

/// Records looked at under one lock of the ring.
const PAGE: usize = 256;

/// Rows in one commit.
const BATCH: usize = 2048;

/// Reads the ring by a cursor and writes rows.
pub struct Writer {
    ring: Arc<Ring>,
    store: Arc<dyn Store>,
    settings: WriterSettings,
    cursor: AtomicU64,
    lost: AtomicU64,
    sampled_out: AtomicU64,
}

impl Writer {
    /// A writer that begins at the ring's start.
    pub fn new(ring: Arc<Ring>, store: Arc<dyn Store>, settings: WriterSettings) -> Self {
        let zero = || AtomicU64::new(0);
        Self { ring, store, settings, cursor: zero(), lost: zero(), sampled_out: zero() }
    }

    /// Records that never became rows because the ring overwrote them first or the store refused them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Successes that were left out to keep within `ok_rows_per_second`.
    pub fn sampled_out(&self) -> u64 {
        self.sampled_out.load(Ordering::Relaxed)
    }

    /// Writes until `stop`, then whatever is left.
    pub async fn run(&self, stop: CancellationToken) {
        let mut budget = Budget::new(self.settings.ok_rows_per_second);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.flush(&mut budget).await;
                    return;
                }
                () = tokio::time::sleep(self.settings.interval) => self.flush(&mut budget).await,
            }
        }
    }

    async fn flush(&self, budget: &mut Budget) {
        budget.refill(self.settings.interval);
        loop {
            let mut rows = Vec::new();
            let mut caught_up = false;
            while rows.len() < BATCH && !caught_up {
                let page = self.ring.read_from(self.cursor.load(Ordering::Relaxed), PAGE, |record| {
                    record.outcome != Outcome::Ok || record.attempt > 1 || budget.take()
                });
                self.cursor.store(page.cursor, Ordering::Relaxed);
                self.lost.fetch_add(page.overrun, Ordering::Relaxed);
                self.sampled_out.fetch_add(page.left_out, Ordering::Relaxed);
                caught_up = page.caught_up;
                rows.extend(page.records.iter().map(TraceRow::from));
            }
            let count = rows.len() as u64;
            if count > 0
                && let Err(error) = self.store.write_traces(rows).await
            {
                self.lost.fetch_add(count, Ordering::Relaxed);
                tracing::warn!("{count} trace rows were not stored: {error}");
            }
            if caught_up {
                return;
            }
        }
    }
}

/// Successes that may still become rows.
struct Budget {
    per_second: u32,
    left: f64,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        Self { per_second, left: f64::from(per_second) }
    }

    fn refill(&mut self, elapsed: Duration) {
        let more = f64::from(self.per_second) * elapsed.as_secs_f64();
        self.left = (self.left + more).min(f64::from(self.per_second));
    }

    fn take(&mut self) -> bool {
        let any = self.left >= 1.0;
        if any {
            self.left -= 1.0;
        }
        any
    }
}
