//! Secrets that the definition's `allow.secrets` grants.

use crate::bindings::tripline::function::secrets;
use crate::{HostError, Reason};

/// A secret, by its name in the engine's settings. Where a log line or a failure of the function holds it, stars stand
/// in its place; what the function answers, publishes or keeps is its own affair.
///
/// # Errors
///
/// [`Denied`](Reason::Denied) where it is not granted, [`Unavailable`](Reason::Unavailable) where the engine does not
/// have it.
pub fn get(name: &str) -> Result<String, HostError> {
    secrets::get(name).map_err(|error| match error {
        secrets::Error::Denied(why) => HostError::new(Reason::Denied, why),
        secrets::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    })
}
