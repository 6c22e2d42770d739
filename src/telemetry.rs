//! Logs: set up once, written where something is handled.
//!
//! Attempts are told by trace records, not by spans: a formatted or exported span costs as much as a guest. What a
//! person should see at once (a failure, a dead letter) is also an event of `tracing`; successes are events at `debug`,
//! which costs nothing while nobody listens.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::traces::{Outcome, Record};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A library that tells of its own making, which is nobody's concern unless a filter asks for it.
const QUIET: &str = "tokio_cron_scheduler=warn";

/// Sends log lines to standard error. `filter` is in the form of `RUST_LOG` (`info,tripline=debug`).
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("log filter {filter:?} is not valid: {error}; try \"info\" or \"tripline=debug\""))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_target(false).with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_ansi(false)).try_init(),
    };
    result.map_err(|error| error.to_string())
}

/// Tells about an attempt that ended.
pub(crate) fn attempt_ended(record: &Record) {
    macro_rules! tell {
        ($level:expr, $message:literal) => {
            tracing::event!(
                $level,
                invocation = %record.invocation_id,
                function = %record.binding.function_name,
                trigger = %record.binding.trigger_id,
                version = record.version.as_ref().map(|version| version.number),
                attempt = record.attempt,
                outcome = record.outcome.as_str(),
                reason = record.outcome.reason(),
                code = record.failed.as_ref().map(|failed| failed.failure.code.as_str()),
                error = record.failed.as_ref().map(|failed| failed.failure.message.as_ref()),
                retry_in_ms = record.failed.as_ref().and_then(|failed| failed.retry_delay_ms),
                duration_us = record.phases.total() / 1_000,
                trace_id = format_args!("{:032x}", record.trace_id),
                $message
            )
        };
    }
    match record.outcome {
        Outcome::Ok | Outcome::Skipped(_) => tell!(tracing::Level::DEBUG, "invocation ended"),
        Outcome::Failed | Outcome::Retry => tell!(tracing::Level::INFO, "attempt failed"),
        Outcome::Cancelled => tell!(tracing::Level::INFO, "attempt cut"),
        Outcome::Shed(_) => tell!(tracing::Level::DEBUG, "event turned away"),
        Outcome::Dead(_) => tell!(tracing::Level::WARN, "invocation given up on"),
    }
}
