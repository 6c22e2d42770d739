//! Health and metrics (Prometheus text format 0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use trigger_core::Binding;

use super::clock::ClockView;
use crate::dispatch::breaker::Room;
use crate::engine::Engine;
use crate::housekeeping::Chore;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
}

/// Ready while the store answers. A trigger or a bus that is away is told, but the others work, so it does not make
/// the engine unready.
async fn ready(State(engine): State<Arc<Engine>>) -> Response {
    let degraded: Vec<String> =
        engine
            .bus
            .degraded()
            .map(|why| format!("bus: {why}"))
            .into_iter()
            .chain(engine.triggers().into_iter().filter_map(|trigger| {
                trigger.degraded.map(|why| format!("trigger {}: {why}", trigger.row.binding.path()))
            }))
            .chain(crowded(&engine))
            .collect();
    let store = engine.store.depths().await;
    let status = if store.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "ready": store.is_ok(),
        "store": store.err().map(|error| error.to_string()),
        "degraded": degraded,
        "clock": ClockView::of(&engine),
    });
    (status, axum::Json(body)).into_response()
}

/// That there are more dead letters than there should be.
fn crowded(engine: &Engine) -> Option<String> {
    let over = engine.housekeeping.counts().dead_letters_over();
    (over > 0).then(|| format!("dead letters: {over} more than dead_letters.max_rows; redrive or purge some"))
}

/// A label's value, escaped as the format asks.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The labels of a trigger.
fn labels(binding: &Binding) -> String {
    format!(
        "namespace=\"{}\",function=\"{}\",trigger=\"{}\",kind=\"{}\"",
        escape(&binding.namespace),
        escape(&binding.function_name),
        escape(&binding.trigger_id),
        binding.trigger_type
    )
}

