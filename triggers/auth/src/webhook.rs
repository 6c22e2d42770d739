//! Signatures of webhooks: an HMAC over the raw body, and over the time where the provider signs one.
//!
//! The head tells what was signed and when, so a request that lacks a signature or comes outside the window is refused
//! with its body unread; the body is hashed once for each active secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use ring::hmac;
use subtle::{Choice, ConstantTimeEq as _};
use trigger_core::Credentials;

use crate::config::{Algorithm, Encoding};
use crate::guard::{Caller, Denied};

/// RFC 9110 asks for a challenge with every 401; there is no registered one for this.
const CHALLENGE: &str = "Signature";

/// Signatures of one request that are compared: providers send one for each of their active secrets.
const MAX_SIGNATURES: usize = 8;

/// The longest `webhook-id`.
const MAX_ID_BYTES: usize = 256;

/// What a trigger's callers sign, and by which secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhook {
    pub(crate) format: Format,
    pub(crate) secrets: Vec<String>,
    /// How far a signed time may be from the present one.
    pub(crate) tolerance_seconds: u32,
}

/// How a provider puts its signature into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64> …` (standardwebhooks.com).
    StandardWebhooks,
    /// `X-Hub-Signature-256: sha256=<hex>`; no time is signed.
    Github,
    /// `Stripe-Signature: t=<time>,v1=<hex>,…`.
    Stripe,
    /// `X-Slack-Request-Timestamp`, `X-Slack-Signature: v0=<hex>`.
    Slack,
    /// As the manifest says.
    Hmac(Hmac),
}

/// A signature in a header of one's own; with a time, `<time>.<body>` is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hmac {
    pub(crate) header: HeaderName,
    pub(crate) algorithm: Algorithm,
    pub(crate) encoding: Encoding,
    pub(crate) prefix: String,
    pub(crate) timestamp_header: Option<HeaderName>,
}

/// What a request's head says about its signature. It proves nothing before the body was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What is signed before the body.
    before_body: Vec<u8>,
    /// Each would do.
    signatures: Vec<Vec<u8>>,
}

impl Webhook {
    /// Reads the head of a request that came at `now`, in seconds since 1970.
    pub(crate) fn read(&self, headers: &HeaderMap, now: i64) -> Result<Signature, Denied> {
        let (time, signature) = self.format.read(headers).ok_or_else(|| denied("a signature is needed"))?;
        if let Some(time) = time {
            let time: i64 = digits(time).ok_or_else(|| denied("the signature's time is not a number of seconds"))?;
            if time.abs_diff(now) > u64::from(self.tolerance_seconds) {
                return Err(denied("the signature is too old, or from the future"));
            }
        }
        match signature.signatures.is_empty() {
            true => Err(denied("the signature cannot be read")),
            false => Ok(signature),
        }
    }

    /// Whether one of the secrets made the signature of this body.
    pub(crate) fn verify(&self, signature: &Signature, body: &[u8], known: &dyn Credentials) -> Result<Caller, Denied> {
        let mut found = Choice::from(0);
        for secret in self.secrets.iter().filter_map(|name| known.secret(name)) {
            let Some(key) = self.format.key(&secret) else { continue };
            let mut signing = hmac::Context::with_key(&key);
            signing.update(&signature.before_body);
            signing.update(body);
            let expected = signing.sign();
            for one in &signature.signatures {
                found |= one.as_slice().ct_eq(expected.as_ref());
            }
        }
        match bool::from(found) {
            true => Ok(Caller::named(format!("webhook:{}", self.format.word()))),
            false => Err(denied("the signature is wrong")),
        }
    }
}

fn denied(detail: &'static str) -> Denied {
    Denied::unauthenticated(detail, CHALLENGE)
}

