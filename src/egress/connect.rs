//! Connections: a name is resolved once, its addresses are judged, and one of those that passed is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use trigger_core::{BoxFuture, Network};

use super::address;
use super::{BoxError, Target};

/// How long one connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Looks names up.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of a host.
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// As this machine does it.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// None of a host's addresses may be connected to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its address is not a public one, and no network that the engine allows")]
pub struct Prohibited;

/// Makes connections to addresses that are allowed.
#[derive(Clone)]
pub struct Connector {
    allowed: Arc<[Network]>,
    resolver: Arc<dyn Resolver>,
}

impl Connector {
    pub(super) fn new(allowed: Vec<Network>, resolver: Arc<dyn Resolver>) -> Self {
        Self { allowed: allowed.into(), resolver }
    }

    fn may_connect(&self, address: IpAddr) -> bool {
        let address = address::canonical(address);
        address::is_public(address) || self.allowed.iter().any(|network| network.contains(address))
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let (host, port) = Target::of(&uri)?.into_parts();
        let found = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.resolver.resolve(host, port).await?,
        };
        let mut last: BoxError = match found.is_empty() {
            true => io::Error::new(io::ErrorKind::NotFound, "the name has no address").into(),
            false => Prohibited.into(),
        };
        let allowed = found.into_iter().filter(|address| self.may_connect(address.ip()));
        for address in allowed.take(MAX_ADDRESSES) {
            // The port is the one that was granted, whatever a resolver says.
            let address = SocketAddr::new(address.ip(), port);
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
            }
        }
        Err(last)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Runs connections. They end when their client is gone.
#[derive(Clone, Default)]
pub(super) struct Tasks(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// TLS by ring, with the certificates that this machine trusts.
pub(super) fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what the protocol's versions need")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
