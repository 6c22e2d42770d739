//! The `[[functions.<name>.triggers]]` sections: whose kind they are, what they are called, and which exclude each
//! other. What is in them is their kind's business.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use trigger_core::{Binding, Kind, Problems, Step};

use super::validate::{At, Found, Validator, below};
use super::{Document, EngineConfig, hosts, names, words};
use crate::filter::Filter;
use crate::kinds::{FILTER, Kinds, PAYLOAD_SCHEMA, Section, not_in_this_build};
use crate::payload_schema::{self, PayloadSchema};
use crate::store::TriggerRow;

/// The most triggers of one manifest: each is compared with every other one of its kind.
const MAX_TRIGGERS: usize = 4096;

/// What is asked of a function's `triggers` before its elements are looked at.
pub(super) fn outline() -> Value {
    json!({
        "type": "array",
        "description": "What calls the function: a table [[functions.<name>.triggers]], in double brackets, for each.",
    })
}

/// The full schema of `triggers`: one shape for each kind.
pub(super) fn schema(kinds: &Kinds) -> Value {
    let shapes: Vec<Value> = kinds.all().into_iter().filter_map(|kind| shape(kinds, kind)).collect();
    let mut schema = outline();
    schema["items"] = json!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "enum": kinds.all().iter().map(|kind| kind.as_str()).collect::<Vec<_>>() } },
        "oneOf": shapes,
    });
    schema
}

/// The schema of one kind's triggers: the kind's own keys, and those of every trigger.
fn shape(kinds: &Kinds, kind: Kind) -> Option<Value> {
    let mut schema = kinds.schema(kind)?.clone();
    add_common_keys(&mut schema, kind);
    Some(schema)
}

fn add_common_keys(schema: &mut Value, kind: Kind) {
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for shape in schema.get_mut(keyword).and_then(Value::as_array_mut).into_iter().flatten() {
            add_common_keys(shape, kind);
        }
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        if let Some(schema) = schema.as_object_mut().filter(|schema| schema.contains_key("additionalProperties")) {
            schema.insert("properties".to_owned(), Value::Object(common_keys(kind)));
        }
        return;
    };
    properties.extend(common_keys(kind));
    match schema.get_mut("required").and_then(Value::as_array_mut) {
        Some(required) => required.insert(0, json!("type")),
        None => schema["required"] = json!(["type"]),
    }
}

fn common_keys(kind: Kind) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("type".to_owned(), json!({ "const": kind.as_str(), "description": "The kind of the trigger." }));
    let description = "The trigger's name, unique in its function. By default its kind, with a number from the second \
                       of the kind on: `http`, `http-2`.";
    keys.insert("name".to_owned(), json!({ "type": "string", "description": description }));
    let description = "What an event must match to be run, as a pattern over its `subject`, `content_type`, `headers`, \
                       `attributes` and `payload`: `{ payload = { status = [\"paid\"] } }`. Others are skipped (`filtered`).";
    keys.insert(FILTER.to_owned(), json!({ "type": "object", "description": description }));
    let description = "What the payload of an event must be: a JSON Schema, as a table or as the name of a file. Callers are \
                       told of another one (422, `bad_input`), from other sources it becomes a dead letter.";
    keys.insert(PAYLOAD_SCHEMA.to_owned(), json!({ "type": ["string", "object"], "description": description }));
    keys
}

/// Reads the triggers of one function after the other.
pub(super) struct Triggers<'a> {
    document: &'a Document,
    kinds: &'a Kinds,
    engine: &'a EngineConfig,
    validators: HashMap<Kind, Validator>,
    /// Those without mistakes, to be compared.
    sound: Vec<Sound>,
    count: usize,
}

struct Sound {
    path: Vec<Step>,
    function: String,
    trigger: String,
    section: Section,
}

impl<'a> Triggers<'a> {
    pub(super) fn new(document: &'a Document, kinds: &'a Kinds, engine: &'a EngineConfig) -> Self {
        Self { document, kinds, engine, validators: HashMap::new(), sound: Vec::new(), count: 0 }
    }

