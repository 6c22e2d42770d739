//! From a request to a response: find the route, read the body, build the invocation, tell what came of it.
//!
//! The answer to a request that fails here names no route and no payload. A caller that goes away drops this future,
//! and with it the dispatch: the attempt it waited for is cancelled.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use trigger_auth::{Caller, Checked};
use trigger_core::cloud_event::CloudEvents;
use trigger_core::{Attribute, BodyError, Custody, Headers, InvocationContext, Shed, SkipReason};

use crate::body::{self, Error};
use crate::config::Mode;
use crate::peer::Peer;
use crate::prefer::Wait;
use crate::problem::Problem;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::routes::{Found, Hit, Route, Routes};
use crate::stream::{self, Begun, ResponseBody};
use crate::{answer, cloud_events, cors, idempotency, invocations, upgrade};

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How long the caller of an event that is kept waits.
enum Patience {
    /// As long as it says.
    Preferred(Option<Wait>),
    /// Until it has ended.
    ToTheEnd,
}

type Whole = Result<Response<Full<Bytes>>, Problem>;
type Reply = Result<Response<ResponseBody>, Problem>;

impl Routes {
    /// Answers one request that came over no connection: a test's or a benchmark's.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        self.answer(request, None).await
    }

    /// Answers one request; the listener calls this for every one it takes. The response to HEAD still has its body
    /// here, as it is the listener that keeps it back.
    ///
    /// Dropping the future cancels the attempt it waits for.
    pub(crate) async fn answer<B>(&self, request: Request<B>, peer: Option<&Peer>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let mut request = request;
        let upgrade = match upgrade::asked(&mut request) {
            Some(connection) => Box::pin(self.find_upgrade(request.uri().path())).await.map(|hit| (hit, connection)),
            None => None,
        };
        let (head, body) = request.into_parts();
        let mut id = RequestId::of(&head.headers);
        // What a browser is told beside the answer, whatever that is.
        let mut told = None;
        let reply = if head.headers.get_all(header::HOST).iter().nth(1).is_some() {
            Err(self.refused(None, two_hosts()))
        } else if let Some((hit, connection)) = upgrade {
            // It is seldom, and would make the future of every request larger.
            Box::pin(upgrade::answer(hit, head, peer, connection, &id)).await.map(whole)
        } else if invocations::is_reserved(head.uri.path()) {
            invocations::answer(self, &head).await.map(whole)
        } else if let Some(preflight) = self.preflight(&head).await {
            Ok(preflight)
        } else {
            match self.find(&head, &head.method).await {
                Found::Route(mut hit) => {
                    told = hit.route.cors.as_ref().map(|cors| cors.with_answer(&head.headers));
                    if let Some(peer) = peer {
                        hit.attributes.push(("client".into(), peer.client(&head.headers)));
                        hit.subject = peer.subject.clone();
                    }
                    self.run(hit, head, body, &mut id).await
                }
                Found::Undecodable(parameter) => Err(self.refused(None, undecodable(&parameter))),
                Found::Missing(methods) => {
                    self.missing(&head, &methods).map(whole).map_err(|problem| self.refused(None, problem))
                }
            }
        };
        let id = id.into_value();
        let mut response = reply.unwrap_or_else(|problem| whole(problem.respond(&id)));
        response.headers_mut().insert(&X_REQUEST_ID, id);
        if let Some(told) = told {
            cors::tell(response.headers_mut(), told);
        }
        response
    }

    /// The answer to a browser that asks whether a page of another origin may call a route, if that has a say in it.
    async fn preflight(&self, head: &Parts) -> Option<Response<ResponseBody>> {
        let asked = cors::preflight(head)?;
        let Found::Route(hit) = self.find(head, &asked).await else { return None };
        let mut response = whole(Response::new(Full::default()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = hit.route.cors.as_ref()?.with_preflight(&head.headers, &asked);
        Some(response)
    }

    async fn run<B>(&self, hit: Hit, mut head: Parts, body: B, id: &mut RequestId) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        if let Some(limiter) = &hit.route.limiter {
            limiter.check_head(&head.headers, address(&hit.attributes))?;
        }
        let checked = match &hit.route.guard {
            None => None,
            Some(guard) => Some(Box::pin(guard.check(&mut head.headers)).await?),
        };
        if hit.route.mode == Mode::Stream {
            return Box::pin(self.stream(hit, checked, head, body, id)).await;
        }
        let Hit { route, attributes, subject, in_flight: _until_answered } = hit;
        let key = idempotency::key(&head.headers).map_err(|problem| self.refused(Some(&route), problem))?;
        let patience = match route.mode {
            Mode::Async => Patience::Preferred(Wait::of(&head.headers, route.max_wait_seconds)),
            Mode::Sync | Mode::Stream => Patience::ToTheEnd,
        };
        let payload = body::read(body, route.max_body_bytes, self.body_read_timeout())
            .await
            .map_err(|error| self.refused(Some(&route), unread(error, route.max_body_bytes)))?;
        let caller = admitted(&route, &attributes, checked, &payload)?;
        check_content(&head, &payload).map_err(|problem| self.refused(Some(&route), problem))?;

        let fingerprint = key.is_some().then(|| idempotency::fingerprint(&head, &payload));
        let kept = route.mode == Mode::Async || key.is_some();
        let custody = if kept { Custody::Engine } else { Custody::Caller };
        let mut event = event(&route, custody, payload, head, attributes, id);
        called_by(&mut event, caller, subject);
        event.terms = route.terms.map(|terms| terms.of(event.received_at));
        if let Some(key) = key {
            event.idempotency_key = Some(idempotency::of_caller(key, event.caller.as_deref()));
            event.terms_mut().fingerprint = fingerprint;
        }
        if route.cloudevents {
            match cloud_events::read(&event).map_err(|problem| self.refused(Some(&route), problem))? {
                CloudEvents::One(one) => one.apply(&mut event),
                CloudEvents::Batch(batch) if route.mode == Mode::Async => {
                    return Box::pin(cloud_events::accept(&route.cx, event, batch)).await.map(whole);
                }
                CloudEvents::Batch(_) => return Err(self.refused(Some(&route), cloud_events::waits())),
            }
        }
        let (invocation_id, received) = (event.invocation_id, event.received);
        if kept {
            let terms = event.terms_mut();
            // Whoever waits is told: nothing is tried again behind its back.
            if route.mode == Mode::Sync {
                terms.retry_count.get_or_insert(0);
            }
            return Box::pin(self.keep(&route, event, patience, id)).await.map(whole);
        }
        let mut response = answer::respond(route.cx.dispatch.dispatch(event).await, invocation_id)?;
        // Beside, not instead of, what the guest says about its own time.
        response.headers_mut().append(&SERVER_TIMING, answer::server_timing(received.elapsed()));
        Ok(whole(response))
    }

    /// Has an event kept, and tells of it as soon as its caller would have it.
    async fn keep(&self, route: &Route, event: InvocationContext, patience: Patience, id: &RequestId) -> Whole {
        let accepted = route.cx.dispatch.accept(event).await;
        let accepted =
            accepted.map_err(|refused| Problem::shed(refused.reason, refused.message, refused.retry_after))?;
        if accepted.skipped == Some(SkipReason::Filtered) {
            return Ok(answer::filtered());
        }
        if accepted.differs {
            return Err(self.refused(Some(route), idempotency::reused()));
        }
        let mut response = match patience {
            Patience::Preferred(None) => invocations::accepted(accepted),
            Patience::Preferred(Some(wait)) => {
                invocations::awaited(&route.cx, accepted, wait, &id.clone().into_value()).await
            }
            Patience::ToTheEnd => {
                let ended = invocations::ended(&route.cx, accepted.invocation_id).await;
                ended.unwrap_or_else(|problem| problem.respond(&id.clone().into_value()))
            }
        };
        if accepted.duplicate {
            idempotency::mark_replayed(response.headers_mut());
        }
        Ok(response)
    }

    /// The function reads the body while it comes, and is heard while it speaks.
    async fn stream<B>(&self, hit: Hit, checked: Option<Checked>, head: Parts, body: B, id: &mut RequestId) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let Hit { route, attributes, subject, in_flight } = hit;
        // What signs a body is not asked of one that streams.
        let caller = admitted(&route, &attributes, checked, &[])?;
        if body.size_hint().lower() > route.max_body_bytes {
            return Err(self.refused(Some(&route), unread(Error::TooLarge, route.max_body_bytes)));
        }
        let method = head.method.clone();
        let mut event = event(&route, Custody::Caller, Bytes::new(), head, attributes, id);
        called_by(&mut event, caller, subject);
        let invocation_id = event.invocation_id;
        match stream::begin(route, in_flight, event, &method, body, self.body_read_timeout()).await {
            Begun::Response(response) => answer::of_guest(response),
            Begun::Ended(answer) => answer::respond(answer, invocation_id).map(whole),
        }
    }

    /// Counts a request that is refused before it is an event, in the ledger too where it names the reason.
    fn refused(&self, route: Option<&Route>, problem: Problem) -> Problem {
        self.count_refusal(problem.code);
        if let Some(route) = route.filter(|_| problem.code == Shed::TooLarge.as_str()) {
            route.cx.dispatch.count_shed(&route.cx.binding, Shed::TooLarge, 1);
        }
        problem
    }

    fn missing(&self, head: &Parts, served: &[Method]) -> Whole {
        let method = &head.method;
        if served.is_empty() && self.upgrades().find(head.uri.path()).is_some() {
            return Err(upgrade::required());
        }
        if served.is_empty() {
            return Err(match self.is_closing() {
                // The path may well have had a route a moment ago.
                true => Problem::shed(Shed::ShuttingDown, "the engine is shutting down", Duration::from_secs(1)),
                false => Problem::new(StatusCode::NOT_FOUND, "not_found", "no route takes this path"),
            });
        }
        let allow = allow(served);
        if method == Method::OPTIONS {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(header::ALLOW, allow);
            return Ok(response);
        }
        let detail = format!("no route serves {method} on this path");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        Err(problem.with(header::ALLOW, allow))
    }
}

