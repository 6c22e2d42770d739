//! Sections against their schema: every mistake in words, and what is left of the section without them.
//!
//! What is left is judged further, so that one run finds a mistake in one key although another key is wrong too.

use std::collections::HashSet;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use serde_json::Value;
use trigger_core::{Problem, Step};

use super::secret::SECRET;
use super::words;

/// How many unknown keys of a section are compared with those that are known.
const MAX_SUGGESTIONS: usize = 1000;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    problems: Vec<(Problem, At)>,
}

/// What of a path a mistake is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Its value.
    Value,
    /// Its last key: it should not be called so.
    Key,
}

impl Found {
    /// Records a mistake in a value.
    pub(super) fn value(&mut self, path: Vec<Step>, message: impl Into<String>, help: impl Into<String>) {
        self.push(Problem { path, message: message.into(), help: Some(help.into()) }, At::Value);
    }

    /// Records a mistake in a key.
    pub(super) fn key(&mut self, path: Vec<Step>, message: impl Into<String>, help: impl Into<String>) {
        self.push(Problem { path, message: message.into(), help: Some(help.into()) }, At::Key);
    }

    /// Records a mistake.
    pub(super) fn push(&mut self, problem: Problem, at: At) {
        self.problems.push((problem, at));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.problems.len()
    }

    /// All of them, in the order found.
    pub(super) fn into_vec(self) -> Vec<(Problem, At)> {
        self.problems
    }
}

/// A path with further steps.
pub(super) fn below(path: &[Step], steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    path.iter().cloned().chain(steps).collect()
}

/// A compiled schema.
pub(super) struct Validator {
    schema: Value,
    compiled: jsonschema::Validator,
}

impl Validator {
    /// Compiles a schema that a type of this build describes.
    pub(super) fn new(schema: Value) -> Self {
        let compiled = jsonschema::draft202012::new(&schema).expect("a schema made from a type is a schema");
        Self { schema, compiled }
    }

    /// Records every mistake in the section at `path` and takes what is mistaken out of it. A misspelt key is given the
    /// name that was probably meant, so that it is not missed by those who judge the section further.
    pub(super) fn sift(&self, section: &mut Value, path: &[Step], found: &mut Found) {
        if self.pass(section, path, found) {
            // What has a new name may be mistaken under it; the old one was told already.
            self.pass(section, path, &mut Found::default());
        }
    }

    /// Whether a key was given another name.
    fn pass(&self, section: &mut Value, path: &[Step], found: &mut Found) -> bool {
        let schema = &self.schema;
        let mut sieve = Sieve { schema, path, found, told: HashSet::new(), misspelt: Vec::new(), gone: Vec::new() };
        let mut mistakes = Vec::new();
        for error in self.compiled.iter_errors(section) {
            collect(&error, &mut mistakes);
        }
        // Unknown keys first: one that was meant to be a missing key is that mistake already.
        mistakes.sort_by_key(|mistake| !matches!(mistake.what, What::Unknown(_)));
        for mistake in mistakes {
            sieve.tell(section, mistake);
        }
        let Sieve { misspelt, gone, .. } = sieve;
        let renamed = misspelt.iter().filter(|(steps, meant)| rename(section, steps, meant)).count();
        gone.iter().for_each(|steps| remove(section, steps));
        renamed > 0
    }
}

struct Mistake {
    /// From the section down.
    steps: Vec<Step>,
    /// The schema that is not met, as a JSON pointer into the section's.
    schema: String,
    what: What,
}

enum What {
    Unknown(Vec<String>),
    Missing(String),
    Other,
}

/// Takes from an error what is needed to tell it. Where one of several shapes is asked for and a table was written,
/// that is the mistakes in the shape that is nearest.
fn collect(error: &jsonschema::ValidationError<'_>, mistakes: &mut Vec<Mistake>) {
    let what = match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context }
            if error.instance().is_object() =>
        {
            let nearest = context.iter().filter(|errors| !errors.is_empty()).min_by_key(|errors| errors.len());
            nearest.into_iter().flatten().for_each(|error| collect(error, mistakes));
            return;
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => What::Unknown(unexpected.clone()),
        ValidationErrorKind::Required { property } => {
            What::Missing(property.as_str().map_or_else(|| property.to_string(), str::to_owned))
        }
        _ => What::Other,
    };
    let steps = error.instance_path().segments().map(|segment| match segment {
        LocationSegment::Property(key) => Step::Key(key.into_owned()),
        LocationSegment::Index(index) => Step::Index(index),
    });
    let schema = error.schema_path().as_str().rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
    mistakes.push(Mistake { steps: steps.collect(), schema, what });
}

