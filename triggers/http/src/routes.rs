//! The routing table, shared by the listener and every HTTP trigger.
//!
//! A request reads the table without a lock; a trigger that starts or stops swaps in a new one. The trees are built by
//! the first request that needs them and not by the swap, since starting a thousand triggers would otherwise build a
//! thousand sets of trees.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trigger_auth::{Guard, Limiter};
use trigger_core::{Attribute, Dispatch, TriggerContext};

use crate::conditions::{self, Conditions, Host};
use crate::config::{EventTerms, Mode, Served};
use crate::cors::Cors;
use crate::pattern::Pattern;
use crate::refusals::Refusals;
use crate::trees::{Claim, Hosts};
use crate::upgrade;

/// How long a request that no route takes waits for triggers that are bound and about to run.
const STARTING_WAIT: Duration = Duration::from_secs(1);

/// A handle to the routing table; clones share it.
#[derive(Clone)]
pub struct Routes {
    shared: Arc<Shared>,
}

struct Shared {
    table: ArcSwap<Table>,
    /// The routes for requests that ask for another protocol.
    upgrades: upgrade::Table,
    /// How many triggers are bound and do not run yet.
    starting: watch::Sender<usize>,
    /// Set by the listener: once cancelled, a path without a route is one that was just taken away.
    closing: OnceLock<CancellationToken>,
    body_read_timeout: Duration,
    refusals: Refusals,
}

/// One state of the table; never changed, only replaced.
#[derive(Default)]
struct Table {
    /// Oldest first: of two that claim the same requests the newer answers, and its removal uncovers the older.
    routes: Vec<Arc<Route>>,
    /// The engine, for callers who ask how their invocation stands. It comes with the triggers and outlives them here,
    /// so that a result can be read after its trigger is gone.
    dispatch: Option<Arc<dyn Dispatch>>,
    trees: OnceLock<Hosts<Arc<Route>>>,
}

/// One running trigger.
pub(crate) struct Route {
    pub(crate) host: Host,
    pub(crate) served: Served,
    pub(crate) pattern: Pattern,
    pub(crate) conditions: Conditions,
    pub(crate) cors: Option<Cors>,
    pub(crate) mode: Mode,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_wait_seconds: u32,
    pub(crate) terms: Option<EventTerms>,
    /// Whether its requests are CloudEvents.
    pub(crate) cloudevents: bool,
    /// Who may call; everybody where there is none.
    pub(crate) guard: Option<Guard>,
    /// How often; as often as they like where there is none.
    pub(crate) limiter: Option<Limiter>,
    pub(crate) cx: TriggerContext,
    /// Requests under way; closed once the route is out of the table.
    pub(crate) in_flight: TaskTracker,
}

/// Where a request leads.
pub(crate) enum Found {
    /// To this route.
    Route(Hit),
    /// Nowhere, because this parameter is not UTF-8 after percent-decoding.
    Undecodable(String),
    /// Nowhere; but these methods are served on this path.
    Missing(Vec<Method>),
}

/// A request's route, kept from ending until this is dropped.
pub(crate) struct Hit {
    pub(crate) route: Arc<Route>,
    pub(crate) attributes: Vec<Attribute>,
    /// Whom it is known to come from.
    pub(crate) subject: Option<Box<str>>,
    pub(crate) in_flight: TaskTrackerToken,
}

impl Default for Routes {
    /// An empty table whose requests have 60 seconds to send their body.
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("routes", &self.shared.table.load().routes.len()).finish_non_exhaustive()
    }
}

