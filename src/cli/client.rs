//! Speaks to a running engine's admin API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Remote;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How long an answer may take. A reload compiles modules.
const DEADLINE: Duration = Duration::from_secs(120);

/// A client of one engine.
pub struct Client {
    base: String,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    /// Whether the answer is wanted as JSON.
    pub json: bool,
}

impl Client {
    /// A client for the engine that the options name.
    pub fn new(remote: &Remote) -> anyhow::Result<Self> {
        let base = remote.admin.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("--admin {base:?} is not a URL"))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            bail!("--admin {base:?} is not an http URL: expected http://127.0.0.1:7071 or the like");
        }
        Ok(Self { base, http: HttpClient::builder(TokioExecutor::new()).build_http(), json: remote.json })
    }

    /// Reads a resource.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Asks for something to be done.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// Makes a resource what the body says.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.call(Method::PUT, path, serde_json::to_vec(body)?.into()).await
    }

    /// Removes a resource.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let exchange = async {
            let response = self.http.request(request).await.with_context(|| {
                format!("no engine answers at {}: is `tripline dev` or `tripline serve` running?", self.base)
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("the answer could not be read: {error}"))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let exchange = tokio::time::timeout(DEADLINE, exchange).await;
        let (status, body) = exchange.with_context(|| format!("no answer within {} s", DEADLINE.as_secs()))??;
        if !status.is_success() {
            bail!("{}", explain(status, &body));
        }
        serde_json::from_slice(&body).context("the answer is not what this version expects")
    }
}

/// What an error answer says.
fn explain(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    match detail {
        Some(detail) => detail.to_owned(),
        None => format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]).trim()),
    }
}

/// A query string of the pairs that are set.
pub(super) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let encoded: Vec<String> = pairs
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", encode(value))))
        .collect();
    if encoded.is_empty() { String::new() } else { format!("?{}", encoded.join("&")) }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(super) fn encode(value: &str) -> String {
    value.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
