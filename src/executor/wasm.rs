//! The executor of WebAssembly: finds the compiled code, makes the instance, calls it where it belongs.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use trigger_core::{BoxFuture, Failure, FailureCode, InvocationContext, Progress, Response};
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};

use super::cache::{Cache, Counts};
use super::compiled::{Code, Compiled, Linked, Linkers};
use super::disk::{Cleaned, DiskCache};
use super::engine::{Allocation, engine, start_clock};
use super::failure::{panicked, timeout};
use super::fiber::{GuestThreads, Overran};
use super::guest::{self, Guest, lend};
use super::wasi::Wasi;
use super::{
    Attempt, Effects, Executor, Inspection, ModuleError, ModuleSource, Services, command, component, http, inspect,
    reactor,
};
use crate::functions::{Digest, Version};

/// Ticks that a guest has on its caller's thread. Two are at least one whole one: the next tick may come at once.
const QUICK_TICKS: u64 = 2;

/// How the executor works.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Attempts that may run at once.
    pub max_instances: u32,
    /// The most memory that one linear memory may have, in MiB, whatever definitions say.
    pub max_memory_mb: u32,
    /// The largest module, in bytes.
    pub max_module_bytes: u64,
    /// Where compiled code is kept over restarts, if it is.
    pub cache_dir: Option<PathBuf>,
    /// Compiled modules kept in memory.
    pub max_cached_modules: usize,
    /// Bytes of compiled code kept in memory.
    pub max_cached_bytes: usize,
    /// What attempts may ask for.
    pub bounds: Bounds,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            max_instances: 256,
            max_memory_mb: 1024,
            max_module_bytes: 64 << 20,
            cache_dir: None,
            max_cached_modules: 1000,
            max_cached_bytes: 1 << 30,
            bounds: Bounds::default(),
        }
    }
}

/// What one attempt may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest message, headers included, in bytes.
    pub max_message_bytes: usize,
    /// Messages, jobs and timers of one attempt together.
    pub max_effects: usize,
    /// Bytes of all of them, headers included.
    pub max_effect_bytes: usize,
    /// Requests to the outside.
    pub max_requests: usize,
    /// Those of them that are under way at once.
    pub max_connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            max_effects: 1000,
            max_effect_bytes: 8 << 20,
            max_requests: 100,
            max_connections: 8,
        }
    }
}

/// WebAssembly cannot be run on this machine, or with this configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

/// Where guests run: address space laid out for them, and what they may import.
///
/// Made apart from the executor, so that the pool can be laid out before the process has other threads, each of which
/// would be told of every page whose protection changes.
pub struct Machine {
    engine: Engine,
    allocation: Allocation,
    linkers: Linkers,
    config: ExecutorConfig,
}

impl Machine {
    /// The best machine that this computer can be.
    pub fn new(config: ExecutorConfig) -> Result<Self, SetupError> {
        let failed = |error: wasmtime::Error| SetupError(format!("{error:#}"));
        let (engine, allocation) = engine(&config).map_err(failed)?;
        let linkers = Linkers::new(&engine).map_err(failed)?;
        Ok(Self { engine, allocation, linkers, config })
    }
}

/// Runs WebAssembly guests.
pub struct WasmExecutor {
    inner: Arc<Inner>,
    threads: GuestThreads,
    allocation: Allocation,
    services: Arc<Services>,
}

/// What the making of compiled code needs; it may outlast whoever asked for it.
struct Inner {
    engine: Engine,
    linkers: Linkers,
    cache: Arc<Cache>,
    disk: Option<DiskCache>,
    source: Arc<dyn ModuleSource>,
    config: ExecutorConfig,
    /// Compilations at once: they use every core by themselves.
    compiling: tokio::sync::Semaphore,
}

impl WasmExecutor {
    /// An executor that gets modules from `source`, and whose guests find no queues and no timers.
    pub fn new(config: ExecutorConfig, source: Arc<dyn ModuleSource>) -> Result<Self, SetupError> {
        Self::on(Machine::new(config)?, source, Services::default())
    }

