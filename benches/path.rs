//! The whole path in process (admission, slot, guest, limits, record, outcome) beside the same component called by bare
//! wasmtime with the same engine: the same pool, the same epoch, a limiter, a fresh instance for every call.
//!
//! See `benches/README.md`.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(missing_docs, reason = "generated from wit/tripline.wit, where the documentation is")]

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::in_process;
use trigger_core::{Answer, Binding, Custody, Dispatch as _, InvocationContext, Kind};
use tripline::dispatch::Dispatcher;
use tripline::executor::{Executor, WasmExecutor};
use tripline::functions::Version;
use tripline::store::sqlite::{SqliteSettings, SqliteStore};
use tripline::traces::Ring;
use wasmtime::component::{Component, Linker};
use wasmtime::{ResourceLimiter, Store};

mod guest {
    wasmtime::component::bindgen!({ path: "wit", world: "function" });
}

const CALLS: u32 = 20_000;
const ROUNDS: usize = 15;
/// What a careful user of wasmtime would have: a limit on memory.
struct Limit(usize);

impl ResourceLimiter for Limit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.0)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

struct Bench {
    executor: Arc<WasmExecutor>,
    dispatcher: Arc<Dispatcher>,
    ring: Arc<Ring>,
    pre: guest::FunctionPre<Limit>,
    binding: Arc<Binding>,
}

impl Bench {
    async fn new() -> Self {
        let store = Arc::new(SqliteStore::open(SqliteSettings::memory()).expect("a store"));
        let in_process::Engine { module, executor, dispatcher, ring, .. } =
            in_process::Engine::new(store, |executor| -> Arc<dyn Executor> { executor }).await;
        let engine = executor.engine();
        let component = Component::new(engine, &module).expect("the guest compiles");
        let mut linker = Linker::new(engine);
        linker.define_unknown_imports_as_traps(&component).expect("only types are imported");
        let pre = linker.instantiate_pre(&component).and_then(guest::FunctionPre::new).expect("a typed component");
        Self { executor, dispatcher, ring, pre, binding: in_process::binding("http-1", Kind::Http) }
    }

    fn event(&self, payload: &Bytes) -> InvocationContext {
        let mut event = InvocationContext::new(self.binding.clone(), Custody::Caller, payload.clone());
        event.subject = "/echo".into();
        event
    }

    fn bare(&self, payload: &Bytes) {
        let event = self.event(payload);
        let mut store = Store::new(self.executor.engine(), Limit(64 << 20));
        store.limiter(|limit| limit);
        store.set_epoch_deadline(1_000_000);
        let instance = self.pre.instantiate(&mut store).expect("an instance");
        let cx = guest::tripline::function::types::Context {
            invocation_id: event.invocation_id.to_string(),
            trigger: guest::tripline::function::types::TriggerKind::Http,
            subject: event.subject.to_string(),
            content_type: None,
            attempt: 1,
        };
        let answer = instance.call_handle(&mut store, &cx, payload).expect("no trap").expect("no failure");
        black_box(answer);
    }

    async fn attempt(&self, version: &Arc<Version>, payload: &Bytes) {
        let event = self.event(payload);
        let deadline = Instant::now() + Duration::from_secs(10);
        let attempt = self.executor.attempt(version, &event, deadline, None).await;
        black_box(attempt.result.expect("no failure"));
    }

    async fn whole(&self, payload: &Bytes) {
        let answer = self.dispatcher.dispatch(self.event(payload)).await;
        assert!(matches!(black_box(answer), Answer::Ok(_)));
    }
}

/// What it costs to keep a record of an attempt, the oldest one's end included; ns.
fn record(bench: &Bench) -> f64 {
    let newest = bench.ring.recent(1).pop().expect("attempts were made");
    let figures = (0..ROUNDS).map(|_| {
        let records = vec![newest.clone(); CALLS as usize];
        let began = Instant::now();
        for record in records {
            bench.ring.push(record);
        }
        micros(began) * 1000.0
    });
    median(figures.collect())
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// One round on the calling thread: bare, executor alone, whole path; µs a call.
async fn round(bench: &Bench, version: &Arc<Version>, payload: &Bytes) -> [f64; 3] {
    let began = Instant::now();
    for _ in 0..CALLS {
        bench.bare(payload);
    }
    let bare = micros(began);
    let began = Instant::now();
    for _ in 0..CALLS {
        bench.attempt(version, payload).await;
    }
    let attempt = micros(began);
    let began = Instant::now();
    for _ in 0..CALLS {
        bench.whole(payload).await;
    }
    [bare, attempt, micros(began)]
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let bench = Arc::new(runtime.block_on(Bench::new()));
    let payload = Bytes::from(vec![b'x'; 256]);
    let version = {
        let row = bench.dispatcher.route("default", "echo").expect("deployed");
        row.version.load_full()
    };
    for threads in [1, 2] {
        let mut figures: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            let rounds: Vec<_> = (0..threads)
                .map(|_| {
                    let (bench, version, payload) = (bench.clone(), version.clone(), payload.clone());
                    std::thread::spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                        runtime.expect("a runtime").block_on(round(&bench, &version, &payload))
                    })
                })
                .collect();
            for handle in rounds {
                let round = handle.join().expect("no panic");
                figures.iter_mut().zip(round).for_each(|(figures, figure)| figures.push(figure));
            }
        }
        let [bare, attempt, whole] = figures.map(median);
        println!("typed component, 256 B, fresh instance, {threads} thread(s); µs a call, median of {ROUNDS} rounds");
        println!("  bare wasmtime  {bare:.2}");
        println!("  executor       {attempt:.2}   {:.2} ×   {:+.2} µs", attempt / bare, attempt - bare);
        println!("  whole path     {whole:.2}   {:.2} ×   {:+.2} µs", whole / bare, whole - bare);
    }
    println!("trace record, on the calling thread: {:.0} ns, median of {ROUNDS} rounds", record(&bench));
}
