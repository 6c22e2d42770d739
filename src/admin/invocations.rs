//! Accepted invocations: how they stand, waiting for their end, taking them back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, Cancelled, Dispatch as _, Failure, Progress, Status, StatusState};
use uuid::Uuid;

use super::api::{Answer, App, Asked, Problem, invalid};
use crate::engine::Engine;

/// The longest that one request waits for the end of an invocation; whoever wants to wait longer asks again.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/invocations/{invocation_id}", get(invocation))
        .route("/api/v1/invocations/{invocation_id}/cancel", post(cancel))
}

/// How an accepted invocation stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct InvocationView {
    /// The invocation.
    pub invocation_id: Uuid,
    /// Where it came in.
    #[serde(flatten)]
    pub binding: Binding,
    /// `queued`, `running`, `ok`, `dead` or `cancelled`.
    pub state: String,
    /// Attempts made or under way.
    pub attempts: u32,
    /// When it is due, while it is queued.
    pub run_at: Option<DateTime<Utc>>,
    /// The answer, if it ended well; text where it is text, else base64.
    pub body: Option<String>,
    /// Why it was given up on.
    pub reason: Option<String>,
    /// Its last failure, where it was given up on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How far it has come, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl InvocationView {
    pub(super) fn of(invocation_id: Uuid, status: Status) -> Self {
        let mut view = Self {
            invocation_id,
            binding: status.binding,
            state: String::new(),
            attempts: status.attempts,
            run_at: None,
            body: None,
            reason: None,
            failure: None,
            progress: None,
        };
        let state = match status.state {
            StatusState::Queued { run_at } => {
                view.run_at = Some(run_at);
                "queued"
            }
            StatusState::Running { progress } => {
                view.progress = progress;
                "running"
            }
            StatusState::Ok { body, .. } => {
                view.body = Some(match std::str::from_utf8(&body) {
                    Ok(text) => text.to_owned(),
                    Err(_) => base64::engine::general_purpose::STANDARD.encode(&body),
                });
                "ok"
            }
            StatusState::Dead { reason, failure } => {
                view.reason = Some(reason.as_str().to_owned());
                view.failure = Some(failure);
                "dead"
            }
            StatusState::Cancelled => "cancelled",
        };
        view.state = state.to_owned();
        view
    }

    /// Whether it has ended, one way or the other.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }
}

/// For how long to wait.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// Until it has ended, for at most so many seconds.
    wait: Option<f64>,
}

impl WaitQuery {
    /// The time to wait, never more than one request may take.
    pub(super) fn time(&self) -> Result<Option<Duration>, Problem> {
        let Some(seconds) = self.wait else { return Ok(None) };
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) => Ok(Some(time.min(MAX_WAIT))),
            Err(_) => Err(invalid(format!("wait: {seconds} is no time to wait: it is a number of seconds, 0 or more"))),
        }
    }
}

async fn invocation(
    State(engine): App,
    Path(invocation_id): Path<Uuid>,
    Asked(query): Asked<WaitQuery>,
) -> Answer<InvocationView> {
    let status = match query.time()? {
        Some(at_most) => engine.dispatcher.wait(invocation_id, at_most).await?,
        None => engine.dispatcher.status(invocation_id).await?,
    };
    let status = status.ok_or_else(|| Problem::not_found("invocation"))?;
    Ok(Json(InvocationView::of(invocation_id, status)))
}

/// What became of the wish to take an event back.
#[derive(Debug, Serialize, Deserialize)]
pub struct CancelView {
    /// `cancelled`: it waited, and will not run (again); `asked`: it runs, and its attempt is being cut, unless it ends
    /// before that; `ended`: it had ended.
    pub outcome: Cancelled,
}

impl CancelView {
    /// What is answered; an event that nobody knows is a problem.
    pub(super) fn answer(outcome: Cancelled, what: &str) -> Result<(StatusCode, Json<Self>), Problem> {
        let status = match outcome {
            Cancelled::Cancelled => StatusCode::OK,
            Cancelled::Asked => StatusCode::ACCEPTED,
            Cancelled::Ended => StatusCode::OK,
            Cancelled::Unknown => return Err(Problem::not_found(what)),
        };
        Ok((status, Json(Self { outcome })))
    }
}

async fn cancel(
    State(engine): App,
    Path(invocation_id): Path<Uuid>,
) -> Result<(StatusCode, Json<CancelView>), Problem> {
    CancelView::answer(engine.dispatcher.cancel(invocation_id).await?, "invocation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded_and_never_negative() {
        let time = |wait| WaitQuery { wait }.time().ok();
        assert_eq!(time(None), Some(None));
        assert_eq!(time(Some(0.5)), Some(Some(Duration::from_millis(500))));
        assert_eq!(time(Some(1e9)), Some(Some(MAX_WAIT)));
        for wait in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(time(Some(wait)), None, "{wait}");
        }
    }
}
