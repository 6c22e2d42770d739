//! The manifest: from its text to what is meant by it, with every mistake told in one run.
//!
//! ```text
//! text ─► values and their places ─► schema ─► meaning ─► Manifest
//!            (source)              (validate)  (engine, function, triggers)     mistakes of every step ─► Report
//! ```
//!
//! It opens nothing: no port, no connection, no store. The one look it takes at the disk is whether the modules that a
//! manifest names are there, since a run that tells every mistake must tell that one. What triggers mean is their
//! kinds' business; here they are sections with a schema.

mod databases;
mod engine;
mod function;
mod hosts;
mod housekeeping;
mod http;
mod names;
mod report;
mod schema;
mod secret;
mod servers;
mod source;
mod triggers;
mod validate;
mod words;

#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use trigger_core::{Network, Problem, Step};

use crate::functions::Definition;
use crate::kinds::Kinds;
use crate::secrets::SecretSource;
use crate::store::TriggerRow;
use report::Reporter;
use source::Parsed;
use validate::{At, Found, Validator};

pub use hosts::KvConfig;
pub use http::{ClientHeader, HttpConfig, TlsConfig};
pub use report::{Mistake, Report};
pub use schema::schema;
pub use secret::Secret;
pub use source::MAX_MANIFEST_BYTES;

/// A manifest without mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The `[engine]` section.
    pub engine: EngineConfig,
    /// The functions, in the order in which they were written.
    pub functions: Vec<FunctionConfig>,
}

/// A function of the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionConfig {
    /// What it is.
    pub definition: Definition,
    /// The file that its module is in.
    pub module: PathBuf,
    /// What calls it.
    pub triggers: Vec<TriggerRow>,
}

/// The settings of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// What state is kept in.
    pub store: StoreConfig,
    /// How much of a commit survives a loss of power.
    pub synchronous: Synchronous,
    /// What messages go over.
    pub bus: BusConfig,
    /// Where HTTP triggers are reached.
    pub listen: SocketAddr,
    /// Where the admin API is reached; always on loopback.
    pub admin_listen: SocketAddr,
    /// The namespace of every function of the manifest.
    pub namespace: String,
    /// Attempts that may run at once.
    pub max_concurrency: usize,
    /// Inline events that may wait for a slot.
    pub max_waiting: usize,
    /// How long one of them waits.
    pub max_wait: Duration,
    /// How many functions may cause one another in a chain.
    pub max_depth: u32,
    /// How long a claim of a queued row holds without being renewed.
    pub lease: Duration,
    /// How long a stop waits for what is under way.
    pub drain: Duration,
    /// The most that a function's `memory_limit_mb` may be.
    pub max_memory_mb: u32,
    /// The largest module, in bytes.
    pub max_module_bytes: u64,
    /// How long results of accepted invocations are kept.
    pub results_keep: Duration,
    /// How long dead letters are kept, and how many.
    pub dead_letters: DeadLettersConfig,
    /// When the engine does its own chores.
    pub housekeeping: HousekeepingConfig,
    /// What is kept of attempts.
    pub traces: TracesConfig,
    /// What functions keep under keys.
    pub kv: KvConfig,
    /// Where the secrets of functions are.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Networks that are not the public's and that guests' requests may reach all the same.
    pub egress_networks: Vec<Network>,
    /// The public listener's bounds.
    pub http: HttpConfig,
    /// The public listener's certificate.
    pub tls: Option<TlsConfig>,
    /// Databases that guests may use, by name.
    pub databases: BTreeMap<String, crate::databases::Settings>,
}

/// What state is kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In memory: nothing survives a restart.
    Memory,
    /// In a file.
    Sqlite(PathBuf),
    /// In a PostgreSQL database. The address may hold a password.
    Postgres(Secret),
}

/// What messages go over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusConfig {
    /// Within the process.
    Memory,
    /// NATS.
    Nats {
        /// Addresses, separated by commas. They may hold credentials.
        servers: Secret,
        /// A file with a JWT and its key.
        credentials_file: Option<PathBuf>,
    },
}

/// How much of a commit survives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// All of it.
    Full,
    /// The last commits may be lost; a crash of the process loses none.
    Normal,
}

/// How long dead letters are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettersConfig {
    /// How long one is kept after it died.
    pub keep: Duration,
    /// How many there should be, redriven ones included.
    pub max_rows: u64,
    /// What happens beyond that.
    pub when_full: WhenFull,
}

/// What happens when there are more dead letters than there should be. That an event dies cannot be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest are removed; how many is logged and counted.
    DropOldest,
    /// All are kept; the log, the metrics and the readiness say so until there are fewer.
    Keep,
}

