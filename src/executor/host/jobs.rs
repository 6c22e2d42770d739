//! `jobs`: what a guest enqueues, takes back, and says of its own progress.

use std::sync::Arc;
use std::time::Instant;

use trigger_core::{Jobs, NewJob, Progress, Unique, UniqueScope};
use uuid::Uuid;

use super::bindings::tripline::function::jobs::{self, Error, Options};
use super::bindings::tripline::function::types::Cancelled;
use super::events::{Refusal, conflict, header_bytes, headers, moment, shown};
use crate::executor::guest::{Guest, Served};

/// The longest note of a progress, in bytes.
const MAX_NOTE: usize = 1024;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            Refusal::Unknown(why) => Error::UnknownQueue(why),
            Refusal::Invalid(field, why) => Error::Invalid((field, why)),
            Refusal::TooMany(why) => Error::TooMany(why),
            Refusal::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl jobs::Host for Guest {
    fn enqueue(&mut self, queue: String, payload: Vec<u8>, options: Options) -> Result<String, Error> {
        let (began, bytes) = (Instant::now(), payload.len());
        let result = self.enqueue_job(&queue, payload, options);
        self.asked("enqueue", shown(&queue), began, bytes, &result);
        Ok(result?.to_string())
    }

    async fn cancel(&mut self, id: String) -> Result<Cancelled, Error> {
        let began = Instant::now();
        let result = self.cancel_job(&id).await;
        self.asked("cancel-job", shown(&id), began, 0, &result);
        Ok(result?)
    }

    /// Not noted among the host's operations: a job that counts to a hundred would leave no room for the others.
    fn progress(&mut self, percent: f32, note: String) -> Result<(), Error> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(Refusal::invalid("percent", format!("{percent} is not from 0 to 100")).into());
        }
        if note.len() > MAX_NOTE {
            let why = format!("it has {} bytes, the limit is {MAX_NOTE}", note.len());
            return Err(Refusal::invalid("note", why).into());
        }
        if note.chars().any(char::is_control) {
            return Err(Refusal::invalid("note", "it has a control character").into());
        }
        if let Some(Served { progress: Some(progress), .. }) = self.served.as_deref() {
            progress.send_replace(Progress { percent, note });
        }
        Ok(())
    }
}

impl Guest {
    fn jobs(&self) -> Result<Arc<dyn Jobs>, Refusal> {
        let jobs = self.served.as_ref().and_then(|work| work.services.jobs.clone());
        jobs.ok_or_else(|| Refusal::Unavailable("this engine has no job queues".to_owned()))
    }

    fn enqueue_job(&mut self, queue: &str, payload: Vec<u8>, options: Options) -> Result<Uuid, Refusal> {
        self.granted("jobs", &self.version.definition.allow.jobs, queue)?;
        let bytes = payload.len() + size(&options);
        self.room(1, bytes).map_err(Refusal::TooMany)?;
        let jobs = self.jobs()?;
        let services = &self.served.as_ref().expect("it has jobs").services;
        let until = |field, when: Option<_>| when.map(|when| moment(field, when, services)).transpose();
        let job = NewJob {
            payload: payload.into(),
            content_type: options.content_type.map(Into::into),
            headers: headers(options.headers)?,
            key: options.key.map(Into::into),
            run_at: until("run_at", options.run_at)?,
            priority: options.priority,
            ordering_key: options.ordering_key.map(Into::into),
            unique: options.unique.map(unique),
            retry_count: options.retry_count,
            expires_at: until("expires_at", options.expires_at)?,
            result_ttl_seconds: options.result_ttl_seconds,
        };
        let event = jobs.event(queue, job)?;
        Ok(self.hold(event, bytes))
    }

    async fn cancel_job(&mut self, id: &str) -> Result<Cancelled, Refusal> {
        let id = Uuid::try_parse(id).map_err(|_| Refusal::invalid("id", format!("{:?} is no job's id", shown(id))))?;
        if self.let_go(id) {
            return Ok(Cancelled::Cancelled);
        }
        let jobs = self.jobs()?;
        let Some(queue) = jobs.queue_of(id).await? else { return Ok(Cancelled::Unknown) };
        self.granted("jobs", &self.version.definition.allow.jobs, &queue)?;
        Ok(jobs.cancel(id).await?.into())
    }
}

fn unique(unique: jobs::Unique) -> Unique {
    Unique {
        key: unique.key.into(),
        scope: match unique.scope {
            jobs::UniqueScope::Queued => UniqueScope::Queued,
            jobs::UniqueScope::Live => UniqueScope::Live,
            jobs::UniqueScope::Period(seconds) => UniqueScope::Period(seconds),
        },
        conflict: conflict(unique.conflict),
    }
}

/// Bytes that go with a job beside its payload.
fn size(options: &Options) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let unique = options.unique.as_ref().map_or(0, |unique| unique.key.len());
    header_bytes(&options.headers)
        + text(&options.content_type)
        + text(&options.key)
        + text(&options.ordering_key)
        + unique
}
