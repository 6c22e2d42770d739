//! An engine in the benchmark's own process: the typed component of `tests/guests`, deployed and compiled.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use trigger_core::{Binding, BoxFuture, Clock, InvocationContext, Kind, Progress};
use tripline::bus::MemoryBus;
use tripline::dispatch::{Dispatcher, Parts, Settings};
use tripline::executor::{Abi, Attempt, Executor, ExecutorConfig, Inspection, ModuleError, ModuleSource, WasmExecutor};
use tripline::functions::{Definition, Digest, Registry, Version, Versions};
use tripline::store::{Deploy, Store};
use tripline::traces::Ring;

/// Records that the ring holds, as many as by default.
const RING: usize = 16_384;

struct Guest(Bytes);

impl ModuleSource for Guest {
    fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        let bytes = self.0.clone();
        Box::pin(async move { Ok(bytes) })
    }
}

/// Runs guests, and tells of each that it begins.
pub struct Noting<F> {
    pub wasm: Arc<WasmExecutor>,
    pub begins: F,
}

impl<F: Fn(&InvocationContext) + Send + Sync + 'static> Executor for Noting<F> {
    fn inspect(&self, module: &[u8]) -> Result<Inspection, ModuleError> {
        self.wasm.inspect(module)
    }

    fn prepare<'a>(&'a self, version: &'a Arc<Version>) -> BoxFuture<'a, Result<(), ModuleError>> {
        self.wasm.prepare(version)
    }

    fn attempt<'a>(
        &'a self,
        version: &'a Arc<Version>,
        invocation: &'a InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> BoxFuture<'a, Attempt> {
        (self.begins)(invocation);
        self.wasm.attempt(version, invocation, deadline, progress)
    }
}

/// The function `echo`, ready to be called.
pub struct Engine {
    pub module: Bytes,
    pub executor: Arc<WasmExecutor>,
    pub dispatcher: Arc<Dispatcher>,
    pub ring: Arc<Ring>,
    pub store: Arc<dyn Store>,
}

impl Engine {
    /// On this store. Attempts are made by what `wrap` makes of the executor.
    pub async fn new(store: Arc<dyn Store>, wrap: impl FnOnce(Arc<WasmExecutor>) -> Arc<dyn Executor>) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/echo.component.wasm");
        let module = Bytes::from(std::fs::read(path).expect("the guest is committed"));
        let executor = WasmExecutor::new(ExecutorConfig::default(), Arc::new(Guest(module.clone())));
        let executor = Arc::new(executor.expect("an executor"));
        let versions = Arc::new(Versions::new(store.clone()));
        let registry = Arc::new(Registry::default());
        let deploy = Deploy {
            definition: Definition::new("default", "echo"),
            digest: Digest::of(&module),
            module: module.clone(),
            abi: Abi::Component,
            triggers: Vec::new(),
        };
        store.deploy("default".to_owned(), vec![deploy]).await.expect("deployed");
        let rows = store.functions().await.expect("functions");
        let deployed: Vec<_> = rows.into_iter().map(|row| versions.from_row(row.version)).collect();
        for version in &deployed {
            executor.prepare(version).await.expect("compiled");
        }
        registry.replace(deployed);
        let ring = Arc::new(Ring::new(RING));
        let parts = Parts {
            registry,
            versions,
            executor: wrap(executor.clone()),
            store: store.clone(),
            bus: Arc::new(MemoryBus::default()),
            sockets: None,
            ring: ring.clone(),
            clock: Clock::system(),
        };
        Self { module, executor, dispatcher: Dispatcher::new(Settings::default(), parts), ring, store }
    }
}

/// A trigger of `echo`.
pub fn binding(trigger_id: &str, trigger_type: Kind) -> Arc<Binding> {
    Arc::new(Binding {
        namespace: "default".into(),
        function_name: "echo".into(),
        trigger_id: trigger_id.into(),
        trigger_type,
    })
}
