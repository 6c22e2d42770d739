//! Schedules: what is due, what was made and what was not, and fires that somebody asks for.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use trigger_core::{Accepted, Binding, Dispatch as _, MAX_INSTANTS, Refused, Timetable};
use uuid::Uuid;

use super::api::{Answer, App, Listing, Problem, invalid};
use super::queue::{PauseRequest, PauseView};
use crate::engine::Engine;
use crate::store::{FireFilter, FireRow, Pause, TriggerRow};

/// The most events that one step of a backfill hands over.
const BACKFILL_BATCH: usize = 500;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/api/v1/schedules", get(list))
        .route("/api/v1/schedules/{name}/next", get(next))
        .route("/api/v1/schedules/{name}/fires", get(fires))
        .route("/api/v1/schedules/{name}/run", post(run_now))
        .route("/api/v1/schedules/{name}/backfill", post(backfill))
        .route("/api/v1/schedules/{name}/pause", post(pause))
        .route("/api/v1/schedules/{name}/resume", post(resume))
}

/// A trigger that has a schedule, and where it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct ScheduleView {
    /// The trigger.
    #[serde(flatten)]
    pub binding: Binding,
    /// Its schedule, in a line.
    pub description: String,
    /// When the newest fire on record was due.
    pub last_scheduled_at: Option<DateTime<Utc>>,
    /// The next instant; `None` when the schedule is over.
    pub next_at: Option<DateTime<Utc>>,
    /// When it was paused and why, if it is.
    pub paused: Option<Pause>,
    /// Why it cannot do its work at the moment.
    pub degraded: Option<String>,
}

/// An instant of a schedule.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstantView {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The same as clocks in the schedule's zone show it.
    pub local: String,
}

impl InstantView {
    /// What is told of an instant.
    pub fn of(timetable: &dyn Timetable, at: DateTime<Utc>) -> Self {
        Self { at, local: timetable.local(at) }
    }
}

/// What a fire that somebody asked for became.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunView {
    /// Its invocation.
    pub invocation_id: Uuid,
    /// When it counts as due.
    pub scheduled_at: DateTime<Utc>,
}

/// Which range of instants to make fires for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// The first moment of the range.
    pub from: DateTime<Utc>,
    /// The last moment of the range.
    pub to: DateTime<Utc>,
    /// Only tell which instants these are.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a backfill did, or would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackfillView {
    /// The instants whose fires were made now, or would be.
    pub fires: Vec<InstantView>,
    /// How many instants of the range had a fire already.
    pub made_before: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// A trigger with a schedule.
struct Scheduled {
    row: TriggerRow,
    timetable: Arc<dyn Timetable>,
    degraded: Option<String>,
}

fn scheduled(engine: &Engine) -> Vec<Scheduled> {
    let triggers = engine.triggers().into_iter();
    triggers
        .filter_map(|health| {
            let timetable = engine.timetable(&health.row)?;
            Some(Scheduled { row: health.row, timetable, degraded: health.degraded })
        })
        .collect()
}

/// The trigger that a name means: its path, or as much of it as is unique.
fn find(engine: &Engine, name: &str) -> Result<Scheduled, Problem> {
    let mut all = scheduled(engine);
    let means = |binding: &Binding| {
        let path = binding.path();
        let of_function = path.split_once('/').map_or("", |(_, rest)| rest);
        [path.as_str(), of_function, &binding.function_name, &binding.trigger_id].contains(&name)
    };
    let mut found = all.extract_if(.., |one| means(&one.row.binding));
    let (first, rest) = (found.next(), found.map(|one| one.row.binding.path()).collect::<Vec<_>>());
    match first {
        Some(first) if rest.is_empty() => Ok(first),
        Some(first) => Err(Problem {
            status: StatusCode::CONFLICT,
            code: "ambiguous",
            detail: format!("{name:?} is {} or {}: write which", first.row.binding.path(), rest.join(" or ")),
        }),
        None => {
            let known: Vec<_> = all.iter().map(|one| one.row.binding.path()).collect();
            let known = if known.is_empty() { "no trigger has one".to_owned() } else { known.join(", ") };
            Err(Problem {
                status: StatusCode::NOT_FOUND,
                code: "not_found",
                detail: format!("no schedule is called {name:?}; there is: {known}"),
            })
        }
    }
}

