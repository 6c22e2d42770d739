//! Bearer tokens of callers.

use super::Shared;
use super::make::*;
use crate::store::TokenRow;

fn token(namespace: &str, id: &str) -> TokenRow {
    TokenRow {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        name: "ci \"staging\"".to_owned(),
        digest: [0xfe; 32],
        functions: vec!["orders".to_owned(), "*".to_owned()],
        scopes: Vec::new(),
        created_at: now(),
        expires_at: None,
    }
}

pub(in crate::store) async fn tokens_are_kept_listed_and_forgotten_by_namespace(store: Shared) {
    let ids = |tokens: &[TokenRow]| tokens.iter().map(|token| token.id.clone()).collect::<Vec<_>>();
    let one = token("default", "one");
    let scopes = vec!["orders:write".to_owned(), "a,b {c}".to_owned()];
    let created_at = one.created_at + seconds(1);
    let two = TokenRow { scopes, created_at, expires_at: Some(now() + seconds(60)), ..token("default", "two") };
    for one in [&one, &two, &token("other", "three")] {
        assert!(store.add_token(one.clone()).await.unwrap());
    }
    assert_eq!(store.tokens("default".to_owned()).await.unwrap(), [two, one], "as they were made, the newest first");
    assert!(store.add_token(token("other", "one")).await.is_err(), "an identity is given once");
    let remove = |namespace: &str, id: &str| store.remove_token(namespace.to_owned(), id.to_owned());
    assert!(!remove("other", "one").await.unwrap(), "another namespace's");
    assert!(remove("default", "one").await.unwrap());
    assert!(!remove("default", "one").await.unwrap());
    assert_eq!(ids(&store.tokens("default".to_owned()).await.unwrap()), ["two"]);
    assert_eq!(ids(&store.tokens("other".to_owned()).await.unwrap()), ["three"]);
}
