//! What may keep the engine from holding what it promises, as far as it can be seen from here.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use trigger_core::Finding;

use super::api::{Answer, App, Listing};
use crate::engine::Engine;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/api/v1/doctor", get(doctor))
}

/// Something that was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindingView {
    /// The trigger that it is about, as namespace/function/trigger.
    pub trigger: String,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Asks every trigger's source, one after the other, and says which triggers cannot do their work now.
async fn doctor(State(engine): App) -> Answer<Listing<FindingView>> {
    let mut items = Vec::new();
    for health in engine.triggers() {
        let trigger = health.row.binding.path();
        let degraded = health.degraded.map(|why| Finding::new(why, "see to its source; the trigger goes on by itself"));
        let findings = engine.examine(&health.row).await;
        let found = degraded.into_iter().chain(findings);
        items.extend(found.map(|finding| FindingView { trigger: trigger.clone(), finding }));
    }
    Ok(Json(Listing { items }))
}
