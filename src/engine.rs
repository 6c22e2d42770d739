//! The engine: its parts put together, a manifest applied to them, and the way they stop.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::{
    BindError, Binding, Bus, Clock, Credentials, Dispatch, Finding, Jobs, Problem, Sockets, Step, Timers,
};

use crate::advance::Advance;
use crate::config::{self, Document, EngineConfig, FunctionConfig, Manifest, Report, StoreConfig};
use crate::credentials::Known;
use crate::databases::Databases;
use crate::demands::Demands;
use crate::dispatch::{self, Dispatcher, slots};
use crate::egress::{Egress, SystemResolver};
use crate::executor::{
    Abi, Executor, ExecutorConfig, Functions, KeyValues, Machine, ModuleError, ModuleSource, Services, WasmExecutor,
};
use crate::functions::{Digest, Registry, Version, Versions};
use crate::housekeeping::{self, Housekeeping};
use crate::kinds::Kinds;
use crate::relay::Relay;
use crate::secrets::Secrets;
use crate::store::postgres::{PostgresSettings, PostgresStore};
use crate::store::sqlite::{self, Place, SqliteSettings, SqliteStore};
use crate::store::{self, Deploy, Deployed, Store, TriggerRow};
use crate::supervisor::Supervisor;
use crate::tokens::Tokens;
use crate::traces::{Ring, Writer, WriterSettings};

/// Why the engine could not start, or could not take a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest has mistakes.
    #[error(transparent)]
    Manifest(#[from] Report),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// WebAssembly cannot be run here.
    #[error("cannot set up the executor: {0}")]
    Executor(String),
    /// The engine's own chores cannot be scheduled.
    #[error(transparent)]
    Housekeeping(#[from] housekeeping::Error),
    /// Triggers could not be bound; nothing was changed.
    #[error("{}", bind_errors(.0))]
    Bind(Vec<(String, BindError)>),
}

fn bind_errors(errors: &[(String, BindError)]) -> String {
    let lines: Vec<String> = errors.iter().map(|(path, error)| format!("trigger {path}: {error}")).collect();
    lines.join("\n")
}

/// What events come from, and the time by which they come.
pub struct Sources {
    /// Messages, in and out.
    pub bus: Arc<dyn Bus>,
    /// The trigger kinds.
    pub kinds: Arc<Kinds>,
    /// Where jobs go in, where this build has them.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// Where timers are set, where this build has them.
    pub timers: Option<Arc<dyn Timers>>,
    /// The sockets that are open, where this build has them.
    pub sockets: Option<Arc<dyn Sockets>>,
    /// What the public listener refused so far, by reason.
    pub refusals: Refusals,
    /// The clock that every decision about time goes by.
    pub clock: Clock,
}

/// Counts that someone else keeps, by name.
pub type Refusals = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// A running engine.
pub struct Engine {
    /// Its settings.
    pub config: EngineConfig,
    /// What it keeps.
    pub store: Arc<dyn Store>,
    /// What it publishes on.
    pub bus: Arc<dyn Bus>,
    /// The routes.
    pub registry: Arc<Registry>,
    /// Where jobs go in, where this build has them.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// Where timers are set, where this build has them.
    pub timers: Option<Arc<dyn Timers>>,
    /// What the public listener refused so far, by reason.
    pub refusals: Refusals,
    /// The sockets that are open, where this build has them.
    pub sockets: Option<Arc<dyn Sockets>>,
    /// Where events go in.
    pub dispatcher: Arc<Dispatcher>,
    /// The newest records.
    pub ring: Arc<Ring>,
    /// What turns records into rows.
    pub traces: Arc<Writer>,
    /// Runs the guests.
    pub executor: Arc<WasmExecutor>,
    /// Takes over what guests commit in their databases.
    pub relay: Arc<Relay>,
    /// Does its chores.
    pub housekeeping: Arc<Housekeeping>,
    /// The clock that it goes by.
    pub clock: Clock,
    /// What moves that clock, if it is a virtual one.
    pub advance: Advance,
    /// When it started, by its clock.
    pub started_at: DateTime<Utc>,
    /// The tokens of callers.
    pub tokens: Arc<Tokens>,
    secrets: Arc<Secrets>,
    versions: Arc<Versions>,
    kinds: Arc<Kinds>,
    supervisor: Supervisor,
    manifest: PathBuf,
    /// The modules of the manifest as it serves.
    modules: parking_lot::Mutex<Vec<PathBuf>>,
    /// One reload at a time.
    reloading: Mutex<()>,
    /// The writer of traces and the chores.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The store as the executor sees it.
struct StoredModules(Arc<dyn Store>);

impl ModuleSource for StoredModules {
    fn module(&self, digest: Digest) -> trigger_core::BoxFuture<'_, Result<Bytes, ModuleError>> {
        Box::pin(async move {
            match self.0.module(digest).await {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err(ModuleError::Unavailable(format!("the store has no module {digest}"))),
                Err(error) => Err(ModuleError::Unavailable(error.to_string())),
            }
        })
    }
}

/// What a reload did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Every function of the manifest, in its order.
    pub functions: Vec<Deployed>,
}

