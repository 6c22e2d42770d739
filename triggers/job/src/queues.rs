//! The queues by name, and how a job comes in.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use trigger_core::{
    Accepted, BoxFuture, Cancelled, Custody, EnqueueError, InvocationContext, Jobs, NewJob, Ordering, Refused, Terms,
    TriggerContext,
};
use uuid::Uuid;

use crate::config::JobOrdering;

/// The ordering key of all jobs of a queue that runs them one after another.
const WHOLE_QUEUE: &str = "*";

/// Queues that functions work on now.
#[derive(Default)]
pub struct Queues {
    open: RwLock<BTreeMap<String, Working>>,
}

/// Who works on a queue, and what its jobs are given where they say nothing.
#[derive(Clone)]
struct Working {
    cx: TriggerContext,
    terms: QueueTerms,
}

/// What a queue gives to jobs that say nothing themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QueueTerms {
    pub(crate) priority: i8,
    pub(crate) result_ttl_seconds: Option<u32>,
    pub(crate) ordering: JobOrdering,
}

/// A queue that is open as long as this is held, unless another trigger took it over.
pub(crate) struct Open {
    queues: Arc<Queues>,
    name: String,
    cx: TriggerContext,
}

impl Queues {
    /// Sends the queue's jobs to this trigger. A reload opens the new one before the old one goes: the newest has it.
    pub(crate) fn open(self: &Arc<Self>, name: String, cx: TriggerContext, terms: QueueTerms) -> Open {
        self.open.write().insert(name.clone(), Working { cx: cx.clone(), terms });
        Open { queues: self.clone(), name, cx }
    }

    fn find(&self, queue: &str) -> Result<Working, EnqueueError> {
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
        if open.get(&self.name).is_some_and(|open| Arc::ptr_eq(&open.cx.binding, &self.cx.binding)) {
            open.remove(&self.name);
        }
    }
}

impl Jobs for Queues {
    fn event(&self, queue: &str, job: NewJob) -> Result<InvocationContext, EnqueueError> {
        self.find(queue)?.event(queue, job)
    }

    fn enqueue(&self, queue: &str, job: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        let found = self.find(queue).and_then(|open| Ok((open.event(queue, job)?, open.cx.dispatch)));
        Box::pin(async move {
            let (event, dispatch) = found?;
            Ok(dispatch.accept(event).await?)
        })
    }

    fn queue_of(&self, job: Uuid) -> BoxFuture<'_, Result<Option<String>, Refused>> {
        Box::pin(async move { Ok(self.whose(job).await?.map(|(queue, _)| queue)) })
    }

    fn cancel(&self, job: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        Box::pin(async move {
            match self.whose(job).await? {
                Some((_, open)) => open.cx.dispatch.cancel(job).await,
                None => Ok(Cancelled::Unknown),
            }
        })
    }
}

impl Queues {
    /// The queue of a job, and who works on it.
    async fn whose(&self, job: Uuid) -> Result<Option<(String, Working)>, Refused> {
        // They are all of one engine: any of them can ask it.
        let Some(dispatch) = self.open.read().values().next().map(|open| open.cx.dispatch.clone()) else {
            return Ok(None);
        };
        let Some(status) = dispatch.status(job).await? else { return Ok(None) };
        let open = self.open.read();
        let found = open.iter().find(|(_, open)| *open.cx.binding == status.binding);
        Ok(found.map(|(queue, open)| (queue.clone(), open.clone())))
    }
}

