//! Entries at the host's side: grants, limits, their ends by the engine's clock.

use trigger_core::Clock;

use super::super::bindings::tripline::function::key_value::{Error, Host};
use super::*;
use crate::config::KvConfig;
use crate::executor::guest::Served;
use crate::executor::{KeyValues, Services};
use crate::store::KvLimits;
use crate::store::sqlite::{SqliteSettings, SqliteStore};

/// Guests of one namespace that may use `default` and `sessions.*`, on one store.
struct Shop {
    services: Arc<Services>,
}

impl Shop {
    fn new(clock: Clock, limits: KvConfig) -> Self {
        let store = SqliteStore::open(SqliteSettings::memory()).unwrap().with_clock(clock.clone());
        let kv = Some(KeyValues { store: Arc::new(store), limits });
        Self { services: Arc::new(Services { kv, clock, ..Services::default() }) }
    }

    fn guest(&self) -> Guest {
        let grants = |definition: &mut Definition| {
            definition.allow.kv = vec!["default".to_owned(), "sessions.*".to_owned()];
        };
        let mut guest = guest(Kind::Job, grants, |_| {});
        guest.served = Some(Served::new(self.services.clone(), None));
        guest
    }
}

async fn set(guest: &mut Guest, bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
    Host::set(guest, bucket.to_owned(), key.to_owned(), value.to_vec(), None).await
}

async fn get(guest: &mut Guest, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
    Host::get(guest, bucket.to_owned(), key.to_owned()).await
}

#[tokio::test]
async fn buckets_that_are_not_granted_are_denied_by_name() {
    let shop = Shop::new(Clock::system(), KvConfig::default());
    let mut guest = shop.guest();
    for bucket in ["other", "sessions", "sessions.a.b"] {
        let Err(Error::Denied(why)) = get(&mut guest, bucket, "k").await else { panic!("{bucket}") };
        assert_eq!(why, format!("the definition does not grant {bucket:?}: add it to functions.orders.allow.kv"));
        assert!(matches!(set(&mut guest, bucket, "k", b"").await, Err(Error::Denied(_))));
        assert!(matches!(Host::delete(&mut guest, bucket.into(), "k".into()).await, Err(Error::Denied(_))));
        assert!(matches!(Host::increment(&mut guest, bucket.into(), "k".into(), 1, None).await, Err(Error::Denied(_))));
        let swapped = Host::swap(&mut guest, bucket.into(), "k".into(), None, Vec::new(), None).await;
        assert!(matches!(swapped, Err(Error::Denied(_))));
        assert!(matches!(Host::keys(&mut guest, bucket.into(), String::new(), None).await, Err(Error::Denied(_))));
    }
    for bucket in ["", "a b", "*", ">", ".", &"x".repeat(129)] {
        let Err(Error::Invalid((field, _))) = get(&mut guest, bucket, "k").await else { panic!("{bucket:?}") };
        assert_eq!(field, "bucket");
    }
    set(&mut guest, "sessions.alice", "k", b"v").await.unwrap();
    let ops = guest.detail().unwrap().host_ops;
    let last = ops.last().unwrap();
    assert_eq!((last.op.as_ref(), last.target.as_str(), last.bytes), ("kv-set", "sessions.alice/k", 1));
    assert!(ops[0].error.as_ref().unwrap().starts_with("denied: "));
}

#[tokio::test]
async fn what_one_attempt_wrote_the_next_one_finds_whatever_became_of_it() {
    let shop = Shop::new(Clock::system(), KvConfig::default());
    let mut first = shop.guest();
    let version = set(&mut first, "default", "k", b"one").await.unwrap();
    assert_eq!(Host::increment(&mut first, "default".into(), "n".into(), 41, None).await.unwrap(), 41);
    drop(first);
    let mut second = shop.guest();
    let entry = Host::get_entry(&mut second, "default".into(), "k".into()).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version, entry.expires_at), (b"one".to_vec(), version, None));
    assert_eq!(Host::increment(&mut second, "default".into(), "n".into(), 1, None).await.unwrap(), 42);
    let mut swap = async |expected, value: &[u8]| {
        Host::swap(&mut second, "default".into(), "k".into(), expected, value.to_vec(), None).await.unwrap()
    };
    assert_eq!(swap(None, b"absent").await, None);
    let next = swap(Some(version), b"two").await;
    assert!(next.is_some_and(|next| next != version));
    assert_eq!(swap(Some(version), b"late").await, None);
    assert_eq!(get(&mut second, "default", "k").await.unwrap().unwrap(), b"two");
    assert!(Host::delete(&mut second, "default".into(), "k".into()).await.unwrap());
    assert!(!Host::delete(&mut second, "default".into(), "k".into()).await.unwrap());
    let page = Host::keys(&mut second, "default".into(), String::new(), None).await.unwrap();
    assert_eq!((page.keys, page.cursor), (vec!["n".to_owned()], None));
}

