//! Timers: moments at which a function is called, under names that the definition's `allow.timers` grants.

use std::time::Duration;

use crate::bindings::tripline::function::timers;
use crate::{Cancelled, Conflict, HostError, Reason, When};

/// A timer to set. What is left out is as the timer's function has it.
#[derive(Clone, Debug)]
pub struct Timer {
    timer: String,
    key: String,
    when: When,
    payload: Vec<u8>,
    options: timers::Options,
}

impl Timer {
    /// A timer of this name: `key` is its own among the timers of its function.
    pub fn new(timer: impl Into<String>, key: impl Into<String>, when: impl Into<When>) -> Self {
        let options = timers::Options {
            content_type: None,
            headers: Vec::new(),
            conflict: Conflict::Keep,
            allow_past: false,
            retry_count: None,
            result_ttl_seconds: None,
        };
        Self { timer: timer.into(), key: key.into(), when: when.into(), payload: Vec::new(), options }
    }

    /// What the function is called with.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
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

    /// Takes the place of a timer of this key that waits already; without this the earlier one stays.
    #[must_use]
    pub fn replace(mut self) -> Self {
        self.options.conflict = Conflict::Replace;
        self
    }

    /// A moment that is past means now; it is an error otherwise.
    #[must_use]
    pub fn allow_past(mut self) -> Self {
        self.options.allow_past = true;
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

    /// Sets it when the attempt succeeds.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where timers of this name are not granted, [`Unknown`](Reason::Unknown) where no
    /// function has them, [`Invalid`](Reason::Invalid) naming a field, [`TooLarge`](Reason::TooLarge) over what an
    /// attempt may ask for, [`Unavailable`](Reason::Unavailable) where the engine could not now.
    pub fn set(self) -> Result<(), HostError> {
        timers::set(&self.timer, &self.key, self.when.into(), &self.payload, &self.options).map_err(refused)
    }
}

/// Takes a timer back, at once and whatever becomes of the attempt.
///
/// # Errors
///
/// Those of [`Timer::set`].
pub fn cancel(timer: &str, key: &str) -> Result<Cancelled, HostError> {
    timers::cancel(timer, key).map_err(refused)
}

fn refused(error: timers::Error) -> HostError {
    match error {
        timers::Error::Denied(why) => HostError::new(Reason::Denied, why),
        timers::Error::UnknownTimer(why) => HostError::new(Reason::Unknown, why),
        timers::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        timers::Error::TooMany(why) => HostError::new(Reason::TooLarge, why),
        timers::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    }
}