    /// The triggers of a function. Those with mistakes are left out.
    pub(super) fn read(
        &mut self,
        function_path: &[Step],
        function: &str,
        public: bool,
        sections: Option<Value>,
        found: &mut Found,
    ) -> Vec<TriggerRow> {
        let Some(Value::Array(sections)) = sections else { return Vec::new() };
        let mut rows: Vec<TriggerRow> = Vec::new();
        let mut of_kind: HashMap<Kind, usize> = HashMap::new();
        for (index, mut section) in sections.into_iter().enumerate() {
            let path = below(function_path, ["triggers".into(), index.into()]);
            self.count += 1;
            if self.count > MAX_TRIGGERS {
                // Told once: the next ones are as many too many.
                if self.count == MAX_TRIGGERS + 1 {
                    let message = format!("a manifest has at most {MAX_TRIGGERS} triggers");
                    found.value(path, message, "split the project");
                }
                break;
            }
            let Some(kind) = self.kind(&section, &path, found) else { continue };
            let number = of_kind.entry(kind).and_modify(|number| *number += 1).or_insert(1);
            let default = if *number == 1 { kind.to_string() } else { format!("{kind}-{number}") };
            let before = found.len();
            let validator = self
                .validators
                .entry(kind)
                .or_insert_with(|| Validator::new(shape(self.kinds, kind).unwrap_or(Value::Bool(true))));
            validator.sift(&mut section, &path, found);
            let name = section.get("name").and_then(Value::as_str).map_or(default, str::to_owned);
            if let Err((message, help)) = names::check("a trigger", &name) {
                found.value(below(&path, ["name".into()]), message, help);
            } else if rows.iter().any(|row| *row.binding.trigger_id == *name) {
                let message = format!("the function has another trigger that is called \"{name}\"");
                found.value(below(&path, ["name".into()]), message, "give each trigger a name of its own");
            }
            if let Some(section) = section.as_object_mut() {
                ["type", "name"].iter().for_each(|key| drop(section.remove(*key)));
            }
            let filter = section.get(FILTER).map(Filter::read);
            if let Some(Err(mistake)) = &filter {
                let steps = [FILTER].into_iter().chain(mistake.path.iter().map(String::as_str)).map(Step::from);
                found.value(below(&path, steps), mistake.message.clone(), mistake.help.clone());
            }
            self.read_schema(&mut section, &path, found);
            let binding = Binding {
                namespace: self.engine.namespace.as_str().into(),
                function_name: function.into(),
                trigger_id: name.as_str().into(),
                trigger_type: kind,
            };
            if !public {
                self.keep_private(kind, &mut section, &path, found);
            }
            let read = self.kinds.read(kind, &section);
            let row = TriggerRow { binding, config: section };
            let filtered = matches!(filter, Some(Ok(filter)) if filter.asks_for_payload());
            let asks = [(FILTER, filtered), (PAYLOAD_SCHEMA, row.config.get(PAYLOAD_SCHEMA).is_some())];
            for (key, _) in asks.into_iter().filter(|(_, asks)| *asks && self.kinds.streams(&row)) {
                let message = "the trigger's bodies stream: nothing of them is there to be asked for";
                let help = "ask for headers, attributes or the subject, or choose another mode";
                found.value(below(&path, [key.into()]), message, help);
            }
            rows.push(row);
            match read {
                Ok(section) => {
                    self.check(&section, function, index, found);
                    if found.len() == before {
                        self.sound.push(Sound { path, function: function.to_owned(), trigger: name, section });
                    }
                }
                // What the schema has told is the reason.
                Err(_) if found.len() > before => {}
                Err(error) => found.value(path, error, "see the trigger's reference"),
            }
        }
        rows
    }

    /// Puts a schema in the place of the name of the file that holds it, so that what runs is what was read, and
    /// compiles it.
    fn read_schema(&self, section: &mut Value, path: &[Step], found: &mut Found) {
        let Some(schema) = section.get_mut(PAYLOAD_SCHEMA) else { return };
        let read = match schema.as_str() {
            Some(file) => read_json(&self.document.directory.join(file)).map(|read| *schema = read),
            None => Ok(()),
        };
        let read = read.and_then(|()| PayloadSchema::read(schema).map(drop));
        if let Err(why) = read {
            let help = "write a JSON Schema, or the name of a file that holds one, relative to the manifest";
            found.value(below(path, [PAYLOAD_SCHEMA.into()]), why, help);
        }
    }

