//! Which rows are given out, and to whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::Binding;
use uuid::Uuid;

use super::due::{Due, Unreadable};
use super::{column, dead, ledger, row, settle, sql};
use crate::store::{Claim, Renewed, Result};

/// What one claim may hand out, in bytes, before it stops short of its limit.
const MAX_CLAIM_BYTES: usize = 32 << 20;

/// Rows that become ready in one step.
const MAX_READY: u32 = 2000;

/// Which rows to claim, as the columns have it.
pub(super) struct Request {
    pub(super) now: i64,
    pub(super) lease_until: i64,
    pub(super) token: Uuid,
    pub(super) limit: usize,
    /// At most so many of some bindings.
    pub(super) limits: Vec<(i64, usize)>,
}

/// A trigger with rows that are ready.
struct Lane {
    binding_id: i64,
    binding: Arc<Binding>,
    /// How many more may be claimed.
    room: usize,
}

/// Claims rows that are due.
pub(super) fn claim(connection: &Connection, request: &Request) -> Result<Vec<Due>> {
    connection.prepare_cached(sql::MAKE_READY)?.execute(params![request.now, MAX_READY])?;
    let mut lanes = lanes(connection, request)?;
    let mut claimed: Vec<Due> = Vec::new();
    let mut bytes = 0;
    // A round gives everybody an equal share of what is left; who has less leaves the rest to the next round.
    while claimed.len() < request.limit && bytes < MAX_CLAIM_BYTES && !lanes.is_empty() {
        let shares = shares(&lanes, request.limit - claimed.len());
        let mut rest = Vec::new();
        for (mut lane, share) in lanes.into_iter().zip(shares) {
            let wanted = share.min(lane.room);
            let got = take(connection, request, &lane, wanted, MAX_CLAIM_BYTES.saturating_sub(bytes), &mut claimed)?;
            bytes += got.bytes;
            lane.room -= got.rows;
            if got.rows == wanted && lane.room > 0 {
                rest.push(lane);
            }
        }
        lanes = rest;
    }
    Ok(claimed)
}

/// Triggers with rows that are ready, found by stepping over the index from one to the next.
fn lanes(connection: &Connection, request: &Request) -> Result<Vec<Lane>> {
    let mut select = connection.prepare_cached(sql::SELECT_READY_BINDINGS)?;
    let mut rows = select.query([])?;
    let mut lanes = Vec::new();
    while let Some(row) = rows.next()? {
        let binding_id = row.get(0)?;
        let limit = request.limits.iter().find(|(limited, _)| *limited == binding_id).map(|(_, limit)| *limit);
        let room = limit.unwrap_or(usize::MAX);
        if room > 0 {
            lanes.push(Lane { binding_id, binding: Arc::new(column::binding(row, 1)?), room });
        }
    }
    Ok(lanes)
}

/// What each lane may take of `room`: every namespace as much as another, and so the triggers in it. Where there is not
/// enough for everybody, who gets nothing is left to chance.
fn shares(lanes: &[Lane], room: usize) -> Vec<usize> {
    let mut namespaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, lane) in lanes.iter().enumerate() {
        namespaces.entry(&lane.binding.namespace).or_default().push(index);
    }
    let mut shares = vec![0; lanes.len()];
    let mut groups: Vec<Vec<usize>> = namespaces.into_values().collect();
    let of_namespaces = divide(room, groups.len());
    for (group, share) in groups.iter_mut().zip(of_namespaces) {
        for (index, share) in group.iter().zip(divide(share, group.len())) {
            shares[*index] = share;
        }
    }
    shares
}

/// Divides evenly; what does not divide goes to some, chosen anew each time.
fn divide(whole: usize, parts: usize) -> Vec<usize> {
    let mut shares = vec![whole / parts; parts];
    let offset = fastrand::usize(..parts);
    for index in 0..whole % parts {
        shares[(index + offset) % parts] += 1;
    }
    shares
}

