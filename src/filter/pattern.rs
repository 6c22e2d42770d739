//! A filter as it is written, read into what is matched.

use serde_json::{Map, Number, Value};

use super::{Event, MAX_DEPTH, MAX_TESTS, Mistake};

/// What is asked of a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A table: each of these, and one of the alternatives where there are any.
    Table { fields: Vec<(String, Node)>, or: Option<Vec<Node>> },
    /// A value, or each element of an array: any of these.
    Any(Vec<Test>),
}

/// One thing that a value may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Is(Value),
    Prefix(String),
    Suffix(String),
    IgnoreCase(String),
    /// The pieces between the stars.
    Wildcard(Vec<String>),
    Numeric(Vec<(Compare, f64)>),
    Exists(bool),
    AnythingBut(Vec<Test>),
}

/// How numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

const TOP: &str = "a filter has \"subject\", \"content_type\", \"headers\", \"attributes\", \"payload\" and \"$or\"";
const TESTS: &str = "write an array of what it may be: values, or { prefix = }, { suffix = }, \
                     { equals-ignore-case = }, { wildcard = }, { numeric = }, { exists = }, { anything-but = }";

/// Reads, and counts what it has read.
#[derive(Default)]
pub(super) struct Reader {
    path: Vec<String>,
    tests: usize,
}

impl Reader {
    fn wrong<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Result<T, Mistake> {
        Err(Mistake { path: self.path.clone(), message: message.into(), help: help.into() })
    }

    fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> Result<T, Mistake>) -> Result<T, Mistake> {
        self.path.push(key.to_owned());
        let read = read(self)?;
        self.path.pop();
        Ok(read)
    }

    fn table<'a>(&self, value: &'a Value, depth: usize) -> Result<&'a Map<String, Value>, Mistake> {
        if depth > MAX_DEPTH {
            return self.wrong(format!("a filter is at most {MAX_DEPTH} tables deep"), "ask for less");
        }
        match value.as_object() {
            Some(table) if table.is_empty() => self.wrong("an empty table matches everything", "leave it out"),
            Some(table) => Ok(table),
            None => self.wrong("expected a table", TOP),
        }
    }

    pub(super) fn event(&mut self, value: &Value, depth: usize) -> Result<Event, Mistake> {
        let mut event = Event::default();
        for (key, value) in self.table(value, depth)? {
            self.within(key, |reader| {
                match key.as_str() {
                    "subject" => event.subject = Some(reader.tests(value)?),
                    "content_type" => event.content_type = Some(reader.tests(value)?),
                    "headers" => event.headers = reader.named(value)?,
                    "attributes" => event.attributes = reader.named(value)?,
                    "payload" => event.payload = Some(reader.node(value, depth + 1)?),
                    "$or" => event.or = Some(reader.each(value, |reader, value| reader.event(value, depth + 1))?),
                    _ => return reader.wrong("there is no such part of an event", TOP),
                }
                Ok(())
            })?;
        }
        Ok(event)
    }

    fn node(&mut self, value: &Value, depth: usize) -> Result<Node, Mistake> {
        if value.is_array() {
            return self.tests(value).map(Node::Any);
        }
        let (mut fields, mut or) = (Vec::new(), None);
        for (key, value) in self.table(value, depth)? {
            self.within(key, |reader| {
                match key.as_str() {
                    "$or" => or = Some(reader.each(value, |reader, value| reader.node(value, depth + 1))?),
                    _ => fields.push((key.clone(), reader.node(value, depth + 1)?)),
                }
                Ok(())
            })?;
        }
        Ok(Node::Table { fields, or })
    }

    fn named(&mut self, value: &Value) -> Result<Vec<(String, Vec<Test>)>, Mistake> {
        let table = self.table(value, 0)?;
        table.iter().map(|(key, value)| Ok((key.clone(), self.within(key, |reader| reader.tests(value))?))).collect()
    }

    fn each<T>(
        &mut self,
        value: &Value,
        mut read: impl FnMut(&mut Self, &Value) -> Result<T, Mistake>,
    ) -> Result<Vec<T>, Mistake> {
        match value.as_array().filter(|values| !values.is_empty()) {
            Some(values) => values.iter().map(|value| read(self, value)).collect(),
            None => self.wrong("expected an array of patterns, one of which must match", "write $or = [{ … }, { … }]"),
        }
    }

    fn tests(&mut self, value: &Value) -> Result<Vec<Test>, Mistake> {
        match value.as_array().filter(|values| !values.is_empty()) {
            Some(values) => values.iter().map(|value| self.test(value)).collect(),
            None => self.wrong("expected an array that is not empty", TESTS),
        }
    }

    fn test(&mut self, value: &Value) -> Result<Test, Mistake> {
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return self.wrong(format!("a filter asks for at most {MAX_TESTS} things"), "ask for less");
        }
        let table = match value {
            Value::Object(table) => table,
            Value::Array(_) => return self.wrong("an array within an array", TESTS),
            literal => return Ok(Test::Is(literal.clone())),
        };
        let mut keys = table.iter();
        let (Some((key, value)), None) = (keys.next(), keys.next()) else {
            return self.wrong("each of these has one key", TESTS);
        };
        self.within(key, |reader| reader.named_test(key, value))
    }

    fn named_test(&mut self, key: &str, value: &Value) -> Result<Test, Mistake> {
        let text = || match value.as_str().filter(|text| !text.is_empty()) {
            Some(text) => Ok(text.to_owned()),
            None => self.wrong("expected a text that is not empty", TESTS),
        };
        Ok(match key {
            "prefix" => Test::Prefix(text()?),
            "suffix" => Test::Suffix(text()?),
            "equals-ignore-case" => Test::IgnoreCase(text()?),
            "wildcard" => Test::Wildcard(text()?.split('*').map(str::to_owned).collect()),
            "numeric" => Test::Numeric(self.numeric(value)?),
            "exists" => match value.as_bool() {
                Some(exists) => Test::Exists(exists),
                None => return self.wrong("expected true or false", "write { exists = true }"),
            },
            "anything-but" => {
                let but = match value {
                    Value::Array(_) => self.tests(value)?,
                    one => vec![self.test(one)?],
                };
                if but.iter().any(|test| matches!(test, Test::Exists(_) | Test::AnythingBut(_))) {
                    return self.wrong("this cannot be negated", "write { exists = false }, or the test itself");
                }
                Test::AnythingBut(but)
            }
            _ => return self.wrong("there is no such test", TESTS),
        })
    }

    fn numeric(&self, value: &Value) -> Result<Vec<(Compare, f64)>, Mistake> {
        let help = "write { numeric = [\">=\", 10, \"<\", 20] }";
        let parts = value.as_array().map_or(&[][..], Vec::as_slice);
        let (pairs, rest) = parts.as_chunks::<2>();
        if pairs.is_empty() || pairs.len() > 2 || !rest.is_empty() {
            return self.wrong("expected one or two comparisons", help);
        }
        pairs
            .iter()
            .map(|[compare, number]| {
                let compare = match compare.as_str() {
                    Some("<") => Compare::Less,
                    Some("<=") => Compare::AtMost,
                    Some("=") => Compare::Equal,
                    Some(">=") => Compare::AtLeast,
                    Some(">") => Compare::More,
                    _ => return self.wrong("expected \"<\", \"<=\", \"=\", \">=\" or \">\"", help),
                };
                match number.as_f64() {
                    Some(number) => Ok((compare, number)),
                    None => self.wrong("expected a number", help),
                }
            })
            .collect()
    }
}

/// Whether two numbers are the same, however they are written.
pub(super) fn same(one: &Number, other: &Number) -> bool {
    one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
}
