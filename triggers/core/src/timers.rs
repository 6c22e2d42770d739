//! Moments that are chosen at run time.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::bounds::{self, Invalid};
use crate::{Accepted, BoxFuture, Cancelled, EnqueueError, Headers, InvocationContext, UniqueConflict};

/// Sets timers, whoever wants them.
pub trait Timers: Send + Sync + 'static {
    /// The event that a timer is, with everything about it checked that can be without the store. Keeps nothing:
    /// whoever has the event sees to it that it is accepted.
    fn event(&self, timer: &str, new: NewTimer) -> Result<InvocationContext, EnqueueError>;

    /// Sets a timer. It is committed when this returns `Ok`; a duplicate is answered with the one that stays.
    fn set(&self, timer: &str, new: NewTimer) -> BoxFuture<'_, Result<Accepted, EnqueueError>>;

    /// Takes a timer back. The answer is the truth: what is told to be cancelled has not fired and will not.
    fn cancel(&self, timer: &str, key: &str) -> BoxFuture<'_, Result<Cancelled, EnqueueError>>;
}

/// A timer to set.
///
/// A timer holds its key until its function has ended, retries included. Setting the key again before it fired puts the
/// later one in its place, or keeps the earlier one, as `conflict` says. One that runs already goes on: with
/// [`UniqueConflict::Replace`] the later one is another timer (a function may set its own timer anew), with
/// [`UniqueConflict::Keep`] it is answered with the one that runs.
#[derive(Clone, Debug)]
pub struct NewTimer {
    /// Its name among the timers of its function.
    pub key: Box<str>,
    /// When it fires, to the microsecond.
    pub run_at: DateTime<Utc>,
    /// Whether a moment that is past (by more than [`PAST_GRACE`](bounds::PAST_GRACE)) means now. It is an error
    /// otherwise: whoever computes a moment and arrives at one that is long over has seldom meant it.
    pub allow_past: bool,
    /// Its bytes.
    pub payload: Bytes,
    /// Media type of the payload, where it is known.
    pub content_type: Option<Box<str>>,
    /// Its headers.
    pub headers: Headers,
    /// Which of two timers with one key stays.
    pub conflict: UniqueConflict,
    /// Retries after the first attempt, at most [`MAX_RETRIES`](bounds::MAX_RETRIES); `None` for the function's own.
    pub retry_count: Option<u32>,
    /// How long its result is kept, in seconds; `None` for the engine's setting.
    pub result_ttl_seconds: Option<u32>,
}

impl NewTimer {
    /// A timer that replaces an earlier one of its key and brings nothing.
    pub fn new(key: impl Into<Box<str>>, run_at: DateTime<Utc>) -> Self {
        Self {
            key: key.into(),
            run_at,
            allow_past: false,
            payload: Bytes::new(),
            content_type: None,
            headers: Headers::None,
            conflict: UniqueConflict::Replace,
            retry_count: None,
            result_ttl_seconds: None,
        }
    }

    /// What is wrong with it at this moment, whatever its function.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), Invalid> {
        bounds::key("key", Some(&self.key))?;
        bounds::headers(&self.headers)?;
        bounds::content_type(self.content_type.as_deref())?;
        bounds::retry_count(self.retry_count)?;
        bounds::result_ttl(self.result_ttl_seconds)?;
        bounds::horizon("run_at", Some(self.run_at), now)?;
        if !self.allow_past && self.run_at < now - bounds::PAST_GRACE {
            let why =
                format!("{} is past; a timer is for a moment to come, or says that the past means now", self.run_at);
            return Err(Invalid { field: "run_at", why });
        }
        Ok(())
    }
}
