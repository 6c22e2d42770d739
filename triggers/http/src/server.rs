//! The public listener: takes connections, bounds what each may cost, and ends them in order.
//!
//! Owns sockets and the framing of HTTP/1 and HTTP/2; what a request means is told by the routing table. Every caller is a stranger, so
//! each resource has a bound: connections (a permit is taken *before* a connection is), header bytes, the time for
//! headers, for a body, and for taking the response.

mod connection;
mod drain;
mod head_timer;
mod http2;
mod proxy;
mod stream;
mod subject;
mod tls;
mod unread;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::Connections;
pub use self::tls::{Certificates, TlsError, TlsFiles};
use crate::peer::Trust;
use crate::routes::Routes;

/// The bounds of the public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen. Default `127.0.0.1:7070`.
    pub listen: SocketAddr,
    /// How many connections are open at once; further ones wait in the kernel's backlog. Default 10,000.
    pub max_connections: usize,
    /// How long a caller may take for a request's headers, counted from the end of the request before; so it is also
    /// how long an idle connection is kept. Default 30 seconds.
    pub header_read_timeout: Duration,
    /// The largest request line and headers together, in bytes; larger ones are answered 431. Default 32 KiB. (The
    /// number of headers is limited to 100, where hyper's parser needs no memory of its own.)
    pub max_header_bytes: usize,
    /// How long a caller may take for a request's body; then it is answered 408. It bounds the whole body, so that
    /// nobody holds a connection by trickling. Default 60 seconds.
    pub body_read_timeout: Duration,
    /// How long a caller may go without taking a byte of its response. Default 30 seconds.
    pub write_timeout: Duration,
    /// How many requests a connection of HTTP/2 may have under way at once. Default 100.
    pub max_concurrent_streams: u32,
    /// Whether a caller of HTTP/1 may close its sending side and still get its answer. Default false: on TCP that looks the same
    /// as going away, and a caller that went away has its attempt cancelled.
    pub half_close: bool,
    /// Whom to believe about callers' addresses. Default nobody.
    pub trust: Trust,
    /// The certificate: with one the listener speaks TLS and nothing else. Default none.
    pub tls: Option<TlsFiles>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            max_connections: 10_000,
            header_read_timeout: Duration::from_secs(30),
            max_header_bytes: 32 * 1024,
            body_read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            max_concurrent_streams: 100,
            half_close: false,
            trust: Trust::default(),
            tls: None,
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Someone else listens there.
    #[error("cannot listen on {listen}: the port is in use; stop what uses it or choose another `listen`")]
    InUse {
        /// The address.
        listen: SocketAddr,
    },
    /// The port is reserved for privileged processes.
    #[error("cannot listen on {listen}: the port needs a privilege; choose one from 1024 up or grant the privilege")]
    Forbidden {
        /// The address.
        listen: SocketAddr,
    },
    /// No interface has that address.
    #[error("cannot listen on {listen}: this machine has no such address; choose one of its own, 127.0.0.1 or 0.0.0.0")]
    NoSuchAddress {
        /// The address.
        listen: SocketAddr,
    },
    /// Another failure of the operating system.
    #[error("cannot listen on {listen}")]
    Io {
        /// The address.
        listen: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A bound that makes no sense.
    #[error("{key} is {value}; choose from {least} to {most}")]
    OutOfRange {
        /// The field of [`ServerConfig`].
        key: &'static str,
        /// Its value.
        value: String,
        /// The least that is accepted.
        least: String,
        /// The most that is accepted.
        most: String,
    },
}

const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
const HEADER_BYTES: RangeInclusive<usize> = 1024..=1024 * 1024;
const STREAMS: RangeInclusive<u32> = 1..=10_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

