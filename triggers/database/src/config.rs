//! The section of a database trigger in the manifest: its keys, their defaults, and every mistake in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::Problems;

use crate::{Databases, Place};

/// How many notifications a trigger takes at once unless told otherwise: as many as the engine runs.
const DEFAULT_IN_FLIGHT: u32 = 256;
const MAX_IN_FLIGHT: u32 = 65_536;

const DEFAULT_BATCH: u32 = 256;
const MAX_BATCH: u32 = 10_000;

/// The longest name that PostgreSQL does not cut, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// The most columns that may be named.
const MAX_COLUMNS: usize = 64;

/// The longest condition, in bytes.
const MAX_WHEN_BYTES: usize = 4096;

/// What functions in PostgreSQL are quoted with.
pub(crate) const QUOTE: &str = "$tripline$";

/// Notifications of a PostgreSQL channel, or changes of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database, by its name in `[engine.databases]`. Left out, the engine's own store where that is PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The channel whose notifications (`NOTIFY`) run the function. PostgreSQL only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Who runs a notification: `"one"` engine of those that listen (default), or `"all"` of them. For channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Whether a notification is committed to the engine's store before it is run from there: it then survives a crash.
    /// For channels: changes of tables always are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
    /// How many notifications are with the engine at once, 1 to 65536. More wait in the connection. For channels.
    /// Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_in_flight: Option<u32>,
    /// What must hold for each event. Given so that a manifest that asks for more than its source can do is refused: a
    /// channel gives `"at_least_once"` only with `durable = true` (from the moment the engine has the notification), a
    /// table always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
    /// The table whose changes run the function: `"public.orders"`, or `"orders"` (in `public`, where there are
    /// schemas). What captures them is installed by `tripline database apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Which changes: `"insert"`, `"update"`, `"delete"`. All three unless given. For tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<Operation>>,
    /// Columns of which an update must change one. For tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// What must hold for a change: an SQL condition over `old` and `new`. It is asked by the writer's transaction. For
    /// tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The columns whose values put changes in order: those with the same values run one after another. The primary key
    /// unless given; `[]` for no order. For tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// How many changes are taken over at once, 1 to 10000. For tables. Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub batch: Option<u32>,
}

/// Who runs a notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One of the engines that listen.
    #[default]
    One,
    /// Every one of them.
    All,
}

/// What must hold for each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// It is taken once or, when something goes wrong on the way, not at all.
    AtMostOnce,
    /// It is run until it succeeded or became a dead letter; possibly more than once.
    AtLeastOnce,
}

/// What was done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It was added.
    Insert,
    /// It was changed.
    Update,
    /// It was removed.
    Delete,
}

impl Operation {
    pub(crate) const ALL: [Operation; 3] = [Operation::Insert, Operation::Update, Operation::Delete];

    /// The operation's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }

    /// The operation whose word this is.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// What a section means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Channel(ChannelSettings),
    Table(TableSettings),
}

/// Notifications of one channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChannelSettings {
    pub(crate) channel: String,
    pub(crate) mode: Mode,
    pub(crate) durable: bool,
    pub(crate) max_in_flight: u32,
}

/// Changes of one table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableSettings {
    pub(crate) capture: Capture,
    pub(crate) batch: u32,
}

/// Which changes are captured, and how: what is installed in the database. Written as JSON it is how an installation
/// is known to be this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Capture {
    /// The schema, where the database has any.
    pub(crate) schema: Option<String>,
    pub(crate) table: String,
    pub(crate) operations: Vec<Operation>,
    pub(crate) columns: Vec<String>,
    pub(crate) when: Option<String>,
    /// `None` for the primary key.
    pub(crate) key: Option<Vec<String>>,
}

impl Capture {
    /// The table as people write it.
    pub(crate) fn name(&self) -> String {
        self.schema.iter().chain([&self.table]).map(String::as_str).collect::<Vec<_>>().join(".")
    }

    /// Whether events are in order, by whatever key.
    pub(crate) fn is_ordered(&self) -> bool {
        self.key.as_ref().is_none_or(|key| !key.is_empty())
    }
}

