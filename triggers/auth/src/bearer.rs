//! A bearer token of the engine's own (RFC 6750).

use http::{HeaderMap, HeaderValue};
use trigger_core::{Binding, Credentials};

use crate::guard::{Caller, Denied, authorization};

pub(crate) const MISSING: &str = "Bearer realm=\"tripline\"";
pub(crate) const INVALID: &str = "Bearer realm=\"tripline\", error=\"invalid_token\"";

/// Whether a token was presented that may call the trigger's function and has every scope.
pub(crate) async fn check(
    headers: &HeaderMap,
    scopes: &[String],
    binding: &Binding,
    known: &dyn Credentials,
) -> Result<Caller, Denied> {
    let presented =
        authorization(headers, "Bearer").ok_or_else(|| Denied::unauthenticated("a bearer token is needed", MISSING))?;
    let token = known.token(presented).await?;
    let token = token
        .ok_or_else(|| Denied::unauthenticated("the token is not known here, was revoked, or has expired", INVALID))?;
    if !token.may_call(&binding.namespace, &binding.function_name) {
        let detail = "the token may not call this function";
        return Err(Denied::forbidden(detail, insufficient(&[])));
    }
    if !scopes.iter().all(|scope| token.scopes.contains(scope)) {
        return Err(Denied::forbidden("the token lacks a scope", insufficient(scopes)));
    }
    Ok(Caller::named(format!("token:{}", token.name)))
}

/// The challenge that names the scopes that are needed.
pub(crate) fn insufficient(scopes: &[String]) -> HeaderValue {
    let plain = "Bearer realm=\"tripline\", error=\"insufficient_scope\"";
    if scopes.is_empty() {
        return HeaderValue::from_static(plain);
    }
    let value = format!("{plain}, scope=\"{}\"", scopes.join(" "));
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use trigger_core::testing::{FakeCredentials, FakeDispatch};
    use trigger_core::{Kind, Shed, Token};

    fn known() -> FakeCredentials {
        let known = FakeCredentials::default();
        for (presented, namespace, function, scopes) in [
            ("one", "default", "function", &["read", "write"][..]),
            ("all", "default", "*", &["read"]),
            ("other", "default", "other", &["read"]),
            ("elsewhere", "elsewhere", "*", &["read"]),
        ] {
            let token = Token {
                name: presented.into(),
                namespace: namespace.into(),
                functions: vec![function.to_owned()],
                scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            };
            known.tokens.lock().unwrap().insert(presented.to_owned(), Arc::new(token));
        }
        known
    }

    #[tokio::test]
    async fn a_token_comes_in_where_it_may() {
        let known = known();
        let binding = FakeDispatch::echo().context(Kind::Http, "http").binding;
        let come = async |authorization: &str, scopes: &[&str]| {
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization.parse().unwrap())]);
            let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            check(&headers, &scopes, &binding, &known)
                .await
                .map_err(|denied| (denied.reason, denied.challenge.unwrap()))
        };
        for (authorization, scopes) in
            [("Bearer one", &["read", "write"][..]), ("bearer  all", &["read"]), ("BEARER all", &[])]
        {
            assert!(come(authorization, scopes).await.is_ok(), "{authorization}");
        }
        let caller = come("Bearer one", &[]).await.unwrap();
        assert_eq!(&*caller.name, "token:one");
        let needs = "Bearer realm=\"tripline\", error=\"insufficient_scope\"";
        let needs_write = format!("{needs}, scope=\"write\"");
        for (authorization, scopes, reason, challenge) in [
            ("Basic one", &[][..], Shed::Unauthenticated, MISSING),
            ("Bearer", &[], Shed::Unauthenticated, MISSING),
            ("Bearer two", &[], Shed::Unauthenticated, INVALID),
            ("Bearer other", &[], Shed::Forbidden, needs),
            ("Bearer elsewhere", &[], Shed::Forbidden, needs),
            ("Bearer all", &["write"], Shed::Forbidden, &needs_write),
        ] {
            assert_eq!(
                come(authorization, scopes).await.unwrap_err(),
                (reason, challenge.parse().unwrap()),
                "{authorization}"
            );
        }
    }

    #[tokio::test]
    async fn two_authorizations_are_none() {
        let (known, binding) = (known(), FakeDispatch::echo().context(Kind::Http, "http").binding);
        let mut headers = HeaderMap::new();
        headers.append("authorization", "Bearer one".parse().unwrap());
        headers.append("authorization", "Bearer one".parse().unwrap());
        assert_eq!(check(&headers, &[], &binding, &known).await.unwrap_err().reason, Shed::Unauthenticated);
    }
}
