//! What functions keep under keys.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::task::JoinSet;

use super::Shared;
use super::make::*;
use crate::store::{
    KvBucket, KvChange, KvEntry, KvExpected, KvLimits, KvRefused, KvWrite, KvWritten, Retention, number,
};

const ROOMY: KvLimits = KvLimits { max_keys: 100_000, max_bytes: 1 << 30 };

fn bucket(namespace: &str, name: &str) -> KvBucket {
    KvBucket { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn ours() -> KvBucket {
    bucket("default", "default")
}

fn set_until(key: &str, value: &[u8], expires_at: Option<DateTime<Utc>>) -> KvWrite {
    let change = KvChange::Set { value: Bytes::copy_from_slice(value), expires_at };
    KvWrite { key: key.to_owned(), expected: KvExpected::Anything, change }
}

fn set(key: &str, value: &[u8]) -> KvWrite {
    set_until(key, value, None)
}

fn add(key: &str, delta: i64) -> KvWrite {
    let change = KvChange::Add { delta, expires_at: None };
    KvWrite { key: key.to_owned(), expected: KvExpected::Anything, change }
}

fn delete(key: &str) -> KvWrite {
    KvWrite { key: key.to_owned(), expected: KvExpected::Anything, change: KvChange::Delete }
}

async fn write_in(store: &Shared, bucket: KvBucket, writes: Vec<KvWrite>, limits: KvLimits) -> KvWritten {
    store.kv_write(bucket, writes, limits, now()).await.unwrap()
}

async fn write(store: &Shared, write: KvWrite) -> KvWritten {
    write_in(store, ours(), vec![write], ROOMY).await
}

async fn get(store: &Shared, key: &str) -> Option<KvEntry> {
    store.kv_get(ours(), key.to_owned(), now()).await.unwrap()
}

async fn value(store: &Shared, key: &str) -> Option<Bytes> {
    get(store, key).await.map(|entry| entry.value)
}

pub(in crate::store) async fn a_key_has_what_was_written_last_in_its_bucket_and_namespace(store: Shared) {
    assert_eq!(get(&store, "k").await, None);
    let done = write(&store, set("k", b"\0\xffone")).await.unwrap();
    assert!(!done[0].existed);
    assert_eq!(get(&store, "k").await, done[0].entry);
    assert_eq!(value(&store, "k").await.as_deref(), Some(&b"\0\xffone"[..]));
    let first = done[0].entry.clone().unwrap().version;
    let done = write(&store, set("k", b"")).await.unwrap();
    assert!(done[0].existed);
    assert_ne!(done[0].entry.clone().unwrap().version, first, "each write has its version");
    for elsewhere in [bucket("default", "other"), bucket("other", "default")] {
        assert_eq!(store.kv_get(elsewhere.clone(), "k".to_owned(), now()).await.unwrap(), None);
        write_in(&store, elsewhere, vec![set("k", b"elsewhere")], ROOMY).await.unwrap();
    }
    assert_eq!(value(&store, "k").await.as_deref(), Some(&b""[..]));
    assert!(write(&store, delete("k")).await.unwrap()[0].existed);
    assert!(!write(&store, delete("k")).await.unwrap()[0].existed);
    assert_eq!(get(&store, "k").await, None);
    write(&store, set("k", b"\0\xffone")).await.unwrap();
    assert_ne!(get(&store, "k").await.unwrap().version, first, "not even after it was deleted");
}

pub(in crate::store) async fn writes_to_several_keys_are_done_together_or_not_at_all(store: Shared) {
    write_in(&store, ours(), vec![set("b", b"1"), set("a", b"x"), add("c", 5)], ROOMY).await.unwrap();
    assert_eq!(value(&store, "c").await.as_deref(), Some(&b"5"[..]));
    let refused = write_in(&store, ours(), vec![set("b", b"2"), delete("c"), add("a", 1)], ROOMY).await;
    assert_eq!(refused, Err(KvRefused::NotANumber));
    assert_eq!(value(&store, "b").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&store, "c").await.as_deref(), Some(&b"5"[..]));
    write(&store, set("most", i64::MAX.to_string().as_bytes())).await.unwrap();
    assert_eq!(write(&store, add("most", 1)).await, Err(KvRefused::Overflow));
    assert_eq!(value(&store, "most").await.unwrap(), i64::MAX.to_string());
}

pub(in crate::store) async fn racing_increments_are_all_counted(store: Shared) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut sums = Vec::new();
            for _ in 0..25 {
                let done = write(&store, add("count", 1)).await.unwrap();
                sums.push(number(&done[0].entry.clone().unwrap().value).unwrap());
            }
            sums
        });
    }
    let mut sums: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>(), "each was told a sum of its own");
    assert_eq!(value(&store, "count").await.unwrap(), "200");
}

