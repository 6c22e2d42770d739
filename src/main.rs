//! The `tripline` binary: the composition root, and the only place that names concrete triggers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::Clock;
use tripline::admin;
use tripline::bus;
use tripline::cli::announce::{Addresses, announce};
#[cfg(feature = "database")]
use tripline::cli::database::DatabaseCommand;
use tripline::cli::{self, Cli, Command, SchedulesCommand, check};
use tripline::config::{BusConfig, Document, EngineConfig, Manifest, Report};
#[cfg(feature = "http")]
use tripline::config::{ClientHeader, TlsConfig};
#[cfg(feature = "database")]
use tripline::config::{Secret, StoreConfig};
#[cfg(feature = "database")]
use tripline::databases::Place;
use tripline::engine::{Engine, Error as EngineError, Sources, executor_config, read_modules};
use tripline::executor::{ExecutorConfig, Machine, ModuleError, ModuleSource, WasmExecutor};
use tripline::functions::Digest;
use tripline::kinds::Kinds;
#[cfg(feature = "database")]
use tripline::store::postgres::PostgresSettings;
use tripline::telemetry;
use tripline::watch::Watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| fail(&error))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Dev(options) => start(&options.run, options.clock.clock(), true),
        Command::Serve(options) => start(&options, Clock::system(), false),
        Command::Check(options) => check_manifest(&options),
        #[cfg(feature = "database")]
        Command::Database(cli::database::Database { command }) => block_on(in_databases(command)),
        Command::Invoke(invoke) => {
            block_on(cli::invoke::run(*invoke, |config: &EngineConfig| closed_kinds(Some(config))))
        }
        // The kinds know what a schedule means: no engine has to be asked.
        Command::Schedules(cli::Schedules { command: SchedulesCommand::Next(next) }) if !next.schedule.is_empty() => {
            cli::schedules::preview(&next, &closed_kinds(None)?, Clock::system().now())?;
            Ok(ExitCode::SUCCESS)
        }
        command => block_on(cli::ask(command)),
    }
}

/// Runs a future on a runtime of its own.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // A second signal left things running on purpose.
    runtime.shutdown_background();
    result
}

/// Says what went wrong, once, and which exit code that is.
fn fail(error: &anyhow::Error) -> ExitCode {
    let report = error.downcast_ref::<Report>().or_else(|| match error.downcast_ref::<EngineError>() {
        Some(EngineError::Manifest(report)) => Some(report),
        _ => None,
    });
    if let Some(report) = report {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        complain(&check::failure_text(report, colours));
        return ExitCode::from(cli::EXIT_MANIFEST);
    }
    complain(&format!("tripline: {error:#}"));
    ExitCode::FAILURE
}

/// Writes to standard error, where what went wrong belongs.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The manifest that a path means: the file, or `tripline.toml` in the directory.
fn manifest_path(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tripline.toml") } else { path.to_owned() }
}

/// What the kinds work on.
struct Behind {
    bus: bus::Open,
    #[cfg(feature = "http")]
    routes: trigger_http::Routes,
    #[cfg(feature = "websocket")]
    hub: Arc<trigger_websocket::Hub>,
    #[cfg(feature = "job")]
    queues: Arc<trigger_job::Queues>,
    #[cfg(feature = "timer")]
    alarms: Arc<trigger_timer::Alarms>,
    #[cfg(feature = "database")]
    database: trigger_database::Database,
}

/// The trigger kinds of this build.
fn kinds(behind: Behind) -> anyhow::Result<Kinds> {
    let mut kinds = Kinds::new();
    #[cfg(feature = "http")]
    kinds.add(trigger_http::Http::new(behind.routes.clone()))?;
    #[cfg(feature = "websocket")]
    kinds.add(trigger_websocket::Websocket::new(behind.hub, Arc::new(behind.routes)))?;
    #[cfg(feature = "pubsub")]
    {
        let bus::Open { bus, nats } = behind.bus;
        let clients = nats.map(|nats| -> trigger_pubsub::Clients { Arc::new(move || nats.client()) });
        kinds.add(trigger_pubsub::Pubsub::new(bus, clients))?;
    }
    #[cfg(feature = "cron")]
    kinds.add(trigger_cron::Cron::default())?;
    #[cfg(feature = "database")]
    kinds.add(behind.database)?;
    #[cfg(feature = "job")]
    kinds.add(trigger_job::Job::new(behind.queues))?;
    #[cfg(feature = "timer")]
    kinds.add(trigger_timer::Timer::new(behind.alarms))?;
    Ok(kinds)
}

