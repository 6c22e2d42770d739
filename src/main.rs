//! The `tripline` binary: the composition root, and the only place that names concrete triggers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tripline::admin;
use tripline::bus;
use tripline::cli::announce::{Addresses, announce};
use tripline::cli::{self, Cli, Command, check};
use tripline::config::{BusConfig, Document, EngineConfig, Manifest, Report};
use tripline::engine::{Engine, Error as EngineError, read_modules};
use tripline::kinds::Kinds;
use tripline::telemetry;
use tripline::watch::Watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(run(cli));
        // A second signal left things running on purpose.
        runtime.shutdown_background();
        result
    });
    result.unwrap_or_else(|error| fail(&error))
}

/// Says what went wrong, once, and which exit code that is.
fn fail(error: &anyhow::Error) -> ExitCode {
    let report = error.downcast_ref::<Report>().or_else(|| match error.downcast_ref::<EngineError>() {
        Some(EngineError::Manifest(report)) => Some(report),
        _ => None,
    });
    if let Some(report) = report {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        complain(&check::render_text(report, colours));
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

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Dev(options) => serve(options, true).await,
        Command::Serve(options) => serve(options, false).await,
        Command::Check(options) => check_manifest(&options),
        command => cli::ask(command).await,
    }
}

/// The manifest that a path means: the file, or `tripline.toml` in the directory.
fn manifest_path(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tripline.toml") } else { path.to_owned() }
}

/// The trigger kinds of this build.
#[cfg_attr(not(feature = "http"), allow(unused_variables))]
fn kinds(sources: Sources) -> anyhow::Result<Kinds> {
    let mut kinds = Kinds::new();
    #[cfg(feature = "http")]
    kinds.add(trigger_http::Http::new(sources.routes))?;
    #[cfg(feature = "pubsub")]
    kinds.add(trigger_pubsub::Pubsub::new(sources.bus, sources.jetstream))?;
    #[cfg(feature = "cron")]
    kinds.add(trigger_cron::Cron::default())?;
    Ok(kinds)
}

/// What the kinds work on.
struct Sources {
    bus: Arc<dyn bus::Bus>,
    nats: Option<Arc<bus::NatsBus>>,
    #[cfg(feature = "http")]
    routes: trigger_http::Routes,
}

fn check_manifest(options: &cli::Check) -> anyhow::Result<ExitCode> {
    // Nothing is opened: the kinds get a bus that nobody publishes on and a listener that nobody bound.
    if options.schema {
        cli::print_json(&tripline::config::schema(&kinds(closed_sources())?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = manifest_path(&options.manifest);
    match Document::read(&path).map_err(anyhow::Error::from).and_then(|document| check_document(&document)) {
        Ok(manifest) => {
            cli::print_line(&check::render_ok(&path, &manifest, options.json));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => match error.downcast_ref::<Report>() {
            Some(report) if options.json => {
                cli::print_json(&report.to_json())?;
                Ok(ExitCode::from(cli::EXIT_MANIFEST))
            }
            _ => Err(error),
        },
    }
}

/// Finds every mistake, in the manifest and in its modules.
fn check_document(document: &Document) -> anyhow::Result<Manifest> {
    let manifest = document.manifest(&kinds(closed_sources())?)?;
    read_modules(document, &manifest.functions, manifest.engine.max_module_bytes)?;
    Ok(manifest)
}

/// Sources that nothing stands behind, for checking: a bus that nobody publishes on, a table that nobody asks.
fn closed_sources() -> Sources {
    Sources {
        bus: Arc::new(bus::MemoryBus::default()),
        nats: None,
        #[cfg(feature = "http")]
        routes: trigger_http::Routes::new(Duration::from_secs(1)),
    }
}

async fn serve(options: cli::Run, dev: bool) -> anyhow::Result<ExitCode> {
    telemetry::init(options.log_format.into(), &options.log).map_err(anyhow::Error::msg)?;
    let path = manifest_path(&options.manifest);
    // Every mistake is told before anything is opened.
    let config = check_document(&Document::read(&path)?)?.engine;

    let admin = admin::Server::bind(config.admin_listen).await?;
    let open_bus = open_bus(&config).await?;
    #[cfg(feature = "http")]
    let public = trigger_http::Server::bind(http_config(&config)).await?;
    let kinds = kinds(Sources {
        bus: open_bus.bus.clone(),
        nats: open_bus.nats,
        #[cfg(feature = "http")]
        routes: public.routes(),
    })?;
    let engine = Engine::new(&path, config, open_bus.bus, Arc::new(kinds))?;
    engine.start().await?;

    let servers = TaskTracker::new();
    let (stop_taking, cut, stop_admin) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let addresses = Addresses {
        #[cfg(feature = "http")]
        public: Some(public.local_addr()),
        #[cfg(not(feature = "http"))]
        public: None,
        admin: admin.local_addr(),
    };
    #[cfg(feature = "http")]
    servers.spawn(public.run(stop_taking.clone(), cut.clone()));
    let (admin_engine, admin_stop) = (engine.clone(), stop_admin.clone());
    servers.spawn(async move {
        if let Err(error) = admin.run(admin_engine, admin_stop).await {
            tracing::error!("the admin API ended: {error}");
        }
    });
    announce(&engine, addresses);

    work(&engine, dev).await?;

    tracing::info!("stopping: what is under way may end; a second signal exits at once");
    stop_taking.cancel();
    let drained = async {
        engine.drain().await;
        cut.cancel();
        stop_admin.cancel();
        servers.close();
        servers.wait().await;
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

/// Works until a signal asks to stop; takes changes in meanwhile.
async fn work(engine: &Arc<Engine>, dev: bool) -> anyhow::Result<()> {
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
            _ = hang_up.recv() => {}
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
            complain(&check::render_text(&report, std::io::IsTerminal::is_terminal(&std::io::stderr())));
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
        ..trigger_http::ServerConfig::default()
    }
}

async fn open_bus(config: &EngineConfig) -> anyhow::Result<bus::Open> {
    let setting = match &config.bus {
        BusConfig::Memory => bus::Setting::Memory,
        BusConfig::Nats { servers, credentials_file } => {
            let mut nats: bus::NatsConfig = servers.expose().parse()?;
            nats.credentials_file = credentials_file.clone();
            bus::Setting::Nats(nats)
        }
    };
    Ok(bus::open(setting).await?)
}
