//! `wasi:keyvalue`, in the two drafts that guests are built for, over `key-value`.
//!
//! A bucket is one that the definition grants; the name "" stands for `default`. Limits and refusals are told as
//! `other`, with the text that `key-value` has for them.

use std::collections::BTreeMap;

use wasmtime::component::Resource;
use wasmtime_wasi::WasiView as _;

use super::bindings::{keyvalue_draft, keyvalue_draft2};
use crate::executor::guest::Guest;
use crate::executor::host::events::Refusal;
use crate::store::{KvChange, KvExpected, KvRefused, KvWrite, MAX_KEYS_PAGE};

/// The bucket that the name "" stands for.
const DEFAULT: &str = "default";

/// The most bytes that one look at many keys answers.
const MAX_MANY_BYTES: usize = 8 << 20;

/// An open bucket.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket {
    name: String,
    /// How many keys were listed, and the last of them: cursors of the first draft are numbers.
    listed: u64,
    last: Option<String>,
}

/// A look at an entry, and the wish to replace what was seen.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Cas {
    bucket: String,
    key: String,
    seen: Option<(u64, Vec<u8>)>,
}

impl Cas {
    fn expected(&self) -> KvExpected {
        self.seen.as_ref().map_or(KvExpected::Absent, |(version, _)| KvExpected::Version(*version))
    }
}

type Many = Vec<Option<(String, Vec<u8>)>>;

impl Guest {
    fn bucket_name(&mut self, bucket: &Resource<Bucket>) -> wasmtime::Result<String> {
        Ok(self.ctx().table.get(bucket)?.name.clone())
    }

    fn open_bucket(&mut self, name: String) -> wasmtime::Result<Result<Resource<Bucket>, Refusal>> {
        let name = if name.is_empty() { DEFAULT.to_owned() } else { name };
        if let Err(refusal) = self.kv_bucket(&name) {
            let began = std::time::Instant::now();
            self.asked::<()>("kv-open", crate::executor::host::events::shown(&name), began, 0, &Err(refusal.clone()));
            return Ok(Err(refusal));
        }
        Ok(Ok(self.ctx().table.push(Bucket { name, listed: 0, last: None })?))
    }

    async fn many(&mut self, bucket: &str, keys: Vec<String>) -> Result<Many, Refusal> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for key in keys {
            let entry = self.kv_get(bucket, key.clone()).await?;
            bytes += key.len() + entry.as_ref().map_or(0, |entry| entry.value.len());
            if bytes > MAX_MANY_BYTES {
                return Err(Refusal::TooMany(format!("the entries have more than {MAX_MANY_BYTES} bytes together")));
            }
            found.push(entry.map(|entry| (key, entry.value.into())));
        }
        Ok(found)
    }

    /// Writes whose keys may repeat: the last of each counts.
    async fn write_many(&mut self, bucket: &str, changes: Vec<(String, KvChange)>) -> Result<(), Refusal> {
        let changes: BTreeMap<String, KvChange> = changes.into_iter().collect();
        let write = |(key, change)| KvWrite { key, expected: KvExpected::Anything, change };
        let writes: Vec<KvWrite> = changes.into_iter().map(write).collect();
        if !writes.is_empty() {
            self.kv_write("kv-write", bucket, writes).await??;
        }
        Ok(())
    }

    async fn look(&mut self, bucket: String, key: String) -> Result<Cas, Refusal> {
        let entry = self.kv_get(&bucket, key.clone()).await?;
        Ok(Cas { bucket, key, seen: entry.map(|entry| (entry.version, entry.value.into())) })
    }
}