impl Working {
    fn event(&self, queue: &str, job: NewJob) -> Result<InvocationContext, EnqueueError> {
        job.check(self.cx.clock.now())?;
        let ordering_key = match (self.terms.ordering, job.ordering_key) {
            (JobOrdering::Queue, Some(_)) => {
                let why = format!("every job of queue {queue:?} waits for the one before it, whatever its key");
                return Err(EnqueueError::Invalid { field: "ordering_key", why });
            }
            (JobOrdering::Queue, None) => Some(WHOLE_QUEUE.into()),
            (JobOrdering::Key, key) => key,
        };
        let mut event = self.cx.event(Custody::Engine, job.payload);
        event.subject = queue.into();
        event.content_type = job.content_type;
        event.headers = job.headers;
        event.idempotency_key = job.key;
        event.scheduled_at = job.run_at;
        let terms = Terms {
            priority: job.priority.unwrap_or(self.terms.priority),
            ordering: ordering_key.map(|key| Ordering { key, limit: None }),
            unique: job.unique,
            retry_count: job.retry_count,
            expires_at: job.expires_at,
            result_ttl_seconds: job.result_ttl_seconds.or(self.terms.result_ttl_seconds),
            fire: None,
            fingerprint: None,
        };
        // Most jobs ask for nothing, and their rows need not say so.
        event.terms = (terms != Terms::default()).then(|| Box::new(terms));
        event.adopt_lineage();
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::{DateTime, TimeDelta, Utc};
    use trigger_core::bounds::{MAX_AHEAD, MAX_KEY};
    use trigger_core::testing::FakeDispatch;
    use trigger_core::{Binding, Headers, Kind, Shed, Status, StatusState, Unique, UniqueScope};

    use super::*;

    fn job(payload: &'static str) -> NewJob {
        NewJob { payload: Bytes::from_static(payload.as_bytes()), ..NewJob::default() }
    }

    fn unique(key: &str, scope: UniqueScope) -> Unique {
        Unique { key: key.into(), scope, conflict: Default::default() }
    }

    #[tokio::test]
    async fn what_a_job_asks_for_is_asked_of_the_queue_and_the_rest_is_its_queues() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        let terms = QueueTerms { priority: 5, result_ttl_seconds: Some(60), ordering: JobOrdering::Key };
        let _mail = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"), terms);
        let expires_at = Utc::now() + TimeDelta::hours(1);
        let asks = NewJob {
            priority: Some(-3),
            ordering_key: Some("customer-7".into()),
            unique: Some(unique("order-7", UniqueScope::Queued)),
            retry_count: Some(2),
            expires_at: Some(expires_at),
            result_ttl_seconds: Some(0),
            ..job("")
        };
        let terms = *queues.event("mail", asks).unwrap().terms.unwrap();
        assert_eq!((terms.priority, terms.retry_count, terms.expires_at), (-3, Some(2), Some(expires_at)));
        assert_eq!(terms.ordering, Some(Ordering { key: "customer-7".into(), limit: None }));
        assert_eq!(terms.unique, Some(unique("order-7", UniqueScope::Queued)));
        assert_eq!(terms.result_ttl_seconds, Some(0));
        let terms = *queues.event("mail", job("")).unwrap().terms.unwrap();
        assert_eq!(terms, Terms { priority: 5, result_ttl_seconds: Some(60), ..Terms::default() });
        assert!(dispatch.accepted().is_empty(), "an event alone keeps nothing");
        let _plain = queues.open("plain".into(), dispatch.context(Kind::Job, "plain"), QueueTerms::default());
        assert_eq!(queues.event("plain", job("")).unwrap().terms, None);
    }

