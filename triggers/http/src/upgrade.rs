//! Requests that ask for another protocol, and the kinds that take their connections over.
//!
//! Their routes are a table of their own beside the one for requests: whether a request asks for WebSocket is no
//! question of its method. One that no route here takes is a request like any other, as RFC 9110 (section 7.8) has it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use matchit::Router;
use trigger_core::Attribute;
use trigger_core::upgrade::{Announced, Connection, Upgrade, UpgradeAnswer, UpgradeRefused, UpgradeRequest, Upgrades};

use crate::pattern::{Mistake, Pattern};
use crate::peer::Peer;
use crate::problem::Problem;
use crate::request_id::RequestId;
use crate::routes::{Routes, Starting, add_parameters, attributes};
use crate::trees::find;

/// The routes whose requests are handed over.
#[derive(Default)]
pub(crate) struct Table {
    now: ArcSwap<State>,
}

/// One state of the table; never changed, only replaced.
#[derive(Default)]
struct State {
    /// Oldest first, as with requests.
    routes: Vec<Arc<Route>>,
    tree: OnceLock<Router<Arc<Route>>>,
}

struct Route {
    pattern: Pattern,
    upgrade: Arc<dyn Upgrade>,
}

/// Where a request for an upgrade leads.
pub(crate) struct Hit {
    route: Arc<Route>,
    parameters: Vec<Attribute>,
    /// The name of a parameter that is not UTF-8.
    undecodable: Option<String>,
}

impl Table {
    fn change(&self, change: impl Fn(&[Arc<Route>]) -> Vec<Arc<Route>>) {
        self.now.rcu(|state| State { routes: change(&state.routes), tree: OnceLock::new() });
    }

    pub(crate) fn find(&self, path: &str) -> Option<Hit> {
        let state = self.now.load();
        if state.routes.is_empty() {
            return None;
        }
        let tree = state.tree.get_or_init(|| {
            let mut tree = Router::new();
            for route in state.routes.iter().rev() {
                // The only error left for a valid pattern is a conflict with a newer route, which covers this one.
                let _covered = tree.insert(route.pattern.shape(), route.clone());
            }
            tree
        });
        let found = find(tree, path)?;
        let mut parameters = Vec::new();
        let undecodable = add_parameters(&mut parameters, &found.value.pattern, &found.params).err();
        Some(Hit { route: found.value.clone(), parameters, undecodable })
    }
}

/// The connection behind a request that asks for WebSocket, to be taken before the request is taken apart.
pub(crate) fn asked<B>(request: &mut Request<B>) -> Option<OnUpgrade> {
    let asks = request.method() == Method::GET
        && has_word(request.headers(), header::CONNECTION, "upgrade")
        && has_word(request.headers(), header::UPGRADE, "websocket");
    asks.then(|| hyper::upgrade::on(request))
}

fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

/// Hands a request to the route that takes it.
pub(crate) async fn answer(
    hit: Hit,
    head: Parts,
    peer: Option<&Peer>,
    connection: OnUpgrade,
    id: &RequestId,
) -> Result<Response<Full<Bytes>>, Problem> {
    if let Some(name) = hit.undecodable {
        return Err(crate::handle::undecodable(&name));
    }
    let mut attributes = attributes(&head, hit.parameters.len());
    attributes.extend(hit.parameters);
    attributes.extend(peer.map(|peer| ("client".into(), peer.client(&head.headers))));
    let connection = Box::pin(async move {
        let upgraded = connection.await.map_err(std::io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)) as Box<dyn Connection>)
    });
    let request = UpgradeRequest {
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        attributes,
        subject: peer.and_then(|peer| peer.subject.clone()),
        request_id: id.given().map(Box::from),
        connection,
    };
    let UpgradeAnswer { status, headers, body } = hit.route.upgrade.upgrade(request).await.map_err(refused)?;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn refused(refused: UpgradeRefused) -> Problem {
    let UpgradeRefused { status, code, detail, retry_after, headers } = refused;
    let problem = Problem { headers: Some(headers), ..Problem::new(status, code, detail) };
    match retry_after {
        Some(delay) => problem.again_after(delay),
        None => problem,
    }
}

/// What is said to a request that does not ask for the protocol that its path is for.
pub(crate) fn required() -> Problem {
    let detail = "this path is for WebSocket: ask for an upgrade";
    Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail)
        .with(header::CONNECTION, HeaderValue::from_static("upgrade"))
        .with(header::UPGRADE, HeaderValue::from_static("websocket"))
}

impl Upgrades for Routes {
    fn check(&self, path: &str) -> Result<(), (String, String)> {
        Pattern::parse(path).map(drop).map_err(told)
    }

    fn excludes(&self, one: &str, other: &str) -> bool {
        matches!((Pattern::parse(one), Pattern::parse(other)), (Ok(one), Ok(other)) if one.excludes(&other))
    }

    fn announce(&self, path: &str) -> Result<Box<dyn Announced>, (String, String)> {
        let pattern = Pattern::parse(path).map_err(told)?;
        Ok(Box::new(Opening { pattern, routes: self.clone(), starting: self.starting() }))
    }
}

fn told(mistake: Mistake) -> (String, String) {
    (mistake.message, mistake.help)
}

struct Opening {
    pattern: Pattern,
    routes: Routes,
    starting: Starting,
}

impl Announced for Opening {
    fn open(self: Box<Self>, upgrade: Arc<dyn Upgrade>) -> Box<dyn Send + Sync> {
        let Opening { pattern, routes, starting } = *self;
        let route = Arc::new(Route { pattern, upgrade });
        routes.upgrades().change(|before| before.iter().chain([&route]).cloned().collect());
        drop(starting);
        Box::new(Open { routes, route })
    }
}

/// A route in the table; dropping it takes it out.
struct Open {
    routes: Routes,
    route: Arc<Route>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let left =
            |before: &[Arc<Route>]| before.iter().filter(|route| !Arc::ptr_eq(route, &self.route)).cloned().collect();
        self.routes.upgrades().change(left);
    }
}
