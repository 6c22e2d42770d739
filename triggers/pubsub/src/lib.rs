//! The pub/sub trigger: a function runs for every message.
//!
//! ```text
//! subject (the bus) ──────► message ─► event ─► the engine ─► answer ─► reply subject, where one is awaited
//! stream (JetStream) ─pull─► message ─► event ─► the engine ─► answer ─► ack · nak with delay · term
//! ```
//!
//! Two sources in one kind, since what a function sees is the same: `subscribe` takes messages of a subject from
//! the bus, in process or over NATS; `stream` pulls them from a durable JetStream consumer.
//! They differ in who has a message when an attempt fails, which is all the engine asks. This crate refuses to know
//! what a retry is: it tells the source what the answer means there.

mod config;
mod event;
mod reply;
mod stream;
mod subscribe;

use std::fmt;
use std::sync::Arc;

use trigger_core::{
    BindError, Binding, Bus, Finding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind,
};

use config::Source;
pub use config::{Config, DeliverPolicy, Guarantee};

/// Makes a handle to the NATS connection, for what only NATS has.
pub type Clients = Arc<dyn Fn() -> async_nats::Client + Send + Sync>;

/// The pub/sub trigger's kind: `type = "pubsub"`.
#[derive(Clone)]
pub struct Pubsub {
    bus: Option<Arc<dyn Bus>>,
    clients: Option<Clients>,
    over_nats: bool,
}

impl Pubsub {
    /// Messages of this bus; streams too where it is NATS and `clients` are given.
    pub fn new(bus: Arc<dyn Bus>, clients: Option<Clients>) -> Self {
        let over_nats = clients.is_some();
        Self { bus: Some(bus), clients, over_nats }
    }

    /// A kind that checks and describes, for a manifest whose bus is NATS or not. It binds nothing.
    pub fn checks_only(over_nats: bool) -> Self {
        Self { bus: None, clients: None, over_nats }
    }
}

impl fmt::Debug for Pubsub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pubsub").field("over_nats", &self.over_nats).finish_non_exhaustive()
    }
}

impl TriggerKind for Pubsub {
    const KIND: Kind = Kind::Pubsub;
    type Config = Config;
    type Trigger = PubsubTrigger;

    fn check(&self, config: &Config, problems: &mut Problems) {
        config.check(self.over_nats, problems);
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        one.conflict(other)
    }

    fn describe(&self, config: &Config) -> String {
        config.describe()
    }

    async fn examine(&self, config: Config) -> Vec<Finding> {
        match (config.source(), &self.clients) {
            (Source::Stream(settings), Some(clients)) => stream::examine(&clients(), &settings).await,
            _ => Vec::new(),
        }
    }

    async fn bind(&self, config: Config, binding: Arc<Binding>) -> Result<PubsubTrigger, BindError> {
        let refused = |why: &str| BindError(format!("{}: {why}", binding.path()));
        let mut problems = Problems::new();
        config.check(self.over_nats, &mut problems);
        if let Some(problem) = problems.into_vec().into_iter().next() {
            return Err(refused(&problem.message));
        }
        match config.source() {
            Source::Subject(settings) => {
                let bus = self.bus.clone().ok_or_else(|| refused("this build has no bus to subscribe to"))?;
                subscribe::bind(bus, settings).await.map(PubsubTrigger::Subject).map_err(|why| refused(&why))
            }
            Source::Stream(settings) => {
                let connection = self.bus.clone().zip(self.clients.clone());
                let (bus, clients) = connection.ok_or_else(|| refused(config::NEEDS_NATS))?;
                Ok(PubsubTrigger::Stream(stream::StreamTrigger::new(bus, clients, settings)))
            }
        }
    }
}

/// One subject or stream of one function.
pub enum PubsubTrigger {
    /// Messages of a subject.
    Subject(subscribe::SubjectTrigger),
    /// Messages of a stream.
    Stream(stream::StreamTrigger),
}

impl Trigger for PubsubTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        match self {
            PubsubTrigger::Subject(trigger) => trigger.run(cx).await,
            PubsubTrigger::Stream(trigger) => {
                trigger.run(cx).await;
                Ok(())
            }
        }
    }
}
