//! Work that is put in a queue by name.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{Accepted, BoxFuture, Headers, Refused};

/// Takes jobs, whoever brings them.
pub trait Jobs: Send + Sync + 'static {
    /// Puts a job in a queue. It is committed when this returns `Ok`.
    fn enqueue(&self, queue: &str, job: NewJob) -> BoxFuture<'_, Result<Accepted, EnqueueError>>;
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
    /// Not before this moment.
    pub run_at: Option<DateTime<Utc>>,
}

/// A job could not be put in a queue. Nothing was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnqueueError {
    /// No function works on a queue of this name.
    #[error("no function works on queue {queue:?}; there is {}", if .known.is_empty() { "none".to_owned() } else { .known.join(", ") })]
    UnknownQueue {
        /// The name.
        queue: String,
        /// The queues that there are.
        known: Vec<String>,
    },
    /// What was asked for cannot be.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field of the job.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The engine did not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
}
