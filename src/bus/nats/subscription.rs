//! One subscription: a task takes what the client library receives and puts it in a queue that counts.
//!
//! The library's own queue drops without telling whose message it was; this task only moves messages on, on the
//! connection's thread, so that what is dropped is dropped here, where it is counted.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::BoxFuture;
use trigger_core::Clock;
use trigger_core::bus::Subscription;

use super::super::queue::{self, Sender, Sent};
use super::convert;

/// How long the server may take to end a subscription.
const STOP: Duration = Duration::from_secs(2);

pub(super) fn forward(client: Client, subscriber: Subscriber, tasks: &TaskTracker, thread: &Handle) -> Subscription {
    let stop = CancellationToken::new();
    let (tx, rx) = queue::queue(Clock::system(), queue::MAX_MESSAGES, queue::MAX_BYTES, stop.clone().drop_guard());
    let dropped = tx.dropped();
    let ended = tasks.spawn_on(run(client, subscriber, tx, stop.clone()), thread);
    let stop = Box::new(move || -> BoxFuture<'static, ()> {
        stop.cancel();
        async move {
            let _ = ended.await;
        }
        .boxed()
    });
    Subscription { messages: rx.boxed(), stop, dropped }
}

async fn run(client: Client, mut subscriber: Subscriber, tx: Sender, stop: CancellationToken) {
    let mut stopped = std::pin::pin!(stop.cancelled());
    loop {
        let message = tokio::select! {
            biased;
            message = subscriber.next() => message,
            () = &mut stopped => break,
        };
        let Some(message) = message else { return };
        if !hand_over(&tx, message) {
            return;
        }
    }
    // A server that is away has nothing on its way, and does not hear of the end.
    let away = client.connection_state() != State::Connected;
    if tx.is_gone() || away || subscriber.drain().await.is_err() {
        while let Some(Some(message)) = subscriber.next().now_or_never() {
            hand_over(&tx, message);
        }
        return;
    }
    // What the server had sent when it heard of the end is still taken.
    let rest = async {
        while let Some(message) = subscriber.next().await {
            if !hand_over(&tx, message) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(STOP, rest).await;
}

/// Whether anybody is there to take the next one.
fn hand_over(tx: &Sender, message: async_nats::Message) -> bool {
    match tx.offer(|| convert::received(message)) {
        Sent::Queued => true,
        Sent::Full => {
            tx.count_dropped(1);
            true
        }
        Sent::Gone => false,
    }
}
