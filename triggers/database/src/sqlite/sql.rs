//! The statements that capture changes in a SQLite file: triggers, and the tables that they write to.
//!
//! Writers are other programs with whatever version of SQLite they have, and a trigger that fails fails their statement:
//! what stands here is understood by all that know JSON.

use crate::config::{Capture, Operation};

/// The longest key that is kept as it is, in characters; of a longer one the beginning.
const MAX_KEY: usize = 200;

/// Puts a change aside.
pub(super) const PUT_ASIDE: &str = "INSERT INTO tripline_refused
    (id, trigger, at, operation, key, cause, old_row, new_row, why)
    SELECT id, trigger, at, operation, key, cause, old_row, new_row, ?2 FROM tripline_changes WHERE id = ?1";

/// Reads the next changes.
pub(super) const READ: &str = "SELECT id, at, operation, substr(key, 1, 255), substr(cause, 1, 300),
    CASE WHEN size <= ?3 THEN old_row END, CASE WHEN size <= ?3 THEN new_row END, size > ?3
    FROM (SELECT *, coalesce(length(old_row), 0) + coalesce(length(new_row), 0) AS size
          FROM tripline_changes WHERE trigger = ?1 ORDER BY id LIMIT ?2)
    ORDER BY id";

/// A name, quoted.
pub(super) fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A text, quoted.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What all triggers share.
pub(super) fn shared() -> Vec<String> {
    let columns = "trigger INTEGER NOT NULL,\n  at INTEGER NOT NULL,\n  operation TEXT NOT NULL,\n  key TEXT,\n  \
                   cause TEXT,\n  old_row TEXT,\n  new_row TEXT";
    vec![
        "CREATE TABLE tripline_installed (\n  id INTEGER PRIMARY KEY,\n  trigger TEXT NOT NULL UNIQUE\n)".to_owned(),
        format!("CREATE TABLE tripline_changes (\n  id INTEGER PRIMARY KEY AUTOINCREMENT,\n  {columns}\n)"),
        "CREATE INDEX tripline_changes_by_trigger ON tripline_changes (trigger, id)".to_owned(),
        format!("CREATE TABLE tripline_refused (\n  id INTEGER NOT NULL,\n  {columns},\n  why TEXT NOT NULL\n)"),
        // Has a row while the engine writes for a function, and only within that transaction.
        "CREATE TABLE tripline_cause (cause TEXT NOT NULL)".to_owned(),
    ]
}

/// Removes what all triggers share.
pub(super) fn unshared() -> Vec<String> {
    ["changes", "refused", "installed", "cause"].map(|table| format!("DROP TABLE tripline_{table}")).to_vec()
}

/// The name of a trigger on a table.
pub(super) fn trigger(id: i64, operation: Operation) -> String {
    format!("tripline_{id}_{}", operation.as_str())
}

/// What captures one trigger's changes of a table with these columns.
pub(super) fn captures(id: i64, capture: &Capture, columns: &[String], key: &[String]) -> Vec<(Operation, String)> {
    let one = |operation: &Operation| (*operation, capturing(id, capture, *operation, columns, key));
    capture.operations.iter().map(one).collect()
}

/// Removes it.
pub(super) fn removal(id: i64) -> Vec<String> {
    Operation::ALL.iter().map(|operation| format!("DROP TRIGGER IF EXISTS {}", trigger(id, *operation))).collect()
}

fn capturing(id: i64, capture: &Capture, operation: Operation, columns: &[String], key: &[String]) -> String {
    let (word, upper) = (operation.as_str(), operation.as_str().to_uppercase());
    let (old, new) = match operation {
        Operation::Insert => ("NULL".to_owned(), row("NEW", columns)),
        Operation::Update => (row("OLD", columns), row("NEW", columns)),
        Operation::Delete => (row("OLD", columns), "NULL".to_owned()),
    };
    let key = key_of(key, if operation == Operation::Delete { "OLD" } else { "NEW" });
    let differs = |column: &String| format!("OLD.{0} IS NOT NEW.{0}", name(column));
    let differ: Vec<String> = match operation {
        Operation::Update => capture.columns.iter().map(differs).collect(),
        Operation::Insert | Operation::Delete => Vec::new(),
    };
    let differ = (!differ.is_empty()).then(|| format!("({})", differ.join(" OR ")));
    let asked = capture.when.as_ref().map(|when| format!("(\n{when}\n)"));
    let conditions: Vec<String> = differ.into_iter().chain(asked).collect();
    let when = if conditions.is_empty() { String::new() } else { format!("WHEN {}\n", conditions.join(" AND ")) };
    format!(
        "CREATE TRIGGER {} AFTER {upper} ON {}\n{when}BEGIN\n  \
         INSERT INTO tripline_changes (trigger, at, operation, key, cause, old_row, new_row) VALUES (\n    \
         {id}, CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER), '{word}',\n    {key},\n    \
         (SELECT cause FROM tripline_cause),\n    {old},\n    {new});\nEND",
        trigger(id, operation),
        name(&capture.table)
    )
}

/// A row as JSON. Bytes are written as PostgreSQL does; `json_object` would refuse them, and with them the write.
fn row(row: &str, columns: &[String]) -> String {
    let value = |column: &String| {
        let (value, key) = (format!("{row}.{}", name(column)), serde_json::Value::from(column.as_str()).to_string());
        let value = format!(
            "CASE typeof({value}) WHEN 'blob' THEN '\"\\\\x' || lower(hex({value})) || '\"' ELSE json_quote({value}) END"
        );
        format!("{} || {value}", literal(&format!("{key}:")))
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    format!("'{{' || {} || '}}'", values.join("\n      || ',' || "))
}

/// The expression for what puts a row's changes in order.
fn key_of(columns: &[String], row: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("{row}.{}", name(column))).collect();
    let texts: Vec<String> = columns.iter().map(|column| format!("CAST({column} AS TEXT)")).collect();
    match &*texts {
        [] => "NULL".to_owned(),
        [text] => format!("substr({text}, 1, {MAX_KEY})"),
        texts => format!("substr(json_array({}), 1, {MAX_KEY})", texts.join(", ")),
    }
}

/// Statements that fire the triggers of a table: to prepare them is to try the triggers.
pub(super) fn trials(capture: &Capture, columns: &[String]) -> Vec<String> {
    let table = name(&capture.table);
    let one = |operation: &Operation| match operation {
        Operation::Insert => format!("INSERT INTO {table} DEFAULT VALUES"),
        Operation::Update => {
            let column = columns.first().map(|column| name(column)).unwrap_or_default();
            format!("UPDATE {table} SET {column} = {column}")
        }
        Operation::Delete => format!("DELETE FROM {table}"),
    };
    capture.operations.iter().map(one).collect()
}