/// The same kinds with nothing behind them: they check and describe, and open nothing.
fn closed_kinds(config: Option<&EngineConfig>) -> anyhow::Result<Kinds> {
    let mut kinds = Kinds::new();
    #[cfg(feature = "http")]
    kinds.add(trigger_http::Http::default())?;
    #[cfg(feature = "websocket")]
    kinds.add(trigger_websocket::Websocket::new(Arc::default(), Arc::new(trigger_http::Routes::default())))?;
    #[cfg(feature = "pubsub")]
    kinds.add(trigger_pubsub::Pubsub::checks_only(config.is_some_and(|config| config.bus != BusConfig::Memory)))?;
    #[cfg(feature = "cron")]
    kinds.add(trigger_cron::Cron::default())?;
    #[cfg(feature = "database")]
    kinds.add(trigger_database::Database::new(config.map(databases).unwrap_or_default()))?;
    #[cfg(feature = "job")]
    kinds.add(trigger_job::Job::default())?;
    #[cfg(feature = "timer")]
    kinds.add(trigger_timer::Timer::default())?;
    Ok(kinds)
}

/// The databases that triggers may name. An address that cannot be read was refused with the manifest.
#[cfg(feature = "database")]
fn databases(config: &EngineConfig) -> trigger_database::Databases {
    let server = |address: &Secret| {
        let settings = PostgresSettings::from_secret(address).ok()?;
        let schema = format!("{}_cdc", settings.schema);
        Some(trigger_database::Place::Postgres(trigger_database::Server {
            options: Box::new(settings.options()),
            schema,
        }))
    };
    let own = match &config.store {
        StoreConfig::Postgres(address) => server(address),
        StoreConfig::Memory | StoreConfig::Sqlite(_) => None,
    };
    let named = config.databases.iter().filter_map(|(name, settings)| match &settings.place {
        Place::Sqlite(file) => Some((name, trigger_database::Place::Sqlite(file.clone()))),
        Place::Postgres(address) => Some((name, server(address)?)),
    });
    let databases = own.into_iter().fold(trigger_database::Databases::default(), |all, own| all.with_own(own));
    named.fold(databases, |all, (name, place)| all.with(name, place))
}

