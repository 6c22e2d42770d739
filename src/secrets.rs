//! Secrets of functions: where the engine's settings say that they are, and their values.
//!
//! Values are read at the start, and files once more whenever the manifest is taken in again: a secret that was
//! replaced on the disk is the new one after a reload. They are told to guests that are granted them and to nobody else.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The largest secret, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In this variable of the engine's environment.
    Env(String),
    /// In this file; a line's end at its end is not part of it.
    File(PathBuf),
}

impl SecretSource {
    /// The value; the error says why there is none.
    pub fn read(&self) -> Result<Arc<str>, String> {
        let value = match self {
            SecretSource::Env(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => format!("the variable {name} is not set"),
                std::env::VarError::NotUnicode(_) => format!("the variable {name} is not UTF-8"),
            })?,
            SecretSource::File(path) => {
                let shown = path.display();
                let size = std::fs::metadata(path).map_err(|error| format!("the file {shown}: {error}"))?.len();
                if size > MAX_BYTES {
                    return Err(format!("the file {shown} has {size} bytes, the limit is {MAX_BYTES}"));
                }
                let text = std::fs::read_to_string(path).map_err(|error| format!("the file {shown}: {error}"))?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                text.strip_suffix('\r').unwrap_or(text).to_owned()
            }
        };
        match value.len() as u64 {
            0 => Err("it is empty".to_owned()),
            bytes if bytes > MAX_BYTES => Err(format!("it has {bytes} bytes, the limit is {MAX_BYTES}")),
            _ => Ok(value.into()),
        }
    }
}

/// The values, by name.
#[derive(Default)]
pub struct Secrets {
    sources: BTreeMap<String, SecretSource>,
    values: ArcSwap<HashMap<String, Arc<str>>>,
}

impl Secrets {
    /// The secrets of these sources, read now.
    pub fn new(sources: BTreeMap<String, SecretSource>) -> Self {
        let secrets = Self { sources, values: ArcSwap::default() };
        secrets.reload();
        secrets
    }

    /// Reads them again. One that cannot be read now keeps the value that it had.
    pub fn reload(&self) {
        let before = self.values.load();
        let mut values = HashMap::with_capacity(self.sources.len());
        for (name, source) in &self.sources {
            match source.read() {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err(why) => {
                    tracing::error!("the secret {name} cannot be read: {why}");
                    values.extend(before.get(name).map(|value| (name.clone(), value.clone())));
                }
            }
        }
        self.values.store(Arc::new(values));
    }

    /// The value of a secret.
    pub fn get(&self, name: &str) -> Option<Arc<str>> {
        self.values.load().get(name).cloned()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("sources", &self.sources).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_where_it_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let source = SecretSource::File(file.clone());
        let missing = source.read().unwrap_err();
        assert!(missing.contains("key") && missing.contains("No such file"), "{missing}");
        std::fs::write(&file, "hunter2\r\n").unwrap();
        assert_eq!(source.read().as_deref(), Ok("hunter2"));
        std::fs::write(&file, "two\nlines\n\n").unwrap();
        assert_eq!(source.read().as_deref(), Ok("two\nlines\n"));
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(source.read().unwrap_err(), "it is empty");
        std::fs::write(&file, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert!(source.read().unwrap_err().contains("the limit is 65536"));
        std::fs::write(&file, b"\xff").unwrap();
        assert!(source.read().is_err());
        assert!(SecretSource::Env("PATH".into()).read().is_ok());
        let unset = SecretSource::Env("TRIPLINE_NO_SUCH_VARIABLE".into()).read().unwrap_err();
        assert_eq!(unset, "the variable TRIPLINE_NO_SUCH_VARIABLE is not set");
    }

    #[test]
    fn a_reload_takes_in_what_was_replaced_and_keeps_what_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "first").unwrap();
        let secrets = Secrets::new([("KEY".to_owned(), SecretSource::File(file.clone()))].into());
        assert_eq!(secrets.get("KEY").as_deref(), Some("first"));
        assert_eq!(secrets.get("OTHER"), None);
        std::fs::write(&file, "second").unwrap();
        assert_eq!(secrets.get("KEY").as_deref(), Some("first"));
        secrets.reload();
        assert_eq!(secrets.get("KEY").as_deref(), Some("second"));
        std::fs::remove_file(&file).unwrap();
        secrets.reload();
        assert_eq!(secrets.get("KEY").as_deref(), Some("second"));
        assert!(!format!("{secrets:?}").contains("second"));
    }
}
