//! What an attempt asked for, once it has succeeded, and what it says of itself while it runs.
//!
//! An attempt of a row releases its effects in the transaction that settles the row. An inline attempt has no such
//! transaction: its events are accepted in one commit, then its messages are published or kept.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use trigger_core::{Binding, InvocationContext, Message, Progress, SocketEffect};
use uuid::Uuid;

use super::Dispatcher;
use crate::executor::Effects;
use crate::store::{self, Admitted, Claim, QueuedInvocation, Release};

/// The shortest time between two writes of one attempt's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

impl Dispatcher {
    /// Releases the effects of an inline attempt; the text says what could not be released.
    ///
    /// Events first: they are one commit or nothing, while a message that the bus has taken cannot be taken back.
    pub(super) async fn release(&self, effects: Effects) -> Result<(), String> {
        let Effects { messages, events, sockets } = effects;
        self.accept_caused(events)
            .await
            .map_err(|error| format!("the attempt's jobs and timers could not be kept: {error}"))?;
        self.publish(messages)
            .await
            .map_err(|error| format!("the attempt's messages could be neither published nor kept: {error}"))?;
        self.tell_sockets(sockets);
        Ok(())
    }

    /// Does to sockets what an attempt asked for that has succeeded. It comes last, since it cannot fail: a socket has
    /// what it is sent, or is gone.
    pub(super) fn tell_sockets(&self, effects: Vec<SocketEffect>) {
        let Some(sockets) = &self.sockets else { return };
        effects.into_iter().for_each(|effect| sockets.apply(effect));
    }

    /// Publishes what a guest published; what the bus does not take now is kept in the outbox.
    async fn publish(&self, messages: Vec<Message>) -> store::Result<()> {
        let mut kept = Vec::new();
        for message in messages {
            // After one refusal the rest goes the same way, so that order holds.
            if !kept.is_empty() {
                kept.push(message);
            } else if let Err(error) = self.bus.publish(message.clone()).await {
                tracing::debug!(subject = %message.subject, "the bus did not take a message, it is kept: {error}");
                kept.push(message);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        self.store.outbox_add(kept).await?;
        self.outbox_wake.wake();
        Ok(())
    }

    /// Accepts events that a guest caused, in one commit. They were granted and counted when the guest asked for them,
    /// so neither a backlog nor a shutdown turns them away now.
    async fn accept_caused(&self, events: Vec<InvocationContext>) -> store::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let _busy = self.clock.busy(|| format!("{} events that a guest caused", events.len()));
        let queued: Vec<QueuedInvocation> = events.into_iter().map(QueuedInvocation::new).collect();
        let admitted = self.commit(&queued, None).await?;
        self.take_in(queued, admitted);
        Ok(())
    }

    /// Counts events that the store has taken, and has them run.
    fn take_in(
        &self,
        queued: Vec<QueuedInvocation>,
        admitted: impl IntoIterator<Item = (Admitted, Option<(Claim, OwnedSemaphorePermit)>)>,
    ) {
        let this = self.arc();
        for (queued, admitted) in queued.into_iter().zip(admitted) {
            let counters = self.ledger.counters(&queued.invocation.binding);
            counters.accepted();
            if let Err(refused) = this.admitted(&counters, queued, admitted) {
                tracing::error!("an event without a bound on its backlog was turned away: {refused}");
            }
        }
    }

    /// Releases what a guest has committed elsewhere under this id, in one commit, unless that was done before. Nothing of
    /// it is for sockets: those are told by the attempt itself.
    pub async fn release_once(&self, id: Uuid, effects: Effects) -> store::Result<()> {
        let Effects { messages, events, sockets: _ } = effects;
        let events: Vec<QueuedInvocation> = events.into_iter().map(QueuedInvocation::new).collect();
        let keep_until = Some(self.now() + self.settings.results_keep);
        let release = Release { id, messages, events: events.clone(), keep_until };
        let Some(admitted) = self.store.release(release).await? else { return Ok(()) };
        self.outbox_wake.wake();
        self.take_in(events, admitted.into_iter().map(|admitted| (admitted, None)));
        Ok(())
    }

    /// Events of these triggers came in with the end of a row.
    pub(super) fn caused(&self, bindings: &[Arc<Binding>]) {
        for binding in bindings {
            self.ledger.counters(binding).accepted();
            self.backlog.grew();
        }
        if !bindings.is_empty() {
            self.queue_wake.wake();
        }
    }

    /// Keeps what the attempt under a claim says of its progress, the newest of what came in an interval, as long as it
    /// is asked to. What is in the air when the attempt ends is not worth a write: the end says more.
    pub(super) async fn keep_progress(&self, claim: Claim, mut progress: watch::Receiver<Progress>) -> Infallible {
        while progress.changed().await.is_ok() {
            let newest = progress.borrow_and_update().clone();
            if let Err(error) = self.store.progress(claim, newest).await {
                tracing::debug!(invocation = %claim.invocation_id, "progress cannot be kept now: {error}");
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
        std::future::pending().await
    }
}