fn check_manifest(options: &cli::Check) -> anyhow::Result<ExitCode> {
    if options.schema {
        cli::print_json(&tripline::config::schema(&closed_kinds(None)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = manifest_path(&options.manifest);
    let checked = Document::read(&path).map_err(anyhow::Error::from).and_then(|document| {
        let kinds = closed_kinds(Some(&document.engine()))?;
        let manifest = document.manifest(&kinds)?;
        let config = ExecutorConfig {
            max_instances: 1,
            max_module_bytes: manifest.engine.max_module_bytes,
            ..ExecutorConfig::default()
        };
        let executor = WasmExecutor::new(config, Arc::new(NoModules))?;
        read_modules(&document, &manifest.functions, &executor, &kinds)?;
        Ok((manifest, kinds))
    });
    let name = path.display().to_string();
    match checked {
        Ok((manifest, kinds)) => {
            let text = if options.json {
                check::success_json(&name, &manifest, &kinds)
            } else {
                check::success_text(&name, &manifest, &kinds)
            };
            cli::print_line(text.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => match error.downcast_ref::<Report>() {
            Some(report) if options.json => {
                cli::print_line(check::failure_json(report).trim_end());
                Ok(ExitCode::from(cli::EXIT_MANIFEST))
            }
            _ => Err(error),
        },
    }
}

/// Looks at what captures changes in databases, or changes it. Exit code 1 where something is in the way.
#[cfg(feature = "database")]
async fn in_databases(command: DatabaseCommand) -> anyhow::Result<ExitCode> {
    let which = match &command {
        DatabaseCommand::Plan(which) => which,
        DatabaseCommand::Apply(change) | DatabaseCommand::Drop(change) => &change.which,
    };
    let document = Document::read(&manifest_path(&which.manifest))?;
    let config = document.engine();
    let kinds = closed_kinds(Some(&config))?;
    let manifest = document.manifest(&kinds)?;
    let mut triggers = Vec::new();
    for row in manifest.functions.iter().flat_map(|function| &function.triggers) {
        let section = kinds.read(row.binding.trigger_type, &row.config).map_err(anyhow::Error::msg)?;
        if let Some(config) = section.config::<trigger_database::Database>() {
            triggers.push((row.binding.path(), config.clone()));
        }
    }
    let installations =
        trigger_database::Installation::all(&databases(&config), &config.namespace, triggers, &which.database)
            .map_err(anyhow::Error::msg)?;
    let mut plans = Vec::with_capacity(installations.len());
    for one in installations {
        let plan = match &command {
            DatabaseCommand::Plan(_) => one.plan().await,
            DatabaseCommand::Apply(change) => one.apply(change.discard).await,
            DatabaseCommand::Drop(change) => one.drop(change.discard).await,
        };
        plans.push(plan.map_err(|why| anyhow::anyhow!("database {}: {why}", one.database))?);
    }
    if which.json {
        cli::print_json(&serde_json::json!({ "databases": plans }))?;
    } else {
        let statements = matches!(command, DatabaseCommand::Plan(_));
        let text: Vec<String> = plans.iter().map(|plan| plan.text(statements)).collect();
        cli::print_line(text.concat().trim_end());
    }
    let sound = plans.iter().all(|plan| plan.problems.is_empty());
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For inspecting modules: nothing is ever compiled.
struct NoModules;

impl ModuleSource for NoModules {
    fn module(&self, digest: Digest) -> trigger_core::BoxFuture<'_, Result<bytes::Bytes, ModuleError>> {
        Box::pin(async move { Err(ModuleError::Unavailable(format!("no store has {digest}"))) })
    }
}

/// Does what needs no runtime: every mistake of the manifest is told before anything is opened, and the guests' memory
/// is laid out before there are threads that would have to be told of each of its pages.
fn start(options: &cli::Run, clock: Clock, dev: bool) -> anyhow::Result<ExitCode> {
    telemetry::init(options.log_format.into(), &options.log).map_err(anyhow::Error::msg)?;
    let path = manifest_path(&options.manifest);
    let document = Document::read(&path)?;
    let manifest = document.manifest(&closed_kinds(Some(&document.engine()))?)?;
    let machine = Machine::new(executor_config(&path, &manifest.engine))?;
    block_on(serve(&path, document, manifest, machine, clock, dev))
}

async fn serve(
    path: &Path,
    document: Document,
    manifest: Manifest,
    machine: Machine,
    clock: Clock,
    dev: bool,
) -> anyhow::Result<ExitCode> {
    let config = manifest.engine.clone();
    let admin = admin::Server::bind(config.admin_listen).await?;
    let open_bus = open_bus(&config, &clock).await?;
    #[cfg(feature = "http")]
    let public = trigger_http::Server::bind(http_config(&config)).await?;
    #[cfg(feature = "websocket")]
    let hub = Arc::new(trigger_websocket::Hub::default());
    #[cfg(feature = "job")]
    let queues = Arc::new(trigger_job::Queues::default());
    #[cfg(feature = "timer")]
    let alarms = Arc::new(trigger_timer::Alarms::default());
    let kinds = kinds(Behind {
        bus: open_bus.clone(),
        #[cfg(feature = "http")]
        routes: public.routes(),
        #[cfg(feature = "websocket")]
        hub: hub.clone(),
        #[cfg(feature = "job")]
        queues: queues.clone(),
        #[cfg(feature = "timer")]
        alarms: alarms.clone(),
        #[cfg(feature = "database")]
        database: trigger_database::Database::new(databases(&config)).installing(dev),
    })?;
    let sources = Sources {
        bus: open_bus.bus.clone(),
        kinds: Arc::new(kinds),
        #[cfg(feature = "job")]
        jobs: Some(queues),
        #[cfg(not(feature = "job"))]
        jobs: None,
        #[cfg(feature = "timer")]
        timers: Some(alarms),
        #[cfg(not(feature = "timer"))]
        timers: None,
        #[cfg(feature = "websocket")]
        sockets: Some(hub.clone()),
        #[cfg(not(feature = "websocket"))]
        sockets: None,
        #[cfg(feature = "http")]
        refusals: {
            let routes = public.routes();
            Box::new(move || routes.refusals())
        },
        #[cfg(not(feature = "http"))]
        refusals: Box::new(Vec::new),
        clock: clock.clone(),
    };
    let engine = Engine::new(path, config, machine, sources).await?;
    let servers = TaskTracker::new();
    let (stop_taking, cut, stop_admin) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    #[cfg(feature = "websocket")]
    if let Some(nats) = &open_bus.nats {
        let peers = bus::NatsPeers::new(nats.clone(), "sockets", engine.secret("sockets_key").await?);
        servers.spawn(hub.share(Arc::new(peers), cut.clone()));
    }
    engine.start(&document, manifest).await?;
    let addresses = Addresses {
        #[cfg(feature = "http")]
        public: Some(public.local_addr()),
        #[cfg(not(feature = "http"))]
        public: None,
        admin: admin.local_addr(),
    };
    #[cfg(feature = "http")]
    let certificates = public.certificates();
    #[cfg(feature = "http")]
    servers.spawn(public.run(stop_taking.clone(), cut.clone()));
    let (admin_engine, admin_stop) = (engine.clone(), stop_admin.clone());
    servers.spawn(async move {
        if let Err(error) = admin.run(admin_engine, admin_stop).await {
            tracing::error!("the admin API ended: {error}");
        }
    });
    announce(&engine, addresses);

    let hung_up = async || {
        #[cfg(feature = "http")]
        if let Some(certificates) = &certificates {
            certificates.renew().await;
        }
    };
    work(&engine, dev, hung_up).await?;

    tracing::info!("stopping: what is under way may end; a second signal exits at once");
    stop_taking.cancel();
    let drained = async {
        engine.drain().await;
        cut.cancel();
        stop_admin.cancel();
        servers.close();
        servers.wait().await;
        if let Some(nats) = &open_bus.nats {
            nats.flush().await;
        }
    };
    let mut again = stop_signals()?;
    tokio::select! {
        () = drained => Ok(ExitCode::SUCCESS),
        () = again.next() => {
            tracing::warn!("stopped at once: rows under way run again when their leases have run out");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Works until a signal asks to stop; takes changes in meanwhile. `hung_up` is what SIGHUP means beside that.
async fn work(engine: &Arc<Engine>, dev: bool, hung_up: impl AsyncFn()) -> anyhow::Result<()> {
    let mut stop = stop_signals()?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut watch = if dev { Some(Watch::new().context("cannot watch files")?) } else { None };
    loop {
        let files = engine.files();
        let changed = async {
            match &mut watch {
                Some(watch) => {
                    watch.files(files.iter().map(PathBuf::as_path));
                    watch.changed().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.next() => return Ok(()),
            () = changed => {}
            _ = hang_up.recv() => hung_up().await,
        }
        reload(engine).await;
    }
}

/// Takes the manifest in again; a mistake in it is told and changes nothing.
async fn reload(engine: &Engine) {
    match engine.reload().await {
        Ok(applied) => {
            for function in applied.functions.iter().filter(|function| function.created) {
                tracing::info!("{}@{} serves", function.name, function.version);
            }
        }
        Err(EngineError::Manifest(report)) => {
            complain(&check::failure_text(&report, std::io::IsTerminal::is_terminal(&std::io::stderr())));
            tracing::warn!("the manifest was not taken in: what served before goes on");
        }
        Err(error) => tracing::warn!("the manifest was not taken in: {error}"),
    }
}

/// SIGINT and SIGTERM.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

fn stop_signals() -> anyhow::Result<StopSignals> {
    let listen = |kind| signal(kind).context("cannot listen to signals");
    Ok(StopSignals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
}

impl StopSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(feature = "http")]
fn http_config(config: &EngineConfig) -> trigger_http::ServerConfig {
    trigger_http::ServerConfig {
        listen: config.listen,
        max_connections: config.http.max_connections,
        header_read_timeout: config.http.header_read_timeout,
        max_header_bytes: config.http.max_header_bytes,
        body_read_timeout: config.http.body_read_timeout,
        max_concurrent_streams: config.http.max_concurrent_streams,
        trust: trigger_http::Trust {
            proxies: config.http.trusted_proxies.clone(),
            header: match config.http.client_header {
                ClientHeader::XForwardedFor => trigger_http::ForwardHeader::XForwardedFor,
                ClientHeader::Forwarded => trigger_http::ForwardHeader::Forwarded,
            },
            proxy_protocol: config.http.proxy_protocol,
        },
        tls: config.tls.clone().map(|TlsConfig { cert, key, client_ca }| trigger_http::TlsFiles {
            cert,
            key,
            client_ca,
        }),
        ..trigger_http::ServerConfig::default()
    }
}

async fn open_bus(config: &EngineConfig, clock: &Clock) -> anyhow::Result<bus::Open> {
    let BusConfig::Nats { servers, credentials_file } = &config.bus else {
        return Ok(bus::Open { bus: Arc::new(bus::MemoryBus::on(clock.clone())), nats: None });
    };
    let mut nats: bus::NatsConfig = servers.expose().parse()?;
    if let Some(file) = credentials_file {
        nats.auth = bus::nats::Auth::CredentialsFile(file.clone());
    }
    let nats = Arc::new(bus::NatsBus::connect(nats).await?);
    Ok(bus::Open { bus: nats.clone(), nats: Some(nats) })
}
