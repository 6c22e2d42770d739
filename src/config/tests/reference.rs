//! `docs/manifest.md` says what the schema says.

use super::*;

const REFERENCE: &str = include_str!("../../../docs/manifest.md");

/// The rows that the reference must have for a section: key, default, what it takes.
fn rows(section: &Value, prefix: &str, rows: &mut Vec<String>) {
    let required = |key: &str| section["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
    for (key, schema) in section["properties"].as_object().into_iter().flatten() {
        if schema["type"] == "object" && schema["properties"].is_object() {
            self::rows(schema, &format!("{prefix}{key}."), rows);
            continue;
        }
        // A table whose keys are names.
        if schema["additionalProperties"]["properties"].is_object() {
            self::rows(&schema["additionalProperties"], &format!("{prefix}{key}.NAME."), rows);
            continue;
        }
        let default = match (&schema["default"], required(key)) {
            (_, true) => "required".to_owned(),
            (Value::Null, _) => "none".to_owned(),
            (Value::Number(number), _) => format!("`{}`", words::plain(number)),
            (default, _) => format!("`{default}`"),
        };
        rows.push(format!("| `{prefix}{key}` | {default} | {} |", words::expected(schema)));
    }
}

/// The keys of a section and of the tables in it.
fn keys<'a>(section: &'a Value, prefix: &str) -> Vec<(String, &'a Value)> {
    let keys = section["properties"].as_object().into_iter().flatten();
    keys.flat_map(|(key, schema)| match schema["properties"].is_object() {
        true => self::keys(schema, &format!("{prefix}{key}.")),
        false => vec![(format!("{prefix}{key}"), schema)],
    })
    .collect()
}

#[cfg(all(
    feature = "http",
    feature = "websocket",
    feature = "pubsub",
    feature = "cron",
    feature = "database",
    feature = "job",
    feature = "timer"
))]
#[test]
fn the_reference_names_every_key_with_its_default_and_its_limits() {
    let mut kinds = real_kinds();
    kinds.add(trigger_job::Job::default()).unwrap();
    kinds.add(trigger_database::Database::default()).unwrap();
    let schema = schema(&kinds);
    let mut expected = Vec::new();
    rows(&schema["properties"]["engine"], "", &mut expected);
    let function = &schema["properties"]["functions"]["additionalProperties"];
    rows(function, "", &mut expected);
    let mut missing: Vec<String> = expected.into_iter().filter(|row| !REFERENCE.contains(row.as_str())).collect();
    // Defaults of a kind's own keys are not always in its schema; they are in its own reference.
    for shape in function["properties"]["triggers"]["items"]["oneOf"].as_array().unwrap() {
        for (key, schema) in keys(shape, "") {
            let (key, takes) = (format!("| `{key}` |"), format!("| {} |", words::expected(schema)));
            let told = |line: &str| line.starts_with(&key) && (line.contains(&takes) || key == "| `type` |");
            if !REFERENCE.lines().any(told) {
                missing.push(format!("{key} … {takes}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/manifest.md lacks these rows:\n{}", missing.join("\n"));
}

#[cfg(all(
    feature = "http",
    feature = "websocket",
    feature = "pubsub",
    feature = "cron",
    feature = "database",
    feature = "job",
    feature = "timer"
))]
#[test]
fn the_examples_of_the_reference_are_sound() {
    let examples: Vec<&str> =
        REFERENCE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2);
    let place = trigger_database::Server {
        options: Box::new("postgres://db/shop".parse().unwrap()),
        schema: "tripline_cdc".to_owned(),
    };
    let shop = trigger_database::Databases::default().with("shop", trigger_database::Place::Postgres(place));
    let mut kinds = kinds();
    kinds.add(trigger_database::Database::new(shop)).unwrap();
    for example in examples {
        let read = Document::parse("tripline.toml", example).and_then(|document| document.manifest(&kinds));
        read.unwrap_or_else(|report| panic!("{report}"));
    }
}