impl Format {
    fn word(&self) -> &'static str {
        match self {
            Format::StandardWebhooks => "standard-webhooks",
            Format::Github => "github",
            Format::Stripe => "stripe",
            Format::Slack => "slack",
            Format::Hmac(_) => "hmac",
        }
    }

    /// The time that was signed, and the signature; `None` where a header is missing.
    fn read<'a>(&self, headers: &'a HeaderMap) -> Option<(Option<&'a str>, Signature)> {
        match self {
            Format::StandardWebhooks => {
                let id = header(headers, "webhook-id").filter(|id| id.len() <= MAX_ID_BYTES)?;
                let time = header(headers, "webhook-timestamp")?;
                let listed = header(headers, "webhook-signature")?.split(' ');
                let signatures = listed.filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
                Some((Some(time), Signature::of(format!("{id}.{time}."), signatures)))
            }
            Format::Github => {
                let value = header(headers, "x-hub-signature-256")?;
                let signature = value.strip_prefix("sha256=").and_then(unhex);
                Some((None, Signature::of(String::new(), signature)))
            }
            Format::Stripe => {
                let parts = || header(headers, "stripe-signature").unwrap_or_default().split(',');
                let time = parts().find_map(|part| part.trim().strip_prefix("t="))?;
                let signatures = parts().filter_map(|part| unhex(part.trim().strip_prefix("v1=")?));
                Some((Some(time), Signature::of(format!("{time}."), signatures)))
            }
            Format::Slack => {
                let time = header(headers, "x-slack-request-timestamp")?;
                let signature = header(headers, "x-slack-signature")?.strip_prefix("v0=").and_then(unhex);
                Some((Some(time), Signature::of(format!("v0:{time}:"), signature)))
            }
            Format::Hmac(hmac) => {
                let value = header(headers, hmac.header.as_str())?;
                let time = match &hmac.timestamp_header {
                    Some(name) => Some(header(headers, name.as_str())?),
                    None => None,
                };
                let before_body = time.map_or_else(String::new, |time| format!("{time}."));
                let signature = value.strip_prefix(&hmac.prefix).and_then(|text| match hmac.encoding {
                    Encoding::Hex => unhex(text),
                    Encoding::Base64 => STANDARD.decode(text).ok(),
                });
                Some((time, Signature::of(before_body, signature)))
            }
        }
    }

    /// The key that a secret is; none where it is not written as the provider writes it.
    fn key(&self, secret: &str) -> Option<hmac::Key> {
        let algorithm = match self {
            Format::Hmac(hmac) => hmac.algorithm,
            _ => Algorithm::Sha256,
        };
        let algorithm = match algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        match self {
            Format::StandardWebhooks => {
                let bytes = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok();
                bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| hmac::Key::new(algorithm, &bytes))
            }
            _ => Some(hmac::Key::new(algorithm, secret.as_bytes())),
        }
    }
}

impl Signature {
    fn of(before_body: String, signatures: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let signatures = signatures.into_iter().take(MAX_SIGNATURES).collect();
        Self { before_body: before_body.into_bytes(), signatures }
    }
}

