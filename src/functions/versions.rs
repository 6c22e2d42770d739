//! Versions that may be asked for though they are not routed, and the modules that versions share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Digest, Version};
use crate::executor::ModuleSlot;
use crate::store::{self, Store, VersionRow};

/// Makes versions from rows, one slot a module, and finds pinned ones again.
pub struct Versions {
    store: Arc<dyn Store>,
    /// Alive as long as somebody holds a version with these bytes.
    modules: Mutex<HashMap<Digest, Weak<ModuleSlot>>>,
    /// Pinned versions that were asked for; alive as long as an attempt holds them, or until `MAX_PINNED` others came.
    pinned: Mutex<HashMap<(String, String, u32), Arc<Version>>>,
}

/// Pinned versions remembered before the memory begins anew.
const MAX_PINNED: usize = 64;

impl Versions {
    /// Versions of this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, modules: Mutex::default(), pinned: Mutex::default() }
    }

    /// The version that a row describes. Versions with the same bytes share one module slot.
    pub fn from_row(&self, row: VersionRow) -> Arc<Version> {
        let module = {
            let mut modules = self.modules.lock();
            match modules.get(&row.digest).and_then(Weak::upgrade) {
                Some(module) => module,
                None => {
                    modules.retain(|_, module| module.strong_count() > 0);
                    let module = Arc::new(ModuleSlot::new(row.digest, row.abi));
                    modules.insert(row.digest, Arc::downgrade(&module));
                    module
                }
            }
        };
        Arc::new(Version::new(row.function_id, row.number, row.digest, row.definition, module))
    }

    /// One version of a function, from memory or from the store.
    pub async fn get(&self, namespace: &str, name: &str, number: u32) -> store::Result<Option<Arc<Version>>> {
        let key = (namespace.to_owned(), name.to_owned(), number);
        if let Some(version) = self.pinned.lock().get(&key).cloned() {
            return Ok(Some(version));
        }
        let Some(row) = self.store.version(key.0.clone(), key.1.clone(), number).await? else { return Ok(None) };
        let version = self.from_row(row);
        let mut pinned = self.pinned.lock();
        if pinned.len() >= MAX_PINNED {
            pinned.clear();
        }
        pinned.insert(key, version.clone());
        Ok(Some(version))
    }
}
