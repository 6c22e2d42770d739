//! TLS on the wire: real handshakes with certificates made for the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trigger_core::testing::FakeDispatch;
use trigger_http::{Server, ServerConfig, TlsFiles};

use crate::support::{Caller, Listener, config, in_time, listen, run, serve, spawn};

const HELLO: &str = "GET /f HTTP/1.1\r\nHost: a\r\n\r\n";

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for this host's name, or of this caller, and its key.
    fn issue(&self, host: &str, common_name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn write(&self, directory: &Path, host: &str) {
        let (certificate, key) = self.issue(host, host);
        std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("ca.pem"), self.certificate.pem()).unwrap();
    }
}

fn files(directory: &TempDir, client_ca: bool) -> ServerConfig {
    let file = |name: &str| directory.path().join(name);
    let tls = TlsFiles { cert: file("cert.pem"), key: file("key.pem"), client_ca: client_ca.then(|| file("ca.pem")) };
    ServerConfig { tls: Some(tls), ..config() }
}

/// What a caller does in a handshake.
struct Client<'a> {
    trusts: &'a Authority,
    host: &'static str,
    alpn: &'a [&'static [u8]],
    shows: Option<&'a (rcgen::Certificate, KeyPair)>,
    versions: &'a [&'static SupportedProtocolVersion],
}

impl<'a> Client<'a> {
    fn new(trusts: &'a Authority) -> Self {
        Self { trusts, host: "a.example", alpn: &[], shows: None, versions: rustls::ALL_VERSIONS }
    }

    async fn connect(&self, listener: &Listener) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusts.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.shows {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from(certificate.der().to_vec())];
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpStream::connect(listener.addr).await.unwrap();
        let name = ServerName::try_from(self.host).unwrap();
        in_time("the handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }
}

struct Secured {
    authority: Authority,
    directory: TempDir,
    listener: Listener,
    dispatch: Arc<FakeDispatch>,
}

async fn secured(client_ca: bool) -> Secured {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), "a.example");
    let dispatch = FakeDispatch::echo();
    let listener = serve(files(&directory, client_ca), &dispatch, json!({ "path": "/f" })).await;
    Secured { authority, directory, listener, dispatch }
}

#[tokio::test]
async fn both_protocols_are_spoken_inside_tls_as_the_caller_prefers() {
    let Secured { authority, listener, dispatch, directory: _directory } = secured(false).await;
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        for alpn in [&[][..], &[&b"http/1.1"[..]]] {
            let socket = Client { alpn, versions, ..Client::new(&authority) }.connect(&listener).await.unwrap();
            let mut caller = Caller::over(socket);
            for _ in 0..2 {
                assert_eq!(caller.ask(HELLO).await.status, 200);
            }
        }
    }
    let socket = Client { alpn: &[b"h2", b"http/1.1"], ..Client::new(&authority) }.connect(&listener).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut requests, connection) = h2::client::handshake(socket).await.unwrap();
    spawn(connection);
    let request = http::Request::get("https://a.example/f").body(()).unwrap();
    let response = in_time("a response", requests.send_request(request, true).unwrap().0).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = dispatch.seen();
    assert!(seen.iter().all(|event| event.caller.is_none() && event.attribute("client") == Some("127.0.0.1")));
    assert!(Client { alpn: &[b"spdy/1"], ..Client::new(&authority) }.connect(&listener).await.is_err());
}

