//! The keys `auth` of a section: what was typed, every mistake in it, and what is meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Problems, Step};

/// The most secrets that are active at once: each is tried.
const MAX_SECRETS: usize = 8;

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How callers prove who they are: `"none"` lets everybody in; `"basic"` asks for a user and a password, which a
    /// secret has as `user:password`; `"token"` for a bearer token made by `tripline tokens new`.
    #[serde(rename = "type")]
    pub kind: AuthType,
    /// Secrets of `[engine.secrets]`, by name. Each of them is good, so that one can be replaced without a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Words that a token must have been given, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// The ways in which callers prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthType {
    /// They need not.
    #[default]
    None,
    /// A user and a password (RFC 7617).
    Basic,
    /// A bearer token of the engine's own (RFC 6750).
    Token,
}

/// What is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Basic { secrets: Vec<String> },
    Token { scopes: Vec<String> },
}

impl AuthType {
    /// As it is typed.
    fn word(self) -> &'static str {
        match self {
            AuthType::None => "none",
            AuthType::Basic => "basic",
            AuthType::Token => "token",
        }
    }

    /// The keys that say more about it.
    fn takes(self) -> &'static [&'static str] {
        match self {
            AuthType::None => &[],
            AuthType::Basic => &["secrets"],
            AuthType::Token => &["scopes"],
        }
    }
}

impl Auth {
    /// Finds every mistake that the schema cannot. To be called within the key `auth`.
    pub fn check(&self, problems: &mut Problems) {
        let (word, takes) = (self.kind.word(), self.kind.takes());
        for key in self.given().into_iter().filter(|key| !takes.contains(key)) {
            let help = match takes {
                [] => "leave it out".to_owned(),
                takes => format!("with this type go: {}", takes.join(", ")),
            };
            problems.add(key, format!("type = \"{word}\" has no use for it"), help);
        }
        if takes.contains(&"secrets") {
            self.check_secrets(problems);
        }
        // As RFC 6749 has them: they are listed with spaces between, in quotes.
        let sound =
            |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if let Some(scope) = self.scopes.iter().find(|scope| !sound(scope)) {
            let help = "use visible ASCII characters without spaces and quotes: \"orders:write\"";
            problems.add("scopes", format!("{scope:?} is not a scope"), help);
        }
    }

    fn check_secrets(&self, problems: &mut Problems) {
        if self.secrets.is_empty() {
            problems.add("secrets", "no secret is named", "name one of [engine.secrets]: secrets = [\"NAME\"]");
        }
        if self.secrets.len() > MAX_SECRETS {
            let message = format!("{} secrets are active at once, the limit is {MAX_SECRETS}", self.secrets.len());
            problems.add("secrets", message, "leave out those that nobody uses any more");
        }
        problems.within("secrets", |problems| {
            for (index, name) in self.secrets.iter().enumerate() {
                problems.names_secret(Step::Index(index), name);
            }
        });
    }

    /// The keys beside `type` that were typed.
    fn given(&self) -> Vec<&'static str> {
        let keys = [("secrets", !self.secrets.is_empty()), ("scopes", !self.scopes.is_empty())];
        keys.into_iter().filter_map(|(key, given)| given.then_some(key)).collect()
    }

    /// What is meant; `None` where everybody may come in.
    pub(crate) fn scheme(&self) -> Option<Scheme> {
        match self.kind {
            AuthType::None => None,
            AuthType::Basic => Some(Scheme::Basic { secrets: self.secrets.clone() }),
            AuthType::Token => Some(Scheme::Token { scopes: self.scopes.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(section: serde_json::Value) -> (Vec<String>, usize) {
        let auth: Auth = serde_json::from_value(section).unwrap();
        let mut problems = Problems::new();
        problems.within("auth", |problems| auth.check(problems));
        let secrets = problems.take_secrets().len();
        let told = problems.into_vec();
        let tell = |one: &trigger_core::Problem| format!("{}: {}", trigger_core::display_path(&one.path), one.message);
        (told.iter().map(tell).collect(), secrets)
    }

    #[test]
    fn keys_of_another_type_and_missing_secrets_are_mistakes() {
        for (section, told, secrets) in [
            (serde_json::json!({ "type": "none" }), &[][..], 0),
            (serde_json::json!({ "type": "token", "scopes": ["a"] }), &[], 0),
            (serde_json::json!({ "type": "basic", "secrets": ["A", "B"] }), &[], 2),
            (
                serde_json::json!({ "type": "none", "scopes": ["a"] }),
                &["auth.scopes: type = \"none\" has no use for it"],
                0,
            ),
            (
                serde_json::json!({ "type": "token", "secrets": ["A"] }),
                &["auth.secrets: type = \"token\" has no use for it"],
                0,
            ),
            (serde_json::json!({ "type": "token", "scopes": ["a b"] }), &["auth.scopes: \"a b\" is not a scope"], 0),
            (serde_json::json!({ "type": "basic" }), &["auth.secrets: no secret is named"], 0),
        ] {
            assert_eq!(
                problems(section.clone()),
                (told.iter().map(|one| (*one).to_owned()).collect(), secrets),
                "{section}"
            );
        }
    }

    #[test]
    fn too_many_secrets_are_a_mistake() {
        let section = serde_json::json!({ "type": "basic", "secrets": vec!["A"; 9] });
        assert_eq!(problems(section).0, ["auth.secrets: 9 secrets are active at once, the limit is 8"]);
    }
}
