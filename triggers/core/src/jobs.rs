//! Work that is put in a queue by name.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::bounds::{self, Invalid};
use crate::{Accepted, BoxFuture, Cancelled, Headers, InvocationContext, Refused, Unique};

/// Takes jobs, whoever brings them.
pub trait Jobs: Send + Sync + 'static {
    /// The event that a job is, with everything about it checked that can be without the store. Keeps nothing: whoever
    /// has the event sees to it that it is accepted.
    fn event(&self, queue: &str, job: NewJob) -> Result<InvocationContext, EnqueueError>;

    /// Puts a job in a queue. It is committed when this returns `Ok`.
    fn enqueue(&self, queue: &str, job: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>>;

    /// The queue that a job is in, or was; `None` where the id is no job's that is known, or nobody works on its queue.
    fn queue_of(&self, job: Uuid) -> BoxFuture<'_, Result<Option<String>, Refused>>;

    /// Takes a job back, if [`queue_of`](Self::queue_of) knows it. The answer is the truth: what is told to be cancelled
    /// has not run and will not.
    fn cancel(&self, job: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>>;
}

/// A job to put in a queue.
#[derive(Clone, Debug, Default)]
pub struct NewJob {
    /// Its bytes.
    pub payload: Bytes,
    /// Media type of the payload, where it is known.
    pub content_type: Option<Box<str>>,
    /// Its headers.
    pub headers: Headers,
    /// Its identity: a job with the key of an earlier one of the same queue is that one.
    pub key: Option<Box<str>>,
    /// Not before this moment; one that is past already means now.
    pub run_at: Option<DateTime<Utc>>,
    /// Within [`PRIORITIES`](crate::PRIORITIES), higher first; `None` for the queue's own.
    pub priority: Option<i8>,
    /// Jobs of the queue with the same key run one after another, as they were accepted.
    pub ordering_key: Option<Box<str>>,
    /// Which jobs of the queue it is the same as.
    pub unique: Option<Unique>,
    /// Retries after the first attempt, at most [`MAX_RETRIES`](bounds::MAX_RETRIES); `None` for the function's own.
    pub retry_count: Option<u32>,
    /// No attempt begins after this moment.
    pub expires_at: Option<DateTime<Utc>>,
    /// How long its result is kept, in seconds; `None` for the queue's own.
    pub result_ttl_seconds: Option<u32>,
}

impl NewJob {
    /// What is wrong with it at this moment, whatever its queue.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), Invalid> {
        bounds::key("key", self.key.as_deref())?;
        bounds::key("ordering_key", self.ordering_key.as_deref())?;
        bounds::unique("unique_key", self.unique.as_ref())?;
        bounds::headers(&self.headers)?;
        bounds::content_type(self.content_type.as_deref())?;
        bounds::priority(self.priority)?;
        bounds::retry_count(self.retry_count)?;
        bounds::result_ttl(self.result_ttl_seconds)?;
        bounds::horizon("run_at", self.run_at, now)?;
        bounds::expiry(self.expires_at, self.run_at, now)
    }
}

/// A job or a timer could not be taken. Nothing was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnqueueError {
    /// No function works on a queue of this name.
    #[error("no function works on queue {queue:?}; {}", there_is(.known))]
    UnknownQueue {
        /// The name.
        queue: String,
        /// The queues that there are.
        known: Vec<String>,
    },
    /// No function has timers of this name.
    #[error("no function has timers called {timer:?}; {}", there_is(.known))]
    UnknownTimer {
        /// The name.
        timer: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// What was asked for cannot be.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field of the job or timer.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The engine did not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<Invalid> for EnqueueError {
    fn from(Invalid { field, why }: Invalid) -> Self {
        EnqueueError::Invalid { field, why }
    }
}

fn there_is(known: &[String]) -> String {
    format!("there is {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
}
