//! How claims end: many at once, one statement for each kind of end, each fenced by its token.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use trigger_core::Headers;
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead, outbox};
use crate::store::{Result, Settle};

/// An invocation and the token of its claim.
pub(super) type Claim = (Uuid, Uuid);

/// A claim and how it ends, ready to be written.
pub(super) struct Ending {
    pub(super) claim: Claim,
    end: End,
}

enum End {
    Ok { body: Bytes, http: Option<(i32, String)>, effects: Vec<outbox::Row> },
    Retry { run_at: DateTime<Utc>, version: u32, attempt: String },
    Dead(Box<dead::Row>),
    HandBack,
}

/// The kinds of end, each of which is one statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ok,
    Retry,
    Dead,
    HandBack,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::Retry, Self::Dead, Self::HandBack];
}

impl Ending {
    pub(super) fn new(claim: Claim, settle: &Settle) -> Result<Self> {
        let id = claim.0;
        let end = match settle {
            Settle::Ok { response, effects } => End::Ok {
                body: response.body.clone(),
                http: response.http.as_deref().map(|parts| {
                    let headers = Headers::Http(Box::new(parts.headers.clone()));
                    (i32::from(parts.status.as_u16()), column::to_json(&headers))
                }),
                effects: effects.iter().map(outbox::Row::new).collect(),
            },
            Settle::Retry { run_at, attempt } => {
                End::Retry { run_at: *run_at, version: attempt.version, attempt: column::to_json(attempt) }
            }
            Settle::Dead(dead) if dead.invocation.invocation_id != id => {
                let why = format!("it is that of {}", dead.invocation.invocation_id);
                return Err(column::corrupt(format!("the dead letter of {id}"), why).into_error());
            }
            Settle::Dead(dead) => End::Dead(Box::new(dead::Row::new(dead))),
            Settle::HandBack => End::HandBack,
        };
        Ok(Self { claim, end })
    }

