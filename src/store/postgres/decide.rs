//! New events with ordering or unique keys: looked at, decided and written under the locks of their keys.
//!
//! A list goes through in chunks, each with one look at what is there, one decision a row in the order of the list, and
//! one statement that writes. What is not under these locks (identities, ids) may be taken by others between look and
//! statement: then the transaction is undone and done again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};
use trigger_core::{Shed, SkipReason, UniqueConflict, UniqueScope};
use uuid::Uuid;

use super::accept::{self, List};
use super::error::{Fail, Outcome};
use super::ledger::Counts;
use super::lock::{self, Locked};
use super::row::{BEHIND, Identity, Insert, Row};
use super::{cancel, column, fires, ledger};
use crate::store::{Admitted, Error};

/// What was there when a row was looked at.
struct Look {
    /// The event with its identity.
    first: Option<Uuid>,
    /// Whether a row has its id.
    known: bool,
    /// Who holds its unique key.
    holder: Option<Uuid>,
    /// The lock of the holder's ordering key.
    holder_lock: Option<i64>,
    /// Rows of its ordering key, counted no further than needed.
    live: u64,
    /// The place of the last of them.
    last: i64,
    /// Rows of its trigger, where that matters.
    backlog: u64,
}

/// Whether a row of `unique_keys u` is somebody's at `$now`.
macro_rules! held {
    ($now:literal) => {
        concat!(
            "CASE u.scope WHEN 'period' THEN u.held_until > ",
            $now,
            " WHEN 'live' THEN EXISTS (SELECT FROM queue q WHERE q.invocation_id = u.invocation_id)
            ELSE EXISTS (
                SELECT FROM queue q
                WHERE q.invocation_id = u.invocation_id AND q.attempt = 1 AND q.claim_token IS NULL
            ) END"
        )
    };
}

const LOOK: &str = concat!(
    "SELECT
        coalesce(
            (SELECT k.invocation_id FROM accepted_keys k
             WHERE k.binding_id = i.binding_id AND k.idempotency_key = i.idempotency_key),
            (SELECT coalesce(f.invocation_id, i.invocation_id) FROM fires f
             WHERE f.binding_id = i.binding_id AND f.scheduled_at = i.fire_at AND f.manual = i.manual)
        ),
        EXISTS (SELECT FROM queue q WHERE q.invocation_id = i.invocation_id),
        holder.invocation_id,
        (SELECT hashtextextended('o' || q.ordering_key, q.binding_id) FROM queue q
         WHERE q.invocation_id = holder.invocation_id),
        (SELECT count(*) FROM (
            SELECT FROM queue q WHERE q.binding_id = i.binding_id AND q.ordering_key = i.ordering_key LIMIT i.count_to
         ) AS rows),
        coalesce((
            SELECT q.position FROM queue q WHERE q.binding_id = i.binding_id AND q.ordering_key = i.ordering_key
            ORDER BY q.position DESC LIMIT 1
        ), 0),
        CASE WHEN i.bounded THEN greatest(0, coalesce((
            SELECT sum(CASE l.outcome WHEN 'accepted' THEN l.count ELSE -l.count END)
            FROM ledger l WHERE l.binding_id = i.binding_id
        ), 0)) ELSE 0 END::bigint
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[], $5::boolean[], $6::text[], $7::bigint[],
        $8::bytea[], $9::boolean[]) WITH ORDINALITY AS i (
            invocation_id, binding_id, idempotency_key, fire_at, manual, ordering_key, count_to, unique_key, bounded,
            place
        )
    LEFT JOIN LATERAL (
        SELECT u.invocation_id FROM unique_keys u
        WHERE u.binding_id = i.binding_id AND u.unique_key = i.unique_key AND ",
    held!("$10"),
    ") AS holder ON true
    ORDER BY place"
);

/// Who holds a unique key.
pub(super) async fn holder(connection: &mut PgConnection, binding_id: i64, key: &str) -> Outcome<Option<Uuid>> {
    const HOLDER: &str = concat!(
        "SELECT u.invocation_id FROM unique_keys u WHERE u.binding_id = $1 AND u.unique_key = $2 AND ",
        held!("$3")
    );
    let query = sqlx::query_scalar(HOLDER).bind(binding_id).bind(key.as_bytes()).bind(column::now());
    Ok(query.fetch_optional(connection).await?)
}

