//! New events on their way into the queue. Those that ask for nothing that others could contradict come in with one
//! statement, which is a commit of its own; those with ordering or unique keys are decided under locks (`decide`).

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use trigger_core::{Fingerprint, SkipReason};
use uuid::Uuid;

use super::error::Outcome;
use super::ledger::Counts;
use super::row::{Columns, Identity, Insert, Keys, Row};
use crate::store::{Admitted, Lease};

/// A list of new events, ready to be written.
pub(super) struct List {
    pub(super) rows: Vec<Row>,
    pub(super) lease: Option<Lease>,
    pub(super) max_backlog: Option<u64>,
    /// Until when it is kept that an event was replaced.
    pub(super) keep_until: Option<DateTime<Utc>>,
}

impl List {
    pub(super) fn bytes(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum()
    }

    pub(super) fn needs_locks(&self) -> bool {
        self.rows.iter().any(Row::needs_locks)
    }
}

/// What became of rows that were to be written.
#[derive(Default)]
pub(super) struct Written {
    /// They are in the queue.
    pub(super) queued: HashSet<Uuid>,
    /// They are the first of their identity.
    pub(super) first: HashSet<Uuid>,
    /// Their trigger's backlog was full.
    full: HashSet<Uuid>,
}

/// Takes rows in that have no keys: those whose id is new. `$14` to `$17` are counts that are known before.
const PLAIN: &str = concat!(
    "WITH input AS MATERIALIZED (
        SELECT * FROM unnest(
            $1::uuid[], $2::bigint[], $3::smallint[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::bytea[], $12::uuid[], $13::timestamptz[]
        ) AS input (
            invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context,
            payload, claim_token, lease_until
        )
    ), queued AS (
        INSERT INTO queue (
            invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context,
            payload, claim_token, lease_until
        )
        SELECT * FROM input ON CONFLICT DO NOTHING RETURNING invocation_id
    ), ",
    count!(
        "SELECT binding_id, 'accepted', '', count(*) FROM input GROUP BY binding_id
         UNION ALL
         SELECT binding_id, 'skipped', 'duplicate', count(*) FROM input
         WHERE invocation_id NOT IN (SELECT invocation_id FROM queued) GROUP BY binding_id
         UNION ALL
         SELECT * FROM unnest($14::bigint[], $15::text[], $16::text[], $17::bigint[])"
    ),
    " SELECT invocation_id, 1 FROM queued"
);

/// Takes rows in: those whose trigger has room, whose identity is new, or that have none, and whose id is new. `$29` is
/// the current time.
const KEYED: &str = concat!(
    "WITH input AS MATERIALIZED (
        SELECT * FROM unnest(
            $1::uuid[], $2::bigint[], $3::smallint[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::bytea[], $12::uuid[], $13::timestamptz[],
            $18::text[], $19::bigint[], $20::text[], $21::bytea[], $22::text[], $23::timestamptz[], $24::bytea[],
            $25::timestamptz[], $26::boolean[], $27::text[], $28::bigint[], $30::bytea[]
        ) WITH ORDINALITY AS input (
            invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context,
            payload, claim_token, lease_until, ordering_key, position, shown_key, unique_key, scope, held_until,
            idempotency_key, fire_at, manual, cause, max_backlog, fingerprint, place
        )
    ), live AS (
        SELECT binding_id, sum(CASE outcome WHEN 'accepted' THEN count ELSE -count END) AS rows
        FROM ledger WHERE binding_id IN (SELECT binding_id FROM input WHERE max_backlog IS NOT NULL)
        GROUP BY binding_id
    ), turned_away AS MATERIALIZED (
        SELECT place, binding_id, invocation_id FROM (
            SELECT place, binding_id, invocation_id, max_backlog,
                row_number() OVER (PARTITION BY binding_id ORDER BY place) + coalesce(live.rows, 0) AS rows
            FROM input i LEFT JOIN live USING (binding_id)
            WHERE max_backlog IS NOT NULL
                AND NOT EXISTS (
                    SELECT FROM accepted_keys k
                    WHERE k.binding_id = i.binding_id AND k.idempotency_key = i.idempotency_key
                )
                AND NOT EXISTS (
                    SELECT FROM fires f
                    WHERE f.binding_id = i.binding_id AND f.scheduled_at = i.fire_at AND f.manual = i.manual
                )
        ) AS numbered WHERE rows > max_backlog
    ), admitted AS (
        SELECT * FROM input WHERE place NOT IN (SELECT place FROM turned_away)
    ), known AS (
        INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at, fingerprint)
        SELECT binding_id, idempotency_key, invocation_id, $29, fingerprint FROM admitted
        WHERE idempotency_key IS NOT NULL ORDER BY place
        ON CONFLICT DO NOTHING RETURNING invocation_id
    ), fired AS (
        INSERT INTO fires (binding_id, scheduled_at, manual, cause, fired_at, invocation_id)
        SELECT binding_id, fire_at, manual, cause, $29, invocation_id FROM admitted
        WHERE fire_at IS NOT NULL ORDER BY place
        ON CONFLICT DO NOTHING RETURNING invocation_id, binding_id, scheduled_at, cause
    ), queued AS (
        INSERT INTO queue (
            invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context,
            payload, claim_token, lease_until, ordering_key, position, unique_key
        )
        SELECT invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context,
            payload, claim_token, lease_until, ordering_key, position, shown_key
        FROM admitted
        WHERE (idempotency_key IS NULL AND fire_at IS NULL)
            OR (idempotency_key IS NOT NULL AND invocation_id IN (SELECT invocation_id FROM known))
            OR (fire_at IS NOT NULL AND invocation_id IN (SELECT invocation_id FROM fired))
        ORDER BY place
        ON CONFLICT DO NOTHING RETURNING invocation_id
    ), held AS (
        INSERT INTO unique_keys (binding_id, unique_key, invocation_id, scope, held_until)
        SELECT binding_id, unique_key, invocation_id, scope, held_until FROM admitted
        WHERE scope IS NOT NULL AND invocation_id IN (SELECT invocation_id FROM queued)
        ORDER BY binding_id, unique_key
        ON CONFLICT (binding_id, unique_key) DO UPDATE SET
            invocation_id = excluded.invocation_id, scope = excluded.scope, held_until = excluded.held_until
    ), ",
    newest!("SELECT binding_id, scheduled_at FROM fired WHERE cause IN ('due', 'catch_up')"),
    ", ",
    count!(
        "SELECT binding_id, 'accepted', '', count(*) FROM input GROUP BY binding_id
         UNION ALL
         SELECT binding_id, 'skipped', 'duplicate', count(*) FROM admitted
         WHERE invocation_id NOT IN (SELECT invocation_id FROM queued) GROUP BY binding_id
         UNION ALL
         SELECT binding_id, 'shed', 'backlog', count(*) FROM turned_away GROUP BY binding_id
         UNION ALL
         SELECT * FROM unnest($14::bigint[], $15::text[], $16::text[], $17::bigint[])"
    ),
    " SELECT invocation_id, 1 FROM queued
    UNION ALL SELECT invocation_id, 2 FROM known
    UNION ALL SELECT invocation_id, 2 FROM fired
    UNION ALL SELECT invocation_id, 3 FROM turned_away"
);