impl Config {
    /// What a checked section means in this place.
    pub(crate) fn source(self, place: &Place) -> Source {
        if let Some(channel) = self.channel {
            return Source::Channel(ChannelSettings {
                channel,
                mode: self.mode.unwrap_or_default(),
                durable: self.durable,
                max_in_flight: self.max_in_flight.unwrap_or(DEFAULT_IN_FLIGHT),
            });
        }
        let table = self.table.unwrap_or_default();
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
            None => (Some("public".to_owned()), table),
        };
        let schema = schema.filter(|_| matches!(place, Place::Postgres(_)));
        let mut operations = self.operations.unwrap_or_else(|| Operation::ALL.to_vec());
        operations.sort_unstable();
        let capture = Capture {
            schema,
            table,
            operations,
            columns: self.columns.unwrap_or_default(),
            when: self.when,
            key: self.key,
        };
        Source::Table(TableSettings { capture, batch: self.batch.unwrap_or(DEFAULT_BATCH) })
    }

    /// Finds every mistake that the schema cannot.
    pub(crate) fn check(&self, databases: &Databases, problems: &mut Problems) {
        let place = match databases.find(self.database.as_deref()) {
            Ok((_, place)) => Some(place),
            Err((message, help)) => {
                problems.add("database", message, help);
                None
            }
        };
        match (&self.channel, &self.table) {
            (Some(channel), None) => self.check_channel(channel, place, problems),
            (None, Some(table)) => self.check_table(table, place, problems),
            (Some(_), Some(_)) => {
                problems.add("table", "a trigger has a channel or a table", "make two triggers of them");
            }
            (None, None) => problems.add(
                "table",
                "the trigger has neither a channel nor a table",
                "add channel = \"images\" for notifications, or table = \"public.images\" for changes",
            ),
        }
    }

    fn check_channel(&self, channel: &str, place: Option<&Place>, problems: &mut Problems) {
        for (key, given) in [
            ("operations", self.operations.is_some()),
            ("columns", self.columns.is_some()),
            ("when", self.when.is_some()),
            ("key", self.key.is_some()),
            ("batch", self.batch.is_some()),
        ] {
            if given {
                problems.add(key, format!("{key} is not for channels"), "leave it out: it is about a table's changes");
            }
        }
        if matches!(place, Some(Place::Sqlite(_))) {
            problems.add("channel", "a SQLite database has no channels", "use a table, or a PostgreSQL database");
        }
        check_name("channel", "channel", channel, problems);
        range("max_in_flight", self.max_in_flight, MAX_IN_FLIGHT, problems);
        if self.guarantee == Some(Guarantee::AtLeastOnce) && !self.durable {
            problems.add(
                "guarantee",
                "a notification that is not kept before it runs is lost with the engine: at most once",
                "add durable = true, or ask for \"at_most_once\"; a table's changes are never lost",
            );
        }
    }

    fn check_table(&self, table: &str, place: Option<&Place>, problems: &mut Problems) {
        for (key, given) in
            [("mode", self.mode.is_some()), ("durable", self.durable), ("max_in_flight", self.max_in_flight.is_some())]
        {
            if given {
                problems.add(key, format!("{key} is not for tables"), "leave it out: changes are kept and run once");
            }
        }
        if self.guarantee == Some(Guarantee::AtMostOnce) {
            problems.add(
                "guarantee",
                "a change is run until it succeeded or became a dead letter: at least once",
                "leave out guarantee, or ask for \"at_least_once\"",
            );
        }
        let parts: Vec<&str> = table.split('.').collect();
        if parts.len() > 2 {
            problems.add("table", format!("{:?} has too many parts", shown(table)), "write schema and table");
        } else {
            parts.iter().for_each(|part| check_name("table", "table", part, problems));
        }
        if parts.len() == 2 && parts[0] != "main" && matches!(place, Some(Place::Sqlite(_))) {
            problems.add("table", "a SQLite database has no schemas", "write the table's name alone");
        }
        let operations = self.operations.as_deref().unwrap_or(&Operation::ALL);
        if operations.is_empty() || (1..operations.len()).any(|at| operations[..at].contains(&operations[at])) {
            let help = "choose from \"insert\", \"update\" and \"delete\", each once";
            problems.add("operations", "the operations are none, or one of them twice", help);
        }
        if let Some(columns) = &self.columns {
            if columns.is_empty() {
                problems.add("columns", "no column is named", "leave it out, or name columns");
            }
            if !operations.contains(&Operation::Update) {
                problems.add("columns", "columns are asked for in updates only", "add \"update\" to operations");
            }
            check_columns("columns", columns, problems);
        }
        check_columns("key", self.key.as_deref().unwrap_or_default(), problems);
        if let Some(when) = &self.when {
            check_when(when, problems);
        }
        range("batch", self.batch, MAX_BATCH, problems);
    }

    /// The source, for people.
    pub(crate) fn describe(&self) -> String {
        let within = self.database.as_deref().map(|name| format!(" in {}", shown(name))).unwrap_or_default();
        if let Some(channel) = &self.channel {
            let mode = if self.mode == Some(Mode::All) { ", on every engine" } else { "" };
            let durable = if self.durable { ", durable" } else { "" };
            return format!("channel {}{within}{mode}{durable}", shown(channel));
        }
        let operations = self.operations.as_deref().unwrap_or(&Operation::ALL);
        let operations: Vec<&str> = operations.iter().map(|one| one.as_str()).collect();
        format!("{} of {}{within}", operations.join(", "), shown(self.table.as_deref().unwrap_or_default()))
    }
}

fn check_columns(key: &str, columns: &[String], problems: &mut Problems) {
    if columns.len() > MAX_COLUMNS {
        let message = format!("{} columns are named, the limit is {MAX_COLUMNS}", columns.len());
        problems.add(key, message, "name fewer");
        return;
    }
    for (at, column) in columns.iter().enumerate() {
        check_name(key, "column", column, problems);
        if columns[..at].contains(column) {
            problems.add(key, format!("the column {:?} is named twice", shown(column)), "name it once");
        }
    }
}

