//! A claimed row as the driver finds it. What it means is the same everywhere: [`stored`](crate::store::stored).

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use trigger_core::Binding;
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead};
use crate::store::stored::Columns;
use crate::store::{Claim, Claimed};

/// A claimed row, not read yet. The table's types see to it that each column is what it is here.
pub(super) struct Due {
    id: Uuid,
    pub(super) binding_id: i64,
    run_at: DateTime<Utc>,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    ordered: bool,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
    rank: DateTime<Utc>,
}

impl Due {
    pub(super) fn from_row(row: &PgRow) -> Outcome<Self> {
        Ok(Self {
            id: row.try_get(0)?,
            binding_id: row.try_get(1)?,
            run_at: column::moment(row, 2)?,
            attempt: column::number(row, 3)?,
            version: column::optional_number(row, 4)?,
            redrive_count: column::number(row, 5)?,
            ordered: row.try_get(6)?,
            attempts: row.try_get(7)?,
            context: row.try_get(8)?,
            payload: Bytes::from(row.try_get::<Vec<u8>, _>(9)?),
            rank: column::moment(row, 10)?,
        })
    }

    /// Where it stands among those that were claimed with it.
    pub(super) fn rank(&self) -> DateTime<Utc> {
        self.rank
    }

    /// The row as what it says, or as what can be saved of it.
    pub(super) fn read(self, binding: Arc<Binding>, token: Uuid) -> std::result::Result<Claimed, Box<Unreadable>> {
        let columns = Columns {
            id: self.id,
            binding,
            attempt: self.attempt,
            version: self.version,
            redrive_count: self.redrive_count,
            payload: self.payload,
        };
        match columns.parse(self.run_at, &self.context, self.attempts.as_deref().map(str::as_bytes)) {
            Ok(queued) => Ok(Claimed { queued, claim: Claim { invocation_id: self.id, token, ordered: self.ordered } }),
            Err(reason) => {
                let dead = dead::Row::new(&columns.unreadable(&reason), self.binding_id);
                Err(Box::new(Unreadable { reason, ordered: self.ordered, dead }))
            }
        }
    }
}

/// A row that cannot be run.
pub(super) struct Unreadable {
    pub(super) reason: String,
    pub(super) ordered: bool,
    pub(super) dead: dead::Row,
}
