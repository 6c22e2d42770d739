//! Which subjects a JetStream stream keeps: asked of the server, remembered for a short while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use parking_lot::Mutex;
use serde::Deserialize;
use trigger_core::bus::BusError;

/// How long the answer is believed. A stream made meanwhile is noticed after this; one that was deleted is noticed by
/// the acknowledgement that does not come.
const BELIEVED: Duration = Duration::from_secs(10);

/// How long a server that says it has no JetStream may take to confirm it: others of its cluster may have it. It answers
/// at once unless somebody subscribes to everything.
const DOUBTFUL: Duration = Duration::from_millis(500);

/// Subjects remembered at most; then the memory begins anew.
const MAX_SUBJECTS: usize = 1024;

/// The streams' subjects, as far as they were asked for.
#[derive(Default)]
pub(super) struct Coverage {
    known: Mutex<HashMap<Box<str>, (bool, Instant)>>,
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

impl Coverage {
    /// Whether a stream keeps messages on this subject and acknowledges them.
    pub(super) async fn covers(&self, js: &jetstream::Context, subject: &str) -> Result<bool, BusError> {
        if let Some((covered, asked)) = self.known.lock().get(subject)
            && asked.elapsed() < BELIEVED
        {
            return Ok(*covered);
        }
        let covered = ask(js, subject).await?;
        let mut known = self.known.lock();
        if known.len() >= MAX_SUBJECTS {
            known.clear();
        }
        known.insert(subject.into(), (covered, Instant::now()));
        Ok(covered)
    }

    /// Forgets what is known of a subject.
    pub(super) fn forget(&self, subject: &str) {
        self.known.lock().remove(subject);
    }
}

async fn ask(js: &jetstream::Context, subject: &str) -> Result<bool, BusError> {
    let request = serde_json::json!({ "subject": subject });
    let mut asking = js.clone();
    let unlikely = !js.client().server_info().jetstream;
    if unlikely {
        asking.set_timeout(DOUBTFUL);
    }
    let names: Response<Names> = match asking.request("STREAM.NAMES", &request).await {
        Ok(names) => names,
        Err(error) if unlikely && error.kind() == RequestErrorKind::TimedOut => return Ok(false),
        // The server has no JetStream.
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(false),
        Err(error) => {
            return Err(BusError::Unavailable(format!("the server does not say which streams it has: {error}")));
        }
    };
    let stream = match names {
        Response::Ok(names) => names.streams.unwrap_or_default().into_iter().next(),
        // JetStream is not enabled for this account.
        Response::Err { error } if error.code() == 503 => None,
        Response::Err { error } => {
            return Err(BusError::Unavailable(format!("the server does not say which streams it has: {error}")));
        }
    };
    let Some(stream) = stream else { return Ok(false) };
    // A stream that was told not to acknowledge never does. Where looking is not allowed, it is taken to acknowledge.
    Ok(js.get_stream(&stream).await.map_or(true, |stream| !stream.cached_info().config.no_ack))
}
