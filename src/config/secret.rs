//! Text that holds credentials, and how they are kept out of what people and logs read.

use std::fmt;
use std::ops::Range;

use super::source::Place;

/// Text that may hold credentials: only [`Secret::expose`] tells them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for those who need it to do their work.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&without_credentials(&self.0), f)
    }
}

/// Addresses without what stands before an `@`.
///
/// A password may hold any character when its writer forgot to encode it, commas and slashes included. Therefore
/// everything from the first scheme to the last `@` is left out, other servers that lie between them with it.
pub(super) fn without_credentials(addresses: &str) -> String {
    let Some(at) = addresses.rfind('@') else { return addresses.to_owned() };
    let start = behind_scheme(addresses, at);
    format!("{}***{}", &addresses[..start], &addresses[at..])
}

/// Where what stands before the `@` begins: behind the first scheme, unless that is part of the password.
fn behind_scheme(addresses: &str, at: usize) -> usize {
    addresses.find("://").map(|scheme| scheme + "://".len()).filter(|start| *start <= at).unwrap_or(0)
}

/// A manifest's text as it may be shown: what is set in `env_vars` and `secrets` and the credentials of `bus`, `store`
/// and databases are stars. Every byte keeps its place.
pub(super) fn presentable(text: &str, places: &Place, broken: bool) -> String {
    let mut hidden = Vec::new();
    if broken {
        hidden = lexically(text);
    }
    let engine = places.get(&"engine".into());
    for address in ["bus", "store"].iter().filter_map(|key| engine?.get(&(*key).into())) {
        address.leaves(&mut |leaf| hidden.push(credentials_within(text, leaf.value.clone())));
    }
    let databases = engine.and_then(|engine| engine.get(&"databases".into()));
    for (_, database) in databases.into_iter().flat_map(Place::keys) {
        if let Some(url) = database.get(&"url".into()) {
            url.leaves(&mut |leaf| hidden.push(credentials_within(text, leaf.value.clone())));
        }
    }
    if let Some(secrets) = engine.and_then(|engine| engine.get(&"secrets".into())) {
        secrets.leaves(&mut |leaf| hidden.push(leaf.value.clone()));
    }
    let functions = places.get(&"functions".into());
    for (_, function) in functions.into_iter().flat_map(Place::keys) {
        if let Some(variables) = function.get(&"env_vars".into()) {
            variables.leaves(&mut |leaf| hidden.push(leaf.value.clone()));
        }
    }
    let mut bytes = text.as_bytes().to_vec();
    for byte in hidden.into_iter().flat_map(|range| bytes_of(range, text.len())) {
        // Quotes and the ends of lines stay: they show what kind of value is hidden, and keep the lines' numbers.
        if !matches!(bytes[byte], b'\n' | b'\r' | b'"' | b'\'' | b'{' | b'}' | b'[' | b']') {
            bytes[byte] = b'*';
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn bytes_of(range: Range<usize>, length: usize) -> Range<usize> {
    range.start.min(length)..range.end.min(length)
}

fn credentials_within(text: &str, value: Range<usize>) -> Range<usize> {
    let Some(written) = text.get(value.clone()) else { return value };
    match written.rfind('@') {
        Some(at) => {
            let start = behind_scheme(written, at);
            value.start + start..value.start + at
        }
        None => 0..0,
    }
}

/// Tables whose values are shown to nobody.
pub(super) const SECRET: [&str; 2] = ["env_vars", "secrets"];

fn names_secrets(line: &str) -> bool {
    SECRET.iter().any(|key| line.contains(key))
}

/// What may be a secret in a text that cannot be parsed: everything between quotes that follows a `=`, and all of a
/// line that sets environment or bus.
fn lexically(text: &str) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut start = 0;
    // Below a header that names the environment, or within braces that were opened behind its name.
    let (mut in_environment, mut in_braces) = (false, false);
    let mut open: Option<&'static str> = None;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if open.is_none() && trimmed.starts_with('[') && !line.contains('=') {
            in_environment = names_secrets(line);
        }
        let assigned = if open.is_some() { Some(0) } else { line.find('=') };
        if let Some(assigned) = assigned {
            let named = names_secrets(line);
            let addressed = ["bus", "store", "engine", "url"].iter().any(|key| trimmed.starts_with(key));
            let whole = in_environment || in_braces || named || addressed;
            in_braces = (in_braces || named && line.contains('{')) && !line.contains('}');
            if whole {
                hidden.push(start + assigned + usize::from(open.is_none())..start + line.len());
            }
            hidden.extend(
                quoted(line, assigned, &mut open).into_iter().map(|range| start + range.start..start + range.end),
            );
        }
        start += line.len();
    }
    hidden
}

/// What lies between quotes in a line, from `from` on; `open` is the multi-line quote that has begun and not ended.
fn quoted(line: &str, from: usize, open: &mut Option<&'static str>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = from;
    while at < line.len() {
        let quote = match open.take() {
            Some(quote) => quote,
            None => {
                let Some(next) = line[at..].find(['"', '\'']) else { break };
                at += next;
                let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| line[at..].starts_with(quote));
                let quote = quote.expect("one of the quotes was found here");
                at += quote.len();
                quote
            }
        };
        let end = end_of_quote(&line[at..], quote);
        found.push(at..end.map_or(line.len(), |end| at + end));
        match end {
            Some(end) => at += end + quote.len(),
            None => {
                *open = (quote.len() == 3).then_some(quote);
                break;
            }
        }
    }
    found
}

