//! Tokens of callers, from `tripline tokens new`, or from their issuer, to the request that brings one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::engine::{Answer, Project};

const FUNCTIONS: &str = r#"
[functions.private]
module = "hosts.wasm"
is_public = false
allow = { kv = ["default"] }
[[functions.private.triggers]]
type = "http"
path = "/private"
[[functions.private.triggers]]
type = "http"
path = "/admin"
auth = { type = "basic", secrets = ["ADMIN"] }

[functions.public]
module = "hosts.wasm"
[[functions.public.triggers]]
type = "http"
path = "/public"
[[functions.public.triggers]]
type = "http"
path = "/narrow"
auth = { type = "token", scopes = ["write"] }
"#;

async fn call(project: &Project, path: &str, authorization: &str) -> Answer {
    project.http(Method::POST, path, &[("authorization", authorization)], "add default n 1").await
}

#[tokio::test]
async fn a_private_functions_routes_need_a_token_that_is_made_listed_and_revoked() {
    let project = Project::new("secrets = { ADMIN = { file = \"admin\" } }", FUNCTIONS);
    project.guest("hosts.component.wasm", "hosts.wasm");
    std::fs::write(project.path("admin"), "alice:hunter2\n").unwrap();
    let engine = project.serve().await;

    let refused = project.post("/private", "add default n 1").await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::UNAUTHORIZED, &"unauthenticated".into()));
    assert!(refused.headers.contains_key("www-authenticate"));

    let made = project.json(&["tokens", "new", "ci", "--function", "private", "--expires", "1h"]);
    let (id, token) = (made["id"].as_str().unwrap().to_owned(), format!("Bearer {}", made["token"].as_str().unwrap()));
    assert!(token.starts_with(&format!("Bearer tripline_{id}.")));
    let answer = call(&project, "/private", &token).await;
    assert_eq!((answer.status, answer.text().trim_end()), (StatusCode::OK, "1"));
    let traces = project.admin("/api/v1/traces?function=private").await;
    assert_eq!(traces["items"][0]["caller"], "token:ci");
    assert_eq!(call(&project, "/narrow", &token).await.status, StatusCode::FORBIDDEN, "not a function of this token");

    let wide = project.json(&["tokens", "new", "deployer", "-f", "*", "-s", "write"]);
    let wide = format!("Bearer {}", wide["token"].as_str().unwrap());
    assert_ne!(call(&project, "/narrow", &wide).await.status, StatusCode::FORBIDDEN);
    assert_ne!(call(&project, "/public", "Bearer nonsense").await.status, StatusCode::UNAUTHORIZED);
    let basic = call(&project, "/admin", "Basic YWxpY2U6aHVudGVyMg==").await;
    assert_eq!((basic.status, basic.text().trim_end()), (StatusCode::OK, "2"));
    assert_eq!(call(&project, "/admin", &token).await.status, StatusCode::UNAUTHORIZED);

    let listed = project.json(&["tokens", "list"]);
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["deployer", "ci"]);
    assert!(project.run(&["tokens", "revoke", &id]).status.success());
    assert!(!project.run(&["tokens", "revoke", &id]).status.success());
    assert_eq!(call(&project, "/private", &token).await.status, StatusCode::UNAUTHORIZED, "revoked, at once");

    let labels = ["function=\"private\"", "outcome=\"shed\"", "reason=\"unauthenticated\""];
    assert_eq!(project.metric("tripline_invocations_total", &labels).await, 3);
    let ledger = project.run(&["ledger"]);
    assert!(ledger.status.success(), "{}", String::from_utf8_lossy(&ledger.stdout));

    let secrets = [token.split_once('.').unwrap().1, wide.split_once('.').unwrap().1, "hunter2", "YWxpY2U6aHVudGVyMg"];
    for kept in ["/api/v1/traces?limit=1000", "/api/v1/tokens", "/api/v1/functions"] {
        let kept = project.admin(kept).await.to_string();
        assert!(!secrets.iter().any(|secret| kept.contains(secret)), "{kept}");
    }
    assert!(!secrets.iter().any(|secret| engine.log().contains(secret)), "{}", engine.log());

    // What was made is known after a restart too.
    assert!(engine.stop().await.success());
    let _engine = project.serve().await;
    assert_ne!(call(&project, "/narrow", &wide).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(call(&project, "/private", &token).await.status, StatusCode::UNAUTHORIZED);
}

/// An issuer: its key, and a server that publishes it and counts how often it was asked.
struct Issuer {
    key: EcdsaKeyPair,
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let [x, y] = [&key.public_key().as_ref()[1..33], &key.public_key().as_ref()[33..]].map(base64);
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "x": x, "y": y }] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let publish = axum::routing::get(move || {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(keys.to_string())
        });
        let serve = axum::serve(listener, axum::Router::new().route("/keys", publish)).into_future();
        #[expect(clippy::disallowed_methods, reason = "the test's own server ends with the test's runtime")]
        tokio::spawn(serve);
        Self { key, url, asked }
    }

    fn token(&self, key_id: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": key_id });
        let message = [header.to_string(), claims.to_string()].map(|part| base64(part.as_bytes())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("Bearer {message}.{}", base64(signature.as_ref()))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn an_issuers_tokens_are_good_by_the_keys_that_it_publishes() {
    let issuer = Issuer::start().await;
    let function = |name: &str, url: &str| {
        format!(
            "[functions.{name}]\nmodule = \"hosts.wasm\"\nallow = {{ kv = [\"default\"] }}\nis_public = false\n\
             [[functions.{name}.triggers]]\ntype = \"http\"\npath = \"/{name}\"\n\
             auth = {{ type = \"jwt\", issuer = \"test\", audience = [\"api\"], algorithms = [\"ES256\"], \
             jwks_url = \"{url}\" }}\n"
        )
    };
    let functions = function("orders", &issuer.url) + &function("stranded", "http://127.0.0.1:1/keys");
    let project = Project::new("egress = { allow_networks = [\"127.0.0.0/8\"] }", &functions);
    project.guest("hosts.component.wasm", "hosts.wasm");
    let engine = project.serve().await;

    let claims = json!({ "iss": "test", "aud": "api", "sub": "alice", "exp": 4_000_000_000_u64 });
    let good = issuer.token("one", &claims);
    for count in 1..=20 {
        let answer = call(&project, "/orders", &good).await;
        assert_eq!((answer.status, answer.text().trim_end()), (StatusCode::OK, &*count.to_string()));
    }
    let traces = project.admin("/api/v1/traces?function=orders").await;
    assert_eq!(traces["items"][0]["caller"], "jwt:alice");
    let stranger = Issuer::start().await;
    for bad in [stranger.token("one", &claims), issuer.token("two", &claims), "Bearer tripline_0.0".to_owned()] {
        let refused = call(&project, "/orders", &bad).await;
        assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::UNAUTHORIZED, &"unauthenticated".into()));
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "the keys are held");
    let unknown = call(&project, "/stranded", &good).await;
    assert_eq!(
        (unknown.status, &unknown.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"keys_unavailable".into())
    );
    assert!(engine.log().contains("the keys at http://127.0.0.1:1/keys cannot be had"), "{}", engine.log());
    let signature = good.rsplit_once('.').unwrap().1;
    assert!(
        !engine.log().contains(signature) && !project.admin("/api/v1/traces").await.to_string().contains(signature)
    );
}