/// Puts a row in the queue that is known to be no duplicate, in the caller's transaction, and writes counts beside its
/// own. One that is there already stays as it is, and is not counted.
pub(super) async fn insert(connection: &mut PgConnection, row: &Row, counts: &Counts) -> Outcome<bool> {
    let now = column::now();
    let (mut state, mut position) = (row.first_state(now), None);
    if let Some(ordering) = &row.ordering {
        let mut keys = lock::Keys::default();
        keys.of_new(row);
        keys.lock(connection).await?;
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT position FROM queue WHERE binding_id = $1 AND ordering_key = $2 ORDER BY position DESC LIMIT 1",
        )
        .bind(row.binding_id)
        .bind(&ordering.key)
        .fetch_optional(&mut *connection)
        .await?;
        if last.is_some() {
            state = BEHIND;
        }
        position = Some(last.unwrap_or(0) + 1);
    }
    let insert = Insert { row, state, position, lease: None, max_backlog: None };
    let written = accept::write(connection, &[insert], counts, now).await?;
    let inserted = written.queued.contains(&row.id);
    if !inserted {
        let mut back = Counts::default();
        back.add(row.binding_id, "accepted", "", -1);
        back.add(row.binding_id, "skipped", SkipReason::Duplicate.as_str(), -1);
        ledger::add(connection, &back).await?;
    }
    Ok(inserted)
}

/// Puts a row in the queue, unless it is there.
pub(super) async fn keep(connection: &mut PgConnection, row: &Row) -> Outcome<()> {
    if row.ordering.is_none() {
        insert(connection, row, &Counts::default()).await?;
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    insert(&mut transaction, row, &Counts::default()).await?;
    Ok(transaction.commit().await?)
}

/// A row on its way in, and the list that it came with.
type Asked<'r> = (&'r Row, &'r List);

/// Takes lists in, in a transaction of their own.
pub(super) async fn accept_locked(connection: &mut PgConnection, lists: &[&List]) -> Outcome<Vec<Vec<Admitted>>> {
    let mut transaction = connection.begin().await?;
    let mut keys = lock::Keys::default();
    lists.iter().flat_map(|list| &list.rows).for_each(|row| keys.of_new(row));
    let locked = keys.lock(&mut transaction).await?;
    let admitted = accept(&mut transaction, lists, &locked).await?;
    transaction.commit().await?;
    Ok(admitted)
}

/// Takes lists in whose keys are locked, in the caller's transaction.
pub(super) async fn accept(
    connection: &mut PgConnection,
    lists: &[&List],
    locked: &Locked,
) -> Outcome<Vec<Vec<Admitted>>> {
    let asked: Vec<Asked<'_>> = lists.iter().flat_map(|list| list.rows.iter().map(move |row| (row, *list))).collect();
    let mut admitted = Vec::with_capacity(asked.len());
    let mut rest = asked.as_slice();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(chunk_length(rest));
        rest = others;
        admitted.extend(accept_chunk(connection, chunk, locked).await?);
    }
    let mut admitted = admitted.into_iter();
    Ok(lists.iter().map(|list| admitted.by_ref().take(list.rows.len()).collect()).collect())
}

