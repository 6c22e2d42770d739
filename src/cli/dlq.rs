//! `tripline dlq`.

use super::client::{Client, query};
use super::show::{json, line, print, table};
use super::{Dlq, DlqCommand};
use crate::admin::{Listing, RedriveView};
use crate::store::DeadLetterSummary;

pub(super) async fn run(dlq: Dlq) -> anyhow::Result<()> {
    match dlq.command {
        DlqCommand::List { function, reason, all, limit, remote } => {
            let query = query(&[
                ("function", function),
                ("reason", reason),
                ("include_redriven", all.then(|| "true".to_owned())),
                ("limit", Some(limit.to_string())),
            ]);
            list(&Client::new(&remote)?, &query).await
        }
        DlqCommand::Show { invocation, remote } => {
            let client = Client::new(&remote)?;
            // The envelope is JSON in either form: it is what the topic's subscribers get.
            json(&client.get::<serde_json::Value>(&format!("/api/v1/dead-letters/{invocation}")).await?)
        }
        DlqCommand::Redrive { invocations, remote } => {
            let client = Client::new(&remote)?;
            let mut views = Vec::new();
            for invocation in invocations {
                let path = format!("/api/v1/dead-letters/{invocation}/redrive");
                let view: RedriveView = client.post(&path, &serde_json::json!({})).await?;
                if !client.json {
                    let said = if view.state == "queued" { "runs again" } else { "was redriven before" };
                    line(format!("{invocation} {said}"));
                }
                views.push(view);
            }
            if client.json { json(&views) } else { Ok(()) }
        }
    }
}

async fn list(client: &Client, query: &str) -> anyhow::Result<()> {
    let listing: Listing<DeadLetterSummary> = client.get(&format!("/api/v1/dead-letters{query}")).await?;
    if client.json {
        return json(&listing);
    }
    let mut table = table(&["DIED", "INVOCATION", "FUNCTION", "REASON", "ATTEMPTS", "TOPIC", "FAILURE"]);
    for dead in &listing.items {
        let topic = match (dead.redriven_at, dead.published) {
            (Some(_), _) => "redriven",
            (None, Some(true)) => "published",
            (None, Some(false)) => "waiting",
            (None, None) => "none",
        };
        let message: String = dead.failure.message.chars().take(60).collect();
        table.add_row([
            dead.died_at.format("%F %T").to_string(),
            dead.invocation_id.to_string(),
            dead.binding.function_name.to_string(),
            dead.reason.to_string(),
            dead.attempts.to_string(),
            topic.to_owned(),
            format!("{}: {message}", dead.failure.code),
        ]);
    }
    print(&table, "no dead letters");
    Ok(())
}
