//! Dead letters: kept, listed, redriven.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection, Postgres, QueryBuilder, Row as _};
use trigger_core::{Binding, DeadReason, Failure, InvocationContext};
use uuid::Uuid;

use super::error::{Fail, Outcome};
use super::{bindings, bulk, column, decide, ledger, outbox, row};
use crate::store::stored::json_error;
use crate::store::{DeadLetter, DeadLetterPage, DeadLetterSummary, Error, KeptDeadLetter, MAX_PAGE, Redriven};

/// A dead letter to be written.
pub(super) struct Row {
    pub(super) invocation_id: Uuid,
    binding: Arc<Binding>,
    /// Where its end is counted, for one that is not in the queue.
    binding_id: i64,
    subject: String,
    pub(super) reason: DeadReason,
    failure: String,
    attempt_count: u64,
    attempts: String,
    died_at: DateTime<Utc>,
    redrive_count: u32,
    version: Option<u32>,
    digest: Option<String>,
    context: String,
    payload: Bytes,
    publish: Option<outbox::Row>,
}

impl Row {
    pub(super) fn new(dead: &DeadLetter, binding_id: i64) -> Self {
        let invocation = &dead.invocation;
        Self {
            invocation_id: invocation.invocation_id,
            binding: invocation.binding.clone(),
            binding_id,
            subject: column::text(&invocation.subject).into_owned(),
            reason: dead.reason,
            failure: column::to_json(&dead.failure),
            attempt_count: dead.attempts.len() as u64,
            attempts: column::to_json(&dead.attempts),
            died_at: dead.died_at,
            redrive_count: dead.redrive_count,
            version: dead.version,
            digest: dead.digest.map(|digest| digest.to_string()),
            context: invocation.to_stored(),
            payload: invocation.payload.clone(),
            publish: dead.publish.as_ref().map(outbox::Row::new),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let publish = self.publish.as_ref().map_or(0, outbox::Row::bytes);
        self.attempts.len() + self.context.len() + self.payload.len() + publish
    }
}

/// What [`bind`] has bound, as a table: `$1` to `$22`; `$23` is the current time.
macro_rules! letters {
    () => {
        "letter AS (
            SELECT * FROM unnest(
                $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::bigint[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::text[], $14::text[],
                $15::text[], $16::bytea[], $17::uuid[], $18::text[], $19::text[], $20::text[], $21::bytea[],
                $22::uuid[]
            ) AS letter (
                invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
                attempt_count, died_at, redrive_count, version, digest, attempts,
                context, payload, outbox_id, message_subject, message_reply, message_headers, message_payload,
                claim_token
            )
        )"
    };
}

/// Keeps those of the letters that are in `$ended`, in place of older ones, and what to publish about them.
macro_rules! keep {
    ($ended:literal) => {
        concat!(
            "kept AS (
                INSERT INTO dead_letters (
                    invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
                    attempt_count, died_at, redrive_count, version, digest, outbox_id, attempts, context, payload
                )
                SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
                    attempt_count, died_at, redrive_count, version, digest, outbox_id, attempts, context, payload
                FROM ",
            $ended,
            " ON CONFLICT (invocation_id) DO UPDATE SET
                    namespace = excluded.namespace, function_name = excluded.function_name,
                    trigger_id = excluded.trigger_id, trigger_type = excluded.trigger_type,
                    subject = excluded.subject, reason = excluded.reason, failure = excluded.failure,
                    attempt_count = excluded.attempt_count, died_at = excluded.died_at, redriven_at = NULL,
                    redrive_count = excluded.redrive_count, version = excluded.version, digest = excluded.digest,
                    outbox_id = excluded.outbox_id, published = false, attempts = excluded.attempts,
                    context = excluded.context, payload = excluded.payload
            ), told AS (
                INSERT INTO outbox (id, due_at, dead_letter_id, created_at, subject, reply, headers, payload)
                SELECT outbox_id, $23, invocation_id, $23, message_subject, message_reply, message_headers,
                    message_payload
                FROM ",
            $ended,
            " WHERE outbox_id IS NOT NULL
            )"
        )
    };
}

/// Ends claims with dead letters: letters, messages and removal at once. Answers the ids and tokens that held.
macro_rules! settle {
    ($promote:expr) => {
        concat!(
            "WITH ",
            letters!(),
            ", gone AS (
                DELETE FROM queue q USING letter l
                WHERE q.invocation_id = ANY (ARRAY[l.invocation_id]) AND q.claim_token = l.claim_token
                RETURNING q.invocation_id, q.claim_token, q.binding_id, q.ordering_key, q.position, q.state, l.reason
            ), ended AS (
                SELECT * FROM letter
                WHERE (invocation_id, claim_token) IN (SELECT invocation_id, claim_token FROM gone)
            ), ",
            keep!("ended"),
            ", ",
            $promote,
            count!("SELECT binding_id, 'dead', reason, count(*) FROM gone GROUP BY binding_id, reason"),
            " SELECT invocation_id, claim_token FROM gone"
        )
    };
}

