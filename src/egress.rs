//! Requests of guests to the outside: to whom, over which connections, how many and how much.
//!
//! A request is checked against the definition's grants by name, and against the engine's settings by address: when a
//! connection is made the name is resolved once, what it resolved to is judged, and that is what is connected to. A
//! name that resolves to something else a moment later is never asked again.

mod address;
mod connect;
mod grant;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::Client;
use parking_lot::Mutex;
use trigger_core::Network;
use uuid::Uuid;

pub use connect::{Connector, Prohibited, Resolver, SystemResolver};
pub use grant::{Grant, Target, TargetError};

use connect::Tasks;

/// Functions whose connections are kept.
const MAX_CLIENTS: usize = 1024;

/// Idle connections that a function keeps to one host.
const MAX_IDLE: usize = 8;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// What a request's body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Sends requests over connections of its own.
pub type HttpClient = Client<hyper_rustls::HttpsConnector<Connector>, RequestBody>;

/// The way out.
pub struct Egress {
    connector: Connector,
    /// Made when the first request is: reading the machine's certificates takes its time.
    secured: OnceLock<hyper_rustls::HttpsConnector<Connector>>,
    tasks: Tasks,
    /// By function: connections are never shared between functions.
    clients: Mutex<HashMap<Uuid, HttpClient>>,
}

impl Egress {
    /// A way out to public addresses and to these networks.
    pub fn new(allow_networks: Vec<Network>, resolver: Arc<dyn Resolver>) -> Self {
        let connector = Connector::new(allow_networks, resolver);
        Self { connector, secured: OnceLock::new(), tasks: Tasks::default(), clients: Mutex::default() }
    }

    fn secured(&self) -> &hyper_rustls::HttpsConnector<Connector> {
        self.secured.get_or_init(|| {
            hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(connect::tls())
                .https_or_http()
                .enable_http1()
                .wrap_connector(self.connector.clone())
        })
    }

    /// The client of a function.
    pub fn client(&self, function_id: Uuid) -> HttpClient {
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&function_id) {
            // Theirs are made again; so many functions that send requests are rare.
            clients.clear();
        }
        let make = || {
            Client::builder(self.tasks.clone())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .pool_timer(hyper_util::rt::TokioTimer::new())
                .build(self.secured().clone())
        };
        clients.entry(function_id).or_insert_with(make).clone()
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self::new(Vec::new(), Arc::new(SystemResolver))
    }
}
