//! The `tripline` binary: the composition root, and the only place that names concrete triggers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tripline::admin;
use tripline::bus;
use tripline::cli::announce::{Addresses, announce};
use tripline::cli::{self, Cli, Command, check};
use tripline::config::{Document, EngineConfig, Report};
use tripline::engine::{Engine, Error as EngineError, read_modules};
use tripline::executor::{ExecutorConfig, NoModules, WasmExecutor};
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
    jetstream: Option<async_nats::Client>,
    #[cfg(feature = "http")]
    routes: trigger_http::Routes,
}

fn check_manifest(options: &cli::Check) -> anyhow::Result<ExitCode> {
    // Nothing is opened: the kinds get a bus that nobody publishes on and a listener that nobody bound.
    let sources = |engine: &EngineConfig| Sources {
        bus: Arc::new(bus::memory::MemoryBus::default()),
        jetstream: None,
        #[cfg(feature = "http")]
        routes: trigger_http::Routes::new(engine.http.body_read_timeout()),
    };
    if options.schema {
        let schema = tripline::config::schema(&kinds(sources(&EngineConfig::default()))?);
        cli::print_json(&schema)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = manifest_path(&options.manifest);
    let checked = Document::read(&path).and_then(|document| {
        let kinds = kinds(sources(&document.engine())).expect("each kind is added once");
        let manifest = document.manifest(&kinds)?;
        let executor = WasmExecutor::new(ExecutorConfig::for_inspection(&manifest.engine), Arc::new(NoModules));
        let executor = executor.expect("inspecting compiles nothing");
        let deploys = read_modules(&document, &manifest.functions, &executor)?;
        Ok((manifest, deploys))
    });
    match checked {
        Ok((manifest, _)) => {
            cli::print_line(&check::render_ok(&path, &manifest, options.json));
            Ok(ExitCode::SUCCESS)
        }
        Err(report) if options.json => {
            cli::print_json(&report.to_json())?;
            Ok(ExitCode::from(cli::EXIT_MANIFEST))
        }
        Err(report) => Err(report.into()),
    }
}
