//! One HTTP/2 connection: what a caller may cost that has many requests on it at once.
//!
//! hyper and h2 bound streams, headers, windows and resets. What they leave open is time: a connection without requests,
//! a response whose caller grants no window for it, a peer that answers no ping. Here every request that is under way
//! has an entry in a book, and the connection has one timer that looks into it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

use super::ServerConfig;
use super::drain::Drain;
use crate::peer::Peer;
use crate::refusals::NOT_TAKEN;
use crate::routes::Routes;

/// What a caller begins an HTTP/2 connection with.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a caller may send of one body, and of all bodies together, before they are read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// A response is handed over in pieces of this size, one when the caller has taken the one before.
const PIECE_BYTES: usize = 16 * 1024;

/// Requests that a caller takes back before they were begun, or that break the protocol: with more of them at once the
/// connection is ended (rapid reset, CVE-2023-44487).
const MAX_RESETS: usize = 20;

/// How long a caller that has no request under way is given to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a silent caller is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The bounds of a connection.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    max_concurrent_streams: u32,
    max_header_bytes: u32,
    idle_timeout: Duration,
    write_timeout: Duration,
}

impl Bounds {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            max_concurrent_streams: config.max_concurrent_streams,
            max_header_bytes: u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX),
            idle_timeout: config.header_read_timeout,
            write_timeout: config.write_timeout,
        }
    }

    fn builder(&self, streams: Streams) -> http2::Builder<Streams> {
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.max_concurrent_streams)
            .max_header_list_size(self.max_header_bytes)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(PIECE_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(self.write_timeout);
        builder
    }
}

