//! The public listener as a manifest sets it up: its certificate, whom it believes, what it refuses.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use crate::support::engine::Project;

const STEER: &str = r#"
[functions.steer]
module = "steer.wasm"
[[functions.steer.triggers]]
type = "http"
path = "/"
"#;

fn project(engine: &str) -> Project {
    let project = Project::new(engine, STEER);
    project.guest("steer.wat", "steer.wasm");
    project
}

/// Puts a certificate that signs itself into the project.
fn certify(project: &Project) -> rcgen::Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(project.path("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(project.path("key.pem"), key.serialize_pem()).unwrap();
    certificate
}

/// The status of a request by someone who trusts this certificate alone; nothing if the handshake fails.
async fn ask(project: &Project, trusted: &rcgen::Certificate) -> Option<StatusCode> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("https://localhost:{}/", project.public)).body(Full::default()).unwrap();
    client.request(request).await.ok().map(|response| response.status())
}

#[tokio::test]
async fn a_manifest_has_the_listeners_certificate_and_a_signal_takes_in_a_new_one() {
    let project = project("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let old = certify(&project);
    let engine = project.serve().await;
    assert_eq!(ask(&project, &old).await, Some(StatusCode::OK));
    let out = std::fs::read_to_string(project.path("out")).unwrap();
    assert!(out.contains(&format!("listening on https://127.0.0.1:{}", project.public)), "{out}");

    let new = certify(&project);
    engine.signal(rustix::process::Signal::HUP);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while ask(&project, &new).await.is_none() {
        assert!(std::time::Instant::now() < deadline, "the new certificate is not taken in: {}", engine.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&project, &old).await, None, "the old one is gone");
    let log = engine.log();
    assert!(engine.stop().await.success(), "{log}");
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start() {
    let project = project("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    for verb in ["check", "serve"] {
        let output = project.run(&[verb]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{told}");
        assert!(told.contains("cert.pem cannot be read") && told.contains("key.pem cannot be read"), "{told}");
    }
    certify(&project);
    std::fs::write(project.path("key.pem"), "no key").unwrap();
    let output = project.run(&["serve"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("key.pem has no private key in PEM"), "{told}");
}

#[tokio::test]
async fn what_the_listener_refuses_is_a_metric() {
    let project = project("[engine.http]\ntrusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true");
    let _engine = project.serve().await;
    let refused = async |reason: &str| project.metric("tripline_http_refused_total", &[&format!("\"{reason}\"")]).await;
    assert_eq!(refused("proxy_header").await, 0);
    let bare = tokio::net::TcpStream::connect(("127.0.0.1", project.public)).await.unwrap();
    bare.writable().await.unwrap();
    bare.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut nothing = Vec::new();
    let mut bare = bare;
    let _closed = tokio::io::AsyncReadExt::read_to_end(&mut bare, &mut nothing).await;
    assert_eq!(nothing, b"", "a proxy that does not say for whom it speaks is not answered");
    assert_eq!(refused("proxy_header").await, 1);
}
