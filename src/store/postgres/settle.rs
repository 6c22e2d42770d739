//! How claims end: many at once, one statement for each kind of end, each fenced by its token.
//!
//! Where rows of an ordering key go, the one behind them has its turn: the same statement, under the locks of the keys.
//! Where events are to come in with them, that is a second statement of the same transaction.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};
use trigger_core::Headers;
use uuid::Uuid;

use super::accept::List;
use super::error::Outcome;
use super::row::Row;
use super::{accept, column, dead, decide, lock, outbox};
use crate::store::{Claim, Result, Settle};

/// A claim and how it ends, ready to be written.
pub(super) struct Ending {
    pub(super) claim: Claim,
    end: End,
}

enum End {
    Ok {
        body: Bytes,
        http: Option<(i32, String)>,
        keep_until: Option<DateTime<Utc>>,
        effects: Vec<outbox::Row>,
        events: List,
    },
    Retry {
        run_at: DateTime<Utc>,
        version: u32,
        attempt: String,
    },
    Dead(Box<dead::Row>),
    Cancelled {
        keep_until: Option<DateTime<Utc>>,
    },
    HandBack,
}

/// The kinds of end, each of which is one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ok,
    Retry,
    Dead,
    Cancelled,
    HandBack,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Ok, Self::Retry, Self::Dead, Self::Cancelled, Self::HandBack];
}

impl Ending {
    /// `events` are those of a good end.
    pub(super) fn new(claim: Claim, settle: &Settle, events: Vec<Row>) -> Result<Self> {
        let id = claim.invocation_id;
        let end = match settle {
            Settle::Ok { response, keep_until, effects, .. } => End::Ok {
                body: response.body.clone(),
                http: response.http.as_deref().map(|parts| {
                    let headers = Headers::Http(Box::new(parts.headers.clone()));
                    (i32::from(parts.status.as_u16()), column::to_json(&headers))
                }),
                keep_until: *keep_until,
                effects: effects.iter().map(outbox::Row::new).collect(),
                events: List { rows: events, lease: None, max_backlog: None, keep_until: *keep_until },
            },
            Settle::Retry { run_at, attempt } => {
                End::Retry { run_at: *run_at, version: attempt.version, attempt: column::to_json(attempt) }
            }
            Settle::Dead(dead) if dead.invocation.invocation_id != id => {
                let why = format!("it is that of {}", dead.invocation.invocation_id);
                return Err(column::corrupt(format!("the dead letter of {id}"), why).into_error());
            }
            Settle::Dead(dead) => End::Dead(Box::new(dead::Row::new(dead, 0))),
            Settle::Cancelled { keep_until } => End::Cancelled { keep_until: *keep_until },
            Settle::HandBack => End::HandBack,
        };
        Ok(Self { claim, end })
    }

    pub(super) fn kind(&self) -> Kind {
        match &self.end {
            End::Ok { .. } => Kind::Ok,
            End::Retry { .. } => Kind::Retry,
            End::Dead(_) => Kind::Dead,
            End::Cancelled { .. } => Kind::Cancelled,
            End::HandBack => Kind::HandBack,
        }
    }

    /// Whether it is more than one statement: others may wait behind the row, or events come in with its end.
    pub(super) fn needs_locks(&self) -> bool {
        match &self.end {
            End::Ok { events, .. } => self.claim.ordered || !events.rows.is_empty(),
            End::Dead(_) | End::Cancelled { .. } => self.claim.ordered,
            End::Retry { .. } | End::HandBack => false,
        }
    }

    /// When the row is due again, if that is to be.
    pub(super) fn due_again(&self) -> Option<DateTime<Utc>> {
        match &self.end {
            End::Retry { run_at, .. } => Some(*run_at),
            _ => None,
        }
    }