/// The value of a header that is there once.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// A number without a sign.
fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Bytes in hexadecimal digits of either case.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|bytes| rest.is_empty() && !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::testing::FakeCredentials;

    /// A request that is good: the format, its secret, its headers, its body, and its time.
    type Vector = (Format, &'static str, &'static [(&'static str, &'static str)], &'static str, i64);

    fn hmac(algorithm: Algorithm, encoding: Encoding, prefix: &str, timed: bool) -> Format {
        Format::Hmac(Hmac {
            header: HeaderName::from_static("x-signature"),
            algorithm,
            encoding,
            prefix: prefix.to_owned(),
            timestamp_header: timed.then(|| HeaderName::from_static("x-time")),
        })
    }

    /// The first three are the providers' own: the specification of Standard Webhooks, GitHub's and Slack's pages about
    /// signatures. Stripe publishes none with its secret; that one and the generic ones were made by Python's `hmac`.
    fn vectors() -> Vec<Vector> {
        vec![
            (
                Format::StandardWebhooks,
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                &[
                    ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                    ("webhook-timestamp", "1614265330"),
                    ("webhook-signature", "v1,AAAA v1a,g0hM v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
                ],
                "{\"test\": 2432232314}",
                1614265330,
            ),
            (
                Format::Github,
                "It's a Secret to Everybody",
                &[("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
                "Hello, World!",
                0,
            ),
            (
                Format::Slack,
                "8f742231b10e8888abcd99yyyzzz85a5",
                &[
                    ("x-slack-request-timestamp", "1531420618"),
                    ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
                ],
                "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
                 channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
                 response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F\
                 96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
                1531420618,
            ),
            (
                Format::Stripe,
                "whsec_test",
                &[(
                    "stripe-signature",
                    "t=1492774577,v1=00,v1=952cd89626c79cd65f12880afd38333422a10b88ff71136627ceb92ccdb0132c,v0=6ffb",
                )],
                "{\"id\": \"evt_1\"}",
                1492774577,
            ),
            (
                hmac(Algorithm::Sha512, Encoding::Base64, "v=", true),
                "key",
                &[
                    ("x-time", "1700000000"),
                    (
                        "x-signature",
                        "v=y/ubCgtcperul20OrtXYstb+2sv+dIVmNMtHygo/hYgz65wjNMdfivppetkrdTbhQSRPFYf5hQ+yo4jC9Tl0Aw==",
                    ),
                ],
                "body",
                1700000000,
            ),
            (
                hmac(Algorithm::Sha1, Encoding::Hex, "", false),
                "key",
                &[("x-signature", "70BBF6819D1037AA94CA7E7F537CBEA25FE49283")],
                "body",
                0,
            ),
        ]
    }

    fn head(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn webhook(format: Format) -> Webhook {
        Webhook { format, secrets: vec!["OLD".to_owned(), "NEW".to_owned()], tolerance_seconds: 300 }
    }

    fn known(old: &str, new: &str) -> FakeCredentials {
        let known = FakeCredentials::default();
        for (name, value) in [("OLD", old), ("NEW", new)] {
            known.secrets.lock().unwrap().insert(name.to_owned(), value.into());
        }
        known
    }

    #[test]
    fn the_providers_own_signatures_are_good_by_any_active_secret() {
        for (format, secret, headers, body, time) in vectors() {
            let webhook = webhook(format);
            let signature = webhook.read(&head(headers), time).unwrap();
            for known in [known(secret, "b3RoZXI="), known("b3RoZXI=", secret)] {
                let caller = webhook.verify(&signature, body.as_bytes(), &known).unwrap();
                assert_eq!(*caller.name, *format!("webhook:{}", webhook.format.word()));
            }
        }
    }

    #[test]
    fn another_secret_body_or_time_is_wrong() {
        for (format, secret, headers, body, time) in vectors() {
            let webhook = webhook(format);
            let signature = webhook.read(&head(headers), time).unwrap();
            let other = known("b3RoZXI=", "b3RoZXIy");
            let right = known(secret, secret);
            for denied in [
                webhook.verify(&signature, body.as_bytes(), &other),
                webhook.verify(&signature, body.as_bytes(), &FakeCredentials::default()),
                webhook.verify(&signature, format!("{body} ").as_bytes(), &right),
                webhook.verify(&signature, b"", &right),
            ] {
                assert_eq!(denied.unwrap_err().detail, "the signature is wrong", "{:?}", webhook.format);
            }
            // The time is signed: another one within the window does not go with the signature.
            let moved: Vec<(&str, String)> = headers
                .iter()
                .map(|(name, value)| (*name, value.replace(&time.to_string(), &(time + 1).to_string())))
                .collect();
            if time > 0 {
                let moved: Vec<(&'static str, &str)> = moved.iter().map(|(name, value)| (*name, &**value)).collect();
                let signature = webhook.read(&head(&moved), time).unwrap();
                assert!(webhook.verify(&signature, body.as_bytes(), &right).is_err(), "{:?}", webhook.format);
            }
        }
    }

    #[test]
    fn what_comes_outside_the_window_is_refused_by_its_head() {
        for (format, _, headers, _, time) in vectors().into_iter().filter(|vector| vector.4 > 0) {
            let webhook = webhook(format);
            for (now, good) in [(time - 300, true), (time + 300, true), (time - 301, false), (time + 301, false)] {
                assert_eq!(webhook.read(&head(headers), now).is_ok(), good, "{:?}", webhook.format);
            }
        }
    }

    #[test]
    fn a_head_that_lacks_something_or_says_it_twice_is_refused() {
        for (format, _, headers, _, time) in vectors() {
            let webhook = webhook(format);
            for index in 0..headers.len() {
                let mut fewer = headers.to_vec();
                let (name, value) = fewer.remove(index);
                assert!(webhook.read(&head(&fewer), time).is_err(), "{:?} without {name}", webhook.format);
                let mut twice = head(headers);
                twice.append(HeaderName::from_static(name), value.parse().unwrap());
                assert!(webhook.read(&twice, time).is_err(), "{:?} with two {name}", webhook.format);
            }
        }
        let stripe = webhook(Format::Stripe);
        for value in
            ["", "t=", "t=1,v1=", "v1=00", "t=-1,v1=00", "t=99999999999999999999,v1=00", "t=1,v1=0g", "t=1,v1=0"]
        {
            assert!(stripe.read(&head(&[("stripe-signature", value)]), 1).is_err(), "{value}");
        }
    }

    #[test]
    fn only_so_many_signatures_are_compared() {
        let many = format!("t=1{}", ",v1=00".repeat(10_000));
        let signature = webhook(Format::Stripe).read(&head(&[("stripe-signature", &many)]), 1).unwrap();
        assert_eq!(signature.signatures.len(), MAX_SIGNATURES);
    }
}
