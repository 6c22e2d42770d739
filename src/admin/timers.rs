//! Timers: set, listed, taken back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Kind, NewTimer, Timers, UniqueConflict};
use uuid::Uuid;

use super::api::{Answer, App, Asked, Body, Listing, Problem, decode, headers, invalid};
use super::invocations::CancelView;
use super::jobs::moment;
use super::queue::RowsQuery;
use crate::engine::Engine;
use crate::store::QueueRow;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/api/v1/timers", get(list)).route("/api/v1/timers/{timer}/{key}", put(set).delete(cancel))
}

/// A timer to set. The payload is given once: as text, or in base64; the moment too: by `run_at` or `delay_seconds`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimerRequest {
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
    /// It fires when so many seconds have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<f64>,
    /// It fires at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// Whether a moment that is past means now; it is refused otherwise.
    pub allow_past: bool,
    /// Which of two timers with the key stays: `"replace"` (the default) or `"keep"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<UniqueConflict>,
    /// Retries after the first attempt; by default the function's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u32>,
    /// How long the result is kept, in seconds; by default the engine's setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl_seconds: Option<u32>,
}

/// A timer that is set.
#[derive(Debug, Serialize, Deserialize)]
pub struct TimerView {
    /// Its invocation: the earlier one's, where that one stays.
    pub invocation_id: Uuid,
    /// Whether an earlier one stays.
    pub duplicate: bool,
    /// The moment that was asked for.
    pub run_at: DateTime<Utc>,
}

fn timers(engine: &Engine) -> Result<Arc<dyn Timers>, Problem> {
    engine.timers.clone().ok_or_else(|| Problem::not_found("timer in this build"))
}

async fn set(
    State(engine): App,
    Path((timer, key)): Path<(String, String)>,
    Body(request): Body<TimerRequest>,
) -> Result<(StatusCode, Json<TimerView>), Problem> {
    let delay = ("delay_seconds", request.delay_seconds);
    let run_at = moment(engine.clock.now(), delay, ("run_at", request.run_at))?
        .ok_or_else(|| invalid("when the timer fires is missing: give delay_seconds or run_at"))?;
    let new = NewTimer {
        allow_past: request.allow_past,
        payload: decode(request.payload, request.payload_base64)?,
        content_type: request.content_type.map(Into::into),
        headers: headers(request.headers),
        conflict: request.conflict.unwrap_or(UniqueConflict::Replace),
        retry_count: request.retry_count,
        result_ttl_seconds: request.result_ttl_seconds,
        ..NewTimer::new(key, run_at)
    };
    let accepted = timers(&engine)?.set(&timer, new).await?;
    let view = TimerView { invocation_id: accepted.invocation_id, duplicate: accepted.duplicate, run_at };
    Ok((StatusCode::ACCEPTED, Json(view)))
}

async fn cancel(
    State(engine): App,
    Path((timer, key)): Path<(String, String)>,
) -> Result<(StatusCode, Json<CancelView>), Problem> {
    let cancelled = timers(&engine)?.cancel(&timer, &key).await?;
    CancelView::answer(cancelled, "timer: it was never set, or has fired and ended")
}

async fn list(State(engine): App, Asked(query): Asked<RowsQuery>) -> Answer<Listing<QueueRow>> {
    let of = match &query.name {
        Some(timer) => Some(timers(&engine)?.event(timer, NewTimer::new("key", engine.clock.now()))?.binding),
        None => None,
    };
    query.rows(&engine, Kind::Timer.as_str(), of.as_deref()).await
}
