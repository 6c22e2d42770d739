//! One message of a stream: run, with signs of life while it runs, then settled.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Client, Message, Subject};
use tokio::sync::OwnedSemaphorePermit;
use trigger_core::{Answer, Failure, Shed, SkipReason, TriggerContext};

use crate::event::{self, Position, Seed};

/// When a message whose function is disabled or not deployed is offered again.
const DISABLED: Duration = Duration::from_secs(10);

/// Sees a trigger's messages to their ends.
pub(super) struct Deliverer {
    pub(super) cx: TriggerContext,
    pub(super) client: Client,
    pub(super) seed: Seed,
    /// How often the stream is told that a message is being worked on.
    pub(super) sign_of_life: Duration,
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
        let event = event::of_stream(&self.cx, message, &position, self.seed);
        let mut call = std::pin::pin!(self.cx.dispatch.dispatch(event));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut call => break answer,
                () = tokio::time::sleep(self.sign_of_life) => self.tell(&reply, AckKind::Progress).await,
            }
        };
        self.tell(&reply, settled(&answer)).await;
    }

    /// Hands a message back that was not looked at.
    pub(super) async fn hand_back(&self, message: &Message) {
        if let Some(reply) = &message.reply {
            self.tell(reply, AckKind::Nak(None)).await;
        }
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
