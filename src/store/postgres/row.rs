//! A row of the queue, ready to be written.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use trigger_core::{Fingerprint, FireCause, UniqueConflict, UniqueScope};
use uuid::Uuid;

use super::column;
use crate::store::{Lease, QueuedInvocation};

/// A row that waits for its moment.
pub(super) const WAITING: i16 = 0;
/// A row that may be claimed, or is.
pub(super) const READY: i16 = 1;
/// A row behind another one of its ordering key.
pub(super) const BEHIND: i16 = 2;

/// A row to be written.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) binding_id: i64,
    pub(super) run_at: DateTime<Utc>,
    rank: DateTime<Utc>,
    attempt: u32,
    version: Option<u32>,
    redrive_count: u32,
    pub(super) ordering: Option<Ordering>,
    /// The unique key, for people.
    unique_key: Option<String>,
    pub(super) unique: Option<Unique>,
    pub(super) fire: Option<Fire>,
    pub(super) idempotency_key: Option<Box<str>>,
    /// Kept with the key.
    pub(super) fingerprint: Option<Fingerprint>,
    attempts: Option<String>,
    context: String,
    payload: Bytes,
}

/// An ordering key, as a text can hold it, and the most rows that it may have.
pub(super) struct Ordering {
    pub(super) key: String,
    pub(super) limit: Option<u32>,
}

/// A unique key and what it asks for.
pub(super) struct Unique {
    pub(super) key: Box<str>,
    pub(super) scope: UniqueScope,
    pub(super) conflict: UniqueConflict,
}

/// The moment of a schedule.
pub(super) struct Fire {
    pub(super) cause: FireCause,
    pub(super) scheduled_at: DateTime<Utc>,
}

impl Fire {
    pub(super) fn is_manual(&self) -> bool {
        self.cause.is_asked_for()
    }
}

impl Row {
    pub(super) fn new(queued: &QueuedInvocation, binding_id: i64) -> Self {
        let invocation = &queued.invocation;
        let fire = invocation.terms.as_ref().and_then(|terms| terms.fire);
        let unique = invocation.unique();
        Self {
            id: invocation.invocation_id,
            binding_id,
            run_at: queued.run_at,
            rank: queued.rank(),
            attempt: invocation.attempt,
            version: invocation.version,
            redrive_count: queued.redrive_count,
            ordering: invocation
                .ordering()
                .map(|ordering| Ordering { key: column::text(&ordering.key).into_owned(), limit: ordering.limit }),
            unique_key: unique.map(|unique| column::text(&unique.key).into_owned()),
            unique: unique.map(|unique| Unique {
                key: unique.key.clone(),
                scope: unique.scope,
                conflict: unique.conflict,
            }),
            fire: fire.zip(invocation.scheduled_at).map(|(cause, scheduled_at)| Fire { cause, scheduled_at }),
            idempotency_key: invocation.idempotency_key.clone(),
            fingerprint: invocation.terms.as_ref().and_then(|terms| terms.fingerprint),
            attempts: (!queued.attempts.is_empty()).then(|| column::to_json(&queued.attempts)),
            context: invocation.to_stored(),
            payload: invocation.payload.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }

    /// An event that is in already: only its place behind others of its ordering key is looked at.
    pub(super) fn without_keys(mut self) -> Self {
        (self.idempotency_key, self.unique, self.fire) = (None, None, None);
        if let Some(ordering) = &mut self.ordering {
            ordering.limit = None;
        }
        self
    }

    /// Whether what becomes of it is decided under locks.
    pub(super) fn needs_locks(&self) -> bool {
        self.ordering.is_some() || self.unique.is_some()
    }

    /// By what it is known again: its schedule's moment, or its source's identity.
    pub(super) fn identity(&self) -> Option<Identity<'_>> {
        match (&self.fire, self.idempotency_key.as_deref()) {
            (Some(fire), _) => Some(Identity::Fire(self.binding_id, fire.scheduled_at, fire.is_manual())),
            (None, Some(key)) => Some(Identity::Key(self.binding_id, key)),
            (None, None) => None,
        }
    }

    /// The state it has at `now` where nothing is before it.
    pub(super) fn first_state(&self, now: DateTime<Utc>) -> i16 {
        if self.run_at <= now { READY } else { WAITING }
    }
}

/// What makes an event the same as another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Identity<'r> {
    /// A trigger and its source's key.
    Key(i64, &'r str),
    /// A trigger, its moment, and whether somebody asked for it.
    Fire(i64, DateTime<Utc>, bool),
}

