//! `tripline traces` and `tripline traces show`.

use super::client::{Client, query};
use super::show::{duration, json, line, print, size, table};
use super::{Traces, TracesCommand};
use crate::admin::{Listing, TraceView};
use crate::executor::Detail;
use crate::traces::TraceRow;

pub(super) async fn run(traces: Traces) -> anyhow::Result<()> {
    match traces.show {
        Some(TracesCommand::Show { invocation, remote }) => show(&Client::new(&remote)?, invocation).await,
        None => list(&Client::new(&traces.remote)?, traces).await,
    }
}

/// How an attempt ended, with its reason or failure code.
fn outcome(row: &TraceRow) -> String {
    let word = row.outcome.as_str();
    match (row.outcome.reason(), &row.failure) {
        (Some(reason), _) => format!("{word} ({reason})"),
        (None, Some(failure)) => format!("{word} ({})", failure.code),
        (None, None) => word.to_owned(),
    }
}

async fn list(client: &Client, traces: Traces) -> anyhow::Result<()> {
    let query =
        query(&[("function", traces.function), ("outcome", traces.outcome), ("limit", Some(traces.limit.to_string()))]);
    let listing: Listing<TraceRow> = client.get(&format!("/api/v1/traces{query}")).await?;
    if client.json {
        return json(&listing);
    }
    let mut table = table(&["TIME", "INVOCATION", "FUNCTION", "TRIGGER", "ATTEMPT", "OUTCOME", "TOOK"]);
    for row in &listing.items {
        let version = row.version.map(|version| format!("@{version}")).unwrap_or_default();
        table.add_row([
            row.started_at.format("%T%.3f").to_string(),
            row.invocation_id.to_string(),
            format!("{}{version}", row.binding.function_name),
            row.binding.trigger_id.to_string(),
            row.attempt.to_string(),
            outcome(row),
            duration(row.phases.total()),
        ]);
    }
    print(&table, "no traces yet");
    Ok(())
}

async fn show(client: &Client, invocation: uuid::Uuid) -> anyhow::Result<()> {
    let view: TraceView = client.get(&format!("/api/v1/traces/{invocation}")).await?;
    if client.json {
        return json(&view);
    }
    for (position, row) in view.attempts.iter().enumerate() {
        if position == 0 {
            head(&view, row);
        }
        attempt(row);
    }
    Ok(())
}

fn head(view: &TraceView, row: &TraceRow) {
    line(format!("invocation {}", view.invocation_id));
    line(format!("  trigger  {} ({})", row.binding.path(), row.binding.trigger_type));
    line(format!("  subject  {}", row.subject));
    if let Some(request_id) = &row.request_id {
        line(format!("  request  {request_id}"));
    }
    if let Some(parent) = row.parent {
        line(format!("  caused by {parent} (depth {})", row.depth));
    }
    line(format!("  trace    {}", row.trace_id));
}

fn attempt(row: &TraceRow) {
    let version = row.version.map_or("no version".to_owned(), |version| format!("version {version}"));
    line(format!("\nattempt {} at {} on {version}: {}", row.attempt, row.started_at.format("%F %T%.3f"), outcome(row)));
    let phases = [
        ("wait", row.phases.wait),
        ("load", row.phases.load),
        ("instantiate", row.phases.instantiate),
        ("run", row.phases.run),
        ("settle", row.phases.settle),
    ];
    let phases: Vec<String> = phases.iter().map(|(name, nanos)| format!("{name} {}", duration(*nanos))).collect();
    line(format!("  phases   {}", phases.join(" · ")));
    line(format!(
        "  sizes    in {} · out {} · memory {}",
        size(row.input_bytes),
        size(row.output_bytes),
        size(row.memory_peak_bytes)
    ));
    let fuel = row.fuel_used.map(|fuel| format!(" · fuel {fuel}")).unwrap_or_default();
    line(format!("  used     processor {}{fuel}", duration(row.cpu)));
    if let Some(failure) = &row.failure {
        let fate = if failure.retryable { "" } else { " (permanent)" };
        line(format!("  failure  {}{fate}: {}", failure.code, failure.message));
    }
    if let Some(delay) = row.retry_delay_ms {
        line(format!("  next try {} later", duration(delay * 1_000_000)));
    }
    if let Some(detail) = &row.detail {
        detail_lines(detail).iter().for_each(line);
    }
}

/// What a guest asked for and said, a line each.
pub(super) fn detail_lines(detail: &Detail) -> Vec<String> {
    // Where every one is listed, what they add up to says nothing new.
    let sums = detail.host_calls.iter().filter(|_| detail.host_ops_truncated).map(|calls| {
        let (bytes, took) = (size(calls.bytes), duration(calls.duration_micros * 1_000));
        let failed = if calls.failed > 0 { format!(" · {} failed", calls.failed) } else { String::new() };
        format!("  host     {} × {} · {bytes} · {took}{failed}", calls.op, calls.count)
    });
    let ops = detail.host_ops.iter().map(|op| {
        let result = op.error.as_deref().unwrap_or("ok");
        let (bytes, took) = (size(op.bytes), duration(op.duration_micros * 1_000));
        format!("  host     {} {} · {bytes} · {took} · {result}", op.op, op.target)
    });
    let logs = detail
        .logs
        .iter()
        .map(|log| format!("  log      {:>9} {:<5} {}", duration(log.at_micros * 1_000), log.level, log.message));
    let cut = detail.logs_truncated || detail.host_ops_truncated;
    sums.chain(ops)
        .chain(logs)
        .chain(cut.then(|| "  (some lines were left out: a limit was reached)".to_owned()))
        .collect()
}
