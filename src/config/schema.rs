//! The JSON Schema of the whole manifest: what editors complete from and `tripline check --schema` prints.

use serde_json::{Value, json};

use super::{engine, function, triggers};
use crate::kinds::Kinds;

/// JSON Schema (draft 2020-12) of a manifest, with the trigger kinds of this build.
pub fn schema(kinds: &Kinds) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tripline manifest",
        "description": "A project: an engine's settings, functions, and what calls them.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "engine": engine::schema(),
            "functions": function::sections(function::schema(triggers::schema(kinds))),
        },
    })
}

/// What is asked of a manifest before its sections are looked at.
pub(super) fn outline() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "engine": { "type": "object", "description": "The engine's settings: [engine]." },
            "functions": {
                "type": "object",
                "description": "The functions: a table [functions.<name>] for each.",
                "additionalProperties": { "type": "object", "description": "A function: a table [functions.<name>]." },
            },
        },
    })
}