/// When the engine does its own chores, in cron expressions of six fields in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HousekeepingConfig {
    /// Removing what is too old or too much.
    pub retention: String,
    /// Removing compiled code that is of no use any more.
    pub code_cache: String,
    /// Looking at the outbox.
    pub outbox: String,
    /// How long compiled code stays on the disk after it was last of use.
    pub code_cache_keep: Duration,
    /// How much of it there may be, in bytes.
    pub code_cache_max_bytes: u64,
}

/// What is kept of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesConfig {
    /// The newest records, in memory.
    pub ring: usize,
    /// Successful attempts that become rows, each second at most.
    pub ok_rows_per_second: u32,
    /// How long rows are kept.
    pub keep: Duration,
    /// How many rows are kept.
    pub max_rows: u64,
}

/// A manifest's text, parsed.
pub struct Document {
    name: String,
    /// What its paths begin at.
    directory: PathBuf,
    /// Whether its modules can be looked for.
    on_disk: bool,
    parsed: Parsed,
    reporter: Reporter,
}

impl Document {
    /// Reads a manifest. What is no TOML is a mistake already.
    pub fn read(path: &Path) -> Result<Self, Report> {
        let name = path.display().to_string();
        let text = source::read(path).map_err(|unreadable| Report::unreadable(&name, unreadable))?;
        Self::of(name, path.parent().unwrap_or(Path::new("")), true, &text)
    }

    /// Parses the text of a manifest that is called `name`. Its paths begin at that name's directory; whether its
    /// modules exist is not looked at.
    pub fn parse(name: &str, text: &str) -> Result<Self, Report> {
        Self::of(name.to_owned(), Path::new(name).parent().unwrap_or(Path::new("")), false, text)
    }

    fn of(name: String, directory: &Path, on_disk: bool, text: &str) -> Result<Self, Report> {
        if let Some(too_large) = source::too_large(text) {
            return Err(Report::unreadable(&name, too_large));
        }
        let parsed = source::parse(text);
        let broken = !parsed.mistakes.is_empty();
        let reporter = Reporter::new(&name, secret::presentable(text, &parsed.places, broken));
        // The parser goes on after a mistake, but what it finds then is mostly the first one's doing.
        if let Some((span, message)) = parsed.mistakes.first() {
            let help = "the manifest is not TOML here; see https://toml.io".to_owned();
            let mistake = reporter.at(span.clone(), String::new(), message.clone(), Some(help));
            return Err(reporter.report(vec![mistake]));
        }
        Ok(Self { name, directory: directory.to_owned(), on_disk, parsed, reporter })
    }

    /// The manifest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine's settings; what is mistaken in them has its default. Needs no kinds.
    pub fn engine(&self) -> EngineConfig {
        let mut value = self.parsed.value.clone();
        let mut found = Found::default();
        Validator::new(schema::outline()).sift(&mut value, &[], &mut found);
        engine::read(value.get_mut("engine").map(Value::take), &self.directory, &mut found)
    }

    /// What the manifest means, or every mistake in it.
    pub fn manifest(&self, kinds: &Kinds) -> Result<Manifest, Report> {
        let mut found = Found::default();
        let mut value = self.parsed.value.clone();
        Validator::new(schema::outline()).sift(&mut value, &[], &mut found);
        let engine = engine::read(value.get_mut("engine").map(Value::take), &self.directory, &mut found);
        if self.on_disk {
            hosts::look_for(&engine.secrets, &mut found);
            engine.tls.iter().for_each(|tls| http::look_for(tls, &mut found));
        }
        let functions = function::read_all(self, value.get_mut("functions"), &engine, kinds, &mut found);
        if found.len() == 0 && self.parsed.problems.is_empty() {
            return Ok(Manifest { engine, functions });
        }
        Err(self.report_found(found.into_vec()))
    }

    /// A report of mistakes that others found.
    pub fn report(&self, problems: Vec<Problem>) -> Report {
        self.report_found(problems.into_iter().map(|problem| (problem, At::Value)).collect())
    }

    fn report_found(&self, found: Vec<(Problem, At)>) -> Report {
        // What could not be kept is told once, not again by those who miss it.
        let path = |problem: &Problem| trigger_core::display_path(&problem.path).to_string();
        let told: HashSet<String> = self.parsed.problems.iter().map(path).collect();
        let first = self.parsed.problems.iter().cloned().map(|problem| (problem, At::Value));
        let others = found.into_iter().filter(|(problem, _)| !told.contains(&path(problem)));
        let mistakes = first.chain(others).map(|(problem, at)| match at {
            At::Value => self.reporter.locate(&self.parsed.places, problem),
            At::Key => self.reporter.locate_key(&self.parsed.places, problem),
        });
        self.reporter.report(mistakes.collect())
    }

    /// Where in the text a path's value is.
    fn position_of(&self, path: &[Step]) -> usize {
        report::span_of(&self.parsed.places, path).start
    }

    /// The line that a path's value is on.
    fn line_of(&self, path: &[Step]) -> usize {
        self.reporter.line_of(&self.parsed.places, path)
    }
}
