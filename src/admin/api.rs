//! What the command line asks: functions, triggers, traces, publishing, reload.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::bus::BusError;
use trigger_core::{Binding, Dispatch as _, EnqueueError, Headers, Message, NewJob, Shed, StatusState};
use uuid::Uuid;

use crate::engine::{Engine, Error as EngineError};
use crate::store::{self, TraceFilter};
use crate::traces::TraceRow;

pub(super) type App = State<Arc<Engine>>;

/// The most rows that one listing answers.
pub(super) const MAX_LIMIT: u32 = 1_000;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/functions", get(functions))
        .route("/api/v1/functions/{name}/versions", get(versions))
        .route("/api/v1/triggers", get(triggers))
        .route("/api/v1/traces", get(traces))
        .route("/api/v1/traces/{invocation_id}", get(trace))
        .route("/api/v1/invocations/{invocation_id}", get(invocation))
        .route("/api/v1/publish", post(publish))
        .route("/api/v1/jobs/{queue}", post(enqueue))
        .route("/api/v1/reload", post(reload))
}

/// An error of the API: RFC 9457 problem details with a stable code.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn not_found(what: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", detail: format!("no such {what}") }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        let (status, code) = match error {
            store::Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            store::Error::Incompatible(_) | store::Error::Corrupt { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store_corrupt")
            }
        };
        Self { status, code, detail: error.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        (self.status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}

pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// A page of a listing, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing<T> {
    /// The rows.
    pub items: Vec<T>,
}

/// A function, its routed version and its triggers.
#[derive(Debug, Serialize, Deserialize)]
pub struct FunctionView {
    /// The routed version.
    #[serde(flatten)]
    pub version: VersionView,
    /// Its triggers.
    pub triggers: Vec<TriggerView>,
}

/// A version of a function.
#[derive(Debug, Serialize, Deserialize)]
pub struct VersionView {
    /// The function's namespace.
    pub namespace: String,
    /// The function's name.
    pub name: String,
    /// Number of the version.
    pub version: u32,
    /// The module's digest.
    pub digest: String,
    /// The module's size in bytes.
    pub module_bytes: u64,
    /// How the module is called.
    pub abi: String,
    /// When it was deployed.
    pub created_at: DateTime<Utc>,
    /// Whether it serves now.
    pub routed: bool,
    /// The definition.
    pub definition: crate::functions::Definition,
}

impl From<store::VersionRow> for VersionView {
    fn from(row: store::VersionRow) -> Self {
        let mut definition = row.definition;
        // What is set there may be a secret; that it is set is no secret.
        definition.env_vars.values_mut().for_each(|value| *value = "(set)".to_owned());
        Self {
            namespace: definition.namespace.clone(),
            name: definition.name.clone(),
            version: row.number,
            digest: row.digest.to_string(),
            module_bytes: row.module_bytes,
            abi: row.abi.as_str().to_owned(),
            created_at: row.created_at,
            routed: row.routed,
            definition,
        }
    }
}

/// A trigger and how it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct TriggerView {
    /// The trigger.
    #[serde(flatten)]
    pub binding: Binding,
    /// What it listens to, in a line.
    pub description: String,
    /// Why it cannot do its work at the moment.
    pub degraded: Option<String>,
}

fn trigger_views(engine: &Engine) -> Vec<TriggerView> {
    engine
        .triggers()
        .into_iter()
        .map(|health| TriggerView {
            description: engine.describe(&health.row),
            binding: health.row.binding,
            degraded: health.degraded,
        })
        .collect()
}

async fn functions(State(engine): App) -> Answer<Listing<FunctionView>> {
    let triggers = trigger_views(&engine);
    let functions = engine.store.functions().await?;
    let view = |row: store::FunctionRow| {
        let version = VersionView::from(row.version);
        let of_function = |trigger: &&TriggerView| {
            *trigger.binding.namespace == *version.namespace && *trigger.binding.function_name == *version.name
        };
        let triggers = triggers.iter().filter(of_function);
        let triggers = triggers
            .map(|trigger| TriggerView {
                binding: trigger.binding.clone(),
                description: trigger.description.clone(),
                degraded: trigger.degraded.clone(),
            })
            .collect();
        FunctionView { version, triggers }
    };
    Ok(Json(Listing { items: functions.into_iter().map(view).collect() }))
}

async fn versions(State(engine): App, Path(name): Path<String>) -> Answer<Listing<VersionView>> {
    let versions = engine.store.versions(engine.config.namespace.clone(), name).await?;
    if versions.is_empty() {
        return Err(Problem::not_found("function"));
    }
    Ok(Json(Listing { items: versions.into_iter().map(VersionView::from).collect() }))
}

