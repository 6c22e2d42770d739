//! Connections that begin as an HTTP request and go on with another protocol.
//!
//! The listener knows paths and requests, the kind that takes over knows its protocol; this is all that they know of
//! each other, so that neither names the other.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Attribute, BoxFuture};

/// A listener that hands connections over.
pub trait Upgrades: Send + Sync + 'static {
    /// What is wrong with the pattern of a path, and what would be right.
    fn check(&self, path: &str) -> Result<(), (String, String)>;

    /// Whether two patterns match the same paths with equal right.
    fn excludes(&self, one: &str, other: &str) -> bool;

    /// Says that a route for this path opens soon: requests that find none wait for it, not for long.
    fn announce(&self, path: &str) -> Result<Box<dyn Announced>, (String, String)>;
}

/// A route that opens soon, as long as this is held.
pub trait Announced: Send {
    /// Opens the route, until what this answers is dropped. Of two for one path the newer has it.
    fn open(self: Box<Self>, route: Arc<dyn Upgrade>) -> Box<dyn Send + Sync>;
}

/// What requests for an upgrade are handed to.
pub trait Upgrade: Send + Sync + 'static {
    /// Answers a request. Dropping the future means that its caller is gone.
    fn upgrade(&self, request: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeAnswer, UpgradeRefused>>;
}

/// A request for an upgrade.
pub struct UpgradeRequest {
    /// Its path as it was sent, percent-encoded.
    pub path: String,
    /// What follows the path's `?`.
    pub query: Option<String>,
    /// Its headers.
    pub headers: HeaderMap,
    /// `path`, `query`, `host`, `client` (the caller's address), `param.<name>`.
    pub attributes: Vec<Attribute>,
    /// The subject of the certificate that the connection's other end has shown.
    pub subject: Option<Box<str>>,
    /// What the caller calls the request, where it does.
    pub request_id: Option<Box<str>>,
    /// The connection, once a caller that was answered 101 has been told.
    pub connection: BoxFuture<'static, io::Result<Box<dyn Connection>>>,
}

/// Bytes both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The response to a request for an upgrade: with status 101 the connection is handed over.
#[derive(Debug)]
pub struct UpgradeAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; none with 101.
    pub body: Bytes,
}

/// The connection is not handed over.
#[derive(Debug)]
pub struct UpgradeRefused {
    /// The response's status.
    pub status: StatusCode,
    /// The stable code, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: Cow<'static, str>,
    /// When the same request may fare better.
    pub retry_after: Option<Duration>,
    /// Headers of the response.
    pub headers: Box<HeaderMap>,
}

impl UpgradeRefused {
    /// A refusal that the same request would meet again.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None, headers: Box::default() }
    }

    /// The same refusal, which may be gone after `delay`.
    #[must_use]
    pub fn again_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}
