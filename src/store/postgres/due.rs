//! A claimed row as the driver finds it. What it means is the same everywhere: [`stored`](crate::store::stored).

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead};
use crate::store::Claimed;
use crate::store::stored::Columns;

/// A claimed row, not read yet. The table's types see to it that each column is what it is here.
pub(super) struct Due {
    columns: Columns,
    pub(super) run_at: DateTime<Utc>,
    attempts: Option<String>,
    context: String,
}

impl Due {
    pub(super) fn from_row(row: &PgRow) -> Outcome<Self> {
        Ok(Self {
            columns: Columns {
                id: row.try_get(0)?,
                names: [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?],
                kind: row.try_get(4)?,
                attempt: column::number(row, 6)?,
                version: column::optional_number(row, 7)?,
                redrive_count: column::number(row, 8)?,
                payload: Bytes::from(row.try_get::<Vec<u8>, _>(11)?),
            },
            run_at: column::moment(row, 5)?,
            attempts: row.try_get(9)?,
            context: row.try_get(10)?,
        })
    }

    /// The row as what it says, or as what can be saved of it.
    pub(super) fn read(self, token: Uuid) -> std::result::Result<Claimed, Box<Unreadable>> {
        let attempts = self.attempts.as_deref().map(str::as_bytes);
        match self.columns.parse(self.run_at, &self.context, attempts) {
            Ok(queued) => Ok(Claimed { queued, token }),
            Err(reason) => {
                let dead = dead::Row::new(&self.columns.unreadable(&reason));
                Err(Box::new(Unreadable { reason, dead }))
            }
        }
    }
}

/// A row that cannot be run.
pub(super) struct Unreadable {
    pub(super) reason: String,
    pub(super) dead: dead::Row,
}