    /// When its events are due.
    pub(super) fn events_due(&self) -> impl Iterator<Item = DateTime<Utc>> {
        let rows = match &self.end {
            End::Ok { events, .. } => events.rows.as_slice(),
            _ => &[],
        };
        rows.iter().map(|row| row.run_at)
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.end {
            End::Ok { body, effects, events, .. } => {
                body.len() + effects.iter().map(outbox::Row::bytes).sum::<usize>() + events.bytes()
            }
            End::Dead(dead) => dead.bytes(),
            End::Retry { attempt, .. } => attempt.len(),
            End::Cancelled { .. } | End::HandBack => 0,
        }
    }
}

/// A row and the token of its claim.
type Held = (Uuid, Uuid);

/// Ends claims that all end in one way, each at most once among them. Answers those that were still their tokens'.
pub(super) async fn settle(
    connection: &mut PgConnection,
    kind: Kind,
    endings: &[&Ending],
    now: DateTime<Utc>,
) -> Outcome<HashSet<Held>> {
    if !endings.iter().any(|ending| ending.needs_locks()) {
        return end(connection, kind, endings, false, now).await;
    }
    let mut transaction = connection.begin().await?;
    let mut keys = lock::Keys::default();
    for ending in endings {
        if ending.claim.ordered {
            keys.of_queued(ending.claim.invocation_id);
        }
        if let End::Ok { events, .. } = &ending.end {
            events.rows.iter().for_each(|row| keys.of_new(row));
        }
    }
    let locked = keys.lock(&mut transaction).await?;
    let ended = end(&mut transaction, kind, endings, true, now).await?;
    // Events of an attempt whose claim is lost are dropped with its other effects.
    let mut events: Vec<&List> = Vec::new();
    for ending in endings {
        if let End::Ok { events: list, .. } = &ending.end
            && !list.rows.is_empty()
            && ended.contains(&ending.held())
        {
            events.push(list);
        }
    }
    let (with_keys, without): (Vec<&List>, Vec<&List>) = events.into_iter().partition(|list| list.needs_locks());
    if !without.is_empty() {
        accept::accept(&mut transaction, &without, now).await?;
    }
    if !with_keys.is_empty() {
        decide::accept(&mut transaction, &with_keys, &locked, now).await?;
    }
    transaction.commit().await?;
    Ok(ended)
}

impl Ending {
    pub(super) fn held(&self) -> Held {
        (self.claim.invocation_id, self.claim.token)
    }
}

async fn end(
    connection: &mut PgConnection,
    kind: Kind,
    endings: &[&Ending],
    ordered: bool,
    now: DateTime<Utc>,
) -> Outcome<HashSet<Held>> {
    let ended = match kind {
        Kind::Ok => ok(connection, endings, now, ordered).await,
        Kind::Retry => retry(connection, endings, now).await,
        Kind::Dead => die(connection, endings, now, ordered).await,
        Kind::Cancelled => cancelled(connection, endings, now, ordered).await,
        Kind::HandBack => hand_back(connection, endings).await,
    }?;
    Ok(ended.into_iter().collect())
}

/// Removes the rows, keeps their results where that is wanted and releases their effects.
macro_rules! ok {
    ($promote:expr) => {
        concat!(
            "WITH gone AS (
                DELETE FROM queue q
                USING unnest($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::bytea[], $7::timestamptz[])
                    AS ending (invocation_id, claim_token, http_status, http_headers, body, keep_until)
                WHERE q.invocation_id = ANY (ARRAY[ending.invocation_id]) AND q.claim_token = ending.claim_token
                RETURNING q.invocation_id, q.claim_token, q.binding_id, q.attempt, q.ordering_key, q.position, q.state,
                    ending.http_status, ending.http_headers, ending.body, ending.keep_until
            ), kept AS (
                INSERT INTO results (
                    invocation_id, binding_id, state, attempts, finished_at, keep_until, http_status, http_headers,
                    body
                )
                SELECT invocation_id, binding_id, 'ok', attempt, $6, keep_until, http_status, http_headers, body
                FROM gone WHERE keep_until IS NOT NULL
                ON CONFLICT (invocation_id) DO UPDATE SET
                    binding_id = excluded.binding_id, state = excluded.state, attempts = excluded.attempts,
                    finished_at = excluded.finished_at, keep_until = excluded.keep_until,
                    http_status = excluded.http_status, http_headers = excluded.http_headers, body = excluded.body
            ), released AS (
                INSERT INTO outbox (id, due_at, created_at, subject, reply, headers, payload)
                SELECT id, $6, $6, subject, reply, headers, payload
                FROM unnest($8::uuid[], $9::uuid[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::bytea[])
                    AS effect (invocation_id, claim_token, id, subject, reply, headers, payload)
                WHERE (invocation_id, claim_token) IN (SELECT invocation_id, claim_token FROM gone)
            ), ",
            $promote,
            count!("SELECT binding_id, 'ok', '', count(*) FROM gone GROUP BY binding_id"),
            " SELECT invocation_id, claim_token FROM gone"
        )
    };
}

