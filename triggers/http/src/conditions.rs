//! What a route asks of a request beyond method and path: its host, headers and query.
//!
//! Owns which of two routes for the same paths is the more specific, and which two nobody could tell apart.

use std::collections::BTreeMap;

use http::request::Parts;
use http::{HeaderName, header};
use percent_encoding::percent_decode;

use crate::pattern::Mistake;

/// A header or parameter that may have any value.
const ANY: &str = "*";

/// The most conditions of a kind, and the longest name or value.
const MAX_CONDITIONS: usize = 16;
const MAX_BYTES: usize = 256;

/// The hosts of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// Every host.
    #[default]
    Any,
    /// Every host below this one: `*.example.com`.
    Below(Box<str>),
    /// This host.
    Is(Box<str>),
}

impl Host {
    /// Reads `api.example.com` or `*.example.com`.
    pub(crate) fn parse(text: &str) -> Result<Self, Mistake> {
        let mistake = |message: String, help: &str| Err(Mistake { message, help: help.to_owned() });
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains(':') || name.contains('/') {
            let help = "write the name alone, without scheme, port or path: \"api.example.com\"";
            return mistake(format!("the host {text:?} has more than a name"), help);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed);
        if name.len() > 253 || !name.split('.').all(label) {
            let help = "write a name like \"api.example.com\", or \"*.example.com\" for all below one; names beyond \
                        ASCII as callers send them (\"xn--…\")";
            return mistake(format!("{text:?} is not a host"), help);
        }
        let name = name.to_ascii_lowercase().into();
        Ok(if below { Self::Below(name) } else { Self::Is(name) })
    }
}

/// The host that a request names, in small letters, without its port.
pub(crate) fn host(head: &Parts) -> Option<String> {
    // What is longer than a name can be is nobody's, and is not looked for label by label.
    let named = named_host(head).filter(|named| named.len() <= MAX_BYTES + ":65535".len())?;
    let name = match named.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => named.split_once(':').map_or(named, |(name, _)| name),
    };
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

/// The host that a request names, as it was sent. RFC 9112, section 3.2.2: one in the request line overrules the header.
pub(crate) fn named_host(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    }
}

/// What headers and parameters must be for a request to be a route's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    headers: Vec<(HeaderName, Box<str>)>,
    query: Vec<(Box<str>, Box<str>)>,
}

impl Conditions {
    /// Reads the tables, or tells every mistake with the key that it is under.
    pub(crate) fn parse(
        headers: &BTreeMap<String, String>,
        query: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<(&'static str, Mistake)>> {
        let (mut meant, mut mistakes) = (Self::default(), Vec::new());
        for (key, table) in [("headers", headers), ("query", query)] {
            let mut wrong =
                |message: String, help: &str| mistakes.push((key, Mistake { message, help: help.to_owned() }));
            if table.len() > MAX_CONDITIONS {
                wrong(
                    format!("there are {} conditions; the limit is {MAX_CONDITIONS}", table.len()),
                    "let the function look",
                );
            }
            for (name, value) in table {
                if name.len() > MAX_BYTES || value.len() > MAX_BYTES {
                    wrong(format!("a name or value is longer than {MAX_BYTES} bytes"), "let the function look");
                    continue;
                }
                if key == "query" {
                    meant.query.push((name.as_str().into(), value.as_str().into()));
                    continue;
                }
                match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) => meant.headers.push((name, value.as_str().into())),
                    Err(_) => wrong(format!("{name:?} is not a header's name"), "write it like \"x-github-event\""),
                }
            }
        }
        if mistakes.is_empty() { Ok(meant) } else { Err(mistakes) }
    }

    /// Of two routes for the same requests the one with the higher rank is asked first.
    pub(crate) fn rank(&self) -> usize {
        self.values().map(|(_, value)| if value == ANY { 1 } else { 2 }).sum()
    }

    /// Whether a request meets all of them. Where a name comes several times, its first value counts, so that a request
    /// never meets two conditions that exclude each other.
    pub(crate) fn are_met_by(&self, head: &Parts) -> bool {
        let fits =
            |value: &str, found: Option<&[u8]>| found.is_some_and(|found| value == ANY || value.as_bytes() == found);
        let header = |(name, value): &(HeaderName, Box<str>)| {
            fits(value, head.headers.get(name).map(http::HeaderValue::as_bytes))
        };
        let parameter =
            |(name, value): &(Box<str>, Box<str>)| fits(value, parameter(head.uri.query(), name).as_deref());
        self.headers.iter().all(header) && self.query.iter().all(parameter)
    }

    /// Whether no request meets both.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        self.values().any(|(name, value)| {
            let differs = |(theirs, other): (_, &str)| theirs == name && value != ANY && other != ANY && other != value;
            other.values().any(differs)
        })
    }

    /// All of them, as (which of the two, name) and value.
    fn values(&self) -> impl Iterator<Item = ((bool, &str), &str)> {
        let headers = self.headers.iter().map(|(name, value)| ((true, name.as_str()), &**value));
        headers.chain(self.query.iter().map(|(name, value)| ((false, &**name), &**value)))
    }
}

