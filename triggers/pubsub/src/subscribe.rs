//! Messages of a subject, from the bus.
//!
//! A message is ours from the moment it is read: the bus has forgotten it. So a place for it is found first, and what
//! arrives meanwhile waits in the subscription's queue, which counts what it has no room for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use trigger_core::bus::{BusError, MESSAGE_ID_HEADER, Subscription};
use trigger_core::{Accepted, Bus, Custody, InvocationContext, Message, Refused, Shed, TriggerContext, TriggerError};

use crate::config::SubjectSettings;
use crate::event;
use crate::reply::{self, Reply};

/// How often the bus's health and the count of dropped messages are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Messages taken between two looks while there is always one.
const BETWEEN_LOOKS: u32 = 256;

/// The pauses before a message that the store does not take is offered again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Messages of one subject for one function.
pub struct SubjectTrigger {
    bus: Arc<dyn Bus>,
    settings: SubjectSettings,
    /// Made by `bind`, so that no message is missed between a trigger and the one that replaces it.
    subscription: Option<Subscription>,
}

pub(crate) async fn bind(bus: Arc<dyn Bus>, settings: SubjectSettings) -> Result<SubjectTrigger, String> {
    let subscription = match bus.subscribe(&settings.subject, settings.queue_group.as_deref()).await {
        Ok(subscription) => Some(subscription),
        // `run` tries again.
        Err(BusError::Unavailable(_)) => None,
        Err(error) => return Err(error.to_string()),
    };
    Ok(SubjectTrigger { bus, settings, subscription })
}

impl SubjectTrigger {
    pub(crate) async fn run(mut self, cx: TriggerContext) -> Result<(), TriggerError> {
        let Some(subscription) = self.subscribed(&cx).await? else { return Ok(()) };
        let Subscription { messages, stop, dropped } = subscription;
        let mut messages = messages.fuse();
        let slots = Arc::new(Semaphore::new(self.settings.max_in_flight as usize));
        let worker = Arc::new(Worker {
            cx: cx.clone(),
            bus: self.bus.clone(),
            settings: self.settings.clone(),
            not_kept: Mutex::default(),
        });
        let mut watch = Watch { worker: worker.clone(), dropped, told: 0 };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = std::pin::pin!(cx.shutdown.cancelled());
        let mut taken = 0u32;
        let asked_to_stop = 'running: loop {
            let slot = loop {
                tokio::select! {
                    biased;
                    slot = slot(&slots) => break slot,
                    () = &mut stopped => break 'running true,
                    _ = look.tick() => watch.look(),
                }
            };
            let message = loop {
                tokio::select! {
                    biased;
                    message = messages.next() => break message,
                    () = &mut stopped => break 'running true,
                    _ = look.tick() => watch.look(),
                }
            };
            let Some(message) = message else { break false };
            worker.start(message, slot);
            taken += 1;
            if taken.is_multiple_of(BETWEEN_LOOKS) {
                // With a message always at hand, the branches above are never reached.
                watch.look();
                if cx.shutdown.is_cancelled() {
                    break true;
                }
            }
        };
        // What the subscription has received is ours, and is answered like the rest.
        let rest = async {
            while let Some(message) = messages.next().await {
                worker.start(message, slot(&slots).await);
            }
        };
        tokio::join!(stop(), rest);
        watch.look();
        let _ = slots.acquire_many(self.settings.max_in_flight).await;
        if asked_to_stop { Ok(()) } else { Err(TriggerError("the bus ended the subscription".to_owned())) }
    }

    /// The subscription; waits for a bus that is away. `None` when asked to stop meanwhile.
    async fn subscribed(&mut self, cx: &TriggerContext) -> Result<Option<Subscription>, TriggerError> {
        if let Some(subscription) = self.subscription.take() {
            return Ok(Some(subscription));
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let subscribing = self.bus.subscribe(&self.settings.subject, self.settings.queue_group.as_deref());
            match subscribing.await {
                Ok(subscription) => return Ok(Some(subscription)),
                Err(BusError::Unavailable(why)) => cx.degraded(why),
                Err(error) => return Err(TriggerError(error.to_string())),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = cx.shutdown.cancelled() => return Ok(None),
            }
        }
    }
}

async fn slot(slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    slots.clone().acquire_owned().await.expect("nobody closes it")
}

/// Tells the engine what only the bus and the messages under way know.
struct Watch {
    worker: Arc<Worker>,
    dropped: Arc<AtomicU64>,
    told: u64,
}

