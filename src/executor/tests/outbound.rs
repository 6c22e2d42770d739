//! Requests of guests to the outside: whom they reach, what they get, and when it is over.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::extract::{Path, Request};
use axum::response::IntoResponse;
use axum::routing::any;
use axum::serve::ListenerExt as _;
use http::{StatusCode, header};
use tokio_util::task::AbortOnDropHandle;
use trigger_core::Network;

use super::*;
use crate::egress::{Egress, Resolver};
use crate::executor::{Machine, Services};

/// A server on this machine that counts its connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
    _serving: AbortOnDropHandle<()>,
}

async fn server() -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = connections.clone();
    let listener = listener.tap_io(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let zeros = |Path(bytes): Path<usize>| async move { vec![b'0'; bytes] };
    let endless = || async {
        let zeros = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b'0'; 1024])));
        axum::body::Body::from_stream(zeros)
    };
    let told = |request: Request| async move {
        let mut told = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            told.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        told
    };
    let redirect =
        |Path(to): Path<String>| async move { (StatusCode::FOUND, [(header::LOCATION, to)]).into_response() };
    let router = axum::Router::new()
        .route("/hello", any(|| async { "hello" }))
        .route("/zeros/{bytes}", any(zeros))
        .route("/endless", any(endless))
        .route("/told", any(told))
        .route("/never", any(std::future::pending::<()>))
        .route("/to/{*to}", any(redirect));
    let serve = async move { axum::serve(listener, router).await.unwrap() };
    let _serving = AbortOnDropHandle::new(tokio::runtime::Handle::current().spawn(serve));
    Server { address, connections, _serving }
}

/// Names and what they resolve to, each time the next.
#[derive(Default)]
struct Names {
    known: HashMap<&'static str, Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

impl Resolver for Arc<Names> {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|name| **name == host).count();
        let found = self.known.get(host.as_str()).and_then(|found| found.get(before.min(found.len() - 1)));
        let found = found.map(|address| vec![SocketAddr::new(address.parse().unwrap(), port)]);
        asked.push(host);
        Box::pin(async move { found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)) })
    }
}

/// An executor whose guests may reach these networks beside public ones.
fn rig(module: &str, networks: &[&str], names: &Arc<Names>, change: impl FnOnce(&mut Definition)) -> Rig {
    let networks: Vec<Network> = networks.iter().map(|network| network.parse().unwrap()).collect();
    let egress = Arc::new(Egress::new(networks, Arc::new(names.clone())));
    let source = Arc::new(Modules { modules: vec![guest(module)], asked: AtomicU32::new(0) });
    let config = ExecutorConfig { max_instances: 8, ..ExecutorConfig::default() };
    let services = Services { egress, ..Services::default() };
    let executor = WasmExecutor::on(Machine::new(config).unwrap(), source.clone(), services).unwrap();
    let version = version(&executor, &source.modules[0], change);
    Rig { executor, source, version }
}

fn local(module: &str) -> Rig {
    rig(module, &["127.0.0.0/8"], &Arc::default(), grant(&["http://127.0.0.1:*"]))
}

fn grant(grants: &[&str]) -> impl FnOnce(&mut Definition) + use<> {
    let grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
    move |definition| definition.allow.http = grants
}

async fn ask(rig: &Rig, said: impl Into<String>) -> String {
    let attempt = rig.call(said.into()).await;
    String::from_utf8(attempt.result.unwrap().body.to_vec()).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn a_component_sends_requests_to_whom_it_is_granted() {
    let (server, rig) = (server().await, local("hosts.component.wasm"));
    let url = format!("http://{}", server.address);
    let mut event = event(Kind::Pubsub, format!("http GET {url}/hello?secret=1\nhttp GET http://other:1/x"));
    event.trace =
        trigger_core::TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None).unwrap();
    let attempt = rig.attempt(&event).await;
    let body = String::from_utf8(attempt.result.unwrap().body.to_vec()).unwrap();
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines[0], "200 hello");
    assert!(
        lines[1].contains("Denied") && lines[1].contains("http://other:1: add it to functions.function.allow.http")
    );
    let ops = attempt.detail.unwrap().host_ops;
    assert_eq!((ops[0].op.as_ref(), ops[0].target.as_str()), ("http", url.as_str()), "neither path nor query");
    assert_eq!((ops[0].status, ops[0].bytes, &ops[0].error), (Some(200), 5, &None));
    assert!(ops[1].error.as_ref().unwrap().starts_with("denied: "));

    event.payload = format!("http POST {url}/told body=x x-own:1 connection:close traceparent:mine te:gzip").into();
    let told = rig.attempt(&event).await.result.unwrap().body;
    let told = String::from_utf8(told.to_vec()).unwrap();
    assert!(told.contains("POST /told") && told.contains("x-own: 1") && told.contains("content-length: 1"), "{told}");
    assert!(told.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-") && !told.contains("mine"), "{told}");
    assert!(!told.contains("connection:") && !told.contains("te: gzip"), "{told}");
    assert!(told.contains(&format!("host: {}", server.address)), "{told}");
    for wrong in ["host:other", "content-length:7", "x-a:b\rx-c:d", "x\u{7f}:y"] {
        let told = ask(&rig, format!("http GET {url}/hello {wrong}")).await;
        assert!(told.contains("Invalid((\"headers\""), "{wrong}: {told}");
    }
    for (method, url) in
        [("CONNECT", &*url), ("TR\u{1}ACE", &url), ("GET", "http://u:p@127.0.0.1/"), ("GET", "file:///x")]
    {
        let told = ask(&rig, format!("http {method} {url}")).await;
        assert!(told.contains("Invalid"), "{method} {url}: {told}");
    }
}