async fn triggers(State(engine): App) -> Answer<Listing<TriggerView>> {
    Ok(Json(Listing { items: trigger_views(&engine) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    function: Option<String>,
    outcome: Option<String>,
    before: Option<DateTime<Utc>>,
    before_id: Option<Uuid>,
    limit: Option<u32>,
}

/// An invocation's attempts, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct TraceView {
    /// The invocation.
    pub invocation_id: Uuid,
    /// Its attempts.
    pub attempts: Vec<TraceRow>,
}

/// The newest attempts: from memory where that is enough, else from the store.
async fn traces(State(engine): App, Query(query): Query<TraceQuery>) -> Answer<Listing<TraceRow>> {
    let limit = query.limit.unwrap_or(50).clamp(1, MAX_LIMIT);
    let in_memory = match (&query.function, query.outcome.as_deref(), query.before) {
        (None, None, None) => engine.ring.recent(limit as usize),
        (Some(function), None, None) => engine.ring.by_function(function, limit as usize),
        _ => Vec::new(),
    };
    if in_memory.len() == limit as usize {
        return Ok(Json(Listing { items: in_memory.iter().map(TraceRow::from).collect() }));
    }
    let filter = TraceFilter {
        function_name: query.function,
        invocation_id: None,
        outcome: query.outcome,
        before: query.before,
        before_id: query.before_id,
        limit,
    };
    let stored = engine.store.traces(filter).await?;
    let mut items: Vec<TraceRow> = in_memory.iter().map(TraceRow::from).collect();
    let known: std::collections::HashSet<(Uuid, u32, DateTime<Utc>)> =
        items.iter().map(|row| (row.invocation_id, row.attempt, row.started_at)).collect();
    items.extend(stored.into_iter().filter(|row| !known.contains(&(row.invocation_id, row.attempt, row.started_at))));
    items.sort_by_key(|row| std::cmp::Reverse(row.started_at));
    items.truncate(limit as usize);
    Ok(Json(Listing { items }))
}

async fn trace(State(engine): App, Path(invocation_id): Path<Uuid>) -> Answer<TraceView> {
    let filter = TraceFilter { invocation_id: Some(invocation_id), limit: MAX_LIMIT, ..TraceFilter::default() };
    let mut attempts = engine.store.traces(filter).await?;
    let known: std::collections::HashSet<(u32, i64)> =
        attempts.iter().map(|row| (row.attempt, row.started_at.timestamp_micros())).collect();
    let in_memory = engine.ring.invocation(invocation_id);
    attempts.extend(
        in_memory
            .iter()
            .map(TraceRow::from)
            .filter(|row| !known.contains(&(row.attempt, row.started_at.timestamp_micros()))),
    );
    if attempts.is_empty() {
        return Err(Problem::not_found("trace"));
    }
    attempts.sort_by_key(|row| row.started_at);
    Ok(Json(TraceView { invocation_id, attempts }))
}

/// How an accepted invocation stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct InvocationView {
    /// The invocation.
    pub invocation_id: Uuid,
    /// `queued`, `running`, `ok` or `dead`.
    pub state: String,
    /// Attempts made or under way.
    pub attempts: u32,
    /// When it is due, while it is queued.
    pub run_at: Option<DateTime<Utc>>,
    /// The answer, if it ended well; text where it is text, else base64.
    pub body: Option<String>,
    /// Why it was given up on.
    pub reason: Option<String>,
    /// How far it has come, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<trigger_core::Progress>,
}

async fn invocation(State(engine): App, Path(invocation_id): Path<Uuid>) -> Answer<InvocationView> {
    let status = engine.dispatcher.status(invocation_id).await.map_err(|refused| Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: refused.reason.as_str(),
        detail: refused.message.into_owned(),
    })?;
    let status = status.ok_or_else(|| Problem::not_found("invocation"))?;
    let mut view = InvocationView {
        invocation_id,
        state: String::new(),
        attempts: status.attempts,
        run_at: None,
        body: None,
        reason: None,
        progress: None,
    };
    match status.state {
        StatusState::Queued { run_at } => {
            view.state = "queued".to_owned();
            view.run_at = Some(run_at);
        }
        StatusState::Running { progress } => {
            view.state = "running".to_owned();
            view.progress = progress;
        }
        StatusState::Ok { body, .. } => {
            view.state = "ok".to_owned();
            view.body = Some(match std::str::from_utf8(&body) {
                Ok(text) => text.to_owned(),
                Err(_) => base64::engine::general_purpose::STANDARD.encode(&body),
            });
        }
        StatusState::Dead { reason, .. } => {
            view.state = "dead".to_owned();
            view.reason = Some(reason.as_str().to_owned());
        }
        StatusState::Cancelled => view.state = "cancelled".to_owned(),
    }
    Ok(Json(view))
}

/// A message to publish. The payload is given once: as text, or in base64.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The subject.
    pub subject: String,
    /// The payload as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Headers, in order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// What was published.
#[derive(Debug, Serialize, Deserialize)]
pub struct PublishView {
    /// The subject.
    pub subject: String,
    /// Bytes of payload.
    pub bytes: usize,
}

pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem { status: StatusCode::BAD_REQUEST, code: "invalid", detail: detail.into() }
}

/// A payload that is given once: as text, or in base64.
fn decode(text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(invalid("give either payload or payload_base64, not both")),
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map(Bytes::from)
            .map_err(|error| invalid(format!("payload_base64: {error}"))),
        (None, None) => Ok(Bytes::new()),
    }
}

fn headers(pairs: Vec<(String, String)>) -> Headers {
    let headers: Vec<_> = pairs.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
    if headers.is_empty() { Headers::None } else { Headers::List(headers) }
}

async fn publish(State(engine): App, Json(request): Json<PublishRequest>) -> Answer<PublishView> {
    let payload = decode(request.payload, request.payload_base64)?;
    let headers = headers(request.headers);
    let bytes = payload.len();
    let message = Message { subject: request.subject.as_str().into(), reply: None, headers, payload };
    engine.bus.publish_durably(message).await.map_err(|error| {
        let (status, code) = match error {
            BusError::InvalidSubject { .. } => (StatusCode::BAD_REQUEST, "invalid_subject"),
            BusError::InvalidHeader { .. } => (StatusCode::BAD_REQUEST, "invalid_header"),
            BusError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            BusError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "bus_unavailable"),
        };
        Problem { status, code, detail: error.to_string() }
    })?;
    Ok(Json(PublishView { subject: request.subject, bytes }))
}

/// A job to put in a queue. The payload is given once: as text, or in base64.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnqueueRequest {
    /// The payload as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Media type of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Headers, in order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Identity of the job: a second one with it is the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Not before so many seconds have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<f64>,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
}

/// A job that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnqueueView {
    /// Its invocation: the first one's, for a duplicate.
    pub invocation_id: Uuid,
    /// Whether a job with its key was kept before.
    pub duplicate: bool,
}

/// When a job may run.
fn due(
    now: DateTime<Utc>,
    delay_seconds: Option<f64>,
    run_at: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, Problem> {
    match (delay_seconds, run_at) {
        (Some(_), Some(_)) => Err(invalid("give either delay_seconds or run_at, not both")),
        (None, run_at) => Ok(run_at),
        (Some(seconds), None) => {
            let delay = std::time::Duration::try_from_secs_f64(seconds)
                .map_err(|error| invalid(format!("delay_seconds {seconds}: {error}")))?;
            let due = chrono::TimeDelta::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay));
            due.map(Some).ok_or_else(|| invalid(format!("delay_seconds {seconds}: too far ahead")))
        }
    }
}

async fn enqueue(
    State(engine): App,
    Path(queue): Path<String>,
    Json(request): Json<EnqueueRequest>,
) -> Result<(StatusCode, Json<EnqueueView>), Problem> {
    let Some(jobs) = engine.jobs.clone() else { return Err(Problem::not_found("job queue in this build")) };
    let job = NewJob {
        payload: decode(request.payload, request.payload_base64)?,
        content_type: request.content_type.map(String::into_boxed_str),
        headers: headers(request.headers),
        key: request.key.map(String::into_boxed_str),
        run_at: due(engine.clock.now(), request.delay_seconds, request.run_at)?,
    };
    let accepted = jobs.enqueue(&queue, job).await.map_err(|error| {
        let (status, code) = match &error {
            EnqueueError::UnknownQueue { .. } => (StatusCode::NOT_FOUND, "unknown_queue"),
            EnqueueError::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid"),
            EnqueueError::Refused(refused) => match refused.reason {
                Shed::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, refused.reason.as_str()),
                reason => (StatusCode::SERVICE_UNAVAILABLE, reason.as_str()),
            },
        };
        Problem { status, code, detail: error.to_string() }
    })?;
    let view = EnqueueView { invocation_id: accepted.invocation_id, duplicate: accepted.duplicate };
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// What a reload did.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReloadView {
    /// Every function: name, version that serves, whether it is new.
    pub functions: Vec<(String, u32, bool)>,
}

async fn reload(State(engine): App) -> Answer<ReloadView> {
    match engine.reload().await {
        Ok(applied) => Ok(Json(ReloadView {
            functions: applied.functions.into_iter().map(|one| (one.name, one.version, one.created)).collect(),
        })),
        Err(EngineError::Store(error)) => Err(error.into()),
        Err(error @ EngineError::Bind(_)) => {
            Err(Problem { status: StatusCode::CONFLICT, code: "bind", detail: error.to_string() })
        }
        Err(EngineError::Manifest(report)) => Err(Problem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "manifest",
            detail: crate::cli::check::failure_text(&report, false),
        }),
        Err(error @ (EngineError::Executor(_) | EngineError::Housekeeping(_))) => {
            Err(Problem { status: StatusCode::INTERNAL_SERVER_ERROR, code: "engine", detail: error.to_string() })
        }
    }
}
