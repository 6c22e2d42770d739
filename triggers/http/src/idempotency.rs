//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that may be sent again until it is answered.
//!
//! Its event is kept before it runs, whatever the route's mode is, so that one that comes again, at once or after a
//! crash, finds the first one and is told what became of it.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ring::digest::{Context, SHA256};
use trigger_core::{Fingerprint, bounds};

use crate::problem::Problem;
use crate::request_id::is_visible;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks the answer to a request that another one ran for, as elsewhere in the field.
static IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const MAX_BYTES: usize = 255;

/// The caller's name for the event, by which a second one is told from the first.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().filter(|_| is_visible(key, MAX_BYTES) && keys.next().is_none());
    let invalid = || {
        let detail = format!("Idempotency-Key must be one value of 1 to {MAX_BYTES} visible ASCII characters");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail)
    };
    text.map(|text| Some(text.into())).ok_or_else(invalid)
}

/// The key as the engine knows it: a caller that was asked who it is has keys of its own, so that nobody is told what
/// became of another's request. A key has no space, so no two pairs make one name.
pub(crate) fn of_caller(key: Box<str>, caller: Option<&str>) -> Box<str> {
    match caller {
        Some(caller) => bounds::fit_key(format!("{caller} {key}").into()),
        None => key,
    }
}

/// What a request says: its method, its target and its body.
pub(crate) fn fingerprint(head: &Parts, body: &[u8]) -> Fingerprint {
    let mut digest = Context::new(&SHA256);
    let query = head.uri.query().map(|query| ["?", query]);
    // None of them holds a line feed, so that none can pass for two.
    for part in [head.method.as_str(), "\n", head.uri.path()].iter().chain(query.iter().flatten()).chain(&["\n"]) {
        digest.update(part.as_bytes());
    }
    digest.update(body);
    let digest = digest.finish();
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// The same key came with another request.
pub(crate) fn reused() -> Problem {
    let detail = "the Idempotency-Key was used for a request with another method, path, query or body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

/// Says that another request ran for this one.
pub(crate) fn mark_replayed(headers: &mut HeaderMap) {
    headers.insert(&IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_key_is_one_visible_word() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
            }
            key(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["once"]), Ok(Some("once".into())));
        assert_eq!(read(&[&"k".repeat(255)]), Ok(Some("k".repeat(255).into())));
        for bad in [&[""][..], &["a b"], &["a", "a"], &[&"k".repeat(256)]] {
            assert_eq!(read(bad), Err("invalid_idempotency_key"), "{bad:?}");
        }
    }

    #[test]
    fn callers_have_keys_of_their_own() {
        let of = |key: &str, caller| of_caller(key.into(), caller);
        assert_eq!(&*of("k", None), "k");
        assert_eq!(&*of("k", Some("token:ci")), "token:ci k");
        assert_ne!(of("k", Some("a")), of("k", Some("a k")));
        let long = "c".repeat(10_000);
        assert!(of("k", Some(&long)).len() <= bounds::MAX_KEY);
        assert_ne!(of("k", Some(&long)), of("l", Some(&long)));
    }

    #[test]
    fn whatever_a_request_says_is_in_its_fingerprint() {
        let of = |method: &str, target: &str, body: &str| {
            let (head, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
            fingerprint(&head, body.as_bytes())
        };
        let first = of("POST", "/a?b=c", "body");
        assert_eq!(of("POST", "/a?b=c", "body"), first);
        for other in [
            of("PUT", "/a?b=c", "body"),
            of("POST", "/a", "body"),
            of("POST", "/a?b=d", "body"),
            of("POST", "/a/b=c", "body"),
            of("POST", "/a?b=c", "bodies"),
            of("POST", "/a?b=c", ""),
        ] {
            assert_ne!(other, first);
        }
    }
}