async fn list(State(engine): App) -> Answer<Listing<ScheduleView>> {
    let pauses = engine.store.paused().await?;
    let now = engine.clock.now();
    let mut items = Vec::new();
    for Scheduled { row, timetable, degraded } in scheduled(&engine) {
        let paused = pauses.iter().find(|(binding, _)| *binding == row.binding).map(|(_, pause)| pause.clone());
        items.push(ScheduleView {
            description: engine.describe(&row),
            last_scheduled_at: engine.store.last_scheduled(row.binding.clone()).await?,
            next_at: timetable.next_after(now),
            binding: row.binding,
            paused,
            degraded,
        });
    }
    Ok(Json(Listing { items }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NextQuery {
    after: Option<DateTime<Utc>>,
    count: Option<usize>,
}

async fn next(
    State(engine): App,
    Path(name): Path<String>,
    Query(query): Query<NextQuery>,
) -> Answer<Listing<InstantView>> {
    let Scheduled { timetable, .. } = find(&engine, &name)?;
    let count = query.count.unwrap_or(5).clamp(1, MAX_INSTANTS);
    let instants = timetable.next(query.after.unwrap_or(engine.clock.now()), count);
    Ok(Json(Listing { items: instants.into_iter().map(|at| InstantView::of(&*timetable, at)).collect() }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FireQuery {
    from: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    #[serde(default)]
    skipped: bool,
    limit: Option<u32>,
}

async fn fires(
    State(engine): App,
    Path(name): Path<String>,
    Query(query): Query<FireQuery>,
) -> Answer<Listing<FireRow>> {
    let Scheduled { row, .. } = find(&engine, &name)?;
    let filter = FireFilter {
        from: query.from,
        before: query.before,
        skipped_only: query.skipped,
        limit: query.limit.unwrap_or(50).clamp(1, crate::store::MAX_PAGE),
    };
    Ok(Json(Listing { items: engine.store.fires(row.binding, filter).await? }))
}

async fn run_now(State(engine): App, Path(name): Path<String>) -> Answer<RunView> {
    let Scheduled { row, timetable, .. } = find(&engine, &name)?;
    let now = engine.clock.now();
    let accepted = engine.dispatcher.accept(timetable.run_now(&Arc::new(row.binding), now)).await.map_err(refused)?;
    Ok(Json(RunView { invocation_id: accepted.invocation_id, scheduled_at: now }))
}

async fn backfill(
    State(engine): App,
    Path(name): Path<String>,
    Json(request): Json<BackfillRequest>,
) -> Answer<BackfillView> {
    let Scheduled { row, timetable, .. } = find(&engine, &name)?;
    let BackfillRequest { from, to, dry_run } = request;
    let now = engine.clock.now();
    if to < from {
        return Err(invalid(format!("to: {to} lies before {from}")));
    }
    if to > now {
        return Err(invalid(format!("to: {to} has not come yet; what comes fires by itself")));
    }
    let instants = timetable.between(from - TimeDelta::nanoseconds(1), to, MAX_INSTANTS + 1);
    if instants.len() > MAX_INSTANTS {
        return Err(invalid(format!(
            "more than {MAX_INSTANTS} instants lie between {from} and {to}: take it in parts"
        )));
    }
    let made = made(&engine, &row.binding, from, to).await?;
    let (before, wanted): (Vec<_>, Vec<_>) = instants.into_iter().partition(|instant| made.contains(instant));
    let mut view = BackfillView { fires: Vec::new(), made_before: before.len() as u64, dry_run };
    let binding = Arc::new(row.binding);
    for instants in wanted.chunks(BACKFILL_BATCH) {
        let answers = if dry_run {
            instants.iter().map(|_| None).collect::<Vec<_>>()
        } else {
            let events = instants.iter().map(|instant| timetable.backfill(&binding, *instant, now)).collect();
            engine.dispatcher.accept_all(events).await.into_iter().map(Some).collect()
        };
        for (instant, answer) in instants.iter().zip(answers) {
            match answer.transpose().map_err(refused)? {
                Some(Accepted { duplicate: true, .. }) => view.made_before += 1,
                _ => view.fires.push(InstantView::of(&*timetable, *instant)),
            }
        }
    }
    Ok(Json(view))
}

/// The instants of a range whose fires were made.
async fn made(
    engine: &Engine,
    binding: &Binding,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<std::collections::HashSet<DateTime<Utc>>, Problem> {
    let mut made = std::collections::HashSet::new();
    let mut before = Some(to + TimeDelta::microseconds(1));
    while before.is_some() {
        let filter = FireFilter { from: Some(from), before, skipped_only: false, limit: crate::store::MAX_PAGE };
        let page = engine.store.fires(binding.clone(), filter).await?;
        let full = page.len() == crate::store::MAX_PAGE as usize;
        before = page.last().filter(|_| full).map(|row| row.scheduled_at);
        // One that somebody asked for by hand owns no instant, though it may fall on one.
        let owns = |row: &FireRow| row.cause.as_deref().is_some_and(|cause| cause != "manual");
        made.extend(page.into_iter().filter(owns).map(|row| row.scheduled_at));
    }
    Ok(made)
}

async fn pause(
    State(engine): App,
    Path(name): Path<String>,
    Json(PauseRequest { note }): Json<PauseRequest>,
) -> Answer<PauseView> {
    let Scheduled { row, .. } = find(&engine, &name)?;
    super::queue::pause(&engine, &row.binding, note).await
}

async fn resume(State(engine): App, Path(name): Path<String>) -> Answer<PauseView> {
    let Scheduled { row, .. } = find(&engine, &name)?;
    super::queue::resume(&engine, &row.binding).await
}

fn refused(refused: Refused) -> Problem {
    Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: refused.reason.as_str(),
        detail: refused.message.into_owned(),
    }
}
