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

use queues::QueueTerms;

pub use config::{Config, JobOrdering};
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
        config.check(problems);
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        (one.queue == other.queue).then(|| format!("queue {:?} is worked on twice, and a job runs once", one.queue))
    }

    fn describe(&self, config: &Config) -> String {
        let mut line = config.queue.clone();
        for bound in [config.concurrency.map(|most| format!("{most} at once")), config.rate.clone()] {
            line.extend(bound.map(|bound| format!(", {bound}")));
        }
        line
    }

    async fn bind(&self, config: Config, _binding: Arc<Binding>) -> Result<JobTrigger, BindError> {
        let mut problems = Problems::new();
        config.check(&mut problems);
        match problems.into_vec().first() {
            Some(problem) => Err(BindError(problem.message.clone())),
            None => Ok(JobTrigger { config, queues: self.queues.clone() }),
        }
    }
}

/// A function's work on one queue.
pub struct JobTrigger {
    config: Config,
    queues: Arc<Queues>,
}

impl Trigger for JobTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let shutdown = cx.shutdown.clone();
        // Set whenever a trigger begins: a reload with other bounds sets those.
        cx.dispatch.set_gate(&cx.binding, self.config.gate());
        let Config { queue, priority, result_ttl_seconds, ordering, .. } = self.config;
        let _open = self.queues.open(queue, cx, QueueTerms { priority, result_ttl_seconds, ordering });
        shutdown.cancelled().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trigger_core::testing::{FakeDispatch, eventually};
    use trigger_core::{Gate, Jobs as _, NewJob, Rate};

    use super::*;

    #[tokio::test]
    async fn a_trigger_sets_its_gate_and_opens_its_queue_for_as_long_as_it_runs() {
        let (dispatch, queues) = (FakeDispatch::echo(), Arc::new(Queues::default()));
        let kind = Job::new(queues.clone());
        let cx = dispatch.context(Kind::Job, "mail");
        let config = Config {
            queue: "mail".to_owned(),
            concurrency: Some(2),
            rate: Some("10/s".to_owned()),
            max_backlog: Some(7),
            pause_on_failure: true,
            ..Config::default()
        };
        assert_eq!(kind.describe(&config), "mail, 2 at once, 10/s");
        let trigger = kind.bind(config, cx.binding.clone()).await.unwrap();
        let running = tokio::spawn(trigger.run(cx.clone()));
        eventually("the queue to open", || queues.event("mail", NewJob::default()).is_ok()).await;
        let gate = Gate {
            concurrency: Some(2),
            rate: Some(Rate { events: 10, per: Duration::from_secs(1) }),
            max_backlog: Some(7),
            pause_on_failure: true,
        };
        assert_eq!(dispatch.gates(), [((*cx.binding).clone(), gate)]);
        cx.shutdown.cancel();
        running.await.unwrap().unwrap();
        assert!(queues.event("mail", NewJob::default()).is_err());
    }

    #[tokio::test]
    async fn a_section_that_cannot_be_is_not_bound() {
        let cx = FakeDispatch::echo().context(Kind::Job, "mail");
        let error = Job::default().bind(Config::default(), cx.binding.clone()).await.err().unwrap();
        assert_eq!(error.to_string(), "the queue has no name");
    }
}
