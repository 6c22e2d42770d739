//! How a row of the queue ends, and what may be said of it before.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::{Cancelled, Headers};
use uuid::Uuid;

use super::accept::{self, List};
use super::{column, dead, ledger, outbox, row, sql};
use crate::store::{Claim, Result, Settle};

/// How a claim ends, ready to be written.
pub(super) enum Ending {
    Ok { body: Bytes, http: Option<(u16, String)>, keep_until: Option<i64>, effects: Vec<outbox::Row>, events: List },
    Retry { run_at: i64, version: u32, attempt: String },
    Dead(Box<dead::Row>),
    Cancelled { keep_until: Option<i64> },
    HandBack,
}

impl Ending {
    pub(super) fn new(invocation_id: Uuid, settle: &Settle, events: Vec<row::Row>) -> Result<Self> {
        Ok(match settle {
            Settle::Ok { response, keep_until, effects, .. } => Ending::Ok {
                body: response.body.clone(),
                http: response.http.as_deref().map(|parts| {
                    let headers = Headers::Http(Box::new(parts.headers.clone()));
                    (parts.status.as_u16(), outbox::headers_to_json(&headers))
                }),
                keep_until: keep_until.map(column::micros),
                effects: effects.iter().map(outbox::Row::new).collect(),
                events: List {
                    rows: events,
                    lease: None,
                    max_backlog: None,
                    keep_until: keep_until.map_or(0, column::micros),
                },
            },
            Settle::Retry { run_at, attempt } => Ending::Retry {
                run_at: column::micros(*run_at),
                version: attempt.version,
                attempt: row::to_json(attempt),
            },
            Settle::Dead(dead) if dead.invocation.invocation_id != invocation_id => {
                let why = format!("it is that of {}", dead.invocation.invocation_id);
                return Err(column::corrupt(format!("the dead letter of {invocation_id}"), why));
            }
            Settle::Dead(dead) => Ending::Dead(Box::new(dead::Row::new(dead))),
            Settle::Cancelled { keep_until } => Ending::Cancelled { keep_until: keep_until.map(column::micros) },
            Settle::HandBack => Ending::HandBack,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Ending::Ok { body, effects, events, .. } => {
                let events: usize = events.rows.iter().map(row::Row::bytes).sum();
                body.len() + effects.iter().map(outbox::Row::bytes).sum::<usize>() + events
            }
            Ending::Dead(dead) => dead.bytes(),
            Ending::Retry { attempt, .. } => attempt.len(),
            Ending::Cancelled { .. } | Ending::HandBack => 0,
        }
    }
}

/// Ends a claim, if it is still the token's.
pub(super) fn settle(connection: &Connection, claim: Claim, ending: &Ending, now: i64) -> Result<bool> {
    let id = claim.invocation_id;
    let Some(claimed) = unclaim(connection, id, claim.token)? else { return Ok(false) };
    match ending {
        Ending::Ok { body, http, keep_until, effects, events } => {
            if let Some(keep_until) = keep_until {
                let (status, headers) = http.as_ref().map(|(status, headers)| (*status, headers.as_str())).unzip();
                connection.prepare_cached(sql::INSERT_RESULT)?.execute(params![
                    id.as_bytes(),
                    claimed.binding_id,
                    "ok",
                    claimed.attempt,
                    now,
                    keep_until,
                    status,
                    headers,
                    body.as_ref()
                ])?;
            }
            effects.iter().try_for_each(|row| outbox::insert(connection, row, None, now))?;
            if !events.rows.is_empty() {
                accept::accept(connection, events, now)?;
            }
            row::remove(connection, id, claim.ordered, now)?;
            ledger::add(claimed.binding_id, "ok", "", 1);
        }
        Ending::Retry { run_at, version, attempt } => {
            connection.prepare_cached(sql::RETRY)?.execute(params![id.as_bytes(), run_at, version, attempt, now])?;
        }
        Ending::Dead(dead) => {
            dead::insert(connection, dead, now)?;
            row::remove(connection, id, claim.ordered, now)?;
            ledger::add(claimed.binding_id, "dead", dead.reason.as_str(), 1);
        }
        Ending::Cancelled { keep_until } => end_cancelled(connection, id, &claimed, *keep_until, claim.ordered, now)?,
        // The row was never touched: it is due since it was claimed.
        Ending::HandBack => {}
    }
    Ok(true)
}

/// What a claim says of its row.
pub(super) struct Unclaimed {
    pub(super) binding_id: i64,
    attempt: u32,
}

/// The fence.
pub(super) fn unclaim(connection: &Connection, id: Uuid, token: Uuid) -> Result<Option<Unclaimed>> {
    let mut delete = connection.prepare_cached(sql::DELETE_CLAIM)?;
    let unclaimed = delete
        .query_row([id.as_bytes(), token.as_bytes()], |row| {
            Ok(Unclaimed { binding_id: row.get(0)?, attempt: row.get(1)? })
        })
        .optional()?;
    Ok(unclaimed)
}

fn end_cancelled(
    connection: &Connection,
    id: Uuid,
    claimed: &Unclaimed,
    keep_until: Option<i64>,
    ordered: bool,
    now: i64,
) -> Result<()> {
    if let Some(keep_until) = keep_until {
        let none: [Option<&str>; 2] = [None, None];
        connection.prepare_cached(sql::INSERT_RESULT)?.execute(params![
            id.as_bytes(),
            claimed.binding_id,
            "cancelled",
            claimed.attempt,
            now,
            keep_until,
            none[0],
            none[1],
            &[] as &[u8]
        ])?;
    }
    row::remove(connection, id, ordered, now)?;
    ledger::add(claimed.binding_id, "cancelled", "", 1);
    Ok(())
}

/// Removes a row that nobody works on; `false` if it is not there or somebody does.
pub(super) fn take_back(connection: &Connection, id: Uuid, keep_until: Option<i64>, now: i64) -> Result<bool> {
    let mut select = connection.prepare_cached(
        "SELECT binding_id, attempt - 1 FROM queue WHERE invocation_id = ?1
         AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.invocation_id = queue.invocation_id)",
    )?;
    let waiting = select
        .query_row([id.as_bytes()], |row| Ok(Unclaimed { binding_id: row.get(0)?, attempt: row.get(1)? }))
        .optional()?;
    let Some(waiting) = waiting else { return Ok(false) };
    end_cancelled(connection, id, &waiting, keep_until, true, now)?;
    Ok(true)
}