/// Serves a connection until it is closed. Each request is a task of its own, so that one that computes does not keep
/// the others' frames waiting.
pub(super) async fn serve<IO>(io: IO, routes: Routes, peer: Peer, drain: &Drain, bounds: Bounds) -> hyper::Result<()>
where
    IO: Read + Write + Unpin + Send,
{
    let book = Arc::new(Book::default());
    let streams = Streams(TaskTracker::new());
    let (entries, peer, refused) = (book.clone(), Arc::new(peer), routes.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (routes, peer, entry) = (routes.clone(), peer.clone(), entries.enter());
        async move {
            let head = request.method() == Method::HEAD;
            let response = routes.answer(request, Some(&peer)).await;
            let bodyless = head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            Ok::<_, Infallible>(in_pieces(response, bodyless, entry))
        }
    });
    let mut connection = pin!(bounds.builder(streams.clone()).serve_connection(io, service));
    let mut woken = pin!(drain.woken());
    let mut watch = Watch::new(book, bounds);
    let mut registered = false;
    let ended = poll_fn(|cx| {
        if !registered {
            registered = true;
            let _at_once = woken.as_mut().poll(cx);
        }
        while let Poll::Ready(verdict) = watch.poll(cx, drain.has_begun()) {
            match verdict {
                Verdict::GoAway => connection.as_mut().graceful_shutdown(),
                Verdict::Drop => {
                    if watch.holds_requests() {
                        refused.count_refusal(NOT_TAKEN);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        connection.as_mut().poll(cx)
    });
    ended.await
}

/// The tasks of a connection's requests.
#[derive(Clone)]
struct Streams(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// The requests of a connection that are under way.
#[derive(Debug)]
struct Book {
    /// Locked for a look or a change of one entry, never across an await.
    page: Mutex<Page>,
}

#[derive(Debug)]
struct Page {
    next: u64,
    /// Since when a piece of its response waits for the caller; nothing while the request waits for the engine.
    open: BTreeMap<u64, Option<Instant>>,
    /// When the last of them ended.
    idle_since: Instant,
}

impl Default for Book {
    fn default() -> Self {
        Self { page: Mutex::new(Page { next: 0, open: BTreeMap::new(), idle_since: Instant::now() }) }
    }
}

impl Book {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Entry {
        let mut page = self.page();
        let number = page.next;
        page.next += 1;
        page.open.insert(number, None);
        Entry { book: self.clone(), number }
    }
}

/// A request that is under way, until this is dropped.
#[derive(Debug)]
struct Entry {
    book: Arc<Book>,
    number: u64,
}

impl Entry {
    fn waits_for_caller(&self, since: Option<Instant>) {
        self.book.page().open.insert(self.number, since);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut page = self.book.page();
        page.open.remove(&self.number);
        if page.open.is_empty() {
            page.idle_since = Instant::now();
        }
    }
}

/// What is to be done with a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Tell the caller that no further requests are taken.
    GoAway,
    /// End it, whatever the caller thinks.
    Drop,
}

/// Looks into the book when something in it may be overdue.
struct Watch {
    book: Arc<Book>,
    bounds: Bounds,
    /// Never set later than the earliest that an entry could be overdue, even one that is made meanwhile.
    timer: Pin<Box<Sleep>>,
    /// Since when the caller knows that it is over.
    closing: Option<Instant>,
}

impl Watch {
    fn new(book: Arc<Book>, bounds: Bounds) -> Self {
        let soonest = bounds.idle_timeout.min(bounds.write_timeout);
        Self { book, bounds, timer: Box::pin(tokio::time::sleep(soonest)), closing: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, draining: bool) -> Poll<Verdict> {
        if draining && self.closing.is_none() {
            return Poll::Ready(self.go_away());
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let (now, due) = (Instant::now(), self.due());
            if due > now {
                self.timer.as_mut().reset(due.min(now + self.bounds.idle_timeout.min(self.bounds.write_timeout)));
                continue;
            }
            let says_goodbye = !self.holds_requests() && self.closing.is_none();
            return Poll::Ready(if says_goodbye { self.go_away() } else { Verdict::Drop });
        }
    }

    fn holds_requests(&self) -> bool {
        !self.book.page().open.is_empty()
    }

    fn go_away(&mut self) -> Verdict {
        let now = Instant::now();
        self.closing = Some(now);
        self.timer.as_mut().reset(now);
        Verdict::GoAway
    }

    /// When the connection, as it is now, has been idle or has kept a response waiting for too long.
    fn due(&self) -> Instant {
        let page = self.book.page();
        if page.open.is_empty() {
            return match self.closing {
                Some(closing) => closing.max(page.idle_since) + FAREWELL,
                None => page.idle_since + self.bounds.idle_timeout,
            };
        }
        let longest = page.open.values().flatten().min();
        longest.map_or_else(|| Instant::now() + self.bounds.write_timeout, |since| *since + self.bounds.write_timeout)
    }
}

/// A response whose body is handed over piece by piece. HTTP/2 as hyper speaks it would send a body where there must be
/// none.
fn in_pieces<B: Body<Data = Bytes>>(response: Response<B>, bodyless: bool, entry: Entry) -> Response<Pieces<B>> {
    let (mut head, body) = response.into_parts();
    let announces = head.status != StatusCode::NO_CONTENT && !head.headers.contains_key(http::header::CONTENT_LENGTH);
    if let (true, true, Some(length)) = (bodyless, announces, body.size_hint().exact()) {
        head.headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(head, Pieces { body: (!bodyless).then_some(body), left: Bytes::new(), entry })
}

/// A body in pieces, so that what waits for a slow caller is never more than one of them in the connection's buffers,
/// and so that it shows whether the caller takes any.
struct Pieces<B> {
    body: Option<B>,
    left: Bytes,
    entry: Entry,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.left.is_empty() {
            this.entry.waits_for_caller(None);
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => this.left = data,
                other => return Poll::Ready(other.and_then(Result::err).map(Ok)),
            }
        }
        this.entry.waits_for_caller(Some(Instant::now()));
        let piece = this.left.split_to(this.left.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, left) = (self.body.as_ref().map(Body::size_hint).unwrap_or_default(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = of_body.upper().filter(|_| self.body.is_some()) {
            hint.set_upper(upper + left);
        }
        hint.set_lower(of_body.lower() + left);
        hint
    }
}
