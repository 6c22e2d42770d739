//! What becomes of a file that fills and is pruned.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::conformance::{self, event};
use crate::store::sqlite::{SqliteSettings, SqliteStore, Synchronous};
use crate::store::{Retention, Store};

/// Whoever prunes gives room to what comes: the file is as large as it once had to be, its log has a limit.
#[tokio::test]
async fn room_that_pruning_made_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let settings = SqliteSettings { synchronous: Synchronous::Normal, ..SqliteSettings::file(&path) };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(settings).unwrap());
    let bytes = |name: &str| fs::metadata(directory.path().join(name)).map_or(0, |about| about.len());
    let mut sizes = Vec::new();
    for round in 0..6 {
        for _ in 0..8 {
            let burials = (0..100).map(|_| {
                let mut dead = conformance::dead_letter(&event("f"), None);
                dead.invocation.payload = Bytes::from(vec![round; 4096]);
                store.bury(dead)
            });
            futures_util::future::try_join_all(burials).await.unwrap();
        }
        let keep_some = Retention { dead_letters_max_rows: 50, ..Retention::NOTHING };
        let mut removed = 0;
        loop {
            let pruned = store.prune(keep_some).await.unwrap();
            removed += pruned.dead_letters_excess;
            if !pruned.more {
                break;
            }
        }
        assert_eq!(removed, if round == 0 { 750 } else { 800 });
        sizes.push(bytes("state.db") + bytes("state.db-wal"));
    }
    drop(store);
    let file = bytes("state.db");
    assert!(file > 800 * 4096 && file < 3 * 800 * 4096, "{file} bytes for 850 rows of 4 KiB at most");
    assert_eq!(bytes("state.db-wal"), 0);
    assert!(sizes.iter().all(|size| *size < (64 << 20) + 3 * 800 * 4096), "{sizes:?}");
}
