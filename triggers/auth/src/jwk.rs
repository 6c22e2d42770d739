//! Keys that tokens are signed with, as issuers publish them (RFC 7517), and what they verify (RFC 7518, RFC 8037).
//!
//! On ring alone: what a library for tokens adds to it is a process-wide choice of its cryptography, and claims that are
//! two comparisons each.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most keys of one document.
const MAX_KEYS: usize = 100;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA (PKCS #1 v1.5) over SHA-256.
    RS256,
    /// RSA (PKCS #1 v1.5) over SHA-384.
    RS384,
    /// RSA (PKCS #1 v1.5) over SHA-512.
    RS512,
    /// RSA (PSS) over SHA-256.
    PS256,
    /// ECDSA on P-256 over SHA-256.
    ES256,
    /// ECDSA on P-384 over SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// An HMAC over SHA-256, by a key that the issuer and this engine share.
    HS256,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, where it says so.
    algorithm: Option<JwtAlgorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Shared(Secret),
}

/// Not to be printed.
struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where a document comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// From the engine's secrets: it may hold keys that are shared.
    Secret,
    /// From the issuer, published: whoever reads a key there could sign with it, if it were a shared one.
    Published,
}

#[derive(Deserialize)]
struct Typed {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    k: Option<String>,
}

/// The keys of a document: a JWK Set, or one JWK. Keys of kinds that are not known here, or not for signatures, are left
/// out.
pub(crate) fn read(document: &[u8], from: From) -> Result<Vec<Key>, String> {
    let document: serde_json::Value =
        serde_json::from_slice(document).map_err(|error| format!("it is no JSON: {error}"))?;
    let listed = match document.get("keys").and_then(|keys| keys.as_array()) {
        Some(keys) => keys.clone(),
        None => vec![document],
    };
    if listed.len() > MAX_KEYS {
        return Err(format!("it has {} keys, the limit is {MAX_KEYS}", listed.len()));
    }
    let keys: Vec<Key> =
        listed.into_iter().filter_map(|key| Key::of(serde_json::from_value(key).ok()?, from)).collect();
    if keys.is_empty() { Err("it has no key that is of use".to_owned()) } else { Ok(keys) }
}