    /// The kind of a section, if this build has it.
    fn kind(&self, section: &Value, path: &[Step], found: &mut Found) -> Option<Kind> {
        let here: Vec<&str> = self.kinds.all().iter().map(|kind| kind.as_str()).collect();
        let help = format!("this build has {}", words::all_of(here.iter().map(|kind| format!("\"{kind}\""))));
        let mut wrong = |steps: &[Step], message: String, help: String| {
            found.value(below(path, steps.iter().cloned()), message, help);
            None
        };
        let kind = [Step::from("type")];
        match section.as_object().map(|section| section.get("type")) {
            None => {
                let message = format!("expected a table, found {}", words::found(section, false));
                wrong(&[], message, "write [[functions.<name>.triggers]], then its keys".to_owned())
            }
            Some(None) => wrong(&kind, "this key is missing".to_owned(), help),
            Some(Some(Value::String(word))) => match Kind::parse(word) {
                Some(kind) if self.kinds.has(kind) => Some(kind),
                Some(known) => wrong(&kind, not_in_this_build(known), help),
                None => {
                    let help = match words::suggestion(word, here.iter().copied()) {
                        Some(meant) => format!("did you mean \"{meant}\"? {help}"),
                        None => help,
                    };
                    wrong(&kind, format!("there is no trigger kind {}", words::quoted(word)), help)
                }
            },
            Some(Some(other)) => {
                wrong(&kind, format!("expected a trigger kind, found {}", words::found(other, false)), help)
            }
        }
    }

    /// Whoever calls a function that is not public proves who it is, by a token unless its trigger says otherwise.
    fn keep_private(&self, kind: Kind, section: &mut Value, path: &[Step], found: &mut Found) {
        let asks = self.kinds.schema(kind).is_some_and(|schema| schema["properties"]["auth"].is_object());
        let Some(section) = section.as_object_mut().filter(|_| asks) else { return };
        let auth = section.entry("auth").or_insert_with(|| json!({ "type": "token" }));
        if auth["type"] == "none" {
            let path = below(path, ["auth".into(), "type".into()]);
            let help = "leave `auth` out (it asks for a token then), choose another type, or make the function public";
            found.value(path, "everybody may call, and the function has is_public = false", help);
        }
    }

    /// What only the kind knows.
    fn check(&self, section: &Section, function: &str, index: usize, found: &mut Found) {
        let mut problems = Problems::new();
        problems.within("functions", |problems| {
            problems.within(function, |problems| {
                problems.within("triggers", |problems| {
                    problems.within(index, |problems| self.kinds.check(section, problems));
                });
            });
        });
        for (path, name) in problems.take_secrets() {
            if let Some((message, help)) = hosts::missing(&name, &self.engine.secrets) {
                found.value(path, message, help);
            }
        }
        problems.into_vec().into_iter().for_each(|problem| found.push(problem, At::Value));
    }

    /// Compares the triggers of the whole manifest.
    pub(super) fn find_conflicts(self, found: &mut Found) {
        for (position, later) in self.sound.iter().enumerate() {
            let conflict = self.sound[..position].iter().find_map(|earlier| {
                let why = self.kinds.conflict(&earlier.section, &later.section)?;
                Some((earlier, why))
            });
            if let Some((earlier, why)) = conflict {
                let line = self.document.line_of(&earlier.path);
                let message = format!(
                    "conflicts with the trigger {} of {} (line {line}): {why}",
                    earlier.trigger, earlier.function
                );
                found.value(later.path.clone(), message, "change one of them");
            }
        }
    }
}

/// A file of JSON, no larger than a schema may be.
fn read_json(path: &Path) -> Result<Value, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    let mut text = Vec::new();
    file.take(payload_schema::MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(|error| cannot(&error))?;
    if text.len() > payload_schema::MAX_BYTES {
        return Err(format!("{} has more than {} bytes", path.display(), payload_schema::MAX_BYTES));
    }
    serde_json::from_slice(&text).map_err(|error| cannot(&error))
}