/// The invocation that a request asks for.
fn event(
    route: &Route,
    custody: Custody,
    payload: Bytes,
    head: Parts,
    attributes: Vec<Attribute>,
    id: &mut RequestId,
) -> InvocationContext {
    let mut event = route.cx.event(custody, payload);
    event.subject = head.uri.path().into();
    event.content_type = content_type(&head.headers).map(Box::from);
    event.attributes = attributes;
    event.request_id = id.given().map(Box::from);
    event.headers = Headers::Http(Box::new(head.headers));
    // Depth and parent may come from anyone here. That is safe: an outsider can only bring itself nearer to the
    // limit, and a function that calls another over HTTP stays under the guard.
    event.adopt_lineage();
    id.or(event.invocation_id);
    event
}

/// Who calls, now that everything is there that may prove it, unless it is too often.
fn admitted(
    route: &Route,
    attributes: &[Attribute],
    checked: Option<Checked>,
    payload: &[u8],
) -> Result<Option<Caller>, Problem> {
    let admitted = route.guard.as_ref().zip(checked).map(|(guard, checked)| guard.check_body(checked, payload));
    let caller = admitted.transpose()?;
    if let Some(limiter) = &route.limiter {
        limiter.check_caller(caller.as_ref(), address(attributes))?;
    }
    Ok(caller)
}