impl Key {
    fn of(typed: Typed, from: From) -> Option<Self> {
        if typed.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes =
            |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok().filter(|bytes| !bytes.is_empty());
        let point = |size: usize| {
            let (x, y) = (bytes(&typed.x)?, bytes(&typed.y)?);
            (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (typed.kty.as_str(), typed.crv.as_deref(), from) {
            ("RSA", _, _) => Material::Rsa { n: bytes(&typed.n)?, e: bytes(&typed.e)? },
            ("EC", Some("P-256"), _) => Material::P256(point(32)?),
            ("EC", Some("P-384"), _) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519"), _) => Material::Ed25519(bytes(&typed.x)?),
            // RFC 7518, section 3.2: not shorter than the hash.
            ("oct", _, From::Secret) => {
                let key = bytes(&typed.k).filter(|key| key.len() >= 32)?;
                Material::Shared(Secret(hmac::Key::new(hmac::HMAC_SHA256, &key)))
            }
            _ => return None,
        };
        let algorithm = match typed.alg {
            None => None,
            // One that is for an algorithm not known here is for none that is.
            Some(word) => Some(serde_json::from_value(word.into()).ok()?),
        };
        Some(Self { id: typed.kid, algorithm, material })
    }

    /// Whether a token that names this algorithm, and perhaps a key, may be signed with it.
    pub(crate) fn suits(&self, algorithm: JwtAlgorithm, id: Option<&str>) -> bool {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, PS256, RS256, RS384, RS512};
        let of_its_kind = matches!(
            (&self.material, algorithm),
            (Material::Rsa { .. }, RS256 | RS384 | RS512 | PS256)
                | (Material::P256(_), ES256)
                | (Material::P384(_), ES384)
                | (Material::Ed25519(_), EdDSA)
                | (Material::Shared(_), HS256)
        );
        let named = id.is_none() || self.id.as_deref() == id;
        of_its_kind && named && self.algorithm.is_none_or(|one| one == algorithm)
    }

    /// Whether it made this signature. The algorithm is one that suits it.
    pub(crate) fn verifies(&self, algorithm: JwtAlgorithm, message: &[u8], signed: &[u8]) -> bool {
        let by = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
        };
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match algorithm {
                    JwtAlgorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    JwtAlgorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    JwtAlgorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            Material::P256(point) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => by(&signature::ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => by(&signature::ED25519, key),
            Material::Shared(Secret(key)) => hmac::verify(key, message, signed).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const SHARED: &str =
        r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    /// RFC 7515, appendices A.1 to A.3, and RFC 8037, appendix A.4: algorithm, key, what is signed, the signature.
    fn vectors() -> [(JwtAlgorithm, &'static str, String, &'static str); 4] {
        [
            (
                JwtAlgorithm::HS256,
                SHARED,
                format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}"),
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            (
                JwtAlgorithm::RS256,
                RSA,
                format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                JwtAlgorithm::ES256,
                P256,
                format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"),
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                JwtAlgorithm::EdDSA,
                ED25519,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ]
    }

    #[test]
    fn the_signatures_of_the_standards_are_good_and_others_are_not() {
        let all = format!("{{\"keys\": [{RSA}, {P256}, {ED25519}, {SHARED}]}}");
        let all = read(all.as_bytes(), From::Secret).unwrap();
        for (algorithm, key, message, signed) in vectors() {
            let key = read(key.as_bytes(), From::Secret).unwrap().remove(0);
            let signed = URL_SAFE_NO_PAD.decode(signed).unwrap();
            assert!(key.suits(algorithm, None) && !key.suits(algorithm, Some("another")));
            assert!(key.verifies(algorithm, message.as_bytes(), &signed), "{algorithm:?}");
            assert!(!key.verifies(algorithm, format!("{message}A").as_bytes(), &signed), "{algorithm:?}");
            let mut other = signed.clone();
            other[7] ^= 1;
            for bad in [&other[..], &signed[1..], &[]] {
                assert!(!key.verifies(algorithm, message.as_bytes(), bad), "{algorithm:?}");
            }
            assert_eq!(all.iter().filter(|key| key.suits(algorithm, None)).count(), 1, "{algorithm:?}");
        }
    }

    #[test]
    fn keys_that_are_of_no_use_are_left_out() {
        let with = |key: &str, more: &str| key.replacen('{', &format!("{{{more},"), 1);
        let count = |document: &str, from| read(document.as_bytes(), from).map(|keys| keys.len());
        assert_eq!(count(SHARED, From::Secret), Ok(1));
        assert!(count(SHARED, From::Published).is_err(), "a key that everybody can read proves nothing");
        assert!(count(r#"{"kty":"oct","k":"AAAA"}"#, From::Secret).is_err(), "too short to be a key");
        assert!(count(&with(RSA, "\"use\":\"enc\""), From::Published).is_err());
        assert!(count(&with(RSA, "\"alg\":\"RSA-OAEP\""), From::Published).is_err());
        assert!(count(&with(P256, "\"crv\":\"P-521\"").replace(",\"crv\":\"P-256\"", ""), From::Published).is_err());
        assert!(count(&P256.replace("x_FEz", ""), From::Published).is_err());
        assert_eq!(count(&format!("{{\"keys\": [5, {{}}, {RSA}]}}"), From::Published), Ok(1));
        for bad in ["", "[]", "{}", "{\"keys\": []}", "{\"keys\": 5}"] {
            assert!(count(bad, From::Published).is_err(), "{bad}");
        }
        let many = format!("{{\"keys\": [{}]}}", vec![ED25519; 101].join(","));
        assert_eq!(count(&many, From::Published), Err("it has 101 keys, the limit is 100".to_owned()));
        let pinned = read(with(RSA, "\"alg\":\"RS512\",\"kid\":\"a\"").as_bytes(), From::Published).unwrap().remove(0);
        assert!(pinned.suits(JwtAlgorithm::RS512, Some("a")) && !pinned.suits(JwtAlgorithm::RS256, Some("a")));
        let printed = format!("{:?}", read(SHARED.as_bytes(), From::Secret).unwrap());
        assert!(printed.contains("***"), "{printed}");
    }
}
