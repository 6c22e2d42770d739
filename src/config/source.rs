//! A manifest's text: read within bounds, as JSON for those who judge it, with the place of every key and value.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use trigger_core::{Problem, Step};

/// The largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// How many tables and arrays may lie within one another. The deepest key there is has half of it.
const MAX_DEPTH: usize = 16;

/// The parser goes down and up again by recursion, through dotted keys as well: it gets a stack that the deepest text
/// it takes cannot fill.
const PARSER_STACK_BYTES: usize = 64 << 20;

/// What a text says.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Its values. Always a table.
    pub(super) value: Value,
    /// Where they are.
    pub(super) places: Place,
    /// What could not be read, with its place in the text.
    pub(super) mistakes: Vec<(Range<usize>, String)>,
    /// What could be read but not kept, with its path.
    pub(super) problems: Vec<Problem>,
}

/// Where a value is, and all below it.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Of the key that it belongs to; empty for an array's element.
    pub(super) key: Range<usize>,
    /// Of the value: of a table its header, of a table without one the key that made it.
    pub(super) value: Range<usize>,
    below: Below,
}

#[derive(Debug, Default)]
enum Below {
    #[default]
    Nothing,
    Keys(BTreeMap<String, Place>),
    Items(Vec<Place>),
}

impl Place {
    /// The place one step down.
    pub(super) fn get(&self, step: &Step) -> Option<&Place> {
        match (&self.below, step) {
            (Below::Keys(keys), Step::Key(key)) => keys.get(key),
            (Below::Items(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// The keys directly below, each with its place.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, &Place)> {
        let keys = match &self.below {
            Below::Keys(keys) => Some(keys),
            _ => None,
        };
        keys.into_iter().flatten().map(|(key, place)| (key.as_str(), place))
    }

    /// Calls `visit` for every place below that holds neither table nor array.
    pub(super) fn leaves(&self, visit: &mut dyn FnMut(&Place)) {
        match &self.below {
            Below::Nothing => visit(self),
            Below::Keys(keys) => keys.values().for_each(|place| place.leaves(visit)),
            Below::Items(items) => items.iter().for_each(|place| place.leaves(visit)),
        }
    }
}

/// The text of a file, or why there is none: what is wrong and what would be right.
pub(super) fn read(path: &Path) -> Result<String, (String, String)> {
    let refused = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "name the manifest, or the directory that it lies in",
            _ => "the manifest must be a file that this user can read",
        };
        (format!("cannot read the manifest: {error}"), help.to_owned())
    };
    let file = std::fs::File::open(path).map_err(refused)?;
    let mut bytes = Vec::new();
    // One byte more than is taken: the size that the file claims may not be the size that it has.
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        (format!("the manifest is not UTF-8 text (line {})", line + 1), "save it as UTF-8".to_owned())
    })
}

/// Why a text is not even looked at.
pub(super) fn too_large(text: &str) -> Option<(String, String)> {
    (text.len() as u64 > MAX_MANIFEST_BYTES).then(|| {
        (format!("the manifest is larger than {MAX_MANIFEST_BYTES} bytes (4 MiB)"), "split the project".to_owned())
    })
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Parsed {
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("manifest".to_owned()).stack_size(PARSER_STACK_BYTES);
        let failed = |why: &str| Parsed {
            value: Value::Object(Map::new()),
            places: Place::default(),
            mistakes: vec![(0..0, format!("the manifest cannot be parsed: {why}"))],
            problems: Vec::new(),
        };
        match parser.spawn_scoped(scope, || parse_here(text)) {
            Ok(parser) => parser.join().unwrap_or_else(|_| failed("the parser broke off")),
            Err(error) => failed(&error.to_string()),
        }
    })
}

fn parse_here(text: &str) -> Parsed {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mistakes = errors
        .iter()
        .map(|error| (error.span().unwrap_or(text.len()..text.len()), error.message().to_owned()))
        .collect();
    let mut reader = Reader { path: Vec::new(), problems: Vec::new() };
    let (value, below) = reader.table(table.get_ref());
    Parsed { value, places: Place { key: 0..0, value: 0..0, below }, mistakes, problems: reader.problems }
}

struct Reader {
    path: Vec<Step>,
    problems: Vec<Problem>,
}

