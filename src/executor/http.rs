//! `wasi:http` components: an HTTP event as the request that it was, any other as a CloudEvents POST.

use std::fmt::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use trigger_core::{
    BodyError, Custody, Exchange, Failure, FailureCode, Headers, HttpParts, InvocationContext, Kind, Response,
    StreamedBody,
};
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{Error, WasiHttpView as _};

use super::call::{Called, Outcome};
use super::component::too_large;
use super::failure::classify;
use super::guest::Guest;
use super::shelf::Ready;
use super::wasi::Wasi;

type Answered = Result<http::Response<HyperOutgoingBody>, ErrorCode>;

/// What the host says to the guest with every request.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static ATTEMPT: HeaderName = HeaderName::from_static("tripline-attempt");

/// CloudEvents 1.0, HTTP protocol binding, binary content mode.
static CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
static CE_ID: HeaderName = HeaderName::from_static("ce-id");
static CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
static CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
static CE_SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
static CE_TIME: HeaderName = HeaderName::from_static("ce-time");

/// As many headers as an event has that did not come by HTTP, in the sizes that maps come in.
const FEW: usize = 24;

/// The event as a request.
pub(super) fn request(invocation: &InvocationContext) -> Request<RequestBody> {
    let request = request_head(invocation);
    match invocation.exchange.as_ref().and_then(|exchange| exchange.take_request()) {
        Some(body) => request.map(|_| Either::Right(body)),
        None => request.map(Either::Left),
    }
}

/// The whole payload, or a body that comes while it is read.
type RequestBody = Either<Full<Bytes>, StreamedBody>;

fn request_head(invocation: &InvocationContext) -> Request<Full<Bytes>> {
    let mut values = Values(BytesMut::with_capacity(512));
    let mut request = match invocation.binding.trigger_type {
        Kind::Http => as_it_came(invocation),
        _ => cloud_event(invocation, &mut values),
    };
    let headers = request.headers_mut();
    headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    // The guest's own requests belong below this attempt, not beside it.
    values.set(headers, &TRACEPARENT, format_args!("{}", invocation.trace.traceparent()));
    match &invocation.request_id {
        Some(id) => values.set(headers, &REQUEST_ID, format_args!("{id}")),
        None => values.set(headers, &REQUEST_ID, format_args!("{}", invocation.invocation_id)),
    }
    headers.insert(&ATTEMPT, HeaderValue::from(invocation.attempt));
    request
}

/// The values of headers, cut from one piece of memory: most are short, and an allocation for each would cost more than
/// all of them.
struct Values(BytesMut);

impl Values {
    /// Sets a header, unless HTTP has no such value.
    fn set(&mut self, headers: &mut HeaderMap, name: &'static HeaderName, value: fmt::Arguments<'_>) {
        self.0.write_fmt(value).expect("memory can be written to");
        if let Ok(value) = HeaderValue::from_maybe_shared(self.0.split().freeze()) {
            headers.insert(name, value);
        }
    }
}

fn as_it_came(invocation: &InvocationContext) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(invocation.payload.clone()));
    if let Some(method) = invocation.attribute("method").and_then(|method| method.parse().ok()) {
        *request.method_mut() = method;
    }
    let path = invocation.attribute("path").unwrap_or(&invocation.subject);
    let uri = match invocation.attribute("query") {
        Some(query) => format!("{path}?{query}").parse::<Uri>(),
        None => path.parse::<Uri>(),
    };
    *request.uri_mut() = uri.unwrap_or_else(|_| Uri::from_static("/"));
    if let Headers::Http(headers) = &invocation.headers {
        *request.headers_mut() = (**headers).clone();
    } else {
        for (name, value) in invocation.headers.iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                request.headers_mut().append(name, value);
            }
        }
    }
    request
}

fn cloud_event(invocation: &InvocationContext, values: &mut Values) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(invocation.payload.clone()));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.reserve(FEW);
    headers.insert(&CE_SPECVERSION, HeaderValue::from_static("1.0"));
    match &invocation.idempotency_key {
        Some(key) => values.set(headers, &CE_ID, format_args!("{key}")),
        None => values.set(headers, &CE_ID, format_args!("{}", invocation.invocation_id)),
    }
    let binding = &invocation.binding;
    let (namespace, function, trigger) = (&binding.namespace, &binding.function_name, &binding.trigger_id);
    match invocation.attribute("source") {
        Some(source) => values.set(headers, &CE_SOURCE, format_args!("{source}")),
        None => values.set(headers, &CE_SOURCE, format_args!("tripline:{namespace}/{function}/{trigger}")),
    }
    match invocation.attribute("type") {
        Some(word) => values.set(headers, &CE_TYPE, format_args!("{word}")),
        None => values.set(headers, &CE_TYPE, format_args!("tripline.{}", binding.trigger_type)),
    }
    values.set(headers, &CE_SUBJECT, format_args!("{}", invocation.subject));
    let time = invocation.scheduled_at.unwrap_or(invocation.received_at);
    values.set(headers, &CE_TIME, format_args!("{}", time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)));
    if let Some(value) = invocation.content_type.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(invocation.payload.len()));
    request
}

