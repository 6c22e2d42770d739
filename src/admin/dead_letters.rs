//! Dead letters over the API: one selector for listing, counting, redriving and purging.
//!
//! What is done to many is done in steps: a request does one, of bounded size, and answers where the next one goes on.
//! Nothing runs on when nobody asks; how fast it goes is the asker's choice, and asking again from the start goes on
//! with what is left. What dies while the steps are under way is not selected: an event that dies again would come
//! round for ever.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::DeadReason;
use uuid::Uuid;

use super::api::{Answer, App, Listing, MAX_LIMIT, Problem, invalid};
use crate::engine::Engine;
use crate::store::{
    DeadLetterPage, DeadLetterPosition, DeadLetterSelector, DeadLetterSummary, MAX_SELECTED_IDS, RedriveState,
    Redriven, SelectedDeadLetter,
};

/// Dead letters that one step redrives.
const MAX_REDRIVE_STEP: u32 = 100;

/// Dead letters that one step purges.
const MAX_PURGE_STEP: u32 = 500;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/dead-letters", get(list))
        .route("/api/v1/dead-letters/count", get(count))
        .route("/api/v1/dead-letters/redrive", post(redrive_step))
        .route("/api/v1/dead-letters/outcomes", post(outcomes))
        .route("/api/v1/dead-letters/purge", post(purge_step))
        .route("/api/v1/dead-letters/{invocation_id}", get(show))
        .route("/api/v1/dead-letters/{invocation_id}/redrive", post(redrive))
}

/// A selector in a query string, and what page of a list is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLetterQuery {
    namespace: Option<String>,
    function: Option<String>,
    trigger: Option<String>,
    reason: Option<DeadReason>,
    version: Option<u32>,
    died_after: Option<DateTime<Utc>>,
    died_before: Option<DateTime<Utc>>,
    text: Option<String>,
    /// Separated by commas.
    ids: Option<String>,
    #[serde(default)]
    include_redriven: bool,
    before: Option<DateTime<Utc>>,
    before_id: Option<Uuid>,
    limit: Option<u32>,
}

impl DeadLetterQuery {
    fn selector(self, engine: &Engine) -> Result<DeadLetterSelector, Problem> {
        let ids = self.ids.as_deref().unwrap_or_default();
        let ids = ids.split(',').filter(|id| !id.is_empty());
        let ids = ids.map(|id| id.parse().map_err(|_| invalid("ids: they are UUIDs, separated by commas")));
        let selector = DeadLetterSelector {
            namespace: self.namespace,
            function_name: self.function,
            trigger_id: self.trigger,
            reason: self.reason,
            version: self.version,
            died_after: self.died_after,
            died_before: self.died_before,
            text: self.text,
            ids: ids.collect::<Result<_, _>>()?,
            include_redriven: self.include_redriven,
        };
        checked(selector, engine)
    }
}

/// A selector that can be asked for. Where it names no namespace it is the engine's own.
fn checked(mut selector: DeadLetterSelector, engine: &Engine) -> Result<DeadLetterSelector, Problem> {
    selector.check().map_err(invalid)?;
    selector.namespace.get_or_insert_with(|| engine.config.namespace.clone());
    Ok(selector)
}

async fn list(State(engine): App, Query(query): Query<DeadLetterQuery>) -> Answer<Listing<DeadLetterSummary>> {
    // Behind a moment without an id: everything that died before it.
    let behind = query
        .before
        .map(|died_at| DeadLetterPosition { died_at, invocation_id: query.before_id.unwrap_or(Uuid::nil()) });
    let limit = query.limit.unwrap_or(50).clamp(1, MAX_LIMIT);
    let page = DeadLetterPage { selector: query.selector(&engine)?, behind, limit };
    Ok(Json(Listing { items: engine.store.dead_letters(page).await? }))
}

/// How many are selected.
#[derive(Debug, Serialize, Deserialize)]
pub struct CountView {
    /// Dead letters.
    pub count: u64,
}

async fn count(State(engine): App, Query(query): Query<DeadLetterQuery>) -> Answer<CountView> {
    if query.before.is_some() || query.before_id.is_some() || query.limit.is_some() {
        return Err(invalid("before, before_id and limit are a list's; a count takes died_before"));
    }
    let selector = query.selector(&engine)?;
    Ok(Json(CountView { count: engine.store.dead_letter_count(selector).await? }))
}

