//! Somebody who publishes all the while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::support::eventually;

/// How long the server may take to acknowledge a message. One that is later may be in the stream, or may not.
const ANSWER: Duration = Duration::from_millis(500);

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(2);

/// Publishes numbered messages to `work.item`, each once, and writes down which of them were acknowledged.
pub(super) struct Load {
    done: Arc<Mutex<Done>>,
    publishing: JoinSet<()>,
}

#[derive(Default)]
struct Done {
    acknowledged: BTreeSet<u32>,
    next: u32,
}

impl Load {
    pub(super) fn start(js: jetstream::Context) -> Self {
        let done = Arc::<Mutex<Done>>::default();
        let mut publishing = JoinSet::new();
        publishing.spawn(publish(js, done.clone()));
        Self { done, publishing }
    }

    /// Waits until so many more are acknowledged.
    pub(super) async fn more(&self, messages: usize) {
        let enough = self.done.lock().acknowledged.len() + messages;
        eventually("messages to be acknowledged", async || self.done.lock().acknowledged.len() >= enough).await;
    }

    /// The numbers that were acknowledged.
    pub(super) fn acknowledged(&self) -> BTreeSet<u32> {
        self.done.lock().acknowledged.clone()
    }

    /// Expects no more of what was acknowledged so far: somebody took it away.
    pub(super) async fn forget(&self) {
        // The first of these may have been on its way while that was done.
        self.more(2).await;
        self.done.lock().acknowledged.clear();
    }

    /// Ends it. Answers a number above all that were published.
    pub(super) async fn stop(&mut self) -> u32 {
        self.publishing.shutdown().await;
        self.done.lock().next
    }
}

async fn publish(js: jetstream::Context, done: Arc<Mutex<Done>>) {
    loop {
        let number = {
            let mut done = done.lock();
            done.next += 1;
            done.next - 1
        };
        let sent = async { js.publish("work.item", counted(number)).await.ok()?.await.ok() };
        if let Ok(Some(_)) = tokio::time::timeout(ANSWER, sent).await {
            done.lock().acknowledged.insert(number);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What tells the function to count under a number.
pub(super) fn counted(number: u32) -> Bytes {
    format!("add default {number} 1").into()
}
