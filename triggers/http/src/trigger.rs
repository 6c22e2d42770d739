//! HTTP as a kind of trigger: a route that exists while its trigger runs.

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use trigger_auth::{Auth, Guard, Limiter, RateLimit};
use trigger_core::{BindError, Binding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind};

use crate::conditions::{Conditions, Host};
use crate::config::{Config, EventTerms, Mode, Served};
use crate::cors::Cors;
use crate::pattern::Pattern;
use crate::routes::{Route, Routes, Starting};

/// The kind `http`.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// The table that triggers of this kind put their routes into.
    pub routes: Routes,
}

impl Http {
    /// A kind whose triggers put their routes into this table. To check a manifest, an empty one will do.
    pub fn new(routes: Routes) -> Self {
        Self { routes }
    }
}

impl TriggerKind for Http {
    const KIND: Kind = Kind::Http;
    type Config = Config;
    type Trigger = Bound;

    fn check(&self, config: &Config, problems: &mut Problems) {
        config.check(problems);
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        one.conflict(other)
    }

    fn describe(&self, config: &Config) -> String {
        config.describe()
    }

    fn streams(&self, config: &Config) -> bool {
        config.mode == Mode::Stream
    }

    async fn bind(&self, config: Config, binding: Arc<Binding>) -> Result<Bound, BindError> {
        let refused = |what: String, help: String| BindError(format!("{}: {what}; {help}", binding.path()));
        let served = config.method.read().map_err(|mistakes| {
            let (what, help) = mistakes.into_iter().next().expect("a refusal has a reason");
            refused(what, help)
        })?;
        let pattern = Pattern::parse(&config.path).map_err(|mistake| refused(mistake.message, mistake.help))?;
        let host = config.host().map_err(|mistake| refused(mistake.message, mistake.help))?;
        let conditions = config.conditions().map_err(|mistakes| {
            let (_, mistake) = mistakes.into_iter().next().expect("a refusal has a reason");
            refused(mistake.message, mistake.help)
        })?;
        let cors = config.cors.as_ref().and_then(|cors| cors.meant(&served));
        let terms = config.terms();
        let Config { mode, max_body_bytes, max_wait_seconds, cloudevents, auth, rate_limit, .. } = config;
        Ok(Bound {
            host,
            served,
            pattern,
            conditions,
            cors,
            mode,
            max_body_bytes,
            max_wait_seconds,
            terms,
            cloudevents,
            auth,
            rate_limit,
            starting: self.routes.starting(),
            routes: self.routes.clone(),
        })
    }
}

/// A route that waits to be put into the table.
pub struct Bound {
    host: Host,
    served: Served,
    pattern: Pattern,
    conditions: Conditions,
    cors: Option<Cors>,
    mode: Mode,
    max_body_bytes: u64,
    max_wait_seconds: u32,
    terms: Option<EventTerms>,
    cloudevents: bool,
    auth: Auth,
    rate_limit: Option<RateLimit>,
    starting: Starting,
    routes: Routes,
}

impl Trigger for Bound {
    /// The route is in the table from the first poll on, so an old trigger that is asked to stop after this one was
    /// polled hands over without a gap.
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let Bound { host, served, pattern, conditions, cors, mode, max_body_bytes, max_wait_seconds, .. } = self;
        let Bound { terms, cloudevents, auth, rate_limit, starting, routes, .. } = self;
        let shutdown = cx.shutdown.clone();
        let in_flight = TaskTracker::new();
        let guard = Guard::new(&auth, &cx).map_err(TriggerError)?;
        let limiter = rate_limit.map(|limit| Limiter::new(&limit, &cx));
        let route = Arc::new(Route {
            host,
            served,
            pattern,
            conditions,
            cors,
            mode,
            max_body_bytes,
            max_wait_seconds,
            terms,
            cloudevents,
            guard,
            limiter,
            cx,
            in_flight,
        });
        let entry = Entry::new(routes, route);
        drop(starting);
        shutdown.cancelled().await;
        let in_flight = entry.route.in_flight.clone();
        drop(entry);
        in_flight.wait().await;
        Ok(())
    }
}

/// A route in the table; dropping it, also by dropping the trigger, takes the route out.
struct Entry {
    routes: Routes,
    route: Arc<Route>,
}

impl Entry {
    fn new(routes: Routes, route: Arc<Route>) -> Self {
        routes.insert(route.clone());
        Self { routes, route }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.routes.remove(&self.route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::testing::FakeDispatch;

    #[tokio::test]
    async fn a_section_that_was_not_checked_is_refused_by_name() {
        let binding = FakeDispatch::echo().context(Kind::Http, "orders").binding;
        for (section, message) in [
            (serde_json::json!({ "path": "orders" }), "the path \"orders\" does not begin with '/'"),
            (serde_json::json!({ "path": "/orders", "method": "get" }), "\"get\" is not a method"),
        ] {
            let config: Config = serde_json::from_value(section).unwrap();
            let mut problems = Problems::new();
            Http::default().check(&config, &mut problems);
            assert_eq!(problems.len(), 1);
            let error = Http::default().bind(config, binding.clone()).await.err().unwrap().to_string();
            assert!(error.starts_with("default/function/orders: ") && error.contains(message), "{error}");
        }
    }
}
