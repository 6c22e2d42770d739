//! What the command line asks: functions, triggers, traces, publishing, reload.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trigger_core::bus::BusError;
use trigger_core::{Binding, EnqueueError, Headers, Message, Refused, Shed, SkipReason, bounds};
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
        .route("/api/v1/publish", post(publish))
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

    pub(super) fn not_run(reason: SkipReason) -> Self {
        let status = StatusCode::from_u16(reason.status()).expect("the statuses of reasons are HTTP's");
        Self { status, code: reason.as_str(), detail: reason.detail().to_owned() }
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

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = StatusCode::from_u16(refused.reason.status()).expect("the statuses of reasons are HTTP's");
        Self { status, code: refused.reason.as_str(), detail: refused.message.into_owned() }
    }
}

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        let detail = error.to_string();
        match error {
            EnqueueError::UnknownQueue { .. } => Self { status: StatusCode::NOT_FOUND, code: "unknown_queue", detail },
            EnqueueError::UnknownTimer { .. } => Self { status: StatusCode::NOT_FOUND, code: "unknown_timer", detail },
            EnqueueError::Invalid { .. } => invalid(detail),
            EnqueueError::Refused(refused) => refused.into(),
        }
    }
}

impl From<bounds::Invalid> for Problem {
    fn from(error: bounds::Invalid) -> Self {
        invalid(error.to_string())
    }
}

/// A request's JSON body; what cannot be read is a problem like any other.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Json::<T>::from_request(request, state).await.map(|Json(body)| Self(body)).map_err(|rejection| match rejection
            .status()
        {
            StatusCode::PAYLOAD_TOO_LARGE => Problem {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                code: Shed::TooLarge.as_str(),
                detail: rejection.body_text(),
            },
            _ => invalid(rejection.body_text()),
        })
    }
}

/// A request's query; what cannot be read is a problem like any other.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| invalid(rejection.body_text()))
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
        let kind = [("content-type", "application/problem+json")];
        let mut response = (self.status, kind, body.to_string()).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
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
    /// When it was paused and why, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<store::Pause>,
}

async fn trigger_views(engine: &Engine) -> Result<Vec<TriggerView>, Problem> {
    let mut paused: HashMap<Binding, store::Pause> = engine.store.paused().await?.into_iter().collect();
    let triggers = engine.triggers().into_iter().map(|health| TriggerView {
        description: engine.describe(&health.row),
        paused: paused.remove(&health.row.binding),
        binding: health.row.binding,
        degraded: health.degraded,
    });
    Ok(triggers.collect())
}

async fn functions(State(engine): App) -> Answer<Listing<FunctionView>> {
    let triggers = trigger_views(&engine).await?;
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
                paused: trigger.paused.clone(),
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
    Ok(Json(Listing { items: trigger_views(&engine).await? }))
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
pub(super) fn decode(text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
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

pub(super) fn headers(pairs: Vec<(String, String)>) -> Headers {
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
