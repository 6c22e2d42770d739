//! The job trigger: a function works on a queue.
//!
//! ```text
//! API, command line ─► Queues::enqueue ─► one queued event ─► the engine
//! ```
//!
//! A queue is a name. What waits in it are rows of the engine's queue like any other event's, so this crate has no
//! store, no worker and no retry of its own: it owns which function works on which name, and what a job may look like.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make moments of the machine's own clock"))]

mod config;
mod queues;

use std::fmt;
use std::sync::Arc;

use trigger_core::{BindError, Binding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind};

pub use config::Config;
pub use queues::Queues;

/// The job trigger's kind: `type = "job"`.
#[derive(Clone, Default)]
pub struct Job {
    queues: Arc<Queues>,
}

impl Job {
    /// Jobs that come in by these queues.
    pub fn new(queues: Arc<Queues>) -> Self {
        Self { queues }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

impl TriggerKind for Job {
    const KIND: Kind = Kind::Job;
    type Config = Config;
    type Trigger = JobTrigger;

    fn check(&self, config: &Config, problems: &mut Problems) {
        if let Err(why) = config.check() {
            problems.add("queue", why, "letters, digits, \"-\", \"_\" and \".\", at most 128 of them");
        }
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        (one.queue == other.queue).then(|| format!("queue {:?} is worked on twice, and a job runs once", one.queue))
    }

    fn describe(&self, config: &Config) -> String {
        config.queue.clone()
    }

    async fn bind(&self, config: Config, _binding: Arc<Binding>) -> Result<JobTrigger, BindError> {
        config.check().map_err(BindError)?;
        Ok(JobTrigger { queue: config.queue, queues: self.queues.clone() })
    }
}

/// A function's work on one queue.
pub struct JobTrigger {
    queue: String,
    queues: Arc<Queues>,
}

impl Trigger for JobTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let shutdown = cx.shutdown.clone();
        let _open = self.queues.open(self.queue, cx);
        shutdown.cancelled().await;
        Ok(())
    }
}
