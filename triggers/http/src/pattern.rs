//! Path patterns: `/orders/{id}`, `/files/{*path}`.
//!
//! Owns what a pattern may look like and which two patterns exclude each other; knows nothing of methods or triggers.
//! A pattern is compared with the path as the caller sent it, still percent-encoded, since decoding first would let
//! `%2F` end a segment. So a pattern may only hold what a path can hold, and anything else is a mistake worth telling.

use matchit::InsertError;

/// Everything below this path belongs to the engine.
pub(crate) const RESERVED: &str = "/_tripline";

const WHOLE_SEGMENT: &str = "a parameter is a whole segment; let the function take it apart";
const MAX_PATTERN_BYTES: usize = 1024;
const MAX_PARAMETERS: usize = 16;
const MAX_NAME_BYTES: usize = 64;

/// A valid pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// The pattern with its parameters' names erased: equal shapes match equal paths.
    shape: String,
    /// `param.<name>` for each parameter, in order of appearance.
    attributes: Box<[String]>,
}

/// What is wrong with a pattern, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) message: String,
    pub(crate) help: String,
}

fn mistake<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { message: message.into(), help: help.into() })
}

impl Pattern {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, Mistake> {
        let Some(rest) = text.strip_prefix('/') else {
            return mistake(format!("the path {text:?} does not begin with '/'"), format!("write \"/{text}\""));
        };
        if text.len() > MAX_PATTERN_BYTES {
            return mistake(
                format!("the path has {} bytes; the limit is {MAX_PATTERN_BYTES}", text.len()),
                "let a parameter such as {*rest} stand for the long part",
            );
        }
        if text == RESERVED || text.strip_prefix(RESERVED).is_some_and(|below| below.starts_with('/')) {
            return mistake(format!("{RESERVED}/ belongs to the engine"), "choose another first segment");
        }
        let mut shape = String::with_capacity(text.len());
        let mut names: Vec<&str> = Vec::new();
        let segments: Vec<&str> = rest.split('/').collect();
        for (position, segment) in segments.iter().enumerate() {
            let last = position + 1 == segments.len();
            shape.push('/');
            let (literal, parameter) = split(segment)?;
            check_literal(text, literal, parameter.is_some(), last)?;
            shape.push_str(literal);
            let Some(parameter) = parameter else { continue };
            let name = name_of(literal, parameter, last)?;
            shape.push_str(if parameter.starts_with('*') { "{*p}" } else { "{p}" });
            if names.contains(&name) {
                return mistake(format!("two parameters are named {name:?}"), "give each parameter a name of its own");
            }
            names.push(name);
        }
        if names.len() > MAX_PARAMETERS {
            return mistake(
                format!("the path has {} parameters; the limit is {MAX_PARAMETERS}", names.len()),
                "take the rest of the path with {*rest}",
            );
        }
        Ok(Self { shape, attributes: names.iter().map(|name| format!("param.{name}")).collect() })
    }

    /// The pattern as `matchit` takes it. Names are erased: routes for different methods may name theirs freely.
    pub(crate) fn shape(&self) -> &str {
        &self.shape
    }

    /// The attribute that each parameter becomes, in order of appearance.
    pub(crate) fn attributes(&self) -> &[String] {
        &self.attributes
    }

    /// Whether no router could hold both patterns, because some paths would belong to both with equal right.
    pub(crate) fn excludes(&self, other: &Pattern) -> bool {
        let mut router = matchit::Router::new();
        let first = router.insert(self.shape(), ());
        debug_assert_eq!(first, Ok(()), "an empty router takes every valid pattern");
        matches!(router.insert(other.shape(), ()), Err(InsertError::Conflict { .. }))
    }
}

/// A segment's literal text and the parameter after it, without braces.
fn split(segment: &str) -> Result<(&str, Option<&str>), Mistake> {
    let Some((literal, parameter)) = segment.split_once('{') else { return Ok((segment, None)) };
    match parameter.split_once('}') {
        Some((parameter, "")) => Ok((literal, Some(parameter))),
        Some((parameter, after)) => mistake(format!("{after:?} follows {{{parameter}}} in one segment"), WHOLE_SEGMENT),
        None => mistake(format!("the brace in {segment:?} is not closed"), "write {name}; a literal brace is %7B"),
    }
}