pub(in crate::store) async fn of_racing_swaps_one_succeeds(store: Shared) {
    // From nothing to the first entry, and then from each entry to the next.
    for round in 0..5 {
        let expected = match get(&store, "lock").await {
            Some(entry) => KvExpected::Version(entry.version),
            None => KvExpected::Absent,
        };
        let mut tasks = JoinSet::new();
        for racer in 0..8 {
            let store = store.clone();
            let swap = KvWrite { expected, ..set("lock", format!("{round}/{racer}").as_bytes()) };
            tasks.spawn(async move { write(&store, swap).await });
        }
        let ended = tasks.join_all().await;
        let won: Vec<_> = ended.iter().filter_map(|written| written.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        assert!(ended.iter().all(|written| written.is_ok() || *written == Err(KvRefused::Changed)));
        assert_eq!(get(&store, "lock").await, won[0][0].entry, "and the entry is the winner's");
    }
    let late = KvWrite { expected: KvExpected::Absent, ..set("lock", b"late") };
    assert_eq!(write(&store, late).await, Err(KvRefused::Changed));
}

pub(in crate::store) async fn an_entry_is_gone_when_it_has_expired(store: Shared) {
    let at = now() + seconds(100);
    let read = |key: &'static str, when: DateTime<Utc>| store.kv_get(ours(), key.to_owned(), when);
    let list = |when| store.kv_keys(ours(), String::new(), None, 10, when);
    write(&store, set_until("k", b"7", Some(at))).await.unwrap();
    assert_eq!(read("k", at - seconds(1)).await.unwrap().unwrap().expires_at, Some(at));
    assert_eq!(read("k", at).await.unwrap(), None);
    assert_eq!(list(at - seconds(1)).await.unwrap(), ["k"]);
    assert_eq!(list(at).await.unwrap(), [""; 0]);

    let done = write(&store, add("k", 1)).await.unwrap();
    assert_eq!(done[0].entry.as_ref().unwrap().expires_at, Some(at), "adding does not prolong");
    let later = store.kv_write(ours(), vec![add("k", 1)], ROOMY, at).await.unwrap().unwrap();
    assert!(!later[0].existed);
    assert_eq!(later[0].entry.as_ref().unwrap().value, "1", "what has expired is not added to");

    write(&store, set_until("old", b"x", Some(now() - seconds(5)))).await.unwrap();
    let absent = KvWrite { expected: KvExpected::Absent, ..set("old", b"y") };
    assert!(!write(&store, absent).await.unwrap()[0].existed);
    assert_eq!(value(&store, "old").await.as_deref(), Some(&b"y"[..]));
}

pub(in crate::store) async fn a_namespace_has_no_more_keys_and_bytes_than_it_may(store: Shared) {
    let few = KvLimits { max_keys: 2, max_bytes: 20 };
    let write = |key: &'static str, value: &'static [u8]| write_in(&store, ours(), vec![set(key, value)], few);
    write("a", b"1234").await.unwrap();
    write_in(&store, bucket("default", "other"), vec![set("b", b"12")], few).await.unwrap();
    assert_eq!(write("c", b"").await, Err(KvRefused::TooManyKeys(2)), "buckets share the namespace's");
    write("a", &[b'x'; 16]).await.unwrap();
    assert_eq!(write("a", &[b'x'; 17]).await, Err(KvRefused::TooManyBytes(20)));
    assert_eq!(value(&store, "a").await.unwrap().len(), 16);
    write_in(&store, bucket("apart", "default"), vec![set("c", b"theirs")], few).await.unwrap();

    write_in(&store, ours(), vec![delete("a")], few).await.unwrap();
    write_in(&store, ours(), vec![set_until("brief", b"1234", Some(now() - seconds(1)))], few).await.unwrap();
    write("c", b"123456789012345").await.unwrap();
    assert_eq!(get(&store, "brief").await, None, "what has expired made room");
    let none = KvLimits { max_keys: 0, max_bytes: 0 };
    write_in(&store, ours(), vec![delete("c")], none).await.unwrap();
}

pub(in crate::store) async fn keys_are_listed_by_their_beginning_and_in_pages(store: Shared) {
    let names = ["a", "b/", "b/1", "b/2", "b/\u{10ffff}", "b0", "é", "B"];
    write_in(&store, ours(), names.map(|name| set(name, b"")).to_vec(), ROOMY).await.unwrap();
    write_in(&store, bucket("default", "other"), vec![set("b/3", b"")], ROOMY).await.unwrap();
    let list = |prefix: &'static str, after: Option<&'static str>, limit| {
        store.kv_keys(ours(), prefix.to_owned(), after.map(str::to_owned), limit, now())
    };
    assert_eq!(list("", None, 100).await.unwrap(), ["B", "a", "b/", "b/1", "b/2", "b/\u{10ffff}", "b0", "é"]);
    assert_eq!(list("b/", None, 2).await.unwrap(), ["b/", "b/1"]);
    assert_eq!(list("b/", Some("b/1"), 100).await.unwrap(), ["b/2", "b/\u{10ffff}"]);
    assert_eq!(list("b/", Some("a"), 1).await.unwrap(), ["b/"]);
    assert_eq!(list("b/", Some("z"), 100).await.unwrap(), [""; 0]);
    assert_eq!(list("nothing", None, 100).await.unwrap(), [""; 0]);
}

pub(in crate::store) async fn entries_that_have_expired_are_pruned_and_no_longer_counted(store: Shared) {
    let past = now() - seconds(1);
    for tens in 0..21 {
        let batch = (0..50).map(|one| set_until(&format!("old-{tens}-{one}"), b"x", Some(past))).collect();
        write_in(&store, ours(), batch, ROOMY).await.unwrap();
    }
    write(&store, set("kept", b"x")).await.unwrap();
    write(&store, set_until("later", b"x", Some(now() + seconds(1000)))).await.unwrap();
    let first = store.prune(Retention::NOTHING).await.unwrap();
    assert_eq!((first.kv, first.more), (1000, true));
    let second = store.prune(Retention::NOTHING).await.unwrap();
    assert_eq!((second.kv, second.more), (50, false));
    let three = KvLimits { max_keys: 3, max_bytes: 1000 };
    write_in(&store, ours(), vec![set("third", b"x")], three).await.unwrap();
    assert_eq!(
        write_in(&store, ours(), vec![set("fourth", b"x")], three).await,
        Err(KvRefused::TooManyKeys(3)),
        "the usage is that of the three"
    );
}
