//! The executor of WebAssembly: finds the compiled code, makes the instance, calls it where it belongs.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use trigger_core::{BoxFuture, Failure, FailureCode, InvocationContext, Progress};
use wasmtime::Engine;

use super::cache::{Cache, Counts, Key};
use super::call::{self, Call, Ended};
use super::compiled::{Code, Compiled, Linkers};
use super::disk::{Cleaned, DiskCache};
use super::engine::{Allocation, engine, start_clock};
use super::failure::{no_room, panicked};
use super::fiber::{GuestThreads, Overran};
use super::guest::{self, Guest};
use super::shelf::Shelf;
use super::{Attempt, Executor, Inspection, ModuleError, ModuleSource, Services, inspect};
use crate::functions::{Digest, Version};

/// How the executor works.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Attempts that may run at once.
    pub max_instances: u32,
    /// The most memory that one linear memory may have, in MiB, whatever definitions say.
    pub max_memory_mb: u32,
    /// The largest module, in bytes.
    pub max_module_bytes: u64,
    /// The longest that a compilation may take; by far more than the largest module that is reasonable takes.
    pub max_compile_time: Duration,
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
            max_compile_time: Duration::from_secs(120),
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
#[derive(Clone, Debug, thiserror::Error)]
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
        Self::counting(config, false)
    }

    /// The same, whose code counts its fuel or does not.
    fn counting(config: ExecutorConfig, fuel: bool) -> Result<Self, SetupError> {
        let failed = |error: wasmtime::Error| SetupError(format!("{error:#}"));
        let (engine, allocation) = engine(&config, fuel).map_err(failed)?;
        let linkers = Linkers::new(&engine).map_err(failed)?;
        Ok(Self { engine, allocation, linkers, config })
    }

    /// Starts the guests' clock and opens the disk's cache.
    fn start(self) -> Result<Ground, SetupError> {
        let Self { engine, allocation, linkers, config } = self;
        start_clock(&engine).map_err(|error| SetupError(format!("cannot start the guests' clock: {error}")))?;
        let disk = config.cache_dir.as_deref().and_then(|directory| {
            DiskCache::open(directory, &engine)
                .inspect_err(|error| {
                    let directory = directory.display();
                    tracing::warn!("compiled code is not kept, {directory} cannot be used: {error}");
                })
                .ok()
        });
        Ok(Ground { engine, allocation, linkers, disk })
    }
}

/// A machine at work, and the code that was compiled for it.
struct Ground {
    engine: Engine,
    allocation: Allocation,
    linkers: Linkers,
    disk: Option<DiskCache>,
}

/// Runs WebAssembly guests.
pub struct WasmExecutor {
    inner: Arc<Inner>,
    threads: GuestThreads,
    services: Arc<Services>,
    /// Attempts that ended by a panic of the host.
    panics: AtomicU64,
}

/// What the making of compiled code needs; it may outlast whoever asked for it.
struct Inner {
    ground: Ground,
    /// For versions with a limit of fuel, made for the first of them.
    counting: OnceLock<Result<Ground, SetupError>>,
    cache: Arc<Cache>,
    /// Instances that wait for another attempt.
    shelf: Arc<Shelf>,
    source: Arc<dyn ModuleSource>,
    config: ExecutorConfig,
    /// Compilations at once: they use every core by themselves.
    compiling: Arc<tokio::sync::Semaphore>,
}

impl WasmExecutor {
    /// An executor that gets modules from `source`, and whose guests find no queues and no timers.
    pub fn new(config: ExecutorConfig, source: Arc<dyn ModuleSource>) -> Result<Self, SetupError> {
        Self::on(Machine::new(config)?, source, Services::default())
    }