pub(super) const SETTLE: &str = settle!("");
pub(super) const SETTLE_ORDERED: &str = settle!(concat!(promote!("$23"), ", "));

/// Keeps dead letters, whose ends are counted elsewhere.
const KEEP: &str = concat!("WITH ", letters!(), ", ", keep!("letter"), " SELECT");

/// Keeps dead letters of events that are not in the queue, counts them, of the trigger `$24`, and forgets their
/// remembered attempts.
const BURY: &str = concat!(
    "WITH ",
    letters!(),
    ", ",
    keep!("letter"),
    ", ",
    count!(
        "SELECT $24::bigint, 'accepted', '', count(*) FROM letter
         UNION ALL
         SELECT $24::bigint, 'dead', reason, count(*) FROM letter GROUP BY reason"
    ),
    " DELETE FROM remembered_attempts WHERE invocation_id IN (SELECT invocation_id FROM letter)"
);

/// Binds letters, and the tokens of their claims, for [`SETTLE`] and its like.
pub(super) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    rows: &[&Row],
    tokens: Vec<Uuid>,
    now: DateTime<Utc>,
) -> Query<'q, Postgres, PgArguments> {
    let names = |name: fn(&Binding) -> &str| rows.iter().map(|row| name(&row.binding)).collect::<Vec<&str>>();
    let message = |row: &&Row| row.publish.as_ref().map(|message| message.id);
    let published: Vec<Option<&outbox::Row>> = rows.iter().map(|row| row.publish.as_ref()).collect();
    query
        .bind(rows.iter().map(|row| row.invocation_id).collect::<Vec<_>>())
        .bind(names(|binding| &binding.namespace))
        .bind(names(|binding| &binding.function_name))
        .bind(names(|binding| &binding.trigger_id))
        .bind(names(|binding| binding.trigger_type.as_str()))
        .bind(rows.iter().map(|row| row.subject.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.reason.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.failure.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| column::signed(row.attempt_count)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.died_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.redrive_count)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version.map(i64::from)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.digest.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.attempts.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.context.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.as_ref()).collect::<Vec<&[u8]>>())
        .bind(rows.iter().map(message).collect::<Vec<_>>())
        .bind(published.iter().map(|one| one.map(|row| row.subject.as_str())).collect::<Vec<_>>())
        .bind(published.iter().map(|one| one.and_then(|row| row.reply.as_deref())).collect::<Vec<_>>())
        .bind(published.iter().map(|one| one.map(|row| row.headers.as_str())).collect::<Vec<_>>())
        .bind(published.iter().map(|one| one.map(|row| row.payload.as_ref())).collect::<Vec<Option<&[u8]>>>())
        .bind(tokens)
        .bind(now)
}

/// Keeps a dead letter whose end is counted elsewhere, in place of an older one of the same invocation, and what to
/// publish about it.
pub(super) async fn keep(connection: &mut PgConnection, row: &Row, now: DateTime<Utc>) -> Outcome<()> {
    bind(sqlx::query(KEEP), &[row], vec![Uuid::nil()], now).execute(connection).await?;
    Ok(())
}

/// The same for an event that was not in the queue: it came and ended at once.
pub(super) async fn bury(connection: &mut PgConnection, row: &Row, now: DateTime<Utc>) -> Outcome<()> {
    bind(sqlx::query(BURY), &[row], vec![Uuid::nil()], now).bind(row.binding_id).execute(connection).await?;
    Ok(())
}

/// A page of dead letters, newest first.
pub(super) async fn list(connection: &mut PgConnection, page: &DeadLetterPage) -> Outcome<Vec<DeadLetterSummary>> {
    let mut select: QueryBuilder<Postgres> = QueryBuilder::new(
        "SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, subject, reason, failure,
            attempt_count, died_at, redriven_at, outbox_id IS NOT NULL, published
         FROM dead_letters WHERE ",
    );
    bulk::push_conditions(&mut select, &page.selector);
    if let Some(behind) = page.behind {
        select.push(" AND (died_at, invocation_id) < (").push_bind(behind.died_at);
        select.push(", ").push_bind(behind.invocation_id).push(")");
    }
    select.push(" ORDER BY died_at DESC, invocation_id DESC LIMIT ");
    select.push_bind(i64::from(page.limit.min(MAX_PAGE)));
    let rows = select.build().fetch_all(connection).await?;
    let mut page = Vec::with_capacity(rows.len());
    for row in &rows {
        match summary(row) {
            Ok(summary) => page.push(summary),
            // One that cannot be read does not hide the others.
            Err(error) => {
                let (id, error) = (row.try_get::<Uuid, _>(0).ok(), error.into_error());
                tracing::error!(invocation_id = ?id, "a dead letter is left out: {error}");
            }
        }
    }
    Ok(page)
}

