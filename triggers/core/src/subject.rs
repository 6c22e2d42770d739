//! Subjects and patterns with the semantics of NATS (<https://docs.nats.io/nats-concepts/subjects>): tokens separated
//! by `.`, `*` stands for one token, `>` for one or more at the end.

use std::collections::HashMap;

/// The longest subject taken, in bytes. NATS itself bounds it by its control line (4,096 bytes).
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// The first token of subjects on which engines speak to each other.
pub const RESERVED: &str = "_TRIPLINE";

/// Whether only engines may speak on a subject, and only engines may listen.
pub fn is_reserved(subject: &str) -> bool {
    subject.split('.').next() == Some(RESERVED)
}

fn check(subject: &str, wildcards: bool) -> Result<(), String> {
    if subject.is_empty() {
        return Err("it is empty".into());
    }
    if subject.len() > MAX_SUBJECT_BYTES {
        return Err(format!("it has {} bytes, the limit is {MAX_SUBJECT_BYTES}", subject.len()));
    }
    if is_reserved(subject) {
        return Err(format!("{RESERVED} is for engines among themselves"));
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() {
            return Err("it has an empty token (two dots in a row, or a dot at an end)".into());
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("it has a space or a control character".into());
        }
        match token {
            "*" | ">" if !wildcards => return Err(format!("wildcard {token:?} is for subscriptions only")),
            ">" if tokens.peek().is_some() => return Err("\">\" may only be the last token".into()),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a message may be published on `subject`; the error says why not.
pub fn check_subject(subject: &str) -> Result<(), String> {
    check(subject, false)
}

/// Whether `pattern` may be subscribed to; the error says why not.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    check(pattern, true)
}

/// Whether a message on `subject` reaches a subscription to `pattern`.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    let mut pattern = pattern.split('.');
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(expected), Some(token)) if expected == token => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Whether there is a subject that both patterns match.
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Patterns and what is subscribed to them; finding the matches of a subject costs its tokens, not the patterns.
#[derive(Debug)]
pub struct SubjectMap<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    tokens: HashMap<Box<str>, Node<T>>,
    any: Option<Box<Node<T>>>,
    /// Values whose pattern ends here.
    here: Vec<T>,
    /// Values whose pattern ends here with `>`.
    rest: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { tokens: HashMap::new(), any: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }

    fn remove(&mut self, tokens: &[&str], gone: &mut dyn FnMut(&T) -> bool) {
        match tokens {
            [] => self.here.retain(|value| !gone(value)),
            [">"] => self.rest.retain(|value| !gone(value)),
            ["*", rest @ ..] => {
                if let Some(node) = &mut self.any {
                    node.remove(rest, gone);
                    if node.is_empty() {
                        self.any = None;
                    }
                }
            }
            [token, rest @ ..] => {
                if let Some(node) = self.tokens.get_mut(*token) {
                    node.remove(rest, gone);
                    if node.is_empty() {
                        self.tokens.remove(*token);
                    }
                }
            }
        }
    }

    fn for_each<'a>(&'a self, mut tokens: std::str::Split<'_, char>, visit: &mut dyn FnMut(&'a T)) {
        match tokens.next() {
            None => self.here.iter().for_each(visit),
            Some(token) => {
                self.rest.iter().for_each(&mut *visit);
                if let Some(node) = self.tokens.get(token) {
                    node.for_each(tokens.clone(), visit);
                }
                if let Some(node) = &self.any {
                    node.for_each(tokens, visit);
                }
            }
        }
    }
}

impl<T> Default for SubjectMap<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> SubjectMap<T> {
    /// Adds a value under a pattern that [`check_pattern`] accepts.
    pub fn insert(&mut self, pattern: &str, value: T) {
        let mut node = &mut self.root;
        for token in pattern.split('.') {
            match token {
                ">" => return node.rest.push(value),
                "*" => node = node.any.get_or_insert_default(),
                token => node = node.tokens.entry(token.into()).or_default(),
            }
        }
        node.here.push(value);
    }

