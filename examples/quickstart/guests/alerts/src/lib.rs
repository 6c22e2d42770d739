//! Says in one line what every dead letter is about.
//!
//! It subscribes to every dead-letter topic. With `FAIL = "1"` in its environment it fails on each of them, which shows
//! that a dead letter's own handler cannot set off an endless chain.

use serde::Deserialize;
use serde::de::IgnoredAny;
use tripline_guest::{Event, Failure, environment};

tripline_guest::handler!(alert);

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

fn alert(event: Event) -> Result<String, Failure> {
    if environment::get("FAIL").as_deref() == Some("1") {
        return Err(Failure::retryable("FAIL is 1"));
    }
    let DeadLetter { data } = event.json()?;
    let line = format!(
        "{} gave up, attempts: {} ({}): {}: {}; see: tripline dlq show {}",
        data.function,
        data.attempts.len(),
        data.reason,
        data.failure.code,
        data.failure.message,
        data.id,
    );
    tripline_guest::error!("{line}");
    Ok(line)
}
