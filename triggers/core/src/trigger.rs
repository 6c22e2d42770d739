//! A kind of event source, and one running source.

use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Binding, Clock, Credentials, Custody, Dispatch, InvocationContext, Kind, Problems, Timetable};

/// A kind of event source: how to turn its section of the manifest into a trigger.
///
/// The section's shape is told once, by `Config`: its JSON Schema (with the doc comments) is what `check` validates
/// against, what editors complete from and what the reference prints. Give it `#[serde(deny_unknown_fields)]`.
pub trait TriggerKind: Send + Sync + 'static {
    /// What users write: `type = "http"`.
    const KIND: Kind;
    /// What was typed.
    type Config: DeserializeOwned + JsonSchema + Send + Sync + Clone + 'static;
    /// A bound source.
    type Trigger: Trigger;

    /// Finds every mistake that the schema cannot: syntax of subjects, time zones, combinations. Opens nothing.
    fn check(&self, config: &Self::Config, problems: &mut Problems);

    /// Whether two triggers of the whole manifest exclude each other (the same route, say), and why.
    fn conflict(&self, _one: &Self::Config, _other: &Self::Config) -> Option<String> {
        None
    }

    /// One line for people: `POST /orders/{id}`, `orders.*.created (queue group billing)`.
    fn describe(&self, config: &Self::Config) -> String;

    /// The instants of a trigger that has a schedule; `None` for a kind without one, and for what `check` refuses.
    fn timetable(&self, _config: &Self::Config) -> Option<Arc<dyn Timetable>> {
        None
    }

    /// Whether the bodies of its events stream, which only guests that speak HTTP can take.
    fn streams(&self, _config: &Self::Config) -> bool {
        false
    }

    /// What of its source, as it is set up now, cannot hold what is promised of its events. Changes nothing.
    fn examine(&self, _config: Self::Config) -> impl Future<Output = Vec<Finding>> + Send {
        std::future::ready(Vec::new())
    }

    /// Acquires the port, subscription or lease. Accepts no event yet. `config` has passed `check`.
    fn bind(
        &self,
        config: Self::Config,
        binding: Arc<Binding>,
    ) -> impl Future<Output = Result<Self::Trigger, BindError>> + Send;
}

/// Something that may keep a promise from being held, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was found.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Finding {
    /// One finding.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// One bound event source.
pub trait Trigger: Send + 'static {
    /// Accepts events until `cx.shutdown`; on return, every accepted event has been answered.
    fn run(self, cx: TriggerContext) -> impl Future<Output = Result<(), TriggerError>> + Send;
}

/// What a running trigger gets from the engine.
#[derive(Clone)]
pub struct TriggerContext {
    /// The trigger's function and name.
    pub binding: Arc<Binding>,
    /// The engine.
    pub dispatch: Arc<dyn Dispatch>,
    /// What callers' credentials are checked against.
    pub credentials: Arc<dyn Credentials>,
    /// The time: when something is due, when an event came.
    pub clock: Clock,
    /// Asks the trigger to stop taking events.
    pub shutdown: CancellationToken,
    /// Every task that the trigger starts, so that someone waits for it.
    pub tasks: TaskTracker,
    /// Where the trigger says that it cannot do its work now (its broker is away, say) or can again.
    pub health: tokio::sync::watch::Sender<Option<String>>,
}

impl TriggerContext {
    /// A new invocation for an event of this trigger that arrived now.
    pub fn event(&self, custody: Custody, payload: Bytes) -> InvocationContext {
        InvocationContext::arrived_at(self.binding.clone(), custody, payload, self.clock.now())
    }

    /// Says why the trigger cannot do its work at the moment; logged once, shown by health.
    pub fn degraded(&self, why: impl Into<String>) {
        let why = why.into();
        self.health.send_if_modified(|current| {
            if current.as_deref() == Some(&why) {
                return false;
            }
            tracing::warn!(trigger = %self.binding.path(), "degraded: {why}");
            *current = Some(why);
            true
        });
    }

    /// Says that the trigger does its work.
    pub fn healthy(&self) {
        self.health.send_if_modified(|current| {
            let was = current.take();
            if was.is_some() {
                tracing::info!(trigger = %self.binding.path(), "recovered");
            }
            was.is_some()
        });
    }
}

/// A trigger could not get its port, subscription or lease.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(pub String);

/// A running source ended although nobody asked it to; it is restarted with backoff.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TriggerError(pub String);