#[tokio::test]
async fn keys_values_and_namespaces_have_their_limits() {
    let of_namespace = KvLimits { max_keys: 2, max_bytes: 100 };
    let shop = Shop::new(Clock::system(), KvConfig { max_key_bytes: 4, max_value_bytes: 50, of_namespace });
    let mut guest = shop.guest();
    let invalid = |result: Result<u64, Error>| match result {
        Err(Error::Invalid((field, why))) => format!("{field}: {why}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(invalid(set(&mut guest, "default", "", b"").await), "key: it is empty");
    assert_eq!(invalid(set(&mut guest, "default", "12345", b"").await), "key: it has 5 bytes, the limit is 4");
    assert_eq!(invalid(set(&mut guest, "default", "k", &[0; 51]).await), "value: it has 51 bytes, the limit is 50");
    set(&mut guest, "default", "1234", &[0; 50]).await.unwrap();
    let Err(Error::Full(why)) = set(&mut guest, "sessions.a", "k", &[0; 50]).await else { panic!("full") };
    assert_eq!(why, "the namespace would have more than 100 bytes of keys and values");
    set(&mut guest, "sessions.a", "k", b"word").await.unwrap();
    let Err(Error::Full(why)) = set(&mut guest, "default", "more", b"").await else { panic!("full") };
    assert_eq!(why, "the namespace has 2 keys, the most that it may have");
    let added = Host::increment(&mut guest, "sessions.a".into(), "k".into(), 1, None).await;
    assert!(matches!(added, Err(Error::Invalid((_, why))) if why.contains("whole number")));
    let forever = Host::set(&mut guest, "default".into(), "1234".into(), Vec::new(), Some(u64::MAX)).await;
    assert!(matches!(forever, Err(Error::Invalid((field, _))) if field == "ttl"));
}

#[tokio::test]
async fn entries_end_by_the_engines_clock() {
    let start: chrono::DateTime<Utc> = "2030-01-01T00:00:00Z".parse().unwrap();
    let clock = Clock::standing_at(start);
    let pass_to = |seconds| clock.virtual_time().unwrap().step(start + TimeDelta::seconds(seconds)).unwrap();
    let shop = Shop::new(clock.clone(), KvConfig::default());
    let mut guest = shop.guest();
    Host::set(&mut guest, "default".into(), "brief".into(), b"v".to_vec(), Some(60_000)).await.unwrap();
    let entry = Host::get_entry(&mut guest, "default".into(), "brief".into()).await.unwrap().unwrap();
    assert_eq!(entry.expires_at, Some(1_893_456_060_000));
    Host::increment(&mut guest, "default".into(), "window".into(), 1, Some(60_000)).await.unwrap();
    pass_to(59);
    assert!(get(&mut guest, "default", "brief").await.unwrap().is_some());
    assert_eq!(Host::increment(&mut guest, "default".into(), "window".into(), 1, Some(60_000)).await.unwrap(), 2);
    pass_to(60);
    assert!(get(&mut guest, "default", "brief").await.unwrap().is_none());
    assert_eq!(Host::increment(&mut guest, "default".into(), "window".into(), 1, Some(60_000)).await.unwrap(), 1);
}

#[tokio::test]
async fn an_engine_without_a_store_says_so() {
    let mut guest = guest(Kind::Job, |definition| definition.allow.kv = vec![">".to_owned()], |_| {});
    assert!(matches!(get(&mut guest, "default", "k").await, Err(Error::Unavailable(_))));
}
