//! The command line: what can be said, and how a run of it ends.
//!
//! Exit codes: 0 done · 1 it could not be done · 2 the command line is wrong · 3 it was asked for and is not certain yet
//! · 64 the manifest is wrong.

pub mod announce;
pub mod check;
pub mod client;
pub mod clock;
pub mod database;
mod dlq;
mod doctor;
pub mod invoke;
pub mod jobs;
mod ledger;
mod redrive;
pub mod schedules;
mod show;
pub mod timers;
pub mod tokens;
mod traces;
pub mod triggers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::telemetry::LogFormat;
use client::Client;

/// Exit code for what was asked for and is not certain yet: an attempt that is being cut, a wait that was too short.
pub const EXIT_NOT_YET: u8 = 3;

/// Exit code for a manifest with mistakes (`EX_USAGE` of sysexits.h).
pub const EXIT_MANIFEST: u8 = 64;

/// An event-driven trigger engine: small sandboxed WebAssembly functions attached to events.
#[derive(Debug, Parser)]
#[command(name = "tripline", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the engine and watch its files: a saved manifest or module serves at once.
    Dev(Dev),
    /// Run the engine. SIGHUP or `tripline reload` takes a changed manifest in.
    Serve(Run),
    /// Find every mistake in a manifest, its modules included, without opening anything.
    Check(Check),
    /// Call a function by its name, or run a module once, here: its answer, what it said and what it asked for.
    Invoke(Box<invoke::Invoke>),
    /// Have a running engine take its manifest in again.
    Reload(Remote),
    /// Publish a message on the engine's bus.
    Publish(Publish),
    /// The functions that serve, with their triggers.
    Functions(Remote),
    /// Every version of a function.
    Versions {
        /// The function.
        function: String,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
    /// The triggers and how they are; `pause` and `resume` one.
    Triggers(triggers::Triggers),
    /// Attempts and what became of them, newest first.
    Traces(Traces),
    /// Invocations that were given up on.
    Dlq(Dlq),
    /// Work in queues.
    Jobs(jobs::Jobs),
    /// Moments at which functions run once.
    Timers(timers::Timers),
    /// What captures changes in databases for `type = "database"` triggers: look at it, install it, remove it.
    Database(database::Database),
    /// Bearer tokens of callers, for routes that ask for one (`auth.type = "token"`).
    Tokens(tokens::Tokens),
    /// Where every event is: accepted, waiting, running, ended. Exit code 1 where one is nowhere.
    Ledger(Remote),
    /// What may keep the engine from holding what it promises: triggers that cannot do their work, streams that drop
    /// messages. Exit code 1 where something was found.
    Doctor(Remote),
    /// What the engine's clock shows; `advance` moves a virtual one.
    Clock(Clock),
    /// Schedules: what is due, what was made and what was not.
    Schedules(Schedules),
    /// How an accepted invocation stands.
    Status {
        /// The invocation.
        invocation: uuid::Uuid,
        /// Wait until it has ended, for at most so long: 30s, 5m.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        wait: Option<f64>,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
}

/// What is logged unless somebody asks for more or less: the NATS client tells of every reconnection as news.
const DEFAULT_LOG: &str = "info,async_nats=warn";

/// How to run the engine while developing.
#[derive(Debug, Args)]
pub struct Dev {
    /// What to run.
    #[command(flatten)]
    pub run: Run,
    /// The clock that schedules, retries and leases go by: `system`, or `virtual`, which stands still at the present (or
    /// at `virtual=2027-01-01T00:00:00Z`) until `tripline clock advance` moves it.
    #[arg(long, default_value = "system", value_name = "CLOCK")]
    pub clock: clock::ClockArg,
}

/// Where the manifest is, and how to log.
#[derive(Debug, Args)]
pub struct Run {
    /// The manifest, or the directory that it lies in.
    #[arg(default_value = "tripline.toml")]
    pub manifest: PathBuf,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", env = "TRIPLINE_LOG_FORMAT")]
    pub log_format: LogFormatArg,
    /// What is logged, in the form of RUST_LOG: `info`, `tripline=debug`.
    #[arg(long, default_value = DEFAULT_LOG, env = "TRIPLINE_LOG")]
    pub log: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormatArg {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        }
    }
}

