//! What functions keep under keys: entries in buckets of a namespace, and what becomes of writes to them.
//!
//! The drivers read what is stored under a lock of the keys, ask [`plan`] what follows from it, and write that: both
//! decide alike because they do not decide.

use bytes::Bytes;
use chrono::{DateTime, Utc};

/// The most keys that one page of a list holds.
pub const MAX_KEYS_PAGE: u32 = 1000;

/// A bucket: a name in a namespace. It need not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvBucket {
    /// The namespace, whose limits hold for all of its buckets together.
    pub namespace: String,
    /// The bucket's name.
    pub name: String,
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The bytes.
    pub value: Bytes,
    /// Which write made it: a key never has the same version twice, not even after it was deleted.
    pub version: u64,
    /// From when on it is there no more.
    pub expires_at: Option<DateTime<Utc>>,
}

impl KvEntry {
    pub(super) fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// What a write demands of the entry that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvExpected {
    /// Nothing.
    Anything,
    /// That there is none.
    Absent,
    /// That it is of this version.
    Version(u64),
}

/// What a write does to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvChange {
    /// Puts another in its place.
    Set {
        /// The bytes.
        value: Bytes,
        /// When it expires.
        expires_at: Option<DateTime<Utc>>,
    },
    /// Adds to the number, written in decimal digits, that it holds. One that is missing is 0 and expires then; one
    /// that is there expires when it would.
    Add {
        /// What to add.
        delta: i64,
        /// When a new one expires.
        expires_at: Option<DateTime<Utc>>,
    },
    /// Removes it.
    Delete,
}

/// One write to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvWrite {
    /// The key.
    pub key: String,
    /// What it demands.
    pub expected: KvExpected,
    /// What it does.
    pub change: KvChange,
}

impl KvWrite {
    /// Bytes that go with it.
    pub(super) fn bytes(&self) -> usize {
        let value = if let KvChange::Set { value, .. } = &self.change { value.len() } else { 0 };
        self.key.len() + value
    }
}

/// What the entries of one namespace may be together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLimits {
    /// Keys.
    pub max_keys: u64,
    /// Bytes of keys and values.
    pub max_bytes: u64,
}

/// A write that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvDone {
    /// Whether there was an entry.
    pub existed: bool,
    /// The entry that is there now.
    pub entry: Option<KvEntry>,
}

/// Why writes were not done. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvRefused {
    /// The entry is not as expected.
    #[error("the entry has changed")]
    Changed,
    /// There is no number to add to.
    #[error("the value is not a whole number of 64 bits in decimal digits")]
    NotANumber,
    /// The sum is no number of 64 bits.
    #[error("the sum is over the range of 64 bits")]
    Overflow,
    /// The namespace would have too many keys.
    #[error("the namespace has {0} keys, the most that it may have")]
    TooManyKeys(u64),
    /// The namespace would have too many bytes.
    #[error("the namespace would have more than {0} bytes of keys and values")]
    TooManyBytes(u64),
}

impl KvRefused {
    /// Whether the removal of entries that have expired would help.
    pub(super) fn for_want_of_room(self) -> bool {
        matches!(self, KvRefused::TooManyKeys(_) | KvRefused::TooManyBytes(_))
    }
}

/// What came of writes: each done, or none of them.
pub type KvWritten = Result<Vec<KvDone>, KvRefused>;

/// What a namespace has, or what is added to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KvUsage {
    pub(super) keys: i64,
    pub(super) bytes: i64,
}

impl KvUsage {
    /// Whether a namespace that has this may have `more`. Less is always welcome.
    pub(super) fn room_for(self, more: KvUsage, limits: &KvLimits) -> Result<(), KvRefused> {
        let over =
            |has: i64, more: i64, limit: u64| more > 0 && u64::try_from(has.saturating_add(more)).unwrap_or(0) > limit;
        if over(self.keys, more.keys, limits.max_keys) {
            return Err(KvRefused::TooManyKeys(limits.max_keys));
        }
        if over(self.bytes, more.bytes, limits.max_bytes) {
            return Err(KvRefused::TooManyBytes(limits.max_bytes));
        }
        Ok(())
    }
}

/// One key's next entry.
#[derive(Debug)]
pub(super) struct KvStep<'w> {
    pub(super) key: &'w str,
    pub(super) next: Option<(Bytes, Option<DateTime<Utc>>)>,
    /// Whether there was an entry for those who ask.
    pub(super) existed: bool,
    /// Whether there is a row, be it of an entry that has expired.
    pub(super) stored: bool,
}

impl KvStep<'_> {
    /// What is told of it once it is written.
    pub(super) fn done(self, version: u64) -> KvDone {
        let entry = self.next.map(|(value, expires_at)| KvEntry { value, version, expires_at });
        KvDone { existed: self.existed, entry }
    }
}

/// What follows from writes where `stored` is what their keys have, expired or not, and how that changes the usage.
pub(super) fn plan<'w>(
    writes: &'w [KvWrite],
    stored: &[Option<KvEntry>],
    now: DateTime<Utc>,
) -> Result<(Vec<KvStep<'w>>, KvUsage), KvRefused> {
    let mut more = KvUsage::default();
    let mut steps = Vec::with_capacity(writes.len());
    for (write, stored) in writes.iter().zip(stored) {
        let live = stored.as_ref().filter(|entry| entry.is_live(now));
        let next = next(write, live)?;
        let size = |value: &Bytes| (write.key.len() + value.len()) as i64;
        more.keys += i64::from(next.is_some()) - i64::from(stored.is_some());
        more.bytes += next.as_ref().map_or(0, |(value, _)| size(value));
        more.bytes -= stored.as_ref().map_or(0, |entry| size(&entry.value));
        steps.push(KvStep { key: &write.key, next, existed: live.is_some(), stored: stored.is_some() });
    }
    Ok((steps, more))
}

type Next = Option<(Bytes, Option<DateTime<Utc>>)>;

fn next(write: &KvWrite, live: Option<&KvEntry>) -> Result<Next, KvRefused> {
    let as_expected = match write.expected {
        KvExpected::Anything => true,
        KvExpected::Absent => live.is_none(),
        KvExpected::Version(version) => live.is_some_and(|entry| entry.version == version),
    };
    if !as_expected {
        return Err(KvRefused::Changed);
    }
    Ok(match &write.change {
        KvChange::Delete => None,
        KvChange::Set { value, expires_at } => Some((value.clone(), *expires_at)),
        KvChange::Add { delta, expires_at } => {
            let (number, expires_at) = match live {
                Some(entry) => (number(&entry.value).ok_or(KvRefused::NotANumber)?, entry.expires_at),
                None => (0, *expires_at),
            };
            let sum = number.checked_add(*delta).ok_or(KvRefused::Overflow)?;
            Some((Bytes::from(sum.to_string()), expires_at))
        }
    })
}

/// The number that a value holds in decimal digits.
pub fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The first key behind all that begin with `prefix`; `None` where there is none.
pub(super) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_alike_is_one_range() {
        assert_eq!(behind(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(behind(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(behind(b"\xff"), None);
        assert_eq!(behind(b""), None);
    }

    #[test]
    fn numbers_are_whole_and_in_range() {
        assert_eq!(number(b"-7"), Some(-7));
        for value in [&b""[..], b"1.5", b"9223372036854775808", b" 1", b"\xff"] {
            assert_eq!(number(value), None);
        }
    }
}
