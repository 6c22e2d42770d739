//! Bearer tokens: made, listed, revoked, and known again when they are presented.
//!
//! A token is `tripline_<id>.<secret>`; what is kept of the secret is its digest. The namespace's tokens are held in
//! memory and read again when they are older than `FRESH`, so that neither a good token nor a stream of bad ones
//! makes the store work. What this engine revokes is gone here at once, elsewhere when the others have read again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use tokio::time::Instant;
use trigger_core::{Clock, Refused, Shed, Token};

use crate::store::{self, MAX_TOKENS, Store, TokenRow};

/// What every token begins with, for those who look for secrets where none should be.
const PREFIX: &str = "tripline_";

/// How old what is held in memory may be.
const FRESH: Duration = Duration::from_secs(5);

/// How old it may be while the store is away: then nobody knows who was revoked.
const STALE: Duration = Duration::from_secs(60);

/// How long a store that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest name, function and scope, in bytes.
const MAX_WORD_BYTES: usize = 128;

/// The most functions, or scopes, of a token.
const MAX_WORDS: usize = 100;

/// The tokens of a namespace.
pub struct Tokens {
    store: Arc<dyn Store>,
    clock: Clock,
    namespace: String,
    held: ArcSwapOption<Held>,
    /// One reads, makes or revokes at a time: what was read before a token was revoked must not come after it. Holds
    /// when reading last failed.
    changing: Mutex<Option<Instant>>,
}

/// The tokens as they were in the store.
#[derive(Clone)]
struct Held {
    read_at: Instant,
    by_id: HashMap<String, Arc<Known>>,
}

struct Known {
    digest: [u8; 32],
    expires_at: Option<DateTime<Utc>>,
    token: Arc<Token>,
}

/// A token to make.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Whose it is.
    pub name: String,
    /// The functions that it may call; `*` stands for every one.
    pub functions: Vec<String>,
    /// What else it may, in words that triggers ask for.
    pub scopes: Vec<String>,
    /// From when on it is of no use.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It says something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There are too many.
    #[error("there are {MAX_TOKENS} tokens already: revoke those that are of no use")]
    TooMany,
    /// The store is the reason.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Tokens {
    /// The tokens of a namespace, none of them read yet.
    pub fn new(store: Arc<dyn Store>, clock: Clock, namespace: String) -> Self {
        Self { store, clock, namespace, held: ArcSwapOption::empty(), changing: Mutex::new(None) }
    }

    /// Makes a token. The second part of the answer is the token as it is presented: it is told this once.
    pub async fn make(&self, new: NewToken) -> Result<(TokenRow, String), Error> {
        let now = self.clock.now();
        check(&new, now)?;
        let (id, secret) = (random::<8>(), random::<32>());
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let row = TokenRow {
            digest: digest_of(&secret),
            namespace: self.namespace.clone(),
            name: new.name,
            functions: new.functions,
            scopes: new.scopes,
            created_at: now,
            expires_at: new.expires_at,
            id,
        };
        let _one_at_a_time = self.changing.lock().await;
        if !self.store.add_token(row.clone()).await? {
            return Err(Error::TooMany);
        }
        self.change(|by_id| drop(by_id.insert(row.id.clone(), Arc::new(Known::of(row.clone())))));
        let presented = format!("{PREFIX}{}.{secret}", row.id);
        tracing::info!(token = row.id, name = row.name, "a token was made");
        Ok((row, presented))
    }

    /// Every token, the newest first.
    pub async fn list(&self) -> store::Result<Vec<TokenRow>> {
        self.store.tokens(self.namespace.clone()).await
    }

    /// Revokes a token: from now on it is refused here. `false` if there is none of this id.
    pub async fn revoke(&self, id: &str) -> store::Result<bool> {
        let _one_at_a_time = self.changing.lock().await;
        let removed = self.store.remove_token(self.namespace.clone(), id.to_owned()).await?;
        self.change(|by_id| drop(by_id.remove(id)));
        if removed {
            tracing::info!(token = id, "a token was revoked");
        }
        Ok(removed)
    }

    /// The token that was presented, if it may be used now.
    pub async fn presented(&self, presented: &str) -> Result<Option<Arc<Token>>, Refused> {
        let Some((id, secret)) = presented.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let held = self.held().await?;
        let Some(known) = held.by_id.get(id) else { return Ok(None) };
        let is_it = bool::from(known.digest.ct_eq(&digest_of(secret)));
        let expired = known.expires_at.is_some_and(|expires_at| expires_at <= self.clock.now());
        Ok((is_it && !expired).then(|| known.token.clone()))
    }

    /// What is held, read again where it is too old.
    async fn held(&self) -> Result<Arc<Held>, Refused> {
        let younger_than = |age| self.held.load_full().filter(|held| held.read_at.elapsed() < age);
        if let Some(held) = younger_than(FRESH) {
            return Ok(held);
        }
        let mut failed_at = self.changing.lock().await;
        if let Some(held) = younger_than(FRESH) {
            return Ok(held);
        }
        let unknown = || {
            let message = Cow::Borrowed("tokens cannot be checked now");
            Refused { reason: Shed::StoreUnavailable, message, retry_after: PAUSE }
        };
        if failed_at.is_some_and(|failed_at| failed_at.elapsed() < PAUSE) {
            return younger_than(STALE).ok_or_else(unknown);
        }
        // Before it is read: what changes meanwhile was perhaps not seen.
        let read_at = Instant::now();
        match self.list().await {
            Ok(rows) => {
                let by_id = rows.into_iter().map(|row| (row.id.clone(), Arc::new(Known::of(row)))).collect();
                let held = Arc::new(Held { read_at, by_id });
                self.held.store(Some(held.clone()));
                Ok(held)
            }
            Err(error) => {
                tracing::warn!("tokens cannot be read: {error}");
                *failed_at = Some(Instant::now());
                younger_than(STALE).ok_or_else(unknown)
            }
        }
    }

    /// Changes what is held, where anything is. To be called by whoever may change it.
    fn change(&self, change: impl FnOnce(&mut HashMap<String, Arc<Known>>)) {
        if let Some(held) = self.held.load_full() {
            let mut held = Held::clone(&held);
            change(&mut held.by_id);
            self.held.store(Some(Arc::new(held)));
        }
    }
}