/// How many rows can be decided by one look: until one whose unique key is another one's before it, unless that is
/// simply the same event.
fn chunk_length(rows: &[Asked<'_>]) -> usize {
    let mut keys: HashMap<(i64, &str), UniqueScope> = HashMap::new();
    for (index, (row, _)) in rows.iter().enumerate() {
        let Some(unique) = &row.unique else { continue };
        match keys.insert((row.binding_id, &unique.key), unique.scope) {
            Some(scope) if scope == UniqueScope::Queued || unique.conflict == UniqueConflict::Replace => return index,
            _ => {}
        }
    }
    rows.len()
}

/// What rows of the same chunk have done before one.
#[derive(Default)]
struct Before<'r> {
    identities: HashMap<Identity<'r>, Uuid>,
    ids: HashSet<Uuid>,
    unique: HashMap<(i64, &'r str), Uuid>,
    /// Rows of each ordering key.
    ordered: HashMap<(i64, &'r str), u64>,
    /// Rows of each trigger.
    backlog: HashMap<i64, u64>,
}

/// What becomes of a row.
enum Decision {
    Duplicate(Uuid),
    Overlap,
    Full,
    Insert { replace: Option<Uuid> },
}

impl<'r> Before<'r> {
    fn decide(&self, (row, list): Asked<'r>, look: &Look) -> Decision {
        let earlier = row.identity().and_then(|identity| self.identities.get(&identity).copied());
        if let Some(first) = look.first.or(earlier) {
            return Decision::Duplicate(first);
        }
        let unique = row.unique.as_ref();
        let earlier = unique.and_then(|unique| self.unique.get(&(row.binding_id, &*unique.key)).copied());
        let replace = match (unique, look.holder) {
            _ if earlier.is_some() => return Decision::Duplicate(earlier.unwrap_or(row.id)),
            (Some(unique), Some(holder)) if unique.conflict == UniqueConflict::Replace => Some(holder),
            (_, Some(holder)) => return Decision::Duplicate(holder),
            (_, None) => None,
        };
        if let Some(ordering) = &row.ordering
            && let Some(limit) = ordering.limit
            && look.live + self.ordered.get(&(row.binding_id, &*ordering.key)).unwrap_or(&0) >= u64::from(limit)
        {
            return Decision::Overlap;
        }
        if let Some(limit) = list.max_backlog
            && look.backlog + self.backlog.get(&row.binding_id).unwrap_or(&0) >= limit
        {
            return Decision::Full;
        }
        if look.known || self.ids.contains(&row.id) {
            return Decision::Duplicate(row.id);
        }
        Decision::Insert { replace }
    }

    fn add(&mut self, row: &'r Row) {
        self.ids.insert(row.id);
        if let Some(identity) = row.identity() {
            self.identities.insert(identity, row.id);
        }
        if let Some(unique) = &row.unique {
            self.unique.insert((row.binding_id, &unique.key), row.id);
        }
        if let Some(ordering) = &row.ordering {
            *self.ordered.entry((row.binding_id, &ordering.key)).or_default() += 1;
        }
        *self.backlog.entry(row.binding_id).or_default() += 1;
    }
}

async fn accept_chunk<'r>(
    connection: &mut PgConnection,
    rows: &[Asked<'r>],
    locked: &Locked,
) -> Outcome<Vec<Admitted>> {
    let now = column::now();
    let looks = look(connection, rows, now).await?;
    let mut before = Before::default();
    let mut counts = Counts::default();
    let mut overlaps = fires::Skipped::default();
    let mut replace: Vec<(Uuid, Option<DateTime<Utc>>)> = Vec::new();
    let mut decisions = Vec::with_capacity(rows.len());
    for ((row, list), look) in rows.iter().zip(&looks) {
        let decision = before.decide((row, list), look);
        match &decision {
            Decision::Duplicate(_) => counts.turned_away(row.binding_id, "skipped", SkipReason::Duplicate.as_str()),
            Decision::Full => counts.turned_away(row.binding_id, "shed", Shed::Backlog.as_str()),
            Decision::Overlap => match &row.fire {
                None => counts.turned_away(row.binding_id, "skipped", SkipReason::Overlap.as_str()),
                Some(fire) => {
                    before.identities.extend(row.identity().map(|identity| (identity, row.id)));
                    overlaps.add(row.binding_id, fire.scheduled_at, fire.is_manual(), SkipReason::Overlap);
                }
            },
            Decision::Insert { replace: holder } => {
                before.add(row);
                if let Some(holder) = holder {
                    // Its ordering key is one that came to be between the lock and the look.
                    if look.holder_lock.is_some_and(|lock| !locked.has(lock)) {
                        return Err(contradicted());
                    }
                    replace.push((*holder, list.keep_until));
                }
            }
        }
        decisions.push(decision);
    }
    if fires::skip(connection, &overlaps).await? != overlaps.bindings.len() as u64 {
        return Err(contradicted());
    }
    // One that runs already cannot be replaced: it goes on, and the new one is another event.
    let gone = cancel::take_back(connection, &replace, now).await?;
    let inserts = inserts(rows, &looks, &decisions, &gone, now);
    let written = accept::write(connection, &inserts, &counts, now).await?;
    if inserts.iter().any(|insert| !written.queued.contains(&insert.row.id)) {
        return Err(contradicted());
    }
    let mut inserts = inserts.iter();
    Ok(decisions
        .into_iter()
        .map(|decision| match decision {
            Decision::Duplicate(first) => Admitted::Duplicate(first),
            Decision::Overlap => Admitted::Skipped(SkipReason::Overlap),
            Decision::Full => Admitted::Full,
            Decision::Insert { replace } => Admitted::New {
                claimed: inserts.next().is_some_and(Insert::is_claimed),
                replaced: replace.filter(|holder| gone.iter().any(|one| one.id == *holder)),
            },
        })
        .collect())
}

/// The rows that come in, each at its place: behind those of its ordering key that are left.
fn inserts<'r>(
    rows: &[Asked<'r>],
    looks: &[Look],
    decisions: &[Decision],
    gone: &[cancel::Gone],
    now: DateTime<Utc>,
) -> Vec<Insert<'r>> {
    // Rows and last place of each ordering key.
    let mut keys: HashMap<(i64, &str), (u64, i64)> = HashMap::new();
    let mut inserts = Vec::new();
    for (((row, list), look), decision) in rows.iter().zip(looks).zip(decisions) {
        if !matches!(decision, Decision::Insert { .. }) {
            continue;
        }
        let (mut state, mut position) = (row.first_state(now), None);
        if let Some(ordering) = &row.ordering {
            let key = (row.binding_id, ordering.key.as_str());
            let (live, last) = keys.entry(key).or_insert_with(|| {
                let taken = gone.iter().filter(|gone| gone.ordering_key.as_deref() == Some(key.1));
                let taken = taken.filter(|gone| gone.binding_id == key.0).count() as u64;
                (look.live.saturating_sub(taken), look.last)
            });
            if *live > 0 {
                state = BEHIND;
            }
            *live += 1;
            *last += 1;
            position = Some(*last);
        }
        // Whether there is room has been decided.
        inserts.push(Insert { row, state, position, lease: list.lease, max_backlog: None });
    }
    inserts
}

async fn look(connection: &mut PgConnection, rows: &[Asked<'_>], now: DateTime<Utc>) -> Outcome<Vec<Look>> {
    let keys: Vec<Insert<'_>> = rows
        .iter()
        .map(|(row, list)| Insert { row, state: 0, position: None, lease: None, max_backlog: list.max_backlog })
        .collect();
    let keys = super::row::Keys::of(&keys, now);
    // Whoever is replaced may be of the same key: one more than that tells whether others are left.
    let beyond = rows.len() as i64 + 1;
    let count_to = |row: &Row| {
        row.ordering.as_ref().and_then(|ordering| ordering.limit).map_or(beyond, |limit| beyond.max(limit.into()))
    };
    let found = sqlx::query(LOOK)
        .bind(rows.iter().map(|(row, _)| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(row, _)| row.binding_id).collect::<Vec<_>>())
        .bind(keys.identities)
        .bind(keys.fires)
        .bind(keys.manual)
        .bind(keys.ordering_keys)
        .bind(rows.iter().map(|(row, _)| count_to(row)).collect::<Vec<i64>>())
        .bind(keys.unique_keys)
        .bind(keys.backlogs.iter().map(Option::is_some).collect::<Vec<_>>())
        .bind(now)
        .fetch_all(connection)
        .await?;
    found
        .iter()
        .map(|row| {
            Ok(Look {
                first: row.try_get(0)?,
                known: row.try_get(1)?,
                holder: row.try_get(2)?,
                holder_lock: row.try_get(3)?,
                live: column::count(row, 4)?,
                last: row.try_get(5)?,
                backlog: column::count(row, 6)?,
            })
        })
        .collect()
}

/// Somebody took what was free: everything is to be undone and looked at again.
fn contradicted() -> Fail {
    Fail::Lost(Error::Unavailable("others accepted the same events at this moment, again and again".to_owned()))
}
