//! The routes in memory: which version serves now.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Version;
use crate::dispatch::breaker::Breaker;
use crate::dispatch::slots::FunctionSlots;

/// A function's route, and what belongs to the function whichever version serves.
#[derive(Debug)]
pub struct Route {
    /// The version that serves now. Moves atomically; whoever took the old one ends on it.
    pub version: ArcSwap<Version>,
    /// What limits the function's attempts.
    pub slots: FunctionSlots,
    /// Whether it is tried at all.
    pub breaker: Arc<Breaker>,
}

impl Route {
    /// The route of a version that is not routed: rows that began on it end on it.
    pub fn detached(version: Arc<Version>) -> Self {
        let definition = &version.definition;
        let slots = FunctionSlots::new(definition.concurrency);
        let breaker = Arc::new(Breaker::new(definition.circuit_breaker.as_ref()));
        Self { version: ArcSwap::new(version), slots, breaker }
    }
}

/// Namespace → name → route.
type Routes = HashMap<Box<str>, HashMap<Box<str>, Arc<Route>>>;

/// All routes. Reading is wait-free; a reload replaces the table at once.
#[derive(Default)]
pub struct Registry {
    routes: ArcSwap<Routes>,
}

impl Registry {
    /// The route of a function.
    pub fn route(&self, namespace: &str, name: &str) -> Option<Arc<Route>> {
        self.routes.load().get(namespace)?.get(name).cloned()
    }

    /// Every route, in no order.
    pub fn all(&self) -> Vec<Arc<Route>> {
        self.routes.load().values().flat_map(|routes| routes.values().cloned()).collect()
    }

    /// Makes exactly these versions serve. A function that stays keeps its route, and with it its slots.
    pub fn replace(&self, versions: Vec<Arc<Version>>) {
        let mut routes = Routes::new();
        for version in versions {
            let (namespace, name) = (version.definition.namespace.clone(), version.definition.name.clone());
            let route = match self.route(&namespace, &name) {
                Some(route) => {
                    route.slots.resize(version.definition.concurrency);
                    route.breaker.set(version.definition.circuit_breaker.as_ref());
                    route.version.store(version);
                    route
                }
                None => Arc::new(Route::detached(version)),
            };
            routes.entry(namespace.into()).or_default().insert(name.into(), route);
        }
        self.routes.store(Arc::new(routes));
    }
}
