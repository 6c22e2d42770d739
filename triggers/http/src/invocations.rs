//! Accepted invocations as callers see them: the 202 that promises one, and the path to ask how it stands.
//!
//! An invocation's id is the right to read its result: only its caller was told, and beside its time it has at least 32
//! fresh random bits. Invocations of other kinds of trigger are not shown, since nobody on this side was given their
//! ids.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use trigger_core::{Accepted, Kind, Refused, Shed, Status, StatusState, TriggerContext};
use uuid::Uuid;

use crate::answer;
use crate::config::MAX_WAIT_SECONDS;
use crate::pattern::RESERVED;
use crate::prefer::{PREFERENCE_APPLIED, Wait};
use crate::problem::Problem;
use crate::routes::Routes;

const BELOW: &str = "/invocations/";

/// The longest that anybody waits for an end: whoever waits holds a connection.
const LONGEST: Duration = Duration::from_secs(MAX_WAIT_SECONDS as u64);

/// 202: the event is committed and its function will run.
pub(crate) fn accepted(accepted: Accepted) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Promise<'a> {
        invocation_id: Uuid,
        status_url: &'a str,
        duplicate: bool,
    }
    let Accepted { invocation_id, duplicate, .. } = accepted;
    let status_url = status_url(invocation_id);
    let mut response = json(StatusCode::ACCEPTED, &Promise { invocation_id, status_url: &status_url, duplicate });
    let location = HeaderValue::try_from(status_url).expect("slashes, letters, digits and hyphens are visible");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Where to ask how an accepted invocation stands.
pub(crate) fn status_url(invocation_id: Uuid) -> String {
    format!("{RESERVED}{BELOW}{invocation_id}")
}

/// The end of an accepted invocation as its caller is told of it, or 202 when the wait was too short for it. The event
/// is kept whatever happens here: nothing is refused any more.
pub(crate) async fn awaited(
    cx: &TriggerContext,
    accepted: Accepted,
    wait: Wait,
    request_id: &HeaderValue,
) -> Response<Full<Bytes>> {
    let stands = stands(cx, accepted.invocation_id, wait.time()).await.ok().flatten();
    let ended = match stands.and_then(end) {
        Some(ended) => ended.unwrap_or_else(|problem| problem.respond(request_id)),
        // It has not ended, or its result was not kept, or cannot be read now.
        None => self::accepted(accepted),
    };
    let mut response = uncached(ended);
    response.headers_mut().insert(&PREFERENCE_APPLIED, wait.applied());
    response
}

/// The end of an accepted invocation as a caller is told of it that waits for nothing less. It may ask again with the
/// same key: the event runs on.
pub(crate) async fn ended(cx: &TriggerContext, invocation_id: Uuid) -> Result<Response<Full<Bytes>>, Problem> {
    let stands = stands(cx, invocation_id, LONGEST).await;
    let state = stands.map_err(|refused| Problem::shed(refused.reason, refused.message, refused.retry_after))?;
    let Some(state) = state else {
        let detail = "the event was run before, and its result has been forgotten";
        return Err(Problem::new(StatusCode::GONE, "result_forgotten", detail));
    };
    end(state).map(|ended| ended.map(uncached)).unwrap_or_else(|| {
        let mut problem = Problem::new(StatusCode::CONFLICT, "in_progress", "the event has not ended");
        problem.retryable = true;
        Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")))
    })
}

/// How an accepted invocation stands once it has ended, or the time is over.
async fn stands(cx: &TriggerContext, invocation_id: Uuid, at_most: Duration) -> Result<Option<StatusState>, Refused> {
    tokio::select! {
        status = cx.dispatch.wait(invocation_id, at_most) => status.map(|status| status.map(|status| status.state)),
        // Whoever waits must not hold up the shutdown of the engine that would end the wait.
        () = cx.shutdown.cancelled() => Err(Refused {
            reason: Shed::ShuttingDown,
            message: "the engine is shutting down".into(),
            retry_after: Duration::from_secs(1),
        }),
    }
}

/// What a caller is told of an end.
fn end(state: StatusState) -> Option<Result<Response<Full<Bytes>>, Problem>> {
    match state {
        StatusState::Ok { body, http } => Some(answer::from_guest(trigger_core::Response { body, http })),
        StatusState::Dead { reason, failure } => Some(Err(answer::dead(reason, failure))),
        StatusState::Cancelled => Some(Err(cancelled())),
        StatusState::Queued { .. } | StatusState::Running { .. } => None,
    }
}

/// Whether a path is the engine's own.
pub(crate) fn is_reserved(path: &str) -> bool {
    path.strip_prefix(RESERVED).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Answers a request for a reserved path.
pub(crate) async fn answer(routes: &Routes, head: &Parts) -> Result<Response<Full<Bytes>>, Problem> {
    let below = head.uri.path().strip_prefix(RESERVED).and_then(|path| path.strip_prefix(BELOW));
    let Some(id) = below.and_then(|id| Uuid::try_parse(id).ok()) else { return Err(unknown()) };
    match head.method {
        Method::GET | Method::HEAD => standing(routes, id).await,
        Method::OPTIONS => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            Ok(response)
        }
        _ => {
            let detail = "how an invocation stands can only be read";
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
            Err(problem.with(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS")))
        }
    }
}

async fn standing(routes: &Routes, invocation_id: Uuid) -> Result<Response<Full<Bytes>>, Problem> {
    #[derive(Serialize)]
    struct Standing<R> {
        invocation_id: Uuid,
        state: &'static str,
        attempts: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_at: Option<R>,
    }
    let dispatch = routes.dispatch().await.ok_or_else(unknown)?;
    let status = dispatch.status(invocation_id).await;
    let status = status.map_err(|refused| Problem::shed(refused.reason, refused.message, refused.retry_after))?;
    let Some(Status { attempts, state, .. }) = status.filter(|status| status.binding.trigger_type == Kind::Http) else {
        return Err(unknown());
    };
    let (state, run_at) = match state {
        StatusState::Queued { run_at } => ("queued", Some(run_at)),
        StatusState::Running { .. } => ("running", None),
        StatusState::Ok { body, http } => {
            return answer::from_guest(trigger_core::Response { body, http }).map(uncached);
        }
        StatusState::Dead { reason, failure } => {
            return Err(Problem { status: StatusCode::INTERNAL_SERVER_ERROR, ..answer::dead(reason, failure) });
        }
        StatusState::Cancelled => {
            return Err(cancelled());
        }
    };
    let mut response = json(StatusCode::ACCEPTED, &Standing { invocation_id, state, attempts, run_at });
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    Ok(uncached(response))
}

fn cancelled() -> Problem {
    Problem::new(StatusCode::GONE, "cancelled", "the invocation was cancelled before it ended")
}

fn unknown() -> Problem {
    let detail = "no invocation of this id is known here, or its result has been forgotten";
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

/// How an invocation stands changes; a cache on the way must not keep it.
fn uncached(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("a struct of strings, numbers and times becomes JSON");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_are_reserved() {
        for (path, expected) in [
            ("/_tripline", true),
            ("/_tripline/", true),
            ("/_tripline/anything", true),
            ("/_triplines", false),
            ("/a/_tripline/", false),
            ("/", false),
        ] {
            assert_eq!(is_reserved(path), expected, "{path}");
        }
    }
}
