//! One connection, from its first byte to its close: which protocol it speaks, and HTTP/1.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::drain::Drain;
use super::head_timer::{Alarm, HeadTimer};
use super::stream::Stream;
use super::tls::Certificates;
use super::unread::Unread;
use super::{ServerConfig, http2, proxy, subject, tls};
use crate::peer::{Peer, Trust};
use crate::refusals::{FLOOD, HANDSHAKE, HEADERS_TOO_LARGE, MALFORMED, NOT_TAKEN, PROXY_HEADER, REQUEST_LATE};
use crate::routes::Routes;

/// The least that hyper buffers per connection. A larger buffer takes large bodies in fewer pieces; it grows only for
/// connections that fill it.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a TLS handshake may take, if a caller's headers may take longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections of the listener have in common.
pub(super) struct Connections {
    routes: Routes,
    http: http1::Builder,
    http2: http2::Bounds,
    header_read_timeout: Duration,
    write_timeout: Duration,
    trust: Arc<Trust>,
    certificates: Option<Arc<Certificates>>,
    drain: Drain,
}

impl Connections {
    pub(super) fn new(routes: Routes, certificates: Option<Arc<Certificates>>, config: &ServerConfig) -> Self {
        let mut http = http1::Builder::new();
        http.half_close(config.half_close)
            .max_header_size(config.max_header_bytes)
            .max_buf_size(config.max_header_bytes.max(BUFFER_BYTES))
            .header_read_timeout(config.header_read_timeout);
        Self {
            routes,
            http,
            http2: http2::Bounds::new(config),
            header_read_timeout: config.header_read_timeout,
            write_timeout: config.write_timeout,
            trust: Arc::new(config.trust.clone()),
            certificates,
            drain: Drain::default(),
        }
    }

    /// Asks every connection to end after the request it is in.
    pub(super) fn drain(&self) {
        self.drain.begin();
    }