/// What both drafts have in common.
macro_rules! serve {
    ($keyvalue:path) => {
        const _: () = {
            use keyvalue::{batch, store};
            use $keyvalue as keyvalue;

            impl From<Refusal> for store::Error {
                fn from(refusal: Refusal) -> Self {
                    match refusal {
                        Refusal::Denied(_) => store::Error::AccessDenied,
                        refusal => store::Error::Other(refusal.to_string()),
                    }
                }
            }

            impl store::Host for Guest {
                async fn open(&mut self, name: String) -> wasmtime::Result<Result<Resource<Bucket>, store::Error>> {
                    Ok(self.open_bucket(name)?.map_err(store::Error::from))
                }
            }

            impl store::HostBucket for Guest {
                async fn get(
                    &mut self,
                    bucket: Resource<Bucket>,
                    key: String,
                ) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    let entry = self.kv_get(&bucket, key).await;
                    Ok(entry.map(|entry| entry.map(|entry| entry.value.into())).map_err(store::Error::from))
                }

                async fn set(
                    &mut self,
                    bucket: Resource<Bucket>,
                    key: String,
                    value: Vec<u8>,
                ) -> wasmtime::Result<Result<(), store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    let change = KvChange::Set { value: value.into(), expires_at: None };
                    Ok(self.write_many(&bucket, vec![(key, change)]).await.map_err(store::Error::from))
                }

                async fn delete(
                    &mut self,
                    bucket: Resource<Bucket>,
                    key: String,
                ) -> wasmtime::Result<Result<(), store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    Ok(self.write_many(&bucket, vec![(key, KvChange::Delete)]).await.map_err(store::Error::from))
                }

                async fn exists(
                    &mut self,
                    bucket: Resource<Bucket>,
                    key: String,
                ) -> wasmtime::Result<Result<bool, store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    Ok(self.kv_get(&bucket, key).await.map(|entry| entry.is_some()).map_err(store::Error::from))
                }

                async fn list_keys(
                    &mut self,
                    bucket: Resource<Bucket>,
                    cursor: Option<Cursor>,
                ) -> wasmtime::Result<Result<store::KeyResponse, store::Error>> {
                    let after = match after(self.ctx().table.get(&bucket)?, cursor) {
                        Ok(after) => after,
                        Err(refusal) => return Ok(Err(refusal.into())),
                    };
                    let name = self.bucket_name(&bucket)?;
                    let keys = match self.kv_keys(&name, String::new(), after).await {
                        Ok(keys) => keys,
                        Err(refusal) => return Ok(Err(refusal.into())),
                    };
                    let cursor = next(self.ctx().table.get_mut(&bucket)?, &keys);
                    Ok(Ok(store::KeyResponse { keys, cursor }))
                }

                async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                    self.ctx().table.delete(bucket)?;
                    Ok(())
                }
            }

            impl batch::Host for Guest {
                async fn get_many(
                    &mut self,
                    bucket: Resource<Bucket>,
                    keys: Vec<String>,
                ) -> wasmtime::Result<Result<Many, store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    Ok(self.many(&bucket, keys).await.map_err(store::Error::from))
                }

                async fn set_many(
                    &mut self,
                    bucket: Resource<Bucket>,
                    entries: Vec<(String, Vec<u8>)>,
                ) -> wasmtime::Result<Result<(), store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    let set = |(key, value): (String, Vec<u8>)| {
                        (key, KvChange::Set { value: value.into(), expires_at: None })
                    };
                    let changes = entries.into_iter().map(set).collect();
                    Ok(self.write_many(&bucket, changes).await.map_err(store::Error::from))
                }

                async fn delete_many(
                    &mut self,
                    bucket: Resource<Bucket>,
                    keys: Vec<String>,
                ) -> wasmtime::Result<Result<(), store::Error>> {
                    let bucket = self.bucket_name(&bucket)?;
                    let changes = keys.into_iter().map(|key| (key, KvChange::Delete)).collect();
                    Ok(self.write_many(&bucket, changes).await.map_err(store::Error::from))
                }
            }
        };
    };
}

mod draft {
    use super::keyvalue_draft::wasi::keyvalue::{atomics, store};
    use super::*;

    type Cursor = u64;

    serve!(super::keyvalue_draft::wasi::keyvalue);

