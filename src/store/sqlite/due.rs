//! A claimed row on its way back to an invocation, and what becomes of one that cannot make it.
//!
//! No row may keep the others from being claimed. One whose text cannot be read becomes a dead letter of what its
//! columns and payload still tell, so that lists, counts and redrive find it as they find any other.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use trigger_core::{Binding, Custody, DeadReason, Failure, FailureCode, InvocationContext, Kind};
use uuid::Uuid;

use super::{column, dead};
use crate::store::{Claimed, DeadLetter, QueuedInvocation};

/// A claimed row, not read yet.
pub(super) struct Due {
    pub(super) id: Uuid,
    // Names are taken leniently and texts as bytes: nothing in a row may keep the others from being claimed.
    names: [Box<str>; 3],
    kind: Box<str>,
    run_at: i64,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    attempts: Option<Vec<u8>>,
    context: Vec<u8>,
    payload: Bytes,
}

impl Due {
    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let bytes = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_bytes_or_null()?.map(<[u8]>::to_vec));
        let text =
            |column| Ok::<_, rusqlite::Error>(String::from_utf8_lossy(&bytes(column)?.unwrap_or_default()).into());
        Ok(Self {
            id: column::id(row, 0)?,
            names: [text(1)?, text(2)?, text(3)?],
            kind: text(4)?,
            run_at: row.get(5)?,
            attempt: row.get(6)?,
            version: row.get(7)?,
            redrive_count: row.get(8)?,
            attempts: bytes(9)?,
            context: bytes(10)?.unwrap_or_default(),
            payload: Bytes::copy_from_slice(row.get_ref(11)?.as_bytes()?),
        })
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }

    /// The row as what it says, or as what can be saved of it.
    pub(super) fn read(self, token: Uuid) -> std::result::Result<Claimed, Box<Unreadable>> {
        match self.parse() {
            Ok(queued) => Ok(Claimed { queued, token }),
            Err(reason) => Err(Box::new(self.unreadable(reason))),
        }
    }

    fn parse(&self) -> std::result::Result<QueuedInvocation, String> {
        let run_at =
            DateTime::from_timestamp_micros(self.run_at).ok_or_else(|| format!("run_at is {}", self.run_at))?;
        let context = std::str::from_utf8(&self.context).map_err(|error| format!("the context: {error}"))?;
        let mut invocation = InvocationContext::from_stored(context, self.payload.clone())
            .map_err(|error| format!("the context: {}", column::json_error(&error)))?;
        if invocation.invocation_id != self.id {
            return Err(format!("the context is that of {}", invocation.invocation_id));
        }
        let attempts = match &self.attempts {
            None => Vec::new(),
            Some(json) => {
                serde_json::from_slice(json).map_err(|error| format!("the attempts: {}", column::json_error(&error)))?
            }
        };
        (invocation.attempt, invocation.version) = (self.attempt, self.version);
        Ok(QueuedInvocation { invocation, run_at, attempts, redrive_count: self.redrive_count })
    }

    /// A dead letter of what the row's columns and payload still tell, and the text that tells nothing.
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
        Unreadable { reason, context: self.context, attempts: self.attempts, dead: dead::Row::new(&dead) }
    }
}

/// A row that cannot be run.
pub(super) struct Unreadable {
    pub(super) reason: String,
    pub(super) context: Vec<u8>,
    pub(super) attempts: Option<Vec<u8>>,
    pub(super) dead: dead::Row,
}

impl Unreadable {
    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.dead.bytes()
    }
}
