//! One attempt: an invocation and a version in, a result and its account out.
//!
//! The executor knows guests and limits. It does not know slots, retries or queues: whether an attempt is made, and
//! what its failure leads to, is dispatch's business.
//!
//! [`WasmExecutor`] runs WebAssembly, [`native::NativeExecutor`] a closure in its place.

mod account;
mod cache;
mod call;
mod command;
mod compiled;
mod component;
mod disk;
mod engine;
mod entry;
mod failure;
mod fiber;
mod guest;
mod host;
mod http;
mod inspect;
mod logs;
mod masks;
mod messaging;
pub mod native;
mod outbound;
mod reactor;
mod shelf;
#[cfg(test)]
mod tests;
mod wasi;
mod wasm;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use trigger_core::{
    Answer, BoxFuture, Clock, Custody, Failure, InvocationContext, Jobs, Message, Progress, Response, SocketEffect,
    Sockets, Timers,
};

use crate::config::KvConfig;
use crate::databases::Databases;
use crate::egress::Egress;
use crate::functions::{Definition, Digest, Version};
use crate::relay::Relay;
use crate::secrets::Secrets;
use crate::store::Store;

pub use cache::Counts;
pub use disk::Cleaned;
pub use wasm::{Bounds, ExecutorConfig, Machine, SetupError, WasmExecutor};

/// Runs attempts.
pub trait Executor: Send + Sync + 'static {
    /// Looks at a module's bytes without compiling them: which interface it speaks, and whether everything it imports
    /// is offered.
    fn inspect(&self, module: &[u8]) -> Result<Inspection, ModuleError>;

    /// Compiles the version's module (or finds it in a cache), so that its first attempt does not have to.
    fn prepare<'a>(&'a self, version: &'a Arc<Version>) -> BoxFuture<'a, Result<(), ModuleError>>;

    /// Makes one attempt, in a fresh instance, ending at `deadline` at the latest. Never panics because of a guest.
    /// Where somebody wants to know, `progress` is sent what the guest says of its progress.
    fn attempt<'a>(
        &'a self,
        version: &'a Arc<Version>,
        invocation: &'a InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> BoxFuture<'a, Attempt>;
}

/// What guests ask for beyond what they bring: checked by those who know the queues and the timers.
#[derive(Clone, Default)]
pub struct Services {
    /// The queues by name, where this build has them.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// The timers by name, where this build has them.
    pub timers: Option<Arc<dyn Timers>>,
    /// The sockets that are open, where this build has them.
    pub sockets: Option<Arc<dyn Sockets>>,
    /// The databases by name.
    pub databases: Databases,
    /// What takes over what is committed there with a transaction, where there is an engine that runs it.
    pub relay: Option<Arc<Relay>>,
    /// What guests keep under keys, where there is a store for it.
    pub kv: Option<KeyValues>,
    /// Secrets that guests may be told.
    pub secrets: Arc<Secrets>,
    /// The way to the outside.
    pub egress: Arc<Egress>,
    /// Other functions, once there is somebody who runs them.
    pub functions: Arc<OnceLock<Weak<dyn Functions>>>,
    /// What "so many milliseconds from now" goes by.
    pub clock: Clock,
}

/// Functions as other functions call them.
pub trait Functions: Send + Sync + 'static {
    /// An event for a function; `None` where there is no function of this name.
    fn event(&self, namespace: &str, name: &str, custody: Custody, payload: Bytes) -> Option<InvocationContext>;

    /// Runs an event in the place of its caller, which waits for it: once, at once, and no longer than until `deadline`.
    fn invoke(&self, event: InvocationContext, deadline: Instant) -> BoxFuture<'_, Answer>;
}

/// Where guests' entries are kept, and how much of them.
#[derive(Clone)]
pub struct KeyValues {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its limits.
    pub limits: KvConfig,
}

/// Where an executor gets the bytes of a module that it has not compiled yet.
pub trait ModuleSource: Send + Sync + 'static {
    /// The bytes with this digest; the executor checks that they have it.
    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>>;
}

