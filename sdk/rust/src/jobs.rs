//! Jobs: work put in a queue that the definition's `allow.jobs` grants.

use std::time::Duration;

use crate::bindings::tripline::function::jobs;
use crate::{HostError, Reason, When};

/// What became of the wish to take a job or a timer back. It is the truth: what is cancelled has not run (since its
/// last attempt) and will not.
pub use crate::bindings::tripline::function::types::Cancelled;

/// Which of two jobs or timers with one key stays.
pub use crate::bindings::tripline::function::types::Conflict;

/// How long a job holds its unique key.
pub use crate::bindings::tripline::function::jobs::UniqueScope;

/// A job to enqueue. What is left out is as the queue and its function have it.
#[derive(Clone, Debug)]
pub struct Job {
    queue: String,
    payload: Vec<u8>,
    options: jobs::Options,
}

impl Job {
    /// A job for a queue.
    pub fn new(queue: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        let options = jobs::Options {
            content_type: None,
            headers: Vec::new(),
            key: None,
            unique: None,
            run_at: None,
            expires_at: None,
            priority: None,
            ordering_key: None,
            retry_count: None,
            result_ttl_seconds: None,
        };
        Self { queue: queue.into(), payload: payload.into(), options }
    }

    /// Media type of the payload.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = Some(content_type.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.options.headers.push((name.into(), value.into()));
        self
    }

    /// The job's identity: a job with the key of an earlier one of the same queue is that one.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.options.key = Some(key.into());
        self
    }

    /// Jobs of the queue with this unique key are one job, as long as the first of them holds it.
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>, scope: UniqueScope, conflict: Conflict) -> Self {
        self.options.unique = Some(jobs::Unique { key: key.into(), scope, conflict });
        self
    }

    /// Not before this moment.
    #[must_use]
    pub fn run_at(mut self, when: impl Into<When>) -> Self {
        self.options.run_at = Some(when.into().into());
        self
    }

    /// No attempt begins after this moment.
    #[must_use]
    pub fn expires_at(mut self, when: impl Into<When>) -> Self {
        self.options.expires_at = Some(when.into().into());
        self
    }

    /// From -100 to 100, higher first.
    #[must_use]
    pub fn priority(mut self, priority: i8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Jobs of the queue with the same ordering key run one after another.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.options.ordering_key = Some(key.into());
        self
    }

    /// Attempts after the first.
    #[must_use]
    pub fn retry_count(mut self, retries: u32) -> Self {
        self.options.retry_count = Some(retries);
        self
    }

    /// How long the result is kept, in whole seconds.
    #[must_use]
    pub fn result_ttl(mut self, keep: Duration) -> Self {
        self.options.result_ttl_seconds = Some(u32::try_from(keep.as_secs()).unwrap_or(u32::MAX));
        self
    }

    /// Enqueues it when the attempt succeeds, and answers its id.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where the queue is not granted, [`Unknown`](Reason::Unknown) where nobody works on
    /// it, [`Invalid`](Reason::Invalid) naming a field, [`TooLarge`](Reason::TooLarge) over what an attempt may ask
    /// for, [`Unavailable`](Reason::Unavailable) where the engine could not now.
    pub fn enqueue(self) -> Result<String, HostError> {
        jobs::enqueue(&self.queue, &self.payload, &self.options).map_err(refused)
    }
}

/// Takes a job back, at once and whatever becomes of the attempt.
///
/// # Errors
///
/// [`Denied`](Reason::Denied) where its queue is not granted, [`Invalid`](Reason::Invalid) where the id is none,
/// [`Unavailable`](Reason::Unavailable) where the engine could not now.
pub fn cancel(id: &str) -> Result<Cancelled, HostError> {
    jobs::cancel(id).map_err(refused)
}

/// Says how far the present job has come: a percentage from 0 to 100, and a note of at most 1024 bytes for people.
///
/// # Errors
///
/// [`Invalid`](Reason::Invalid) where the percentage or the note is out of bounds.
pub fn progress(percent: f32, note: &str) -> Result<(), HostError> {
    jobs::progress(percent, note).map_err(refused)
}

fn refused(error: jobs::Error) -> HostError {
    match error {
        jobs::Error::Denied(why) => HostError::new(Reason::Denied, why),
        jobs::Error::UnknownQueue(why) => HostError::new(Reason::Unknown, why),
        jobs::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        jobs::Error::TooMany(why) => HostError::new(Reason::TooLarge, why),
        jobs::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    }
}
