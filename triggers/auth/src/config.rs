//! The keys `auth` of a section: what was typed, every mistake in it, and what is meant.

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Problems, Step};

use crate::webhook::{Format, Hmac, Webhook};

/// The most secrets that are active at once: each is tried.
const MAX_SECRETS: usize = 8;

/// How far a signed time may be from the present one, in seconds, where nothing is said.
const DEFAULT_TOLERANCE: u32 = 300;

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How callers prove who they are: `"none"` lets everybody in; `"basic"` asks for a user and a password, which a
    /// secret has as `user:password`; `"token"` for a bearer token made by `tripline tokens new`; the others for the
    /// signature of a webhook, as its provider makes it, or (`"hmac"`) as the further keys say.
    #[serde(rename = "type")]
    pub kind: AuthType,
    /// Secrets of `[engine.secrets]`, by name. Each of them is good, so that one can be replaced without a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Words that a token must have been given, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// How far the time that was signed may be from the present one, in seconds, before or after: default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub tolerance_seconds: Option<u32>,
    /// With `"hmac"`: the header that has the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// With `"hmac"`: the hash, `"sha256"` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// With `"hmac"`: how the signature is written, `"hex"` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// With `"hmac"`: what stands before the signature in its header, as in `"sha256="`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// With `"hmac"`: the header that has the time, in seconds since 1970; `<time>.<body>` is signed then, and not the
    /// body alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
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
    /// A webhook signed as Standard Webhooks says.
    StandardWebhooks,
    /// A webhook of GitHub.
    Github,
    /// A webhook of Stripe.
    Stripe,
    /// A request of Slack.
    Slack,
    /// A webhook with an HMAC in a header.
    Hmac,
}

/// The hash of an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-1, for providers that have not moved on.
    Sha1,
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// In hexadecimal digits.
    #[default]
    Hex,
    /// In base64.
    Base64,
}

/// What is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Basic { secrets: Vec<String> },
    Token { scopes: Vec<String> },
    Webhook(Webhook),
}

/// The keys of `"hmac"`.
const HMAC: &[&str] =
    &["secrets", "header", "algorithm", "encoding", "prefix", "timestamp_header", "tolerance_seconds"];

impl AuthType {
    /// As it is typed.
    fn word(self) -> &'static str {
        match self {
            AuthType::None => "none",
            AuthType::Basic => "basic",
            AuthType::Token => "token",
            AuthType::StandardWebhooks => "standard-webhooks",
            AuthType::Github => "github",
            AuthType::Stripe => "stripe",
            AuthType::Slack => "slack",
            AuthType::Hmac => "hmac",
        }
    }

    /// The keys that say more about it.
    fn takes(self) -> &'static [&'static str] {
        match self {
            AuthType::None => &[],
            AuthType::Basic | AuthType::Github => &["secrets"],
            AuthType::Token => &["scopes"],
            AuthType::StandardWebhooks | AuthType::Stripe | AuthType::Slack => &["secrets", "tolerance_seconds"],
            AuthType::Hmac => HMAC,
        }
    }

    /// Whether it takes a body to tell who calls.
    pub fn needs_body(self) -> bool {
        use AuthType::{Github, Hmac, Slack, StandardWebhooks, Stripe};
        matches!(self, StandardWebhooks | Github | Stripe | Slack | Hmac)
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
        if self.kind == AuthType::Hmac {
            self.check_hmac(problems);
        }
    }

    fn check_hmac(&self, problems: &mut Problems) {
        if self.header.is_none() {
            problems.add("header", "the signature's header is not named", "name it: header = \"x-signature\"");
        }
        for (key, name) in [("header", &self.header), ("timestamp_header", &self.timestamp_header)] {
            if let Some(name) = name.as_ref().filter(|name| header_name(name).is_none()) {
                problems.add(key, format!("{name:?} is not the name of a header"), "write it as in \"x-signature\"");
            }
        }
        if self.tolerance_seconds.is_some() && self.timestamp_header.is_none() {
            let help = "name its header with timestamp_header, or leave this out";
            problems.add("tolerance_seconds", "no time is signed", help);
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
        let keys = [
            ("secrets", !self.secrets.is_empty()),
            ("scopes", !self.scopes.is_empty()),
            ("tolerance_seconds", self.tolerance_seconds.is_some()),
            ("header", self.header.is_some()),
            ("algorithm", self.algorithm.is_some()),
            ("encoding", self.encoding.is_some()),
            ("prefix", self.prefix.is_some()),
            ("timestamp_header", self.timestamp_header.is_some()),
        ];
        keys.into_iter().filter_map(|(key, given)| given.then_some(key)).collect()
    }

    /// What is meant; `None` where everybody may come in. The error is one that `check` finds.
    pub(crate) fn scheme(&self) -> Result<Option<Scheme>, String> {
        let webhook = |format| {
            let tolerance_seconds = self.tolerance_seconds.unwrap_or(DEFAULT_TOLERANCE);
            Scheme::Webhook(Webhook { format, secrets: self.secrets.clone(), tolerance_seconds })
        };
        Ok(Some(match self.kind {
            AuthType::None => return Ok(None),
            AuthType::Basic => Scheme::Basic { secrets: self.secrets.clone() },
            AuthType::Token => Scheme::Token { scopes: self.scopes.clone() },
            AuthType::StandardWebhooks => webhook(Format::StandardWebhooks),
            AuthType::Github => webhook(Format::Github),
            AuthType::Stripe => webhook(Format::Stripe),
            AuthType::Slack => webhook(Format::Slack),
            AuthType::Hmac => webhook(Format::Hmac(self.hmac()?)),
        }))
    }

    fn hmac(&self) -> Result<Hmac, String> {
        let name = |name: &String| header_name(name).ok_or_else(|| format!("{name:?} is not the name of a header"));
        Ok(Hmac {
            header: self.header.as_ref().map(name).transpose()?.ok_or("the signature's header is not named")?,
            algorithm: self.algorithm.unwrap_or_default(),
            encoding: self.encoding.unwrap_or_default(),
            prefix: self.prefix.clone().unwrap_or_default(),
            timestamp_header: self.timestamp_header.as_ref().map(name).transpose()?,
        })
    }
}

fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
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
            (serde_json::json!({ "type": "stripe", "secrets": ["A"], "tolerance_seconds": 60 }), &[], 1),
            (
                serde_json::json!({ "type": "github", "secrets": ["A"], "tolerance_seconds": 60 }),
                &["auth.tolerance_seconds: type = \"github\" has no use for it"],
                1,
            ),
            (
                serde_json::json!({
                    "type": "hmac", "secrets": ["A"], "header": "x-s", "algorithm": "sha512", "encoding": "base64",
                    "prefix": "v=", "timestamp_header": "x-t", "tolerance_seconds": 60
                }),
                &[],
                1,
            ),
            (
                serde_json::json!({ "type": "hmac", "secrets": ["A"], "tolerance_seconds": 60 }),
                &["auth.header: the signature's header is not named", "auth.tolerance_seconds: no time is signed"],
                1,
            ),
            (
                serde_json::json!({ "type": "hmac", "secrets": ["A"], "header": "x s", "timestamp_header": "" }),
                &[
                    "auth.header: \"x s\" is not the name of a header",
                    "auth.timestamp_header: \"\" is not the name of a header",
                ],
                1,
            ),
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