fn summary(row: &PgRow) -> Outcome<DeadLetterSummary> {
    Ok(DeadLetterSummary {
        invocation_id: row.try_get(0)?,
        binding: column::binding(row, 1)?,
        subject: row.try_get(5)?,
        reason: reason(row, 6)?,
        failure: failure(row, 7)?,
        attempts: column::number(row, 8)?,
        died_at: column::moment(row, 9)?,
        redriven_at: row.try_get(10)?,
        published: if row.try_get(11)? { Some(row.try_get(12)?) } else { None },
    })
}

/// The reason in a column.
pub(super) fn reason(row: &PgRow, column: usize) -> Outcome<DeadReason> {
    let word: String = row.try_get(column)?;
    DeadReason::parse(&word).ok_or_else(|| column::corrupt("a dead letter's reason", format!("{word:?}")))
}

/// The failure in a column.
pub(super) fn failure(row: &PgRow, column: usize) -> Outcome<Failure> {
    let json: String = row.try_get(column)?;
    column::json(&json, || "a dead letter's failure".to_owned())
}

/// A dead letter, and when it was redriven.
pub(super) async fn get(connection: &mut PgConnection, id: Uuid) -> Outcome<Option<KeptDeadLetter>> {
    let select = sqlx::query(
        "SELECT context, payload, version, digest, attempts, reason, failure, died_at, redrive_count, redriven_at
         FROM dead_letters WHERE invocation_id = $1",
    );
    let Some(row) = select.bind(id).fetch_optional(connection).await? else { return Ok(None) };
    let whose = || format!("dead letter {id}");
    let (context, attempts): (String, String) = (row.try_get(0)?, row.try_get(4)?);
    let payload = Bytes::from(row.try_get::<Vec<u8>, _>(1)?);
    let digest: Option<String> = row.try_get(3)?;
    let digest = digest.map(|text| text.parse()).transpose().map_err(|error| column::corrupt(whose(), error))?;
    let dead = DeadLetter {
        invocation: InvocationContext::from_stored(&context, payload)
            .map_err(|error| column::corrupt(whose(), json_error(&error)))?,
        version: column::optional_number(&row, 2)?,
        digest,
        attempts: column::json(&attempts, whose)?,
        reason: reason(&row, 5)?,
        failure: failure(&row, 6)?,
        died_at: column::moment(&row, 7)?,
        redrive_count: column::number(&row, 8)?,
        publish: None,
    };
    Ok(Some((dead, row.try_get(9)?)))
}

/// What the events that one step puts back may hold together, in bytes, before it stops short.
const MAX_REDRIVE_BYTES: usize = 8 << 20;

/// Puts events back in the queue as if they had just come, and marks their dead letters.
pub(super) async fn redrive(
    connection: &mut PgConnection,
    ids: &[Uuid],
    version: Option<u32>,
    run_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Outcome<Vec<Redriven>> {
    let mut transaction = connection.begin().await?;
    // Locked in one order everywhere, so that two redrives of the same ones wait for each other instead of both.
    sqlx::query("SELECT FROM dead_letters WHERE invocation_id = ANY ($1) ORDER BY invocation_id FOR UPDATE")
        .bind(ids)
        .execute(&mut *transaction)
        .await?;
    let (mut answers, mut marked, mut bytes) = (Vec::with_capacity(ids.len()), Vec::new(), 0);
    let mut counts = ledger::Counts::default();
    for id in ids {
        if bytes >= MAX_REDRIVE_BYTES {
            break;
        }
        let (dead, redriven_at) = match get(&mut transaction, *id).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                answers.push(Redriven::Unknown);
                continue;
            }
            // One that cannot be read must not keep the others from being redriven.
            Err(Fail::Ended(error @ Error::Corrupt { .. })) => {
                tracing::error!(invocation_id = %id, "a dead letter cannot be redriven: {error}");
                answers.push(Redriven::Unreadable);
                continue;
            }
            Err(fail) => return Err(fail),
        };
        if redriven_at.is_some() || marked.contains(id) {
            answers.push(Redriven::Already);
            continue;
        }
        let reason = dead.reason;
        let found = bindings::resolve(&mut transaction, &[&*dead.invocation.binding]).await?;
        let Some((binding_id, _)) = found.first() else { return Err(sqlx::Error::RowNotFound.into()) };
        let row = row::Row::new(&dead.redriven(version, run_at), *binding_id).without_keys();
        bytes += row.bytes();
        // It is dead no more; and writing it counts it as accepted, which it was before.
        counts.add(*binding_id, "dead", reason.as_str(), -1);
        counts.add(*binding_id, "accepted", "", -1);
        decide::insert(&mut transaction, &row, &ledger::Counts::default(), now).await?;
        marked.push(*id);
        answers.push(Redriven::Queued);
    }
    ledger::add(&mut transaction, &counts).await?;
    sqlx::query("UPDATE dead_letters SET redriven_at = $2 WHERE invocation_id = ANY ($1)")
        .bind(marked)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(answers)
}
