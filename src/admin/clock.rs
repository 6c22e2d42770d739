//! The engine's clock: what it shows, and moving it where it is a virtual one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::api::{Answer, App, Problem, invalid};
use crate::advance::{Error, Limits};
use crate::engine::Engine;

/// The last year that a clock is moved into: moments after it have no common way of writing.
const LAST_YEAR: i32 = 9999;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/api/v1/clock", get(clock)).route("/api/v1/clock/advance", post(advance))
}

/// Whose clock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockMode {
    /// The machine's.
    System,
    /// One that stands still until it is moved.
    Virtual,
}

/// The engine's clock.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClockView {
    /// Whose it is.
    pub mode: ClockMode,
    /// What it shows.
    pub now: DateTime<Utc>,
    /// The next moment at which something is due, where a virtual clock stands and something waits for one.
    pub next: Option<DateTime<Utc>>,
    /// What is under way where a virtual clock stands.
    pub busy: Vec<BusyView>,
}

/// Something under way.
#[derive(Debug, Serialize, Deserialize)]
pub struct BusyView {
    /// What it is.
    pub what: String,
    /// How many of it.
    pub count: usize,
}

/// Where to move the clock to. Exactly one of the two is given.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceRequest {
    /// By how much: `3d`, `90s`, `1h 30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// To which moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
}

/// How far the clock was moved.
#[derive(Debug, Serialize, Deserialize)]
pub struct AdvanceView {
    /// What it shows.
    pub now: DateTime<Utc>,
    /// Where it was to be moved to.
    pub target: DateTime<Utc>,
    /// Whether it is there. If not, this call took long enough: another one with `to` goes on.
    pub reached: bool,
    /// How many moments it stopped at, since something was due then.
    pub stops: u64,
}

impl ClockView {
    pub(super) fn of(engine: &Engine) -> Self {
        let time = engine.clock.virtual_time();
        let busy = time.map(|time| time.busy()).unwrap_or_default();
        Self {
            mode: if time.is_some() { ClockMode::Virtual } else { ClockMode::System },
            now: engine.clock.now(),
            next: time.and_then(|time| time.next()),
            busy: busy.into_iter().map(|(what, count)| BusyView { what, count }).collect(),
        }
    }
}

async fn clock(State(engine): App) -> Json<ClockView> {
    Json(ClockView::of(&engine))
}

/// The moment that a request means.
fn target(now: DateTime<Utc>, request: AdvanceRequest) -> Result<DateTime<Utc>, Problem> {
    let (target, asked) = match (request.by, request.to) {
        (Some(by), None) => {
            let delay = humantime::parse_duration(&by)
                .map_err(|error| invalid(format!("by {by:?} is no duration like \"3d\" or \"1h 30m\": {error}")))?;
            let delay = TimeDelta::from_std(delay).ok();
            (delay.and_then(|delay| now.checked_add_signed(delay)), format!("by {by:?}"))
        }
        (None, Some(to)) => (Some(to), format!("to {to}")),
        _ => return Err(invalid("give either by or to")),
    };
    target
        .filter(|target| target.year() <= LAST_YEAR)
        .ok_or_else(|| invalid(format!("{asked} leads beyond the year {LAST_YEAR}")))
}

async fn advance(State(engine): App, Json(request): Json<AdvanceRequest>) -> Answer<AdvanceView> {
    let target = target(engine.clock.now(), request)?;
    let moved = engine.advance.to(target, Limits::default()).await.map_err(|error| {
        let (status, code) = match &error {
            Error::NotVirtual => (StatusCode::CONFLICT, "clock_not_virtual"),
            Error::Moving => (StatusCode::CONFLICT, "clock_moving"),
            Error::Backwards(_) => (StatusCode::BAD_REQUEST, "clock_backwards"),
            Error::Busy { .. } => (StatusCode::CONFLICT, "clock_busy"),
            Error::Store { .. } => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
        };
        Problem { status, code, detail: error.to_string() }
    })?;
    Ok(Json(AdvanceView { now: moved.now, target, reached: moved.reached, stops: moved.stops }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(by: Option<&str>, to: Option<&str>) -> Result<String, String> {
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let request = AdvanceRequest { by: by.map(str::to_owned), to: to.map(|to| to.parse().unwrap()) };
        target(now, request).map(|target| target.to_rfc3339()).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_target_is_a_moment_or_a_distance() {
        assert_eq!(asked(Some("3d"), None).unwrap(), "2027-01-04T00:00:00+00:00");
        assert_eq!(asked(Some("1h 30m"), None).unwrap(), "2027-01-01T01:30:00+00:00");
        assert_eq!(asked(None, Some("2027-01-02T00:00:00+01:00")).unwrap(), "2027-01-01T23:00:00+00:00");
    }

    #[test]
    fn what_is_no_target_is_told_with_its_field() {
        for (by, to, part) in [
            (None, None, "either by or to"),
            (Some("1h"), Some("2027-01-02T00:00:00Z"), "either by or to"),
            (Some(""), None, "by \"\" is no duration"),
            (Some("3"), None, "by \"3\" is no duration"),
            (Some("-3d"), None, "by \"-3d\" is no duration"),
            (Some("3 fortnights"), None, "is no duration"),
            (Some("99999999999999999999y"), None, "is no duration"),
            (Some("9000y"), None, "beyond the year 9999"),
            (Some("500000000000y"), None, "beyond the year 9999"),
            (None, Some("+10000-01-01T00:00:00Z"), "beyond the year 9999"),
        ] {
            let error = asked(by, to).unwrap_err();
            assert!(error.contains(part), "{by:?} {to:?}: {error}");
        }
    }
}