/// The guest's response, if it could be taken. What was streamed has no bytes.
type Taken = Result<(http::response::Parts, Bytes), Untaken>;

/// Why there is no response.
enum Untaken {
    /// The guest answered with an error in its place.
    Refused(ErrorCode),
    TooLarge,
    Broken(String),
}

/// How the handler ended, and what it answered.
pub(super) struct Returned {
    pub(super) result: wasmtime::Result<()>,
    /// What the guest answered, if it did.
    answered: Option<Taken>,
    told: Told,
}

/// Hands the request to the guest, in `proxy` or in an instance that is made now, and takes its answer while it runs: a body is taken as it is written.
pub(super) async fn call(
    store: &mut Store<Guest>,
    pre: &ProxyPre<Guest>,
    proxy: Option<Proxy>,
    request: Request<RequestBody>,
    told: Told,
) -> Called {
    let limit = usize::try_from(store.data().version.definition.max_output_bytes).unwrap_or(usize::MAX);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let request = request.map(|body| body.map_err(|error| Error::InternalError(Some(error.to_string()))));
    let resources = store
        .data_mut()
        .http()
        .new_incoming_request(Scheme::Http, request)
        .and_then(|request| Ok((request, store.data_mut().http().new_response_outparam(sender)?)));
    let (request, outparam) = match resources {
        Ok(resources) => resources,
        Err(error) => {
            return Called::without_instance(Outcome::Http(Returned { result: Err(error), answered: None, told }));
        }
    };
    let made = match proxy {
        Some(proxy) => Ok(proxy),
        None => pre.instantiate_async(&mut *store).await,
    };
    let proxy = match made {
        Ok(proxy) => proxy,
        Err(error) => {
            return Called::without_instance(Outcome::Http(Returned { result: Err(error), answered: None, told }));
        }
    };
    let ready = Instant::now();
    let (result, answered) = match &told.exchange {
        Some(exchange) => converse_streaming(store, &proxy, request, outparam, receiver, exchange).await,
        None => converse(store, &proxy, request, outparam, receiver, limit).await,
    };
    Called::new(ready, Ready::Http(proxy), Outcome::Http(Returned { result, answered, told }))
}

/// Runs the handler, and takes its answer meanwhile.
async fn converse(
    store: &mut Store<Guest>,
    proxy: &Proxy,
    request: Resource<HostIncomingRequest>,
    outparam: Resource<HostResponseOutparam>,
    mut receiver: tokio::sync::oneshot::Receiver<Answered>,
    limit: usize,
) -> (wasmtime::Result<()>, Option<Taken>) {
    let handler = proxy.wasi_http_incoming_handler();
    let mut running = pin!(handler.call_handle(&mut *store, request, outparam));
    let mut ended = None;
    // A guest that has ended says nothing more, though what it could have said it with is still there in its store.
    let answer = tokio::select! {
        biased;
        result = &mut running => {
            ended = Some(result);
            receiver.try_recv().ok()
        }
        answer = &mut receiver => answer.ok(),
    };
    let mut taking = pin!(take(answer, limit));
    let answered = loop {
        match ended {
            Some(Err(_)) => break None,
            // What it has written is there. Where that is not all, nobody is left to write the rest.
            Some(Ok(())) => {
                let unfinished = || Some(Err(Untaken::Broken("its body was not finished".to_owned())));
                break tokio::task::unconstrained(&mut taking).now_or_never().unwrap_or_else(unfinished);
            }
            None => {}
        }
        tokio::select! {
            biased;
            result = &mut running => ended = Some(result),
            answered = &mut taking => break answered,
        }
    };
    let result = match ended {
        Some(result) => result,
        None => running.await,
    };
    (result, answered)
}

