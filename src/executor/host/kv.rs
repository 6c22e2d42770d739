//! `key-value`: entries that outlive the attempt, and what `wasi:keyvalue` does with them.

use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use trigger_core::subject;

use super::bindings::tripline::function::key_value::{self, Entry, Error, Page};
use super::events::{Refusal, shown};
use crate::executor::KeyValues;
use crate::executor::guest::Guest;
use crate::store::{self, KvBucket, KvChange, KvDone, KvEntry, KvExpected, KvRefused, KvWrite, MAX_KEYS_PAGE};

/// The longest name of a bucket, in bytes.
const MAX_BUCKET_BYTES: usize = 128;

/// The most writes that are done together.
pub(super) const MAX_WRITES: usize = 1000;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            Refusal::Unknown(why) => Error::Invalid(("bucket".to_owned(), why)),
            Refusal::Invalid(field, why) => Error::Invalid((field, why)),
            Refusal::TooMany(why) => Error::Full(why),
            Refusal::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl From<KvRefused> for Refusal {
    fn from(refused: KvRefused) -> Self {
        let why = refused.to_string();
        match refused {
            KvRefused::TooManyKeys(_) | KvRefused::TooManyBytes(_) => Refusal::TooMany(why),
            KvRefused::Changed | KvRefused::NotANumber | KvRefused::Overflow => Refusal::invalid("key", why),
        }
    }
}

/// Where the store is, and what is the matter with it, is for the log.
impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        tracing::warn!("a guest's entries cannot be had: {error}");
        Refusal::Unavailable("the engine's store cannot be used now".to_owned())
    }
}

impl key_value::Host for Guest {
    async fn get(&mut self, bucket: String, key: String) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.kv_get(&bucket, key).await?.map(|entry| entry.value.into()))
    }

    async fn get_entry(&mut self, bucket: String, key: String) -> Result<Option<Entry>, Error> {
        let entry = self.kv_get(&bucket, key).await?;
        Ok(entry.map(|KvEntry { value, version, expires_at }| Entry {
            value: value.into(),
            version,
            expires_at: expires_at.map(|at| u64::try_from(at.timestamp_millis()).unwrap_or(0)),
        }))
    }

    async fn set(&mut self, bucket: String, key: String, value: Vec<u8>, ttl: Option<u64>) -> Result<u64, Error> {
        let change = self.kv_value(value, ttl)?;
        let done = self.kv_write_one("kv-set", &bucket, key, KvExpected::Anything, change).await?;
        Ok(version(&done.map_err(Refusal::from)?))
    }

    async fn delete(&mut self, bucket: String, key: String) -> Result<bool, Error> {
        let done = self.kv_write_one("kv-delete", &bucket, key, KvExpected::Anything, KvChange::Delete).await?;
        Ok(done.map_err(Refusal::from)?.existed)
    }

    async fn increment(&mut self, bucket: String, key: String, delta: i64, ttl: Option<u64>) -> Result<i64, Error> {
        Ok(self.kv_add(&bucket, key, delta, ttl).await?)
    }

    async fn swap(
        &mut self,
        bucket: String,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
        ttl: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let change = self.kv_value(value, ttl)?;
        let expected = expected.map_or(KvExpected::Absent, KvExpected::Version);
        match self.kv_write_one("kv-swap", &bucket, key, expected, change).await? {
            Ok(done) => Ok(Some(version(&done))),
            Err(KvRefused::Changed) => Ok(None),
            Err(refused) => Err(Refusal::from(refused).into()),
        }
    }

    async fn keys(&mut self, bucket: String, prefix: String, cursor: Option<String>) -> Result<Page, Error> {
        let keys = self.kv_keys(&bucket, prefix, cursor).await?;
        let cursor = keys.last().filter(|_| keys.len() == MAX_KEYS_PAGE as usize).cloned();
        Ok(Page { keys, cursor })
    }
}

fn version(done: &KvDone) -> u64 {
    done.entry.as_ref().map_or(0, |entry| entry.version)
}

impl Guest {
    /// What keeps entries, and the bucket, if it is granted.
    pub(super) fn kv_bucket(&self, bucket: &str) -> Result<(KeyValues, KvBucket), Refusal> {
        if bucket.len() > MAX_BUCKET_BYTES {
            let why = format!("its name has {} bytes, the limit is {MAX_BUCKET_BYTES}", bucket.len());
            return Err(Refusal::invalid("bucket", why));
        }
        subject::check_subject(bucket)
            .map_err(|why| Refusal::invalid("bucket", format!("{:?}: {why}", shown(bucket))))?;
        self.granted("kv", &self.version.definition.allow.kv, bucket)?;
        let kv = self.served.as_ref().and_then(|served| served.services.kv.clone());
        let kv = kv.ok_or_else(|| Refusal::Unavailable("this engine keeps no entries".to_owned()))?;
        let namespace = self.version.definition.namespace.clone();
        Ok((kv, KvBucket { namespace, name: bucket.to_owned() }))
    }

    fn kv_now(&self) -> DateTime<Utc> {
        self.served.as_ref().map_or(DateTime::UNIX_EPOCH, |served| served.services.clock.now())
    }

