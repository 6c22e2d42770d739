//! Where the keys of an issuer are: in the engine's secrets, or at the issuer's, fetched and held.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::Instant;
use trigger_core::Credentials;

use crate::jwk::{self, From, Key};

/// How old fetched keys may be before they are fetched again.
const FRESH: Duration = Duration::from_secs(3600);

/// How old they may be while the issuer does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The least time between two fetches, whatever keys tokens name: anybody can name some that do not exist.
const PAUSE: Duration = Duration::from_secs(30);

/// The keys of an issuer.
pub(crate) enum Keys {
    /// In secrets: each is a JWK Set or a JWK.
    Secrets { names: Vec<String>, held: ArcSwapOption<FromSecrets> },
    /// At this address.
    Url(Fetched),
}

pub(crate) struct FromSecrets {
    values: Vec<Option<Arc<str>>>,
    keys: Arc<Vec<Key>>,
}

pub(crate) struct Fetched {
    url: String,
    held: ArcSwapOption<Held>,
    /// One fetches at a time; holds when that was begun last.
    fetching: Mutex<Option<Instant>>,
}

struct Held {
    keys: Arc<Vec<Key>>,
    fetched_at: Instant,
}

impl Keys {
    pub(crate) fn in_secrets(names: Vec<String>) -> Self {
        Self::Secrets { names, held: ArcSwapOption::empty() }
    }

    pub(crate) fn at(url: String) -> Self {
        Self::Url(Fetched { url, held: ArcSwapOption::empty(), fetching: Mutex::new(None) })
    }

    /// The keys as they are known; `None` where nobody knows them now.
    pub(crate) async fn known(&self, credentials: &dyn Credentials) -> Option<Arc<Vec<Key>>> {
        match self {
            Self::Secrets { names, held } => Some(from_secrets(names, held, credentials)),
            Self::Url(fetched) => fetched.known(credentials).await,
        }
    }

    /// The keys after one was named that is not among them: the issuer may have a new one.
    pub(crate) async fn renewed(&self, credentials: &dyn Credentials) -> Option<Arc<Vec<Key>>> {
        match self {
            Self::Secrets { .. } => None,
            Self::Url(fetched) => fetched.fetch(credentials).await,
        }
    }
}

/// Reads secrets as keys, once for each of their values.
fn from_secrets(names: &[String], held: &ArcSwapOption<FromSecrets>, credentials: &dyn Credentials) -> Arc<Vec<Key>> {
    let values: Vec<Option<Arc<str>>> = names.iter().map(|name| credentials.secret(name)).collect();
    if let Some(held) = held.load_full().filter(|held| held.values == values) {
        return held.keys.clone();
    }
    let mut keys = Vec::new();
    for (name, value) in names.iter().zip(&values) {
        let Some(value) = value else { continue };
        match jwk::read(value.as_bytes(), From::Secret) {
            Ok(read) => keys.extend(read),
            Err(why) => tracing::error!("the secret {name} is no JWK Set: {why}"),
        }
    }
    let keys = Arc::new(keys);
    held.store(Some(Arc::new(FromSecrets { values, keys: keys.clone() })));
    keys
}

impl Fetched {
    fn younger_than(&self, age: Duration) -> Option<Arc<Vec<Key>>> {
        let held = self.held.load();
        held.as_ref().filter(|held| held.fetched_at.elapsed() < age).map(|held| held.keys.clone())
    }

    async fn known(&self, credentials: &dyn Credentials) -> Option<Arc<Vec<Key>>> {
        if let Some(keys) = self.younger_than(FRESH) {
            return Some(keys);
        }
        match self.fetch(credentials).await {
            Some(keys) => Some(keys),
            None => self.younger_than(STALE),
        }
    }

    /// Fetches the keys, unless that was done a moment ago: then those that it brought.
    async fn fetch(&self, credentials: &dyn Credentials) -> Option<Arc<Vec<Key>>> {
        let mut begun_at = self.fetching.lock().await;
        if begun_at.is_some_and(|begun_at| begun_at.elapsed() < PAUSE) {
            return self.younger_than(PAUSE);
        }
        let now = Instant::now();
        *begun_at = Some(now);
        let document = credentials.fetch(&self.url).await;
        match document.and_then(|document| jwk::read(&document, From::Published)) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.held.store(Some(Arc::new(Held { keys: keys.clone(), fetched_at: now })));
                Some(keys)
            }
            Err(why) => {
                tracing::warn!("the keys at {} cannot be had: {why}", self.url);
                None
            }
        }
    }
}
