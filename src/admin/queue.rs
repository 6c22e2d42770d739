//! What waits and what runs: rows of the queue, blocked ordering keys, pauses, the ledger.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::Binding;
use uuid::Uuid;

use super::api::{Answer, App, Asked, Body, Listing, MAX_LIMIT, Problem, invalid};
use crate::engine::Engine;
use crate::store::{BlockedKey, LedgerRow, Pause, QueueFilter, QueueRow};

/// The longest note of a pause, in bytes.
const MAX_NOTE_BYTES: usize = 1_000;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/ordering-keys", get(blocked_keys))
        .route("/api/v1/ledger", get(ledger))
        .route("/api/v1/triggers/{namespace}/{function}/{trigger}/pause", post(pause_trigger))
        .route("/api/v1/triggers/{namespace}/{function}/{trigger}/resume", post(resume_trigger))
}

/// Which page of a list of rows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowsQuery {
    /// Of the trigger behind this name: a queue's, or that of timers.
    pub(super) name: Option<String>,
    after: Option<DateTime<Utc>>,
    after_id: Option<Uuid>,
    limit: Option<u32>,
}

impl RowsQuery {
    /// The rows of triggers of a kind, or of one of them.
    pub(super) async fn rows(self, engine: &Engine, kind: &str, of: Option<&Binding>) -> Answer<Listing<QueueRow>> {
        let after = match (self.after, self.after_id) {
            (Some(after), Some(id)) => Some((after, id)),
            (None, None) => None,
            _ => return Err(invalid("after and after_id go together: run_at and invocation_id of the last row")),
        };
        let filter = QueueFilter {
            namespace: Some(engine.config.namespace.clone()),
            function_name: of.map(|binding| binding.function_name.to_string()),
            trigger_id: of.map(|binding| binding.trigger_id.to_string()),
            trigger_type: Some(kind.to_owned()),
            after,
            limit: self.limit.unwrap_or(50).clamp(1, MAX_LIMIT),
        };
        Ok(Json(Listing { items: engine.store.queue(filter).await? }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysQuery {
    limit: Option<u32>,
}

/// Ordering keys whose events wait behind one that has failed.
async fn blocked_keys(State(engine): App, Asked(query): Asked<KeysQuery>) -> Answer<Listing<BlockedKey>> {
    let limit = query.limit.unwrap_or(50).clamp(1, MAX_LIMIT);
    Ok(Json(Listing { items: engine.store.blocked_keys(limit).await? }))
}

/// Where every event of a trigger is.
#[derive(Debug, Serialize, Deserialize)]
pub struct LedgerView {
    /// Accepted, waiting, running and ended.
    #[serde(flatten)]
    pub row: LedgerRow,
    /// What is accepted and nowhere: 0, unless something was lost (above) or counted twice (below).
    pub drift: i64,
    /// How long ago the oldest event that is due and waits was due, in seconds.
    pub lag_seconds: Option<f64>,
}

async fn ledger(State(engine): App) -> Answer<Listing<LedgerView>> {
    // What this engine has counted since it last told the store is told first.
    engine.dispatcher.tell_ledger().await;
    let rows = engine.store.ledger().await?;
    let now = engine.clock.now();
    let items = rows.into_iter().map(|row| {
        let lag = row.oldest_due.map(|due| (now - due).to_std().unwrap_or_default());
        LedgerView { drift: row.drift(), lag_seconds: lag.map(|lag| lag.as_secs_f64()), row }
    });
    Ok(Json(Listing { items: items.collect() }))
}

/// Why a trigger is to be paused.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// For whoever wonders later.
    #[serde(default)]
    pub note: String,
}

/// What became of a pause.
#[derive(Debug, Serialize, Deserialize)]
pub struct PauseView {
    /// The trigger.
    pub trigger: String,
    /// Whether it is paused now.
    pub paused: bool,
}

/// Pauses a trigger: its events are taken and kept, and none of them runs, until somebody resumes it.
pub(super) async fn pause(engine: &Engine, binding: &Binding, note: String) -> Answer<PauseView> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(invalid(format!("note: it has {} bytes, the limit is {MAX_NOTE_BYTES}", note.len())));
    }
    set(engine, binding, Some(Pause { since: engine.clock.now(), note })).await
}

/// Lets a trigger go on.
pub(super) async fn resume(engine: &Engine, binding: &Binding) -> Answer<PauseView> {
    set(engine, binding, None).await
}

async fn set(engine: &Engine, binding: &Binding, pause: Option<Pause>) -> Answer<PauseView> {
    let paused = pause.is_some();
    if !engine.store.pause(binding.clone(), pause).await? {
        return Err(Problem::not_found("trigger"));
    }
    engine.dispatcher.learn_pauses().await;
    engine.dispatcher.look();
    Ok(Json(PauseView { trigger: binding.path(), paused }))
}

/// A trigger that the manifest has.
fn find(engine: &Engine, (namespace, function, trigger): &(String, String, String)) -> Result<Binding, Problem> {
    let triggers = engine.triggers().into_iter().map(|health| health.row.binding);
    let mut found = triggers.filter(|binding| {
        *binding.namespace == **namespace && *binding.function_name == **function && *binding.trigger_id == **trigger
    });
    found.next().ok_or_else(|| Problem::not_found("trigger"))
}

async fn pause_trigger(
    State(engine): App,
    Path(path): Path<(String, String, String)>,
    Body(request): Body<PauseRequest>,
) -> Answer<PauseView> {
    pause(&engine, &find(&engine, &path)?, request.note).await
}

async fn resume_trigger(State(engine): App, Path(path): Path<(String, String, String)>) -> Answer<PauseView> {
    resume(&engine, &find(&engine, &path)?).await
}
