//! Loads what somebody deploys: looks at its bytes, and compiles and links them if they may be a function.

#![no_main]

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use trigger_core::BoxFuture;
use tripline::executor::{Executor as _, ExecutorConfig, ModuleError, ModuleSlot, ModuleSource, WasmExecutor};
use tripline::functions::{Definition, Digest, Version};
use uuid::Uuid;

/// The one module that is asked for.
#[derive(Default)]
struct Loose(Mutex<Bytes>);

impl ModuleSource for Loose {
    fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        let module = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(module) })
    }
}

struct Loader {
    executor: WasmExecutor,
    source: Arc<Loose>,
    runtime: Runtime,
}

impl Loader {
    fn new() -> Self {
        let source = Arc::new(Loose::default());
        let config = ExecutorConfig { max_instances: 1, max_cached_modules: 1, ..ExecutorConfig::default() };
        let executor = WasmExecutor::new(config, source.clone()).unwrap();
        Self { executor, source, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap() }
    }

    fn load(&self, module: &[u8]) {
        let Ok(inspection) = self.executor.inspect(module) else { return };
        let module = Bytes::copy_from_slice(module);
        let digest = Digest::of(&module);
        *self.source.0.lock().unwrap() = module;
        let slot = Arc::new(ModuleSlot::new(digest, inspection.abi));
        let definition = Definition::new("default", "function");
        let version = Arc::new(Version::new(Uuid::nil(), 1, digest, definition, slot));
        // It may still be refused: by what it has, or by how its functions are typed.
        let _ = self.runtime.block_on(self.executor.prepare(&version));
    }
}

static LOADER: OnceLock<Loader> = OnceLock::new();

fuzz_target!(|module: &[u8]| LOADER.get_or_init(Loader::new).load(module));