async fn metrics(State(engine): State<Arc<Engine>>) -> Response {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let mut accepted = Vec::new();
    let mut outcomes = Vec::new();
    let mut retries = Vec::new();
    let mut gaps = Vec::new();
    for (binding, counters) in engine.dispatcher.ledger().all() {
        let labels = labels(&binding);
        if counters.gaps() > 0 {
            gaps.push((format!("{{{labels}}}"), counters.gaps()));
        }
        for (name, reason, count) in counters.read() {
            match name {
                "accepted" => accepted.push((format!("{{{labels}}}"), count)),
                "retries" => retries.push((format!("{{{labels},code=\"{}\"}}", reason.unwrap_or_default()), count)),
                outcome => outcomes.push((
                    format!("{{{labels},outcome=\"{outcome}\",reason=\"{}\"}}", reason.unwrap_or_default()),
                    count,
                )),
            }
        }
    }
    family("tripline_events_accepted_total", "counter", "Events taken in.", accepted);
    family("tripline_invocations_total", "counter", "Invocations ended, by outcome.", outcomes);
    family("tripline_retries_total", "counter", "Attempts that failed and are tried again.", retries);
    family(
        "tripline_source_gaps_total",
        "counter",
        "Times in which a source that repeats nothing was not listened to.",
        gaps,
    );
    let plain = |value: u64| vec![(String::new(), value)];
    family("tripline_attempts_running", "gauge", "Attempts under way.", plain(engine.dispatcher.running() as u64));
    let now = engine.clock.now();
    let circuits = engine.registry.all().into_iter().filter(|route| route.breaker.is_armed()).map(|route| {
        let definition = &route.version.load().definition;
        let (namespace, function) = (escape(&definition.namespace), escape(&definition.name));
        let open = u64::from(route.breaker.room(now) != Room::All);
        (format!("{{namespace=\"{namespace}\",function=\"{function}\"}}"), open)
    });
    family("tripline_circuit_open", "gauge", "Whether a function is left alone because it fails.", circuits.collect());
    if let Ok(depths) = engine.store.depths().await {
        family("tripline_queue_depth", "gauge", "Rows that wait.", plain(depths.queued));
        family("tripline_dead_letters", "gauge", "Dead letters kept.", plain(depths.dead));
        family("tripline_outbox_depth", "gauge", "Messages the bus has not taken yet.", plain(depths.outbox));
    }
    engine.dispatcher.tell_ledger().await;
    if let Ok(ledger) = engine.store.ledger().await {
        let (mut lags, mut drifts) = (Vec::new(), Vec::new());
        for row in ledger {
            let labels = format!("{{{}}}", labels(&row.binding));
            let lag = row.oldest_due.map_or(0, |due| (now - due).num_seconds().max(0).unsigned_abs());
            lags.push((labels.clone(), lag));
            drifts.push((labels, row.drift().unsigned_abs()));
        }
        family("tripline_queue_lag_seconds", "gauge", "How long ago the oldest row that waits was due.", lags);
        family("tripline_ledger_drift", "gauge", "Events that are accepted and nowhere, or counted twice.", drifts);
    }
    let chores = engine.housekeeping.counts();
    let removed = chores.removed().into_iter().map(|(what, count)| (format!("{{what=\"{what}\"}}"), count));
    family("tripline_retention_removed_total", "counter", "Rows that retention removed.", removed.collect());
    family(
        "tripline_dead_letters_over",
        "gauge",
        "Dead letters beyond max_rows that are kept all the same.",
        plain(chores.dead_letters_over()),
    );
    let chore = |chore: Chore, count: u64| (format!("{{chore=\"{}\"}}", chore.as_str()), count);
    let runs = Chore::ALL.map(|one| chore(one, chores.runs(one).0)).to_vec();
    let failures = Chore::ALL.map(|one| chore(one, chores.runs(one).1)).to_vec();
    family("tripline_chore_runs_total", "counter", "Runs of the engine's chores.", runs);
    family("tripline_chore_failures_total", "counter", "Runs that failed and are left for the next time.", failures);
    let refused = engine.relay.refused();
    let refused = refused.into_iter().map(|(database, rows)| (format!("{{database=\"{}\"}}", escape(database)), rows));
    family(
        "tripline_database_outbox_refused",
        "gauge",
        "Rows of tripline_outbox in guests' databases that this engine did not write, or cannot take.",
        refused.collect(),
    );
    let refused = (engine.refusals)().into_iter().map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count));
    family(
        "tripline_http_refused_total",
        "counter",
        "Connections and requests that the public listener refused before any function heard of them.",
        refused.collect(),
    );
    if let Some(others) = engine.sockets.as_ref().and_then(|sockets| sockets.others()) {
        family("tripline_socket_peers", "gauge", "Other engines that share their sockets.", plain(others.alive as u64));
        let lost = [("refused", others.refused), ("unsaid", others.unsaid), ("missed", others.missed)];
        family(
            "tripline_socket_peers_lost_total",
            "counter",
            "Messages between engines that share their sockets: refused, never said, or said and never heard.",
            lost.map(|(what, count)| (format!("{{what=\"{what}\"}}"), count)).into(),
        );
    }
    let cache = engine.executor.cache_counts();
    family("tripline_module_cache_hits_total", "counter", "Compiled modules found in memory.", plain(cache.hits));
    family("tripline_module_cache_misses_total", "counter", "Compiled modules not in memory.", plain(cache.misses));
    family("tripline_module_compiles_total", "counter", "Modules compiled.", plain(cache.compiles));
    let panics = engine.executor.panics();
    family(
        "tripline_executor_panics_total",
        "counter",
        "Attempts ended by a panic of the engine's own.",
        plain(panics),
    );
    family("tripline_traces_recorded_total", "counter", "Attempts recorded in memory.", plain(engine.ring.total()));
    family("tripline_traces_lost_total", "counter", "Records that never became rows.", plain(engine.traces.lost()));
    family(
        "tripline_traces_sampled_out_total",
        "counter",
        "Successes not stored, to keep within ok_rows_per_second.",
        plain(engine.traces.sampled_out()),
    );
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}