    /// An executor on this machine.
    pub fn on(machine: Machine, source: Arc<dyn ModuleSource>, services: Services) -> Result<Self, SetupError> {
        let Machine { engine, allocation, linkers, config } = machine;
        start_clock(&engine).map_err(|error| SetupError(format!("cannot start the guests' clock: {error}")))?;
        let disk = config.cache_dir.as_deref().and_then(|directory| {
            DiskCache::open(directory, &engine)
                .inspect_err(|error| {
                    let directory = directory.display();
                    tracing::warn!("compiled code is not kept, {directory} cannot be used: {error}");
                })
                .ok()
        });
        let inner = Inner {
            linkers,
            cache: Arc::new(Cache::new(config.max_cached_modules, config.max_cached_bytes)),
            disk,
            source,
            config,
            compiling: tokio::sync::Semaphore::new(1),
            engine,
        };
        Ok(Self { inner: Arc::new(inner), threads: GuestThreads::default(), allocation, services: Arc::new(services) })
    }

    /// The engine that guests run on.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Removes compiled code from the disk that has been of no use for `keep`, and what was used longest ago where the
    /// rest has more than `max_bytes`. What other engines wrote into the same directory is looked at alike.
    pub async fn clean_cache(&self, keep: Duration, max_bytes: u64) -> std::io::Result<Cleaned> {
        let inner = self.inner.clone();
        let clean = tokio::task::spawn_blocking(move || match &inner.disk {
            Some(disk) => disk.clean(keep, max_bytes, &inner.cache.digests()),
            None => Ok(Cleaned::default()),
        });
        clean.await.map_err(std::io::Error::other)?
    }

    /// One line about how guests run here, for people.
    pub fn describe(&self) -> String {
        format!("wasmtime, {}", self.allocation.describe())
    }

    /// How often compiled code was there.
    pub fn cache_counts(&self) -> Counts {
        self.inner.cache.counts()
    }

    async fn compiled(&self, version: &Version) -> Result<Arc<Compiled>, ModuleError> {
        let slot = &version.module;
        let inner = self.inner.clone();
        let (digest, abi) = (slot.digest, slot.abi);
        let compiled = self.inner.cache.get(digest, move || async move { inner.make(digest, abi).await }).await?;
        slot.compiled.store(Arc::downgrade(&compiled));
        Ok(compiled)
    }

