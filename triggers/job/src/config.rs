//! A job trigger's section of the manifest, as typed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which queue the function works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The queue's name: letters, digits, `-`, `_` and `.`, at most 128 of them. One function works on a queue.
    pub queue: String,
}

/// The longest name of a queue.
const MAX_NAME: usize = 128;

impl Config {
    /// What is wrong with the name, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.queue;
        let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
        if name.is_empty() {
            return Err("the queue has no name".to_owned());
        }
        if name.len() > MAX_NAME {
            return Err(format!("the queue's name has {} characters, the limit is {MAX_NAME}", name.len()));
        }
        match name.chars().find(|&char| !allowed(char)) {
            Some(char) => Err(format!("the queue's name {name:?} has a {char:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(queue: &str) -> Result<(), String> {
        Config { queue: queue.to_owned() }.check()
    }

    #[test]
    fn names_are_words_of_bounded_length() {
        for name in ["thumbnails", "a", "mail.high-1_x", &"x".repeat(MAX_NAME)] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
        for name in ["", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_a_queue_is_required() {
        assert!(serde_json::from_str::<Config>(r#"{"queue":"a","priority":1}"#).is_err());
        assert!(serde_json::from_str::<Config>("{}").is_err());
    }
}
