//! `tripline dlq`: dead letters, all verbs with one selector.

use std::io::Write as _;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::client::{Client, query};
use super::redrive::{self, Redrive};
use super::show::{json, line, print, table};
use super::{Dlq, Remote};
use crate::admin::{CountView, Listing, PurgeRequest, PurgeStep};
use crate::store::{DeadLetterSelector, DeadLetterSummary};

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// Dead letters, newest first.
    List {
        #[command(flatten)]
        select: Select,
        /// At most this many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// How many there are.
    Count {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        remote: Remote,
    },
    /// A dead letter with its payload and every attempt.
    Show {
        /// Its invocation.
        invocation: Uuid,
        #[command(flatten)]
        remote: Remote,
    },
    /// Run dead letters' events again, under the same ids, the longest dead first. What is left after an interruption
    /// is redriven by asking again.
    // Its --version is the function's.
    #[command(disable_version_flag = true)]
    Redrive(Redrive),
    /// Forget dead letters for good. Needs invocations, a filter or --all.
    Purge {
        #[command(flatten)]
        select: Select,
        /// Every dead letter of the namespace.
        #[arg(long)]
        all: bool,
        /// Only say how many they are.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Which dead letters: all that is said must hold.
#[derive(Clone, Debug, Args)]
pub(super) struct Select {
    /// Only of these invocations.
    #[arg(value_name = "INVOCATION")]
    pub(super) invocations: Vec<Uuid>,
    /// Only of this namespace, instead of the engine's own.
    #[arg(long)]
    namespace: Option<String>,
    /// Only of this function.
    #[arg(long)]
    function: Option<String>,
    /// Only of the trigger with this name.
    #[arg(long)]
    trigger: Option<String>,
    /// Only given up on for this reason: retries_exhausted, age_exceeded, permanent, timeout, memory, …
    #[arg(long)]
    reason: Option<String>,
    /// Only those that ran on this version last.
    #[arg(long, value_name = "VERSION")]
    died_on: Option<u32>,
    /// Only those that died at this moment or later, as in 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    died_after: Option<DateTime<Utc>>,
    /// Only those that died before this moment.
    #[arg(long, value_name = "TIME")]
    died_before: Option<DateTime<Utc>>,
    /// Only with this text in the event's subject or the failure's message.
    #[arg(long)]
    text: Option<String>,
    /// Also those that were redriven and have not died again.
    #[arg(long)]
    include_redriven: bool,
}

impl Select {
    /// The selector that is meant.
    pub(super) fn selector(&self) -> anyhow::Result<DeadLetterSelector> {
        let reason = match &self.reason {
            None => None,
            Some(word) => match trigger_core::DeadReason::parse(word) {
                Some(reason) => Some(reason),
                None => {
                    let known: Vec<&str> = trigger_core::DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
                    bail!("--reason {word:?} is none; they are {}", known.join(", "));
                }
            },
        };
        let selector = DeadLetterSelector {
            namespace: self.namespace.clone(),
            function_name: self.function.clone(),
            trigger_id: self.trigger.clone(),
            reason,
            version: self.died_on,
            died_after: self.died_after,
            died_before: self.died_before,
            text: self.text.clone(),
            ids: self.invocations.clone(),
            include_redriven: self.include_redriven,
        };
        selector.check().map_err(anyhow::Error::msg)?;
        Ok(selector)
    }

    /// As a query string, with what else is asked.
    fn query(&self, limit: Option<u32>) -> anyhow::Result<String> {
        let selector = self.selector()?;
        let ids: Vec<String> = selector.ids.iter().map(Uuid::to_string).collect();
        let moment = |moment: Option<DateTime<Utc>>| moment.map(|moment| moment.to_rfc3339());
        Ok(query(&[
            ("namespace", selector.namespace),
            ("function", selector.function_name),
            ("trigger", selector.trigger_id),
            ("reason", selector.reason.map(|reason| reason.as_str().to_owned())),
            ("version", selector.version.map(|version| version.to_string())),
            ("died_after", moment(selector.died_after)),
            ("died_before", moment(selector.died_before)),
            ("text", selector.text),
            ("ids", (!ids.is_empty()).then(|| ids.join(","))),
            ("include_redriven", selector.include_redriven.then(|| "true".to_owned())),
            ("limit", limit.map(|limit| limit.to_string())),
        ]))
    }
}

/// Refuses what would be done to everything by mistake.
pub(super) fn check_meant(selector: &DeadLetterSelector, all: bool) -> anyhow::Result<()> {
    match (selector.selects_everything(), all) {
        (true, false) => bail!("name invocations, narrow it with a filter like --function or --reason, or say --all"),
        (false, true) => bail!("--all is everything: leave it out, or leave out invocations and filters"),
        _ => Ok(()),
    }
}

pub(super) async fn run(dlq: Dlq) -> anyhow::Result<()> {
    match dlq.command {
        DlqCommand::List { select, limit, remote } => list(&Client::new(&remote)?, &select.query(Some(limit))?).await,
        DlqCommand::Count { select, remote } => {
            let client = Client::new(&remote)?;
            let view: CountView = client.get(&format!("/api/v1/dead-letters/count{}", select.query(None)?)).await?;
            if client.json {
                return json(&view);
            }
            line(view.count.to_string());
            Ok(())
        }
        DlqCommand::Show { invocation, remote } => {
            let client = Client::new(&remote)?;
            // The envelope is JSON in either form: it is what the topic's subscribers get.
            json(&client.get::<serde_json::Value>(&format!("/api/v1/dead-letters/{invocation}")).await?)
        }
        DlqCommand::Redrive(redrive) => redrive::run(redrive).await,
        DlqCommand::Purge { select, all, dry_run, remote } => {
            purge(&Client::new(&remote)?, &select, all, dry_run).await
        }
    }
}

async fn purge(client: &Client, select: &Select, all: bool, dry_run: bool) -> anyhow::Result<()> {
    let selector = select.selector()?;
    check_meant(&selector, all)?;
    let mut request = PurgeRequest { selector, all, dry_run, ..PurgeRequest::default() };
    let mut purged = 0;
    loop {
        let step: PurgeStep = client.post("/api/v1/dead-letters/purge", &request).await?;
        if let Some(selected) = step.selected {
            if client.json {
                return json(&serde_json::json!({ "selected": selected, "purged": 0 }));
            }
            line(format!("{} would be purged", letters(selected)));
            return Ok(());
        }
        purged += step.purged;
        if step.next.is_none() {
            break;
        }
        request.from = step.next;
        progress(client, || format!("purged {purged}"));
    }
    if client.json {
        return json(&serde_json::json!({ "purged": purged }));
    }
    line(format!("{} purged", letters(purged)));
    Ok(())
}

/// A number of dead letters.
pub(super) fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

/// Tells people how far it is, beside the answer.
pub(super) fn progress(client: &Client, text: impl FnOnce() -> String) {
    if !client.json {
        let _ = writeln!(std::io::stderr().lock(), "{}", text());
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
