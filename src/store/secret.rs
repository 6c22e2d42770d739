//! Keys that engines of one store share, and nobody else has.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Error, KvBucket, KvChange, KvExpected, KvLimits, KvWrite, Result, Store};

const KEY_BYTES: usize = blake3::KEY_LEN;

/// The key of this name; it is made where there is none.
pub async fn secret(store: &dyn Store, name: &str, now: DateTime<Utc>) -> Result<[u8; KEY_BYTES]> {
    // No function is in a namespace without a name, so no guest reads what is kept there.
    let bucket = KvBucket { namespace: String::new(), name: "engine".to_owned() };
    if store.kv_get(bucket.clone(), name.to_owned(), now).await?.is_none() {
        let mut key = [0; KEY_BYTES];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut key)
            .map_err(|_| Error::Unavailable("the machine has no randomness".to_owned()))?;
        let change = KvChange::Set { value: Bytes::copy_from_slice(&key), expires_at: None };
        let write = KvWrite { key: name.to_owned(), expected: KvExpected::Absent, change };
        let limits = KvLimits { max_keys: u64::MAX, max_bytes: u64::MAX };
        // Where another engine was first, its key is everybody's.
        let _ = store.kv_write(bucket.clone(), vec![write], limits, now).await?;
    }
    let kept = store.kv_get(bucket, name.to_owned(), now).await?.map(|entry| entry.value);
    let key = kept.and_then(|key| <[u8; KEY_BYTES]>::try_from(&*key).ok());
    key.ok_or_else(|| Error::Corrupt { what: name.to_owned(), why: format!("a key has {KEY_BYTES} bytes") })
}