    /// Removes the values under exactly this pattern for which `gone` holds.
    pub fn remove(&mut self, pattern: &str, mut gone: impl FnMut(&T) -> bool) {
        let tokens: Vec<&str> = pattern.split('.').collect();
        self.root.remove(&tokens, &mut gone);
    }

    /// Visits every value whose pattern matches the subject.
    pub fn for_each_match<'a>(&'a self, subject: &str, mut visit: impl FnMut(&'a T)) {
        self.root.for_each(subject.split('.'), &mut visit);
    }

    /// Whether nothing is subscribed.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_engines_say_among_themselves_is_nobody_elses_subject() {
        for reserved in ["_TRIPLINE", "_TRIPLINE.sockets", "_TRIPLINE.>", "_TRIPLINE.*.sockets"] {
            assert!(is_reserved(reserved) && check_pattern(reserved).is_err() && check_subject(reserved).is_err());
        }
        for other in ["_TRIPLINES.a", "a._TRIPLINE", "_tripline.a"] {
            assert!(check_subject(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn wildcards_follow_nats() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.b", "a.b", true),
            ("a*", "ab", false),
            ("a*", "a*", true),
            ("*.*", "a", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} ~ {subject}");
        }
    }

    #[test]
    fn bad_subjects_are_refused_with_a_reason() {
        for bad in ["", ".", "a..b", "a.", ".a", "a b", "a.\n", "*", "a.>"] {
            assert!(check_subject(bad).is_err(), "{bad:?}");
        }
        for bad in ["a.>.b", "a..*", ""] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
        assert!(check_pattern("a.*.>").is_ok());
        assert!(check_subject(&"a".repeat(MAX_SUBJECT_BYTES + 1)).is_err());
    }

    #[test]
    fn patterns_overlap_where_a_subject_matches_both() {
        for (one, other, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "*.b", true),
            ("a.>", "*.b.c", true),
            ("a.>", "a", false),
            (">", "*", true),
            ("a.*", "a.*.>", false),
            ("a.*.c", "a.b.>", true),
            ("a.b", "a.c", false),
            ("work.>", "orders.*", false),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} ~ {other}");
        }
    }

    proptest! {
        #[test]
        fn two_patterns_that_match_one_subject_overlap(
            one in "([ab*]\\.){0,2}([ab*>])",
            other in "([ab*]\\.){0,2}([ab*>])",
            subject in "([ab]\\.){0,2}[ab]",
        ) {
            prop_assert!(overlap(&one, &other) || !(matches(&one, &subject) && matches(&other, &subject)));
        }

        #[test]
        fn the_map_agrees_with_matching_each_pattern(
            patterns in prop::collection::vec("([ab*]\\.){0,3}([ab*>])", 0..20),
            subject in "([abc]\\.){0,3}[abc]",
            removed in any::<prop::sample::Index>(),
        ) {
            let mut map = SubjectMap::default();
            for (index, pattern) in patterns.iter().enumerate() {
                map.insert(pattern, index);
            }
            let gone = (!patterns.is_empty()).then(|| removed.index(patterns.len()));
            if let Some(gone) = gone {
                map.remove(&patterns[gone], |&value| value == gone);
            }
            let mut found = Vec::new();
            map.for_each_match(&subject, |&index| found.push(index));
            found.sort_unstable();
            let expected: Vec<usize> = (0..patterns.len())
                .filter(|index| Some(*index) != gone && matches(&patterns[*index], &subject))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn removing_everything_leaves_an_empty_map(patterns in prop::collection::vec("([ab*]\\.){0,3}([ab*>])", 0..20)) {
            let mut map = SubjectMap::default();
            for pattern in &patterns { map.insert(pattern, ()); }
            for pattern in &patterns { map.remove(pattern, |_| true); }
            prop_assert!(map.is_empty());
        }
    }
}
