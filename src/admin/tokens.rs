//! Bearer tokens: made, listed, revoked.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::api::{Answer, App, Body, Listing, Problem, invalid};
use crate::engine::Engine;
use crate::store::TokenRow;
use crate::tokens::{Error, NewToken};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/api/v1/tokens", get(list).post(make)).route("/api/v1/tokens/{id}", delete(revoke))
}

/// A token to make.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// Whose it is.
    pub name: String,
    /// The functions that it may call, by name; `"*"` stands for every one.
    pub functions: Vec<String>,
    /// What else it may, in words that triggers ask for.
    pub scopes: Vec<String>,
    /// It is of no use when so many seconds have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u32>,
}

/// A token, without its secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenView {
    /// Its identity, which is no secret.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// The functions that it may call.
    pub functions: Vec<String>,
    /// What else it may.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it is of no use.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether that is so now.
    pub expired: bool,
}

/// A token that was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewTokenView {
    /// The token as it is presented: `Authorization: Bearer <token>`. It is told this once.
    pub token: String,
    /// What it may.
    #[serde(flatten)]
    pub view: TokenView,
}

/// A token that is no more.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevokedView {
    /// Its identity.
    pub id: String,
    /// Always true.
    pub revoked: bool,
}

impl TokenView {
    fn of(row: TokenRow, now: DateTime<Utc>) -> Self {
        let TokenRow { id, name, functions, scopes, created_at, expires_at, .. } = row;
        let expired = expires_at.is_some_and(|expires_at| expires_at <= now);
        Self { id, name, functions, scopes, created_at, expires_at, expired }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(detail) => invalid(detail),
            Error::TooMany => Self { status: StatusCode::CONFLICT, code: "too_many_tokens", detail: error.to_string() },
            Error::Store(error) => error.into(),
        }
    }
}

async fn make(
    State(engine): App,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<NewTokenView>), Problem> {
    let TokenRequest { name, functions, scopes, expires_in_seconds } = request;
    let now = engine.clock.now();
    let expires_at = expires_in_seconds.map(|seconds| now + TimeDelta::seconds(i64::from(seconds)));
    let (row, token) = engine.tokens.make(NewToken { name, functions, scopes, expires_at }).await?;
    Ok((StatusCode::CREATED, Json(NewTokenView { token, view: TokenView::of(row, now) })))
}

async fn list(State(engine): App) -> Answer<Listing<TokenView>> {
    let now = engine.clock.now();
    let tokens = engine.tokens.list().await?;
    Ok(Json(Listing { items: tokens.into_iter().map(|row| TokenView::of(row, now)).collect() }))
}

async fn revoke(State(engine): App, Path(id): Path<String>) -> Answer<RevokedView> {
    match engine.tokens.revoke(&id).await? {
        true => Ok(Json(RevokedView { id, revoked: true })),
        false => Err(Problem::not_found("token: it was never made, or was revoked before")),
    }
}
