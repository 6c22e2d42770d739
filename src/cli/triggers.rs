//! `tripline triggers`.

use clap::{Args, Subcommand};

use super::Remote;
use super::client::{Client, encode};
use super::clock::moment;
use super::show::{json, line, listing, print, table};
use crate::admin::{Listing, PauseRequest, PauseView, TriggerView};

/// What to do about triggers.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Triggers {
    #[command(subcommand)]
    command: Option<TriggersCommand>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum TriggersCommand {
    /// Keep a trigger's events in the queue and run none of them, until `resume`.
    Pause {
        /// The trigger, as namespace/function/trigger or function/trigger.
        path: String,
        /// Why, for whoever wonders later.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Go on with a trigger's events.
    Resume {
        /// The trigger, as namespace/function/trigger or function/trigger.
        path: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn run(asked: Triggers) -> anyhow::Result<()> {
    match asked.command {
        None => list(&Client::new(&asked.remote)?).await,
        Some(TriggersCommand::Pause { path, note, remote }) => {
            let client = Client::new(&remote)?;
            let path = resource(&client, &path).await?;
            paused(&client, client.post(&format!("{path}/pause"), &PauseRequest { note }).await?)
        }
        Some(TriggersCommand::Resume { path, remote }) => {
            let client = Client::new(&remote)?;
            let path = resource(&client, &path).await?;
            paused(&client, client.post(&format!("{path}/resume"), &serde_json::json!({})).await?)
        }
    }
}

/// The trigger's place in the API. A namespace that was not typed is looked up: it is the engine's.
async fn resource(client: &Client, path: &str) -> anyhow::Result<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let (namespace, function, trigger) = match parts[..] {
        [namespace, function, trigger] => (namespace.to_owned(), function, trigger),
        [function, trigger] => {
            let triggers: Listing<TriggerView> = listing(client, "/api/v1/triggers").await?;
            let mut found = triggers.items.iter().map(|one| &one.binding);
            let found = found.find(|one| *one.function_name == *function && *one.trigger_id == *trigger);
            (found.map_or_else(String::new, |one| one.namespace.to_string()), function, trigger)
        }
        _ => anyhow::bail!("{path:?} is no trigger: write namespace/function/trigger or function/trigger"),
    };
    if [namespace.as_str(), function, trigger].contains(&"") {
        anyhow::bail!("no such trigger: {path:?}; `tripline triggers` lists those that there are");
    }
    Ok(format!("/api/v1/triggers/{}/{}/{}", encode(&namespace), encode(function), encode(trigger)))
}

/// Tells what became of a pause.
pub(super) fn paused(client: &Client, view: PauseView) -> anyhow::Result<()> {
    if client.json {
        return json(&view);
    }
    line(format!("{} {}", view.trigger, if view.paused { "is paused" } else { "goes on" }));
    Ok(())
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let triggers: Listing<TriggerView> = listing(client, "/api/v1/triggers").await?;
    if client.json {
        return json(&triggers);
    }
    let mut table = table(&["FUNCTION", "TRIGGER", "KIND", "LISTENS TO", "HEALTH"]);
    for trigger in &triggers.items {
        let health = match (&trigger.paused, &trigger.degraded) {
            (Some(pause), _) if pause.note.is_empty() => format!("paused since {}", moment(pause.since)),
            (Some(pause), _) => format!("paused since {}: {}", moment(pause.since), pause.note),
            (None, degraded) => degraded.clone().unwrap_or_else(|| "ok".to_owned()),
        };
        table.add_row([
            &*trigger.binding.function_name,
            &*trigger.binding.trigger_id,
            trigger.binding.trigger_type.as_str(),
            &trigger.description,
            &health,
        ]);
    }
    print(&table, "no triggers");
    Ok(())
}