fn end_of_quote(text: &str, quote: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let end = from + text[from..].find(quote)?;
        let escapes = text[..end].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if quote.starts_with('\'') || escapes % 2 == 0 {
            return Some(end);
        }
        from = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;
    use super::*;

    #[test]
    fn credentials_are_told_to_nobody_by_accident() {
        for (text, shown) in [
            ("nats://user:hunter2@host:4222", "nats://***@host:4222"),
            ("nats://token@host", "nats://***@host"),
            ("nats://a:hunter2@one,nats://b:hunter2@two", "nats://***@two"),
            ("nats://a:hun@ter2@one", "nats://***@one"),
            ("nats://a:hun/ter2@one", "nats://***@one"),
            ("hunter2@one", "***@one"),
            ("hun@ter2://x", "***@ter2://x"),
            ("nats://one,nats://two", "nats://one,nats://two"),
        ] {
            let secret = Secret::new(text);
            assert_eq!(secret.to_string(), shown);
            assert_eq!(format!("{secret:?}"), format!("{shown:?}"));
            assert_eq!(secret.expose(), text);
        }
    }

    #[test]
    fn a_text_is_shown_without_what_it_hides_and_keeps_its_places() {
        let text = "[engine]\nbus = \"nats://me:hunter2@one\"\n[functions.a]\nmodule = \"a.wasm\"\n\
                    env_vars = { KEY = \"hunter2\", PIN = 4711, WORD = \"hünter2\" }\n\
                    [functions.b.env_vars]\nKEY = '''hunter2\nhunter2'''\n\
                    [engine.databases.shop]\nurl = \"postgres://me:hunter2@db/x\"\n";
        let shown = presentable(text, &parse(text).places, false);
        assert_eq!(shown.len(), text.len());
        assert_eq!(shown.lines().count(), text.lines().count());
        for secret in ["hunter2", "4711", "hünter2", "nter2"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        for part in ["\"nats://**********@one\"", "module = \"a.wasm\"", "KEY = \"*******\"", "PIN = ****"] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }

    #[test]
    fn a_text_that_cannot_be_parsed_hides_them_as_well() {
        for text in [
            "[functions.a]\nenv_vars = { KEY = \"hunter2, PIN = 1 }\n",
            "[functions.a]\nenv_vars = { KEY = hunter2 }\n",
            "[functions.a.env_vars]\nKEY = hunter2\n",
            "[functions.a.env_vars]\nKEY = \"\"\"\nhunter2 =\n",
            "[functions.a]\nenv_vars = {\n  KEY = \"hun\\\"ter2\",\n  PIN = \"hunter2\"\n",
            "[functions.a]\nenv_vars = {\n  KEY = hunter2,\n  PIN = hunter2\n}\n",
            "[engine]\nbus = nats://me:hunter2@one\n",
            "[engine]\nbus = \"nats://me:hunter2@one\n",
            "[engine.databases.shop]\nurl = postgres://me:hunter2@one/x\n",
        ] {
            let parsed = parse(text);
            assert!(!parsed.mistakes.is_empty(), "{text}");
            let shown = presentable(text, &parsed.places, true);
            assert_eq!(shown.len(), text.len());
            assert!(!shown.contains("ter2"), "{shown}");
        }
    }
}
