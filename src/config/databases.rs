//! `[engine.databases.NAME]`: as typed, and as meant.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::databases::{Bounds, Place, Settings};
use crate::store::postgres::{ParseError, PostgresSettings};

/// A database that guests may use, where `allow.sql` grants it, and that triggers may take events from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DatabaseSection {
    /// Where it is: `sqlite:` and a file, or `postgres://user:password@host:5432/database`.
    url: String,
    /// Whether nothing may be changed in it.
    #[serde(default)]
    read_only: bool,
    /// Connections, and so statements and transactions at once.
    #[serde(default = "max_connections")]
    #[schemars(range(min = 1, max = 1000))]
    max_connections: u32,
    /// How long a statement may run, and how long one waits for a connection.
    #[serde(default = "timeout_seconds")]
    #[schemars(range(min = 0.001, max = 3600))]
    timeout_seconds: f64,
    /// Rows that one statement answers at most.
    #[serde(default = "max_rows")]
    #[schemars(range(min = 1, max = 1_000_000))]
    max_rows: u32,
    /// Bytes of all their values together.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 1, max = 268_435_456))]
    max_bytes: u32,
}

fn max_connections() -> u32 {
    4
}

fn timeout_seconds() -> f64 {
    10.0
}

fn max_rows() -> u32 {
    10_000
}

fn max_bytes() -> u32 {
    8 << 20
}

const HELP: &str = "write \"sqlite:\" and a file, like \"sqlite:shop.db\", or a PostgreSQL address like \
                    \"postgres://user:password@host/database\"";

impl DatabaseSection {
    /// What is meant, or what is wrong with the address and what would be right.
    pub(super) fn meant(&self, directory: &Path) -> Result<Settings, (String, String)> {
        let wrong = |message: &str| Err((message.to_owned(), HELP.to_owned()));
        let place = match self.url.split_once(':') {
            Some(("sqlite", "" | ":memory:")) => return wrong("the database names no file"),
            Some(("sqlite", file)) if file.starts_with("//") || file.contains('\0') => {
                return wrong("the database is a file's path, not a URL");
            }
            Some(("sqlite", file)) => Place::Sqlite(directory.join(file)),
            Some(("postgres" | "postgresql", _)) => match self.url.parse::<PostgresSettings>() {
                Ok(_) => Place::Postgres(Secret::new(&*self.url)),
                // The same address as a store's, and so the same words.
                Err(ParseError { message, help }) => return Err((message.replace("the store", "the database"), help)),
            },
            // What is written may be a secret.
            _ => return wrong("the database is neither a file nor a PostgreSQL server"),
        };
        Ok(Settings {
            place,
            read_only: self.read_only,
            max_connections: self.max_connections,
            timeout: Duration::from_secs_f64(self.timeout_seconds),
            bounds: Bounds { max_rows: self.max_rows as usize, max_bytes: self.max_bytes as usize },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_files_and_servers_and_never_told() {
        let read = |url: &str| {
            let section: DatabaseSection = serde_json::from_value(serde_json::json!({ "url": url })).unwrap();
            section.meant(Path::new("dir"))
        };
        let file = read("sqlite:shop.db").unwrap();
        assert_eq!(file.place, Place::Sqlite("dir/shop.db".into()));
        assert_eq!((file.max_connections, file.bounds.max_rows, file.read_only), (4, 10_000, false));
        let server = read("postgres://me:hunter2@db/shop").unwrap();
        assert!(!format!("{server:?}").contains("hunter2"));
        for (url, message) in [
            ("sqlite:", "the database names no file"),
            ("sqlite:///x", "the database is a file's path, not a URL"),
            ("mysql://me:hunter2@db/x", "the database is neither a file nor a PostgreSQL server"),
            ("postgres://me:hunter2@db", "the database's address names no database"),
        ] {
            let (told, help) = read(url).unwrap_err();
            assert_eq!(told, message);
            assert!(!help.contains("hunter2"));
        }
    }
}
