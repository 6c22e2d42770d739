//! Entries in buckets that the definition's `allow.kv` grants.
//!
//! What is written is written at once and stays, whatever becomes of the attempt: one that is made again finds what the
//! earlier one wrote.
//!
//! ```no_run
//! use std::time::Duration;
//! use tripline_guest::{HostError, kv::Bucket};
//!
//! fn seen(order: &str) -> Result<bool, HostError> {
//!     let orders = Bucket::new("orders");
//!     let first = orders.swap(order, None, "seen", Duration::from_secs(3600))?;
//!     Ok(first.is_none())
//! }
//! ```

use std::time::{Duration, SystemTime};

use crate::bindings::tripline::function::key_value;
use crate::{HostError, Reason};

/// A bucket of the function's namespace. It need not be made, and is shared by the functions that it is granted to.
#[derive(Clone, Debug)]
pub struct Bucket(String);

/// A value with its version and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was written.
    pub value: Vec<u8>,
    /// Which write made it: a key never has the same version twice.
    pub version: u64,
    /// When it will be gone, to the millisecond; nothing where it stays.
    pub expires_at: Option<SystemTime>,
}

impl Bucket {
    /// The bucket of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where the bucket is not granted, [`Invalid`](Reason::Invalid) naming a field,
    /// [`Unavailable`](Reason::Unavailable) where the engine could not now.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        key_value::get(&self.0, key).map_err(refused)
    }

    /// The value of a key with its version and its end.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub fn entry(&self, key: &str) -> Result<Option<Entry>, HostError> {
        Ok(key_value::get_entry(&self.0, key).map_err(refused)?.map(Entry::from))
    }

    /// Writes a value and answers its version. It is gone after `ttl`, in whole milliseconds; with `None` it stays.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and [`TooLarge`](Reason::TooLarge) where the namespace has as many keys, or as
    /// many bytes, as it may.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Result<u64, HostError> {
        key_value::set(&self.0, key, value.as_ref(), millis(ttl)).map_err(refused)
    }

    /// Removes an entry and answers whether there was one.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub fn delete(&self, key: &str) -> Result<bool, HostError> {
        key_value::delete(&self.0, key).map_err(refused)
    }

    /// Adds to the whole number that the value is in decimal digits, and answers the sum. A key without an entry gets
    /// one that begins at 0 and is gone after `ttl`; one that is there ends when it would.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set); [`Invalid`](Reason::Invalid) also where the value is no such number.
    pub fn increment(&self, key: &str, delta: i64, ttl: impl Into<Option<Duration>>) -> Result<i64, HostError> {
        key_value::increment(&self.0, key, delta, millis(ttl)).map_err(refused)
    }

    /// Writes a value if the entry is of the version that is expected, or, with `None`, if there is none. Answers the
    /// new version; nothing where the entry is another, and nothing was changed then.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    pub fn swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<Option<u64>, HostError> {
        key_value::swap(&self.0, key, expected, value.as_ref(), millis(ttl)).map_err(refused)
    }

    /// The keys that begin with a prefix, in the order of their bytes. They are asked for page by page, so keys that
    /// come or go meanwhile may or may not be among them. Nothing follows an error.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), instead of a key.
    pub fn keys(&self, prefix: &str) -> impl Iterator<Item = Result<String, HostError>> {
        pages(move |cursor| key_value::keys(&self.0, prefix, cursor).map_err(refused))
    }
}

/// The keys of every page.
fn pages(
    mut ask: impl FnMut(Option<&str>) -> Result<key_value::Page, HostError>,
) -> impl Iterator<Item = Result<String, HostError>> {
    let (mut keys, mut cursor, mut more) = (Vec::new().into_iter(), None, true);
    std::iter::from_fn(move || {
        loop {
            if let Some(key) = keys.next() {
                return Some(Ok(key));
            }
            if !more {
                return None;
            }
            match ask(cursor.as_deref()) {
                Ok(page) => {
                    keys = page.keys.into_iter();
                    more = page.cursor.is_some();
                    cursor = page.cursor;
                }
                Err(error) => {
                    more = false;
                    return Some(Err(error));
                }
            }
        }
    })
}

impl From<key_value::Entry> for Entry {
    fn from(entry: key_value::Entry) -> Self {
        // Beyond what the clock can tell is as good as never.
        let expires_at = entry.expires_at.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at)));
        Self { value: entry.value, version: entry.version, expires_at }
    }
}

fn millis(ttl: impl Into<Option<Duration>>) -> Option<u64> {
    ttl.into().map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

fn refused(error: key_value::Error) -> HostError {
    match error {
        key_value::Error::Denied(why) => HostError::new(Reason::Denied, why),
        key_value::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        key_value::Error::Full(why) => HostError::new(Reason::TooLarge, why),
        key_value::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], cursor: Option<&str>) -> key_value::Page {
        key_value::Page { keys: keys.iter().map(|key| (*key).to_owned()).collect(), cursor: cursor.map(str::to_owned) }
    }

    #[test]
    fn keys_come_page_by_page_to_the_last_one() {
        let mut asked = Vec::new();
        let keys: Result<Vec<String>, HostError> = pages(|cursor| {
            asked.push(cursor.map(str::to_owned));
            Ok(match cursor {
                None => page(&["a", "b"], Some("b")),
                // A page may be empty and not the last.
                Some("b") => page(&[], Some("c")),
                _ => page(&["d"], None),
            })
        })
        .collect();
        assert_eq!(keys.unwrap(), ["a", "b", "d"]);
        assert_eq!(asked, [None, Some("b".to_owned()), Some("c".to_owned())]);
    }

    #[test]
    fn keys_end_with_an_error() {
        let mut pages = pages(|cursor| match cursor {
            None => Ok(page(&["a"], Some("a"))),
            Some(_) => Err(HostError::new(Reason::Unavailable, "not now")),
        });
        assert_eq!(pages.next().unwrap().unwrap(), "a");
        assert_eq!(pages.next().unwrap().unwrap_err().reason, Reason::Unavailable);
        assert!(pages.next().is_none());
    }

    #[test]
    fn times_are_whole_milliseconds() {
        assert_eq!(millis(Duration::from_micros(1_999)), Some(1));
        assert_eq!(millis(Duration::MAX), Some(u64::MAX));
        assert_eq!(millis(None), None);
        let entry = |expires_at| Entry::from(key_value::Entry { value: Vec::new(), version: 1, expires_at });
        assert_eq!(entry(Some(2_000)).expires_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)));
        assert_eq!(entry(None).expires_at, None);
    }
}
