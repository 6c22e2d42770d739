//! A stored event on its way back to an invocation, and what becomes of one that cannot make it: the same in every
//! driver.
//!
//! No row may keep the others from being claimed. One whose text cannot be read becomes a dead letter of what its
//! columns and payload still tell, so that lists, counts and redrive find it as they find any other.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use trigger_core::{Binding, Custody, DeadReason, Failure, FailureCode, InvocationContext};
use uuid::Uuid;

use super::{DeadLetter, QueuedInvocation};

/// What a row of the queue tells beside its texts.
pub(super) struct Columns {
    pub(super) id: Uuid,
    pub(super) binding: Arc<Binding>,
    pub(super) attempt: u32,
    pub(super) version: Option<u32>,
    pub(super) redrive_count: u32,
    pub(super) payload: Bytes,
}

impl Columns {
    /// The event that the texts describe, or what is wrong with them. The columns overrule the texts.
    pub(super) fn parse(
        &self,
        run_at: DateTime<Utc>,
        context: &str,
        attempts: Option<&[u8]>,
    ) -> Result<QueuedInvocation, String> {
        let mut invocation = InvocationContext::from_stored(context, self.payload.clone())
            .map_err(|error| format!("the context: {}", json_error(&error)))?;
        if invocation.invocation_id != self.id {
            return Err(format!("the context is that of {}", invocation.invocation_id));
        }
        let attempts = match attempts {
            None => Vec::new(),
            Some(json) => {
                serde_json::from_slice(json).map_err(|error| format!("the attempts: {}", json_error(&error)))?
            }
        };
        (invocation.attempt, invocation.version) = (self.attempt, self.version);
        invocation.binding = self.binding.clone();
        Ok(QueuedInvocation { invocation, run_at, attempts, redrive_count: self.redrive_count })
    }

    /// A dead letter of what the columns and the payload still tell.
    pub(super) fn unreadable(self, reason: &str) -> DeadLetter {
        let binding = self.binding;
        tracing::error!(
            invocation_id = %self.id, trigger = %binding.path(),
            "a queued event cannot be read and becomes a dead letter; its text is in the table `parked`: {reason}"
        );
        let mut invocation = InvocationContext::new(binding, Custody::Engine, self.payload);
        (invocation.invocation_id, invocation.attempt, invocation.version) = (self.id, self.attempt, self.version);
        let message = format!("the stored event cannot be read, only its payload is left: {reason}");
        DeadLetter {
            invocation,
            version: self.version,
            digest: None,
            attempts: Vec::new(),
            reason: DeadReason::Incompatible,
            failure: Failure::new(FailureCode::HostError, message).permanent(),
            died_at: Utc::now(),
            redrive_count: self.redrive_count,
            publish: None,
        }
    }
}

/// What is wrong with JSON, and where. The error's own text may quote a value, which may be a secret.
pub(super) fn json_error(error: &serde_json::Error) -> String {
    format!("its JSON has a {:?} error at line {}, column {}", error.classify(), error.line(), error.column())
}