/// The first value of a parameter, decoded.
fn parameter(query: Option<&str>, name: &str) -> Option<Vec<u8>> {
    let decoded = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name.as_bytes()).then(|| decoded(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn conditions(headers: &[(&str, &str)], query: &[(&str, &str)]) -> Conditions {
        Conditions::parse(&table(headers), &table(query)).unwrap()
    }

    #[test]
    fn a_host_is_a_name_or_all_below_one() {
        assert_eq!(Host::parse("API.example.com").unwrap(), Host::Is("api.example.com".into()));
        assert_eq!(Host::parse("*.example.com").unwrap(), Host::Below("example.com".into()));
        for (text, message) in [
            ("", "is not a host"),
            ("*", "is not a host"),
            ("a..b", "is not a host"),
            ("a.*.b", "is not a host"),
            ("café.fr", "is not a host"),
            ("a.example:80", "more than a name"),
            ("https://a.example", "more than a name"),
        ] {
            assert!(Host::parse(text).unwrap_err().message.contains(message), "{text}");
        }
    }

    #[test]
    fn a_requests_host_has_no_port_and_no_capitals() {
        for (uri, sent, expected) in [
            ("/", Some("A.Example:8080"), Some("a.example")),
            ("/", Some("a.example."), Some("a.example")),
            ("/", Some("[::1]:80"), Some("::1")),
            ("http://b.example:1/", Some("a.example"), Some("b.example")),
            ("/", Some(&*"a.".repeat(200)), None),
            ("/", None, None),
        ] {
            let headers: Vec<_> = sent.into_iter().map(|host| ("host", host)).collect();
            assert_eq!(host(&head(uri, &headers)).as_deref(), expected, "{uri} {sent:?}");
        }
    }

    #[test]
    fn all_conditions_must_be_met_and_the_first_value_counts() {
        let both = conditions(&[("X-Event", "push")], &[("v", "2"), ("dry run", "*")]);
        assert_eq!(both.rank(), 5);
        for (uri, event, met) in [
            ("/?v=2&dry+run", "push", true),
            ("/?dry%20run=&v=%32", "push", true),
            ("/?v=2&dry+run", "pull", false),
            ("/?v=2", "push", false),
            ("/?v=1&v=2&dry+run", "push", false),
            ("/", "push", false),
        ] {
            assert_eq!(both.are_met_by(&head(uri, &[("x-event", event), ("x-event", "push")])), met, "{uri} {event}");
        }
        assert!(Conditions::default().are_met_by(&head("/", &[])));
    }

    #[test]
    fn conditions_exclude_each_other_by_different_values_of_one_name() {
        let push = conditions(&[("x-event", "push")], &[]);
        for (other, excluded) in [
            (conditions(&[("x-event", "pull")], &[]), true),
            (conditions(&[("x-event", "pull")], &[("v", "2")]), true),
            (conditions(&[("x-event", "*")], &[]), false),
            (conditions(&[("x-event", "push")], &[]), false),
            (conditions(&[("x-other", "pull")], &[]), false),
            (conditions(&[], &[("x-event", "pull")]), false),
        ] {
            assert_eq!((push.excludes(&other), other.excludes(&push)), (excluded, excluded), "{other:?}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_key() {
        let many: Vec<String> = (0..17).map(|number| format!("n{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
        let found = Conditions::parse(&table(&[("x event", "push")]), &table(&many)).unwrap_err();
        let told: Vec<_> = found.iter().map(|(key, mistake)| (*key, mistake.message.as_str())).collect();
        assert_eq!(
            told,
            [("headers", "\"x event\" is not a header's name"), ("query", "there are 17 conditions; the limit is 16")]
        );
        let long = "v".repeat(257);
        assert!(Conditions::parse(&table(&[("x", &long)]), &BTreeMap::new()).is_err());
    }
}