/// How a module is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Abi {
    /// A component that exports `handle` of the world in `wit/`.
    Component,
    /// A component that exports `wasi:http/incoming-handler`.
    WasiHttp,
    /// A component that exports `wasmcloud:messaging/handler`.
    Messaging,
    /// A core module with `_start`: payload on stdin, answer on stdout.
    Command,
    /// A component that exports `wasi:cli/run`: as a command.
    CommandComponent,
    /// A core module with `memory`, `alloc` and `handle`: bytes in, bytes out.
    Reactor,
}

impl Abi {
    /// The interface's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Abi::Component => "component",
            Abi::WasiHttp => "wasi-http",
            Abi::Messaging => "messaging",
            Abi::Command => "command",
            Abi::CommandComponent => "command-component",
            Abi::Reactor => "reactor",
        }
    }

    /// Whether it is a component, and not a core module.
    const fn is_component(self) -> bool {
        !matches!(self, Abi::Command | Abi::Reactor)
    }
}

/// What a look at a module told.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// How it is called.
    pub abi: Abi,
    /// What it imports, by name.
    pub imports: Vec<String>,
}

impl Inspection {
    /// Whether the module can be what a definition says.
    pub fn suits(&self, definition: &Definition) -> Result<(), ModuleError> {
        match self.abi {
            Abi::Command | Abi::CommandComponent if definition.reuse.is_some() => Err(ModuleError::RunsOnce),
            _ => Ok(()),
        }
    }
}

/// A module cannot be used. The text names what is wrong and what would be right.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModuleError {
    /// The bytes are no module at all.
    #[error("not a WebAssembly module or component: {0}")]
    Malformed(String),
    /// It speaks none of the interfaces.
    #[error(
        "exports none of the known interfaces: expected `handle` (wit/tripline.wit), `wasi:http/incoming-handler`, \
         `wasmcloud:messaging/handler` or `wasi:cli/run`, or in a core module `_start` or `memory`, `alloc` and `handle`; it exports {} and imports {}", listed(.exports), listed(.imports)
    )]
    NoKnownExport {
        /// What it exports instead.
        exports: Vec<String>,
        /// What it imports.
        imports: Vec<String>,
    },
    /// It imports what is not offered.
    #[error("imports what is not offered: {}", .imports.join(", "))]
    ImportDenied {
        /// The imports in question.
        imports: Vec<String>,
    },
    /// It is larger than the engine takes.
    #[error("has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Compiling it took longer than the engine allows.
    #[error("took longer to compile than {} s: build it for size, or with fewer and smaller functions", .limit.as_secs_f64())]
    CompilesTooLong {
        /// The longest that a compilation may take.
        limit: Duration,
    },
    /// Its instances cannot serve more than one attempt, which its definition asks for.
    #[error("is a command, which runs once: take `reuse` out of the definition, or build it as a reactor or component")]
    RunsOnce,
    /// It has no streams for the bodies of a trigger's events.
    #[error(
        "the bodies of trigger {trigger:?} stream, which takes a wasi:http component and not a {}: choose another mode",
        abi.as_str()
    )]
    CannotStream {
        /// The trigger's name.
        trigger: String,
        /// How the module is called.
        abi: Abi,
    },
    /// The stored bytes are not those that were deployed.
    #[error("stored bytes do not have the digest {expected}")]
    Corrupt {
        /// The digest they should have.
        expected: Digest,
    },
    /// The bytes could not be had.
    #[error("{0}")]
    Unavailable(String),
    /// The compiler refused it.
    #[error("cannot be compiled: {0}")]
    Compile(String),
}

/// Names in a row, as many as a message should have.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    match names.len() {
        0 => "nothing".to_owned(),
        1..=SHOWN => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}

/// One attempt's result and account.
#[derive(Debug)]
pub struct Attempt {
    /// What came of it.
    pub result: Result<Response, Failure>,
    /// Getting the compiled module: nothing when it was in memory.
    pub load: Duration,
    /// Making the instance.
    pub instantiate: Duration,
    /// Running the guest.
    pub run: Duration,
    /// Time on a processor: waiting is not in it.
    pub cpu: Duration,
    /// Fuel that was used, where it counts.
    pub fuel_used: Option<u64>,
    /// The largest size of the guest's linear memories together, in bytes.
    pub memory_peak_bytes: u64,
    /// What it asked for, to be released if it counts as a success.
    pub effects: Effects,
    /// Logs and host operations, if there were any.
    pub detail: Option<Box<Detail>>,
}