/// What to check.
#[derive(Debug, Args)]
pub struct Check {
    /// The manifest, or the directory that it lies in.
    #[arg(default_value = "tripline.toml")]
    pub manifest: PathBuf,
    /// Print the manifest's JSON Schema instead.
    #[arg(long)]
    pub schema: bool,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which engine to ask.
#[derive(Debug, Args)]
pub struct Remote {
    /// The engine's admin API.
    #[arg(long, env = "TRIPLINE_ADMIN", default_value = "http://127.0.0.1:7071", value_name = "URL")]
    pub admin: String,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to publish.
#[derive(Debug, Args)]
pub struct Publish {
    /// The subject.
    pub subject: String,
    /// The payload; `-` reads standard input.
    #[arg(default_value = "")]
    pub payload: String,
    /// A header, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// What to do about the clock.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Clock {
    #[command(subcommand)]
    advance: Option<ClockCommand>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// Move a virtual clock: whatever is due on the way happens at its moment, and has happened when this ends.
    Advance {
        /// By how much, as in 3d, 90s, "1h 30m".
        #[arg(value_parser = humantime::parse_duration, required_unless_present = "to", conflicts_with = "to")]
        by: Option<std::time::Duration>,
        /// To this moment, as in 2027-01-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        to: Option<chrono::DateTime<chrono::Utc>>,
        #[command(flatten)]
        remote: Remote,
    },
}

/// What to do about schedules.
#[derive(Debug, Args)]
pub struct Schedules {
    /// What.
    #[command(subcommand)]
    pub command: SchedulesCommand,
}

/// The verbs about schedules. A trigger's name is `namespace/function/trigger`, or as much of it as is unique:
/// `function/trigger`, `function` or `trigger`.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// Every schedule, with its last and its next instant.
    List(Remote),
    /// The next instants of a trigger, or of a schedule that is given (which needs no engine).
    Next(Next),
    /// The fires of a trigger, made or not and why, newest first.
    Fires {
        /// The trigger.
        name: String,
        /// Only those that were not made.
        #[arg(long)]
        skipped: bool,
        /// At most this many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a fire now, whatever the schedule says; answers its invocation.
    Run {
        /// The trigger.
        name: String,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
    /// Make the fires of a past range that were not made.
    Backfill {
        /// The trigger.
        name: String,
        /// The first moment of the range, as in 2027-01-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: chrono::DateTime<chrono::Utc>,
        /// The last moment of the range.
        #[arg(long, value_name = "TIME")]
        to: chrono::DateTime<chrono::Utc>,
        /// Only tell which they are.
        #[arg(long)]
        dry_run: bool,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
    /// Make no fires until `resume`; what comes meanwhile is on record as skipped.
    Pause {
        /// The trigger.
        name: String,
        /// Why, for whoever wonders later.
        #[arg(long, default_value = "")]
        note: String,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
    /// Go on making fires.
    Resume {
        /// The trigger.
        name: String,
        /// Which engine to ask.
        #[command(flatten)]
        remote: Remote,
    },
}

/// Which instants.
#[derive(Debug, Args)]
pub struct Next {
    /// The trigger.
    #[arg(required_unless_present = "schedule", conflicts_with = "schedule")]
    pub name: Option<String>,
    /// A schedule instead of a trigger: `*/5 * * * *`, `@every 90s`. May be repeated.
    #[arg(long, value_name = "EXPRESSION")]
    pub schedule: Vec<String>,
    /// The zone in which it is read, as in Europe/Paris.
    #[arg(long, value_name = "ZONE", requires = "schedule")]
    pub timezone: Option<String>,
    /// What becomes of wall times that the clock jumps over: skip or shift.
    #[arg(long, value_name = "POLICY", requires = "schedule")]
    pub gap: Option<String>,
    /// What becomes of wall times that the clock shows twice: first, last or both.
    #[arg(long, value_name = "POLICY", requires = "schedule")]
    pub repeat: Option<String>,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 5)]
    pub count: usize,
    /// After this moment, and not after the present one.
    #[arg(long, value_name = "TIME")]
    pub after: Option<chrono::DateTime<chrono::Utc>>,
    /// Which engine to ask.
    #[command(flatten)]
    pub remote: Remote,
}

/// Which attempts.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Traces {
    #[command(subcommand)]
    show: Option<TracesCommand>,
    /// Only of this function.
    #[arg(long)]
    function: Option<String>,
    /// Only with this outcome: ok, failed, retry, dead, skipped, shed, cancelled.
    #[arg(long)]
    outcome: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum TracesCommand {
    /// Everything about an invocation: each attempt with phases, host operations, logs, outcome, sizes.
    Show {
        /// The invocation.
        invocation: uuid::Uuid,
        #[command(flatten)]
        remote: Remote,
    },
}

/// What to do about dead letters.
#[derive(Debug, Args)]
pub struct Dlq {
    #[command(subcommand)]
    command: dlq::DlqCommand,
}

/// A time to wait, in seconds: a number of them, or a duration with units.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Ok(seconds),
        Err(_) => trigger_core::bounds::span(text).map(|span| span.as_secs_f64()),
    }
}

/// Prints a line. A reader that went away (`| head`) is no error.
pub fn print_line(text: impl AsRef<str>) {
    show::line(text);
}

/// Prints JSON for programs.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    show::json(value)
}

/// Answers a verb that asks a running engine.
pub async fn ask(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Reload(remote) => show::reload(&Client::new(&remote)?).await,
        Command::Publish(publish) => show::publish(publish).await,
        Command::Functions(remote) => show::functions(&Client::new(&remote)?).await,
        Command::Versions { function, remote } => show::versions(&Client::new(&remote)?, &function).await,
        Command::Triggers(asked) => triggers::run(asked).await,
        Command::Status { invocation, wait, remote } => {
            return jobs::show(&Client::new(&remote)?, invocation, wait).await;
        }
        Command::Timers(timers) => return timers::run(timers).await,
        Command::Tokens(tokens) => tokens::run(tokens).await,
        Command::Doctor(remote) => return doctor::run(&Client::new(&remote)?).await,
        Command::Ledger(remote) => return ledger::run(&Client::new(&remote)?).await,
        Command::Traces(query) => traces::run(query).await,
        Command::Dlq(dlq) => dlq::run(dlq).await,
        Command::Clock(clock) => clock::run(clock).await,
        Command::Schedules(Schedules { command }) => schedules::run(command).await,
        Command::Jobs(jobs) => return jobs::run(jobs).await,
        // A build that has the kind does it itself.
        Command::Database(_) => anyhow::bail!("the trigger kind \"database\" is not in this build"),
        Command::Dev(_) | Command::Serve(_) | Command::Check(_) | Command::Invoke(_) => {
            unreachable!("main runs these itself: they need the trigger kinds")
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        super::Cli::command().debug_assert();
    }
}