/// Writes rows of different ids and identities, and counts.
pub(super) async fn write(
    connection: &mut PgConnection,
    inserts: &[Insert<'_>],
    counts: &Counts,
    now: DateTime<Utc>,
) -> Outcome<Written> {
    let mut written = Written::default();
    if inserts.is_empty() && counts.bindings.is_empty() {
        return Ok(written);
    }
    let is_plain = |insert: &Insert<'_>| {
        insert.row.identity().is_none() && !insert.row.needs_locks() && insert.max_backlog.is_none()
    };
    let plain = inserts.iter().all(is_plain);
    let columns = Columns::of(inserts);
    let mut query = sqlx::query_as::<_, (Uuid, i32)>(if plain { PLAIN } else { KEYED })
        .bind(columns.ids)
        .bind(columns.bindings)
        .bind(columns.states)
        .bind(columns.moments)
        .bind(columns.ranks)
        .bind(columns.attempt)
        .bind(columns.versions)
        .bind(columns.redrives)
        .bind(columns.attempts)
        .bind(columns.contexts)
        .bind(columns.payloads)
        .bind(columns.tokens)
        .bind(columns.leases)
        .bind(&counts.bindings)
        .bind(&counts.outcomes)
        .bind(&counts.reasons)
        .bind(&counts.counts);
    if !plain {
        let keys = Keys::of(inserts, now);
        query = query
            .bind(keys.ordering_keys)
            .bind(keys.positions)
            .bind(keys.shown_keys)
            .bind(keys.unique_keys)
            .bind(keys.scopes)
            .bind(keys.held_until)
            .bind(keys.identities)
            .bind(keys.fires)
            .bind(keys.manual)
            .bind(keys.causes)
            .bind(keys.backlogs)
            .bind(now)
            .bind(keys.fingerprints);
    }
    for (id, what) in query.fetch_all(connection).await? {
        match what {
            1 => written.queued.insert(id),
            2 => written.first.insert(id),
            _ => written.full.insert(id),
        };
    }
    Ok(written)
}

