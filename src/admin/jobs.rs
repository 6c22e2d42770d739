//! Jobs: put in a queue, listed, a queue paused.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Binding, Dispatch as _, Jobs, Kind, NewJob, Unique, UniqueConflict, UniqueScope, bounds};
use uuid::Uuid;

use super::api::{Answer, App, Asked, Body, Listing, Problem, decode, headers, invalid};
use super::invocations::{InvocationView, WaitQuery};
use super::queue::{self, PauseRequest, PauseView, RowsQuery};
use crate::engine::Engine;
use crate::store::QueueRow;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/jobs", get(list))
        .route("/api/v1/jobs/{queue}", post(enqueue))
        .route("/api/v1/jobs/{queue}/pause", post(pause))
        .route("/api/v1/jobs/{queue}/resume", post(resume))
}

/// A job to put in a queue. The payload is given once: as text, or in base64.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnqueueRequest {
    /// The payload as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Media type of the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
    /// Identity of the job: a second one with it is the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Not before so many seconds have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<f64>,
    /// Not before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// From -100 to 100, higher first; by default the queue's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Jobs of the queue with the same key run one after another, as they were accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// A job with the key of one that counts still is that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// How long a job counts: `"queued"`, `"live"` (the default) or `{"period": <seconds>}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_scope: Option<UniqueScope>,
    /// Which of two jobs stays: `"keep"` (the default) or `"replace"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_conflict: Option<UniqueConflict>,
    /// Retries after the first attempt; by default the function's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u32>,
    /// No attempt begins when so many seconds have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<f64>,
    /// No attempt begins after this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How long the result is kept, in seconds; by default the queue's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl_seconds: Option<u32>,
}

/// A job that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnqueueView {
    /// Its invocation: the first one's, for a duplicate.
    pub invocation_id: Uuid,
    /// Whether it is a job that was kept before.
    pub duplicate: bool,
    /// How it stood when the wait was over, where there was to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<InvocationView>,
}

/// A moment that is given once: as a number of seconds from now, or as itself.
pub(super) fn moment(
    now: DateTime<Utc>,
    (seconds_field, seconds): (&'static str, Option<f64>),
    (moment_field, moment): (&'static str, Option<DateTime<Utc>>),
) -> Result<Option<DateTime<Utc>>, Problem> {
    match (seconds, moment) {
        (Some(_), Some(_)) => Err(invalid(format!("give either {seconds_field} or {moment_field}, not both"))),
        (None, moment) => Ok(moment),
        (Some(seconds), None) => Ok(Some(bounds::delay(seconds_field, now, seconds)?)),
    }
}

fn job(request: EnqueueRequest, now: DateTime<Utc>) -> Result<NewJob, Problem> {
    let unique = match request.unique_key {
        Some(key) => Some(Unique {
            key: key.into(),
            scope: request.unique_scope.unwrap_or_default(),
            conflict: request.unique_conflict.unwrap_or_default(),
        }),
        None if request.unique_scope.is_some() || request.unique_conflict.is_some() => {
            return Err(invalid("unique_scope and unique_conflict say nothing without a unique_key"));
        }
        None => None,
    };
    let expiry = ("expires_after_seconds", request.expires_after_seconds);
    Ok(NewJob {
        payload: decode(request.payload, request.payload_base64)?,
        content_type: request.content_type.map(Into::into),
        headers: headers(request.headers),
        key: request.key.map(Into::into),
        run_at: moment(now, ("delay_seconds", request.delay_seconds), ("run_at", request.run_at))?,
        priority: request.priority,
        ordering_key: request.ordering_key.map(Into::into),
        unique,
        retry_count: request.retry_count,
        expires_at: moment(now, expiry, ("expires_at", request.expires_at))?,
        result_ttl_seconds: request.result_ttl_seconds,
    })
}

fn jobs(engine: &Engine) -> Result<Arc<dyn Jobs>, Problem> {
    engine.jobs.clone().ok_or_else(|| Problem::not_found("job queue in this build"))
}

/// The trigger that works on a queue.
fn worker(engine: &Engine, queue: &str) -> Result<Arc<Binding>, Problem> {
    Ok(jobs(engine)?.event(queue, NewJob::default())?.binding)
}

async fn enqueue(
    State(engine): App,
    Path(queue): Path<String>,
    Asked(query): Asked<WaitQuery>,
    Body(request): Body<EnqueueRequest>,
) -> Result<(StatusCode, Json<EnqueueView>), Problem> {
    let wait = query.time()?;
    let accepted = jobs(&engine)?.enqueue(&queue, job(request, engine.clock.now())?).await?;
    let mut view =
        EnqueueView { invocation_id: accepted.invocation_id, duplicate: accepted.duplicate, invocation: None };
    if let Some(at_most) = wait {
        // The job is kept: a store that cannot be read now changes nothing about that.
        let status = engine.dispatcher.wait(accepted.invocation_id, at_most).await.ok().flatten();
        view.invocation = status.map(|status| InvocationView::of(accepted.invocation_id, status));
    }
    let over = view.invocation.as_ref().is_some_and(InvocationView::is_over);
    Ok((if over { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(view)))
}

async fn list(State(engine): App, Asked(query): Asked<RowsQuery>) -> Answer<Listing<QueueRow>> {
    let of = query.name.as_ref().map(|queue| worker(&engine, queue)).transpose()?;
    query.rows(&engine, Kind::Job.as_str(), of.as_deref()).await
}

async fn pause(State(engine): App, Path(queue): Path<String>, Body(request): Body<PauseRequest>) -> Answer<PauseView> {
    queue::pause(&engine, &*worker(&engine, &queue)?, request.note).await
}

async fn resume(State(engine): App, Path(queue): Path<String>) -> Answer<PauseView> {
    queue::resume(&engine, &*worker(&engine, &queue)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<NewJob, String> {
        let request = serde_json::from_str(json).map_err(|error| error.to_string())?;
        job(request, DateTime::UNIX_EPOCH).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_request_says_everything_that_a_job_can_ask_for() {
        let new = read(
            r#"{"payload":"x","delay_seconds":1.5,"priority":-7,"ordering_key":"o","unique_key":"u",
                "unique_scope":{"period":60},"unique_conflict":"replace","retry_count":2,
                "expires_after_seconds":10,"result_ttl_seconds":0}"#,
        )
        .unwrap();
        assert_eq!(new.run_at.unwrap().timestamp_millis(), 1_500);
        assert_eq!(new.expires_at.unwrap().timestamp(), 10);
        assert_eq!((new.priority, new.retry_count, new.result_ttl_seconds), (Some(-7), Some(2), Some(0)));
        let unique = Unique { key: "u".into(), scope: UniqueScope::Period(60), conflict: UniqueConflict::Replace };
        assert_eq!((new.unique, new.ordering_key.as_deref()), (Some(unique), Some("o")));
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        for (json, said) in [
            (r#"{"delay_seconds":1,"run_at":"2027-01-01T00:00:00Z"}"#, "either delay_seconds or run_at"),
            (r#"{"expires_after_seconds":1,"expires_at":"2027-01-01T00:00:00Z"}"#, "expires_at, not both"),
            (r#"{"delay_seconds":-1}"#, "delay_seconds: -1 is no time to wait"),
            (r#"{"unique_scope":"queued"}"#, "without a unique_key"),
            (r#"{"payload":"x","payload_base64":"eA=="}"#, "not both"),
            (r#"{"priority":1000}"#, "1000"),
            (r#"{"urgent":true}"#, "unknown field"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
