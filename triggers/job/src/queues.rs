//! The queues by name, and how a job comes in.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::RwLock;
use trigger_core::{Accepted, BoxFuture, Custody, EnqueueError, Jobs, NewJob, TriggerContext};

/// The longest key of a job, in bytes.
const MAX_KEY: usize = 512;

/// How far ahead a job may be put off.
const MAX_AHEAD: TimeDelta = TimeDelta::days(3650);

/// Queues that functions work on now.
#[derive(Default)]
pub struct Queues {
    open: RwLock<BTreeMap<String, TriggerContext>>,
}

/// A queue that is open as long as this is held, unless another trigger took it over.
pub(crate) struct Open {
    queues: Arc<Queues>,
    name: String,
    cx: TriggerContext,
}

impl Queues {
    /// Sends the queue's jobs to this trigger. A reload opens the new one before the old one goes: the newest has it.
    pub(crate) fn open(self: &Arc<Self>, name: String, cx: TriggerContext) -> Open {
        self.open.write().insert(name.clone(), cx.clone());
        Open { queues: self.clone(), name, cx }
    }

    fn find(&self, queue: &str) -> Result<TriggerContext, EnqueueError> {
        let open = self.open.read();
        open.get(queue).cloned().ok_or_else(|| EnqueueError::UnknownQueue {
            queue: queue.chars().take(200).collect(),
            known: open.keys().cloned().collect(),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.queues.open.write();
        if open.get(&self.name).is_some_and(|cx| Arc::ptr_eq(&cx.binding, &self.cx.binding)) {
            open.remove(&self.name);
        }
    }
}

impl Jobs for Queues {
    fn enqueue(&self, queue: &str, job: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        let found = self.find(queue).and_then(|cx| check(&job, cx.clock.now()).map(|()| cx));
        let queue: Box<str> = queue.into();
        Box::pin(async move {
            let cx = found?;
            let mut event = cx.event(Custody::Engine, job.payload);
            event.subject = queue;
            event.content_type = job.content_type;
            event.headers = job.headers;
            event.idempotency_key = job.key;
            event.scheduled_at = job.run_at;
            event.adopt_lineage();
            Ok(cx.dispatch.accept(event).await?)
        })
    }
}

fn check(job: &NewJob, now: DateTime<Utc>) -> Result<(), EnqueueError> {
    if let Some(key) = &job.key {
        let why = match key.len() {
            0 => Some("it is empty; leave it out for a job without one".to_owned()),
            length if length > MAX_KEY => Some(format!("it has {length} bytes, the limit is {MAX_KEY}")),
            _ if key.chars().any(char::is_control) => Some("it has a control character".to_owned()),
            _ => None,
        };
        if let Some(why) = why {
            return Err(EnqueueError::Invalid { field: "key", why });
        }
    }
    if let Some(run_at) = job.run_at
        && run_at > now + MAX_AHEAD
    {
        let why = format!("{run_at} is more than {} days ahead", MAX_AHEAD.num_days());
        return Err(EnqueueError::Invalid { field: "run_at", why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trigger_core::testing::FakeDispatch;
    use trigger_core::{Headers, Kind, Refused, Shed};

    use super::*;

    fn job(payload: &'static str) -> NewJob {
        NewJob { payload: Bytes::from_static(payload.as_bytes()), ..NewJob::default() }
    }

    #[tokio::test]
    async fn a_job_becomes_an_event_of_the_function_that_works_on_its_queue() {
        let (mail, thumbs) = (FakeDispatch::echo(), FakeDispatch::echo());
        let queues = Arc::new(Queues::default());
        let _mail = queues.open("mail".into(), mail.context(Kind::Job, "mail"));
        let _thumbs = queues.open("thumbs".into(), thumbs.context(Kind::Job, "thumbs"));
        let run_at = Utc::now() + TimeDelta::hours(1);
        let new = NewJob {
            content_type: Some("text/plain".into()),
            headers: Headers::List(vec![("Tripline-Depth".into(), Bytes::from_static(b"3"))]),
            key: Some("order-7".into()),
            run_at: Some(run_at),
            ..job("hello")
        };
        let accepted = queues.enqueue("mail", new.clone()).await.unwrap();
        let event = mail.accepted().pop().unwrap();
        assert_eq!((event.invocation_id, accepted.duplicate), (accepted.invocation_id, false));
        assert_eq!((&*event.subject, &event.payload[..]), ("mail", &b"hello"[..]));
        assert_eq!((event.content_type.as_deref(), event.scheduled_at), (Some("text/plain"), Some(run_at)));
        assert_eq!((event.custody, event.depth), (Custody::Engine, 3));
        let again = queues.enqueue("mail", new).await.unwrap();
        assert_eq!((again.invocation_id, again.duplicate), (accepted.invocation_id, true));
        assert!(thumbs.accepted().is_empty());
    }

    #[tokio::test]
    async fn a_queue_that_nobody_works_on_is_told_with_those_that_there_are() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        assert!(queues.enqueue("mail", job("")).await.unwrap_err().to_string().contains("there is none"));
        let open = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"));
        let error = queues.enqueue("male", job("")).await.unwrap_err();
        assert_eq!(error.to_string(), "no function works on queue \"male\"; there is mail");
        drop(open);
        assert!(queues.enqueue("mail", job("")).await.is_err(), "a queue closes with its trigger");
    }

    #[tokio::test]
    async fn a_reload_leaves_no_moment_without_the_queue() {
        let (old, new) = (FakeDispatch::echo(), FakeDispatch::echo());
        let queues = Arc::new(Queues::default());
        let first = queues.open("mail".into(), old.context(Kind::Job, "mail"));
        let _second = queues.open("mail".into(), new.context(Kind::Job, "mail"));
        drop(first);
        queues.enqueue("mail", job("x")).await.unwrap();
        assert_eq!((old.accepted().len(), new.accepted().len()), (0, 1));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_its_field() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        let _open = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"));
        let long: Box<str> = "x".repeat(MAX_KEY + 1).into();
        let far = Utc::now() + MAX_AHEAD + TimeDelta::days(1);
        for (field, new) in [
            ("key", NewJob { key: Some("".into()), ..job("") }),
            ("key", NewJob { key: Some("a\nb".into()), ..job("") }),
            ("key", NewJob { key: Some(long), ..job("") }),
            ("run_at", NewJob { run_at: Some(far), ..job("") }),
            ("run_at", NewJob { run_at: Some(DateTime::<Utc>::MAX_UTC), ..job("") }),
        ] {
            let error = queues.enqueue("mail", new).await.unwrap_err();
            assert!(matches!(error, EnqueueError::Invalid { field: found, .. } if found == field), "{error}");
        }
        *dispatch.refuse.lock().unwrap() =
            Some(Refused { reason: Shed::StoreUnavailable, message: "away".into(), retry_after: Default::default() });
        assert!(matches!(queues.enqueue("mail", job("")).await, Err(EnqueueError::Refused(_))));
        assert!(dispatch.accepted().is_empty());
    }
}