impl Known {
    fn of(row: TokenRow) -> Self {
        let TokenRow { namespace, name, functions, scopes, digest, expires_at, .. } = row;
        let token = Token { name: name.into(), namespace: namespace.into(), functions, scopes };
        Self { digest, expires_at, token: Arc::new(token) }
    }
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}

fn digest_of(secret: &str) -> [u8; 32] {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Whether a token can be like this.
fn check(new: &NewToken, now: DateTime<Utc>) -> Result<(), Error> {
    let invalid = |message: String| Err(Error::Invalid(message));
    if new.functions.is_empty() {
        return invalid("a token that may call no function is of no use: name some, or \"*\" for all".to_owned());
    }
    for (what, words) in [("functions", &new.functions), ("scopes", &new.scopes)] {
        if words.len() > MAX_WORDS {
            return invalid(format!("a token has at most {MAX_WORDS} {what}, this one has {}", words.len()));
        }
    }
    for word in [&new.name].into_iter().chain(&new.functions).chain(&new.scopes) {
        if word.is_empty() || word.len() > MAX_WORD_BYTES || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid(format!(
                "{word:?} is not a name: use 1 to {MAX_WORD_BYTES} visible ASCII characters without spaces"
            ));
        }
    }
    match new.expires_at {
        Some(expires_at) if expires_at <= now => invalid(format!("expires_at is {expires_at}, which is past")),
        Some(expires_at) if expires_at > now + TimeDelta::days(36_525) => {
            invalid(format!("expires_at is {expires_at}, more than a hundred years from now"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{SqliteSettings, SqliteStore};

    fn tokens(store: &Arc<dyn Store>, clock: &Clock) -> Tokens {
        Tokens::new(store.clone(), clock.clone(), "default".to_owned())
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(SqliteSettings::memory()).unwrap())
    }

    fn new(name: &str) -> NewToken {
        NewToken { name: name.to_owned(), functions: vec!["*".to_owned()], ..NewToken::default() }
    }

    async fn is_known(tokens: &Tokens, presented: &str) -> bool {
        tokens.presented(presented).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_token_is_known_by_its_secret_and_by_nothing_less() {
        let tokens = tokens(&store(), &Clock::system());
        let (row, presented) = tokens.make(new("ci")).await.unwrap();
        let found = tokens.presented(&presented).await.unwrap().unwrap();
        assert_eq!((&*found.name, &*found.namespace), ("ci", "default"));
        let (head, secret) = presented.split_once('.').unwrap();
        assert_eq!((head, secret.len()), (&*format!("tripline_{}", row.id), 43));
        let (other, _) = tokens.make(new("other")).await.unwrap();
        let bad = [
            String::new(),
            head.to_owned(),
            format!("{head}."),
            format!("{head}.{}", &secret[1..]),
            format!("{presented}="),
            format!("tripline_{}.{secret}", other.id),
            format!("{}.{secret}", row.id),
        ];
        for bad in bad {
            assert!(!is_known(&tokens, &bad).await, "{bad:?}");
        }
        assert!(!format!("{:?}", tokens.list().await.unwrap()).contains(secret), "only its digest is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_token_is_gone_at_once_here_and_soon_elsewhere() {
        let store = store();
        let (here, elsewhere) = (tokens(&store, &Clock::system()), tokens(&store, &Clock::system()));
        let (row, presented) = here.make(new("ci")).await.unwrap();
        assert!(is_known(&here, &presented).await && is_known(&elsewhere, &presented).await);
        assert!(here.revoke(&row.id).await.unwrap());
        assert!(!is_known(&here, &presented).await);
        assert!(is_known(&elsewhere, &presented).await, "what is in memory is believed for a while");
        tokio::time::advance(FRESH).await;
        assert!(!is_known(&elsewhere, &presented).await);
        assert!(!here.revoke(&row.id).await.unwrap());
    }

    #[tokio::test]
    async fn a_token_ends_when_it_expires() {
        let clock = Clock::standing_at(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let tokens = tokens(&store(), &clock);
        let until = clock.now() + TimeDelta::seconds(60);
        let (_, presented) = tokens.make(NewToken { expires_at: Some(until), ..new("ci") }).await.unwrap();
        assert!(is_known(&tokens, &presented).await);
        clock.virtual_time().unwrap().step(until).unwrap();
        assert!(!is_known(&tokens, &presented).await);
    }

    #[tokio::test]
    async fn what_no_token_can_be_is_refused() {
        let tokens = tokens(&store(), &Clock::system());
        let past = Some(DateTime::UNIX_EPOCH);
        for (bad, why) in [
            (NewToken { functions: Vec::new(), ..new("ci") }, "no function"),
            (new(""), "is not a name"),
            (new("two words"), "is not a name"),
            (NewToken { scopes: vec!["x".repeat(129)], ..new("ci") }, "is not a name"),
            (NewToken { scopes: vec!["x".to_owned(); 101], ..new("ci") }, "at most 100 scopes"),
            (NewToken { expires_at: past, ..new("ci") }, "which is past"),
        ] {
            let error = tokens.make(bad).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