/// Runs the handler while its caller reads what it answers. What it has answered cannot be taken back: where it fails
/// afterwards, the caller sees the response break off.
async fn converse_streaming(
    store: &mut Store<Guest>,
    proxy: &Proxy,
    request: Resource<HostIncomingRequest>,
    outparam: Resource<HostResponseOutparam>,
    mut receiver: tokio::sync::oneshot::Receiver<Answered>,
    exchange: &Exchange,
) -> (wasmtime::Result<()>, Option<Taken>) {
    let handler = proxy.wasi_http_incoming_handler();
    let (result, begun) = {
        let mut running = pin!(handler.call_handle(&mut *store, request, outparam));
        tokio::select! {
            biased;
            result = &mut running => (result, receiver.try_recv().ok().map(|answer| hand_over(answer, exchange))),
            Ok(answer) = &mut receiver => {
                let begun = hand_over(answer, exchange);
                (running.await, Some(begun))
            }
        }
    };
    let (parts, sent) = match begun {
        Some(Ok(begun)) => begun,
        Some(Err(error)) => return (result, Some(Err(Untaken::Refused(error)))),
        None => return (result, None),
    };
    if result.is_err() {
        return (result, None);
    }
    // Nobody is left to write the rest.
    if store.data_mut().wasi.as_deref_mut().is_some_and(Wasi::has_open_body) {
        return (result, Some(Err(Untaken::Broken("its body was not finished".to_owned()))));
    }
    let answered = match sent.await {
        Ok(Err(error)) => Err(Untaken::Broken(error)),
        // Nobody wanted the body (HEAD).
        Ok(Ok(())) | Err(_) => Ok((parts, Bytes::new())),
    };
    (result, Some(answered))
}

/// How the sending of a body ended.
type Sent = tokio::sync::oneshot::Receiver<Result<(), String>>;

/// Gives the caller the response that the guest has begun.
fn hand_over(answer: Answered, exchange: &Exchange) -> Result<(http::response::Parts, Sent), ErrorCode> {
    let (parts, body) = answer?.into_parts();
    let (ended, sent) = tokio::sync::oneshot::channel();
    let mut response = http::Response::new(Outgoing { body, ended: Some(ended) }.boxed_unsync());
    *response.status_mut() = parts.status;
    response.headers_mut().clone_from(&parts.headers);
    // Where the caller has gone the body is dropped here, which is all that there is to do.
    let _has_gone = exchange.respond(response);
    Ok((parts, sent))
}

/// A guest's body on its way, which says how it ended.
struct Outgoing {
    body: HyperOutgoingBody,
    ended: Option<tokio::sync::oneshot::Sender<Result<(), String>>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let how = match &polled {
            Poll::Ready(None) => Ok(()),
            Poll::Ready(Some(Err(error))) => Err(error.to_string()),
            _ => return polled.map_err(Into::into),
        };
        if let Some(ended) = self.ended.take() {
            let _nobody_asks = ended.send(how);
        }
        polled.map_err(Into::into)
    }
}

