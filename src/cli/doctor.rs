//! `tripline doctor`.

use std::process::ExitCode;

use super::client::Client;
use super::show::{json, line, listing};
use crate::admin::{FindingView, Listing};

pub(super) async fn run(client: &Client) -> anyhow::Result<ExitCode> {
    let found: Listing<FindingView> = listing(client, "/api/v1/doctor").await?;
    let code = if found.items.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if client.json {
        json(&found)?;
        return Ok(code);
    }
    for FindingView { trigger, finding } in &found.items {
        line(format!("{trigger}: {}\n    {}", finding.message, finding.help));
    }
    if found.items.is_empty() {
        line("nothing was found that stands in the way of what is promised");
    }
    Ok(code)
}
