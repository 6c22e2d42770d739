//! Where a trigger's events go: looked up once, then found by the binding's address.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use trigger_core::Binding;

use super::ledger::Counters;
use crate::demands::Demands;
use crate::functions::Route;

/// Where events of one binding go.
#[derive(Clone)]
pub(super) struct Target {
    /// The function's route; `None` while it is not deployed.
    pub(super) route: Option<Arc<Route>>,
    /// The counts of the trigger.
    pub(super) counters: Arc<Counters>,
    /// What its events must be, where not all are run.
    pub(super) demands: Option<Arc<Demands>>,
}

/// The bindings of live triggers. A trigger's events share one binding, so its address is the quickest key there is;
/// the entry holds the binding, so the address cannot come to mean another one.
#[derive(Default)]
pub(super) struct Targets {
    entries: RwLock<HashMap<usize, (Arc<Binding>, Target)>>,
}

/// More than any manifest has triggers at once; reached only by bindings that are not shared (rows), and then the
/// table begins anew.
const MAX_ENTRIES: usize = 16_384;

impl Targets {
    pub(super) fn get(&self, binding: &Arc<Binding>, find: impl FnOnce() -> Target) -> Target {
        let address = Arc::as_ptr(binding) as usize;
        if let Some((_, target)) = self.entries.read().get(&address) {
            return target.clone();
        }
        let target = find();
        let mut entries = self.entries.write();
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        entries.insert(address, (binding.clone(), target.clone()));
        target
    }

    pub(super) fn clear(&self) {
        self.entries.write().clear();
    }
}
