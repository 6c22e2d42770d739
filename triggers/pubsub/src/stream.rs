//! Messages of a JetStream stream, pulled from a durable consumer.
//!
//! A message stays the stream's until it is acknowledged, which happens after the outcome. So no more are asked for
//! than there is room to run: what would wait here would use up the time that the stream gives each message, and be
//! delivered again while it waits. Everything that can go wrong with the server is waited out: the trigger says what
//! is wrong, and begins again with the consumer.

mod consumer;
mod deliver;
mod examine;
mod pull;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use trigger_core::{Bus, Gate, TriggerContext};

use crate::Clients;
use crate::config::StreamSettings;
use crate::event::Seed;
use deliver::Deliverer;
pub(crate) use examine::examine;
use pull::Puller;

/// The pauses before the consumer is looked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long the last acknowledgements may take on their way out.
const FLUSH: Duration = Duration::from_secs(5);

/// Messages of one stream for one function.
pub struct StreamTrigger {
    /// Knows why there is no connection, while there is none.
    bus: Arc<dyn Bus>,
    clients: Clients,
    settings: StreamSettings,
}

/// Why pulling came to an end.
enum Ended {
    /// It was asked to.
    Stopped,
    /// The consumer is gone or out of reach.
    Lost(String),
}

impl StreamTrigger {
    pub(crate) fn new(bus: Arc<dyn Bus>, clients: Clients, settings: StreamSettings) -> Self {
        Self { bus, clients, settings }
    }

    pub(crate) async fn run(self, cx: TriggerContext) {
        let slots = Arc::new(Semaphore::new(self.settings.max_in_flight as usize));
        let max_backlog = self.settings.keeping.as_ref().map(|(_, most)| u64::from(*most));
        cx.dispatch.set_gate(&cx.binding, Gate { max_backlog, ..Gate::default() });
        let mut pause = FIRST_PAUSE;
        loop {
            match self.pull(&cx, &slots, &mut pause).await {
                Ended::Stopped => break,
                Ended::Lost(why) => cx.degraded(why),
            }
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())) => {}
                () = cx.shutdown.cancelled() => break,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let _ = slots.acquire_many(self.settings.max_in_flight).await;
        // The acknowledgements are in the client's queue; they count once the server has them.
        let _ = tokio::time::timeout(FLUSH, (self.clients)().flush()).await;
    }

    /// Finds or makes the consumer and pulls from it.
    async fn pull(&self, cx: &TriggerContext, slots: &Arc<Semaphore>, pause: &mut Duration) -> Ended {
        if let Some(why) = self.bus.degraded() {
            return Ended::Lost(why);
        }
        let client = (self.clients)();
        let preparing = consumer::prepare(&client, &self.settings);
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            () = cx.shutdown.cancelled() => return Ended::Stopped,
        };
        if let Err(why) = prepared {
            return Ended::Lost(why);
        }
        let deliverer = Arc::new(Deliverer {
            cx: cx.clone(),
            client: client.clone(),
            seed: Seed::new(cx),
            sign_of_life: self.settings.ack_wait / 3,
            confirmed: self.settings.double_ack,
            opens: self.settings.cloudevents,
            keeping: self.settings.keeping.as_ref().map(|(keeping, _)| keeping.clone()),
        });
        match Puller::new(self.bus.clone(), client, &self.settings).await {
            Ok(mut puller) => {
                cx.healthy();
                *pause = FIRST_PAUSE;
                puller.run(&deliverer, slots).await
            }
            Err(why) => Ended::Lost(why),
        }
    }
}