#[tokio::test]
async fn no_way_leads_to_an_address_that_is_not_public() {
    let server = server().await;
    let port = server.address.port();
    let names = Arc::new(Names {
        known: [
            ("inside.example", vec!["127.0.0.1"]),
            ("meta.example", vec!["169.254.169.254"]),
            ("mapped.example", vec!["::ffff:127.0.0.1"]),
            ("2130706433", vec!["127.0.0.1"]),
            ("0x7f.1", vec!["127.0.0.1"]),
            ("0177.0.0.1", vec!["127.0.0.1"]),
            ("localhost", vec!["::1"]),
        ]
        .into(),
        asked: Mutex::default(),
    });
    let rig = rig("hosts.component.wasm", &[], &names, grant(&["http://*:*", "https://*:*"]));
    for host in [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "inside.example",
        "INSIDE.example.",
        "meta.example",
        "mapped.example",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "localhost",
    ] {
        let told = ask(&rig, format!("http GET http://{host}:{port}/hello")).await;
        assert!(told.contains("Denied") && told.contains("not a public one"), "{host}: {told}");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_not_asked_twice_for_a_connection() {
    let server = server().await;
    let names = Names { known: [("rebind.example", vec!["127.0.0.2", "127.0.0.1"])].into(), asked: Mutex::default() };
    let names = Arc::new(names);
    // The first answer is refused; the second would pass.
    let rig = rig("hosts.component.wasm", &["127.0.0.1/32"], &names, grant(&["http://*:*"]));
    let url = format!("http GET http://rebind.example:{}/hello", server.address.port());
    assert!(ask(&rig, &url).await.contains("not a public one"));
    assert_eq!(names.asked.lock().unwrap().len(), 1);
    assert_eq!(ask(&rig, &url).await, "200 hello");
    assert_eq!(names.asked.lock().unwrap().len(), 2, "what was judged is what was connected to");
}

#[tokio::test]
async fn a_redirect_is_checked_like_a_request() {
    let (server, rig) = (server().await, local("hosts.component.wasm"));
    let url = format!("http://{}", server.address);
    assert!(ask(&rig, format!("http GET {url}/to//hello")).await.starts_with("302"), "not followed unless asked");
    assert_eq!(ask(&rig, format!("http GET {url}/to//hello redirects=1")).await, "200 hello");
    let told = ask(&rig, format!("http GET {url}/to/http://169.254.169.254/latest redirects=5")).await;
    assert!(told.contains("Denied") && told.contains("http://169.254.169.254:80"), "{told}");
    let told = ask(&rig, format!("http POST {url}/to//told redirects=1 body=x authorization:me")).await;
    assert!(told.contains("GET /told") && told.contains("authorization: me"), "the same host: {told}");
    assert!(ask(&rig, format!("http GET {url} redirects=11")).await.contains("at most 10"));
}

#[tokio::test]
async fn responses_are_bounded_while_they_stream() {
    let server = server().await;
    let url = format!("http://{}", server.address);
    let few = |definition: &mut Definition| {
        grant(&["http://127.0.0.1:*"])(definition);
        definition.max_outbound_bytes = 1000;
    };
    let rig = rig("hosts.component.wasm", &["127.0.0.0/8"], &Arc::default(), few);
    assert_eq!(ask(&rig, format!("http GET {url}/zeros/1000")).await.len(), 1004);
    let told = ask(&rig, format!("http GET {url}/zeros/1001")).await;
    assert!(told.contains("TooLarge") && told.contains("more than 1000 bytes"), "{told}");
    assert!(ask(&rig, format!("http GET {url}/endless")).await.contains("TooLarge"));
    let both = ask(&rig, format!("http GET {url}/zeros/600\nhttp GET {url}/zeros/600")).await;
    assert!(both.starts_with("200 ") && both.contains("TooLarge"), "they are counted together: {both}");
    let many = vec![format!("http GET {url}/zeros/1"); 101].join("\n");
    let many = ask(&rig, many).await;
    assert!(many.lines().nth(99).unwrap().starts_with("200") && many.contains("TooMany"), "{many}");
}

#[tokio::test]
async fn a_request_ends_with_its_time() {
    let server = server().await;
    let url = format!("http://{}", server.address);
    let brief = |definition: &mut Definition| {
        grant(&["http://127.0.0.1:*"])(definition);
        definition.timeout_seconds = 1.0;
    };
    let rig = rig("hosts.component.wasm", &["127.0.0.0/8"], &Arc::default(), brief);
    assert!(ask(&rig, format!("http GET {url}/never timeout=20")).await.contains("Timeout"));
    let attempt = rig.call(format!("http GET {url}/never")).await;
    let op = &attempt.detail.as_ref().map(|detail| detail.host_ops[0].clone());
    match attempt.result {
        // Whichever of the two clocks rings first.
        Ok(response) => assert!(String::from_utf8_lossy(&response.body).contains("Timeout")),
        Err(failure) => assert_eq!(failure.code, FailureCode::Timeout),
    }
    assert!(op.as_ref().unwrap().error.is_some(), "the trace tells of it: {op:?}");
}

#[tokio::test]
async fn connections_are_kept_for_their_function_alone() {
    let server = server().await;
    let rig = local("hosts.component.wasm");
    let get = format!("http GET http://{}/hello", server.address);
    for _ in 0..3 {
        assert_eq!(ask(&rig, &get).await, "200 hello");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let other = version(&rig.executor, &rig.source.modules[0], grant(&["http://127.0.0.1:*"]));
    let other = Rig { version: other, ..rig };
    assert_eq!(ask(&other, &get).await, "200 hello");
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_wasi_http_component_sends_requests_by_the_same_rules() {
    let server = server().await;
    let url = format!("http://{}", server.address);
    let few = |definition: &mut Definition| {
        grant(&["http://127.0.0.1:*", "http://10.0.0.1"])(definition);
        definition.max_outbound_bytes = 1000;
    };
    let rig = rig("fetch.wasm", &["127.0.0.0/8"], &Arc::default(), few);
    let fetch = async |url: String| {
        let mut event = event(Kind::Http, "");
        event.headers = trigger_core::Headers::List(vec![("x-url".into(), url.into())]);
        let attempt = rig.attempt(&event).await;
        let ops = attempt.detail.map(|detail| detail.host_ops).unwrap_or_default();
        (String::from_utf8(attempt.result.unwrap().body.to_vec()).unwrap(), ops)
    };
    let (told, ops) = fetch(format!("{url}/hello?x")).await;
    assert_eq!(told, "200 hello");
    assert_eq!((ops[0].target.as_str(), ops[0].status, ops[0].bytes), (url.as_str(), Some(200), 5));
    assert!(fetch(format!("{url}/told")).await.0.contains("traceparent: 00-"));
    assert!(fetch(format!("{url}/to//hello")).await.0.starts_with("302"), "redirects are the guest's to see");
    assert!(fetch("http://other/".into()).await.0.contains("HttpRequestDenied"));
    assert!(fetch("http://10.0.0.1/".into()).await.0.contains("DestinationIpProhibited"));
    assert!(fetch(format!("{url}/zeros/1001")).await.0.contains("HttpResponseBodySize"));
    // What is wrong with a body that streams is told by its stream, which has no words for it.
    let (told, ops) = fetch(format!("{url}/endless")).await;
    assert!(told.contains("HttpProtocolError"), "{told}");
    assert!(ops[0].error.as_ref().is_some_and(|error| error.starts_with("too large")) && ops[0].bytes <= 1000);
}

#[tokio::test]
async fn an_instance_that_serves_again_sends_on_each_attempts_own_account() {
    let server = server().await;
    let reused = |definition: &mut Definition| {
        grant(&["http://127.0.0.1:*"])(definition);
        definition.max_outbound_bytes = 8;
        definition.reuse = Some(crate::functions::Reuse::default());
    };
    let names = Arc::default();
    let typed = rig("hosts.component.wasm", &["127.0.0.0/8"], &names, reused);
    let proxy = rig("fetch.wasm", &["127.0.0.0/8"], &names, reused);
    let url = format!("http://{}", server.address);
    let mut traces = std::collections::HashSet::new();
    for _ in 0..3 {
        // Five bytes of the eight that each may take: two attempts together would be over.
        let asked = event(Kind::Pubsub, format!("http GET {url}/hello"));
        let mut fetched = event(Kind::Http, "");
        fetched.headers = trigger_core::Headers::List(vec![("x-url".into(), format!("{url}/hello").into())]);
        for (rig, event) in [(&typed, asked), (&proxy, fetched)] {
            let attempt = rig.attempt(&event).await;
            assert!(attempt.result.unwrap().body.starts_with(b"200 hello"));
            assert_eq!(attempt.detail.unwrap().host_ops.len(), 1);
            assert_eq!(rig.executor.shelf().len(), 1, "the instance waits for the next");
            traces.insert(event.trace.trace_id);
        }
    }
    assert_eq!(traces.len(), 6);
}
