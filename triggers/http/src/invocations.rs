//! Accepted invocations as callers see them: the 202 that promises one, and the path to ask how it stands.
//!
//! An invocation's id is the right to read its result: only its caller was told, and beside its time it has at least 32
//! fresh random bits. Invocations of other kinds of trigger are not shown, since nobody on this side was given their
//! ids.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use trigger_core::{Kind, Status, StatusState, TriggerContext};
use uuid::Uuid;

use crate::answer;
use crate::pattern::RESERVED;
use crate::prefer::{PREFERENCE_APPLIED, Wait};
use crate::problem::Problem;
use crate::routes::Routes;

const BELOW: &str = "/invocations/";

/// 202: the event is committed and its function will run.
pub(crate) fn accepted(invocation_id: Uuid, duplicate: bool) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Accepted<'a> {
        invocation_id: Uuid,
        status_url: &'a str,
        duplicate: bool,
    }
    let status_url = format!("{RESERVED}{BELOW}{invocation_id}");
    let mut response = json(StatusCode::ACCEPTED, &Accepted { invocation_id, status_url: &status_url, duplicate });
    let location = HeaderValue::try_from(status_url).expect("slashes, letters, digits and hyphens are visible");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The end of an accepted invocation as its caller is told of it, or 202 when the wait was too short for it. The event
/// is kept whatever happens here: nothing is refused any more.
pub(crate) async fn awaited(
    cx: &TriggerContext,
    invocation_id: Uuid,
    duplicate: bool,
    wait: Wait,
    request_id: &HeaderValue,
) -> Response<Full<Bytes>> {
    let status = tokio::select! {
        status = cx.dispatch.wait(invocation_id, wait.time()) => status.ok().flatten(),
        // Whoever waits must not hold up the shutdown of the engine that would end the wait.
        () = cx.shutdown.cancelled() => None,
    };
    let ended = match status.map(|status| status.state) {
        Some(StatusState::Ok { body, http }) => answer::from_guest(trigger_core::Response { body, http }),
        Some(StatusState::Dead { reason, failure }) => Err(answer::dead(reason, failure)),
        Some(StatusState::Cancelled) => Err(cancelled()),
        // It has not ended, or its result was not kept, or cannot be read now.
        Some(StatusState::Queued { .. } | StatusState::Running { .. }) | None => Ok(accepted(invocation_id, duplicate)),
    };
    let mut response = uncached(ended.unwrap_or_else(|problem| problem.respond(request_id)));
    response.headers_mut().insert(&PREFERENCE_APPLIED, wait.applied());
    response
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
            let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
            problem.header = Some(Box::new((header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"))));
            Err(problem)
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

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
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
