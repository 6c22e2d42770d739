//! What one attempt holds beside its instance: whom it works for, what it may have, what it did so far.

use std::time::Instant;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use trigger_core::{HttpParts, InvocationContext, Progress, TraceContext};
use uuid::Uuid;
use wasmtime::component::ResourceTable;
use wasmtime::{CallHook, Engine, ResourceLimiter, Store};

use super::engine::{MAX_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use super::host::secrets;
use super::logs::Logs;
use super::outbound::Outbound;
use super::wasi::Wasi;
use super::wasm::Bounds;
use super::{Detail, Effects, HostCalls, HostOp, MAX_HOST_OPS, Services};
use crate::functions::Version;

scoped_tls::scoped_thread_local!(
    /// The invocation of the call that runs on this thread, where it was lent and not given: a context has a dozen
    /// allocations, and a copy of them would be a good part of a short call.
    static LENT: InvocationContext
);

/// Runs `call` with an invocation that its guest may ask about.
pub(super) fn lend<R>(invocation: &InvocationContext, call: impl FnOnce() -> R) -> R {
    LENT.set(invocation, call)
}

/// A store's data.
pub(super) struct Guest {
    pub(super) version: Arc<Version>,
    /// The invocation, where it was given; otherwise it is lent, or the guest imports nothing that would show it.
    pub(super) invocation: Option<Arc<InvocationContext>>,
    pub(super) bounds: Bounds,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    pub(super) limits: Limits,
    pub(super) logs: Logs,
    pub(super) host_calls: Vec<HostCalls>,
    pub(super) host_ops: Vec<HostOp>,
    pub(super) host_ops_truncated: bool,
    /// What it used more of than its budget allows.
    pub(super) breach: Option<String>,
    pub(super) effects: Effects,
    pub(super) effect_bytes: usize,
    /// For modules that import what others serve.
    pub(super) served: Option<Box<Served>>,
    pub(super) http: Option<Box<HttpParts>>,
    /// What it published to whom its message says that waits for an answer.
    pub(super) reply: Option<Bytes>,
    /// For modules that import WASI.
    pub(super) wasi: Option<Box<Wasi>>,
}

/// What host interfaces that ask others work with.
pub(super) struct Served {
    pub(super) services: Arc<Services>,
    /// Where progress goes, if somebody wants to know.
    pub(super) progress: Option<watch::Sender<Progress>>,
    /// The attempt's place in its trace, where requests are sent from.
    pub(super) trace: Option<TraceContext>,
    /// Requests to the outside, once there was one.
    outbound: Option<Arc<Outbound>>,
    /// The timers among the events that are held back.
    pub(super) timers: Vec<HeldTimer>,
    /// What the guest has handles of.
    pub(super) resources: ResourceTable,
    pub(super) open_transactions: usize,
}

impl Served {
    pub(super) fn new(services: Arc<Services>, progress: Option<watch::Sender<Progress>>) -> Box<Self> {
        Box::new(Self {
            services,
            progress,
            trace: None,
            outbound: None,
            timers: Vec::new(),
            resources: ResourceTable::new(),
            open_transactions: 0,
        })
    }
}

/// A timer that the guest set in this very attempt.
pub(super) struct HeldTimer {
    pub(super) timer: String,
    pub(super) key: String,
    pub(super) id: Uuid,
}

impl Guest {
    pub(super) fn new(version: Arc<Version>, bounds: Bounds, deadline: Instant) -> Self {
        let began = Instant::now();
        Self {
            limits: Limits::new(u64::from(version.definition.memory_limit_mb) << 20),
            logs: Logs::new(&version.definition, began),
            version,
            invocation: None,
            bounds,
            began,
            deadline,
            host_calls: Vec::new(),
            host_ops: Vec::new(),
            host_ops_truncated: false,
            breach: None,
            effects: Effects::default(),
            effect_bytes: 0,
            served: None,
            http: None,
            reply: None,
            wasi: None,
        }
    }

    /// Gives the guest services, and hides of what it says what it may learn from them.
    pub(super) fn serve(&mut self, served: Box<Served>) {
        self.logs.masks = secrets::masks(&self.version.definition, &served.services);
        self.served = Some(served);
    }

    /// What the attempt sends to the outside, whichever interface it does it by.
    pub(super) fn outbound(&mut self) -> Option<Arc<Outbound>> {
        if self.served.as_ref()?.outbound.is_none() {
            let outbound = Outbound::of(self);
            self.served.as_mut()?.outbound = outbound;
        }
        self.served.as_ref()?.outbound.clone()
    }

    /// A store for this guest, with every limit but the clock's in place.
    pub(super) fn into_store(self, engine: &Engine) -> Store<Guest> {
        let mut store = Store::new(engine, self);
        store.limiter(|guest| &mut guest.limits);
        refill(&mut store);
        if store.data().version.definition.budget.counts_calls() {
            // Who is over its budget does not come back from the host.
            store.call_hook(|store, hook| match (hook, &store.data().breach) {
                (CallHook::ReturningFromHost, Some(breach)) => Err(wasmtime::Error::msg(breach.clone())),
                _ => Ok(()),
            });
        }
        store
    }

    /// Takes the place of the guest that a store served before. Of that one nothing stays but what its instance has: its
    /// memory and tables, which still count, and WASI's standard streams, which now speak for this guest.
    pub(super) fn take_over(mut self, store: &mut Store<Guest>) {
        let before = store.data_mut();
        self.limits.inherit(&before.limits);
        if let Some(mut wasi) = before.wasi.take() {
            wasi.serve(&mut self);
            self.wasi = Some(wasi);
        }
        *before = self;
        refill(store);
    }

    /// Forgets what it worked on. `false` where something that it opened still is.
    pub(super) fn leave(&mut self) -> bool {
        self.invocation = None;
        self.http = None;
        let open = self.served.take().is_some_and(|mut served| served.resources.iter_mut().next().is_some());
        !open && self.wasi.as_deref_mut().is_none_or(Wasi::has_finished)
    }

    /// The most bytes that the guest may hand to the host in one go: its answer, or what it publishes.
    pub(super) fn handover_limit(&self) -> usize {
        let output = usize::try_from(self.version.definition.max_output_bytes).unwrap_or(usize::MAX);
        output.max(self.bounds.max_effect_bytes).saturating_add(HANDOVER_SLACK)
    }

    /// Lets `ask` look at the invocation.
    pub(super) fn with_invocation<R>(&self, ask: impl FnOnce(&InvocationContext) -> R) -> R {
        match &self.invocation {
            Some(invocation) => ask(invocation),
            None => LENT.with(ask),
        }
    }

    /// Notes that the guest asked the host for something.
    pub(super) fn note(&mut self, mut op: HostOp) {
        self.count(&op);
        if self.host_ops.len() < MAX_HOST_OPS {
            self.hide(&mut op.target);
            op.error.iter_mut().for_each(|error| self.hide(error));
            self.host_ops.push(op);
        } else {
            self.host_ops_truncated = true;
        }
    }

    /// Puts stars where a text holds what others must not read.
    pub(super) fn hide(&self, text: &mut String) {
        self.logs.masks.hide_in(text);
    }

    /// Logs and host operations, if there were any.
    pub(super) fn detail(&mut self) -> Option<Box<Detail>> {
        if let Some(outbound) = self.served.as_mut().and_then(|served| served.outbound.take()) {
            outbound.ops().into_iter().for_each(|op| self.note(op));
            self.host_ops.sort_by_key(|op| op.at_micros);
        }
        let began = self.began;
        let mut logs = std::mem::replace(&mut self.logs, Logs::new(&self.version.definition, began));
        if let Some(wasi) = &mut self.wasi {
            logs.merge(wasi.take_logs(&self.version.definition));
        }
        let (logs, logs_truncated) = logs.into_lines();
        if logs.is_empty() && !logs_truncated && self.host_ops.is_empty() {
            return None;
        }
        Some(Box::new(Detail {
            logs,
            logs_truncated,
            host_calls: std::mem::take(&mut self.host_calls),
            host_ops: std::mem::take(&mut self.host_ops),
            host_ops_truncated: self.host_ops_truncated,
        }))
    }
}

/// Gives a store what its guest may use in one attempt.
fn refill(store: &mut Store<Guest>) {
    let handover = store.data().handover_limit();
    store.set_hostcall_fuel(handover);
    if let Some(fuel) = store.data().version.definition.max_fuel {
        store.set_fuel(fuel).expect("versions with a limit of fuel run on the engine that counts it");
    }
}

/// Names, numbers and records that go with what is handed over.
const HANDOVER_SLACK: usize = 64 << 10;

/// What one attempt may have of this machine, counted over everything that it instantiates.
#[derive(Debug)]
pub(super) struct Limits {
    memory_limit: usize,
    memory: usize,
    table_elements: usize,
    /// The most that its memories had together.
    pub(super) memory_peak: usize,
    /// Why a growth was refused, the first time that one was.
    pub(super) refused: Option<String>,
}

impl Limits {
    fn new(memory_limit: u64) -> Self {
        let memory_limit = usize::try_from(memory_limit).unwrap_or(usize::MAX);
        Self { memory_limit, memory: 0, table_elements: 0, memory_peak: 0, refused: None }
    }

    /// Counts what an instance has already that served before.
    fn inherit(&mut self, before: &Limits) {
        self.memory = before.memory;
        self.memory_peak = before.memory;
        self.table_elements = before.table_elements;
    }

    fn refuse(&mut self, why: impl FnOnce() -> String) -> bool {
        self.refused.get_or_insert_with(why);
        false
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.memory_limit {
            let limit = self.memory_limit >> 20;
            return Ok(self.refuse(|| format!("the guest asked for {total} bytes of memory, its limit is {limit} MiB")));
        }
        self.memory = total;
        self.memory_peak = self.memory_peak.max(total);
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > MAX_TABLE_ELEMENTS {
            return Ok(self
                .refuse(|| format!("the guest asked for {total} table elements, the limit is {MAX_TABLE_ELEMENTS}")));
        }
        self.table_elements = total;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_may_grow_to_its_limit_and_no_further() {
        let mut limits = Limits::new(4 << 20);
        assert!(limits.memory_growing(0, MIB, None).unwrap());
        assert!(limits.memory_growing(MIB, 4 * MIB, None).unwrap());
        assert!(limits.refused.is_none());
        assert!(!limits.memory_growing(4 * MIB, 4 * MIB + 1, None).unwrap());
        assert!(limits.refused.as_deref().is_some_and(|why| why.contains("4 MiB")));
        assert_eq!(limits.memory_peak, 4 * MIB);
    }

    #[test]
    fn memories_are_counted_together() {
        let mut limits = Limits::new(4 << 20);
        assert!(limits.memory_growing(0, 3 * MIB, None).unwrap());
        assert!(!limits.memory_growing(0, 2 * MIB, None).unwrap());
        assert!(limits.memory_growing(0, MIB, None).unwrap());
    }

    #[test]
    fn tables_are_counted_together() {
        let mut limits = Limits::new(1 << 20);
        assert!(limits.table_growing(0, MAX_TABLE_ELEMENTS - 1, None).unwrap());
        assert!(!limits.table_growing(0, 2, None).unwrap());
        assert!(!limits.table_growing(0, usize::MAX, None).unwrap());
        assert!(limits.table_growing(0, 1, None).unwrap());
    }
}
