//! `tripline jobs`.

use std::process::ExitCode;
use std::time::Instant;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use trigger_core::{Cancelled, UniqueConflict, UniqueScope, bounds};
use uuid::Uuid;

use super::client::{Client, encode, query};
use super::clock::moment;
use super::show::{headers, json, line, listing, payload, print, size, table};
use super::triggers::paused;
use super::{EXIT_NOT_YET, Remote, seconds};
use crate::admin::{CancelView, EnqueueRequest, EnqueueView, InvocationView, Listing, PauseRequest};
use crate::store::{BlockedKey, QueueRow};

/// The longest wait that is asked of one request.
const WAIT_STEP_SECONDS: f64 = 30.0;

/// What to do about jobs.
#[derive(Debug, Args)]
pub struct Jobs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Put a job in a queue; answers its invocation, or with --wait its result.
    Enqueue(Box<Enqueue>),
    /// Jobs that wait or run, the longest due first.
    List {
        /// Only of this queue.
        #[arg(long)]
        queue: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// How a job stands: state, progress, result.
    Show {
        /// Its invocation.
        invocation: Uuid,
        /// Wait until it has ended, for at most so long: 30s, 5m.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        wait: Option<f64>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a job back. Exit code 0: it will not run (again) · 3: it runs, and its attempt is being cut · 1: it had
    /// ended, or is unknown.
    Cancel {
        /// Its invocation.
        invocation: Uuid,
        #[command(flatten)]
        remote: Remote,
    },
    /// Keep a queue's jobs and begin none of them, until `resume`.
    Pause {
        /// The queue.
        queue: String,
        /// Why, for whoever wonders later.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Go on with a queue.
    Resume {
        /// The queue.
        queue: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Ordering keys that are held up by a job (or another event) that has failed and will be tried again.
    Keys {
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
}

/// A job.
#[derive(Debug, Args)]
struct Enqueue {
    /// The queue.
    queue: String,
    /// The payload; `-` reads standard input.
    #[arg(default_value = "")]
    payload: String,
    /// Media type of the payload.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Not before so long has passed: seconds, or as in 10m, "1h 30m", PT10M.
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "at", allow_negative_numbers = true)]
    delay: Option<f64>,
    /// Not before this moment, as in 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// From -100 to 100, higher first; by default the queue's.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i8>,
    /// Identity of the job: a second one with it is the first one.
    #[arg(long)]
    key: Option<String>,
    /// Jobs of the queue with the same key run one after another, as they were accepted.
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// A job with the key of one that counts still is that one.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// How long a job counts: until it begins (`queued`), until it has ended (`live`, the default), or a time from when
    /// it was accepted, as in 10m.
    #[arg(long, value_name = "SCOPE", value_parser = scope, requires = "unique_key")]
    unique_scope: Option<UniqueScope>,
    /// Put this job in the place of the earlier one, unless that one has begun.
    #[arg(long, requires = "unique_key")]
    replace: bool,
    /// Retries after the first attempt; by default the function's.
    #[arg(long, value_name = "COUNT")]
    max_retries: Option<u32>,
    /// No attempt begins after this: a time from now as in 1h, or a moment.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<Expiry>,
    /// How long its result is kept: seconds, or as in 1h; 0 for not at all.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    result_ttl: Option<f64>,
    /// Wait until it has ended, for at most so long (30s, 5m), and print its result. Exit code 1: it failed · 3: it has
    /// not ended yet.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    wait: Option<f64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug)]
enum Expiry {
    After(f64),
    At(DateTime<Utc>),
}

fn expiry(text: &str) -> Result<Expiry, String> {
    match text.parse() {
        Ok(moment) => Ok(Expiry::At(moment)),
        Err(_) => seconds(text).map(Expiry::After),
    }
}

fn scope(text: &str) -> Result<UniqueScope, String> {
    match text {
        "queued" => Ok(UniqueScope::Queued),
        "live" => Ok(UniqueScope::Live),
        period => {
            let period = bounds::span(period).map_err(|why| format!("neither queued nor live, and {why}"))?;
            let seconds = u32::try_from(period.as_secs()).map_err(|_| "the period is too long".to_owned())?;
            Ok(UniqueScope::Period(seconds))
        }
    }
}

pub(super) async fn run(jobs: Jobs) -> anyhow::Result<ExitCode> {
    match jobs.command {
        JobsCommand::Enqueue(job) => return enqueue(*job).await,
        JobsCommand::Show { invocation, wait, remote } => return show(&Client::new(&remote)?, invocation, wait).await,
        JobsCommand::Cancel { invocation, remote } => {
            let client = Client::new(&remote)?;
            let path = format!("/api/v1/invocations/{invocation}/cancel");
            let view: CancelView = client.post(&path, &serde_json::json!({})).await?;
            return cancelled(&client, &view, &invocation.to_string());
        }
        JobsCommand::List { queue, limit, remote } => {
            let query = query(&[("name", queue), ("limit", Some(limit.to_string()))]);
            list(&Client::new(&remote)?, &query).await
        }
        JobsCommand::Pause { queue, note, remote } => {
            let client = Client::new(&remote)?;
            let path = format!("/api/v1/jobs/{}/pause", encode(&queue));
            paused(&client, client.post(&path, &PauseRequest { note }).await?)
        }
        JobsCommand::Resume { queue, remote } => {
            let client = Client::new(&remote)?;
            let path = format!("/api/v1/jobs/{}/resume", encode(&queue));
            paused(&client, client.post(&path, &serde_json::json!({})).await?)
        }
        JobsCommand::Keys { limit, remote } => keys(&Client::new(&remote)?, limit).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn enqueue(job: Enqueue) -> anyhow::Result<ExitCode> {
    let client = Client::new(&job.remote)?;
    let (payload, payload_base64) = payload(job.payload)?;
    let ttl = job.result_ttl.map(|seconds| {
        // Whole seconds; what is too long or negative is for the engine to refuse by its name.
        if (0.0..f64::from(u32::MAX)).contains(&seconds) { seconds.ceil() as u32 } else { u32::MAX }
    });
    let request = EnqueueRequest {
        payload,
        payload_base64,
        content_type: job.content_type,
        headers: headers(&job.headers)?,
        key: job.key,
        delay_seconds: job.delay,
        run_at: job.at,
        priority: job.priority,
        ordering_key: job.ordering_key,
        unique_key: job.unique_key,
        unique_scope: job.unique_scope,
        unique_conflict: job.replace.then_some(UniqueConflict::Replace),
        retry_count: job.max_retries,
        expires_after_seconds: job.expires.and_then(|expiry| match expiry {
            Expiry::After(seconds) => Some(seconds),
            Expiry::At(_) => None,
        }),
        expires_at: job.expires.and_then(|expiry| match expiry {
            Expiry::At(moment) => Some(moment),
            Expiry::After(_) => None,
        }),
        result_ttl_seconds: ttl,
    };
    let mut view: EnqueueView = client.post(&format!("/api/v1/jobs/{}", encode(&job.queue)), &request).await?;
    let Some(wait) = job.wait else {
        if client.json {
            json(&view)?;
        } else {
            let known = if view.duplicate { " (there already)" } else { "" };
            line(format!("{}{known}", view.invocation_id));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let ended = stand(&client, view.invocation_id, Some(wait)).await?;
    let code = exit_code(&ended);
    if client.json {
        view.invocation = Some(ended);
        json(&view)?;
    } else {
        tell(&ended);
    }
    Ok(code)
}

/// How an invocation stands, when it has ended or the wait is over.
async fn stand(client: &Client, invocation: Uuid, wait: Option<f64>) -> anyhow::Result<InvocationView> {
    let path = format!("/api/v1/invocations/{invocation}");
    let Some(wait) = wait else { return client.get(&path).await };
    let began = Instant::now();
    loop {
        let left = wait - began.elapsed().as_secs_f64();
        let step = left.clamp(0.0, WAIT_STEP_SECONDS);
        let view: InvocationView = client.get(&format!("{path}?wait={step:.3}")).await?;
        if view.is_over() || left <= WAIT_STEP_SECONDS {
            return Ok(view);
        }
    }
}

/// Whether it ended well: 0, not: 1, or has not ended: 3.
fn exit_code(view: &InvocationView) -> ExitCode {
    match view.state.as_str() {
        "ok" => ExitCode::SUCCESS,
        _ if view.is_over() => ExitCode::FAILURE,
        _ => ExitCode::from(EXIT_NOT_YET),
    }
}

/// Shows how an invocation stands. Without a wait that is an answer, whatever it is.
pub(super) async fn show(client: &Client, invocation: Uuid, wait: Option<f64>) -> anyhow::Result<ExitCode> {
    let view = stand(client, invocation, wait).await?;
    if client.json {
        json(&view)?;
    } else {
        tell(&view);
    }
    Ok(if wait.is_some() { exit_code(&view) } else { ExitCode::SUCCESS })
}

fn tell(view: &InvocationView) {
    line(format!("{} after {} attempt(s)", view.state, view.attempts));
    if let Some(run_at) = view.run_at {
        line(format!("due {}", moment(run_at)));
    }
    if let Some(progress) = &view.progress {
        line(format!("{:.0} % done {}", progress.percent, progress.note).trim_end());
    }
    if let Some(failure) = &view.failure {
        line(format!("{}: {}", failure.code, failure.message));
    }
    if let Some(reason) = &view.reason {
        line(format!("reason {reason}; see `tripline dlq show {}`", view.invocation_id));
    }
    if let Some(body) = &view.body {
        line(body);
    }
}

/// Tells what became of the wish to take something back.
pub(super) fn cancelled(client: &Client, view: &CancelView, what: &str) -> anyhow::Result<ExitCode> {
    let (said, code) = match view.outcome {
        Cancelled::Cancelled => ("is cancelled", ExitCode::SUCCESS),
        Cancelled::Asked => {
            ("runs already: its attempt is being cut, unless it ends before that", ExitCode::from(EXIT_NOT_YET))
        }
        Cancelled::Ended => ("has ended already", ExitCode::FAILURE),
        Cancelled::Unknown => ("is unknown", ExitCode::FAILURE),
    };
    if client.json {
        json(view)?;
    } else {
        line(format!("{what} {said}"));
    }
    Ok(code)
}

async fn list(client: &Client, query: &str) -> anyhow::Result<()> {
    let rows: Listing<QueueRow> = listing(client, &format!("/api/v1/jobs{query}")).await?;
    if client.json {
        return json(&rows);
    }
    let mut table = table(&["DUE", "INVOCATION", "TRIGGER", "STATE", "ATTEMPT", "PRIORITY", "KEYS", "SIZE"]);
    for row in &rows.items {
        let keys = [("order ", &row.ordering_key), ("unique ", &row.unique_key)];
        let keys = keys.iter().filter_map(|(kind, key)| key.as_ref().map(|key| format!("{kind}{key}")));
        table.add_row([
            moment(row.run_at),
            row.invocation_id.to_string(),
            row.binding.path(),
            state(row),
            row.attempt.to_string(),
            row.priority.to_string(),
            keys.collect::<Vec<_>>().join(" · "),
            size(row.payload_bytes),
        ]);
    }
    print(&table, "no jobs wait or run");
    Ok(())
}

fn state(row: &QueueRow) -> String {
    match (&row.progress, row.running, row.blocked) {
        (Some(progress), true, _) => format!("running, {:.0} %", progress.percent),
        (None, true, _) => "running".to_owned(),
        (_, false, true) => "behind its key".to_owned(),
        (_, false, false) => "queued".to_owned(),
    }
}

async fn keys(client: &Client, limit: u32) -> anyhow::Result<()> {
    let keys: Listing<BlockedKey> = listing(client, &format!("/api/v1/ordering-keys?limit={limit}")).await?;
    if client.json {
        return json(&keys);
    }
    let mut table = table(&["KEY", "TRIGGER", "HELD UP BY", "ATTEMPT", "DUE", "WAITING"]);
    for key in &keys.items {
        table.add_row([
            key.ordering_key.clone(),
            key.binding.path(),
            key.head.to_string(),
            key.attempt.to_string(),
            moment(key.run_at),
            key.waiting.to_string(),
        ]);
    }
    print(&table, "no key is held up");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scope_is_a_word_or_a_time() {
        assert_eq!(scope("queued"), Ok(UniqueScope::Queued));
        assert_eq!(scope("live"), Ok(UniqueScope::Live));
        assert_eq!(scope("1h"), Ok(UniqueScope::Period(3600)));
        assert!(scope("soon").is_err() && scope("1000years").is_err());
    }

    #[test]
    fn an_expiry_is_a_moment_or_a_time() {
        assert!(matches!(expiry("2027-01-01T00:00:00Z"), Ok(Expiry::At(_))));
        assert!(
            matches!(expiry("1h"), Ok(Expiry::After(seconds)) if seconds == Duration::from_secs(3600).as_secs_f64())
        );
        assert!(matches!(expiry("90"), Ok(Expiry::After(_))));
        assert!(expiry("tomorrow").is_err());
    }
}