    pub(super) fn kind(&self) -> Kind {
        match &self.end {
            End::Ok { .. } => Kind::Ok,
            End::Retry { .. } => Kind::Retry,
            End::Dead(_) => Kind::Dead,
            End::HandBack => Kind::HandBack,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.end {
            End::Ok { body, effects, .. } => body.len() + effects.iter().map(outbox::Row::bytes).sum::<usize>(),
            End::Dead(dead) => dead.bytes(),
            End::Retry { attempt, .. } => attempt.len(),
            End::HandBack => 0,
        }
    }
}

/// Ends claims that all end in one way, each at most once among them. Answers those that were still their tokens'.
pub(super) async fn settle(connection: &mut PgConnection, kind: Kind, endings: &[&Ending]) -> Outcome<HashSet<Claim>> {
    let ended = match kind {
        Kind::Ok => ok(connection, endings).await,
        Kind::Retry => retry(connection, endings).await,
        Kind::Dead => die(connection, endings).await,
        Kind::HandBack => hand_back(connection, endings).await,
    }?;
    Ok(ended.into_iter().collect())
}

/// Removes the rows, keeps their results and releases their effects.
const OK: &str = "
    WITH gone AS (
        DELETE FROM queue q
        USING unnest($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::bytea[])
            AS ending (invocation_id, claim_token, http_status, http_headers, body)
        WHERE q.invocation_id = ending.invocation_id AND q.claim_token = ending.claim_token
        RETURNING q.invocation_id, q.claim_token, q.namespace, q.function_name, q.trigger_id, q.trigger_type,
            q.attempt, ending.http_status, ending.http_headers, ending.body
    ), kept AS (
        INSERT INTO results (
            invocation_id, namespace, function_name, trigger_id, trigger_type, attempts,
            finished_at, http_status, http_headers, body
        )
        SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, attempt,
            $6, http_status, http_headers, body
        FROM gone
        ON CONFLICT (invocation_id) DO UPDATE SET
            namespace = excluded.namespace, function_name = excluded.function_name,
            trigger_id = excluded.trigger_id, trigger_type = excluded.trigger_type, attempts = excluded.attempts,
            finished_at = excluded.finished_at, http_status = excluded.http_status,
            http_headers = excluded.http_headers, body = excluded.body
    ), released AS (
        INSERT INTO outbox (id, due_at, created_at, subject, reply, headers, payload)
        SELECT id, $6, $6, subject, reply, headers, payload
        FROM unnest($7::uuid[], $8::uuid[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::bytea[])
            AS effect (invocation_id, claim_token, id, subject, reply, headers, payload)
        JOIN gone USING (invocation_id, claim_token)
    )
    SELECT invocation_id, claim_token FROM gone
";

async fn ok(connection: &mut PgConnection, endings: &[&Ending]) -> sqlx::Result<Vec<Claim>> {
    let (ids, tokens) = claims(endings);
    let (mut statuses, mut headers, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    let (mut effect_ids, mut effect_tokens, mut effects) = (Vec::new(), Vec::new(), Vec::new());
    for ending in endings {
        let End::Ok { body, http, effects: released } = &ending.end else { continue };
        statuses.push(http.as_ref().map(|(status, _)| *status));
        headers.push(http.as_ref().map(|(_, headers)| headers.as_str()));
        bodies.push(body.as_ref());
        for effect in released {
            effect_ids.push(ending.claim.0);
            effect_tokens.push(ending.claim.1);
            effects.push(effect);
        }
    }
    let effects: outbox::Columns<'_> = effects.into_iter().collect();
    sqlx::query_as(OK)
        .bind(ids)
        .bind(tokens)
        .bind(statuses)
        .bind(headers)
        .bind(bodies)
        .bind(Utc::now())
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

async fn retry(connection: &mut PgConnection, endings: &[&Ending]) -> sqlx::Result<Vec<Claim>> {
    let (ids, tokens) = claims(endings);
    let (mut moments, mut versions, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
    for ending in endings {
        let End::Retry { run_at, version, attempt } = &ending.end else { continue };
        moments.push(*run_at);
        versions.push(i64::from(*version));
        attempts.push(attempt.as_str());
    }
    // The list grows by its text: it is what this engine wrote, without a space before its end.
    sqlx::query_as(
        "UPDATE queue q SET run_at = ending.run_at, attempt = q.attempt + 1,
            -- 0 stands for an attempt that found no version to run on.
            version = coalesce(q.version, nullif(ending.version, 0)),
            attempts = coalesce(left(q.attempts, -1) || ',', '[') || ending.attempt || ']',
            claim_token = NULL, lease_until = NULL
         FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::text[])
            AS ending (invocation_id, claim_token, run_at, version, attempt)
         WHERE q.invocation_id = ending.invocation_id AND q.claim_token = ending.claim_token
         RETURNING ending.invocation_id, ending.claim_token",
    )
    .bind(ids)
    .bind(tokens)
    .bind(moments)
    .bind(versions)
    .bind(attempts)
    .fetch_all(connection)
    .await
}

async fn die(connection: &mut PgConnection, endings: &[&Ending]) -> sqlx::Result<Vec<Claim>> {
    let mut rows: Vec<&dead::Row> = Vec::with_capacity(endings.len());
    for ending in endings {
        if let End::Dead(row) = &ending.end {
            rows.push(row);
        }
    }
    use sqlx::Row as _;
    let ended = dead::bind(sqlx::query(dead::SETTLE), &rows, claims(endings).1).fetch_all(connection).await?;
    ended.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn hand_back(connection: &mut PgConnection, endings: &[&Ending]) -> sqlx::Result<Vec<Claim>> {
    let (ids, tokens) = claims(endings);
    // It is due since it was claimed.
    sqlx::query_as(
        "UPDATE queue q SET claim_token = NULL, lease_until = NULL
         FROM unnest($1::uuid[], $2::uuid[]) AS ending (invocation_id, claim_token)
         WHERE q.invocation_id = ending.invocation_id AND q.claim_token = ending.claim_token
         RETURNING ending.invocation_id, ending.claim_token",
    )
    .bind(ids)
    .bind(tokens)
    .fetch_all(connection)
    .await
}

fn claims(endings: &[&Ending]) -> (Vec<Uuid>, Vec<Uuid>) {
    endings.iter().map(|ending| ending.claim).unzip()
}
