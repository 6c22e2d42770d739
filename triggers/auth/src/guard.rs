//! The door: whoever may not come in is told why and counted.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use trigger_core::{Refused, Shed, TriggerContext};

use crate::config::{Auth, Scheme};
use crate::webhook::Signature;
use crate::{basic, bearer};

/// Who came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How guests, logs and traces name it: `token:ci`, `basic:alice`, `jwt:auth0|4711`, `webhook:github`.
    pub name: Box<str>,
    /// What its issuer says of it (`"jwt"` only): the token's claims, in JSON.
    pub claims: Option<Box<str>>,
}

impl Caller {
    /// A caller of whom no more is known.
    pub(crate) fn named(name: String) -> Self {
        Self { name: name.into(), claims: None }
    }
}

/// Why nobody came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The stable reason, which has the status.
    pub reason: Shed,
    /// For people; says nothing that helps to guess.
    pub detail: Cow<'static, str>,
    /// `WWW-Authenticate`, for 401 and 403.
    pub challenge: Option<HeaderValue>,
    /// When to try again, where that may help.
    pub retry_after: Duration,
}

impl Denied {
    /// Nobody proved anything.
    pub(crate) fn unauthenticated(detail: &'static str, challenge: &'static str) -> Self {
        let challenge = Some(HeaderValue::from_static(challenge));
        Self { reason: Shed::Unauthenticated, detail: detail.into(), challenge, retry_after: Duration::ZERO }
    }

    /// Who it is was proved, and may not come in.
    pub(crate) fn forbidden(detail: &'static str, challenge: HeaderValue) -> Self {
        let challenge = Some(challenge);
        Self { reason: Shed::Forbidden, detail: detail.into(), challenge, retry_after: Duration::ZERO }
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        let Refused { reason, message, retry_after } = refused;
        Self { reason, detail: message, challenge: None, retry_after }
    }
}

/// The guard of one running trigger.
pub struct Guard {
    scheme: Scheme,
    cx: TriggerContext,
}

/// What a request's head has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Who came in.
    Caller(Caller),
    /// A signature, which proves nothing before the body was looked at ([`Guard::check_body`]). Only of triggers whose
    /// type [needs a body](crate::AuthType::needs_body).
    Signature(Signature),
}

impl Guard {
    /// The guard of a trigger; `None` where everybody may come in. The error is one that [`Auth::check`] finds.
    pub fn new(auth: &Auth, cx: &TriggerContext) -> Result<Option<Self>, String> {
        Ok(auth.scheme()?.map(|scheme| Self { scheme, cx: cx.clone() }))
    }

    /// Looks at a request's headers. Credentials that were good are taken out of them: what is made of the request
    /// afterwards, rows and dead letters included, does not hold them.
    pub async fn check(&self, headers: &mut HeaderMap) -> Result<Checked, Denied> {
        let credentials = &*self.cx.credentials;
        let checked = match &self.scheme {
            Scheme::Basic { secrets } => basic::check(headers, secrets, credentials),
            Scheme::Token { scopes } => bearer::check(headers, scopes, &self.cx.binding, credentials).await,
            Scheme::Jwt(jwt) => jwt.check(headers, self.cx.clock.now().timestamp(), credentials).await,
            Scheme::Webhook(webhook) => {
                let signature = webhook.read(headers, self.cx.clock.now().timestamp());
                return signature.map(Checked::Signature).map_err(|denied| self.count(denied));
            }
        };
        let caller = checked.map_err(|denied| self.count(denied))?;
        headers.remove(header::AUTHORIZATION);
        Ok(Checked::Caller(caller))
    }

    /// Looks at a request's body, unchanged, where its head was not enough.
    pub fn check_body(&self, checked: Checked, body: &[u8]) -> Result<Caller, Denied> {
        match (checked, &self.scheme) {
            (Checked::Caller(caller), _) => Ok(caller),
            (Checked::Signature(signature), Scheme::Webhook(webhook)) => {
                webhook.verify(&signature, body, &*self.cx.credentials).map_err(|denied| self.count(denied))
            }
            (Checked::Signature(_), _) => unreachable!("only a webhook's guard makes signatures"),
        }
    }

    fn count(&self, denied: Denied) -> Denied {
        self.cx.dispatch.count_shed(&self.cx.binding, denied.reason, 1);
        denied
    }
}

/// What follows the scheme in `Authorization`; nothing where there are several such headers, as nobody could say which
/// one counts.
pub(crate) fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (named, credentials) = value.split_once(' ')?;
    (values.next().is_none() && named.eq_ignore_ascii_case(scheme)).then(|| credentials.trim_matches(' '))
}
