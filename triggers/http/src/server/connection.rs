//! One connection: HTTP/1 from its first byte to its close.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::ServerConfig;
use super::drain::Drain;
use super::head_timer::{Alarm, HeadTimer};
use super::stream::Stream;
use super::unread::Unread;
use crate::routes::Routes;

/// The least that hyper buffers per connection. A larger buffer takes large bodies in fewer pieces; it grows only for
/// connections that fill it.
const BUFFER_BYTES: usize = 64 * 1024;

/// What all connections of the listener have in common.
pub(super) struct Connections {
    routes: Routes,
    http: http1::Builder,
    header_read_timeout: Duration,
    write_timeout: Duration,
    drain: Arc<Drain>,
}

impl Connections {
    pub(super) fn new(routes: Routes, config: &ServerConfig) -> Self {
        let mut http = http1::Builder::new();
        http.half_close(config.half_close)
            .max_header_size(config.max_header_bytes)
            .max_buf_size(config.max_header_bytes.max(BUFFER_BYTES))
            .header_read_timeout(config.header_read_timeout);
        Self {
            routes,
            http,
            header_read_timeout: config.header_read_timeout,
            write_timeout: config.write_timeout,
            drain: Arc::default(),
        }
    }

    /// Asks every connection to end after the request it is in.
    pub(super) fn drain(&self) {
        self.drain.begin();
    }

    /// Serves a connection until it is closed. To be a task of its own, as it registers its waker for the drain once.
    pub(super) fn serve(&self, socket: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        // Responses are written whole, so waiting for more to send only delays them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (routes, drain) = (self.routes.clone(), self.drain.clone());
        let unread = Unread::default();
        let stream = Stream::new(socket, self.write_timeout, unread.clone());
        let timer = HeadTimer::default();
        let mut alarm = Alarm::new(&timer, self.header_read_timeout);
        let mut http = self.http.clone();
        http.timer(timer);

        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (routes, unread) = (routes.clone(), unread.clone());
                async move {
                    let mut response = routes.handle(request.map(|body| unread.watch(body))).await;
                    if unread.is_set() {
                        // Nobody can tell where the next request would begin.
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let mut connection = pin!(http.serve_connection(stream, service));
            let mut woken = pin!(drain.woken());
            let (mut registered, mut draining) = (false, false);
            let ended = poll_fn(|cx| {
                if !registered {
                    registered = true;
                    let _at_once = woken.as_mut().poll(cx);
                }
                if !draining && drain.has_begun() {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                alarm.poll(cx);
                connection.as_mut().poll(cx)
            });
            // Callers go away, send nonsense or fall silent every day: nobody needs to act.
            if let Err(error) = ended.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
            }
        }
    }
}
