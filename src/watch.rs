//! Watches the manifest and its modules for `tripline dev`.
//!
//! Directories are watched, not files: editors and compilers replace files by renaming. What changed is not asked; a
//! reload compares contents by digest anyway, and one that finds nothing new changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes come in bursts: a burst is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(150);

/// Watches directories of files.
pub struct Watch {
    watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    directories: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch on nothing yet.
    pub fn new() -> notify::Result<Self> {
        // One pending signal says all: that something changed.
        let (changed, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Reading a file is an event too, and the reload reads them all.
            let relevant = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
            if relevant {
                let _ = changed.try_send(());
            }
        })?;
        Ok(Self { watcher, changes, directories: BTreeSet::new() })
    }

    /// Watches the directories that these files lie in, and no others.
    pub fn files<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        let wanted: BTreeSet<PathBuf> = files
            .into_iter()
            .filter_map(|file| file.parent())
            .map(|directory| if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_owned() })
            .collect();
        for gone in self.directories.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        for fresh in wanted.difference(&self.directories) {
            if let Err(error) = self.watcher.watch(fresh, RecursiveMode::NonRecursive) {
                tracing::warn!("cannot watch {}: {error}", fresh.display());
            }
        }
        self.directories = wanted;
    }

    /// Waits for a change, and for its burst to end.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is gone; nothing will ever change.
            return std::future::pending().await;
        }
        while tokio::time::timeout(QUIET, self.changes.recv()).await.is_ok() {}
    }
}
