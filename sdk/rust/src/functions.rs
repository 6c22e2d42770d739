//! Calls of other functions, of those that the definition's `allow.invoke` grants.

use crate::bindings::tripline::function::functions;
use crate::{HostError, Reason};

/// A call of another function. It is one deeper than this function, and in the same trace.
#[derive(Clone, Debug)]
pub struct Call {
    function: String,
    payload: Vec<u8>,
    options: functions::Options,
}

impl Call {
    /// A call of `name` in the function's own namespace, or of `namespace.name` in another.
    pub fn new(function: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        let options = functions::Options { content_type: None, headers: Vec::new() };
        Self { function: function.into(), payload: payload.into(), options }
    }

    /// Media type of the payload.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = Some(content_type.into());
        self
    }

    /// Adds a header. Names that begin with `tripline-`, `traceparent` and `tracestate` are set by the engine.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.options.headers.push((name.into(), value.into()));
        self
    }

    /// Runs it once and waits for its answer, no longer than this attempt has time. What it published and enqueued is
    /// released when it succeeds, whatever becomes of this attempt.
    ///
    /// # Errors
    ///
    /// [`Failed`](Reason::Failed) with its code and message where it failed; [`Denied`](Reason::Denied) where it is not
    /// granted, [`Unknown`](Reason::Unknown) where there is none of this name, [`Invalid`](Reason::Invalid) naming a
    /// field, [`TooLarge`](Reason::TooLarge) over what an attempt may ask for, [`Unavailable`](Reason::Unavailable)
    /// where as many calls are under way as may be, or the engine could not now.
    pub fn invoke(self) -> Result<Vec<u8>, HostError> {
        functions::invoke(&self.function, &self.payload, &self.options).map_err(refused)
    }

    /// Has it run by itself, with its own retries, once this attempt has succeeded; answers the event's id.
    ///
    /// # Errors
    ///
    /// Those of [`invoke`](Self::invoke) but for [`Failed`](Reason::Failed).
    pub fn invoke_later(self) -> Result<String, HostError> {
        functions::invoke_async(&self.function, &self.payload, &self.options).map_err(refused)
    }
}

fn refused(error: functions::Error) -> HostError {
    match error {
        functions::Error::Denied(why) => HostError::new(Reason::Denied, why),
        functions::Error::UnknownFunction(why) => HostError::new(Reason::Unknown, why),
        functions::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        functions::Error::Busy(why) | functions::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
        functions::Error::Failed(failed) => HostError::new(
            Reason::Failed { retryable: failed.retryable },
            format!("{}: {}", failed.code, failed.message),
        ),
        functions::Error::TooMany(why) => HostError::new(Reason::TooLarge, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn what_became_of_a_called_function_decides_about_its_caller() {
        let failed = |retryable| {
            let failed = functions::Failed { code: "timeout".into(), message: "5 s".into(), retryable };
            Failure::from(refused(functions::Error::Failed(failed)))
        };
        assert_eq!(failed(true), Failure::retryable("timeout: 5 s"));
        assert_eq!(failed(false), Failure::permanent("timeout: 5 s"));
        assert_eq!(Failure::from(refused(functions::Error::Busy("full".into()))), Failure::retryable("full"));
    }
}
