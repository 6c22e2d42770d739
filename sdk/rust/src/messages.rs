//! Messages: sent when the attempt succeeds, dropped when it fails.

use crate::bindings::tripline::function::messaging;
use crate::{HostError, Reason};

/// A message to publish, on a subject that the definition's `allow.publish` grants.
#[derive(Clone, Debug)]
pub struct Message(messaging::Message);

impl Message {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self(messaging::Message { subject: subject.into(), headers: Vec::new(), payload: payload.into() })
    }

    /// Adds a header. Names that begin with `tripline-`, `traceparent` and `tracestate` are set by the engine.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    /// Publishes it.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where the subject or a header is not granted, [`Invalid`](Reason::Invalid) where the
    /// subject is none, [`TooLarge`](Reason::TooLarge) over the limit for one message or for all of the attempt.
    pub fn publish(self) -> Result<(), HostError> {
        messaging::publish(&self.0).map_err(refused)
    }
}

/// Publishes all of them or none.
///
/// # Errors
///
/// Those of [`Message::publish`].
pub fn publish_all(messages: impl IntoIterator<Item = Message>) -> Result<(), HostError> {
    let messages: Vec<_> = messages.into_iter().map(|message| message.0).collect();
    messaging::publish_batch(&messages).map_err(refused)
}

fn refused(error: messaging::Error) -> HostError {
    match error {
        messaging::Error::Denied(why) => HostError::new(Reason::Denied, why),
        messaging::Error::InvalidSubject(why) => HostError::new(Reason::Invalid, why),
        messaging::Error::TooLarge(why) => HostError::new(Reason::TooLarge, why),
    }
}
