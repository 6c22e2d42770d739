//! One attempt's requests to the outside, whichever interface it makes them by.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trigger_core::TraceContext;

use super::HostOp;
use super::guest::Guest;
use crate::egress::{Egress, Grant, HttpClient, Prohibited, RequestBody, Target};
use crate::functions::Version;

/// What concerns one connection (RFC 9110, 7.6.1): it is the engine's, not the guest's.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendError {
    #[error("denied: {0}")]
    Denied(String),
    #[error("denied: {0}: {Prohibited}")]
    Prohibited(String),
    #[error("invalid {0}: {1}")]
    Invalid(&'static str, String),
    #[error("too large: {0}")]
    TooLarge(String),
    #[error("too many: {0}")]
    TooMany(String),
    #[error("timeout: {0}")]
    Timeout(String),
    #[error("unreachable: {0}")]
    Unreachable(String),
}

/// What an attempt may send, and what it has sent.
pub(super) struct Outbound {
    egress: Arc<Egress>,
    version: Arc<Version>,
    trace: TraceContext,
    began: Instant,
    deadline: Instant,
    max_requests: usize,
    /// Requests under way at once.
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each request, in the order of their beginnings.
    ops: Vec<HostOp>,
    /// Bytes of responses' bodies.
    received: u64,
}

impl Outbound {
    /// For a guest that is given services.
    pub(super) fn of(guest: &Guest) -> Option<Arc<Self>> {
        let served = guest.served.as_ref()?;
        Some(Arc::new(Self {
            egress: served.services.egress.clone(),
            version: guest.version.clone(),
            trace: served.trace.clone()?,
            began: guest.began,
            deadline: guest.deadline,
            max_requests: guest.bounds.max_requests,
            turns: Arc::new(Semaphore::new(guest.bounds.max_connections)),
            state: Mutex::default(),
        }))
    }

    /// What was sent, for the trace.
    pub(super) fn ops(&self) -> Vec<HostOp> {
        std::mem::take(&mut self.state.lock().ops)
    }

