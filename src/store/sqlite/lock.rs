//! Sees to it that one engine at a time has a database file, and that the file is there.
//!
//! The lock is a file of its own beside the database. SQLite's locks on the database are given up when *any* handle of
//! the process on that file is closed, so nothing here opens it before the lock is ours.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::store::{Error, Result};

/// Holds the lock for as long as it lives; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    database: PathBuf,
}

impl Lock {
    /// Takes the lock and makes the file and its directories where they are missing.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let unusable = |what: &str, error: std::io::Error| {
            Error::Unavailable(format!(
                "{}: {what}: {error}; make it writable for the engine's user or choose another path",
                path.display()
            ))
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| unusable("its directory cannot be made", error))?;
        let database = resolve(path, directory).map_err(|error| unusable("it cannot be found", error))?;

        let mut name = database.clone().into_os_string();
        name.push(".lock");
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            options
        };
        let mut file = options().open(&name).map_err(|error| unusable("its lock file cannot be opened", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let process = match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => format!(" (process {})", holder.trim()),
                    _ => String::new(),
                };
                return Err(Error::Unavailable(format!(
                    "{}: another engine{process} has this database; stop it, give this one another path, or use \
                     Postgres for engines that share a store",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(unusable("its lock file cannot be locked", error)),
        }
        // For people, and for the message above; the lock does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));

        options().open(&database).map_err(|error| unusable("it cannot be opened", error))?;
        Ok(Self { _file: file, database })
    }

    /// The database's path, links resolved: two names of one file have one lock.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }
}

fn resolve(path: &Path, directory: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(std::io::ErrorKind::InvalidFilename)?;
            Ok(directory.canonicalize()?.join(name))
        }
        Err(error) => Err(error),
    }
}
