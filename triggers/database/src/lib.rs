//! The database trigger: a function runs for what happens in a database.
//!
//! ```text
//! NOTIFY ──────────────► channel ─► event ─► the engine
//! INSERT UPDATE DELETE ─► installed triggers ─► outbox (same transaction) ─► reader ─► the engine's queue ─► row removed
//! ```
//!
//! Two sources in one kind. A *channel* tells of what was said while somebody listened: what is said meanwhile is lost,
//! and that is counted. A *table's* changes are written to an outbox by the transaction that makes them, and taken over
//! by whoever comes first: nothing is lost, whoever was away. There is no cursor that a late commit could fall behind;
//! a row is there until it has been taken over. This crate refuses to know where databases are written down: it is given
//! [`Databases`].

mod channel;
mod config;
mod event;
mod outbox;
mod places;
mod plan;
mod postgres;
mod session;
mod sqlite;

use std::fmt;
use std::sync::Arc;

use trigger_core::{BindError, Binding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind};

use channel::ChannelTrigger;
use config::Source;
pub use config::{Config, Guarantee, Mode, Operation};
pub use places::{Databases, Place, Server};
pub use plan::{Action, Installation, Plan, Step};
use postgres::PostgresTrigger;
use sqlite::SqliteTrigger;

/// The database trigger's kind: `type = "database"`.
#[derive(Clone, Default)]
pub struct Database {
    databases: Arc<Databases>,
    installs: bool,
}

impl Database {
    /// Events of these databases.
    pub fn new(databases: Databases) -> Self {
        Self { databases: Arc::new(databases), installs: false }
    }

    /// The same where triggers install by themselves what captures changes: nobody reviews it while developing.
    pub fn installing(self, installs: bool) -> Self {
        Self { installs, ..self }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("databases", &self.databases).finish_non_exhaustive()
    }
}

impl TriggerKind for Database {
    const KIND: Kind = Kind::Database;
    type Config = Config;
    type Trigger = DatabaseTrigger;

    fn check(&self, config: &Config, problems: &mut Problems) {
        config.check(&self.databases, problems);
    }

    fn describe(&self, config: &Config) -> String {
        config.describe()
    }

    /// Opens nothing: a database that is away is so for its triggers, and comes back.
    async fn bind(&self, config: Config, binding: Arc<Binding>) -> Result<DatabaseTrigger, BindError> {
        let refused = |why: &str| BindError(format!("{}: {why}", binding.path()));
        let mut problems = Problems::new();
        config.check(&self.databases, &mut problems);
        if let Some(problem) = problems.into_vec().first() {
            return Err(refused(&problem.message));
        }
        let wanted = config.database.clone();
        let (name, place) = self.databases.find(wanted.as_deref()).map_err(|(why, _)| refused(&why))?;
        let name: Arc<str> = name.into();
        match (config.source(place), place) {
            (Source::Channel(settings), Place::Postgres(server)) => {
                Ok(DatabaseTrigger::Channel(ChannelTrigger { name, server: server.clone(), settings }))
            }
            (Source::Channel(_), Place::Sqlite(_)) => Err(refused("a SQLite database has no channels")),
            (Source::Table(settings), Place::Postgres(server)) => {
                let (installs, server) = (self.installs, server.clone());
                Ok(DatabaseTrigger::Postgres(PostgresTrigger::new(&name, server, settings, installs)))
            }
            (Source::Table(settings), Place::Sqlite(file)) => {
                Ok(DatabaseTrigger::Sqlite(SqliteTrigger::new(&name, file.clone(), settings, self.installs)))
            }
        }
    }
}

/// One channel or table of one function.
pub enum DatabaseTrigger {
    /// Notifications of a channel.
    Channel(ChannelTrigger),
    /// Changes of a table in PostgreSQL.
    Postgres(PostgresTrigger),
    /// Changes of a table in a SQLite file.
    Sqlite(SqliteTrigger),
}

impl Trigger for DatabaseTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        match self {
            DatabaseTrigger::Channel(trigger) => trigger.run(cx).await,
            DatabaseTrigger::Postgres(trigger) => trigger.run(cx).await,
            DatabaseTrigger::Sqlite(trigger) => trigger.run(cx).await,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn server(url: &str) -> Place {
        Place::Postgres(Server { options: Box::new(url.parse().unwrap()), schema: "tripline_cdc".to_owned() })
    }

    #[test]
    fn where_a_database_is_shows_no_password() {
        let kind = Database::new(Databases::default().with("shop", server("postgres://me:hunter2@db/shop")));
        assert!(!format!("{kind:?}").contains("hunter2"));
        assert!(format!("{kind:?}").contains("shop"));
    }
}
