//! The keys `auth` of a section: what was typed, every mistake in it, and what is meant.

use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Problems, Step};

use crate::jwk::JwtAlgorithm;
use crate::jwt::Jwt;
use crate::keys::Keys;
use crate::webhook::{Format, Hmac, Webhook};

/// The most secrets that are active at once: each is tried.
const MAX_SECRETS: usize = 8;

/// How far a signed time may be from the present one, in seconds, where nothing is said.
const DEFAULT_TOLERANCE: u32 = 300;

/// How far clocks may differ, in seconds, where nothing is said.
const DEFAULT_LEEWAY: u32 = 60;

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How callers prove who they are: `"none"` lets everybody in; `"basic"` asks for a user and a password, which a
    /// secret has as `user:password`; `"token"` for a bearer token made by `tripline tokens new`; the others for the
    /// signature of a webhook, as its provider makes it, or (`"hmac"`) as the further keys say; `"jwt"` for a bearer
    /// token that an issuer signed.
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
    /// With `"jwt"`: the one whose tokens are good, as `iss` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// With `"jwt"`: whom tokens must be meant for, one of these, as `aud` has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// With `"jwt"`: how tokens may be signed, `["RS256"]` by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<JwtAlgorithm>,
    /// With `"jwt"`: where the issuer publishes its keys, a JWK Set. Or `secrets` has them, each a JWK Set or a JWK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// With `"jwt"`: how far clocks may differ, in seconds: default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 600))]
    pub leeway_seconds: Option<u32>,
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
    /// A bearer token that an issuer signed (RFC 7519).
    Jwt,
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
pub(crate) enum Scheme {
    Basic { secrets: Vec<String> },
    Token { scopes: Vec<String> },
    Jwt(Box<Jwt>),
    Webhook(Webhook),
}

/// The keys of `"hmac"`.
const HMAC: &[&str] =
    &["secrets", "header", "algorithm", "encoding", "prefix", "timestamp_header", "tolerance_seconds"];

/// The keys of `"jwt"`.
const JWT: &[&str] = &["issuer", "audience", "algorithms", "jwks_url", "secrets", "scopes", "leeway_seconds"];

impl AuthType {
    /// As it is typed.
    fn word(self) -> &'static str {
        match self {
            AuthType::None => "none",
            AuthType::Basic => "basic",
            AuthType::Token => "token",
            AuthType::Jwt => "jwt",
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
            AuthType::Jwt => JWT,
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
            // The keys of tokens may be elsewhere.
            if self.secrets.is_empty() && self.kind != AuthType::Jwt {
                problems.add("secrets", "no secret is named", "name one of [engine.secrets]: secrets = [\"NAME\"]");
            }
            self.check_secrets(problems);
        }
        // As RFC 6749 has them: they are listed with spaces between, in quotes.
        let sound =
            |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if let Some(scope) = self.scopes.iter().find(|scope| !sound(scope)) {
            let help = "use visible ASCII characters without spaces and quotes: \"orders:write\"";
            problems.add("scopes", format!("{scope:?} is not a scope"), help);
        }
        match self.kind {
            AuthType::Hmac => self.check_hmac(problems),
            AuthType::Jwt => self.check_jwt(problems),
            _ => {}
        }
    }

    fn check_jwt(&self, problems: &mut Problems) {
        if self.issuer.is_none() {
            problems.add("issuer", "this key is missing", "name whose tokens are good, as their `iss` does");
        }
        if self.audience.is_empty() {
            problems.add("audience", "this key is missing", "name whom tokens must be meant for, as their `aud` does");
        }
        match (&self.jwks_url, self.secrets.is_empty()) {
            (None, true) => problems.add("jwks_url", "the issuer's keys are nowhere", "name jwks_url or secrets"),
            (Some(_), false) => problems.add("jwks_url", "secrets has the keys already", "keep one of the two"),
            (Some(url), true) if !is_safe(url) => {
                let help = "write an https URL (http is for this machine): \"https://issuer.example/keys\"";
                problems.add("jwks_url", format!("keys cannot be had from {url:?}"), help);
            }
            _ => {}
        }
        if self.jwks_url.is_some() && self.algorithms.contains(&JwtAlgorithm::HS256) {
            let help = "have the key in secrets, or leave HS256 out";
            problems.add("algorithms", "HS256 takes a key that nobody publishes", help);
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
            ("issuer", self.issuer.is_some()),
            ("audience", !self.audience.is_empty()),
            ("algorithms", !self.algorithms.is_empty()),
            ("jwks_url", self.jwks_url.is_some()),
            ("leeway_seconds", self.leeway_seconds.is_some()),
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
            AuthType::Jwt => Scheme::Jwt(Box::new(self.jwt()?)),
            AuthType::StandardWebhooks => webhook(Format::StandardWebhooks),
            AuthType::Github => webhook(Format::Github),
            AuthType::Stripe => webhook(Format::Stripe),
            AuthType::Slack => webhook(Format::Slack),
            AuthType::Hmac => webhook(Format::Hmac(self.hmac()?)),
        }))
    }

    fn jwt(&self) -> Result<Jwt, String> {
        let algorithms = match self.algorithms.is_empty() {
            true => vec![JwtAlgorithm::RS256],
            false => self.algorithms.clone(),
        };
        let keys = match &self.jwks_url {
            Some(url) => Keys::at(url.clone()),
            None => Keys::in_secrets(self.secrets.clone()),
        };
        Ok(Jwt {
            issuer: self.issuer.clone().ok_or("the issuer is not named")?,
            audience: self.audience.clone(),
            algorithms,
            scopes: self.scopes.clone(),
            leeway_seconds: self.leeway_seconds.unwrap_or(DEFAULT_LEEWAY),
            keys,
        })
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

/// Whether what comes from an address is what its owner put there: on a network anybody may be in between.
fn is_safe(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let local = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme_str() {
        Some("https") => url.host().is_some(),
        Some("http") => local,
        _ => false,
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
                serde_json::json!({
                    "type": "jwt", "issuer": "i", "audience": ["a"], "algorithms": ["ES256", "RS256"],
                    "jwks_url": "https://i.example/keys", "leeway_seconds": 0, "scopes": ["a"]
                }),
                &[],
                0,
            ),
            (
                serde_json::json!({
                    "type": "jwt", "issuer": "i", "audience": ["a"], "algorithms": ["HS256"], "secrets": ["A"]
                }),
                &[],
                1,
            ),
            (
                serde_json::json!({ "type": "jwt" }),
                &[
                    "auth.issuer: this key is missing",
                    "auth.audience: this key is missing",
                    "auth.jwks_url: the issuer's keys are nowhere",
                ],
                0,
            ),
            (
                serde_json::json!({
                    "type": "jwt", "issuer": "i", "audience": ["a"], "jwks_url": "https://i", "secrets": ["A"]
                }),
                &["auth.jwks_url: secrets has the keys already"],
                1,
            ),
            (
                serde_json::json!({
                    "type": "jwt", "issuer": "i", "audience": ["a"], "jwks_url": "http://i.example/keys",
                    "algorithms": ["HS256"]
                }),
                &[
                    "auth.jwks_url: keys cannot be had from \"http://i.example/keys\"",
                    "auth.algorithms: HS256 takes a key that nobody publishes",
                ],
                0,
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
