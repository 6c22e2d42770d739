//! What waiting costs: memory of rows that are due later, and how late rows begin that come due, each run by a sandboxed
//! component.
//!
//! See `benches/README.md`.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use parking_lot::Mutex;
use support::in_process;
use trigger_core::{Binding, Clock, Custody, Dispatch as _, InvocationContext, Kind};
use tripline::dispatch::Dispatcher;
use tripline::executor::Executor;
use tripline::store::sqlite::{SqliteSettings, SqliteStore};

/// Rows that wait for an hour.
const WAITING: usize = 100_000;
/// Rows that come due within ten seconds.
const TIMERS: usize = 10_000;
/// Rows that come due at one moment.
const TOGETHER: usize = 1_000;

fn rss_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096.0 / f64::from(1 << 20)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

struct Bench {
    dispatcher: Arc<Dispatcher>,
    /// How late each began, in milliseconds.
    late: Arc<Mutex<Vec<f64>>>,
    binding: Arc<Binding>,
}

impl Bench {
    async fn new(store: Arc<SqliteStore>) -> Self {
        let late = Arc::new(Mutex::new(Vec::new()));
        let noted = late.clone();
        let begins = move |invocation: &InvocationContext| {
            if let Some(due) = invocation.scheduled_at {
                let late = Clock::system().now() - due;
                noted.lock().push(late.num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0);
            }
        };
        let wrap = |wasm| -> Arc<dyn Executor> { Arc::new(in_process::Noting { wasm, begins }) };
        let engine = in_process::Engine::new(store, wrap).await;
        engine.dispatcher.run();
        Self { dispatcher: engine.dispatcher, late, binding: in_process::binding("timers", Kind::Timer) }
    }

    /// Accepts rows that are due this much later each, from `first` on.
    async fn set(&self, count: usize, first: TimeDelta, step: TimeDelta) {
        let start = Clock::system().now() + first;
        for list in (0..count).collect::<Vec<_>>().chunks(1000) {
            let events = list.iter().map(|index| {
                let mut event =
                    InvocationContext::new(self.binding.clone(), Custody::Engine, Bytes::from_static(&[7; 128]));
                event.scheduled_at = Some(start + step * i32::try_from(*index).expect("a small number"));
                event.terms_mut().result_ttl_seconds = Some(0);
                event
            });
            let accepted = self.dispatcher.accept_all(events.collect()).await;
            assert!(accepted.iter().all(Result::is_ok));
        }
    }

    /// Waits until so many have begun, and prints how late they were.
    async fn lateness(&self, what: &str, count: usize) {
        while self.late.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut late = std::mem::take(&mut *self.late.lock());
        late.sort_by(f64::total_cmp);
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|share| at(&late, share));
        println!("{what:<46} late by {median:.1} ms (median), {p99:.1} (p99), {most:.1} (most)");
    }
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(SqliteSettings::file(directory.path().join("state.db"))).expect("a store");
        let bench = Bench::new(Arc::new(store)).await;
        // What the first rows bring with them (caches of pages and statements) is there whatever waits.
        bench.set(1000, TimeDelta::hours(1), TimeDelta::zero()).await;
        let before = rss_mib();
        bench.set(WAITING, TimeDelta::hours(1), TimeDelta::zero()).await;
        let kib = (rss_mib() - before) * 1024.0;
        println!("{WAITING} rows that wait: {kib:.0} KiB more of memory, {:.2} KiB a row", kib / WAITING as f64);

        for _ in 0..3 {
            bench.set(TOGETHER, TimeDelta::seconds(2), TimeDelta::zero()).await;
            bench.lateness(&format!("{TOGETHER} due at one moment, with those waiting"), TOGETHER).await;
        }
        let step = TimeDelta::milliseconds(10_000 / TIMERS as i64);
        bench.set(TIMERS, TimeDelta::seconds(3), step).await;
        bench.lateness(&format!("{TIMERS} due within ten seconds"), TIMERS).await;
        bench.dispatcher.drain(Duration::from_secs(5)).await;
    });
}
