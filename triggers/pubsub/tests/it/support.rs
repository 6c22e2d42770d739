//! A bus to play with, and a trigger that runs on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::mpsc;
use trigger_core::bus::{BusError, Subscription};
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    BoxFuture, Bus, InvocationContext, Kind, Message, Trigger as _, TriggerContext, TriggerKind as _, subject,
};
use trigger_pubsub::{Config, Pubsub};

/// The largest payload of the bus.
pub(crate) const LIMIT: usize = 1000;

/// Hands messages over in process; is away when told.
#[derive(Default)]
pub(crate) struct FakeBus {
    subscriptions: Mutex<Vec<(String, mpsc::Sender<Message>)>>,
    away: AtomicBool,
    /// What the next subscription says that it dropped.
    pub(crate) dropped: Arc<AtomicU64>,
}

impl FakeBus {
    pub(crate) fn go_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Ends every subscription, as a bus does that is gone.
    pub(crate) fn end(&self) {
        self.subscriptions.lock().unwrap().clear();
    }

    pub(crate) fn subscribed(&self) -> usize {
        self.subscriptions.lock().unwrap().iter().filter(|(_, tx)| !tx.is_closed()).count()
    }

    pub(crate) fn send(&self, message: Message) {
        for (pattern, tx) in &*self.subscriptions.lock().unwrap() {
            if subject::matches(pattern, &message.subject) {
                let _ = tx.try_send(message.clone());
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn request(&self, mut message: Message) -> Message {
        message.reply = Some("reply.here".into());
        let mut replies = self.subscribe("reply.here", None).await.unwrap();
        self.send(message);
        tokio::time::timeout(std::time::Duration::from_secs(10), replies.messages.next()).await.unwrap().unwrap()
    }
}

impl Bus for FakeBus {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        let size = message.payload.len();
        if size > LIMIT {
            return std::future::ready(Err(BusError::TooLarge { size, limit: LIMIT })).boxed();
        }
        self.send(message);
        std::future::ready(Ok(())).boxed()
    }

    fn publish_durably(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        self.publish(message)
    }

    fn subscribe(&self, subject: &str, _: Option<&str>) -> BoxFuture<'_, Result<Subscription, BusError>> {
        if self.away.load(Ordering::SeqCst) {
            return std::future::ready(Err(BusError::Unavailable("the bus is away".into()))).boxed();
        }
        let (tx, rx) = mpsc::channel(10_000);
        let mut subscriptions = self.subscriptions.lock().unwrap();
        subscriptions.push((subject.to_owned(), tx));
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopped = stop.clone();
        // After a stop, what was received is still there.
        let messages = stream::unfold((rx, stopped), |(mut rx, stopped)| async move {
            tokio::select! {
                biased;
                message = rx.recv() => message.map(|message| (message, (rx, stopped))),
                () = stopped.notified() => {
                    rx.close();
                    rx.recv().await.map(|message| (message, (rx, stopped)))
                }
            }
        });
        let stop = Box::new(move || -> BoxFuture<'static, ()> {
            stop.notify_one();
            std::future::ready(()).boxed()
        });
        std::future::ready(Ok(Subscription { messages: messages.boxed(), stop, dropped: self.dropped.clone() })).boxed()
    }

    fn max_payload_bytes(&self) -> usize {
        LIMIT
    }

    fn degraded(&self) -> Option<String> {
        self.away.load(Ordering::SeqCst).then(|| "the bus is away".to_owned())
    }
}

pub(crate) fn message(subject: &str, payload: &str) -> Message {
    Message { subject: subject.into(), payload: Bytes::from(payload.to_owned()), ..Message::default() }
}

/// A trigger that runs.
pub(crate) struct Running {
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) dispatch: Arc<FakeDispatch>,
    pub(crate) cx: TriggerContext,
}

pub(crate) async fn run(section: Value, dispatch: Arc<FakeDispatch>) -> Running {
    run_on(Arc::default(), section, dispatch).await
}

pub(crate) async fn run_on(bus: Arc<FakeBus>, section: Value, dispatch: Arc<FakeDispatch>) -> Running {
    let cx = dispatch.context(Kind::Pubsub, "messages");
    let config: Config = serde_json::from_value(section).unwrap();
    let trigger = Pubsub::new(bus.clone(), None).bind(config, cx.binding.clone()).await.unwrap();
    let own = cx.clone();
    cx.tasks.spawn(async move {
        if let Err(error) = trigger.run(own.clone()).await {
            own.degraded(format!("ended: {error}"));
        }
    });
    Running { bus, dispatch, cx }
}

impl Running {
    pub(crate) fn seen(&self) -> Vec<InvocationContext> {
        self.dispatch.seen()
    }

    pub(crate) fn health(&self) -> Option<String> {
        self.cx.health.borrow().clone()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(&self) {
        self.cx.shutdown.cancel();
        self.cx.tasks.close();
        tokio::time::timeout(std::time::Duration::from_secs(10), self.cx.tasks.wait()).await.expect("it stops");
    }
}
