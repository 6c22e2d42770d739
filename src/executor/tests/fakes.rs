//! Queues and timers that keep nothing: they check as the real ones do, and say what they were asked.

use std::sync::{Arc, Mutex};

use trigger_core::{
    Accepted, Binding, BoxFuture, Cancelled, Clock, Custody, EnqueueError, InvocationContext, Jobs, Kind, NewJob,
    NewTimer, Refused, Shed, Timers,
};
use uuid::Uuid;

use crate::executor::Services;

/// There are the queues `thumbs`, `mail.welcome` and `mail.secret`, and the timers `reminders`. The queue `mistake` makes
/// them panic.
#[derive(Default)]
pub(in crate::executor) struct Fakes {
    /// The one job that is known, and its queue.
    pub(in crate::executor) known: Mutex<Option<(Uuid, &'static str)>>,
    /// What was cancelled: a job's id, or a timer's name and key.
    pub(in crate::executor) cancelled: Mutex<Vec<String>>,
    /// What the wish to cancel is answered with; `None` for a store that is away.
    pub(in crate::executor) answer: Mutex<Option<Cancelled>>,
}

impl Fakes {
    pub(in crate::executor) fn services(self: &Arc<Self>) -> Services {
        Services { jobs: Some(self.clone()), timers: Some(self.clone()), ..Services::default() }
    }

    fn cancel(&self, what: String) -> Result<Cancelled, Refused> {
        self.cancelled.lock().unwrap().push(what);
        self.answer.lock().unwrap().ok_or_else(|| Refused {
            reason: Shed::StoreUnavailable,
            message: "the store is away".into(),
            retry_after: std::time::Duration::ZERO,
        })
    }
}

fn event(kind: Kind, name: &str) -> InvocationContext {
    let binding = Binding {
        namespace: "default".into(),
        function_name: "worker".into(),
        trigger_id: name.into(),
        trigger_type: kind,
    };
    InvocationContext::new(Arc::new(binding), Custody::Engine, bytes::Bytes::new())
}

impl Jobs for Fakes {
    fn event(&self, queue: &str, job: NewJob) -> Result<InvocationContext, EnqueueError> {
        assert!(queue != "mistake", "a mistake of the engine's");
        if !["thumbs", "mail.welcome", "mail.secret"].contains(&queue) {
            return Err(EnqueueError::UnknownQueue { queue: queue.to_owned(), known: Vec::new() });
        }
        job.check(Clock::system().now())?;
        let mut event = event(Kind::Job, queue);
        event.scheduled_at = job.run_at;
        event.idempotency_key = job.key;
        event.payload = job.payload;
        event.headers = job.headers;
        let terms = event.terms_mut();
        terms.priority = job.priority.unwrap_or_default();
        terms.unique = job.unique;
        terms.retry_count = job.retry_count;
        terms.expires_at = job.expires_at;
        Ok(event)
    }

    fn enqueue(&self, _queue: &str, _job: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        unreachable!("guests' jobs are accepted with their attempt")
    }

    fn queue_of(&self, job: Uuid) -> BoxFuture<'_, Result<Option<String>, Refused>> {
        let known = *self.known.lock().unwrap();
        Box::pin(async move { Ok(known.filter(|(id, _)| *id == job).map(|(_, queue)| queue.to_owned())) })
    }

    fn cancel(&self, job: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        let answer = self.cancel(job.to_string());
        Box::pin(async move { answer })
    }
}

impl Timers for Fakes {
    fn event(&self, timer: &str, new: NewTimer) -> Result<InvocationContext, EnqueueError> {
        if timer != "reminders" {
            return Err(EnqueueError::UnknownTimer { timer: timer.to_owned(), known: vec!["reminders".to_owned()] });
        }
        new.check(Clock::system().now())?;
        let mut event = event(Kind::Timer, timer);
        event.scheduled_at = Some(new.run_at);
        event.payload = new.payload;
        Ok(event)
    }

    fn set(&self, _timer: &str, _new: NewTimer) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        unreachable!("guests' timers are accepted with their attempt")
    }

    fn cancel(&self, timer: &str, key: &str) -> BoxFuture<'_, Result<Cancelled, EnqueueError>> {
        let answer = self.cancel(format!("{timer}/{key}"));
        Box::pin(async move { Ok(answer?) })
    }
}
