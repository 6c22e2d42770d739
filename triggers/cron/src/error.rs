//! What is wrong with a schedule or a time zone, told so that it can be put right.

/// A mistake in one key of a cron trigger's section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The key that holds the mistake: `schedule` or `timezone`.
    pub key: &'static str,
    /// What is wrong, with the value in question.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Error {
    /// A mistake in `schedule`.
    pub(crate) fn schedule(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { key: "schedule", message: message.into(), help: help.into() }
    }

    /// A mistake in `timezone`.
    pub(crate) fn timezone(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { key: "timezone", message: message.into(), help: help.into() }
    }
}