    /// When what lives for so many milliseconds ends.
    fn kv_end(&self, ttl: Option<u64>) -> Result<Option<DateTime<Utc>>, Refusal> {
        let Some(ttl) = ttl else { return Ok(None) };
        let delta = i64::try_from(ttl).ok().and_then(TimeDelta::try_milliseconds);
        let end = delta.and_then(|delta| self.kv_now().checked_add_signed(delta));
        end.map(Some).ok_or_else(|| Refusal::invalid("ttl", "no clock ever shows its end"))
    }

    pub(super) fn kv_value(&self, value: Vec<u8>, ttl: Option<u64>) -> Result<KvChange, Refusal> {
        Ok(KvChange::Set { value: Bytes::from(value), expires_at: self.kv_end(ttl)? })
    }

    pub(super) async fn kv_get(&mut self, bucket: &str, key: String) -> Result<Option<KvEntry>, Refusal> {
        let (began, target) = (Instant::now(), target(bucket, &key));
        let result = self.kv_read(bucket, key).await;
        let bytes = result.as_ref().ok().and_then(Option::as_ref).map_or(0, |entry| entry.value.len());
        self.asked("kv-get", target, began, bytes, &result);
        result
    }

    async fn kv_read(&mut self, bucket: &str, key: String) -> Result<Option<KvEntry>, Refusal> {
        let (kv, bucket) = self.kv_bucket(bucket)?;
        check_key(&kv, &key)?;
        Ok(kv.store.kv_get(bucket, key, self.kv_now()).await?)
    }

    /// One write; `op` is its name in traces.
    async fn kv_write_one(
        &mut self,
        op: &'static str,
        bucket: &str,
        key: String,
        expected: KvExpected,
        change: KvChange,
    ) -> Result<Result<KvDone, KvRefused>, Refusal> {
        let written = self.kv_write(op, bucket, vec![KvWrite { key, expected, change }]).await?;
        Ok(written.map(|mut done| done.remove(0)))
    }

    /// Writes that are done together; the keys differ.
    pub(super) async fn kv_write(
        &mut self,
        op: &'static str,
        bucket: &str,
        writes: Vec<KvWrite>,
    ) -> Result<store::KvWritten, Refusal> {
        let began = Instant::now();
        let target = writes.first().map_or_else(|| shown(bucket), |write| target(bucket, &write.key));
        let bytes = writes.iter().map(value_bytes).sum();
        let result = self.kv_do(bucket, writes).await;
        let error = match &result {
            Ok(Ok(_)) => None,
            Ok(Err(refused)) => Some(refused.to_string()),
            Err(refusal) => Some(refusal.to_string()),
        };
        self.noted(op, target, began, bytes, error);
        result
    }

    async fn kv_do(&mut self, bucket: &str, writes: Vec<KvWrite>) -> Result<store::KvWritten, Refusal> {
        let (kv, bucket) = self.kv_bucket(bucket)?;
        if writes.len() > MAX_WRITES {
            let why = format!("{} entries, at most {MAX_WRITES} are written together", writes.len());
            return Err(Refusal::TooMany(why));
        }
        for write in &writes {
            check_key(&kv, &write.key)?;
            let (bytes, limit) = (value_bytes(write), kv.limits.max_value_bytes);
            if bytes > limit {
                return Err(Refusal::invalid("value", format!("it has {bytes} bytes, the limit is {limit}")));
            }
        }
        Ok(kv.store.kv_write(bucket, writes, kv.limits.of_namespace, self.kv_now()).await?)
    }

    pub(super) async fn kv_add(
        &mut self,
        bucket: &str,
        key: String,
        delta: i64,
        ttl: Option<u64>,
    ) -> Result<i64, Refusal> {
        let change = KvChange::Add { delta, expires_at: self.kv_end(ttl)? };
        let done = self.kv_write_one("kv-increment", bucket, key, KvExpected::Anything, change).await??;
        let sum = done.entry.and_then(|entry| store::number(&entry.value));
        sum.ok_or_else(|| Refusal::Unavailable("the store did not tell the sum".to_owned()))
    }

    /// A page of keys.
    pub(super) async fn kv_keys(
        &mut self,
        bucket: &str,
        prefix: String,
        after: Option<String>,
    ) -> Result<Vec<String>, Refusal> {
        let (began, target) = (Instant::now(), target(bucket, &prefix));
        let result = self.kv_list(bucket, prefix, after).await;
        let bytes = result.as_ref().map_or(0, |keys| keys.iter().map(String::len).sum());
        self.asked("kv-keys", target, began, bytes, &result);
        result
    }

    async fn kv_list(&mut self, bucket: &str, prefix: String, after: Option<String>) -> Result<Vec<String>, Refusal> {
        let (kv, bucket) = self.kv_bucket(bucket)?;
        Ok(kv.store.kv_keys(bucket, prefix, after, MAX_KEYS_PAGE, self.kv_now()).await?)
    }
}

fn check_key(kv: &KeyValues, key: &str) -> Result<(), Refusal> {
    let limit = kv.limits.max_key_bytes;
    match key.len() {
        0 => Err(Refusal::invalid("key", "it is empty")),
        bytes if bytes > limit => Err(Refusal::invalid("key", format!("it has {bytes} bytes, the limit is {limit}"))),
        _ => Ok(()),
    }
}

fn value_bytes(write: &KvWrite) -> usize {
    if let KvChange::Set { value, .. } = &write.change { value.len() } else { 0 }
}

/// A key as traces name it.
fn target(bucket: &str, key: &str) -> String {
    format!("{}/{}", shown(bucket), shown(key))
}
