//! One message of a stream: run, with signs of life while it runs, then settled.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Client, Message, Subject};
use tokio::sync::OwnedSemaphorePermit;
use trigger_core::{Answer, Failure, InvocationContext, Refused, Shed, SkipReason, TriggerContext};

use crate::config::Keeping;
use crate::event::{self, Position, Seed};

/// When a message whose function is disabled or not deployed is offered again.
const DISABLED: Duration = Duration::from_secs(10);

/// How often the stream is told what it does not confirm, within the time that it waits.
const CONFIRMATIONS: u32 = 3;

/// Sees a trigger's messages to their ends.
pub(super) struct Deliverer {
    pub(super) cx: TriggerContext,
    pub(super) client: Client,
    pub(super) seed: Seed,
    /// How often the stream is told that a message is being worked on.
    pub(super) sign_of_life: Duration,
    /// Whether the stream confirms what it is told.
    pub(super) confirmed: bool,
    /// Whether messages that are CloudEvents are opened.
    pub(super) opens: bool,
    /// How messages are kept, where their end is not waited for.
    pub(super) keeping: Option<Keeping>,
}

impl Deliverer {
    /// Starts the work on a message.
    pub(super) fn start(self: &Arc<Self>, message: Message, slot: OwnedSemaphorePermit) {
        let this = self.clone();
        self.cx.tasks.spawn(async move {
            this.deliver(message).await;
            drop(slot);
        });
    }

    async fn deliver(&self, message: Message) {
        let reply = message.reply.clone();
        let Some((reply, position)) = reply.and_then(|reply| Position::parse(&reply).map(|position| (reply, position)))
        else {
            tracing::warn!(trigger = %self.cx.binding.path(), subject = %message.subject, "what came is no stream's message");
            return;
        };
        let mut event = event::of_stream(&self.cx, message, &position, self.seed);
        if self.opens {
            event::open(&mut event);
        }
        let mut call = std::pin::pin!(self.settle(event, &position));
        let settled = loop {
            tokio::select! {
                biased;
                settled = &mut call => break settled,
                () = tokio::time::sleep(self.sign_of_life) => self.tell(&reply, AckKind::Progress).await,
            }
        };
        match self.confirmed {
            true => self.confirm(&reply, settled).await,
            false => self.tell(&reply, settled).await,
        }
    }

    /// Sees an event to its end, or into the store; answers what the stream is to be told.
    async fn settle(&self, event: InvocationContext, position: &Position) -> AckKind {
        let Some(keeping) = &self.keeping else { return settled(&self.cx.dispatch.dispatch(event).await) };
        let mut kept = event.clone();
        event::to_keep(&mut kept, position);
        keeping.apply(&mut kept);
        match self.cx.dispatch.accept(kept).await {
            Ok(_) => AckKind::Ack,
            // It will never be taken so, and becomes a dead letter.
            Err(Refused { reason: Shed::TooLarge, .. }) => settled(&self.cx.dispatch.dispatch(event).await),
            Err(Refused { reason, retry_after, .. }) => settled(&Answer::Shed { reason, retry_after }),
        }
    }

    /// Hands a message back that was not looked at.
    pub(super) async fn hand_back(&self, message: &Message) {
        if let Some(reply) = &message.reply {
            self.tell(reply, AckKind::Nak(None)).await;
        }
    }

    /// Tells the stream until it says that it has heard.
    async fn confirm(&self, reply: &Subject, what: AckKind) {
        for _ in 0..CONFIRMATIONS {
            let heard = self.client.request(reply.clone(), what.into());
            if let Ok(Ok(_)) = tokio::time::timeout(self.sign_of_life, heard).await {
                return;
            }
        }
        tracing::warn!(trigger = %self.cx.binding.path(), ?what, "the stream has not confirmed, it may deliver again");
    }

    /// Tells the stream. What does not arrive there costs another delivery, never the message.
    async fn tell(&self, reply: &Subject, what: AckKind) {
        if let Err(error) = self.client.publish(reply.clone(), what.into()).await {
            tracing::warn!(trigger = %self.cx.binding.path(), ?what, "the stream was not told, it will deliver again: {error}");
        }
    }
}

/// What an answer means to a stream.
fn settled(answer: &Answer) -> AckKind {
    match answer {
        // It ran, or the engine has it.
        Answer::Ok(_)
        | Answer::Kept(_)
        | Answer::Skipped(SkipReason::Duplicate | SkipReason::Overlap | SkipReason::Filtered) => AckKind::Ack,
        // Its dead letter is committed: no delivery can do better.
        Answer::Dead { .. } => AckKind::Term,
        Answer::Retry { after, .. } => AckKind::Nak(Some(*after)),
        // Not an answer to a source. The engine keeps nothing of it, so the stream does.
        Answer::Failed(Failure { retry_after, .. }) => AckKind::Nak(Some(retry_after.unwrap_or(DISABLED))),
        Answer::Skipped(SkipReason::Disabled | SkipReason::Missed | SkipReason::Paused) => AckKind::Nak(Some(DISABLED)),
        // Another engine may have room for it now.
        Answer::Cancelled | Answer::Shed { reason: Shed::ShuttingDown, .. } => AckKind::Nak(None),
        Answer::Shed { retry_after, .. } => AckKind::Nak(Some(*retry_after)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trigger_core::{DeadReason, FailureCode, Response};

    use super::*;

    #[test]
    fn every_answer_settles_its_message() {
        let failure = || Failure::new(FailureCode::GuestError, "no");
        let second = Duration::from_secs(1);
        for (answer, expected) in [
            (Answer::Ok(Response::default()), "+ACK"),
            (Answer::Kept(failure()), "+ACK"),
            (Answer::Skipped(SkipReason::Duplicate), "+ACK"),
            (Answer::Dead { reason: DeadReason::Permanent, failure: failure() }, "+TERM"),
            (Answer::Retry { after: second, failure: failure() }, "-NAK {\"delay\":1000000000}"),
            (Answer::Failed(failure()), "-NAK {\"delay\":10000000000}"),
            (Answer::Failed(failure().after(second)), "-NAK {\"delay\":1000000000}"),
            (Answer::Skipped(SkipReason::Disabled), "-NAK {\"delay\":10000000000}"),
            (Answer::Cancelled, "-NAK"),
            (Answer::Shed { reason: Shed::ShuttingDown, retry_after: second }, "-NAK"),
            (Answer::Shed { reason: Shed::Overload, retry_after: second }, "-NAK {\"delay\":1000000000}"),
        ] {
            assert_eq!(Bytes::from(settled(&answer)), expected, "{answer:?}");
        }
    }
}