pub(super) const OK: &str = ok!("");
pub(super) const OK_ORDERED: &str = ok!(concat!(promote!("$6"), ", "));

async fn ok(
    connection: &mut PgConnection,
    endings: &[&Ending],
    now: DateTime<Utc>,
    ordered: bool,
) -> sqlx::Result<Vec<Held>> {
    let (ids, tokens) = held(endings);
    let (mut statuses, mut headers, mut bodies, mut keep) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut effect_ids, mut effect_tokens, mut effects) = (Vec::new(), Vec::new(), Vec::new());
    for ending in endings {
        let End::Ok { body, http, keep_until, effects: released, .. } = &ending.end else { continue };
        statuses.push(http.as_ref().map(|(status, _)| *status));
        headers.push(http.as_ref().map(|(_, headers)| headers.as_str()));
        bodies.push(body.as_ref());
        keep.push(*keep_until);
        for effect in released {
            effect_ids.push(ending.claim.invocation_id);
            effect_tokens.push(ending.claim.token);
            effects.push(effect);
        }
    }
    let effects: outbox::Columns<'_> = effects.into_iter().collect();
    sqlx::query_as(if ordered { OK_ORDERED } else { OK })
        .bind(ids)
        .bind(tokens)
        .bind(statuses)
        .bind(headers)
        .bind(bodies)
        .bind(now)
        .bind(keep)
        .bind(effect_ids)
        .bind(effect_tokens)
        .bind(effects.ids)
        .bind(effects.subjects)
        .bind(effects.replies)
        .bind(effects.headers)
        .bind(effects.payloads)
        .fetch_all(connection)
        .await
}

/// Removes rows whose attempts were cut because somebody wanted that.
macro_rules! cancelled {
    ($promote:expr) => {
        concat!(
            "WITH gone AS (
                DELETE FROM queue q
                USING unnest($1::uuid[], $2::uuid[], $3::timestamptz[])
                    AS ending (invocation_id, claim_token, keep_until)
                WHERE q.invocation_id = ANY (ARRAY[ending.invocation_id]) AND q.claim_token = ending.claim_token
                RETURNING q.invocation_id, q.claim_token, q.binding_id, q.attempt, q.ordering_key, q.position, q.state,
                    ending.keep_until
            ), kept AS (
                INSERT INTO results (invocation_id, binding_id, state, attempts, finished_at, keep_until, body)
                SELECT invocation_id, binding_id, 'cancelled', attempt, $4, keep_until, '' FROM gone
                WHERE keep_until IS NOT NULL
                ON CONFLICT (invocation_id) DO UPDATE SET binding_id = excluded.binding_id, state = excluded.state,
                    attempts = excluded.attempts, finished_at = excluded.finished_at,
                    keep_until = excluded.keep_until, http_status = NULL, http_headers = NULL, body = excluded.body
            ), ",
            $promote,
            count!("SELECT binding_id, 'cancelled', '', count(*) FROM gone GROUP BY binding_id"),
            " SELECT invocation_id, claim_token FROM gone"
        )
    };
}

