//! How a function says that it failed, and what the engine could not do for it.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::bindings;

/// How a function failed, and what should follow.
///
/// Any error becomes one by `?`, and one that may be tried again; [`ResultExt`] says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Retry,
    Never,
    After(Duration),
}

impl Failure {
    /// Another attempt may go better.
    pub fn retryable(message: impl Display) -> Self {
        Self { message: message.to_string(), next: Next::Retry }
    }

    /// No attempt will ever go better: dead-letter it at once.
    pub fn permanent(message: impl Display) -> Self {
        Self { message: message.to_string(), next: Next::Never }
    }

    /// Another attempt is welcome after this time, in whole milliseconds.
    pub fn retry_after(after: Duration, message: impl Display) -> Self {
        Self { message: message.to_string(), next: Next::After(after) }
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may go better.
    pub fn is_retryable(&self) -> bool {
        self.next != Next::Never
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// The error with its causes, as a failure that may be tried again.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { message, next: Next::Retry }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error.reason {
            Reason::Unavailable | Reason::Conflict | Reason::Failed { retryable: true } => Self::retryable(error),
            _ => Self::permanent(error),
        }
    }
}

impl From<Failure> for bindings::Failure {
    fn from(failure: Failure) -> Self {
        match failure.next {
            Next::Retry => Self::Retryable(failure.message),
            Next::Never => Self::Permanent(failure.message),
            Next::After(after) => {
                Self::RetryAfter((failure.message, u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// Says what should follow an error.
pub trait ResultExt<T> {
    /// No attempt will ever go better.
    fn or_permanent(self) -> Result<T, Failure>;

    /// Another attempt is welcome after this time.
    fn or_retry_after(self, after: Duration) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> ResultExt<T> for Result<T, E> {
    fn or_permanent(self) -> Result<T, Failure> {
        self.map_err(|error| Failure { next: Next::Never, ..error.into() })
    }

    fn or_retry_after(self, after: Duration) -> Result<T, Failure> {
        self.map_err(|error| Failure { next: Next::After(after), ..error.into() })
    }
}

/// The engine did not do what it was asked for.
///
/// By `?` it becomes a [`Failure`]: one that may be tried again where the same may go well then, a permanent one otherwise.
/// It is no [`std::error::Error`], so that the two are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError {
    /// Why.
    pub reason: Reason,
    /// The same for people.
    pub message: String,
}

/// Why the engine did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The definition does not grant it.
    Denied,
    /// Nothing of this name is there.
    Unknown,
    /// What was asked for cannot be.
    Invalid,
    /// Over a limit.
    TooLarge,
    /// A constraint of the database forbids it.
    Constraint,
    /// Others were in the way; the same may go well when it is tried again.
    Conflict,
    /// The function that was called failed.
    Failed {
        /// Whether another attempt may go better.
        retryable: bool,
    },
    /// The engine, or whom it asked, could not do it now.
    Unavailable,
}

impl HostError {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_may_be_tried_again_unless_it_is_said_otherwise() {
        let fails = || -> Result<u32, Failure> { Ok("x".parse::<u32>()?) };
        assert_eq!(fails().unwrap_err(), Failure::retryable("invalid digit found in string"));
        let never = "x".parse::<u32>().or_permanent().unwrap_err();
        assert_eq!(never, Failure::permanent("invalid digit found in string"));
        let later = fails().or_retry_after(Duration::from_secs(2)).unwrap_err();
        assert!(matches!(later.into(), bindings::Failure::RetryAfter((_, 2000))));
    }

    #[test]
    fn what_the_engine_refused_it_will_refuse_again() {
        let refused = |reason| Failure::from(HostError::new(reason, "no"));
        assert_eq!(refused(Reason::Denied), Failure::permanent("no"));
        assert_eq!(refused(Reason::Unavailable), Failure::retryable("no"));
    }

    #[test]
    fn a_failure_tells_the_causes() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bad amount")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let failure = Failure::from(Outer("".parse::<u32>().unwrap_err()));
        assert_eq!(failure.message(), "bad amount: cannot parse integer from empty string");
    }
}
