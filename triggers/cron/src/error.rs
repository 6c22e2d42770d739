//! What is wrong with a cron trigger's section, told so that it can be put right.

/// A mistake in one key of a cron trigger's section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The key that holds the mistake: `schedule`, `timezone`, `end`, ….
    pub key: &'static str,
    /// Which element of the key's list, from 0.
    pub index: Option<usize>,
    /// What is wrong, with the value in question.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Error {
    /// A mistake in a key.
    pub(crate) fn at(key: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { key, index: None, message: message.into(), help: help.into() }
    }

    /// A mistake in `schedule`.
    pub(crate) fn schedule(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::at("schedule", message, help)
    }

    /// A mistake in `timezone`.
    pub(crate) fn timezone(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::at("timezone", message, help)
    }
}
