//! CloudEvents over HTTP: one is a request like any other, a batch is many events of one request.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use trigger_core::cloud_event::{CloudEvent, CloudEvents};
use trigger_core::{Accepted, InvocationContext, TriggerContext};
use uuid::Uuid;

use crate::invocations::{self, json};
use crate::problem::Problem;

/// The events that a request's event carries.
pub(crate) fn read(event: &InvocationContext) -> Result<CloudEvents, Problem> {
    CloudEvents::read(event.content_type.as_deref(), event.headers.iter(), &event.payload)
        .map_err(|why| invalid(format!("the request is no CloudEvent: {why}")))
}

/// A batch came where its sender waits for the answer.
pub(crate) fn waits() -> Problem {
    invalid("a batch of CloudEvents is taken by a route with mode = \"async\" only".to_owned())
}

fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cloudevent", detail)
}

/// Has a batch kept: all of it, or what was kept is told apart from what was not by sending it again, since each event
/// has an identity.
pub(crate) async fn accept(
    cx: &TriggerContext,
    request: InvocationContext,
    batch: Vec<CloudEvent>,
) -> Result<Response<Full<Bytes>>, Problem> {
    #[derive(Serialize)]
    struct Kept {
        invocation_id: Uuid,
        status_url: String,
        duplicate: bool,
    }
    let events = batch.into_iter().map(|one| {
        let mut event = InvocationContext { invocation_id: Uuid::now_v7(), idempotency_key: None, ..request.clone() };
        one.apply(&mut event);
        event
    });
    let mut kept = Vec::new();
    for accepted in cx.dispatch.accept_all(events.collect()).await {
        let Accepted { invocation_id, duplicate, .. } =
            accepted.map_err(|refused| Problem::shed(refused.reason, refused.message, refused.retry_after))?;
        kept.push(Kept { invocation_id, status_url: invocations::status_url(invocation_id), duplicate });
    }
    Ok(json(StatusCode::ACCEPTED, &kept))
}
