//! wasmtime's engine as all guests share it: the pool, the clock that interrupts, and what this kernel offers.

use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::wasm::ExecutorConfig;

/// How often the clock ticks: what a guest computes between two ticks cannot be interrupted.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// How instances get their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// From a pool that finds the pages an instance wrote to by `PAGEMAP_SCAN` (Linux 6.7) and resets those alone.
    PoolWithScan,
    /// From a pool that gives pages back to the kernel.
    Pool,
    /// From the kernel, each time: the address space is too small for a pool.
    OnDemand,
}

impl Allocation {
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Allocation::PoolWithScan => "pooled instances, reset by PAGEMAP_SCAN",
            Allocation::Pool => "pooled instances, without PAGEMAP_SCAN (Linux 6.7): fresh instances cost more",
            Allocation::OnDemand => "instances on demand: the address space is too small for a pool (ulimit -v?)",
        }
    }
}

/// The most instances of core modules, tables and memories that one attempt may have. The pool has as many for each
/// attempt, so that none can take another's. Languages with a runtime of their own need them: a component in JavaScript
/// has three memories, one in Python 38 instances.
pub(super) const MAX_INSTANCES: u32 = 64;
pub(super) const MAX_TABLES: u32 = 8;
pub(super) const MAX_MEMORIES: u32 = 4;

/// Elements of all tables together that one attempt may have.
pub(super) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The best engine that this machine can have. Code that counts its fuel is slower, so there is an engine without and,
/// once somebody needs it, one with.
pub(super) fn engine(settings: &ExecutorConfig, fuel: bool) -> wasmtime::Result<(Engine, Allocation)> {
    for allocation in [Allocation::PoolWithScan, Allocation::Pool] {
        if let Ok(engine) = Engine::new(&config(settings, allocation, fuel)) {
            return Ok((engine, allocation));
        }
    }
    Ok((Engine::new(&config(settings, Allocation::OnDemand, fuel))?, Allocation::OnDemand))
}

fn config(settings: &ExecutorConfig, allocation: Allocation, fuel: bool) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.consume_fuel(fuel);
    // Source positions would need debug information of hostile modules to be parsed.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.wasm_backtrace_max_frames(std::num::NonZero::new(16));
    config.wasm_component_model(true);
    config.allocation_strategy(match allocation {
        Allocation::OnDemand => InstanceAllocationStrategy::OnDemand,
        Allocation::Pool => InstanceAllocationStrategy::Pooling(pool(settings, false)),
        Allocation::PoolWithScan => InstanceAllocationStrategy::Pooling(pool(settings, true)),
    });
    config
}

fn pool(settings: &ExecutorConfig, scan: bool) -> PoolingAllocationConfig {
    // An attempt that was cut keeps its instance until the next tick, so there are more than may run.
    let instances = settings.max_instances.saturating_add(settings.max_instances / 8).saturating_add(8);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MAX_INSTANCES))
        .max_core_instances_per_component(MAX_INSTANCES)
        .total_memories(instances.saturating_mul(MAX_MEMORIES))
        .max_memories_per_component(MAX_MEMORIES)
        .max_memories_per_module(MAX_MEMORIES)
        .total_tables(instances.saturating_mul(MAX_TABLES))
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_tables_per_component(MAX_TABLES)
        .max_tables_per_module(MAX_TABLES)
        .total_stacks(instances)
        .max_memory_size((settings.max_memory_mb as usize) << 20)
        .pagemap_scan(if scan { Enabled::Yes } else { Enabled::No })
        // Without the scan what is kept resident is written over for every instance: little is better then.
        .linear_memory_keep_resident(if scan { 256 << 10 } else { 16 << 10 })
        .table_keep_resident(if scan { 64 << 10 } else { 4 << 10 });
    pool
}

/// Starts the clock. It ends with the engine.
pub(super) fn start_clock(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("guest-clock".to_owned()).stack_size(128 << 10).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}