    /// The key behind which a page begins. Only the newest cursor of a bucket is known.
    fn after(bucket: &Bucket, cursor: Option<u64>) -> Result<Option<String>, Refusal> {
        match cursor {
            None => Ok(None),
            Some(cursor) if cursor == bucket.listed && bucket.last.is_some() => Ok(bucket.last.clone()),
            Some(_) => Err(Refusal::invalid("cursor", "it is not the last one that this bucket gave")),
        }
    }

    fn next(bucket: &mut Bucket, keys: &[String]) -> Option<u64> {
        bucket.last = keys.last().filter(|_| keys.len() == MAX_KEYS_PAGE as usize).cloned();
        bucket.listed += keys.len() as u64;
        bucket.last.as_ref().map(|_| bucket.listed)
    }

    impl atomics::Host for Guest {
        async fn increment(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
            delta: u64,
        ) -> wasmtime::Result<Result<u64, store::Error>> {
            let bucket = self.bucket_name(&bucket)?;
            let over = || Refusal::invalid("delta", "numbers have 63 bits here");
            let sum = match i64::try_from(delta) {
                Ok(delta) => self.kv_add(&bucket, key, delta, None).await,
                Err(_) => Err(over()),
            };
            Ok(sum.and_then(|sum| u64::try_from(sum).map_err(|_| over())).map_err(store::Error::from))
        }
    }
}

mod draft2 {
    use super::keyvalue_draft2::wasi::keyvalue::{atomics, store};
    use super::*;

    type Cursor = String;

    serve!(super::keyvalue_draft2::wasi::keyvalue);

    fn after(_: &Bucket, cursor: Option<String>) -> Result<Option<String>, Refusal> {
        Ok(cursor)
    }

    fn next(_: &mut Bucket, keys: &[String]) -> Option<String> {
        keys.last().filter(|_| keys.len() == MAX_KEYS_PAGE as usize).cloned()
    }

    impl atomics::HostCas for Guest {
        async fn new(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
        ) -> wasmtime::Result<Result<Resource<Cas>, store::Error>> {
            let bucket = self.bucket_name(&bucket)?;
            match self.look(bucket, key).await {
                Ok(cas) => Ok(Ok(self.ctx().table.push(cas)?)),
                Err(refusal) => Ok(Err(refusal.into())),
            }
        }

        async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
            let seen = &self.ctx().table.get(&cas)?.seen;
            Ok(Ok(seen.as_ref().map(|(_, value)| value.clone())))
        }

        async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
            self.ctx().table.delete(cas)?;
            Ok(())
        }
    }

    impl atomics::Host for Guest {
        async fn increment(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
            delta: i64,
        ) -> wasmtime::Result<Result<i64, store::Error>> {
            let bucket = self.bucket_name(&bucket)?;
            Ok(self.kv_add(&bucket, key, delta, None).await.map_err(store::Error::from))
        }

        async fn swap(
            &mut self,
            cas: Resource<Cas>,
            value: Vec<u8>,
        ) -> wasmtime::Result<Result<(), atomics::CasError>> {
            let cas = self.ctx().table.delete(cas)?;
            let expected = cas.expected();
            let Cas { bucket, key, .. } = cas;
            let change = KvChange::Set { value: value.into(), expires_at: None };
            let failed = |refusal: Refusal| Ok(Err(atomics::CasError::StoreError(refusal.into())));
            let write = KvWrite { key: key.clone(), expected, change };
            match self.kv_write("kv-swap", &bucket, vec![write]).await {
                Ok(Ok(_)) => Ok(Ok(())),
                Ok(Err(KvRefused::Changed)) => match self.look(bucket, key).await {
                    Ok(fresh) => Ok(Err(atomics::CasError::CasFailed(self.ctx().table.push(fresh)?))),
                    Err(refusal) => failed(refusal),
                },
                Ok(Err(refused)) => failed(refused.into()),
                Err(refusal) => failed(refusal),
            }
        }
    }
}