impl Watch {
    fn look(&mut self) {
        let Worker { cx, bus, not_kept, .. } = &*self.worker;
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            let events = dropped - self.told;
            self.told = dropped;
            cx.dispatch.count_shed(&cx.binding, Shed::SlowConsumer, events);
            tracing::warn!(trigger = %cx.binding.path(), events, "messages were dropped: they came faster than they ran");
        }
        let why = bus.degraded().or_else(|| not_kept.lock().expect("nothing panics while holding it").clone());
        match why {
            Some(why) => cx.degraded(why),
            None => cx.healthy(),
        }
    }
}

/// Sees one message to its answer.
struct Worker {
    cx: TriggerContext,
    bus: Arc<dyn Bus>,
    settings: SubjectSettings,
    /// Why messages wait to be kept, while they do. Held for an assignment only.
    not_kept: Mutex<Option<String>>,
}

impl Worker {
    fn start(self: &Arc<Self>, message: Message, slot: OwnedSemaphorePermit) {
        let worker = self.clone();
        let busy = self.cx.clock.busy(|| format!("a message for {}", self.cx.binding.path()));
        self.cx.tasks.spawn(async move {
            worker.handle(message).await;
            drop((slot, busy));
        });
    }

    async fn handle(&self, message: Message) {
        let reply_to = message.reply.clone().filter(|_| self.settings.reply && awaits_output(&message));
        let custody =
            if reply_to.is_some() && self.settings.keeping.is_none() { Custody::Caller } else { Custody::Engine };
        let mut event = event::of_subject(&self.cx, message, custody);
        if self.settings.cloudevents {
            event::open(&mut event);
        }
        let id = event.invocation_id;
        let reply = if let Some(keeping) = &self.settings.keeping {
            keeping.apply(&mut event);
            match self.keep(event, reply_to.is_some()).await {
                Ok(accepted) => reply::receipt(accepted),
                Err(refused) => reply::refused(&refused, id),
            }
        } else {
            let answer = self.cx.dispatch.dispatch(event).await;
            if reply_to.is_none() {
                // What became of it is the engine's to know: a row, a dead letter, a count.
                return;
            }
            reply::answered(answer, id)
        };
        if let Some(reply_to) = reply_to {
            self.reply(reply_to, reply, id).await;
        }
    }

    /// Has a message kept. A store that cannot take it now is waited for, unless a sender waits who can try again.
    async fn keep(&self, event: InvocationContext, awaited: bool) -> Result<Accepted, Refused> {
        let mut pause = FIRST_PAUSE;
        loop {
            let refused = match self.cx.dispatch.accept(event.clone()).await {
                Ok(accepted) => {
                    self.waits(None);
                    return Ok(accepted);
                }
                Err(refused) => refused,
            };
            let passing = matches!(refused.reason, Shed::StoreUnavailable | Shed::Overload);
            if awaited || !passing || self.cx.shutdown.is_cancelled() {
                if !awaited {
                    tracing::error!(trigger = %self.cx.binding.path(), "a message was not kept: {refused}");
                }
                return Err(refused);
            }
            self.waits(Some(format!("messages cannot be kept, trying again: {refused}")));
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())) => {}
                // One last try.
                () = self.cx.shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn waits(&self, why: Option<String>) {
        *self.not_kept.lock().expect("nothing panics while holding it") = why;
    }

    async fn reply(&self, subject: Box<str>, reply: Reply, invocation_id: uuid::Uuid) {
        let message = |reply: Reply| Message {
            subject: subject.clone(),
            reply: None,
            headers: reply.headers,
            payload: reply.payload,
        };
        let published = match self.bus.publish(message(reply)).await {
            Err(error @ BusError::TooLarge { .. }) => {
                self.bus.publish(message(reply::too_large(format!("the answer: {error}"), invocation_id))).await
            }
            published => published,
        };
        if let Err(error) = published {
            tracing::warn!(trigger = %self.cx.binding.path(), %invocation_id, "a requester was not answered: {error}");
        }
    }
}

/// Whether a reply subject awaits the function's output. That of a message with an id awaits a stream's
/// acknowledgement, and an output in its place would look to the publisher like a failure.
fn awaits_output(message: &Message) -> bool {
    message.reply.is_some() && message.headers.get(MESSAGE_ID_HEADER).is_none()
}