/// The address that a request comes from, where the listener has told it.
fn address(attributes: &[Attribute]) -> Option<&str> {
    attributes.iter().find(|(name, _)| name == "client").map(|(_, address)| address.as_str())
}

/// Notes who calls: whom the route asked for a proof, or else whom the connection's certificate names.
fn called_by(event: &mut InvocationContext, caller: Option<Caller>, subject: Option<Box<str>>) {
    match caller {
        Some(caller) => {
            event.caller = Some(caller.name);
            event.attributes.extend(caller.claims.map(|claims| ("claims".into(), claims.into())));
        }
        None => event.caller = subject,
    }
}

fn whole(response: Response<Full<Bytes>>) -> Response<ResponseBody> {
    response.map(ResponseBody::from)
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

/// Refuses a body that says it is JSON and is not, so that no function has to.
fn check_content(head: &Parts, payload: &[u8]) -> Result<(), Problem> {
    if !content_type(&head.headers).is_some_and(body::is_json) {
        return Ok(());
    }
    // Many clients put their usual Content-Type on requests that have no body to describe.
    let bodyless = matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE);
    // What is compressed is JSON only once the function has unpacked it.
    if (payload.is_empty() && bodyless) || head.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(());
    }
    body::check_json(payload).map_err(|why| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON as its type says: {why}"))
    })
}

fn unread(error: Error, limit: u64) -> Problem {
    match error {
        Error::TooLarge => {
            let detail = format!("the body is larger than the {limit} bytes that this route takes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Shed::TooLarge.as_str(), detail)
        }
        Error::TimedOut => {
            let mut problem =
                Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time");
            problem.retryable = true;
            problem
        }
        Error::Broken => Problem::new(StatusCode::BAD_REQUEST, "invalid_body", "the body ended early or is malformed"),
    }
}

/// What is in front may have chosen by one of them, and we by the other (RFC 9112, section 3.2).
fn two_hosts() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_host", "the request names more than one host")
}

pub(crate) fn undecodable(attribute: &str) -> Problem {
    let parameter = attribute.strip_prefix("param.").unwrap_or(attribute);
    let detail = format!("the path's {{{parameter}}} is not UTF-8 after percent-decoding");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_path", detail)
}

/// `Allow` for a path on which these methods are served; OPTIONS always is.
fn allow(served: &[Method]) -> HeaderValue {
    let options = (!served.contains(&Method::OPTIONS)).then_some(&Method::OPTIONS);
    let names: Vec<&str> = served.iter().chain(options).map(Method::as_str).collect();
    HeaderValue::try_from(names.join(", ")).expect("methods are tokens")
}