async fn show(State(engine): App, Path(invocation_id): Path<Uuid>) -> Answer<serde_json::Value> {
    let found = engine.store.dead_letter(invocation_id).await?;
    let (dead, redriven_at) = found.ok_or_else(|| Problem::not_found("dead letter"))?;
    let mut envelope = dead.envelope();
    envelope["data"]["redriven_at"] = serde_json::json!(redriven_at);
    Ok(Json(envelope))
}

/// What a redrive did.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveView {
    /// The dead letter's invocation, which runs again under the same id.
    pub invocation_id: Uuid,
    /// `queued`; `already` where it was redriven before and has not died since; `unreadable` where what is kept of it
    /// cannot be read; `unknown` where it was purged meanwhile.
    pub state: String,
}

fn word(redriven: Redriven) -> &'static str {
    match redriven {
        Redriven::Queued => "queued",
        Redriven::Already => "already",
        Redriven::Unknown => "unknown",
        Redriven::Unreadable => "unreadable",
    }
}

async fn redrive(State(engine): App, Path(invocation_id): Path<Uuid>) -> Answer<RedriveView> {
    match engine.dispatcher.redrive(invocation_id).await? {
        Redriven::Unknown => Err(Problem::not_found("dead letter")),
        redriven => Ok(Json(RedriveView { invocation_id, state: word(redriven).to_owned() })),
    }
}

/// Where the next step goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepPosition {
    /// When the last dead letter of the step before died.
    pub died_at: DateTime<Utc>,
    /// Its invocation.
    pub invocation_id: Uuid,
    /// When the first step began: what died since is not selected.
    pub until: DateTime<Utc>,
}

/// A step of a redrive.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedriveRequest {
    /// Which dead letters; `include_redriven` has those answered as well that need no redrive.
    pub selector: DeadLetterSelector,
    /// That a selector which selects everything is meant.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The version of their functions to run them on, instead of the routed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// At most this many, and 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the step before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<StepPosition>,
    /// Only tell how many are selected.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a step of a redrive did.
#[derive(Debug, Serialize, Deserialize)]
pub struct RedriveStep {
    /// How many are selected: told by a dry run only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<u64>,
    /// What became of each, the longest dead first.
    pub items: Vec<RedriveView>,
    /// Where the next step goes on; `None` behind the last one.
    pub next: Option<StepPosition>,
}

/// A selector that something is to be done about.
fn selected(selector: DeadLetterSelector, all: bool, engine: &Engine) -> Result<DeadLetterSelector, Problem> {
    if selector.selects_everything() && !all {
        return Err(invalid("the selector selects everything: narrow it, or say \"all\": true"));
    }
    checked(selector, engine)
}

/// The dead letters of a step, and the moment that bounds all of them.
async fn step_of(
    engine: &Engine,
    selector: &DeadLetterSelector,
    from: Option<StepPosition>,
    limit: u32,
) -> Result<(Vec<SelectedDeadLetter>, DateTime<Utc>), Problem> {
    // What dies at this very moment is selected still.
    let until = from.map_or_else(|| engine.clock.now() + TimeDelta::microseconds(1), |from| from.until);
    let died_before = selector.died_before.map_or(until, |moment| moment.min(until));
    let bounded = DeadLetterSelector { died_before: Some(died_before), ..selector.clone() };
    let behind = from.map(|from| DeadLetterPosition { died_at: from.died_at, invocation_id: from.invocation_id });
    Ok((engine.store.select_dead_letters(bounded, behind, limit).await?, until))
}