impl ServerConfig {
    fn check(&self) -> Result<(), Error> {
        within("max_connections", self.max_connections, CONNECTIONS)?;
        within("max_header_bytes", self.max_header_bytes, HEADER_BYTES)?;
        within("max_concurrent_streams", self.max_concurrent_streams, STREAMS)?;
        within("header_read_timeout", self.header_read_timeout, TIMEOUT)?;
        within("body_read_timeout", self.body_read_timeout, TIMEOUT)?;
        within("write_timeout", self.write_timeout, TIMEOUT)
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(key: &'static str, value: T, range: RangeInclusive<T>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let [value, least, most] = [&value, range.start(), range.end()].map(|value| format!("{value:?}"));
    Err(Error::OutOfRange { key, value, least, most })
}

/// The public listener, bound and not yet accepting.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    routes: Routes,
    certificates: Option<Arc<Certificates>>,
    config: ServerConfig,
}

impl Server {
    /// Reads the certificate, then takes the port.
    pub async fn bind(config: ServerConfig) -> Result<Self, Error> {
        config.check()?;
        let certificates = config.tls.clone().map(Certificates::load).transpose()?.map(Arc::new);
        let listen = config.listen;
        let bound = TcpListener::bind(listen).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local_addr, listener) = bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { listen },
            io::ErrorKind::PermissionDenied => Error::Forbidden { listen },
            io::ErrorKind::AddrNotAvailable => Error::NoSuchAddress { listen },
            _ => Error::Io { listen, source },
        })?;
        let routes = Routes::new(config.body_read_timeout);
        Ok(Self { listener, local_addr, routes, certificates, config })
    }

    /// The address, with the port that was chosen where `listen` said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The table that requests are answered from.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// The certificate in use, where there is one: to read it again on a signal.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Answers requests until `shutdown`: then takes no further connection, closes idle ones, lets each of the others
    /// finish the request it is in, and returns when all are closed. `force` drops those that are left.
    pub async fn run(self, shutdown: CancellationToken, force: CancellationToken) {
        let Self { listener, local_addr, routes, certificates, config } = self;
        routes.closes_with(shutdown.clone());
        let limit = Arc::new(Semaphore::new(config.max_connections));
        let connections = Arc::new(Connections::new(routes, certificates.clone(), &config));
        let mut keeping_fresh = pin!(async {
            match &certificates {
                Some(certificates) => certificates.keep_fresh().await,
                None => std::future::pending().await,
            }
        });
        let mut open = JoinSet::new();
        tracing::info!(%local_addr, "listening for HTTP requests");
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = open.join_next() => {
                    report(ended);
                    continue;
                }
                () = &mut keeping_fresh => unreachable!("it never ends"),
                accepted = accept(|| listener.accept(), &limit) => accepted,
            };
            let ((stream, from), permit) = accepted;
            let connection = connections.clone().serve(stream, from.ip());
            open.spawn(async move {
                connection.await;
                drop(permit);
            });
        }
        drop(listener);
        connections.drain();
        tracing::info!(%local_addr, open = open.len(), "no further connections; finishing those that are open");
        while !open.is_empty() {
            tokio::select! {
                biased;
                () = force.cancelled() => break,
                Some(ended) = open.join_next() => report(ended),
            }
        }
        if !open.is_empty() {
            tracing::warn!(%local_addr, open = open.len(), "dropping the connections that are left");
            open.shutdown().await;
        }
    }
}

/// Takes a permit, then a connection. Cancel safe: a permit without a connection is given back.
async fn accept<T, F>(next: impl Fn() -> F, limit: &Arc<Semaphore>) -> (T, OwnedSemaphorePermit)
where
    F: Future<Output = io::Result<T>>,
{
    let permit = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
    let mut pause = Duration::from_millis(5);
    loop {
        let error = match next().await {
            Ok(connection) => return (connection, permit),
            Err(error) => error,
        };
        if is_about_one_connection(&error) {
            continue;
        }
        // Out of file descriptors or memory: a pause lets connections end, whose end also cuts the pause short.
        tracing::warn!(%error, "cannot take a connection; waiting {pause:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// A connection that was gone before it was taken; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task did not end as it should");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(config: ServerConfig) -> String {
        Server::bind(config).await.unwrap_err().to_string()
    }

    fn local() -> ServerConfig {
        ServerConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..ServerConfig::default() }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_what_to_do() {
        let first = Server::bind(local()).await.unwrap();
        let listen = first.local_addr();
        assert_ne!(listen.port(), 0);
        assert_eq!(
            error(ServerConfig { listen, ..local() }).await,
            format!("cannot listen on {listen}: the port is in use; stop what uses it or choose another `listen`")
        );
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told() {
        let listen = SocketAddr::from(([192, 0, 2, 1], 0));
        assert!(error(ServerConfig { listen, ..local() }).await.contains("no such address"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_accept_error_is_waited_out_and_a_lost_connection_is_not() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let limit = Arc::new(Semaphore::new(1));
        let calls = AtomicUsize::new(0);
        let next = || async {
            assert_eq!(limit.available_permits(), 0, "the permit is taken first");
            match calls.fetch_add(1, Ordering::Relaxed) {
                0..20 => Err(io::ErrorKind::ConnectionAborted.into()),
                20..32 => Err(io::Error::other("too many open files")),
                call => Ok(call),
            }
        };
        let begun = tokio::time::Instant::now();
        let (call, permit) = accept(next, &limit).await;
        assert_eq!(call, 32);
        // 5, 10, 20, … 640 ms, then one second each.
        assert_eq!(begun.elapsed(), Duration::from_millis(1275 + 4 * 1000));
        drop(permit);
        assert_eq!(limit.available_permits(), 1);
    }

    #[tokio::test]
    async fn bounds_that_make_no_sense_are_refused() {
        for (config, message) in [
            (ServerConfig { max_connections: 0, ..local() }, "max_connections is 0; choose from 1 to 1000000"),
            (
                ServerConfig { max_header_bytes: 1023, ..local() },
                "max_header_bytes is 1023; choose from 1024 to 1048576",
            ),
            (
                ServerConfig { header_read_timeout: Duration::ZERO, ..local() },
                "header_read_timeout is 0ns; choose from 1ms to 86400s",
            ),
            (ServerConfig { body_read_timeout: Duration::MAX, ..local() }, "choose from 1ms to 86400s"),
            (ServerConfig { write_timeout: Duration::ZERO, ..local() }, "write_timeout is 0ns"),
        ] {
            let error = error(config).await;
            assert!(error.contains(message), "{error}");
        }
    }
}
