//! One attempt without an engine: a module, an event made up for it, and hosts that only write down what they are asked.
//!
//! The guest boundary is the real one, limits and grants included. Behind it nothing happens: what is published is
//! sent nowhere, jobs and timers are kept by nobody, entries last as long as this, there are no secrets, databases and
//! other functions. Only requests to the outside are sent, to whom they are granted.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Clock, Custody, EnqueueError, Failure, FailureCode,
    InvocationContext, Jobs, Kind, NewJob, NewTimer, Refused, SocketEffect, SocketMember, Sockets, Timers,
};
use uuid::Uuid;

use crate::config::KvConfig;
use crate::dispatch::retry::{self, Decision};
use crate::executor::{
    Abi, Attempt, Executor as _, ExecutorConfig, Functions, KeyValues, Machine, ModuleError, ModuleSlot, ModuleSource,
    Services, SetupError, WasmExecutor,
};
use crate::functions::{Allow, Definition, Digest, Version};
use crate::store;
use crate::store::sqlite::{SqliteSettings, SqliteStore};

/// Why a module could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// WebAssembly cannot be run here.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The module is no function.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// There is no memory to keep entries in.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A module that is ready to be called.
pub struct Local {
    executor: WasmExecutor,
    version: Arc<Version>,
    abi: Abi,
    /// Of which the services have but a weak hold.
    _nowhere: Arc<Nowhere>,
}

/// An attempt, and what an engine would make of it.
pub struct Ran {
    /// The attempt.
    pub attempt: Attempt,
    /// What would follow its failure.
    pub decision: Option<Decision>,
}

impl Local {
    /// Looks at a module and compiles it.
    pub async fn new(module: Bytes, definition: Definition) -> Result<Self, Error> {
        let digest = Digest::of(&module);
        let nowhere = Arc::new(Nowhere { namespace: definition.namespace.as_str().into() });
        let store = Arc::new(SqliteStore::open(SqliteSettings::memory())?);
        let functions: Weak<dyn Functions> = Arc::<Nowhere>::downgrade(&nowhere);
        let services = Services {
            jobs: Some(nowhere.clone()),
            timers: Some(nowhere.clone()),
            sockets: Some(nowhere.clone()),
            kv: Some(KeyValues { store, limits: KvConfig::default() }),
            functions: Arc::new(OnceLock::from(functions)),
            ..Services::default()
        };
        let max_memory_mb = definition.memory_limit_mb;
        let config = ExecutorConfig { max_instances: 1, max_memory_mb, ..ExecutorConfig::default() };
        let executor = WasmExecutor::on(Machine::new(config)?, Arc::new(One(module.clone())), services)?;
        let abi = executor.inspect(&module)?.abi;
        let module = Arc::new(ModuleSlot::new(digest, abi));
        let version = Arc::new(Version::new(Uuid::nil(), 1, digest, definition, module));
        executor.prepare(&version).await?;
        Ok(Self { executor, version, abi, _nowhere: nowhere })
    }

    /// How the module is called.
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// An event of this kind for it, whose caller waits.
    pub fn event(&self, kind: Kind, payload: Bytes) -> InvocationContext {
        let definition = &self.version.definition;
        let binding = binding(&definition.namespace, &definition.name, kind.as_str(), kind);
        InvocationContext::new(Arc::new(binding), Custody::Caller, payload)
    }

    /// Calls it once.
    pub async fn run(&self, event: &InvocationContext) -> Ran {
        let deadline = Instant::now() + self.version.timeout;
        let attempt = self.executor.attempt(&self.version, event, deadline, None).await;
        let failure = attempt.result.as_ref().err();
        // In the middle of what the jitter leaves open.
        let decide = |failure| retry::decide(&self.version.retry, event.attempt, Default::default(), failure, 0.5);
        let decision = failure.map(decide);
        Ran { attempt, decision }
    }
}

/// Everything that costs nobody anything: what a module asks for then tells what it has to be granted.
pub fn allow_all() -> Allow {
    let all = || vec![">".to_owned()];
    Allow { publish: all(), jobs: all(), timers: all(), kv: all(), invoke: all(), sockets: all(), ..Allow::default() }
}

/// The one module.
struct One(Bytes);

impl ModuleSource for One {
    fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

fn binding(namespace: &str, function: &str, trigger: &str, kind: Kind) -> Binding {
    Binding {
        namespace: namespace.into(),
        function_name: function.into(),
        trigger_id: trigger.into(),
        trigger_type: kind,
    }
}

/// Has every queue and every timer and no socket, and keeps nothing.
struct Nowhere {
    namespace: Box<str>,
}

impl Nowhere {
    fn event(&self, kind: Kind, name: &str, payload: Bytes) -> InvocationContext {
        let binding = binding(&self.namespace, "whoever-works-on-it", name, kind);
        InvocationContext::new(Arc::new(binding), Custody::Engine, payload)
    }
}

/// Why nobody gets here.
const WITH_THE_ATTEMPT: &str = "what guests enqueue and set is accepted with their attempt, and here by nobody";

impl Functions for Nowhere {
    fn event(&self, _: &str, name: &str, custody: Custody, payload: Bytes) -> Option<InvocationContext> {
        let binding = Arc::new(binding(&self.namespace, name, "invoke", Kind::Job));
        Some(InvocationContext::new(binding, custody, payload))
    }

    fn invoke(&self, event: InvocationContext, _: Instant) -> BoxFuture<'_, Answer> {
        let message = format!("there is no engine here that would run {}", event.binding.function_name);
        Box::pin(std::future::ready(Answer::Failed(Failure::new(FailureCode::HostError, message))))
    }
}

impl Jobs for Nowhere {
    fn event(&self, queue: &str, job: NewJob) -> Result<InvocationContext, EnqueueError> {
        job.check(Clock::system().now())?;
        let mut event = self.event(Kind::Job, queue, job.payload);
        event.scheduled_at = job.run_at;
        Ok(event)
    }

    fn enqueue(&self, _: &str, _: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        unreachable!("{WITH_THE_ATTEMPT}")
    }

    fn queue_of(&self, _: Uuid) -> BoxFuture<'_, Result<Option<String>, Refused>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn cancel(&self, _: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        Box::pin(std::future::ready(Ok(Cancelled::Unknown)))
    }
}

impl Sockets for Nowhere {
    fn serves(&self, _: &str, _: &str) -> bool {
        true
    }

    fn apply(&self, _: SocketEffect) {
        unreachable!("{WITH_THE_ATTEMPT}")
    }

    fn members(&self, _: &str, _: &str, _: &str, _: Option<Uuid>) -> Vec<SocketMember> {
        Vec::new()
    }

    fn attachment(&self, _: &str, _: &str, _: Uuid) -> Option<Bytes> {
        None
    }
}

impl Timers for Nowhere {
    fn event(&self, timer: &str, new: NewTimer) -> Result<InvocationContext, EnqueueError> {
        new.check(Clock::system().now())?;
        let mut event = self.event(Kind::Timer, timer, new.payload);
        event.subject = new.key;
        event.scheduled_at = Some(new.run_at);
        Ok(event)
    }

    fn set(&self, _: &str, _: NewTimer) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        unreachable!("{WITH_THE_ATTEMPT}")
    }

    fn cancel(&self, _: &str, _: &str) -> BoxFuture<'_, Result<Cancelled, EnqueueError>> {
        Box::pin(std::future::ready(Ok(Cancelled::Unknown)))
    }
}
