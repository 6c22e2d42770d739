//! A bearer token that an issuer signed (RFC 7519): whose key, which algorithm, from whom, for whom, until when.
//!
//! Everything is pinned by the manifest, nothing by the token: the algorithm must be one of those named, the key one of
//! the issuer's that is for it, `iss` and `aud` what is expected, and `exp` must be there.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use trigger_core::{Credentials, Shed};

use crate::bearer::{INVALID, MISSING, insufficient};
use crate::guard::{Caller, Denied, authorization};
use crate::jwk::{JwtAlgorithm, Key};
use crate::keys::Keys;

/// The longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Keys that are tried for a token that does not name one.
const MAX_TRIED_KEYS: usize = 8;

/// The longest `sub`, in bytes.
const MAX_SUBJECT_BYTES: usize = 255;

/// What a trigger expects of tokens.
pub(crate) struct Jwt {
    pub(crate) issuer: String,
    pub(crate) audience: Vec<String>,
    pub(crate) algorithms: Vec<JwtAlgorithm>,
    pub(crate) scopes: Vec<String>,
    pub(crate) leeway_seconds: u32,
    pub(crate) keys: Keys,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    aud: Words,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    scope: Words,
    #[serde(default)]
    scp: Words,
}

/// One text, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Default for Words {
    fn default() -> Self {
        Words::Many(Vec::new())
    }
}

impl Words {
    fn has(&self, word: &str) -> bool {
        match self {
            Words::One(one) => one == word,
            Words::Many(many) => many.iter().any(|one| one == word),
        }
    }

    /// The same where one text is a list with spaces between.
    fn lists(&self, word: &str) -> bool {
        match self {
            Words::One(one) => one.split(' ').any(|one| one == word),
            Words::Many(many) => many.iter().any(|one| one == word),
        }
    }
}

/// A token taken apart; nothing of it is believed yet.
struct Token<'a> {
    algorithm: JwtAlgorithm,
    key_id: Option<String>,
    message: &'a str,
    signature: Vec<u8>,
    payload: Vec<u8>,
}

impl Jwt {
    /// Whether a token was presented that is what is expected, at `now` in seconds since 1970.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        now: i64,
        credentials: &dyn Credentials,
    ) -> Result<Caller, Denied> {
        let presented = authorization(headers, "Bearer")
            .ok_or_else(|| Denied::unauthenticated("a bearer token is needed", MISSING))?;
        let token = self.read(presented).ok_or_else(|| invalid("the token cannot be read, or is signed otherwise"))?;
        let unknown = || Denied {
            reason: Shed::KeysUnavailable,
            detail: Shed::KeysUnavailable.detail().into(),
            challenge: None,
            retry_after: std::time::Duration::from_secs(10),
        };
        let mut keys = self.keys.known(credentials).await.ok_or_else(unknown)?;
        if !keys.iter().any(|key| token.suits(key)) {
            keys = self.keys.renewed(credentials).await.unwrap_or(keys);
        }
        if !token.is_signed_by(&keys) {
            return Err(invalid("the token is signed by nobody who is known here"));
        }
        let claims: Claims =
            serde_json::from_slice(&token.payload).map_err(|_| invalid("the token's claims cannot be read"))?;
        self.check_claims(&claims, now)?;
        let subject = claims.sub.as_deref().filter(|subject| is_name(subject));
        let subject = subject.ok_or_else(|| invalid("the token names nobody (sub)"))?;
        let scopes = |scope: &String| claims.scope.lists(scope) || claims.scp.lists(scope);
        if !self.scopes.iter().all(scopes) {
            return Err(Denied::forbidden("the token lacks a scope", insufficient(&self.scopes)));
        }
        let claims = String::from_utf8(token.payload).map_err(|_| invalid("the token's claims cannot be read"))?;
        Ok(Caller { claims: Some(claims.into()), ..Caller::named(format!("jwt:{subject}")) })
    }

    /// Takes a token apart, unless it is signed by an algorithm that is not expected.
    fn read<'a>(&self, presented: &'a str) -> Option<Token<'a>> {
        if presented.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (message, signature) = presented.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: Header = decode(header)?;
        let algorithm = serde_json::from_value(header.alg.into()).ok()?;
        let expected = self.algorithms.contains(&algorithm) && header.crit.is_none();
        expected.then_some(())?;
        let (signature, payload) = (URL_SAFE_NO_PAD.decode(signature).ok()?, URL_SAFE_NO_PAD.decode(payload).ok()?);
        Some(Token { algorithm, key_id: header.kid, message, signature, payload })
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), Denied> {
        let (now, leeway) = (now as f64, f64::from(self.leeway_seconds));
        if claims.iss.as_ref() != Some(&self.issuer) {
            return Err(invalid("the token is another issuer's (iss)"));
        }
        if !self.audience.iter().any(|one| claims.aud.has(one)) {
            return Err(invalid("the token is meant for others (aud)"));
        }
        match claims.exp {
            None => return Err(invalid("the token does not say until when it is good (exp)")),
            Some(exp) if now >= exp + leeway => return Err(invalid("the token has expired")),
            Some(_) => {}
        }
        match claims.nbf {
            Some(nbf) if now < nbf - leeway => Err(invalid("the token is not good yet (nbf)")),
            _ => Ok(()),
        }
    }
}

