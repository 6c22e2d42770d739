//! The public listener: `[engine.http]` and `[engine.tls]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::Network;

use super::engine::seconds;
use super::hosts;
use super::validate::Found;

/// The public listener's bounds, and whom it believes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HttpSection {
    /// Connections open at once; further ones wait in the kernel's backlog.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_connections: u32,
    /// Time for a request's headers, counted from the end of the request before: also how long an idle connection is
    /// kept.
    #[schemars(range(min = 0.001, max = 86_400))]
    header_read_timeout_seconds: f64,
    /// The largest request line and headers together.
    #[schemars(range(min = 1024, max = 1_048_576))]
    max_header_bytes: u32,
    /// Time for a request's whole body.
    #[schemars(range(min = 0.001, max = 86_400))]
    body_read_timeout_seconds: f64,
    /// Requests that a connection of HTTP/2 may have under way at once.
    #[schemars(range(min = 1, max = 10_000))]
    max_concurrent_streams: u32,
    /// Networks of proxies in front, as `address/bits`: what they say of their callers' addresses is believed.
    trusted_proxies: Vec<String>,
    /// The header in which they say it.
    client_header: ClientHeader,
    /// Whether they begin every connection with a header of the PROXY protocol.
    proxy_protocol: bool,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_read_timeout_seconds: 30.0,
            max_header_bytes: 32 << 10,
            body_read_timeout_seconds: 60.0,
            max_concurrent_streams: 100,
            trusted_proxies: Vec::new(),
            client_header: ClientHeader::XForwardedFor,
            proxy_protocol: false,
        }
    }
}

/// Where a proxy says whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The public listener's bounds, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Connections open at once.
    pub max_connections: usize,
    /// Time for a request's headers.
    pub header_read_timeout: Duration,
    /// The largest request line and headers together.
    pub max_header_bytes: usize,
    /// Time for a request's body.
    pub body_read_timeout: Duration,
    /// Requests of an HTTP/2 connection at once.
    pub max_concurrent_streams: u32,
    /// Networks of proxies that are believed.
    pub trusted_proxies: Vec<Network>,
    /// Where they say whom they speak for.
    pub client_header: ClientHeader,
    /// Whether they speak the PROXY protocol.
    pub proxy_protocol: bool,
}

impl HttpSection {
    pub(super) fn meant(&self, found: &mut Found) -> HttpConfig {
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            let path = vec!["engine".into(), "http".into(), "proxy_protocol".into()];
            let help = "name the networks of the proxies in trusted_proxies";
            found.value(path, "no proxy is trusted, so nobody may speak the PROXY protocol", help);
        }
        HttpConfig {
            max_connections: self.max_connections as usize,
            header_read_timeout: seconds(self.header_read_timeout_seconds),
            max_header_bytes: self.max_header_bytes as usize,
            body_read_timeout: seconds(self.body_read_timeout_seconds),
            max_concurrent_streams: self.max_concurrent_streams,
            trusted_proxies: hosts::networks(&self.trusted_proxies, ["http", "trusted_proxies"], found),
            client_header: self.client_header,
            proxy_protocol: self.proxy_protocol,
        }
    }
}

/// The public listener's certificate. With it the listener speaks TLS and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    /// A PEM file with the certificate and, behind it, those that lead to a root.
    cert: String,
    /// A PEM file with its private key.
    key: String,
    /// A PEM file with authorities: every caller must have a certificate by one of them, and its subject is the event's
    /// caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ca: Option<String>,
}

/// Where the public listener's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and those that lead to a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that callers must have a certificate by.
    pub client_ca: Option<PathBuf>,
}

impl TlsSection {
    pub(super) fn meant(&self, directory: &Path) -> TlsConfig {
        TlsConfig {
            cert: directory.join(&self.cert),
            key: directory.join(&self.key),
            client_ca: self.client_ca.as_ref().map(|file| directory.join(file)),
        }
    }
}

/// Finds files of the certificate that are not where they are said to be.
pub(super) fn look_for(tls: &TlsConfig, found: &mut Found) {
    let files = [("cert", Some(&tls.cert)), ("key", Some(&tls.key)), ("client_ca", tls.client_ca.as_ref())];
    for (key, file) in files {
        let Some(file) = file else { continue };
        if let Err(why) = std::fs::File::open(file) {
            let path = vec!["engine".into(), "tls".into(), key.into()];
            found.value(path, format!("{} cannot be read: {why}", file.display()), "correct its place or its rights");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(section: serde_json::Value) -> Vec<String> {
        let mut found = Found::default();
        serde_json::from_value::<HttpSection>(section).unwrap().meant(&mut found);
        let told = found.into_vec().into_iter();
        told.map(|(problem, _)| format!("{}: {}", trigger_core::display_path(&problem.path), problem.message)).collect()
    }

    #[test]
    fn proxies_are_networks() {
        assert_eq!(told(json!({ "trusted_proxies": ["10.0.0.0/8"], "proxy_protocol": true })), Vec::<String>::new());
        assert_eq!(
            told(json!({ "trusted_proxies": ["proxy.internal"] })),
            ["engine.http.trusted_proxies[0]: \"proxy.internal\" is not a network: it is not an address, \"/\" and a \
                 number of bits"]
        );
        assert_eq!(
            told(json!({ "proxy_protocol": true })),
            ["engine.http.proxy_protocol: no proxy is trusted, so nobody may speak the PROXY protocol"]
        );
    }

    #[test]
    fn files_of_a_certificate_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("here.pem"), "").unwrap();
        let section = json!({ "cert": "here.pem", "key": "gone.pem", "client_ca": "here.pem" });
        let tls = serde_json::from_value::<TlsSection>(section).unwrap().meant(directory.path());
        let mut found = Found::default();
        look_for(&tls, &mut found);
        let told = found.into_vec();
        assert_eq!(told.len(), 1);
        assert_eq!(trigger_core::display_path(&told[0].0.path).to_string(), "engine.tls.key");
        assert!(told[0].0.message.contains("gone.pem cannot be read"), "{}", told[0].0.message);
    }
}