fn check_literal(path: &str, literal: &str, before_parameter: bool, last: bool) -> Result<(), Mistake> {
    if literal.is_empty() && !before_parameter && !last {
        return mistake(format!("the path {path:?} has an empty segment"), "write one '/' where there are two");
    }
    if matches!(literal, "." | "..") && !before_parameter {
        return mistake(
            format!("the segment {literal:?} never arrives: callers resolve it"),
            "write the resolved path",
        );
    }
    if let Some(name) = literal.strip_prefix(':') {
        return mistake(format!("the segment {literal:?} would be taken literally"), format!("write {{{name}}}"));
    }
    let mut rest = literal;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' => {}
            '-' | '.' | '_' | '~' | '!' | '$' | '&' | '\'' | '(' | ')' | '+' | ',' | ';' | '=' | ':' | '@' => {}
            '*' => return mistake(format!("{literal:?} has a bare '*'"), "write {*rest} for the rest of the path"),
            '?' | '#' => {
                return mistake(
                    format!("{literal:?} has a {character:?}, which ends a path"),
                    "match the path only; the function reads the query from the event",
                );
            }
            '%' => {
                let digits = rest.as_bytes().get(..2).unwrap_or_default();
                if digits.len() < 2 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F')) {
                    return mistake(
                        format!("{literal:?} has a '%' without two upper-case hexadecimal digits"),
                        "write a percent sign as %25",
                    );
                }
            }
            '}' => return mistake(format!("{literal:?} closes a brace that it did not open"), "write {name}"),
            other => {
                let mut bytes = [0; 4];
                let encoded: String =
                    other.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
                return mistake(
                    format!("{literal:?} has {other:?}, which no path can hold as it is"),
                    format!("write it as callers send it: {encoded}"),
                );
            }
        }
    }
    Ok(())
}

