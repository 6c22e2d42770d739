//! Functions called by name, whatever triggers they have.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use trigger_core::{Answer as Answered, Custody, Dispatch as _, Failure, Refused, Response};
use uuid::Uuid;

use super::api::{Answer, App, Body, Problem, decode, headers};
use crate::engine::Engine;
use crate::executor::Functions as _;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/api/v1/functions/{name}/invoke", post(invoke))
}

/// What a function is called with.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvokeRequest {
    /// The payload, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Headers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Whether the event is kept and run later, with the definition's retries, instead of now and once.
    #[serde(default)]
    pub later: bool,
}

/// What came of the call.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct InvokedView {
    /// The invocation.
    pub invocation_id: Uuid,
    /// `ok`, `failed` or `cancelled`; `queued` where it is to run later.
    pub outcome: String,
    /// The answer, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The answer in base64, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The status of HTTP, if the guest chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

async fn invoke(
    State(engine): App,
    Path(name): Path<String>,
    Body(request): Body<InvokeRequest>,
) -> Answer<InvokedView> {
    let custody = if request.later { Custody::Engine } else { Custody::Caller };
    let payload = decode(request.payload, request.payload_base64)?;
    let event = engine.dispatcher.event(&engine.config.namespace, &name, custody, payload);
    let mut event = event.ok_or_else(|| Problem::not_found("function"))?;
    event.content_type = request.content_type.map(Into::into);
    event.headers = headers(request.headers);
    event.subject = name.into();
    event.adopt_lineage();
    let invocation_id = event.invocation_id;
    if request.later {
        let accepted = engine.dispatcher.accept(event).await?;
        return Ok(Json(view(accepted.invocation_id, "queued")));
    }
    let answered = match engine.dispatcher.dispatch(event).await {
        Answered::Ok(response) => of_response(invocation_id, response),
        Answered::Failed(failure)
        | Answered::Retry { failure, .. }
        | Answered::Kept(failure)
        | Answered::Dead { failure, .. } => InvokedView { failure: Some(failure), ..view(invocation_id, "failed") },
        Answered::Cancelled => view(invocation_id, "cancelled"),
        Answered::Skipped(reason) => return Err(Problem::not_run(reason)),
        Answered::Shed { reason, retry_after } => {
            return Err(Refused { reason, message: reason.detail().into(), retry_after }.into());
        }
    };
    Ok(Json(answered))
}

fn view(invocation_id: Uuid, outcome: &str) -> InvokedView {
    InvokedView { invocation_id, outcome: outcome.to_owned(), ..InvokedView::default() }
}

fn of_response(invocation_id: Uuid, response: Response) -> InvokedView {
    let (body, body_base64) = match String::from_utf8(response.body.into()) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes.as_bytes()))),
    };
    let status = response.http.map(|http| http.status.as_u16());
    InvokedView { body, body_base64, status, ..view(invocation_id, "ok") }
}