impl Reader {
    fn table(&mut self, table: &DeTable<'_>) -> (Value, Below) {
        let mut values = Map::new();
        let mut places = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            self.path.push(Step::Key(name.clone()));
            let (value, place) = self.value(key.span(), value);
            self.path.pop();
            if let Some(value) = value {
                values.insert(name.clone(), value);
            }
            places.insert(name, place);
        }
        (Value::Object(values), Below::Keys(places))
    }

    fn array<'a, 'i: 'a>(&mut self, items: impl Iterator<Item = &'a Spanned<DeValue<'i>>>) -> (Value, Below) {
        let mut values = Vec::new();
        let mut places = Vec::new();
        for (index, item) in items.enumerate() {
            self.path.push(Step::Index(index));
            let (value, place) = self.value(0..0, item);
            self.path.pop();
            // Something must stand for what cannot be kept, or those behind it would have another's place.
            values.push(value.unwrap_or(Value::Null));
            places.push(place);
        }
        (Value::Array(values), Below::Items(places))
    }

    /// A value, unless it cannot be kept; that is a problem then.
    fn value(&mut self, key: Range<usize>, value: &Spanned<DeValue<'_>>) -> (Option<Value>, Place) {
        let mut place = Place { key, value: value.span(), below: Below::Nothing };
        let kept = match value.get_ref() {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Boolean(truth) => Some(Value::Bool(*truth)),
            DeValue::Datetime(when) => Some(Value::String(when.to_string())),
            DeValue::Integer(digits) => {
                let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
                let kept = number.and_then(Number::from_i128);
                kept.map(Value::Number).or_else(|| self.refuse("the number has too many digits", "write a smaller one"))
            }
            DeValue::Float(digits) => {
                let number = digits.as_str().parse().ok().and_then(whole_or_not);
                number.or_else(|| self.refuse("the number is not finite", "write a number that is"))
            }
            DeValue::Table(_) | DeValue::Array(_) if self.path.len() >= MAX_DEPTH => {
                self.refuse("tables and arrays lie too deep in one another", "no key of a manifest is so deep")
            }
            DeValue::Table(table) => {
                let (value, below) = self.table(table);
                place.below = below;
                Some(value)
            }
            DeValue::Array(items) => {
                let (value, below) = self.array(items.iter());
                place.below = below;
                Some(value)
            }
        };
        (kept, place)
    }

    fn refuse(&mut self, message: &str, help: &str) -> Option<Value> {
        let (message, help) = (message.to_owned(), Some(help.to_owned()));
        self.problems.push(Problem { path: self.path.clone(), message, help });
        None
    }
}

/// `3.0` is the whole number 3, as in JSON Schema.
fn whole_or_not(number: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Some(Value::from(number as i64));
    }
    Number::from_f64(number).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_become_json_and_keep_their_places() {
        let text = "a = 1\n[t.u]\nb = [true, \"x\"]\n[[l]]\nc = { d = 2.5 }\n[[l]]\nwhen = 2027-01-01\n";
        let parsed = parse(text);
        assert!(parsed.mistakes.is_empty() && parsed.problems.is_empty(), "{parsed:?}");
        assert_eq!(
            parsed.value,
            json!({ "a": 1, "t": { "u": { "b": [true, "x"] } }, "l": [{ "c": { "d": 2.5 } }, { "when": "2027-01-01" }] })
        );
        let at = |path: &[Step]| {
            let place = path.iter().fold(&parsed.places, |place, step| place.get(step).unwrap());
            (&text[place.key.clone()], &text[place.value.clone()])
        };
        assert_eq!(at(&["a".into()]), ("a", "1"));
        assert_eq!(at(&["t".into(), "u".into()]), ("u", "[t.u]"));
        assert_eq!(at(&["t".into(), "u".into(), "b".into(), 1.into()]), ("", "\"x\""));
        assert_eq!(at(&["l".into(), 1.into()]), ("", "[[l]]"));
        assert_eq!(at(&["l".into(), 0.into(), "c".into(), "d".into()]), ("d", "2.5"));
        assert!(parsed.places.get(&"nobody".into()).is_none());
    }

    #[test]
    fn numbers_that_json_cannot_hold_are_refused() {
        let parsed = parse("a = nan\nb = -inf\nc = 99999999999999999999999999999\nd = [0x10, 1_000, inf]\ne = 3.0\n");
        let paths: Vec<String> =
            parsed.problems.iter().map(|one| trigger_core::display_path(&one.path).to_string()).collect();
        assert_eq!(paths, ["a", "b", "c", "d[2]"]);
        assert_eq!(parsed.value, json!({ "d": [16, 1000, null], "e": 3 }));
    }

    #[test]
    fn no_depth_of_nesting_fills_the_stack() {
        let path = vec!["a"; 80].join(".");
        let mut deep = String::from("1");
        for _ in 0..79 {
            deep = format!("{{ {path} = {deep} }}");
        }
        // The second text makes the parser drop what it has read before.
        for text in
            [format!("a = {deep}\n"), format!("a.b = 1\na = {deep}\n"), "[".repeat(100_000), "{a=".repeat(100_000)]
        {
            let parsed = parse(&text);
            assert!(!parsed.mistakes.is_empty() || !parsed.problems.is_empty());
        }
    }
}
