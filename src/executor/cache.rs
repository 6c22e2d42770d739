//! Compiled code in memory: by digest, compiled once however many ask, bounded in number and in bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::compiled::Compiled;
use super::{Abi, ModuleError};
use crate::functions::Digest;

/// How often compiled code was there, or had to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that found it in memory.
    pub hits: u64,
    /// Attempts and preparations that did not.
    pub misses: u64,
    /// Modules that were compiled: neither in memory nor on disk.
    pub compiles: u64,
}

/// What compiled code is of, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) digest: Digest,
    pub(super) abi: Abi,
    /// Whether it counts its fuel.
    pub(super) fuel: bool,
}

type Made = Result<Arc<Compiled>, ModuleError>;

/// One module, made or being made.
enum Entry {
    Making(watch::Receiver<Option<Made>>),
    Made(Arc<Compiled>),
}

/// Compiled code by its module.
pub(super) struct Cache {
    entries: Mutex<HashMap<Key, Entry>>,
    max_entries: usize,
    max_bytes: usize,
    /// Ticks with every entry that is added; uses are told apart by it.
    clock: AtomicU64,
    pub(super) hits: AtomicU64,
    misses: AtomicU64,
    pub(super) compiles: AtomicU64,
}

impl Cache {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: Mutex::default(),
            max_entries: max_entries.max(1),
            max_bytes,
            clock: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            compiles: AtomicU64::new(0),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            compiles: self.compiles.load(Ordering::Relaxed),
        }
    }

    /// What is here or on its way.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.entries.lock().keys().copied().collect()
    }

    /// Notes a use of what was found without asking the cache.
    pub(super) fn hit(&self, compiled: &Compiled) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        compiled.touch(self.clock.load(Ordering::Relaxed));
    }

    /// The compiled form of a module; `make` is started when nobody else is at it. It runs to its end also when all
    /// who asked have gone.
    pub(super) async fn get<F>(self: &Arc<Self>, key: Key, make: impl FnOnce() -> F) -> Made
    where
        F: Future<Output = Made> + Send + 'static,
    {
        let mut made = {
            let mut entries = self.entries.lock();
            match entries.get(&key) {
                Some(Entry::Made(compiled)) => {
                    compiled.touch(self.clock.load(Ordering::Relaxed));
                    return Ok(compiled.clone());
                }
                Some(Entry::Making(made)) => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    made.clone()
                }
                None => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    let (sender, receiver) = watch::channel(None);
                    entries.insert(key, Entry::Making(receiver.clone()));
                    let (cache, making) = (self.clone(), make());
                    #[expect(clippy::disallowed_methods, reason = "whoever asked waits for it, and it ends by itself")]
                    tokio::spawn(async move {
                        let mut ended = Ended { cache, key, result: None };
                        ended.result = Some(making.await);
                        let result = ended.result.clone();
                        drop(ended);
                        let _ = sender.send(result);
                    });
                    receiver
                }
            }
        };
        match made.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited for"),
            Err(_) => Err(ModuleError::Compile("the compiler failed".to_owned())),
        }
    }

    /// Ends the making of an entry. Failures are forgotten: the next who asks tries again.
    fn made(&self, key: Key, result: Option<&Made>) {
        let mut entries = self.entries.lock();
        let Some(Ok(compiled)) = result else {
            entries.remove(&key);
            return;
        };
        // Whatever is used from now on is newer than this.
        compiled.touch(self.clock.fetch_add(1, Ordering::Relaxed));
        entries.insert(key, Entry::Made(compiled.clone()));
        self.evict(&mut entries, key);
    }

    /// Lets go of what no version needs any more: a newer one has taken its place.
    pub(super) fn tidy(&self) {
        let mut unused = Vec::new();
        // Dropped outside of the lock: it is machine code to be unmapped.
        self.entries.lock().retain(|_, entry| match entry {
            Entry::Made(compiled) if !compiled.is_used() => {
                unused.push(compiled.clone());
                false
            }
            _ => true,
        });
    }

    /// Lets go of what was used longest ago until the bounds hold; the newest always stays.
    fn evict(&self, entries: &mut HashMap<Key, Entry>, newest: Key) {
        loop {
            let made = entries.iter().filter_map(|(key, entry)| match entry {
                Entry::Made(compiled) => Some((*key, compiled)),
                Entry::Making(_) => None,
            });
            let (mut count, mut bytes, mut oldest) = (0, 0usize, None::<(u64, Key)>);
            for (key, compiled) in made {
                count += 1;
                bytes = bytes.saturating_add(compiled.bytes);
                let used = compiled.last_used.load(Ordering::Relaxed);
                if key != newest && oldest.is_none_or(|(earliest, _)| used < earliest) {
                    oldest = Some((used, key));
                }
            }
            let Some((_, oldest)) = oldest.filter(|_| count > self.max_entries || bytes > self.max_bytes) else {
                return;
            };
            entries.remove(&oldest);
        }
    }
}

/// Ends a making also when it panics.
struct Ended {
    cache: Arc<Cache>,
    key: Key,
    result: Option<Made>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.cache.made(self.key, self.result.as_ref());
    }
}
