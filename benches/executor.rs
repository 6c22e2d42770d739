//! Every guest interface through the executor, with all limits on, beside the bare call of the same module by wasmtime
//! with the same engine: the same pool, the same epoch. And the first call of a larger component whose compiled code is
//! on disk.
//!
//! See `benches/README.md`.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

#[path = "support/bare.rs"]
mod bare;
mod support;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::Bare;
use bytes::Bytes;
use support::median;
use trigger_core::{BoxFuture, Custody, InvocationContext, Kind};
use tripline::executor::{Abi, Executor as _, ExecutorConfig, ModuleError, ModuleSlot, ModuleSource, WasmExecutor};
use tripline::functions::{Definition, Digest, Reuse, Version};
use uuid::Uuid;

const CALLS: u32 = 3000;

/// The guests: what each answers to is an echo.
const GUESTS: [&str; 6] = [
    "steer.component.wat",
    "steer.http.wat",
    "steer.messaging.wat",
    "steer.reactor.wat",
    "steer.wat",
    "steer.command.wat",
];

struct Module(Bytes);

impl ModuleSource for Module {
    fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        let bytes = self.0.clone();
        Box::pin(async move { Ok(bytes) })
    }
}

fn executor(module: &Bytes, cache_dir: Option<&Path>) -> WasmExecutor {
    let config = ExecutorConfig { cache_dir: cache_dir.map(Path::to_owned), ..ExecutorConfig::default() };
    WasmExecutor::new(config, Arc::new(Module(module.clone()))).expect("an executor")
}

fn version(executor: &WasmExecutor, module: &Bytes, reuse: Option<Reuse>) -> Arc<Version> {
    let mut definition = Definition::new("default", "echo");
    definition.reuse = reuse;
    let digest = Digest::of(module);
    let abi = executor.inspect(module).expect("a guest").abi;
    Arc::new(Version::new(Uuid::now_v7(), 1, digest, definition, Arc::new(ModuleSlot::new(digest, abi))))
}

fn event(payload: &Bytes) -> InvocationContext {
    let binding = support::in_process::binding("job-1", Kind::Job);
    let mut event = InvocationContext::new(binding, Custody::Caller, payload.clone());
    event.subject = "echo".into();
    event.attributes = vec![("reply".into(), "_INBOX.7".into())];
    event
}

async fn attempt(executor: &WasmExecutor, version: &Arc<Version>, event: &InvocationContext) -> Bytes {
    let deadline = Instant::now() + Duration::from_secs(10);
    executor.attempt(version, event, deadline, None).await.result.expect("no failure").body
}

/// One round on the calling thread: bare and through the executor; µs a call.
async fn round(executor: &WasmExecutor, version: &Arc<Version>, bare: &Bare, payload: &Bytes) -> [f64; 2] {
    let event = event(payload);
    let reused = version.definition.reuse.is_some();
    let mut kept = None;
    let began = Instant::now();
    for _ in 0..CALLS {
        black_box(bare.call(&event, if reused { Some(&mut kept) } else { None }).await);
    }
    let bare = began.elapsed();
    let began = Instant::now();
    for _ in 0..CALLS {
        black_box(attempt(executor, version, &event).await);
    }
    [bare, began.elapsed()].map(|took| took.as_secs_f64() * 1e6 / f64::from(CALLS))
}

fn compare(name: &str, rounds: usize) {
    let path = format!("{}/tests/guests/{name}", env!("CARGO_MANIFEST_DIR"));
    let module = Bytes::from(wat::parse_file(path).expect("a guest"));
    let payload = Bytes::from(vec![b'y'; 256]);
    let executor = Arc::new(executor(&module, None));
    let abi = executor.inspect(&module).expect("a guest").abi;
    let bare = Arc::new(Bare::new(executor.engine(), abi, &module));
    for reused in [false, true] {
        if reused && matches!(abi, Abi::Command | Abi::CommandComponent) {
            continue;
        }
        let reuse = reused.then(|| Reuse { max_uses: u32::MAX, max_age_seconds: 3600.0, ..Reuse::default() });
        let version = version(&executor, &module, reuse);
        for threads in [1, 2] {
            let mut figures: [Vec<f64>; 2] = Default::default();
            for _ in 0..rounds {
                let rounds: Vec<_> = (0..threads)
                    .map(|_| {
                        let (executor, version, bare) = (executor.clone(), version.clone(), bare.clone());
                        let payload = payload.clone();
                        std::thread::spawn(move || {
                            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                            runtime.expect("a runtime").block_on(round(&executor, &version, &bare, &payload))
                        })
                    })
                    .collect();
                for handle in rounds {
                    let round = handle.join().expect("no panic");
                    figures.iter_mut().zip(round).for_each(|(figures, figure)| figures.push(figure));
                }
            }
            let [bare, ours] = figures.map(median);
            let word = if reused { "reused" } else { "fresh" };
            println!(
                "  {:<18} {word:<7} {threads} thread(s)  bare {bare:>6.2}  executor {ours:>6.2}   {:.2} ×",
                abi.as_str(),
                ours / bare
            );
        }
    }
}

/// A typed component of about 1.2 MB: the echo, and a lot that it does not call.
fn large() -> Bytes {
    let path = format!("{}/tests/guests/steer.component.wat", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a guest");
    let mut more = String::new();
    for number in 0..1980 {
        let _ = write!(more, "(func (export \"f{number}\") (param i32 i32) (result i32) (local i32)");
        for step in 0..40 {
            let _ = write!(
                more,
                "(local.set 2 (i32.add (i32.mul (local.get 0) (i32.const {})) (i32.load (local.get {}))))",
                number * 41 + step,
                step % 3
            );
        }
        more.push_str("(local.get 2))\n");
    }
    let text = text.replacen("(func $fails", &format!("{more}(func $fails"), 1);
    wat::parse_str(text).expect("a component").into()
}

/// What the first call takes of an engine that has just started, milliseconds: from the event to its answer.
fn cold(rounds: usize) {
    let module = large();
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let payload = Bytes::from_static(b"hello");
    let first = || {
        let executor = executor(&module, Some(directory.path()));
        let version = version(&executor, &module, None);
        runtime.block_on(async {
            let event = event(&payload);
            let began = Instant::now();
            black_box(attempt(&executor, &version, &event).await);
            began.elapsed().as_secs_f64() * 1e3
        })
    };
    let compiled = first();
    let found = median((0..rounds).map(|_| first()).collect());
    println!(
        "first call of a component of {:.1} MB: {compiled:.0} ms when it is compiled, {found:.2} ms from the disk",
        module.len() as f64 / 1e6
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(15);
    cold(rounds);
    println!("echo of 256 B, µs a call, median of {rounds} rounds");
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for name in GUESTS.into_iter().filter(|name| wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()))) {
        compare(name, rounds);
    }
}