/// Opens the store.
async fn open_store(config: &EngineConfig, clock: &Clock) -> Result<Arc<dyn Store>, store::Error> {
    let sqlite = |place| {
        let synchronous = match config.synchronous {
            config::Synchronous::Full => sqlite::Synchronous::Full,
            config::Synchronous::Normal => sqlite::Synchronous::Normal,
        };
        SqliteStore::open(SqliteSettings { place, synchronous })
            .map(|store| -> Arc<dyn Store> { Arc::new(store.with_clock(clock.clone())) })
    };
    match &config.store {
        StoreConfig::Memory => sqlite(Place::Memory),
        StoreConfig::Sqlite(path) => sqlite(Place::File(path.clone())),
        StoreConfig::Postgres(address) => {
            let mut settings = PostgresSettings::from_secret(address)
                .map_err(|error| store::Error::Incompatible(error.to_string()))?;
            settings.lease = config.lease;
            settings.durable = config.synchronous == config::Synchronous::Full;
            Ok(Arc::new(PostgresStore::open_on(settings, clock.clone()).await?))
        }
    }
}

/// The directory for what can be made again (compiled code): beside the store's file, or where that would be.
fn cache_dir(manifest: &Path, config: &EngineConfig) -> Option<PathBuf> {
    match &config.store {
        StoreConfig::Memory => None,
        StoreConfig::Sqlite(path) => path.parent().map(|parent| parent.join("cache")),
        StoreConfig::Postgres(_) => Some(manifest.parent().unwrap_or(Path::new("")).join(".tripline/cache")),
    }
}

/// What the executor is told by the engine's settings.
pub fn executor_config(manifest: &Path, config: &EngineConfig) -> ExecutorConfig {
    ExecutorConfig {
        // Those whose callers wait for them are more than there are slots.
        max_instances: (config.max_concurrency + slots::nested(config.max_concurrency)) as u32,
        max_memory_mb: config.max_memory_mb,
        max_module_bytes: config.max_module_bytes,
        cache_dir: cache_dir(manifest, config),
        ..ExecutorConfig::default()
    }
}