/// A row with its place and what else is decided already.
#[derive(Clone, Copy)]
pub(super) struct Insert<'r> {
    pub(super) row: &'r Row,
    pub(super) state: i16,
    pub(super) position: Option<i64>,
    pub(super) lease: Option<Lease>,
    pub(super) max_backlog: Option<u64>,
}

impl Insert<'_> {
    /// Whether it comes in with a claim.
    pub(super) fn is_claimed(&self) -> bool {
        self.lease.is_some() && self.state == READY
    }
}

/// What every row has, by column.
#[derive(Default)]
pub(super) struct Columns<'r> {
    pub(super) ids: Vec<Uuid>,
    pub(super) bindings: Vec<i64>,
    pub(super) states: Vec<i16>,
    pub(super) moments: Vec<DateTime<Utc>>,
    pub(super) ranks: Vec<DateTime<Utc>>,
    pub(super) attempt: Vec<i64>,
    pub(super) versions: Vec<Option<i64>>,
    pub(super) redrives: Vec<i64>,
    pub(super) attempts: Vec<Option<&'r str>>,
    pub(super) contexts: Vec<&'r str>,
    pub(super) payloads: Vec<&'r [u8]>,
    pub(super) tokens: Vec<Option<Uuid>>,
    pub(super) leases: Vec<Option<DateTime<Utc>>>,
}

impl<'r> Columns<'r> {
    pub(super) fn of(inserts: &[Insert<'r>]) -> Self {
        let mut columns = Self::default();
        for insert in inserts {
            let row = insert.row;
            let lease = insert.lease.filter(|_| insert.is_claimed());
            columns.ids.push(row.id);
            columns.bindings.push(row.binding_id);
            columns.states.push(insert.state);
            columns.moments.push(row.run_at);
            columns.ranks.push(row.rank);
            columns.attempt.push(i64::from(row.attempt));
            columns.versions.push(row.version.map(i64::from));
            columns.redrives.push(i64::from(row.redrive_count));
            columns.attempts.push(row.attempts.as_deref());
            columns.contexts.push(&row.context);
            columns.payloads.push(&row.payload);
            columns.tokens.push(lease.map(|lease| lease.token));
            columns.leases.push(lease.map(|lease| lease.until));
        }
        columns
    }
}

/// What only some rows have, by column.
#[derive(Default)]
pub(super) struct Keys<'r> {
    pub(super) ordering_keys: Vec<Option<&'r str>>,
    pub(super) positions: Vec<Option<i64>>,
    pub(super) shown_keys: Vec<Option<&'r str>>,
    pub(super) unique_keys: Vec<Option<&'r [u8]>>,
    pub(super) scopes: Vec<Option<&'static str>>,
    pub(super) held_until: Vec<Option<DateTime<Utc>>>,
    pub(super) identities: Vec<Option<&'r [u8]>>,
    pub(super) fires: Vec<Option<DateTime<Utc>>>,
    pub(super) manual: Vec<bool>,
    pub(super) causes: Vec<Option<&'static str>>,
    pub(super) backlogs: Vec<Option<i64>>,
    pub(super) fingerprints: Vec<Option<&'r [u8]>>,
}

impl<'r> Keys<'r> {
    pub(super) fn of(inserts: &[Insert<'r>], now: DateTime<Utc>) -> Self {
        let mut keys = Self::default();
        for insert in inserts {
            let row = insert.row;
            let (scope, held_until) = match row.unique.as_ref().map(|unique| unique.scope) {
                None => (None, None),
                Some(UniqueScope::Queued) => (Some("queued"), None),
                Some(UniqueScope::Live) => (Some("live"), None),
                Some(UniqueScope::Period(seconds)) => (Some("period"), Some(now + TimeDelta::seconds(seconds.into()))),
            };
            keys.ordering_keys.push(row.ordering.as_ref().map(|ordering| ordering.key.as_str()));
            keys.positions.push(insert.position);
            keys.shown_keys.push(row.unique_key.as_deref());
            keys.unique_keys.push(row.unique.as_ref().map(|unique| unique.key.as_bytes()));
            keys.scopes.push(scope);
            keys.held_until.push(held_until);
            let key = row.idempotency_key.as_deref().filter(|_| row.fire.is_none());
            keys.identities.push(key.map(str::as_bytes));
            keys.fires.push(row.fire.as_ref().map(|fire| fire.scheduled_at));
            keys.manual.push(row.fire.as_ref().is_some_and(Fire::is_manual));
            keys.causes.push(row.fire.as_ref().map(|fire| fire.cause.as_str()));
            keys.backlogs.push(insert.max_backlog.map(column::signed));
            keys.fingerprints.push(row.fingerprint.as_ref().map(|fingerprint| &fingerprint[..]));
        }
        keys
    }
}
