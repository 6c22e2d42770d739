//! What a schema asks for and what a value is, in words.

use serde_json::{Number, Value};

/// The longest text of a value that a message repeats, in characters.
const MAX_QUOTED: usize = 60;

/// What a schema asks for: `a whole number from 1 to 4096`, `"sync" or "async"`.
pub(super) fn expected(schema: &Value) -> String {
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    if let Some(choices) = schema["enum"].as_array() {
        return any_of(choices.iter().filter(|choice| !choice.is_null()).map(Value::to_string));
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[keyword].as_array() {
            // TOML has no null: that a value may be one says that its key may be left out.
            return any_of(choices.iter().filter(|choice| choice["type"] != "null").map(expected));
        }
    }
    match &schema["type"] {
        Value::String(word) => of_type(word, schema),
        Value::Array(words) => {
            let words = words.iter().filter_map(Value::as_str).filter(|word| *word != "null");
            any_of(words.map(|word| of_type(word, schema)))
        }
        _ => "another value".to_owned(),
    }
}

fn of_type(word: &str, schema: &Value) -> String {
    match word {
        "string" => match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
            (None | Some(0), None) => "a string".to_owned(),
            (Some(1), None) => "a string that is not empty".to_owned(),
            (Some(least), None) => format!("a string of at least {least} characters"),
            (None | Some(0), Some(most)) => format!("a string of at most {most} characters"),
            (Some(least), Some(most)) => format!("a string of {least} to {most} characters"),
        },
        "boolean" => "true or false".to_owned(),
        "integer" => format!("a whole number{}", range(schema)),
        "number" => format!("a number{}", range(schema)),
        "array" => match schema["items"]["type"].as_str() {
            Some("string") => "an array of strings".to_owned(),
            Some("object") => "an array of tables".to_owned(),
            Some("integer" | "number") => "an array of numbers".to_owned(),
            _ => "an array".to_owned(),
        },
        "object" => "a table".to_owned(),
        other => format!("a value of the type {other}"),
    }
}

fn range(schema: &Value) -> String {
    let bound = |keyword: &str| schema[keyword].as_number().map(plain);
    let above = bound("exclusiveMinimum").map(|least| format!(" above {least}"));
    match (bound("minimum"), bound("maximum"), above) {
        (_, Some(most), Some(above)) => format!("{above} and up to {most}"),
        (_, None, Some(above)) => above,
        (Some(least), Some(most), None) => format!(" from {least} to {most}"),
        (Some(least), None, None) => format!(" of at least {least}"),
        (None, Some(most), None) => format!(" of at most {most}"),
        (None, None, None) => String::new(),
    }
}

/// A number as people write it: `1`, not `1.0`.
pub(super) fn plain(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

/// What a value is: itself, where it is short; never a secret's text.
pub(super) fn found(value: &Value, secret: bool) -> String {
    match value {
        Value::Null => "something that cannot be kept".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::String(_) if secret => "a string".to_owned(),
        Value::Number(_) if secret => "a number".to_owned(),
        Value::Bool(_) if secret => "true or false".to_owned(),
        Value::String(text) => quoted(text),
        Value::Number(number) => plain(number),
        Value::Bool(truth) => truth.to_string(),
    }
}

/// A text in quotes, without what is too long of it.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `a, b or c`.
pub(super) fn any_of(choices: impl Iterator<Item = String>) -> String {
    join(choices, "or")
}

/// `a, b and c`.
pub(super) fn all_of(parts: impl Iterator<Item = String>) -> String {
    join(parts, "and")
}

fn join(parts: impl Iterator<Item = String>, word: &str) -> String {
    let mut parts: Vec<String> = parts.collect();
    match parts.pop() {
        None => "nothing".to_owned(),
        Some(only) if parts.is_empty() => only,
        Some(last) => format!("{} {word} {last}", parts.join(", ")),
    }
}

/// What a schema says about itself, as one line; its first sentence where all of it is long.
pub(super) fn meaning(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= 240 {
        return Some(text);
    }
    let first = text.split_once(". ").map(|(first, _)| format!("{first}."));
    Some(first.unwrap_or(text))
}

/// The word that was probably meant.
pub(super) fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Whoever types more than this did not mean a key.
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let likeness = |word: &str| match strsim::osa_distance(&typed, word) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(&typed, word),
    };
    let best = known.into_iter().map(|word| (likeness(word), word)).max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| *likeness >= 0.85).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_said_in_words() {
        for (schema, words) in [
            (json!({ "type": "string" }), "a string"),
            (json!({ "type": ["string", "null"], "maxLength": 5 }), "a string of at most 5 characters"),
            (json!({ "type": "string", "minLength": 1 }), "a string that is not empty"),
            (json!({ "type": "string", "minLength": 1, "maxLength": 5 }), "a string of 1 to 5 characters"),
            (json!({ "type": "integer", "minimum": 1, "maximum": 4096 }), "a whole number from 1 to 4096"),
            (json!({ "type": "number", "minimum": 0.0 }), "a number of at least 0"),
            (json!({ "type": "number", "maximum": 0.5 }), "a number of at most 0.5"),
            (json!({ "type": "number", "exclusiveMinimum": 0 }), "a number above 0"),
            (json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 9 }), "a number above 0 and up to 9"),
            (json!({ "type": "boolean" }), "true or false"),
            (json!({ "enum": ["a", "b", null] }), "\"a\" or \"b\""),
            (json!({ "const": "a" }), "\"a\""),
            (json!({ "oneOf": [{ "const": "a" }, { "const": "b" }, { "const": "c" }] }), "\"a\", \"b\" or \"c\""),
            (
                json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
                "a string or an array of strings",
            ),
            (json!({ "type": "array", "items": { "type": "object" } }), "an array of tables"),
            (json!({ "type": "array", "items": { "type": "integer" } }), "an array of numbers"),
            (json!({ "type": "array" }), "an array"),
            (json!({ "type": "object" }), "a table"),
            (json!({}), "another value"),
            (json!(true), "another value"),
        ] {
            assert_eq!(expected(&schema), words);
        }
    }

    #[test]
    fn a_value_is_shown_unless_it_is_long_or_secret() {
        assert_eq!(found(&json!("abc"), false), "\"abc\"");
        assert_eq!(found(&json!("abc"), true), "a string");
        assert_eq!(found(&json!(4711), true), "a number");
        assert_eq!(found(&json!(2.5), false), "2.5");
        assert_eq!(found(&json!(["abc"]), false), "an array");
        let long = found(&json!("ä".repeat(1000)), false);
        assert_eq!(long.chars().count(), MAX_QUOTED + 3);
    }

    #[test]
    fn the_nearest_word_is_suggested_and_a_strange_one_is_not() {
        let known = ["retry_count", "retry", "retry_delay_seconds", "module", "path"];
        for (typed, meant) in [
            ("retry_coun", Some("retry_count")),
            ("retries", Some("retry")),
            ("Module", Some("module")),
            ("retry-count", Some("retry_count")),
            ("pth", Some("path")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(suggestion(typed, known), meant, "{typed}");
        }
        assert_eq!(suggestion(&"retry_count".repeat(1000), known), None);
    }

    #[test]
    fn a_long_meaning_is_cut_after_its_first_sentence() {
        assert_eq!(meaning(&json!({ "description": "One\ntwo. Three." })).unwrap(), "One two. Three.");
        let long = format!("First. {}", "x".repeat(300));
        assert_eq!(meaning(&json!({ "description": long })).unwrap(), "First.");
        assert_eq!(meaning(&json!({})), None);
    }
}
