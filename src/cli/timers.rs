//! `tripline timers`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use trigger_core::UniqueConflict;

use super::client::{Client, encode, query};
use super::clock::moment;
use super::jobs::cancelled;
use super::show::{headers, json, line, listing, payload, print, size, table};
use super::{Remote, seconds};
use crate::admin::{CancelView, Listing, TimerRequest, TimerView};
use crate::store::QueueRow;

/// What to do about timers.
#[derive(Debug, Args)]
pub struct Timers {
    #[command(subcommand)]
    command: TimersCommand,
}

#[derive(Debug, Subcommand)]
enum TimersCommand {
    /// Set a timer; one that was set under the key and has not fired is replaced.
    Set(Box<Set>),
    /// Timers that wait or run, the longest due first.
    List {
        /// Only of this name.
        name: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a timer back. Exit code 0: it has not fired and will not · 3: its function runs, and the attempt is being
    /// cut · 1: it was never set, or has ended.
    Cancel {
        /// The name of the timers.
        name: String,
        /// The timer's key.
        key: String,
        #[command(flatten)]
        remote: Remote,
    },
}

/// A timer.
#[derive(Debug, Args)]
struct Set {
    /// The name of the timers: `timers` of a trigger.
    name: String,
    /// The timer's key.
    key: String,
    /// The payload; `-` reads standard input.
    #[arg(default_value = "")]
    payload: String,
    /// It fires at this moment, as in 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME", required_unless_present = "after", conflicts_with = "after")]
    at: Option<DateTime<Utc>>,
    /// It fires when so long has passed: seconds, or as in 10m, "1h 30m", PT10M.
    #[arg(long, value_name = "TIME", value_parser = seconds, allow_negative_numbers = true)]
    after: Option<f64>,
    /// Keep a timer that was set under the key and has not ended.
    #[arg(long)]
    keep: bool,
    /// A moment that is past means now; without this it is refused.
    #[arg(long)]
    allow_past: bool,
    /// Media type of the payload.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Retries after the first attempt; by default the function's.
    #[arg(long, value_name = "COUNT")]
    max_retries: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

fn resource(name: &str, key: &str) -> String {
    format!("/api/v1/timers/{}/{}", encode(name), encode(key))
}

pub(super) async fn run(timers: Timers) -> anyhow::Result<ExitCode> {
    match timers.command {
        TimersCommand::Set(timer) => set(*timer).await?,
        TimersCommand::List { name, limit, remote } => {
            let query = query(&[("name", name), ("limit", Some(limit.to_string()))]);
            list(&Client::new(&remote)?, &query).await?;
        }
        TimersCommand::Cancel { name, key, remote } => {
            let client = Client::new(&remote)?;
            let view: CancelView = client.delete(&resource(&name, &key)).await?;
            return cancelled(&client, &view, &format!("{name}/{key}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(timer: Set) -> anyhow::Result<()> {
    let client = Client::new(&timer.remote)?;
    let (payload, payload_base64) = payload(timer.payload)?;
    let request = TimerRequest {
        payload,
        payload_base64,
        content_type: timer.content_type,
        headers: headers(&timer.headers)?,
        delay_seconds: timer.after,
        run_at: timer.at,
        allow_past: timer.allow_past,
        conflict: timer.keep.then_some(UniqueConflict::Keep),
        retry_count: timer.max_retries,
        result_ttl_seconds: None,
    };
    let view: TimerView = client.put(&resource(&timer.name, &timer.key), &request).await?;
    if client.json {
        return json(&view);
    }
    if view.duplicate {
        line(format!("{} (the earlier one stays)", view.invocation_id));
    } else {
        line(format!("{} fires at {}", view.invocation_id, moment(view.run_at)));
    }
    Ok(())
}

async fn list(client: &Client, query: &str) -> anyhow::Result<()> {
    let rows: Listing<QueueRow> = listing(client, &format!("/api/v1/timers{query}")).await?;
    if client.json {
        return json(&rows);
    }
    let mut table = table(&["FIRES", "KEY", "TRIGGER", "STATE", "INVOCATION", "SIZE"]);
    for row in &rows.items {
        let state = match (row.running, row.attempt) {
            (true, _) => "running",
            (false, 0 | 1) => "set",
            (false, _) => "to be tried again",
        };
        table.add_row([
            moment(row.run_at),
            row.unique_key.clone().unwrap_or_default(),
            row.binding.path(),
            state.to_owned(),
            row.invocation_id.to_string(),
            size(row.payload_bytes),
        ]);
    }
    print(&table, "no timers are set");
    Ok(())
}
