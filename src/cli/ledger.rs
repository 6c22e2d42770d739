//! `tripline ledger`.

use std::process::ExitCode;
use std::time::Duration;

use super::client::Client;
use super::show::{json, line, listing, print, table};
use crate::admin::{LedgerView, Listing};

/// How events end, in the order of the table.
const OUTCOMES: [&str; 6] = ["ok", "failed", "dead", "skipped", "shed", "cancelled"];

pub(super) async fn run(client: &Client) -> anyhow::Result<ExitCode> {
    let ledger: Listing<LedgerView> = listing(client, "/api/v1/ledger").await?;
    let drift: i64 = ledger.items.iter().map(|row| row.drift.abs()).sum();
    let code = if drift == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if client.json {
        json(&ledger)?;
        return Ok(code);
    }
    let header = [
        "TRIGGER",
        "ACCEPTED",
        "QUEUED",
        "RUNNING",
        "OK",
        "FAILED",
        "DEAD",
        "SKIPPED",
        "SHED",
        "CANCELLED",
        "DRIFT",
        "LAG",
    ];
    let mut table = table(&header);
    for LedgerView { row, drift, lag_seconds } in &ledger.items {
        let ended = |outcome: &str| -> u64 {
            row.ended.iter().filter(|ended| ended.outcome == outcome).map(|ended| ended.count).sum()
        };
        let mut cells = vec![row.binding.path(), row.accepted.to_string(), row.queued.to_string()];
        cells.push(row.running.to_string());
        cells.extend(OUTCOMES.map(|outcome| ended(outcome).to_string()));
        cells.push(drift.to_string());
        cells.push(lag_seconds.map_or_else(String::new, |lag| age(Duration::from_secs_f64(lag.max(0.0)))));
        table.add_row(cells);
    }
    print(&table, "no events yet");
    if drift != 0 {
        line(format!("{drift} events are accepted and nowhere, or counted twice"));
    }
    Ok(code)
}

/// How long ago something was, to the second.
fn age(age: Duration) -> String {
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}