impl Engine {
    /// Opens the store and makes the parts. Runs nothing yet.
    pub async fn new(
        manifest: &Path,
        config: EngineConfig,
        machine: Machine,
        sources: Sources,
    ) -> Result<Arc<Self>, Error> {
        let Sources { bus, kinds, jobs, timers, sockets, refusals, clock } = sources;
        let store = open_store(&config, &clock).await?;
        let functions = Arc::new(OnceLock::new());
        let databases = Databases::new(&config.databases);
        let relay = Relay::new(&*store, databases.clone(), clock.clone()).await?;
        let secrets = Arc::new(Secrets::new(config.secrets.clone()));
        let egress = Arc::new(Egress::new(config.egress_networks.clone(), Arc::new(SystemResolver)));
        let services = Services {
            jobs: jobs.clone(),
            timers: timers.clone(),
            sockets: sockets.clone(),
            databases,
            relay: Some(relay.clone()),
            kv: Some(KeyValues { store: store.clone(), limits: config.kv }),
            secrets: secrets.clone(),
            functions: functions.clone(),
            egress: egress.clone(),
            clock: clock.clone(),
        };
        let executor = WasmExecutor::on(machine, Arc::new(StoredModules(store.clone())), services)
            .map_err(|error| Error::Executor(error.to_string()))?;
        let executor = Arc::new(executor);
        let registry = Arc::new(Registry::default());
        let versions = Arc::new(Versions::new(store.clone()));
        let ring = Arc::new(Ring::new(config.traces.ring));
        let traces = Arc::new(Writer::new(
            ring.clone(),
            store.clone(),
            WriterSettings { ok_rows_per_second: config.traces.ok_rows_per_second, ..WriterSettings::default() },
        ));
        let dispatcher = Dispatcher::new(
            dispatch::Settings {
                max_concurrency: config.max_concurrency,
                max_waiting: config.max_waiting,
                max_wait: config.max_wait,
                max_depth: config.max_depth,
                lease: config.lease,
                results_keep: config.results_keep,
                ..dispatch::Settings::default()
            },
            dispatch::Parts {
                registry: registry.clone(),
                versions: versions.clone(),
                executor: executor.clone(),
                store: store.clone(),
                bus: bus.clone(),
                sockets: sockets.clone(),
                ring: ring.clone(),
                clock: clock.clone(),
            },
        );
        let callable: Weak<dyn Functions> = Arc::downgrade(&dispatcher) as _;
        assert!(functions.set(callable).is_ok(), "an engine has one dispatcher");
        let housekeeping = Housekeeping::new(
            config.clone(),
            clock.clone(),
            store.clone(),
            dispatcher.clone(),
            relay.clone(),
            executor.clone(),
        );
        let dispatch: Arc<dyn Dispatch> = dispatcher.clone();
        let tokens = Arc::new(Tokens::new(store.clone(), clock.clone(), config.namespace.clone()));
        let credentials: Arc<dyn Credentials> =
            Arc::new(Known { egress, secrets: secrets.clone(), tokens: tokens.clone() });
        let advance = Advance::new(dispatcher.clone(), store.clone());
        Ok(Arc::new(Self {
            supervisor: Supervisor::new(kinds.clone(), dispatch, credentials, clock.clone()),
            config,
            store,
            bus,
            jobs,
            timers,
            refusals,
            sockets,
            registry,
            dispatcher,
            ring,
            traces,
            executor,
            relay,
            started_at: clock.now(),
            clock,
            advance,
            tokens,
            secrets,
            versions,
            kinds,
            manifest: manifest.to_owned(),
            modules: parking_lot::Mutex::default(),
            reloading: Mutex::new(()),
            tasks: TaskTracker::new(),
            housekeeping,
            stop: CancellationToken::new(),
        }))
    }

    /// A key that all engines of this store have, and nobody else.
    pub async fn secret(&self, name: &str) -> Result<[u8; 32], Error> {
        Ok(store::secret(&*self.store, name, self.clock.now()).await?)
    }

    /// Applies the manifest that the engine was made for and starts working.
    pub async fn start(self: &Arc<Self>, document: &Document, manifest: Manifest) -> Result<Applied, Error> {
        let applied = {
            let _one_at_a_time = self.reloading.lock().await;
            self.apply(document, manifest).await?
        };
        self.dispatcher.run();
        self.relay.start(&self.dispatcher, &self.tasks, &self.stop);
        let (traces, stop) = (self.traces.clone(), self.stop.clone());
        self.tasks.spawn(async move { traces.run(stop).await });
        self.housekeeping.start(&self.tasks, &self.stop).await?;
        Ok(applied)
    }

    /// Reads the manifest again and makes it so: all of it, or nothing with every reason. Events under way end on the
    /// version that they began with.
    pub async fn reload(&self) -> Result<Applied, Error> {
        let _one_at_a_time = self.reloading.lock().await;
        let document = Document::read(&self.manifest)?;
        let manifest = document.manifest(&self.kinds)?;
        self.apply(&document, manifest).await
    }

    async fn apply(&self, document: &Document, manifest: Manifest) -> Result<Applied, Error> {
        let Manifest { engine, functions } = manifest;
        if engine != self.config {
            tracing::warn!(
                "[engine] has changed: its settings are taken at the next start, functions and triggers now"
            );
        }
        let deploys = read_modules(document, &functions, &*self.executor, &self.kinds)?;
        let triggers: Vec<_> = functions.iter().flat_map(|function| function.triggers.iter().cloned()).collect();
        let bound = self.supervisor.bind(&triggers).await.map_err(Error::Bind)?;
        let deployed = self.store.deploy(self.config.namespace.clone(), deploys).await?;
        let mut versions = Vec::with_capacity(deployed.len());
        for row in self.store.functions().await? {
            versions.push(self.version(row.version).await);
        }
        self.secrets.reload();
        self.registry.replace(versions);
        self.dispatcher.demand(demands(&triggers));
        self.supervisor.replace(bound).await;
        *self.modules.lock() = functions.iter().map(|function| function.module.clone()).collect();
        Ok(Applied { functions: deployed })
    }