impl Token<'_> {
    fn suits(&self, key: &Key) -> bool {
        key.suits(self.algorithm, self.key_id.as_deref())
    }

    fn is_signed_by(&self, keys: &Arc<Vec<Key>>) -> bool {
        let suited = keys.iter().filter(|key| self.suits(key)).take(MAX_TRIED_KEYS);
        suited.into_iter().any(|key| key.verifies(self.algorithm, self.message.as_bytes(), &self.signature))
    }
}

fn invalid(detail: &'static str) -> Denied {
    Denied::unauthenticated(detail, INVALID)
}

fn decode<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// Whether a subject can stand in logs and traces.
fn is_name(subject: &str) -> bool {
    (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) && !subject.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::hmac;
    use serde_json::{Value, json};
    use std::time::Duration;
    use trigger_core::testing::FakeCredentials;

    const NOW: i64 = 1_800_000_000;

    fn key(id: &str) -> (String, hmac::Key) {
        let bytes = id.repeat(32);
        let jwk = json!({ "kty": "oct", "kid": id, "k": URL_SAFE_NO_PAD.encode(&bytes) });
        (jwk.to_string(), hmac::Key::new(hmac::HMAC_SHA256, bytes.as_bytes()))
    }

    fn token(header: &Value, claims: &Value, key: &hmac::Key) -> String {
        let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn jwt(keys: Keys) -> Jwt {
        Jwt {
            issuer: "https://issuer.example".to_owned(),
            audience: vec!["orders".to_owned(), "api".to_owned()],
            algorithms: vec![JwtAlgorithm::HS256, JwtAlgorithm::ES256],
            scopes: vec!["write".to_owned()],
            leeway_seconds: 60,
            keys,
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://issuer.example", "sub": "alice", "aud": ["web", "api"], "exp": NOW + 10, "nbf": NOW - 10,
            "scope": "read write", "tenant": "acme"
        })
    }

    fn changed(by: &Value) -> Value {
        let mut claims = claims();
        for (name, value) in by.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    async fn come(jwt: &Jwt, token: &str, known: &FakeCredentials) -> Result<Caller, String> {
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        jwt.check(&headers, NOW, known).await.map_err(|denied| format!("{} {}", denied.reason, denied.detail))
    }

    fn shared() -> (Jwt, FakeCredentials, hmac::Key) {
        let ((document, key), known) = (key("a"), FakeCredentials::default());
        known.secrets.lock().unwrap().insert("ISSUER".to_owned(), document.into());
        (jwt(Keys::in_secrets(vec!["ISSUER".to_owned()])), known, key)
    }

    #[tokio::test]
    async fn a_token_is_good_when_all_that_is_pinned_holds() {
        let (jwt, known, key) = shared();
        let header = json!({ "alg": "HS256", "kid": "a", "typ": "JWT" });
        let caller = come(&jwt, &token(&header, &claims(), &key), &known).await.unwrap();
        assert_eq!(&*caller.name, "jwt:alice");
        assert_eq!(serde_json::from_str::<Value>(&caller.claims.unwrap()).unwrap()["tenant"], "acme");
        for good in [
            json!({ "aud": "orders" }),
            json!({ "nbf": null }),
            json!({ "exp": NOW - 59 }),
            json!({ "exp": NOW as f64 + 0.5 }),
            json!({ "nbf": NOW + 60 }),
            json!({ "scope": null, "scp": ["write"] }),
        ] {
            assert!(come(&jwt, &token(&header, &changed(&good), &key), &known).await.is_ok(), "{good}");
        }
        for (bad, why) in [
            (json!({ "iss": "https://issuer.example/" }), "another issuer's"),
            (json!({ "iss": null }), "another issuer's"),
            (json!({ "aud": "web" }), "meant for others"),
            (json!({ "aud": null }), "meant for others"),
            (json!({ "aud": "orders api" }), "meant for others"),
            (json!({ "exp": null }), "until when"),
            (json!({ "exp": NOW - 60 }), "has expired"),
            (json!({ "exp": "never" }), "claims cannot be read"),
            (json!({ "nbf": NOW + 61 }), "not good yet"),
            (json!({ "sub": null }), "names nobody"),
            (json!({ "sub": "" }), "names nobody"),
            (json!({ "sub": "a\nb" }), "names nobody"),
            (json!({ "sub": "a".repeat(256) }), "names nobody"),
            (json!({ "scope": "read writes" }), "forbidden the token lacks a scope"),
        ] {
            let told = come(&jwt, &token(&header, &changed(&bad), &key), &known).await.unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }

    #[tokio::test]
    async fn what_a_token_says_about_its_signature_is_not_believed() {
        let (jwt, known, key) = shared();
        let header = json!({ "alg": "HS256", "kid": "a" });
        let good = token(&header, &claims(), &key);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut bad: Vec<String> = [
            json!({ "alg": "none" }),
            json!({ "alg": "hs256" }),
            json!({ "alg": "RS256", "kid": "a" }),
            json!({ "alg": "ES256", "kid": "a" }),
            json!({ "alg": "HS256", "kid": "b" }),
            json!({ "alg": "HS256", "crit": ["exp"] }),
            json!({ "kid": "a" }),
            json!([]),
        ]
        .iter()
        .map(|header| token(header, &claims(), &key))
        .collect();
        bad.extend([
            format!("{message}."),
            message.to_owned(),
            format!("{}.{signature}", message.replace('.', "")),
            format!("{good}.{signature}"),
            format!("{good}="),
            token(&header, &claims(), &self::key("b").1),
            token(&header, &changed(&json!({ "padding": "x".repeat(MAX_TOKEN_BYTES) })), &key),
            String::new(),
        ]);
        for bad in bad {
            let told = come(&jwt, &bad, &known).await.unwrap_err();
            assert!(told.starts_with("unauthenticated "), "{bad}: {told}");
        }
        // A secret that was replaced is read anew.
        known.secrets.lock().unwrap().insert("ISSUER".to_owned(), self::key("b").0.into());
        assert!(come(&jwt, &good, &known).await.is_err());
        let header = json!({ "alg": "HS256" });
        assert!(come(&jwt, &token(&header, &claims(), &self::key("b").1), &known).await.is_ok());
    }

    /// RFC 7515, appendix A.3, and the key under two ids.
    const SIGNED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    #[tokio::test(start_paused = true)]
    async fn an_issuers_keys_are_fetched_seldom_and_outlive_its_absence() {
        let known = FakeCredentials::default();
        let jwt = jwt(Keys::at("https://issuer.example/keys".to_owned()));
        let serve = |document: Option<&str>| {
            let mut documents = known.documents.lock().unwrap();
            match document {
                Some(document) => {
                    documents.insert("https://issuer.example/keys".to_owned(), document.to_owned().into())
                }
                None => documents.remove("https://issuer.example/keys"),
            };
        };
        let fetches = || *known.fetches.lock().unwrap();
        let is_known = async || !come(&jwt, SIGNED, &known).await.unwrap_err().contains("nobody who is known");

        let told = come(&jwt, SIGNED, &known).await.unwrap_err();
        assert!(told.starts_with("keys_unavailable"), "{told}");
        come(&jwt, SIGNED, &known).await.unwrap_err();
        assert_eq!(fetches(), 1, "an issuer that does not answer is left alone for a while");

        tokio::time::advance(Duration::from_secs(30)).await;
        serve(Some(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#));
        assert!(!is_known().await);
        serve(Some(P256));
        for _ in 0..100 {
            assert!(!is_known().await, "a key that is not there is asked for no more often");
        }
        assert_eq!(fetches(), 2);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(is_known().await, "a new key is found when it is first used");
        for _ in 0..100 {
            assert!(is_known().await);
        }
        assert_eq!(fetches(), 3);

        serve(None);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(is_known().await && is_known().await, "the issuer is away: what it said is believed for a day");
        assert_eq!(fetches(), 4);
        tokio::time::advance(Duration::from_secs(24 * 3600)).await;
        assert!(come(&jwt, SIGNED, &known).await.unwrap_err().starts_with("keys_unavailable"));
    }
}