    /// An executor on this machine.
    pub fn on(machine: Machine, source: Arc<dyn ModuleSource>, services: Services) -> Result<Self, SetupError> {
        let config = machine.config.clone();
        let inner = Inner {
            ground: machine.start()?,
            counting: OnceLock::new(),
            cache: Arc::new(Cache::new(config.max_cached_modules, config.max_cached_bytes)),
            shelf: Arc::default(),
            source,
            config,
            compiling: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        let inner = Arc::new(inner);
        start_keeper(&inner).map_err(|error| SetupError(format!("cannot start the guests' keeper: {error}")))?;
        Ok(Self { inner, threads: GuestThreads::default(), services: Arc::new(services), panics: AtomicU64::new(0) })
    }

    /// The engine that guests run on whose fuel is not counted.
    pub fn engine(&self) -> &Engine {
        &self.inner.ground.engine
    }

    /// Removes compiled code from the disk that has been of no use for `keep`, and what was used longest ago where the
    /// rest has more than `max_bytes`. What other engines wrote into the same directory is looked at alike.
    pub async fn clean_cache(&self, keep: Duration, max_bytes: u64) -> std::io::Result<Cleaned> {
        let inner = self.inner.clone();
        let clean = tokio::task::spawn_blocking(move || match &inner.ground.disk {
            Some(disk) => disk.clean(keep, max_bytes, &inner.files_in_memory()),
            None => Ok(Cleaned::default()),
        });
        clean.await.map_err(std::io::Error::other)?
    }

    /// Lets go of what no version needs any more, as the keeper does every second.
    #[cfg(test)]
    pub(super) fn tidy(&self) {
        self.inner.tidy();
    }

    /// The instances that wait.
    #[cfg(test)]
    pub(super) fn shelf(&self) -> &Shelf {
        &self.inner.shelf
    }

    /// How many modules' code is in memory.
    #[cfg(test)]
    pub(super) fn codes(&self) -> usize {
        self.inner.cache.keys().len()
    }

    /// One line about how guests run here, for people.
    pub fn describe(&self) -> String {
        format!("wasmtime, {}", self.inner.ground.allocation.describe())
    }

    /// How often compiled code was there.
    pub fn cache_counts(&self) -> Counts {
        self.inner.cache.counts()
    }

    /// How many attempts ended by a panic of the engine's own.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    async fn compiled(&self, version: &Version) -> Result<Arc<Compiled>, ModuleError> {
        let slot = &version.module;
        let inner = self.inner.clone();
        let key = Key { digest: slot.digest, abi: slot.abi, fuel: version.definition.counts_fuel() };
        // Known from the start whose code it is, also when nobody waits for it any more.
        let user = Arc::downgrade(slot);
        let make = move || async move { inner.make(key).await.inspect(|compiled| compiled.used_by(&user)) };
        let compiled = self.inner.cache.get(key, make).await?;
        compiled.used_by(&Arc::downgrade(slot));
        slot.compiled(key.fuel).store(Arc::downgrade(&compiled));
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
        let in_memory = version.module.compiled(version.definition.counts_fuel()).load().upgrade();
        let (compiled, load) = match in_memory {
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
        let shelf = version.definition.reuse.as_ref().map(|_| &self.inner.shelf);
        let mut overran = Duration::ZERO;
        loop {
            let ended = if compiled.never_waits() && version.pace.is_quick() {
                let guest = Guest::new(version.clone(), self.inner.config.bounds, deadline);
                call::here(&compiled, guest, shelf.map(|shelf| &**shelf), invocation)
            } else {
                // Boxed, so that quick calls do not carry its room about.
                Box::pin(self.call_on_fiber(&compiled, version, invocation, deadline, &progress)).await
            };
            match ended {
                Ended::Done(mut attempt) => {
                    attempt.load = load;
                    attempt.run += overran;
                    return attempt;
                }
                // What it did is forgotten with its store; it begins again where it may take its time.
                Ended::Overran(took) => {
                    version.pace.overran();
                    overran = took;
                }
                Ended::Crowded if self.inner.shelf.give_way() => {}
                Ended::Crowded => return Attempt { load, ..Attempt::failed(no_room()) },
                Ended::Panicked => {
                    self.panics.fetch_add(1, Ordering::Relaxed);
                    let (function, invocation) = (invocation.binding.path(), invocation.invocation_id);
                    tracing::error!("the engine panicked while it ran {function} for {invocation}: please report it");
                    return Attempt { load, ..Attempt::failed(panicked()) };
                }
            }
        }
    }

    /// Calls a guest where it may wait or take long.
    async fn call_on_fiber(
        &self,
        compiled: &Arc<Compiled>,
        version: &Arc<Version>,
        invocation: &InvocationContext,
        deadline: Instant,
        progress: &Option<watch::Sender<Progress>>,
    ) -> Ended {
        let overran = Overran::default();
        let mut guest = Guest::new(version.clone(), self.inner.config.bounds, deadline);
        if compiled.needs.served {
            let mut served = guest::Served::new(self.services.clone(), progress.clone());
            served.trace = Some(invocation.trace.child());
            guest.serve(served);
        }
        let shelf = version.definition.reuse.as_ref().map(|_| self.inner.shelf.clone());
        let call = Call { guest, shelf, overran: overran.clone() };
        let work = call.begin(compiled.clone(), invocation);
        let at_once = !version.pace.is_quick();
        let ended = self.threads.run(work, &overran, at_once).await;
        match overran.load(Ordering::Relaxed) {
            true => version.pace.overran(),
            false => version.pace.kept(),
        }
        let stopping = || Attempt::failed(Failure::new(FailureCode::Cancelled, "the engine is shutting down"));
        ended.unwrap_or_else(|| Ended::Done(stopping()))
    }
}

/// How often what is of no use any more is looked for.
const TIDY: Duration = Duration::from_secs(1);

/// Starts the thread that lets go of what nobody uses. It ends with the executor.
fn start_keeper(inner: &Arc<Inner>) -> std::io::Result<()> {
    let inner = Arc::downgrade(inner);
    std::thread::Builder::new().name("guest-keeper".to_owned()).stack_size(128 << 10).spawn(move || {
        while let Some(inner) = inner.upgrade() {
            inner.tidy();
            drop(inner);
            std::thread::sleep(TIDY);
        }
    })?;
    Ok(())
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
    /// Where guests run whose fuel counts, or those whose does not. Blocks at the first of the former.
    fn ground(&self, fuel: bool) -> Result<&Ground, ModuleError> {
        if !fuel {
            return Ok(&self.ground);
        }
        let make = || Machine::counting(self.config.clone(), true)?.start();
        self.counting
            .get_or_init(make)
            .as_ref()
            .map_err(|error| ModuleError::Unavailable(format!("no guests with max_fuel can be run: {error}")))
    }

    /// Lets go of instances and of compiled code that no version needs any more.
    fn tidy(&self) {
        self.shelf.tidy();
        self.cache.tidy();
    }

    /// The files of the disk's cache whose code is in memory.
    fn files_in_memory(&self) -> HashSet<PathBuf> {
        let file = |key: Key| {
            let ground = if key.fuel { self.counting.get()?.as_ref().ok()? } else { &self.ground };
            Some(ground.disk.as_ref()?.path(key.digest, key.abi))
        };
        self.cache.keys().into_iter().filter_map(file).collect()
    }

    /// Compiled code of a module: from disk, or compiled now.
    async fn make(self: Arc<Self>, key: Key) -> Result<Arc<Compiled>, ModuleError> {
        let Key { digest, abi, fuel } = key;
        let lost = |_| ModuleError::Compile("the compiler failed".to_owned());
        let inner = self.clone();
        let found = tokio::task::spawn_blocking(move || {
            let ground = inner.ground(fuel)?;
            let code = ground.disk.as_ref().and_then(|disk| disk.load(&ground.engine, digest, abi));
            code.map(|code| Compiled::link(&ground.linkers, abi, &code)).transpose()
        });
        if let Some(found) = found.await.map_err(lost)?? {
            return Ok(Arc::new(found));
        }
        let turn = self.compiling.clone().acquire_owned().await.expect("never closed");
        let bytes = self.source.module(digest).await?;
        let (inner, limit) = (self.clone(), self.config.max_compile_time);
        let compiled = tokio::task::spawn_blocking(move || {
            // The compiler cannot be stopped: until it has ended, no other begins beside it.
            let _turn = turn;
            let began = Instant::now();
            if Digest::of(&bytes) != digest {
                return Err(ModuleError::Corrupt { expected: digest });
            }
            inner.cache.compiles.fetch_add(1, Ordering::Relaxed);
            let ground = inner.ground(fuel)?;
            let code = Code::compile(&ground.engine, abi, &bytes)?;
            // Whoever waited has been told; nobody is to find it later.
            if began.elapsed() > limit {
                return Err(ModuleError::CompilesTooLong { limit });
            }
            let compiled = Compiled::link(&ground.linkers, abi, &code)?;
            if let Some(disk) = &ground.disk {
                disk.save(digest, abi, &code);
            }
            Ok(compiled)
        });
        match tokio::time::timeout(limit, compiled).await {
            Ok(compiled) => compiled.map_err(lost)?.map(Arc::new),
            Err(_) => Err(ModuleError::CompilesTooLong { limit }),
        }
    }
}

impl Executor for WasmExecutor {
    fn inspect(&self, module: &[u8]) -> Result<Inspection, ModuleError> {
        let features = self.inner.ground.engine.get_wasm_features();
        inspect::inspect(module, self.inner.config.max_module_bytes, features)
    }

    fn prepare<'a>(&'a self, version: &'a Arc<Version>) -> BoxFuture<'a, Result<(), ModuleError>> {
        Box::pin(async move {
            match version.module.compiled(version.definition.counts_fuel()).load().upgrade() {
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
