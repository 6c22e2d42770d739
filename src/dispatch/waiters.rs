//! Who waits for an invocation to end.

use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot;
use trigger_core::{Refused, Status};
use uuid::Uuid;

use super::{Dispatcher, store_refused};
use crate::store;

/// How often the store is asked about an invocation that another engine may have ended.
const LOOK: Duration = Duration::from_millis(500);

/// Callers by the invocation that they wait for.
#[derive(Default)]
pub(super) struct Waiters {
    waiting: DashMap<Uuid, Vec<oneshot::Sender<Status>>>,
}

impl Waiters {
    fn add(&self, id: Uuid) -> oneshot::Receiver<Status> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.entry(id).or_default().push(sender);
        receiver
    }

    /// Forgets those of an invocation's waiters that have gone away.
    fn tidy(&self, id: Uuid) {
        self.waiting.remove_if_mut(&id, |_, waiting| {
            waiting.retain(|sender| !sender.is_closed());
            waiting.is_empty()
        });
    }

    /// Tells those who wait. `status` is only made where somebody does.
    pub(super) fn ended(&self, id: Uuid, status: impl FnOnce() -> Status) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some((_, waiting)) = self.waiting.remove(&id) {
            let status = status();
            for sender in waiting {
                // One that went away meanwhile wants no answer.
                let _ = sender.send(status.clone());
            }
        }
    }
}

impl Dispatcher {
    /// Waits until an invocation has ended, for at most this long, and says how it stands then.
    pub(super) async fn wait_for_end(&self, id: Uuid, at_most: Duration) -> Result<Option<Status>, Refused> {
        let deadline = tokio::time::Instant::now() + at_most;
        // Registered before the look, so that an end behind the look is heard.
        let mut ended = self.waiters.add(id);
        // What this engine runs at this moment it will tell of itself. Under load that takes a while: a question to the
        // store by each who waits would be a good part of the load.
        if self.held.holds(id) {
            let look = (tokio::time::Instant::now() + LOOK).min(deadline);
            if let Ok(Ok(status)) = tokio::time::timeout_at(look, &mut ended).await {
                return Ok(Some(status));
            }
        }
        let result = loop {
            match self.store.status(id).await {
                Ok(Some(status)) if !is_over(&status) && tokio::time::Instant::now() < deadline => {}
                Ok(status) => break Ok(status),
                Err(error @ store::Error::Unavailable(_)) if tokio::time::Instant::now() < deadline => {
                    tracing::debug!(invocation = %id, "a result cannot be read now, it is waited for: {error}");
                }
                Err(error) => break Err(store_refused(&error)),
            }
            let look = (tokio::time::Instant::now() + LOOK).min(deadline);
            tokio::select! {
                status = &mut ended => if let Ok(status) = status { break Ok(Some(status)) },
                () = tokio::time::sleep_until(look) => {}
            }
        };
        drop(ended);
        self.waiters.tidy(id);
        result
    }
}

fn is_over(status: &Status) -> bool {
    use trigger_core::StatusState::{Cancelled, Dead, Ok, Queued, Running};
    match status.state {
        Queued { .. } | Running { .. } => false,
        Ok { .. } | Dead { .. } | Cancelled => true,
    }
}