/// A condition must be one expression, as far as can be told without its database.
fn check_when(when: &str, problems: &mut Problems) {
    let why = if when.trim().is_empty() {
        "it is empty".to_owned()
    } else if when.len() > MAX_WHEN_BYTES {
        format!("it has {} bytes, the limit is {MAX_WHEN_BYTES}", when.len())
    } else if when.contains(['\0', ';']) || when.contains(QUOTE) {
        format!("it has a NUL, a \";\" or {QUOTE:?}")
    } else {
        return;
    };
    problems.add("when", format!("the condition is not one: {why}"), "write one SQL condition over old and new");
}

fn range(key: &str, value: Option<u32>, max: u32, problems: &mut Problems) {
    if let Some(value) = value.filter(|value| !(1..=max).contains(value)) {
        problems.add(key, format!("{key} is {value}"), format!("choose from 1 to {max}"));
    }
}

/// Names are quoted where they are used, so that everything is one but what a database would cut or refuse.
fn check_name(key: &str, what: &str, name: &str, problems: &mut Problems) {
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("it has {} bytes, the limit is {MAX_NAME_BYTES}", name.len())
    } else if let Some(c) = name.chars().find(|c| c.is_control()) {
        format!("it has {c:?}")
    } else {
        return;
    };
    let help = format!("write 1 to {MAX_NAME_BYTES} bytes, as the database has it");
    problems.add(key, format!("the {what} {:?} is not a name: {why}", shown(name)), help);
}

/// What was typed, cut to what a line takes.
fn shown(text: &str) -> String {
    const SHOWN: usize = 128;
    if text.chars().count() <= SHOWN { text.to_owned() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        let file = Place::Sqlite("shop.db".into());
        Databases::default().with("file", file).with("shop", crate::tests::server("postgres://me:hunter2@db/shop"))
    }

    fn mistakes(config: serde_json::Value) -> Vec<String> {
        let config: Config = serde_json::from_value(config).unwrap();
        let mut problems = Problems::new();
        config.check(&databases(), &mut problems);
        problems.into_vec().into_iter().map(|one| one.message).collect()
    }

    #[test]
    fn a_guarantee_that_the_source_cannot_give_is_refused() {
        use serde_json::json;
        let channel = |keys: serde_json::Value| {
            let mut section = json!({ "database": "shop", "channel": "images" });
            section.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            mistakes(section)
        };
        let told = channel(json!({ "guarantee": "at_least_once" }));
        assert!(told[0].contains("at most once"), "{told:?}");
        assert!(channel(json!({ "guarantee": "at_least_once", "durable": true })).is_empty());
        assert!(channel(json!({ "guarantee": "at_most_once" })).is_empty());
        let table = json!({ "database": "file", "table": "images", "guarantee": "at_most_once" });
        assert!(mistakes(table)[0].contains("at least once"));
        assert!(mistakes(json!({ "database": "file", "table": "images", "guarantee": "at_least_once" })).is_empty());
    }

    #[test]
    fn every_mistake_is_told() {
        use serde_json::json;
        for (section, message) in [
            (json!({ "database": "shop" }), "neither a channel nor a table"),
            (json!({ "database": "shop", "channel": "a", "table": "b" }), "a channel or a table"),
            (json!({ "table": "b" }), "the engine's store is not PostgreSQL"),
            (json!({ "database": "none", "table": "b" }), "no database \"none\""),
            (json!({ "database": "file", "channel": "a" }), "has no channels"),
            (json!({ "database": "shop", "channel": "a", "when": "true" }), "when is not for channels"),
            (json!({ "database": "shop", "channel": "" }), "it is empty"),
            (json!({ "database": "shop", "channel": "x".repeat(64) }), "64 bytes"),
            (json!({ "database": "shop", "channel": "a", "max_in_flight": 0 }), "max_in_flight is 0"),
            (json!({ "database": "shop", "table": "b", "mode": "all" }), "mode is not for tables"),
            (json!({ "database": "shop", "table": "a.b.c" }), "too many parts"),
            (json!({ "database": "file", "table": "public.b" }), "no schemas"),
            (json!({ "database": "shop", "table": ".b" }), "it is empty"),
            (json!({ "database": "shop", "table": "b", "operations": [] }), "none"),
            (json!({ "database": "shop", "table": "b", "operations": ["insert", "insert"] }), "twice"),
            (
                json!({ "database": "shop", "table": "b", "operations": ["insert"], "columns": ["a"] }),
                "in updates only",
            ),
            (json!({ "database": "shop", "table": "b", "columns": [] }), "no column"),
            (json!({ "database": "shop", "table": "b", "key": ["a", "a"] }), "named twice"),
            (json!({ "database": "shop", "table": "b", "when": "true); DROP TABLE b; --" }), "not one"),
            (json!({ "database": "shop", "table": "b", "when": " " }), "it is empty"),
            (json!({ "database": "shop", "table": "b", "batch": 10_001 }), "batch is 10001"),
        ] {
            let told = mistakes(section.clone());
            assert!(told.len() == 1 && told[0].contains(message), "{section}: {told:?}");
        }
    }
}