const CANCELLED: &str = cancelled!("");
const CANCELLED_ORDERED: &str = cancelled!(concat!(promote!("$4"), ", "));

async fn cancelled(
    connection: &mut PgConnection,
    endings: &[&Ending],
    now: DateTime<Utc>,
    ordered: bool,
) -> sqlx::Result<Vec<Held>> {
    let (ids, tokens) = held(endings);
    let keep = endings.iter().map(|ending| match &ending.end {
        End::Cancelled { keep_until } => *keep_until,
        _ => None,
    });
    sqlx::query_as(if ordered { CANCELLED_ORDERED } else { CANCELLED })
        .bind(ids)
        .bind(tokens)
        .bind(keep.collect::<Vec<_>>())
        .bind(now)
        .fetch_all(connection)
        .await
}

async fn retry(connection: &mut PgConnection, endings: &[&Ending], now: DateTime<Utc>) -> sqlx::Result<Vec<Held>> {
    let (ids, tokens) = held(endings);
    let (mut moments, mut versions, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
    for ending in endings {
        let End::Retry { run_at, version, attempt } = &ending.end else { continue };
        moments.push(*run_at);
        versions.push(i64::from(*version));
        attempts.push(attempt.as_str());
    }
    // The rank keeps what the priority is worth. The list of attempts grows by its text: it is what this engine wrote,
    // without a space before its end.
    sqlx::query_as(
        "UPDATE queue q SET run_at = ending.run_at, rank = ending.run_at - (q.run_at - q.rank),
            state = CASE WHEN ending.run_at <= $6 THEN 1 ELSE 0 END,
            attempt = q.attempt + 1,
            -- 0 stands for an attempt that found no version to run on.
            version = coalesce(q.version, nullif(ending.version, 0)),
            attempts = coalesce(left(q.attempts, -1) || ',', '[') || ending.attempt || ']',
            claim_token = NULL, lease_until = NULL, progress = NULL
         FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::text[])
            AS ending (invocation_id, claim_token, run_at, version, attempt)
         WHERE q.invocation_id = ANY (ARRAY[ending.invocation_id]) AND q.claim_token = ending.claim_token
         RETURNING ending.invocation_id, ending.claim_token",
    )
    .bind(ids)
    .bind(tokens)
    .bind(moments)
    .bind(versions)
    .bind(attempts)
    .bind(now)
    .fetch_all(connection)
    .await
}

async fn die(
    connection: &mut PgConnection,
    endings: &[&Ending],
    now: DateTime<Utc>,
    ordered: bool,
) -> sqlx::Result<Vec<Held>> {
    let mut rows: Vec<&dead::Row> = Vec::with_capacity(endings.len());
    for ending in endings {
        if let End::Dead(row) = &ending.end {
            rows.push(row);
        }
    }
    let query = sqlx::query(if ordered { dead::SETTLE_ORDERED } else { dead::SETTLE });
    let ended = dead::bind(query, &rows, held(endings).1, now).fetch_all(connection).await?;
    ended.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn hand_back(connection: &mut PgConnection, endings: &[&Ending]) -> sqlx::Result<Vec<Held>> {
    let (ids, tokens) = held(endings);
    // It is due since it was claimed.
    sqlx::query_as(
        "UPDATE queue q SET claim_token = NULL, lease_until = NULL, progress = NULL
         FROM unnest($1::uuid[], $2::uuid[]) AS ending (invocation_id, claim_token)
         WHERE q.invocation_id = ANY (ARRAY[ending.invocation_id]) AND q.claim_token = ending.claim_token
         RETURNING ending.invocation_id, ending.claim_token",
    )
    .bind(ids)
    .bind(tokens)
    .fetch_all(connection)
    .await
}

fn held(endings: &[&Ending]) -> (Vec<Uuid>, Vec<Uuid>) {
    endings.iter().map(|ending| ending.held()).unzip()
}