impl Routes {
    /// An empty table whose requests have `body_read_timeout` to send their body.
    pub fn new(body_read_timeout: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: ArcSwap::default(),
                upgrades: upgrade::Table::default(),
                starting: watch::channel(0).0,
                closing: OnceLock::new(),
                body_read_timeout,
                refusals: Refusals::default(),
            }),
        }
    }

    pub(crate) fn upgrades(&self) -> &upgrade::Table {
        &self.shared.upgrades
    }

    /// Where a request for an upgrade leads, if not to a request's route; waits for triggers that are starting.
    pub(crate) async fn find_upgrade(&self, path: &str) -> Option<upgrade::Hit> {
        let found = self.upgrades().find(path);
        if found.is_none() && *self.shared.starting.borrow() > 0 {
            self.started().await;
            return self.upgrades().find(path);
        }
        found
    }

    /// How often connections and requests were refused before any function heard of them, by reason.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.shared.refusals.read()
    }

    pub(crate) fn count_refusal(&self, reason: &str) {
        self.shared.refusals.count(reason);
    }

    pub(crate) fn body_read_timeout(&self) -> Duration {
        self.shared.body_read_timeout
    }

    /// The engine, as soon as a trigger has brought it.
    pub(crate) async fn dispatch(&self) -> Option<Arc<dyn Dispatch>> {
        let now = || self.shared.table.load().dispatch.clone();
        if now().is_none() {
            self.started().await;
        }
        now()
    }

    /// From the moment `shutdown` is cancelled, requests without a route are told that the engine is going away.
    pub(crate) fn closes_with(&self, shutdown: CancellationToken) {
        // A second listener over the same table keeps the first one's word: they stop together.
        let _first_wins = self.shared.closing.set(shutdown);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.shared.closing.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Says that a trigger is bound and about to run, until the guard is dropped.
    pub(crate) fn starting(&self) -> Starting {
        self.shared.starting.send_modify(|triggers| *triggers += 1);
        Starting { routes: self.clone() }
    }

    /// Puts a route into the table.
    pub(crate) fn insert(&self, route: Arc<Route>) {
        self.shared.table.rcu(|table| Table {
            routes: table.routes.iter().chain([&route]).cloned().collect(),
            dispatch: Some(route.cx.dispatch.clone()),
            trees: OnceLock::new(),
        });
    }

    /// Takes a route out of the table, and closes it: `route.in_flight` then waits for the requests it still has.
    pub(crate) fn remove(&self, route: &Arc<Route>) {
        self.shared.table.rcu(|table| Table {
            routes: table.routes.iter().filter(|one| !Arc::ptr_eq(one, route)).cloned().collect(),
            dispatch: table.dispatch.clone(),
            trees: OnceLock::new(),
        });
        // In this order: whoever finds the route closed finds it gone from the table too.
        route.in_flight.close();
    }

    /// The route for a request, if it had this method. Where there is none while triggers are starting, waits for them: during a reload the
    /// old trigger may stop a moment before the new one runs, and no caller should notice.
    pub(crate) async fn find(&self, head: &Parts, method: &Method) -> Found {
        match self.find_now(head, method) {
            Found::Missing(_) if *self.shared.starting.borrow() > 0 => {
                self.started().await;
                self.find_now(head, method)
            }
            found => found,
        }
    }

    /// Waits, not for long, until every trigger that is bound runs.
    async fn started(&self) {
        let mut starting = self.shared.starting.subscribe();
        let _in_time = tokio::time::timeout(STARTING_WAIT, starting.wait_for(|triggers| *triggers == 0)).await;
    }

    fn find_now(&self, head: &Parts, method: &Method) -> Found {
        let path = head.uri.path();
        loop {
            let table = self.shared.table.load();
            let hosts = table.trees();
            let host = if hosts.are_all_alike() { None } else { conditions::host(head) };
            let at = hosts.of(host.as_deref()).filter_map(|trees| trees.at(method, path));
            let met = at.map(|found| {
                let route = found.value.iter().find(|route| route.conditions.are_met_by(head));
                (found.params, route)
            });
            let mut unmet = false;
            let mut met = met.inspect(|(_, route)| unmet |= route.is_none());
            let Some((params, route)) = met.find_map(|(params, route)| Some((params, route?))) else {
                drop(met);
                // The method is served, only not for such a request.
                if unmet {
                    return Found::Missing(Vec::new());
                }
                let mut methods: Vec<&Method> =
                    hosts.of(host.as_deref()).flat_map(|trees| trees.methods(path)).collect();
                methods.sort_unstable_by_key(|method| method.as_str());
                methods.dedup();
                return Found::Missing(methods.into_iter().cloned().collect());
            };
            let in_flight = route.in_flight.token();
            if route.in_flight.is_closed() {
                // It left the table after we read the table. The token came too late to be waited for, so look again.
                continue;
            }
            let mut attributes = attributes(head, params.len());
            if let Err(name) = add_parameters(&mut attributes, &route.pattern, &params) {
                return Found::Undecodable(name);
            }
            return Found::Route(Hit { route: route.clone(), attributes, subject: None, in_flight });
        }
    }
}

impl Table {
    fn trees(&self) -> &Hosts<Arc<Route>> {
        self.trees.get_or_init(|| {
            let newest_first: Vec<_> = self
                .routes
                .iter()
                .rev()
                .map(|route| Claim {
                    host: &route.host,
                    served: &route.served,
                    pattern: &route.pattern,
                    rank: route.conditions.rank(),
                    value: route.clone(),
                })
                .collect();
            Hosts::build(&newest_first)
        })
    }
}

/// Adds the values of a pattern's parameters; the error is the name of one that is not UTF-8.
pub(crate) fn add_parameters(
    attributes: &mut Vec<Attribute>,
    pattern: &Pattern,
    params: &matchit::Params<'_, '_>,
) -> Result<(), String> {
    for (name, (_, value)) in pattern.attributes().iter().zip(params.iter()) {
        let value = percent_decode_str(value).decode_utf8().map_err(|_| name.clone())?;
        attributes.push((name.clone().into(), value.into_owned()));
    }
    Ok(())
}

pub(crate) fn attributes(head: &Parts, parameters: usize) -> Vec<Attribute> {
    let mut attributes = Vec::with_capacity(5 + parameters);
    attributes.push(("method".into(), head.method.as_str().to_owned()));
    attributes.push(("path".into(), head.uri.path().to_owned()));
    if let Some(query) = head.uri.query() {
        attributes.push(("query".into(), query.to_owned()));
    }
    if let Some(host) = conditions::named_host(head) {
        attributes.push(("host".into(), host.to_owned()));
    }
    attributes
}

/// A trigger that is bound and does not run yet.
pub(crate) struct Starting {
    routes: Routes,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.routes.shared.starting.send_modify(|triggers| *triggers -= 1);
    }
}