async fn take(answer: Option<Answered>, limit: usize) -> Option<Taken> {
    let response = match answer? {
        Ok(response) => response,
        Err(error) => return Some(Err(Untaken::Refused(error))),
    };
    let (parts, body) = response.into_parts();
    // Over the limit the rest is dropped unread, and the guest's next write fails.
    Some(match Limited::new(body, limit).collect().await {
        Ok(body) => Ok((parts, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(Untaken::TooLarge),
        Err(error) => Err(Untaken::Broken(error.to_string())),
    })
}

/// What the guest's answer means.
pub(super) fn answer(returned: Returned, guest: &Guest) -> Result<Response, Failure> {
    let limit = guest.version.definition.max_output_bytes;
    if let Some(Err(Untaken::TooLarge)) = returned.answered {
        return Err(too_large(format!("more than {limit}"), limit));
    }
    if let Err(error) = returned.result {
        return Err(classify(&error, guest));
    }
    let bad = |message: String| Failure::new(FailureCode::BadOutput, message);
    match returned.answered {
        None => Err(bad("the guest returned without a response".to_owned())),
        Some(Err(Untaken::Refused(code))) => {
            Err(Failure::new(FailureCode::GuestError, format!("the guest answered with an error: {code:?}")))
        }
        Some(Err(Untaken::TooLarge)) => Err(too_large(format!("more than {limit}"), limit)),
        Some(Err(Untaken::Broken(why))) => Err(bad(format!("the guest's response broke off: {why}"))),
        Some(Ok((parts, body))) => {
            if !returned.told.is_asked
                && let Some(failure) = failed(&parts)
            {
                return Err(failure);
            }
            let http = HttpParts { status: parts.status, headers: parts.headers };
            Ok(Response { body, http: Some(Box::new(http)) })
        }
    }
}

/// What an answer's meaning hangs on beside the guest.
pub(super) struct Told {
    /// Whether somebody waits for the response, whatever its status.
    is_asked: bool,
    /// Where the response goes while it is written.
    exchange: Option<Arc<Exchange>>,
}

impl Told {
    pub(super) fn of(invocation: &InvocationContext) -> Self {
        let by_http = match invocation.binding.trigger_type {
            Kind::Http => true,
            // Whether there will be a socket is still HTTP's business.
            Kind::Websocket => invocation.attribute("event") == Some("connect"),
            _ => false,
        };
        let is_asked = by_http && invocation.custody == Custody::Caller;
        Self { is_asked, exchange: invocation.exchange.clone() }
    }
}

/// What a status says where nobody waits for the response: 429 and 5xx may go better later, other refusals never will.
fn failed(parts: &http::response::Parts) -> Option<Failure> {
    let status = parts.status;
    if status.is_success() || status.is_informational() || status.is_redirection() {
        return None;
    }
    let failure = Failure::new(FailureCode::GuestError, format!("the guest answered {status}"));
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return Some(failure.permanent());
    }
    let after = parts.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    Some(match after {
        Some(seconds) => failure.after(Duration::from_secs(seconds)),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trigger_core::Binding;

    use super::*;

    fn invocation(kind: Kind) -> InvocationContext {
        let binding = Binding {
            namespace: "default".into(),
            function_name: "function".into(),
            trigger_id: "trigger".into(),
            trigger_type: kind,
        };
        InvocationContext::new(Arc::new(binding), Custody::Caller, Bytes::from_static(b"payload"))
    }

    #[tokio::test]
    async fn a_request_arrives_as_it_came() {
        let mut invocation = invocation(Kind::Http);
        invocation.attributes = vec![
            ("method".into(), "PUT".into()),
            ("path".into(), "/a%20b/c".into()),
            ("query".into(), "x=1&y=%C3%A9".into()),
        ];
        let mut headers = HeaderMap::new();
        headers.append("x-many", HeaderValue::from_static("one"));
        headers.append("x-many", HeaderValue::from_static("two"));
        headers.insert(HOST, HeaderValue::from_static("shop.example"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap());
        invocation.headers = Headers::Http(Box::new(headers));
        let request = request(&invocation);
        assert_eq!((request.method(), request.uri().to_string()), (&Method::PUT, "/a%20b/c?x=1&y=%C3%A9".to_owned()));
        assert_eq!(request.headers().get_all("x-many").iter().count(), 2);
        assert_eq!(request.headers()["x-bytes"].as_bytes(), b"\xff");
        assert_eq!(request.headers()[HOST], "shop.example");
        assert_eq!(request.headers()["traceparent"], invocation.trace.traceparent());
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "payload");
    }

    #[test]
    fn any_other_event_arrives_as_a_cloud_event() {
        let mut message = invocation(Kind::Pubsub);
        message.subject = "orders.7.created".into();
        message.content_type = Some("application/json".into());
        message.idempotency_key = Some("WORK:17".into());
        let request = request(&message);
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/"));
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "WORK:17"),
            ("ce-source", "tripline:default/function/trigger"),
            ("ce-type", "tripline.pubsub"),
            ("ce-subject", "orders.7.created"),
            ("content-type", "application/json"),
            ("content-length", "7"),
            ("host", "localhost"),
        ] {
            assert_eq!(request.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn a_status_decides_where_nobody_waits_for_it() {
        let parts = |status: u16, after: Option<&str>| {
            let mut response = http::Response::builder().status(status);
            if let Some(after) = after {
                response = response.header(RETRY_AFTER, after);
            }
            response.body(()).unwrap().into_parts().0
        };
        assert_eq!(failed(&parts(204, None)), None);
        assert!(!failed(&parts(404, None)).unwrap().retryable);
        assert!(failed(&parts(500, None)).unwrap().retryable);
        assert!(failed(&parts(429, None)).unwrap().retryable);
        assert_eq!(failed(&parts(503, Some("7"))).unwrap().retry_after, Some(Duration::from_secs(7)));
        assert_eq!(failed(&parts(503, Some("soon"))).unwrap().retry_after, None);
    }
}
