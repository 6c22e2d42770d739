//! What callers' credentials are checked against, as adapters ask for it.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use trigger_core::{BoxFuture, Credentials, Refused, Token};
use uuid::Uuid;

use crate::egress::Egress;
use crate::secrets::Secrets;
use crate::tokens::Tokens;

/// The largest document that is fetched.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// How long fetching one may take: a request waits for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose connections these are: no function has this identity.
const OWN: Uuid = Uuid::nil();

/// The engine's secrets and tokens, and its way out to the keys of issuers.
pub struct Known {
    /// The way out.
    pub egress: Arc<Egress>,
    /// The secrets.
    pub secrets: Arc<Secrets>,
    /// The tokens of the engine's namespace.
    pub tokens: Arc<Tokens>,
}

impl Credentials for Known {
    fn secret(&self, name: &str) -> Option<Arc<str>> {
        self.secrets.get(name)
    }

    fn token<'a>(&'a self, presented: &'a str) -> BoxFuture<'a, Result<Option<Arc<Token>>, Refused>> {
        Box::pin(self.tokens.presented(presented))
    }

    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch(&self.egress, url)).await;
            fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())))
        })
    }
}

/// Reads a document. Redirects are not followed: the address that was written is the one that is trusted.
async fn fetch(egress: &Egress, url: &str) -> Result<Bytes, String> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(url).header(header::ACCEPT, "application/jwk-set+json, application/json");
    let request = request.body(body).map_err(|error| error.to_string())?;
    let response = egress.client(OWN).request(request).await;
    let response = response.map_err(|error| match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    })?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
    Ok(body.map_err(|error| format!("the answer cannot be read: {error}"))?.to_bytes())
}
