//! A claimed row as the driver finds it. What it means is the same everywhere: [`stored`](crate::store::stored).

use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use trigger_core::Binding;
use uuid::Uuid;

use super::{column, dead};
use crate::store::stored::Columns;
use crate::store::{Claim, Claimed, QueuedInvocation};

/// A claimed row, not read yet.
pub(super) struct Due {
    columns: Columns,
    run_at: i64,
    ordered: bool,
    // Texts are taken as bytes: nothing in a row may keep the others from being claimed.
    attempts: Option<Vec<u8>>,
    context: Vec<u8>,
}

impl Due {
    pub(super) fn from_row(row: &rusqlite::Row<'_>, binding: Arc<Binding>) -> rusqlite::Result<Self> {
        let bytes = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_bytes_or_null()?.map(<[u8]>::to_vec));
        Ok(Self {
            columns: Columns {
                id: column::id(row, 0)?,
                binding,
                attempt: row.get(2)?,
                version: row.get(3)?,
                redrive_count: row.get(4)?,
                payload: Bytes::copy_from_slice(row.get_ref(8)?.as_bytes()?),
            },
            run_at: row.get(1)?,
            ordered: row.get(5)?,
            attempts: bytes(6)?,
            context: bytes(7)?.unwrap_or_default(),
        })
    }

    /// The row's identity.
    pub(super) fn id(&self) -> Uuid {
        self.columns.id
    }

    /// Number of the attempt to make.
    pub(super) fn attempt(&self) -> u32 {
        self.columns.attempt
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.columns.payload.len()
    }

    /// The row as what it says, or as what can be saved of it.
    pub(super) fn read(self, token: Uuid) -> std::result::Result<Claimed, Box<Unreadable>> {
        match self.parse() {
            Ok(queued) => {
                let claim = Claim { invocation_id: queued.invocation.invocation_id, token, ordered: self.ordered };
                Ok(Claimed { queued, claim })
            }
            Err(reason) => {
                let dead = dead::Row::new(&self.columns.unreadable(&reason));
                Err(Box::new(Unreadable { reason, context: self.context, attempts: self.attempts, dead }))
            }
        }
    }

    fn parse(&self) -> std::result::Result<QueuedInvocation, String> {
        let run_at =
            DateTime::from_timestamp_micros(self.run_at).ok_or_else(|| format!("run_at is {}", self.run_at))?;
        let context = std::str::from_utf8(&self.context).map_err(|error| format!("the context: {error}"))?;
        self.columns.parse(run_at, context, self.attempts.as_deref())
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
