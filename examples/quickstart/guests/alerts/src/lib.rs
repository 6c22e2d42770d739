//! Says in one line what every dead letter is about.
//!
//! It subscribes to every dead-letter topic. With `FAIL = "1"` in its environment it fails on each of them, which shows
//! that a dead letter's own handler cannot set off an endless chain.

wit_bindgen::generate!({ path: "../../../../wit", world: "function" });

use serde::Deserialize;
use serde::de::IgnoredAny;
use tripline::function::{environment, log};

/// The CloudEvent that a dead letter is published as; what is not read here is left out.
#[derive(Deserialize)]
struct DeadLetter {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    id: String,
    function: String,
    reason: String,
    attempts: Vec<IgnoredAny>,
    failure: LastFailure,
}

#[derive(Deserialize)]
struct LastFailure {
    code: String,
    message: String,
}

struct Alerts;
export!(Alerts);

impl Guest for Alerts {
    fn handle(cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        if environment::get("FAIL").as_deref() == Some("1") {
            return Err(Failure::Retryable("FAIL is 1".into()));
        }
        let DeadLetter { data } = serde_json::from_slice(&payload)
            .map_err(|error| Failure::Permanent(format!("{} brought no dead letter: {error}", cx.subject)))?;
        let line = format!(
            "{} gave up, attempts: {} ({}): {}: {}; see: tripline dlq show {}",
            data.function,
            data.attempts.len(),
            data.reason,
            data.failure.code,
            data.failure.message,
            data.id,
        );
        log::write(log::Level::Error, &line);
        Ok(line.into_bytes())
    }
}