/// What a lane gave.
struct Taken {
    rows: usize,
    bytes: usize,
}

fn take(
    connection: &Connection,
    request: &Request,
    lane: &Lane,
    wanted: usize,
    max_bytes: usize,
    claimed: &mut Vec<Due>,
) -> Result<Taken> {
    let mut taken = Taken { rows: 0, bytes: 0 };
    if wanted == 0 {
        return Ok(taken);
    }
    let mut select = connection.prepare_cached(sql::SELECT_READY)?;
    let mut rows = select.query(params![lane.binding_id, request.now, i64::try_from(wanted).unwrap_or(i64::MAX)])?;
    let from = claimed.len();
    while taken.bytes < max_bytes
        && let Some(row) = rows.next()?
    {
        let due = Due::from_row(row, lane.binding.clone())?;
        taken.bytes += due.bytes();
        taken.rows += 1;
        claimed.push(due);
    }
    drop(rows);
    let mut insert = connection.prepare_cached(sql::INSERT_CLAIM)?;
    for due in &claimed[from..] {
        let (id, token) = (due.id(), request.token);
        insert.execute(params![
            id.as_bytes(),
            token.as_bytes(),
            request.lease_until,
            lane.binding_id,
            due.attempt()
        ])?;
    }
    Ok(taken)
}

/// Moves a claimed row that cannot be read out of the way.
pub(super) fn park(connection: &Connection, row: &Unreadable, token: Uuid, now: i64) -> Result<()> {
    let id = row.dead.invocation_id;
    let Some(claim) = settle::unclaim(connection, id, token)? else { return Ok(()) };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO parked (invocation_id, reason, context, attempts, parked_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id.as_bytes(), row.reason, row.context, row.attempts, now])?;
    dead::insert(connection, &row.dead, now)?;
    ledger::add(claim.binding_id, "dead", row.dead.reason.as_str(), 1);
    row::remove(connection, id, true, now)
}

/// Prolongs claims.
pub(super) fn renew(connection: &Connection, claims: &[Claim], lease_until: i64) -> Result<Renewed> {
    let mut update = connection
        .prepare_cached("UPDATE claims SET lease_until = ?3 WHERE invocation_id = ?1 AND claim_token = ?2")?;
    let mut wanted = connection
        .prepare_cached("SELECT 1 FROM queue WHERE invocation_id = ?1 AND cancel_requested_at IS NOT NULL")?;
    let mut renewed = Renewed::default();
    for claim in claims {
        let id = claim.invocation_id.as_bytes();
        if update.execute(params![id, claim.token.as_bytes(), lease_until])? == 1 {
            renewed.held.push(claim.invocation_id);
            if wanted.exists([id])? {
                renewed.cancel.push(claim.invocation_id);
            }
        }
    }
    Ok(renewed)
}

/// When the next row that waits for its moment is due.
pub(super) fn next_due(connection: &Connection) -> Result<Option<DateTime<Utc>>> {
    let mut waiting = connection.prepare_cached("SELECT run_at FROM queue WHERE state = 0 ORDER BY run_at LIMIT 1")?;
    Ok(waiting.query_row([], |row| column::moment(row, 0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(namespace: &str) -> Lane {
        let binding = Binding {
            namespace: namespace.into(),
            function_name: "f".into(),
            trigger_id: "t".into(),
            trigger_type: trigger_core::Kind::Job,
        };
        Lane { binding_id: 1, binding: Arc::new(binding), room: usize::MAX }
    }

    #[test]
    fn namespaces_share_evenly_whatever_they_hold() {
        let lanes = [lane("busy"), lane("busy"), lane("busy"), lane("quiet")];
        assert_eq!(shares(&lanes, 12), [2, 2, 2, 6]);
        for room in 0..40 {
            let shares = shares(&lanes, room);
            assert_eq!(shares.iter().sum::<usize>(), room);
            assert!(shares[3].abs_diff(room / 2) <= 1, "{room}: {shares:?}");
        }
    }
}