    /// Serves a connection until it is closed. To be a task of its own, as it registers its waker for the drain once.
    pub(super) async fn serve(self: Arc<Self>, mut socket: TcpStream, from: IpAddr) {
        // Responses are written whole, so waiting for more to send only delays them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let from = match self.trust.proxy_protocol && self.trust.covers(from.to_canonical()) {
            false => from,
            true => match self.begins(PROXY_HEADER, self.header_read_timeout, proxy::read(&mut socket)).await {
                Some(client) => client.unwrap_or(from),
                None => return,
            },
        };
        match &self.certificates {
            None => {
                let Some(spoken) = self.begins(REQUEST_LATE, self.header_read_timeout, Spoken::by(&mut socket)).await
                else {
                    return;
                };
                self.converse(socket, spoken, Peer::new(from, None, &self.trust)).await;
            }
            // It takes a kilobyte more than a connection without, which need not have that too.
            Some(certificates) => Box::pin(self.secured(socket, from, certificates)).await,
        }
    }

    async fn secured(&self, socket: TcpStream, from: IpAddr, certificates: &Certificates) {
        let timeout = HANDSHAKE_TIMEOUT.min(self.header_read_timeout);
        let handshake = TlsAcceptor::from(certificates.config()).accept(socket);
        let Some(socket) = self.begins(HANDSHAKE, timeout, handshake).await else { return };
        let (_, session) = socket.get_ref();
        let spoken = match session.alpn_protocol() {
            Some(tls::H2) => Spoken::Http2(Bytes::new()),
            _ => Spoken::Http1(Bytes::new()),
        };
        let subject = session.peer_certificates().and_then(|chain| subject::of(chain.first()?));
        self.converse(socket, spoken, Peer::new(from, subject, &self.trust)).await;
    }

    /// What a caller begins with, unless it fails, is late, or comes into a drain. Who says nothing and goes away was
    /// refused nothing.
    async fn begins<T>(
        &self,
        reason: &str,
        timeout: Duration,
        begin: impl Future<Output = io::Result<T>>,
    ) -> Option<T> {
        let begun = tokio::select! {
            biased;
            begun = tokio::time::timeout(timeout, begin) => begun,
            () = self.drain.begins() => return None,
        };
        match begun {
            Ok(Ok(begun)) => return Some(begun),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection ended before its first request");
                self.routes.count_refusal(reason);
            }
            Err(_) => {
                tracing::debug!("a connection was given up before its first request");
                self.routes.count_refusal(reason);
            }
        }
        None
    }

    async fn converse<S>(&self, socket: S, spoken: Spoken, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = match spoken {
            Spoken::Http1(begun) => self.http1(socket, begun, peer).await,
            Spoken::Http2(begun) => {
                let stream = Stream::new(socket, begun, self.write_timeout, Unread::default());
                Box::pin(http2::serve(stream, self.routes.clone(), peer, &self.drain, self.http2)).await
            }
        };
        // Callers go away, send nonsense or fall silent every day: nobody needs to act.
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
            if let Some(reason) = refusal(&error) {
                self.routes.count_refusal(reason);
            }
        }
    }

    async fn http1<S>(&self, socket: S, begun: Bytes, peer: Peer) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unread = Unread::default();
        let stream = Stream::new(socket, begun, self.write_timeout, unread.clone());
        let timer = HeadTimer::default();
        let mut alarm = Alarm::new(&timer, self.header_read_timeout);
        let mut http = self.http.clone();
        http.timer(timer);
        let (routes, peer) = (self.routes.clone(), Arc::new(peer));
        let service = service_fn(move |request: Request<Incoming>| {
            let (routes, peer, unread) = (routes.clone(), peer.clone(), unread.clone());
            async move {
                let mut response = routes.answer(request.map(|body| unread.watch(body)), Some(&peer)).await;
                if unread.is_set() {
                    // Nobody can tell where the next request would begin.
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = pin!(http.serve_connection(stream, service).with_upgrades());
        let mut woken = pin!(self.drain.woken());
        let (mut registered, mut draining) = (false, false);
        let ended = poll_fn(|cx| {
            if !registered {
                registered = true;
                let _at_once = woken.as_mut().poll(cx);
            }
            if !draining && self.drain.has_begun() {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            alarm.poll(cx);
            connection.as_mut().poll(cx)
        });
        ended.await
    }
}

/// Why we ended a connection, if it was not its caller who went away.
fn refusal(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        return Some(HEADERS_TOO_LARGE);
    }
    if error.is_parse() {
        return Some(MALFORMED);
    }
    if error.is_timeout() {
        return Some(REQUEST_LATE);
    }
    let source = error.source()?;
    if let Some(error) = source.downcast_ref::<h2::Error>() {
        return match error.reason() {
            _ if error.is_remote() => None,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(FLOOD),
            Some(_) => Some(MALFORMED),
            None => error.get_io().and_then(not_taken),
        };
    }
    source.downcast_ref().and_then(not_taken)
}

fn not_taken(error: &io::Error) -> Option<&'static str> {
    (error.kind() == io::ErrorKind::TimedOut).then_some(NOT_TAKEN)
}

/// What a caller speaks, and what was read to learn it.
enum Spoken {
    Http1(Bytes),
    Http2(Bytes),
}

impl Spoken {
    /// Reads until the bytes are those that HTTP/2 begins with, or can no longer become them. An error means that the
    /// caller is gone.
    async fn by(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut begun = [0; http2::PREFACE.len()];
        let mut count = 0;
        while begun[..count] == http2::PREFACE[..count] {
            if count == begun.len() {
                return Ok(Self::Http2(Bytes::from_static(http2::PREFACE)));
            }
            match socket.read(&mut begun[count..]).await? {
                0 if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => break,
                read => count += read,
            }
        }
        Ok(Self::Http1(Bytes::copy_from_slice(&begun[..count])))
    }
}