    /// The version of a row, compiled ahead so that its first event does not wait for the compiler. One that cannot be
    /// compiled is routed all the same: its attempts fail and say why, and the other functions work.
    async fn version(&self, row: store::VersionRow) -> Arc<Version> {
        let serving = self.registry.route(&row.definition.namespace, &row.definition.name);
        if let Some(version) = serving.map(|route| route.version.load_full())
            && version.number == row.number
            && version.function_id == row.function_id
        {
            return version;
        }
        let version = self.versions.from_row(row);
        if let Err(error) = self.executor.prepare(&version).await {
            tracing::error!(
                function = %version.definition.name,
                version = version.number,
                "cannot be run: {error}"
            );
        }
        version
    }

    /// The triggers and how they are.
    pub fn triggers(&self) -> Vec<crate::supervisor::TriggerHealth> {
        self.supervisor.health()
    }

    /// The instants of a trigger, if it has a schedule.
    pub fn timetable(&self, row: &store::TriggerRow) -> Option<Arc<dyn trigger_core::Timetable>> {
        self.kinds.timetable_of(row)
    }

    /// What of a trigger's source cannot hold what is promised of its events.
    pub async fn examine(&self, row: &TriggerRow) -> Vec<Finding> {
        self.kinds.examine(row).await
    }

    /// One line about a trigger, for people.
    pub fn describe(&self, row: &store::TriggerRow) -> String {
        self.kinds.describe(row)
    }

    /// The file that the engine's functions come from.
    pub fn manifest(&self) -> &Path {
        &self.manifest
    }

    /// The files that the engine's functions come from: the manifest and its modules.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = self.modules.lock().clone();
        files.push(self.manifest.clone());
        files
    }

    /// Stops: first the sources, then what is under way, then the books.
    pub async fn drain(&self) {
        let grace = self.config.drain;
        let began = tokio::time::Instant::now();
        let sources = self.supervisor.stop();
        tokio::pin!(sources);
        // Sources answer what they took, and that ends when the attempts do; past the grace attempts are cut.
        if tokio::time::timeout(grace, &mut sources).await.is_err() {
            self.dispatcher.cut();
            sources.await;
        }
        self.dispatcher.drain(grace.saturating_sub(began.elapsed())).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What the triggers ask of their events, where they ask anything.
fn demands(triggers: &[TriggerRow]) -> HashMap<Binding, Arc<Demands>> {
    triggers.iter().filter_map(|row| Some((row.binding.clone(), Arc::new(Demands::of(&row.config)?)))).collect()
}

/// Reads and inspects every module; all that cannot be used are told at once, each at its place in the manifest.
pub fn read_modules(
    document: &Document,
    functions: &[FunctionConfig],
    executor: &dyn Executor,
    kinds: &Kinds,
) -> Result<Vec<Deploy>, Report> {
    let mut problems = Vec::new();
    let mut deploys = Vec::with_capacity(functions.len());
    for function in functions {
        let name = &function.definition.name;
        let read = std::fs::read(&function.module).map_err(|error| error.to_string());
        let inspected = read.and_then(|bytes| {
            let inspection = executor.inspect(&bytes).and_then(|inspection| {
                inspection.suits(&function.definition)?;
                let streams = function.triggers.iter().find(|trigger| kinds.streams(trigger));
                match streams {
                    Some(trigger) if inspection.abi != Abi::WasiHttp => Err(ModuleError::CannotStream {
                        trigger: trigger.binding.trigger_id.to_string(),
                        abi: inspection.abi,
                    }),
                    _ => Ok(inspection),
                }
            });
            inspection.map(|inspection| (bytes, inspection)).map_err(|error| error.to_string())
        });
        match inspected {
            Ok((bytes, inspection)) => deploys.push(Deploy {
                definition: function.definition.clone(),
                digest: Digest::of(&bytes),
                module: bytes.into(),
                abi: inspection.abi,
                triggers: function.triggers.clone(),
            }),
            Err(error) => problems.push(Problem {
                path: vec![Step::from("functions"), Step::from(name.as_str()), Step::from("module")],
                message: format!("module {}: {error}", function.module.display()),
                help: None,
            }),
        }
    }
    if problems.is_empty() { Ok(deploys) } else { Err(document.report(problems)) }
}