    #[tokio::test]
    async fn a_queue_in_order_gives_all_its_jobs_one_key() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        let terms = QueueTerms { ordering: JobOrdering::Queue, ..QueueTerms::default() };
        let _open = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"), terms);
        assert_eq!(&*queues.event("mail", job("")).unwrap().ordering().unwrap().key, WHOLE_QUEUE);
        let error = queues.event("mail", NewJob { ordering_key: Some("a".into()), ..job("") }).unwrap_err();
        assert!(error.to_string().starts_with("ordering_key: every job"), "{error}");
    }

    #[tokio::test]
    async fn a_job_becomes_an_event_of_the_function_that_works_on_its_queue() {
        let (mail, thumbs) = (FakeDispatch::echo(), FakeDispatch::echo());
        let queues = Arc::new(Queues::default());
        let _mail = queues.open("mail".into(), mail.context(Kind::Job, "mail"), QueueTerms::default());
        let _thumbs = queues.open("thumbs".into(), thumbs.context(Kind::Job, "thumbs"), QueueTerms::default());
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
        let open = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"), QueueTerms::default());
        let error = queues.enqueue("male", job("")).await.unwrap_err();
        assert_eq!(error.to_string(), "no function works on queue \"male\"; there is mail");
        drop(open);
        assert!(queues.enqueue("mail", job("")).await.is_err(), "a queue closes with its trigger");
    }

    #[tokio::test]
    async fn a_reload_leaves_no_moment_without_the_queue() {
        let (old, new) = (FakeDispatch::echo(), FakeDispatch::echo());
        let queues = Arc::new(Queues::default());
        let first = queues.open("mail".into(), old.context(Kind::Job, "mail"), QueueTerms::default());
        let _second = queues.open("mail".into(), new.context(Kind::Job, "mail"), QueueTerms::default());
        drop(first);
        queues.enqueue("mail", job("x")).await.unwrap();
        assert_eq!((old.accepted().len(), new.accepted().len()), (0, 1));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_its_field() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        let _open = queues.open("mail".into(), dispatch.context(Kind::Job, "mail"), QueueTerms::default());
        let long: Box<str> = "x".repeat(MAX_KEY + 1).into();
        let far = Utc::now() + MAX_AHEAD + TimeDelta::days(1);
        for (field, new) in [
            ("key", NewJob { key: Some("".into()), ..job("") }),
            ("key", NewJob { key: Some("a\nb".into()), ..job("") }),
            ("key", NewJob { key: Some(long), ..job("") }),
            ("run_at", NewJob { run_at: Some(far), ..job("") }),
            ("run_at", NewJob { run_at: Some(DateTime::<Utc>::MAX_UTC), ..job("") }),
            ("priority", NewJob { priority: Some(101), ..job("") }),
            ("ordering_key", NewJob { ordering_key: Some("".into()), ..job("") }),
            ("unique_key", NewJob { unique: Some(unique("", UniqueScope::Live)), ..job("") }),
            ("unique_scope", NewJob { unique: Some(unique("one", UniqueScope::Period(0))), ..job("") }),
            ("retry_count", NewJob { retry_count: Some(1001), ..job("") }),
            ("expires_at", NewJob { expires_at: Some(Utc::now() - TimeDelta::seconds(1)), ..job("") }),
            ("result_ttl_seconds", NewJob { result_ttl_seconds: Some(u32::MAX), ..job("") }),
        ] {
            assert!(queues.event("mail", new.clone()).is_err(), "{field}");
            let error = queues.enqueue("mail", new).await.unwrap_err();
            assert!(matches!(error, EnqueueError::Invalid { field: found, .. } if found == field), "{error}");
        }
        *dispatch.refuse.lock().unwrap() =
            Some(Refused { reason: Shed::StoreUnavailable, message: "away".into(), retry_after: Default::default() });
        assert!(matches!(queues.enqueue("mail", job("")).await, Err(EnqueueError::Refused(_))));
        assert!(dispatch.accepted().is_empty());
    }

    #[tokio::test]
    async fn a_job_is_known_by_its_queue_and_taken_back() {
        let dispatch = FakeDispatch::echo();
        let queues = Arc::new(Queues::default());
        let id = Uuid::now_v7();
        assert_eq!(queues.queue_of(id).await.unwrap(), None, "nobody works on anything");
        let cx = dispatch.context(Kind::Job, "mail");
        let status = |binding: &Binding| Status {
            binding: binding.clone(),
            attempts: 0,
            state: StatusState::Queued { run_at: Utc::now() },
        };
        let (jobs, requests) = (status(&cx.binding), status(&dispatch.context(Kind::Http, "http").binding));
        let _open = queues.open("mail".into(), cx, QueueTerms::default());
        *dispatch.cancelled.lock().unwrap() = Some(Cancelled::Cancelled);
        for (status, queue, cancelled) in [
            (Some(jobs), Some("mail".to_owned()), Cancelled::Cancelled),
            (Some(requests), None, Cancelled::Unknown),
            (None, None, Cancelled::Unknown),
        ] {
            *dispatch.status.lock().unwrap() = status;
            assert_eq!(queues.queue_of(id).await.unwrap(), queue);
            assert_eq!(queues.cancel(id).await.unwrap(), cancelled);
        }
    }
}