    /// Sends a request and waits for the head of its response, no longer than `within`.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        within: Option<Duration>,
    ) -> Result<Response<CappedBody>, SendError> {
        let target = Target::of(request.uri()).map_err(|why| SendError::Invalid("url", why.to_string()))?;
        let op = self.begin(&target)?;
        let result = match self.prepare(&target, &mut request) {
            Ok(turn) => self.exchange(&target, request, within, turn, op).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            self.end(op, None, 0, Some(error.to_string()));
        }
        result
    }

    async fn exchange(
        self: &Arc<Self>,
        target: &Target,
        request: Request<RequestBody>,
        within: Option<Duration>,
        turn: OwnedSemaphorePermit,
        op: usize,
    ) -> Result<Response<CappedBody>, SendError> {
        let until = within.map_or(self.deadline, |within| self.deadline.min(Instant::now() + within));
        let client: HttpClient = self.egress.client(self.version.function_id);
        let response = match tokio::time::timeout_at(until.into(), client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failed(target, &error)),
            Err(_) => return Err(SendError::Timeout(format!("{target} did not answer in time"))),
        };
        let (head, incoming) = response.into_parts();
        self.end(op, Some(head.status.as_u16()), 0, None);
        let declared = incoming.size_hint().lower();
        if declared > self.room() {
            let error = self.too_large();
            self.end(op, None, 0, Some(error.to_string()));
            return Err(error);
        }
        Ok(Response::from_parts(head, CappedBody { outbound: self.clone(), incoming, op, _turn: turn }))
    }

    /// Whether a request may be sent, and what the engine has to say in it.
    fn prepare(&self, target: &Target, request: &mut Request<RequestBody>) -> Result<OwnedSemaphorePermit, SendError> {
        let definition = &self.version.definition;
        let granted = definition.allow.http.iter().filter_map(|grant| grant.parse::<Grant>().ok());
        if !granted.into_iter().any(|grant| grant.covers(target)) {
            let name = &definition.name;
            return Err(SendError::Denied(format!(
                "the definition does not grant {target}: add it to functions.{name}.allow.http"
            )));
        }
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return Err(SendError::Invalid("method", format!("{} is not sent", request.method())));
        }
        let host = HeaderValue::from_str(&target.authority())
            .map_err(|_| SendError::Invalid("url", "its host is none".to_owned()))?;
        let headers = request.headers_mut();
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
        headers.insert(header::HOST, host);
        self.inject_trace(headers);
        self.turns.clone().try_acquire_owned().map_err(|_| {
            SendError::TooMany("the attempt has as many requests under way as it may have at once".to_owned())
        })
    }

    fn inject_trace(&self, headers: &mut HeaderMap) {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        headers.remove("tracestate");
        if let Some(parent) = value(&self.trace.traceparent()) {
            headers.insert("traceparent", parent);
        }
        if let Some(state) = self.trace.state.as_deref().and_then(value) {
            headers.insert("tracestate", state);
        }
    }

    /// Notes that a request begins: its end is told later, and if it has none the trace says so.
    fn begin(&self, target: &Target) -> Result<usize, SendError> {
        let mut state = self.state.lock();
        if state.ops.len() >= self.max_requests {
            return Err(SendError::TooMany(format!("the attempt has sent {} requests, its limit", self.max_requests)));
        }
        let at_micros = self.began.elapsed().as_micros() as u64;
        state.ops.push(HostOp {
            op: Cow::Borrowed("http"),
            target: target.to_string(),
            at_micros,
            duration_micros: 0,
            bytes: 0,
            status: None,
            error: Some("it was not answered before the attempt ended".to_owned()),
        });
        Ok(state.ops.len() - 1)
    }

    fn end(&self, op: usize, status: Option<u16>, bytes: u64, error: Option<String>) {
        let mut state = self.state.lock();
        let now = self.began.elapsed().as_micros() as u64;
        if let Some(op) = state.ops.get_mut(op) {
            op.duration_micros = now.saturating_sub(op.at_micros);
            op.status = status.or(op.status);
            op.bytes += bytes;
            op.error = error;
        }
    }

    fn room(&self) -> u64 {
        self.version.definition.max_outbound_bytes.saturating_sub(self.state.lock().received)
    }

    fn too_large(&self) -> SendError {
        let limit = self.version.definition.max_outbound_bytes;
        SendError::TooLarge(format!("the responses have more than {limit} bytes together"))
    }

    /// Counts bytes that came; an error where they are too many.
    fn receive(&self, op: usize, bytes: usize) -> Result<(), SendError> {
        let total = {
            let mut state = self.state.lock();
            state.received = state.received.saturating_add(bytes as u64);
            state.received
        };
        if total <= self.version.definition.max_outbound_bytes {
            self.end(op, None, bytes as u64, None);
            return Ok(());
        }
        let error = self.too_large();
        self.end(op, None, 0, Some(error.to_string()));
        Err(error)
    }
}

/// What a client's failure means. Its text may quote what a stranger answered: only its kind is told.
fn failed(target: &Target, error: &(dyn StdError + 'static)) -> SendError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<Prohibited>() {
            return SendError::Prohibited(target.to_string());
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.get_ref().is_none()
        {
            return SendError::Unreachable(format!("{target}: {}", io.kind()));
        }
        if error.is::<rustls::Error>() {
            return SendError::Unreachable(format!("{target}: {error}"));
        }
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            cause = Some(inner);
            continue;
        }
        cause = error.source();
    }
    SendError::Unreachable(format!("{target}: it does not speak HTTP, or ended the connection"))
}

/// A response's body, up to what the attempt may take.
pub(super) struct CappedBody {
    outbound: Arc<Outbound>,
    incoming: Incoming,
    op: usize,
    _turn: OwnedSemaphorePermit,
}

impl Body for CappedBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let broken = |_| SendError::Unreachable("the response ended before its end".to_owned());
            let frame = frame.map_err(broken).inspect_err(|error| {
                self.outbound.end(self.op, None, 0, Some(error.to_string()));
            })?;
            if let Some(data) = frame.data_ref() {
                self.outbound.receive(self.op, data.len())?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
