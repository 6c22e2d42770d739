//! Watches the manifest and its modules for `tripline dev`.
//!
//! Directories are watched, not files: editors and compilers replace files by renaming. A reload compares contents by
//! digest anyway, and one that finds nothing new changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Changes come in bursts: a burst is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(150);

/// Watches directories of files.
pub struct Watch {
    watcher: RecommendedWatcher,
    changed: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// Names of the files: what else lies in their directories (logs, the store) changes all the time.
    names: Arc<Mutex<BTreeSet<OsString>>>,
    directories: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch on nothing yet.
    pub fn new() -> notify::Result<Self> {
        // One pending signal says all: that something changed.
        let (changed, changes) = mpsc::channel(1);
        let names = Arc::new(Mutex::new(BTreeSet::<OsString>::new()));
        let (sender, wanted) = (changed.clone(), names.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let relevant = event.is_ok_and(|event| {
                // Reading a file is an event too, and the reload reads them all.
                !matches!(event.kind, EventKind::Access(_))
                    && (event.need_rescan()
                        || event
                            .paths
                            .iter()
                            .filter_map(|path| path.file_name())
                            .any(|name| wanted.lock().contains(name)))
            });
            if relevant {
                let _ = sender.try_send(());
            }
        })?;
        Ok(Self { watcher, changed, changes, names, directories: BTreeSet::new() })
    }

    /// Watches these files, and no others. Files that were not watched before may have changed since they were read:
    /// that counts as a change.
    pub fn files<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        let files: Vec<&Path> = files.into_iter().collect();
        let names: BTreeSet<OsString> = files.iter().filter_map(|file| file.file_name()).map(OsString::from).collect();
        let known = std::mem::replace(&mut *self.names.lock(), names.clone());
        if !names.is_subset(&known) {
            let _ = self.changed.try_send(());
        }
        let wanted: BTreeSet<PathBuf> = files
            .iter()
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
