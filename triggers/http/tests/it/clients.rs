//! Whose request it is, behind proxies that are trusted and proxies that are not.

use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_http::{ForwardHeader, ServerConfig, Trust};

use crate::support::{Caller, Listener, config, serve};

async fn trusting(dispatch: &std::sync::Arc<FakeDispatch>, trust: Trust) -> Listener {
    serve(ServerConfig { trust, ..config() }, dispatch, json!({ "path": "/f" })).await
}

fn loopback() -> Vec<trigger_core::Network> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

const CLAIMS: &str = "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nForwarded: for=3.3.3.3\r\n";

#[tokio::test]
async fn the_event_has_the_callers_address_and_believes_no_stranger() {
    for (trust, expected) in [
        (Trust::default(), "127.0.0.1"),
        (Trust { proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Trust::default() }, "127.0.0.1"),
        (Trust { proxies: loopback(), ..Trust::default() }, "2.2.2.2"),
        (Trust { proxies: loopback(), header: ForwardHeader::Forwarded, ..Trust::default() }, "3.3.3.3"),
    ] {
        let dispatch = FakeDispatch::echo();
        let listener = trusting(&dispatch, trust).await;
        let mut caller = Caller::connect(&listener).await;
        assert_eq!(caller.ask(format!("GET /f HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n")).await.status, 200);
        assert_eq!(dispatch.seen()[0].attribute("client"), Some(expected));
    }
}

#[tokio::test]
async fn a_trusted_proxy_speaks_its_protocol_before_its_callers_does() {
    let dispatch = FakeDispatch::echo();
    let listener = trusting(&dispatch, Trust { proxies: loopback(), proxy_protocol: true, ..Trust::default() }).await;
    let request = format!("GET /f HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n");
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let version_2 = [&signature[..], b"\x21\x11\0\x0c", &[192, 0, 2, 2, 127, 0, 0, 1, 0, 80, 0, 80]].concat();
    for (header, expected) in [
        (&b"PROXY TCP4 192.0.2.1 127.0.0.1 80 80\r\n"[..], "192.0.2.1"),
        (&version_2, "192.0.2.2"),
        // For itself: then it is a proxy that wrote a header of HTTP.
        (b"PROXY UNKNOWN\r\n", "2.2.2.2"),
    ] {
        let mut caller = Caller::connect(&listener).await;
        caller.send(header).await;
        for _ in 0..2 {
            assert_eq!(caller.ask(&request).await.status, 200);
            assert_eq!(dispatch.seen().last().unwrap().attribute("client"), Some(expected));
        }
    }
    let mut caller = Caller::connect(&listener).await;
    caller.send(&request).await;
    caller.closed().await;

    let strict = trusting(
        &dispatch,
        Trust { proxies: vec!["10.0.0.0/8".parse().unwrap()], proxy_protocol: true, ..Trust::default() },
    )
    .await;
    let mut stranger = Caller::connect(&strict).await;
    assert_eq!(stranger.ask("PROXY TCP4 192.0.2.1 127.0.0.1 80 80\r\n").await.status, 400, "it is only a caller");
    assert_eq!(Caller::connect(&strict).await.ask(&request).await.status, 200);
    assert_eq!(dispatch.seen().last().unwrap().attribute("client"), Some("127.0.0.1"));
}
