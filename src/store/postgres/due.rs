//! A claimed row on its way back to an invocation, and what becomes of one that cannot make it.
//!
//! No row may keep the others from being claimed. One whose text cannot be read becomes a dead letter of what its
//! columns and payload still tell, so that lists, counts and redrive find it as they find any other.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use trigger_core::{Binding, Custody, DeadReason, Failure, FailureCode, InvocationContext, Kind};
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead};
use crate::store::{Claimed, DeadLetter, QueuedInvocation};

/// A claimed row, not read yet. The table's types see to it that each column is what it is here.
pub(super) struct Due {
    id: Uuid,
    names: [Box<str>; 3],
    kind: String,
    pub(super) run_at: DateTime<Utc>,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
}

impl Due {
    pub(super) fn from_row(row: &PgRow) -> Outcome<Self> {
        Ok(Self {
            id: row.try_get(0)?,
            names: [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?],
            kind: row.try_get(4)?,
            run_at: column::moment(row, 5)?,
            attempt: column::number(row, 6)?,
            version: column::optional_number(row, 7)?,
            redrive_count: column::number(row, 8)?,
            attempts: row.try_get(9)?,
            context: row.try_get(10)?,
            payload: Bytes::from(row.try_get::<Vec<u8>, _>(11)?),
        })
    }

    /// The row as what it says, or as what can be saved of it.
    pub(super) fn read(self, token: Uuid) -> std::result::Result<Claimed, Box<Unreadable>> {
        match self.parse() {
            Ok(queued) => Ok(Claimed { queued, token }),
            Err(reason) => Err(Box::new(self.unreadable(reason))),
        }
    }

    fn parse(&self) -> std::result::Result<QueuedInvocation, String> {
        let mut invocation = InvocationContext::from_stored(&self.context, self.payload.clone())
            .map_err(|error| format!("the context: {}", column::json_error(&error)))?;
        if invocation.invocation_id != self.id {
            return Err(format!("the context is that of {}", invocation.invocation_id));
        }
        let attempts = match &self.attempts {
            None => Vec::new(),
            Some(json) => {
                serde_json::from_str(json).map_err(|error| format!("the attempts: {}", column::json_error(&error)))?
            }
        };
        (invocation.attempt, invocation.version) = (self.attempt, self.version);
        Ok(QueuedInvocation { invocation, run_at: self.run_at, attempts, redrive_count: self.redrive_count })
    }

    /// A dead letter of what the row's columns and payload still tell.
    fn unreadable(self, reason: String) -> Unreadable {
        let [namespace, function_name, trigger_id] = self.names;
        // The table lets in no other word than those of the seven kinds.
        let trigger_type = Kind::parse(&self.kind).unwrap_or(Kind::Job);
        let binding = Arc::new(Binding { namespace, function_name, trigger_id, trigger_type });
        tracing::error!(
            invocation_id = %self.id, trigger = %binding.path(),
            "a queued event cannot be read and becomes a dead letter; its text is in the table `parked`: {reason}"
        );
        let mut invocation = InvocationContext::new(binding, Custody::Engine, self.payload);
        (invocation.invocation_id, invocation.attempt, invocation.version) = (self.id, self.attempt, self.version);
        let message = format!("the stored event cannot be read, only its payload is left: {reason}");
        let dead = DeadLetter {
            invocation,
            version: self.version,
            digest: None,
            attempts: Vec::new(),
            reason: DeadReason::Incompatible,
            failure: Failure::new(FailureCode::HostError, message).permanent(),
            died_at: Utc::now(),
            redrive_count: self.redrive_count,
            publish: None,
        };
        Unreadable { reason, dead: dead::Row::new(&dead) }
    }
}

/// A row that cannot be run.
pub(super) struct Unreadable {
    pub(super) reason: String,
    pub(super) dead: dead::Row,
}
