//! Whether what an event says is what a filter asks for.

use serde_json::Value;

use super::pattern::{Compare, Node, Test, same};

/// Whether a value of the payload matches; `None` where there is none.
pub(super) fn node(node_: &Node, value: Option<&Value>) -> bool {
    match node_ {
        Node::Any(tests) => any(tests, value),
        Node::Table { fields, or } => {
            // Of a list of tables, one must match.
            if let Some(Value::Array(values)) = value {
                return values.iter().any(|value| node(node_, Some(value)));
            }
            fields.iter().all(|(key, field)| node(field, value.and_then(|value| value.get(key))))
                && or.as_ref().is_none_or(|or| or.iter().any(|one| node(one, value)))
        }
    }
}

fn any(tests: &[Test], value: Option<&Value>) -> bool {
    match value {
        // Of a list, one element must match.
        Some(Value::Array(values)) => {
            tests.iter().any(|test| matches!(test, Test::Exists(true)))
                || values.iter().any(|value| !value.is_array() && any(tests, Some(value)))
        }
        value => tests.iter().any(|test| self::test(test, value)),
    }
}

/// The same of a text beside the payload.
pub(super) fn any_text(tests: &[Test], value: Option<&str>) -> bool {
    tests.iter().any(|test| match (test, value) {
        (Test::Exists(exists), value) => *exists == value.is_some(),
        (_, None) => false,
        (Test::AnythingBut(but), value) => !any_text(but, value),
        (Test::Is(Value::String(text)), Some(value)) => text == value,
        // What headers and attributes say is text: a number in a filter is asked of what it says.
        (Test::Is(literal), Some(value)) => {
            let said = literal.to_string();
            said == value
        }
        (Test::Numeric(compares), Some(value)) => value.parse().is_ok_and(|number| numeric(compares, number)),
        (test, Some(value)) => text(test, value),
    })
}

fn test(test: &Test, value: Option<&Value>) -> bool {
    match (test, value) {
        (Test::Exists(exists), value) => *exists == value.is_some(),
        (_, None) => false,
        (Test::AnythingBut(but), value) => !but.iter().any(|test| self::test(test, value)),
        (Test::Is(Value::Number(one)), Some(Value::Number(other))) => same(one, other),
        (Test::Is(literal), Some(value)) => literal == value,
        (Test::Numeric(compares), Some(value)) => value.as_f64().is_some_and(|number| numeric(compares, number)),
        (test, Some(value)) => value.as_str().is_some_and(|value| text(test, value)),
    }
}

fn numeric(compares: &[(Compare, f64)], number: f64) -> bool {
    compares.iter().all(|(compare, than)| match compare {
        Compare::Less => number < *than,
        Compare::AtMost => number <= *than,
        Compare::Equal => number == *than,
        Compare::AtLeast => number >= *than,
        Compare::More => number > *than,
    })
}

fn text(test: &Test, value: &str) -> bool {
    match test {
        Test::Prefix(prefix) => value.starts_with(prefix),
        Test::Suffix(suffix) => value.ends_with(suffix),
        Test::IgnoreCase(text) => text.to_lowercase() == value.to_lowercase(),
        Test::Wildcard(pieces) => wildcard(pieces, value),
        Test::Is(_) | Test::Numeric(_) | Test::Exists(_) | Test::AnythingBut(_) => false,
    }
}

/// Takes each piece where it comes first: one pass, whatever the text is.
fn wildcard(pieces: &[String], value: &str) -> bool {
    let [first, middle @ .., last] = pieces else { return pieces.first().is_some_and(|only| only == value) };
    let Some(rest) = value.strip_prefix(first.as_str()) else { return false };
    let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
    for piece in middle {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}