/// Takes an event back, or asks whoever runs it to.
pub(super) fn cancel(connection: &Connection, id: Uuid, keep_until: Option<i64>, now: i64) -> Result<Cancelled> {
    if take_back(connection, id, keep_until, now)? {
        return Ok(Cancelled::Cancelled);
    }
    let asked = connection
        .prepare_cached("UPDATE queue SET cancel_requested_at = ?2 WHERE invocation_id = ?1")?
        .execute(params![id.as_bytes(), now])?;
    if asked == 1 {
        return Ok(Cancelled::Asked);
    }
    let mut ended = connection.prepare_cached(
        "SELECT 1 FROM results WHERE invocation_id = ?1
         UNION ALL SELECT 1 FROM dead_letters WHERE invocation_id = ?1",
    )?;
    Ok(if ended.exists([id.as_bytes()])? { Cancelled::Ended } else { Cancelled::Unknown })
}

/// Keeps what a running attempt says of its progress.
pub(super) fn progress(connection: &Connection, claim: Claim, progress: &str) -> Result<bool> {
    let updated = connection
        .prepare_cached(
            "UPDATE queue SET progress = ?3 WHERE invocation_id = ?1
             AND EXISTS (SELECT 1 FROM claims c WHERE c.invocation_id = ?1 AND c.claim_token = ?2)",
        )?
        .execute(params![claim.invocation_id.as_bytes(), claim.token.as_bytes(), progress])?;
    Ok(updated == 1)
}