struct Sieve<'a> {
    schema: &'a Value,
    path: &'a [Step],
    found: &'a mut Found,
    /// What was told.
    told: HashSet<String>,
    /// Unknown keys, and what each was probably meant to be.
    misspelt: Vec<(Vec<Step>, String)>,
    gone: Vec<Vec<Step>>,
}

impl Sieve<'_> {
    fn tell(&mut self, section: &Value, Mistake { mut steps, schema, what }: Mistake) {
        let value = resolve(section, &mut steps);
        let pointer_to_schema = schema;
        let schema = self.schema.pointer(&pointer_to_schema).unwrap_or(&Value::Null);
        match what {
            What::Unknown(keys) => {
                let known = properties(schema);
                keys.into_iter().for_each(|key| self.unknown(&steps, key, &known));
            }
            What::Missing(key) => {
                let path = below(&steps, [Step::Key(key.clone())]);
                let misspelt = self.misspelt.iter().any(|(typed, meant)| {
                    *meant == key && typed.split_last().is_some_and(|(_, parents)| parents == steps)
                });
                if self.first(&path) && !misspelt {
                    let help = words::meaning(&schema["properties"][&key]);
                    let help = help.unwrap_or_else(|| "write it".to_owned());
                    self.found.value(below(self.path, path), "this key is missing", help);
                }
            }
            What::Other => {
                if self.first(&steps) {
                    let secret = SECRET.iter().any(|key| steps.first() == Some(&Step::from(*key)));
                    let bare = value.is_some_and(|value| value.is_number() || value.is_boolean());
                    let help = match schema["type"].as_str() {
                        Some("string") if bare => "put it in quotes".to_owned(),
                        _ => self.meaning(&pointer_to_schema).unwrap_or_else(|| "change it".to_owned()),
                    };
                    let value = value.map_or_else(|| "nothing".to_owned(), |value| words::found(value, secret));
                    let message = format!("expected {}, found {value}", words::expected(schema));
                    self.found.value(below(self.path, steps.iter().cloned()), message, help);
                }
                self.gone.push(steps);
            }
        }
    }

    /// What a schema says about itself, or the nearest one above it that says something.
    fn meaning(&self, mut schema: &str) -> Option<String> {
        loop {
            if let Some(meaning) = self.schema.pointer(schema).and_then(words::meaning) {
                return Some(meaning);
            }
            schema = schema.rsplit_once('/')?.0;
        }
    }

    fn unknown(&mut self, steps: &[Step], key: String, known: &[&str]) {
        let few = self.gone.len() < MAX_SUGGESTIONS;
        let meant = if few { words::suggestion(&key, known.iter().copied()) } else { None };
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => "no keys are known here".to_owned(),
            None => format!("known here: {}", words::all_of(known.iter().map(|key| (*key).to_owned()))),
        };
        let path = below(steps, [Step::Key(key)]);
        if self.first(&path) {
            self.found.key(below(self.path, path.iter().cloned()), "unknown key", help);
        }
        if let Some(meant) = meant {
            self.misspelt.push((path.clone(), meant.to_owned()));
        }
        self.gone.push(path);
    }

    /// Whether nothing was told about this place so far.
    fn first(&mut self, steps: &[Step]) -> bool {
        self.told.insert(format!("{steps:?}"))
    }
}

/// The value at these steps. A key of digits looks like an index in a pointer; the section tells what it is.
fn resolve<'a>(section: &'a Value, steps: &mut [Step]) -> Option<&'a Value> {
    let mut value = section;
    for step in steps {
        if let (Value::Object(_), Step::Index(index)) = (value, &*step) {
            *step = Step::Key(index.to_string());
        }
        value = match step {
            Step::Key(key) => value.get(key.as_str())?,
            Step::Index(index) => value.get(*index)?,
        };
    }
    Some(value)
}

/// The keys that a schema knows, those of its shapes included.
fn properties(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

/// Gives a key the name that was meant, unless there is one of that name too.
fn rename(section: &mut Value, steps: &[Step], meant: &str) -> bool {
    let Some((Step::Key(typed), parents)) = steps.split_last() else { return false };
    let table = parents.iter().try_fold(section, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(*index),
    });
    let Some(table) = table.and_then(Value::as_object_mut).filter(|table| !table.contains_key(meant)) else {
        return false;
    };
    let value = table.remove(typed);
    value.map(|value| table.insert(meant.to_owned(), value)).is_some()
}

