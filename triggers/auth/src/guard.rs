//! The door: whoever may not come in is told why and counted.

use std::borrow::Cow;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use trigger_core::{Refused, Shed, TriggerContext};

use crate::config::{Auth, Scheme};
use crate::{basic, bearer};

/// Who came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How guests, logs and traces name it: `token:ci`, `basic:alice`.
    pub name: Box<str>,
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

impl Guard {
    /// The guard of a trigger; `None` where everybody may come in.
    pub fn new(auth: &Auth, cx: &TriggerContext) -> Option<Self> {
        Some(Self { scheme: auth.scheme()?, cx: cx.clone() })
    }

    /// Looks at a request's head. Credentials that were good are taken out of it: what is made of the request
    /// afterwards, rows and dead letters included, does not hold them.
    pub async fn check(&self, head: &mut Parts) -> Result<Caller, Denied> {
        let credentials = &*self.cx.credentials;
        let checked = match &self.scheme {
            Scheme::Basic { secrets } => basic::check(&head.headers, secrets, credentials),
            Scheme::Token { scopes } => bearer::check(&head.headers, scopes, &self.cx.binding, credentials).await,
        };
        match checked {
            Ok(caller) => {
                head.headers.remove(header::AUTHORIZATION);
                Ok(caller)
            }
            Err(denied) => {
                self.cx.dispatch.count_shed(&self.cx.binding, denied.reason, 1);
                Err(denied)
            }
        }
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