async fn redrive_step(State(engine): App, Json(request): Json<RedriveRequest>) -> Answer<RedriveStep> {
    let RedriveRequest { selector, all, version, limit, from, dry_run } = request;
    let selector = selected(selector, all, &engine)?;
    let limit = limit.unwrap_or(MAX_REDRIVE_STEP).clamp(1, MAX_REDRIVE_STEP);
    let (letters, until) = step_of(&engine, &selector, from, limit).await?;
    if let Some(version) = version {
        check_version(&engine, &selector, &letters, version).await?;
    }
    if dry_run {
        let selected = Some(engine.store.dead_letter_count(selector).await?);
        return Ok(Json(RedriveStep { selected, items: Vec::new(), next: None }));
    }
    let ids: Vec<Uuid> = letters.iter().map(|letter| letter.position.invocation_id).collect();
    let redriven = match ids.is_empty() {
        true => Vec::new(),
        false => engine.dispatcher.redrive_all(ids, version).await?,
    };
    // Large events end a step early: the next one begins behind what was done.
    let done = redriven.len();
    let ended = letters.len() < limit as usize && done == letters.len();
    let items = letters.iter().zip(redriven).map(|(letter, redriven)| RedriveView {
        invocation_id: letter.position.invocation_id,
        state: word(redriven).to_owned(),
    });
    let items = items.collect();
    Ok(Json(RedriveStep { selected: None, items, next: next(&letters[..done], ended, until) }))
}

fn next(done: &[SelectedDeadLetter], ended: bool, until: DateTime<Utc>) -> Option<StepPosition> {
    let DeadLetterPosition { died_at, invocation_id } = done.last().filter(|_| !ended)?.position;
    Some(StepPosition { died_at, invocation_id, until })
}

/// The chosen version must be there for every function that it is chosen for.
async fn check_version(
    engine: &Engine,
    selector: &DeadLetterSelector,
    letters: &[SelectedDeadLetter],
    version: u32,
) -> Result<(), Problem> {
    let mut functions: HashSet<(&str, &str)> =
        letters.iter().map(|letter| (letter.namespace.as_str(), letter.function_name.as_str())).collect();
    if let (Some(namespace), Some(name)) = (&selector.namespace, &selector.function_name) {
        functions.insert((namespace, name));
    }
    for (namespace, name) in functions {
        if engine.store.version(namespace.to_owned(), name.to_owned(), version).await?.is_none() {
            let detail = format!("the function {name} has no version {version}; `tripline versions {name}` lists them");
            return Err(Problem { status: StatusCode::NOT_FOUND, code: "unknown_version", detail });
        }
    }
    Ok(())
}

/// Which redriven events.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomesRequest {
    /// Their invocations.
    pub ids: Vec<Uuid>,
}

/// How redriven events stand.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomesView {
    /// One for each of the ids, in their order.
    pub states: Vec<RedriveState>,
}

async fn outcomes(State(engine): App, Json(request): Json<OutcomesRequest>) -> Answer<OutcomesView> {
    if request.ids.len() > MAX_SELECTED_IDS {
        return Err(invalid(format!("ids: {} are given, at most {MAX_SELECTED_IDS} are taken", request.ids.len())));
    }
    Ok(Json(OutcomesView { states: engine.store.redrive_states(request.ids).await? }))
}

/// A step of a purge.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeRequest {
    /// Which dead letters.
    pub selector: DeadLetterSelector,
    /// That a selector which selects everything is meant.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// At most this many, and 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the step before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<StepPosition>,
    /// Only tell how many are selected.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a step of a purge did.
#[derive(Debug, Serialize, Deserialize)]
pub struct PurgeStep {
    /// How many are selected: told by a dry run only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<u64>,
    /// How many are gone.
    pub purged: u64,
    /// Where the next step goes on; `None` behind the last one.
    pub next: Option<StepPosition>,
}

async fn purge_step(State(engine): App, Json(request): Json<PurgeRequest>) -> Answer<PurgeStep> {
    let PurgeRequest { selector, all, limit, from, dry_run } = request;
    let selector = selected(selector, all, &engine)?;
    if dry_run {
        let selected = Some(engine.store.dead_letter_count(selector).await?);
        return Ok(Json(PurgeStep { selected, purged: 0, next: None }));
    }
    let limit = limit.unwrap_or(MAX_PURGE_STEP).clamp(1, MAX_PURGE_STEP);
    let (letters, until) = step_of(&engine, &selector, from, limit).await?;
    let positions: Vec<DeadLetterPosition> = letters.iter().map(|letter| letter.position).collect();
    let purged = match positions.is_empty() {
        true => 0,
        false => engine.store.purge_dead_letters(positions, selector.include_redriven).await?,
    };
    let ended = letters.len() < limit as usize;
    if purged > 0 {
        tracing::info!(purged, selector = %serde_json::json!(selector), "dead letters were purged");
    }
    Ok(Json(PurgeStep { selected: None, purged, next: next(&letters, ended, until) }))
}
