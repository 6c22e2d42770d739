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
use trigger_core::{Accepted, Custody, Headers, Shed};

use crate::body::{self, Error};
use crate::config::Mode;
use crate::prefer::Wait;
use crate::problem::Problem;
use crate::request_id::{RequestId, X_REQUEST_ID, is_visible};
use crate::routes::{Found, Hit, Routes};
use crate::{answer, invocations};

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

type Reply = Result<Response<Full<Bytes>>, Problem>;

impl Routes {
    /// Answers one request. The listener calls this for every request it takes; a test or a benchmark can call it
    /// without a socket. The response to HEAD still has its body here, as it is the listener that keeps it back.
    ///
    /// Dropping the future cancels the attempt it waits for.
    pub async fn handle<B: Body<Data = Bytes>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut id = RequestId::of(&head.headers);
        let reply = if invocations::is_reserved(head.uri.path()) {
            invocations::answer(self, &head).await
        } else {
            match self.find(&head).await {
                Found::Route(hit) => self.run(hit, head, body, &mut id).await,
                Found::Undecodable(parameter) => Err(undecodable(&parameter)),
                Found::Missing(methods) => self.missing(&head.method, &methods),
            }
        };
        let id = id.into_value();
        let mut response = reply.unwrap_or_else(|problem| problem.respond(&id));
        response.headers_mut().insert(&X_REQUEST_ID, id);
        response
    }

    async fn run<B: Body<Data = Bytes>>(&self, hit: Hit, mut head: Parts, body: B, id: &mut RequestId) -> Reply {
        let Hit { route, attributes, in_flight: _until_answered } = hit;
        let checked = match &route.guard {
            None => None,
            Some(guard) => Some((guard, Box::pin(guard.check(&mut head)).await?)),
        };
        let (key, wait) = match route.mode {
            Mode::Sync => (None, None),
            Mode::Async => (idempotency_key(&head.headers)?, Wait::of(&head.headers, route.max_wait_seconds)),
        };
        let payload = body::read(body, route.max_body_bytes, self.body_read_timeout())
            .await
            .map_err(|error| unread(error, route.max_body_bytes))?;
        let caller = checked.map(|(guard, checked)| guard.check_body(checked, &payload)).transpose()?;
        check_content(&head, &payload)?;

        let custody = match route.mode {
            Mode::Sync => Custody::Caller,
            Mode::Async => Custody::Engine,
        };
        let mut event = route.cx.event(custody, payload);
        event.subject = head.uri.path().into();
        event.content_type = content_type(&head.headers).map(Box::from);
        event.attributes = attributes;
        if let Some(caller) = caller {
            event.caller = Some(caller.name);
            event.attributes.extend(caller.claims.map(|claims| ("claims".into(), claims.into())));
        }
        event.request_id = id.given().map(Box::from);
        event.idempotency_key = key;
        event.terms = route.retries.map(|retries| retries.terms(event.received_at));
        event.headers = Headers::Http(Box::new(head.headers));
        // Depth and parent may come from anyone here. That is safe: an outsider can only bring itself nearer to the
        // limit, and a function that calls another over HTTP stays under the guard.
        event.adopt_lineage();
        let (invocation_id, received) = (event.invocation_id, event.received);
        id.or(invocation_id);
        match route.mode {
            Mode::Sync => {
                let mut response = answer::respond(route.cx.dispatch.dispatch(event).await, invocation_id)?;
                // Beside, not instead of, what the guest says about its own time.
                response.headers_mut().append(&SERVER_TIMING, answer::server_timing(received.elapsed()));
                Ok(response)
            }
            Mode::Async => match route.cx.dispatch.accept(event).await {
                Ok(Accepted { invocation_id, duplicate, .. }) => match wait {
                    Some(wait) => {
                        Ok(invocations::awaited(&route.cx, invocation_id, duplicate, wait, &id.clone().into_value())
                            .await)
                    }
                    None => Ok(invocations::accepted(invocation_id, duplicate)),
                },
                Err(refused) => Err(Problem::shed(refused.reason, refused.message, refused.retry_after)),
            },
        }
    }

    fn missing(&self, method: &Method, served: &[Method]) -> Reply {
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
        Err(Problem { header: Some(Box::new((header::ALLOW, allow))), ..problem })
    }
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

/// The caller's name for the event, by which a second one is told from the first.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().filter(|_| is_visible(key, MAX_IDEMPOTENCY_KEY_BYTES) && keys.next().is_none());
    let invalid = || {
        let detail =
            format!("Idempotency-Key must be one value of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail)
    };
    text.map(|text| Some(text.into())).ok_or_else(invalid)
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

fn undecodable(attribute: &str) -> Problem {
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