/// The name in a parameter, `id` or `*rest`, that follows `literal` in its segment.
fn name_of<'a>(literal: &str, parameter: &'a str, last: bool) -> Result<&'a str, Mistake> {
    // The router can match the beginning of a segment, but then forgets other patterns that would match too.
    if !literal.is_empty() {
        return mistake(format!("{literal:?} stands before {{{parameter}}} in one segment"), WHOLE_SEGMENT);
    }
    let name = match parameter.strip_prefix('*') {
        Some(_) if !last => {
            return mistake(
                format!("{{{parameter}}} is not the last segment"),
                "a catch-all takes the rest of the path: move it to the end or write {name}",
            );
        }
        catch_all => catch_all.unwrap_or(parameter),
    };
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let goes_on = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if begins && goes_on && name.len() <= MAX_NAME_BYTES {
        return Ok(name);
    }
    mistake(
        format!("{name:?} is not a parameter's name"),
        format!(
            "begin with a letter or '_', go on with letters, digits, '_' and '-', at most {MAX_NAME_BYTES} of them"
        ),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn valid_patterns() {
        for (text, shape, attributes) in [
            ("/", "/", &[][..]),
            ("/orders", "/orders", &[]),
            ("/orders/", "/orders/", &[]),
            ("/orders/{id}", "/orders/{p}", &["param.id"]),
            ("/orders/{id}/items/{item-no}", "/orders/{p}/items/{p}", &["param.id", "param.item-no"]),
            ("/files/{*path}", "/files/{*p}", &["param.path"]),
            ("/{*path}", "/{*p}", &["param.path"]),
            ("/caf%C3%A9", "/caf%C3%A9", &[]),
            ("/a:b@c;d=e,f", "/a:b@c;d=e,f", &[]),
            ("/_triplines", "/_triplines", &[]),
        ] {
            let pattern = Pattern::parse(text).unwrap_or_else(|mistake| panic!("{text:?}: {mistake:?}"));
            assert_eq!(pattern.shape(), shape);
            assert_eq!(pattern.attributes(), attributes, "{text:?}");
        }
    }

    #[test]
    fn mistakes_name_the_value_and_what_would_be_right() {
        let long = format!("/{}", "a".repeat(1024));
        let many: String = (0..17).map(|number| format!("/{{p{number}}}")).collect();
        for (text, message, help) in [
            ("", "does not begin with '/'", "\"/\""),
            ("orders", "\"orders\" does not begin with '/'", "\"/orders\""),
            ("/_tripline", "belongs to the engine", "another"),
            ("/_tripline/invocations", "belongs to the engine", "another"),
            ("/a//b", "empty segment", "one '/'"),
            ("/a/../b", "\"..\"", "resolved"),
            ("/a/{id", "not closed", "{name}"),
            ("/a/id}", "did not open", "{name}"),
            ("/a/{}", "\"\" is not", "letter"),
            ("/a/{*}", "\"\" is not", "letter"),
            ("/a/{1d}", "\"1d\"", "letter"),
            ("/a/{a.b}", "\"a.b\"", "letter"),
            ("/a/{id}.json", "\".json\" follows {id}", "whole segment"),
            ("/v{version}/x", "\"v\" stands before {version}", "whole segment"),
            ("/{a}{b}", "follows {a}", "whole segment"),
            ("/{*rest}/b", "not the last", "end"),
            ("/x{*rest}", "stands before", "whole segment"),
            ("/{id}/{id}", "two parameters are named \"id\"", "own"),
            ("/files/*", "bare '*'", "{*rest}"),
            ("/orders/:id", ":id", "{id}"),
            ("/a?b=c", "'?'", "query"),
            ("/a b", "' '", "%20"),
            ("/café", "'é'", "%C3%A9"),
            ("/a%2", "'%'", "%25"),
            ("/a%c3", "upper-case", "%25"),
            (&long, "1025 bytes", "{*rest}"),
            (&many, "17 parameters", "{*rest}"),
        ] {
            let found = Pattern::parse(text).expect_err(text);
            assert!(found.message.contains(message), "{text:?}: {found:?}");
            assert!(found.help.contains(help), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn patterns_that_differ_only_in_names_exclude_each_other() {
        for (one, other, expected) in [
            ("/orders/{id}", "/orders/{number}", true),
            ("/orders/{id}", "/orders/{*rest}", true),
            ("/orders/{id}/items", "/orders/{*rest}", true),
            ("/{*a}", "/{*b}", true),
            ("/orders", "/orders", true),
            ("/orders", "/orders/", false),
            ("/orders/{id}", "/orders/new", false),
            ("/orders/{id}", "/orders/{id}/items", false),
            ("/", "/{*rest}", false),
        ] {
            let [one_pattern, other_pattern] = [one, other].map(|text| Pattern::parse(text).unwrap());
            assert_eq!(one_pattern.excludes(&other_pattern), expected, "{one} {other}");
        }
    }

    /// Few literals and names, so that patterns meet.
    pub(crate) fn patterns() -> impl Strategy<Value = String> {
        let segment = prop_oneof!["[ab]{1,2}", "\\{[xy]\\}"];
        let end = prop_oneof![Just(""), Just("/"), Just("/{*rest}"), Just("/a"), Just("/{z}")];
        (prop::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
            let mut text: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            text.push_str(end);
            if text.is_empty() { "/".to_owned() } else { text }
        })
    }

    proptest! {
        #[test]
        fn exclusion_is_symmetrical(one in patterns(), other in patterns()) {
            if let (Ok(one), Ok(other)) = (Pattern::parse(&one), Pattern::parse(&other)) {
                prop_assert_eq!(one.excludes(&other), other.excludes(&one));
                prop_assert!(one.excludes(&one));
            }
        }

        #[test]
        fn no_text_makes_the_parser_or_the_router_panic(text in "/?[a-c/{}*%:._é?]{0,24}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert!(matchit::Router::new().insert(pattern.shape(), ()).is_ok(), "{}", text);
            }
        }
    }
}