/// Takes lists of new events in that need no locks; one whose identity, or whose id, is known is a duplicate.
pub(super) async fn accept(
    connection: &mut PgConnection,
    lists: &[&List],
    now: DateTime<Utc>,
) -> Outcome<Vec<Vec<Admitted>>> {
    let mut counts = Counts::default();
    // Whose each identity is among these, and which ids are asked for.
    let mut firsts: HashMap<Identity<'_>, Uuid> = HashMap::new();
    let mut ids: HashSet<Uuid> = HashSet::new();
    let mut ask: Vec<Insert<'_>> = Vec::new();
    for list in lists {
        for row in &list.rows {
            let first = row.identity().is_none_or(|identity| *firsts.entry(identity).or_insert(row.id) == row.id);
            if first && ids.insert(row.id) {
                let (lease, max_backlog) = (list.lease, list.max_backlog);
                ask.push(Insert { row, state: row.first_state(now), position: None, lease, max_backlog });
            } else {
                counts.turned_away(row.binding_id, "skipped", SkipReason::Duplicate.as_str());
            }
        }
    }
    // In one order everywhere, so that two lists with the same keys wait for each other instead of both.
    ask.sort_by_key(|insert| (insert.row.identity().is_none(), insert.row.identity(), insert.row.id));
    let mut written = write(connection, &ask, &counts, now).await?;
    // Identities that were taken before: whose they are. One that was forgotten meanwhile is free again.
    let mut known: HashMap<Identity<'_>, Uuid> = HashMap::new();
    loop {
        let missing: Vec<&Row> = unknown(&ask, &known, &written).map(|insert| insert.row).collect();
        holders(connection, &missing, &mut known).await?;
        let free: Vec<Insert<'_>> = unknown(&ask, &known, &written).copied().collect();
        if free.is_empty() {
            break;
        }
        let more = write(connection, &free, &Counts::default(), now).await?;
        written.queued.extend(more.queued);
        written.first.extend(more.first);
        written.full.extend(more.full);
    }
    let claimed: HashSet<Uuid> = ask.iter().filter(|insert| insert.is_claimed()).map(|insert| insert.row.id).collect();
    let mut seen: HashSet<Uuid> = HashSet::with_capacity(ids.len());
    let mut admitted = |row: &Row| {
        let holder = row.identity().and_then(|identity| known.get(&identity).or_else(|| firsts.get(&identity)));
        let holder = holder.copied().unwrap_or(row.id);
        if written.full.contains(&holder) || written.full.contains(&row.id) {
            return Admitted::Full;
        }
        if holder == row.id && written.queued.contains(&row.id) && seen.insert(row.id) {
            return Admitted::New { claimed: claimed.contains(&row.id), replaced: None };
        }
        Admitted::Duplicate(holder)
    };
    Ok(lists.iter().map(|list| list.rows.iter().map(&mut admitted).collect()).collect())
}

/// The rows whose identity is somebody's, and nobody knows yet whose.
fn unknown<'a, 'r>(
    inserts: &'a [Insert<'r>],
    known: &HashMap<Identity<'r>, Uuid>,
    written: &Written,
) -> impl Iterator<Item = &'a Insert<'r>> {
    inserts.iter().filter(|insert| {
        let decided = written.first.contains(&insert.row.id) || written.full.contains(&insert.row.id);
        insert.row.identity().is_some_and(|identity| !decided && !known.contains_key(&identity))
    })
}

/// What the event said that a key was accepted with.
pub(super) async fn fingerprint(
    connection: &mut PgConnection,
    binding_id: i64,
    key: &str,
) -> Outcome<Option<Fingerprint>> {
    const FINGERPRINT: &str = "SELECT fingerprint FROM accepted_keys WHERE binding_id = $1 AND idempotency_key = $2";
    let query = sqlx::query_scalar(FINGERPRINT).bind(binding_id).bind(key.as_bytes());
    Ok(query.fetch_optional(connection).await?.flatten())
}

/// Whose these rows' identities are. A fire that was not made is nobody's: it is answered with the asker's id.
async fn holders<'r>(
    connection: &mut PgConnection,
    rows: &[&'r Row],
    known: &mut HashMap<Identity<'r>, Uuid>,
) -> Outcome<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let (mut ids, mut bindings, mut keys, mut fires, mut manual) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let key = row.idempotency_key.as_deref().filter(|_| row.fire.is_none());
        ids.push(row.id);
        bindings.push(row.binding_id);
        keys.push(key.map(str::as_bytes));
        fires.push(row.fire.as_ref().map(|fire| fire.scheduled_at));
        manual.push(row.fire.as_ref().is_some_and(|fire| fire.is_manual()));
    }
    let found: Vec<(i64, Uuid)> = sqlx::query_as(
        "WITH asked AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[], $5::boolean[])
                WITH ORDINALITY AS asked (own_id, binding_id, idempotency_key, scheduled_at, manual, place)
         )
         SELECT place, invocation_id FROM asked JOIN accepted_keys USING (binding_id, idempotency_key)
         UNION ALL
         SELECT place, coalesce(invocation_id, own_id) FROM asked JOIN fires USING (binding_id, scheduled_at, manual)",
    )
    .bind(ids)
    .bind(bindings)
    .bind(keys)
    .bind(fires)
    .bind(manual)
    .fetch_all(connection)
    .await?;
    known.extend(found.into_iter().filter_map(|(place, id)| {
        let row = rows.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
        Some((row.identity()?, id))
    }));
    Ok(())
}
