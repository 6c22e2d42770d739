//! The statements that capture changes in PostgreSQL: functions, triggers, and the tables that they write to.
//!
//! Inserts and deletes are captured a statement at a time, from its transition table: a bulk load calls a function once.
//! Updates are captured row by row: PostgreSQL pairs old and new rows nowhere else, and a key that the update itself
//! changes cannot pair them. Functions run as who installed them (`SECURITY DEFINER`), so that writers need no rights
//! here, with nobody's names in their path.

use crate::config::{Capture, Operation, QUOTE};

/// The longest key that is kept as it is; of a longer one its hash.
const MAX_KEY_BYTES: usize = 200;

/// A name, quoted.
pub(super) fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A text, quoted.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The table, quoted.
pub(super) fn table(capture: &Capture) -> String {
    let parts: Vec<String> = capture.schema.iter().chain([&capture.table]).map(|part| name(part)).collect();
    parts.join(".")
}

/// What all triggers share.
pub(super) fn shared(schema: &str) -> Vec<String> {
    let schema = name(schema);
    vec![
        format!("CREATE SCHEMA {schema}"),
        format!(
            "CREATE TABLE {schema}.installed (\n  id integer PRIMARY KEY,\n  trigger text NOT NULL UNIQUE,\n  \
             definition text NOT NULL,\n  at timestamptz NOT NULL DEFAULT now()\n)"
        ),
        format!(
            "CREATE TABLE {schema}.changes (\n  trigger integer NOT NULL,\n  \
             id bigint GENERATED ALWAYS AS IDENTITY,\n  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),\n  \
             at timestamptz NOT NULL DEFAULT clock_timestamp(),\n  operation text NOT NULL,\n  key text,\n  \
             cause text,\n  old_row text,\n  new_row text,\n  PRIMARY KEY (trigger, id)\n)"
        ),
        format!("CREATE TABLE {schema}.refused (LIKE {schema}.changes, why text NOT NULL)"),
    ]
}

/// Removes what all triggers share.
pub(super) fn unshared(schema: &str) -> Vec<String> {
    let schema = name(schema);
    vec![format!("DROP TABLE {schema}.changes, {schema}.refused, {schema}.installed"), format!("DROP SCHEMA {schema}")]
}

/// What captures one trigger's changes. `key` are the columns that put them in order, `odd` those whose values cannot
/// be compared but as text.
pub(super) fn captures(schema: &str, id: i32, capture: &Capture, key: &[String], odd: &[String]) -> Vec<String> {
    capture.operations.iter().flat_map(|operation| capturing(schema, id, capture, *operation, key, odd)).collect()
}

/// Removes it. The triggers go with their functions, wherever their table is by now.
pub(super) fn removal(schema: &str, id: i32) -> Vec<String> {
    let function = |operation: &Operation| {
        format!("DROP FUNCTION IF EXISTS {}.t{id}_{}() CASCADE", name(schema), operation.as_str())
    };
    Operation::ALL.iter().map(function).collect()
}

fn capturing(
    schema: &str,
    id: i32,
    capture: &Capture,
    operation: Operation,
    key: &[String],
    odd: &[String],
) -> Vec<String> {
    let (word, outbox, channel) = (operation.as_str(), name(schema), literal(schema));
    let function = format!("{outbox}.t{id}_{word}()");
    // 63 bytes are a name.
    let trigger = name(&format!("{}_{id}_{word}", schema.chars().take(40).collect::<String>()));
    let table = table(capture);
    let (old, new) = match operation {
        Operation::Insert => ("NULL", "row_to_json(new)::text"),
        Operation::Update => ("row_to_json(old)::text", "row_to_json(new)::text"),
        Operation::Delete => ("row_to_json(old)::text", "NULL"),
    };
    let key = key_of(key, if operation == Operation::Delete { "old" } else { "new" });
    let values = format!(
        "{id}, '{word}', {key},\n         left(nullif(current_setting('tripline.cause', true), ''), 300), {old}, {new}"
    );
    let insert = format!("INSERT INTO {outbox}.changes (trigger, operation, key, cause, old_row, new_row)");
    let notify = format!("PERFORM pg_notify({channel}, '{id}');");
    let when = capture.when.as_ref().map(|when| format!("(\n{when}\n)"));
    let (body, fires) = match operation {
        Operation::Insert | Operation::Delete => {
            let (rows, alias, other) = match operation {
                Operation::Insert => ("NEW TABLE AS tripline_rows", "new", "old"),
                _ => ("OLD TABLE AS tripline_rows", "old", "new"),
            };
            // The row that there is not has nothing but NULLs, for conditions that ask both.
            let from = when.map_or(String::new(), |when| {
                format!("\n  CROSS JOIN (SELECT (NULL::{table}).*) AS {other}\n  WHERE {when}")
            });
            let body = format!(
                "  {insert}\n  SELECT {values}\n  FROM tripline_rows AS {alias}{from};\n  IF FOUND THEN {notify} END IF;"
            );
            (body, format!("REFERENCING {rows} FOR EACH STATEMENT"))
        }
        Operation::Update => {
            let capture_it = format!("{insert}\n  VALUES ({values});\n  {notify}");
            let body = match when {
                None => format!("  {capture_it}"),
                Some(when) => format!("  IF {when} THEN\n  {capture_it}\n  END IF;"),
            };
            let differs = |column: &String| {
                let (cast, column) = (if odd.contains(column) { "::text" } else { "" }, name(column));
                format!("OLD.{column}{cast} IS DISTINCT FROM NEW.{column}{cast}")
            };
            let differ: Vec<String> = capture.columns.iter().map(differs).collect();
            let condition = if differ.is_empty() { String::new() } else { format!(" WHEN ({})", differ.join(" OR ")) };
            (body, format!("FOR EACH ROW{condition}"))
        }
    };
    let upper = word.to_uppercase();
    vec![
        format!(
            "CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n\
             SET search_path = pg_catalog, pg_temp AS {QUOTE}\n#variable_conflict use_column\nBEGIN\n{body}\n  \
             RETURN NULL;\nEND\n{QUOTE}"
        ),
        format!("CREATE TRIGGER {trigger} AFTER {upper} ON {table}\n{fires} EXECUTE FUNCTION {function}"),
    ]
}

/// The expression for what puts a row's changes in order.
fn key_of(columns: &[String], row: &str) -> String {
    let value = match columns {
        [] => return "NULL".to_owned(),
        [column] => format!("{row}.{}::text", name(column)),
        columns => {
            let columns: Vec<String> = columns.iter().map(|column| format!("{row}.{}", name(column))).collect();
            format!("jsonb_build_array({})::text", columns.join(", "))
        }
    };
    format!("CASE WHEN octet_length({value}) > {MAX_KEY_BYTES} THEN md5({value}) ELSE {value} END")
}

/// A statement that is sound if the condition is.
pub(super) fn trial(capture: &Capture, when: &str) -> String {
    let table = table(capture);
    format!("SELECT 1 FROM (SELECT (NULL::{table}).*) AS old, (SELECT (NULL::{table}).*) AS new WHERE (\n{when}\n)")
}