    async fn run(
        &self,
        version: &Arc<Version>,
        invocation: &InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> Attempt {
        let limit = version.definition.max_input_bytes;
        if invocation.payload.len() as u64 > limit {
            let message = format!("the payload has {} bytes, the function takes {limit}", invocation.payload.len());
            return Attempt::failed(Failure::new(FailureCode::InputTooLarge, message));
        }
        let (compiled, load) = match version.module.compiled() {
            Some(compiled) => {
                self.inner.cache.hit(&compiled);
                (compiled, Duration::ZERO)
            }
            None => {
                let began = Instant::now();
                match Box::pin(tokio::time::timeout_at(deadline.into(), self.compiled(version))).await {
                    Ok(Ok(compiled)) => (compiled, began.elapsed()),
                    Ok(Err(error)) => return Attempt { load: began.elapsed(), ..Attempt::failed(unusable(&error)) },
                    Err(_) => {
                        let failure = Failure::new(FailureCode::Timeout, "the module was not compiled in time");
                        return Attempt { load: began.elapsed(), ..Attempt::failed(failure) };
                    }
                }
            }
        };
        let mut overran = Duration::ZERO;
        if let Linked::Component { pre, handle, wasi: false, served: false } = &compiled.linked
            && version.pace.is_quick()
        {
            let began = Instant::now();
            if let Some(attempt) = self.call_here(pre, handle, version, invocation, deadline) {
                return Attempt { load, ..attempt };
            }
            // What it did is forgotten with its store; it begins again where it may take its time.
            version.pace.overran();
            overran = began.elapsed();
        }
        // Boxed, so that quick calls do not carry its room about.
        let mut attempt = Box::pin(self.call_on_fiber(compiled, version, invocation, deadline, progress)).await;
        attempt.load = load;
        attempt.run += overran;
        attempt
    }

    /// Calls a guest that cannot wait on this thread. `None` if it computed for too long: this thread has sockets to
    /// look after.
    fn call_here(
        &self,
        pre: &InstancePre<Guest>,
        handle: &ComponentExportIndex,
        version: &Arc<Version>,
        invocation: &InvocationContext,
        deadline: Instant,
    ) -> Option<Attempt> {
        let guest = Guest::new(version.clone(), self.inner.config.bounds, deadline);
        let began = guest.began;
        let mut store = guest.into_store(&self.inner.engine);
        store.set_epoch_deadline(QUICK_TICKS);
        let called = lend(invocation, || {
            std::panic::catch_unwind(AssertUnwindSafe(|| component::call(&mut store, pre, handle, invocation)))
        });
        let Ok(called) = called else { return Some(Attempt::failed(panicked())) };
        let ended = Instant::now();
        if let Err(error) = &called.result
            && error.downcast_ref() == Some(&Trap::Interrupt)
            && ended < deadline
        {
            return None;
        }
        let mut guest = store.into_data();
        let result = component::answer(called.result, &mut guest);
        Some(account(guest, result, began, called.ready, ended))
    }

    /// Calls a guest where it may wait or take long.
    async fn call_on_fiber(
        &self,
        compiled: Arc<Compiled>,
        version: &Arc<Version>,
        invocation: &InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> Attempt {
        let overran = Overran::default();
        let mut guest = Guest::new(version.clone(), self.inner.config.bounds, deadline);
        if compiled.linked.is_served() {
            let mut served = guest::Served::new(self.services.clone(), progress);
            served.trace = Some(invocation.trace.child());
            guest.serve(served);
        }
        let call = Call { engine: self.inner.engine.clone(), guest, overran: overran.clone() };
        let work = call.begin(compiled, invocation);
        let at_once = !version.pace.is_quick();
        let attempt = self.threads.run(work, &overran, at_once).await;
        match overran.load(Ordering::Relaxed) {
            true => version.pace.overran(),
            false => version.pace.kept(),
        }
        attempt.unwrap_or_else(|| Attempt::failed(Failure::new(FailureCode::Cancelled, "the engine is shutting down")))
    }
}

/// A call that owns what it needs, so that it can go to another thread.
struct Call {
    engine: Engine,
    guest: Guest,
    overran: Overran,
}

type Work = std::pin::Pin<Box<dyn Future<Output = Attempt> + Send>>;

impl Call {
    fn begin(mut self, compiled: Arc<Compiled>, invocation: &InvocationContext) -> Work {
        match &compiled.linked {
            Linked::Component { wasi, .. } => {
                if *wasi {
                    self.guest.wasi = Some(Box::new(Wasi::component(&mut self.guest)));
                }
                self.guest.invocation = Some(Box::new(invocation.clone()));
                let invocation = Box::new(invocation.clone());
                self.guarded(move |store| {
                    Box::pin(async move {
                        let Linked::Component { pre, handle, .. } = &compiled.linked else {
                            unreachable!("matched above")
                        };
                        let called = component::call_async(store, pre, handle, &invocation).await;
                        Finish {
                            ready: called.ready,
                            answer: Box::new(|guest| component::answer(called.result, guest)),
                        }
                    })
                })
            }
            Linked::Http { asks, .. } => {
                self.guest.wasi = Some(Box::new(Wasi::component(&mut self.guest)));
                self.guest.invocation = asks.then(|| Box::new(invocation.clone()));
                let (request, told) = (http::request(invocation), http::Told::of(invocation));
                self.guarded(move |store| {
                    Box::pin(async move {
                        let Linked::Http { pre, .. } = &compiled.linked else { unreachable!("matched above") };
                        let called = http::call(store, pre, request).await;
                        Finish { ready: called.ready, answer: Box::new(move |guest| http::answer(called, guest, told)) }
                    })
                })
            }
            Linked::Reactor { .. } => {
                self.guest.wasi = Some(Box::new(Wasi::reactor(&self.guest)));
                let payload = invocation.payload.clone();
                self.guarded(move |store| {
                    Box::pin(async move {
                        let Linked::Reactor { pre } = &compiled.linked else { unreachable!("matched above") };
                        let called = reactor::call(store, pre, &payload).await;
                        Finish { ready: called.ready, answer: Box::new(|guest| reactor::answer(called.result, guest)) }
                    })
                })
            }
            Linked::Command { .. } => {
                let (wasi, output) = Wasi::command(&self.guest, invocation.payload.clone());
                self.guest.wasi = Some(Box::new(wasi));
                self.guarded(move |store| {
                    Box::pin(async move {
                        let Linked::Command { pre } = &compiled.linked else { unreachable!("matched above") };
                        let (ready, result) = command::call(store, pre).await;
                        Finish { ready, answer: Box::new(move |guest| command::answer(result, output, guest)) }
                    })
                })
            }
        }
    }

    /// Runs `call` within the attempt's time, whatever it does.
    fn guarded<F>(self, call: F) -> Work
    where
        F: for<'a> FnOnce(&'a mut Store<Guest>) -> BoxFuture<'a, Finish> + Send + 'static,
    {
        let Self { engine, guest, overran } = self;
        let (began, deadline) = (guest.began, guest.deadline);
        let seconds = guest.version.definition.timeout_seconds;
        let mut store = guest.into_store(&engine);
        store.set_epoch_deadline(QUICK_TICKS);
        store.epoch_deadline_callback(move |_| {
            overran.store(true, Ordering::Relaxed);
            Ok(if Instant::now() >= deadline { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        Box::pin(async move {
            let running = AssertUnwindSafe(call(&mut store)).catch_unwind();
            let finished = tokio::time::timeout_at(deadline.into(), running).await;
            let ended = Instant::now();
            match finished {
                Ok(Ok(finish)) => {
                    let mut guest = store.into_data();
                    let result = (finish.answer)(&mut guest);
                    account(guest, result, began, finish.ready, ended)
                }
                Ok(Err(_)) => Attempt::failed(panicked()),
                // It waited too long for something; its store goes with it, and is never entered again.
                Err(_) => account(store.into_data(), Err(timeout(seconds)), began, Some(began), ended),
            }
        })
    }
}

/// What a call's end means, asked once its guest is out of its store.
type Meaning = Box<dyn FnOnce(&mut Guest) -> Result<Response, Failure> + Send>;

/// How a call went, before its meaning is known.
struct Finish {
    ready: Option<Instant>,
    answer: Meaning,
}

/// The account of a call that is over.
fn account(
    mut guest: Guest,
    mut result: Result<Response, Failure>,
    began: Instant,
    ready: Option<Instant>,
    ended: Instant,
) -> Attempt {
    let ready = ready.unwrap_or(ended);
    if let Err(failure) = &mut result
        && let Cow::Owned(shown) = guest.logs.masks.hide(&failure.message)
    {
        failure.message = shown.into();
    }
    Attempt {
        load: Duration::ZERO,
        instantiate: ready - began,
        run: ended - ready,
        memory_peak_bytes: guest.limits.memory_peak as u64,
        effects: if result.is_ok() { std::mem::take(&mut guest.effects) } else { Effects::default() },
        detail: guest.detail(),
        result,
    }
}

/// What an event is told whose module cannot be used.
fn unusable(error: &ModuleError) -> Failure {
    match error {
        ModuleError::ImportDenied { .. } => Failure::new(FailureCode::ImportDenied, error.to_string()),
        // Whether the store answers next time is not the module's affair.
        ModuleError::Unavailable(_) => Failure::new(FailureCode::HostError, error.to_string()),
        _ => Failure::new(FailureCode::HostError, error.to_string()).permanent(),
    }
}

impl Inner {
    /// Compiled code of a module: from disk, or compiled now.
    async fn make(self: Arc<Self>, digest: Digest, abi: super::Abi) -> Result<Arc<Compiled>, ModuleError> {
        let lost = |_| ModuleError::Compile("the compiler failed".to_owned());
        let inner = self.clone();
        let found = tokio::task::spawn_blocking(move || {
            let code = inner.disk.as_ref()?.load(&inner.engine, digest, abi)?;
            Some(Compiled::link(&inner.linkers, abi, &code))
        });
        if let Some(found) = found.await.map_err(lost)? {
            return found.map(Arc::new);
        }
        let _turn = self.compiling.acquire().await.expect("never closed");
        let bytes = self.source.module(digest).await?;
        let inner = self.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            if Digest::of(&bytes) != digest {
                return Err(ModuleError::Corrupt { expected: digest });
            }
            inner.cache.compiles.fetch_add(1, Ordering::Relaxed);
            let code = Code::compile(&inner.engine, abi, &bytes)?;
            let compiled = Compiled::link(&inner.linkers, abi, &code)?;
            if let Some(disk) = &inner.disk {
                disk.save(digest, abi, &code);
            }
            Ok(compiled)
        });
        compiled.await.map_err(lost)?.map(Arc::new)
    }
}

impl Executor for WasmExecutor {
    fn inspect(&self, module: &[u8]) -> Result<Inspection, ModuleError> {
        let features = self.inner.engine.get_wasm_features();
        inspect::inspect(module, self.inner.config.max_module_bytes, features)
    }

    fn prepare<'a>(&'a self, version: &'a Arc<Version>) -> BoxFuture<'a, Result<(), ModuleError>> {
        Box::pin(async move {
            match version.module.compiled() {
                Some(_) => Ok(()),
                None => self.compiled(version).await.map(drop),
            }
        })
    }

    fn attempt<'a>(
        &'a self,
        version: &'a Arc<Version>,
        invocation: &'a InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> BoxFuture<'a, Attempt> {
        Box::pin(self.run(version, invocation, deadline, progress))
    }
}