#[tokio::test]
async fn who_speaks_no_tls_or_too_slowly_is_closed() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), "a.example");
    let short = ServerConfig { header_read_timeout: Duration::from_millis(150), ..files(&directory, false) };
    let listener = serve(short, &FakeDispatch::echo(), json!({ "path": "/f" })).await;
    let mut plain = Caller::connect(&listener).await;
    plain.send(HELLO).await;
    let said = plain.drained().await;
    assert_eq!(said.first(), Some(&21), "a TLS alert, and no answer: {said:?}");
    for begun in ["", "\x16\x03\x01\x00\x05\x01"] {
        let mut slow = Caller::connect(&listener).await;
        slow.send(begun).await;
        slow.closed().await;
    }
    let mut caller = Caller::over(Client::new(&authority).connect(&listener).await.unwrap());
    assert_eq!(caller.ask(HELLO).await.status, 200, "nobody else noticed");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), "a.example");
    let server = Server::bind(files(&directory, false)).await.unwrap();
    let certificates = server.certificates().unwrap();
    let (shutdown, force) = Default::default();
    let listener = Listener {
        addr: server.local_addr(),
        routes: server.routes(),
        shutdown: tokio_util::sync::CancellationToken::clone(&shutdown),
        force: tokio_util::sync::CancellationToken::clone(&force),
        ended: spawn(server.run(shutdown, force)),
    };
    run(&listener.routes, &FakeDispatch::echo(), "trigger", json!({ "path": "/f" })).await;
    let mut old = Caller::over(Client::new(&authority).connect(&listener).await.unwrap());
    assert_eq!(old.ask(HELLO).await.status, 200);
    assert!(!certificates.reload().unwrap(), "nothing has changed");

    let next = Authority::new();
    next.write(directory.path(), "a.example");
    assert!(certificates.reload().unwrap());
    assert!(Client::new(&authority).connect(&listener).await.is_err(), "the old authority is not that of the new");
    let mut new = Caller::over(Client::new(&next).connect(&listener).await.unwrap());
    assert_eq!(new.ask(HELLO).await.status, 200);
    assert_eq!(old.ask(HELLO).await.status, 200, "a connection keeps what it began with");

    std::fs::write(directory.path().join("cert.pem"), "half a fil").unwrap();
    let error = certificates.reload().unwrap_err().to_string();
    assert!(error.contains("cert.pem has no certificate in PEM"), "{error}");
    assert!(Client::new(&next).connect(&listener).await.is_ok(), "what was read before stays in use");
}

#[tokio::test]
async fn a_caller_is_its_certificates_subject_where_one_is_asked_for() {
    let Secured { authority, listener, dispatch, directory: _directory } = secured(true).await;
    let known = authority.issue("billing.internal", "billing, the first");
    let stranger = Authority::new().issue("billing.internal", "billing, the first");
    for shows in [None, Some(&stranger)] {
        // In TLS 1.3 the refusal arrives after the caller's side of the handshake is done.
        if let Ok(socket) = (Client { shows, ..Client::new(&authority) }).connect(&listener).await {
            let mut caller = Caller::over(socket);
            let _may_be_closed_already = caller.try_send(HELLO).await;
            assert!(caller.refused().await, "a caller without a certificate by our authority");
        }
    }
    assert!(dispatch.seen().is_empty());
    let socket = Client { shows: Some(&known), ..Client::new(&authority) }.connect(&listener).await.unwrap();
    assert_eq!(Caller::over(socket).ask(HELLO).await.status, 200);
    assert_eq!(dispatch.seen()[0].caller.as_deref(), Some("CN=billing\\, the first"));
}

#[tokio::test]
async fn a_drain_ends_handshakes_and_idle_connections() {
    let Secured { authority, listener, directory: _directory, .. } = secured(false).await;
    let mut halfway = Caller::connect(&listener).await;
    halfway.send("\x16\x03\x01").await;
    let mut idle = Caller::over(Client::new(&authority).connect(&listener).await.unwrap());
    assert_eq!(idle.ask(HELLO).await.status, 200);
    listener.shutdown.cancel();
    in_time("the listener to end", listener.ended).await.unwrap();
    halfway.closed().await;
    idle.closed().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_before_the_port_is_taken() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let error = async |client_ca: bool| {
        let error = whole(&Server::bind(files(&directory, client_ca)).await.unwrap_err());
        error.replace(&format!("{}/", directory.path().display()), "")
    };
    assert!(error(false).await.starts_with("cannot read cert.pem: No such file"), "{}", error(false).await);
    authority.write(directory.path(), "a.example");
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (name, text, client_ca, expected) in [
        ("cert.pem", "", false, "cert.pem has no certificate in PEM that can be read"),
        ("cert.pem", key.as_str(), false, "cert.pem has no certificate in PEM"),
        ("key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n", false, "key.pem has no private key in PEM"),
        ("key.pem", &key, false, "cert.pem with the key key.pem cannot be used for TLS: "),
        ("ca.pem", "", true, "ca.pem has no certificate in PEM"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", true, "the authorities in ca.pem"),
    ] {
        authority.write(directory.path(), "a.example");
        write(name, text);
        let told = error(client_ca).await;
        assert!(told.contains(expected), "{name}: {told}");
        assert!(!told.contains(key.lines().nth(1).unwrap()), "a key is in no message");
    }
    authority.write(directory.path(), "a.example");
    listen(files(&directory, true)).await;
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
