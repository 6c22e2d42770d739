//! Where databases are: what the composition root makes of the engine's settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

/// What the engine's own store is called among databases.
const OWN: &str = "store";

/// Where one database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A PostgreSQL server.
    Postgres(Server),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// A database on a PostgreSQL server.
#[derive(Clone)]
pub struct Server {
    /// Where it is and who asks; the password is in there.
    pub options: Box<PgConnectOptions>,
    /// The schema for what captures changes, and the channel on which it says so.
    pub schema: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.debug_struct("Server")
            .field("host", &options.get_host())
            .field("port", &options.get_port())
            .field("database", &options.get_database())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The databases that triggers may name.
#[derive(Clone, Debug, Default)]
pub struct Databases {
    own: Option<Place>,
    named: BTreeMap<String, Place>,
}

impl Databases {
    /// Those, and the engine's own store for triggers that name none.
    pub fn with_own(mut self, place: Place) -> Self {
        self.own = Some(place);
        self
    }

    /// Those, and one more.
    pub fn with(mut self, name: impl Into<String>, place: Place) -> Self {
        self.named.insert(name.into(), place);
        self
    }

    /// The database that a trigger means, and what it is called; or what is wrong and what would be right.
    pub(crate) fn find<'a>(&'a self, name: Option<&'a str>) -> Result<(&'a str, &'a Place), (String, String)> {
        match name {
            None => self.own.as_ref().map(|place| (OWN, place)).ok_or_else(|| {
                let help = "add database = \"name\", and [engine.databases.name] with its url";
                ("the engine's store is not PostgreSQL, and no database is named".to_owned(), help.to_owned())
            }),
            Some(name) => self.named.get(name).map(|place| (name, place)).ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                let help = format!("add [engine.databases.{shown}] with its url");
                (format!("the engine has no database {shown:?}"), help)
            }),
        }
    }
}