impl Attempt {
    /// An attempt that failed before a guest ran.
    pub fn failed(failure: Failure) -> Self {
        Self {
            result: Err(failure),
            load: Duration::ZERO,
            instantiate: Duration::ZERO,
            run: Duration::ZERO,
            cpu: Duration::ZERO,
            fuel_used: None,
            memory_peak_bytes: 0,
            effects: Effects::default(),
            detail: None,
        }
    }
}

/// What an attempt asked for: held back until it has succeeded, and dropped when it fails.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to publish.
    pub messages: Vec<Message>,
    /// Jobs to enqueue and timers to set: events that were checked and not accepted yet.
    pub events: Vec<InvocationContext>,
    /// What is done to sockets.
    pub sockets: Vec<SocketEffect>,
}

impl Effects {
    /// Whether it asked for nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.events.is_empty() && self.sockets.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.messages.len() + self.events.len() + self.sockets.len()
    }
}

/// What an attempt said and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// The guest's log lines, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogLine>,
    /// Whether lines were left out because a limit was reached.
    #[serde(default)]
    pub logs_truncated: bool,
    /// All host operations, added up by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_calls: Vec<HostCalls>,
    /// The first host operations, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ops: Vec<HostOp>,
    /// Whether operations were left out because a limit was reached.
    #[serde(default)]
    pub host_ops_truncated: bool,
}

/// A line that a guest logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Microseconds after the attempt began.
    pub at_micros: u64,
    /// `trace`, `debug`, `info`, `warn`, `error`, or `stdout` and `stderr` for streams.
    pub level: std::borrow::Cow<'static, str>,
    /// The line.
    pub message: String,
}

/// Something that a guest asked the host for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostOp {
    /// What: `publish`, `enqueue`, `cancel-job`, `set-timer`, `cancel-timer`, `http-response`, `kv-get`, `sql-query`, ….
    pub op: std::borrow::Cow<'static, str>,
    /// On what: the subject, the queue, the timer's name and key, the bucket and its key, the database, the scheme, host
    /// and port.
    pub target: String,
    /// Microseconds after the attempt began.
    pub at_micros: u64,
    /// How long it took.
    pub duration_micros: u64,
    /// Bytes that went with it; of a request to the outside, those of the response's body.
    pub bytes: u64,
    /// The status of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether it was done, or the reason it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Host operations of one name, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCalls {
    /// What, as in [`HostOp`].
    pub op: std::borrow::Cow<'static, str>,
    /// How many.
    pub count: u64,
    /// How many of them were not done.
    #[serde(default)]
    pub failed: u64,
    /// How long they took together.
    pub duration_micros: u64,
    /// Bytes that went with them.
    pub bytes: u64,
}

/// The most host operations kept of one attempt.
pub const MAX_HOST_OPS: usize = 128;

/// A module and, once somebody needed it, its compiled form. Shared by every version with the same bytes.
#[derive(Debug)]
pub struct ModuleSlot {
    /// The module's digest.
    pub digest: Digest,
    /// How it is called.
    pub abi: Abi,
    /// Without and with code that counts its fuel. Weak, so that the cache alone decides how long compiled code lives.
    compiled: [arc_swap::ArcSwapWeak<compiled::Compiled>; 2],
}

impl ModuleSlot {
    /// A module that nobody needed yet.
    pub fn new(digest: Digest, abi: Abi) -> Self {
        Self { digest, abi, compiled: Default::default() }
    }

    fn compiled(&self, fuel: bool) -> &arc_swap::ArcSwapWeak<compiled::Compiled> {
        &self.compiled[usize::from(fuel)]
    }
}

/// Whether a version's guest has been quick of late, which decides where its next attempt runs.
#[derive(Debug, Default)]
pub struct Pace {
    /// Quick attempts that are still owed before the guest is trusted again.
    owed: AtomicU32,
}

impl Pace {
    /// Attempts that must end within a tick before a guest that did not is run on its caller's thread again.
    const PROBATION: u32 = 64;

    fn is_quick(&self) -> bool {
        self.owed.load(Ordering::Relaxed) == 0
    }

    fn overran(&self) {
        self.owed.store(Self::PROBATION, Ordering::Relaxed);
    }

    fn kept(&self) {
        let _ = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1));
    }
}