/// Takes a value out. One element of an array is not enough: those behind it would change their places.
fn remove(section: &mut Value, steps: &[Step]) {
    let end = steps.iter().position(|step| matches!(step, Step::Index(_))).unwrap_or(steps.len());
    let Some((Step::Key(last), parents)) = steps[..end].split_last() else {
        *section = Value::Object(serde_json::Map::new());
        return;
    };
    let mut value = section;
    for step in parents {
        let Step::Key(key) = step else { return };
        match value.get_mut(key.as_str()) {
            Some(below) => value = below,
            None => return,
        }
    }
    if let Some(table) = value.as_object_mut() {
        table.remove(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sift(schema: Value, mut section: Value) -> (Value, Vec<String>) {
        let mut found = Found::default();
        Validator::new(schema).sift(&mut section, &["top".into()], &mut found);
        let tell = |(problem, at): (Problem, At)| {
            let path = trigger_core::display_path(&problem.path).to_string();
            let at = if at == At::Key { " (key)" } else { "" };
            format!("{path}{at}: {}; {}", problem.message, problem.help.unwrap_or_default())
        };
        (section, found.into_vec().into_iter().map(tell).collect())
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["path"],
            "properties": {
                "path": { "type": "string", "description": "The way." },
                "size": { "type": "integer", "minimum": 1, "maximum": 9, "description": "How much." },
                "tags": { "type": "array", "items": { "type": "string" } },
                "map": { "type": "object", "additionalProperties": { "type": "string" } },
                "env_vars": { "type": "object", "additionalProperties": { "type": "string" } },
                "method": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
            }
        })
    }

    #[test]
    fn what_is_mistaken_is_told_and_the_rest_is_left() {
        let section = json!({
            "path": "/x", "size": 10, "tags": ["a", 1, 2], "map": { "0": 1, "a/b~c": "x" }, "sise": 3, "strange": 1,
            "method": 5, "env_vars": { "KEY": 4711 }
        });
        let (left, mut told) = sift(schema(), section);
        assert_eq!(left, json!({ "path": "/x", "map": { "a/b~c": "x" }, "env_vars": {} }));
        told.sort();
        assert_eq!(
            told,
            [
                "top.env_vars.KEY: expected a string, found a number; put it in quotes",
                "top.map.0: expected a string, found 1; put it in quotes",
                "top.method: expected a string or an array of strings, found 5; change it",
                "top.sise (key): unknown key; did you mean `size`?",
                "top.size: expected a whole number from 1 to 9, found 10; How much.",
                "top.strange (key): unknown key; known here: env_vars, map, method, path, size and tags",
                "top.tags[1]: expected a string, found 1; put it in quotes",
                "top.tags[2]: expected a string, found 2; put it in quotes",
            ]
        );
    }

    #[test]
    fn a_misspelt_key_is_not_missing_too() {
        let (left, told) = sift(schema(), json!({ "pth": "/x", "sise": 10 }));
        assert_eq!(left, json!({ "path": "/x" }), "what was meant is judged, and told under no other name");
        assert_eq!(told.len(), 2);
        let (_, told) = sift(schema(), json!({ "pth": "/x" }));
        assert_eq!(told, ["top.pth (key): unknown key; did you mean `path`?"]);
        let (_, told) = sift(schema(), json!({}));
        assert_eq!(told, ["top.path: this key is missing; The way."]);
        let (left, told) = sift(schema(), json!(5));
        assert_eq!(told, ["top: expected a table, found 5; change it"]);
        assert_eq!(left, json!({}));
    }

    #[test]
    fn of_several_shapes_the_nearest_one_is_meant() {
        let shape = |key: &str, other: &str| {
            json!({
                "type": "object", "additionalProperties": false, "required": [key],
                "properties": { key: { "type": "string" }, other: { "type": "integer" } }
            })
        };
        let schema = json!({ "anyOf": [shape("subject", "size"), shape("stream", "wait")] });
        let (_, told) = sift(schema, json!({ "stream": "S", "wait": "long" }));
        assert_eq!(told, ["top.wait: expected a whole number, found \"long\"; change it"]);
    }
}
