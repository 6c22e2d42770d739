//! What a trigger's payloads must be: a JSON Schema, asked before any guest runs.
//!
//! Draft 2020-12 unless the schema names another one. It is compiled when the manifest is read; references lead nowhere
//! but into itself, patterns take time in proportion to what they look at.

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

/// The largest schema, in bytes of JSON.
pub const MAX_BYTES: usize = 256 << 10;

/// Of a mistake, what is told: it may name a value of any size.
const MAX_TOLD: usize = 300;

/// A schema that was compiled.
#[derive(Clone, Debug)]
pub struct PayloadSchema(Validator);

impl PayloadSchema {
    /// Compiles a schema; the error says what is wrong with it.
    pub fn read(schema: &Value) -> Result<Self, String> {
        if schema.to_string().len() > MAX_BYTES {
            return Err(format!("a schema has at most {MAX_BYTES} bytes"));
        }
        let validator = jsonschema::options().with_pattern_options(PatternOptions::regex()).build(schema);
        validator.map(Self).map_err(|error| told(&error))
    }

    /// Why a payload is not what it must be: at which place, and the first thing that is wrong there.
    pub fn judge(&self, payload: &[u8]) -> Result<(), String> {
        let value: Value =
            serde_json::from_slice(payload).map_err(|error| format!("the payload is not JSON: {error}"))?;
        self.0.validate(&value).map_err(|error| match error.instance_path().as_str() {
            "" => format!("the payload is not what its schema asks for: {}", told(&error)),
            place => format!("the payload is not what its schema asks for at {}: {}", cut(place), told(&error)),
        })
    }
}

fn told(error: &ValidationError<'_>) -> String {
    cut(&error.to_string())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TOLD) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_told_where_it_is_not_what_it_must_be() {
        let order = json!({
            "type": "object", "required": ["id"],
            "properties": { "id": { "type": "string", "pattern": "^[a-z]+$" }, "items": { "items": { "minimum": 1 } } }
        });
        let schema = PayloadSchema::read(&order).unwrap();
        assert_eq!(schema.judge(br#"{"id": "abc", "items": [1, 2]}"#), Ok(()));
        for (payload, why) in [
            ("", "the payload is not JSON: EOF"),
            ("[]", "the payload is not what its schema asks for: [] is not of type \"object\""),
            ("{}", "the payload is not what its schema asks for: \"id\" is a required property"),
            (r#"{"id": "A"}"#, "the payload is not what its schema asks for at /id: \"A\" does not match"),
            (r#"{"id": "a", "items": [1, 0]}"#, "the payload is not what its schema asks for at /items/1: 0 is less"),
        ] {
            let told = schema.judge(payload.as_bytes()).unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
        let long = format!(r#"{{"id": "{}"}}"#, "A".repeat(100_000));
        assert!(schema.judge(long.as_bytes()).unwrap_err().len() < 1000);
    }

    #[test]
    fn what_is_no_schema_or_leads_elsewhere_is_refused() {
        for schema in [
            json!({ "type": "objekt" }),
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "pattern": "(" }),
            json!({ "pattern": "(a)\\1" }),
            json!({ "description": "x".repeat(MAX_BYTES) }),
        ] {
            assert!(PayloadSchema::read(&schema).is_err(), "{}", cut(&schema.to_string()));
        }
        assert!(PayloadSchema::read(&json!({ "$ref": "#/$defs/a", "$defs": { "a": true } })).is_ok());
    }

    #[test]
    fn a_schema_without_end_is_no_way_to_stop_the_engine() {
        let nested = json!({ "properties": { "next": { "$ref": "#" } }, "type": "object" });
        let schema = PayloadSchema::read(&nested).unwrap();
        let deep = format!("{}{}", r#"{"next":"#.repeat(100), "{}".to_owned() + &"}".repeat(100));
        assert_eq!(schema.judge(deep.as_bytes()), Ok(()));
        let deeper = r#"{"next":"#.repeat(100_000);
        assert!(schema.judge(deeper.as_bytes()).is_err());
    }
}
