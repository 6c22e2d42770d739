//! A user and a password (RFC 7617), which a secret has as `user:password`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq as _};
use trigger_core::Credentials;

use crate::guard::{Caller, Denied, authorization};

const CHALLENGE: &str = "Basic realm=\"tripline\", charset=\"UTF-8\"";

/// Whether somebody named by one of the secrets comes.
pub(crate) fn check(headers: &HeaderMap, secrets: &[String], known: &dyn Credentials) -> Result<Caller, Denied> {
    let denied = |detail| Denied::unauthenticated(detail, CHALLENGE);
    let presented = authorization(headers, "Basic").ok_or_else(|| denied("a user and a password are needed"))?;
    let presented = STANDARD.decode(presented).map_err(|_| denied("the user and the password cannot be read"))?;
    let digest_of_presented = digest(&SHA256, &presented);
    let is_presented = |name: &String| match known.secret(name) {
        // Digests, since comparing texts would tell how long they are.
        Some(pair) if pair.contains(':') => {
            digest(&SHA256, pair.as_bytes()).as_ref().ct_eq(digest_of_presented.as_ref())
        }
        _ => Choice::from(0),
    };
    // Every one of them, so that which one it was does not show in the time either.
    let found = secrets.iter().fold(Choice::from(0), |found, name| found | is_presented(name));
    let user = presented.split(|&byte| byte == b':').next().and_then(|user| std::str::from_utf8(user).ok());
    match (bool::from(found), user) {
        (true, Some(user)) => Ok(Caller::named(format!("basic:{user}"))),
        _ => Err(denied("the user or the password is wrong")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::testing::FakeCredentials;

    #[test]
    fn whoever_a_secret_names_comes_in() {
        let known = FakeCredentials::default();
        for (name, pair) in [("OLD", "alice:hunter2"), ("NEW", "alice:pass:wörd"), ("BROKEN", "bob")] {
            known.secrets.lock().unwrap().insert(name.to_owned(), pair.into());
        }
        let secrets: Vec<String> = ["OLD", "NEW", "BROKEN", "MISSING"].map(str::to_owned).into();
        let come = |authorization: &str| {
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization.parse().unwrap())]);
            check(&headers, &secrets, &known)
        };
        for pair in ["alice:hunter2", "alice:pass:wörd"] {
            let caller = come(&format!("basic {}", STANDARD.encode(pair))).unwrap();
            assert_eq!(&*caller.name, "basic:alice");
        }
        for pair in ["alice:hunter", "alice:", "alice", "bob", "bob:", ":hunter2", "Alice:hunter2", "alice:hunter2 "] {
            let denied = come(&format!("Basic {}", STANDARD.encode(pair))).unwrap_err();
            assert_eq!(denied.detail, "the user or the password is wrong", "{pair}");
        }
        for unreadable in ["Basic", "Basic ", "Basic ???", "Bearer YWxpY2U6aHVudGVyMg=="] {
            assert!(come(unreadable).is_err(), "{unreadable}");
        }
        let denied = check(&HeaderMap::new(), &secrets, &known).unwrap_err();
        assert_eq!(denied.challenge.unwrap(), CHALLENGE);
    }
}
