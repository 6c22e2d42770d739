//! Dead letters: what is kept of an invocation that was given up on, and what is published about it.

use bytes::Bytes;
use trigger_core::bus::{DEPTH_HEADER, PARENT_HEADER};
use trigger_core::{Custody, DeadReason, Failure, Headers, InvocationContext, Message};
use uuid::Uuid;

use super::Dispatcher;
use crate::functions::Version;
use crate::store::{self, DeadLetter, FailedAttempt};

impl Dispatcher {
    /// Puts a dead letter's event back in the queue.
    pub async fn redrive(&self, invocation_id: Uuid) -> store::Result<store::Redriven> {
        let redriven = self.store.redrive(invocation_id, self.clock.now()).await?;
        self.queue_wake.wake();
        Ok(redriven)
    }

    /// Puts dead letters' events back in the queue, as [`Store::redrive_all`](store::Store::redrive_all) does.
    pub async fn redrive_all(
        &self,
        invocation_ids: Vec<Uuid>,
        version: Option<u32>,
    ) -> store::Result<Vec<store::Redriven>> {
        let redriven = self.store.redrive_all(invocation_ids, version, self.clock.now()).await?;
        self.queue_wake.wake();
        Ok(redriven)
    }

    /// The dead letter of an invocation, with the message for the definition's topic.
    pub(super) fn dead_letter(
        &self,
        invocation: InvocationContext,
        version: Option<&Version>,
        attempts: Vec<FailedAttempt>,
        reason: DeadReason,
        failure: &Failure,
        redrive_count: u32,
    ) -> Box<DeadLetter> {
        let mut dead = Box::new(DeadLetter {
            invocation,
            version: version.map(|version| version.number),
            digest: version.map(|version| version.digest),
            attempts,
            reason,
            failure: failure.clone(),
            died_at: self.clock.now(),
            redrive_count,
            publish: None,
        });
        // An event that died of its depth is in a loop, and its dead letter would be the loop's next event.
        let topic = version.and_then(|version| version.definition.dlq_topic.as_deref());
        if let Some(topic) = topic.filter(|_| reason != DeadReason::DepthExceeded) {
            dead.publish = Some(message(&dead, topic, self.bus.max_payload_bytes()));
        }
        dead
    }

    /// Commits the dead letter of an invocation that is not in the queue.
    pub(super) async fn bury(&self, dead: Box<DeadLetter>, custody: Custody) -> store::Result<()> {
        match custody {
            // Nobody else has the event: it is held until the store takes it.
            Custody::Engine => self.insist("keep a dead letter", || self.store.bury(dead.clone())).await?,
            // The source or the caller still has it and is told that it was not taken.
            Custody::Source | Custody::Caller => self.store.bury(dead).await?,
        }
        self.outbox_wake.wake();
        Ok(())
    }
}

/// The dead letter as a message: a structured CloudEvent, one deeper than the event it tells of.
fn message(dead: &DeadLetter, topic: &str, max_payload_bytes: usize) -> Message {
    let invocation = &dead.invocation;
    let mut envelope = dead.envelope();
    let mut payload = to_bytes(&envelope);
    if payload.len() > max_payload_bytes {
        // The bus would refuse it for ever; the whole payload stays in the store, under the same id.
        let data = &mut envelope["data"];
        data["payload"] = serde_json::Value::Null;
        data["payload_encoding"] = "omitted".into();
        data["payload_digest"] = crate::functions::Digest::of(&invocation.payload).to_string().into();
        payload = to_bytes(&envelope);
    }
    if payload.len() > max_payload_bytes {
        envelope["data"]["headers"] = serde_json::Value::Null;
        envelope["data"]["attempts"] = serde_json::Value::Null;
        payload = to_bytes(&envelope);
    }
    let headers = vec![
        ("Content-Type".to_owned(), Bytes::from_static(b"application/cloudevents+json")),
        ("traceparent".to_owned(), Bytes::from(invocation.trace.traceparent())),
        (DEPTH_HEADER.to_owned(), Bytes::from(invocation.depth.saturating_add(1).to_string())),
        (PARENT_HEADER.to_owned(), Bytes::from(invocation.invocation_id.to_string())),
    ];
    Message { subject: topic.into(), reply: None, headers: Headers::List(headers), payload }
}

fn to_bytes(envelope: &serde_json::Value) -> Bytes {
    serde_json::to_vec(envelope).expect("a value has only string keys").into()
}
