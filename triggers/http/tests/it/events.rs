//! What a function is told about its request.

use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Custody, Headers, InvocationContext, Kind};

use crate::support::{Caller, ask, config, request, serve, table};

async fn event(path: &str, uri: &str, headers: &[(&str, &str)]) -> InvocationContext {
    let dispatch = FakeDispatch::echo();
    let routes = table(&dispatch, json!({ "path": path })).await;
    let reply = ask(&routes, request("PUT", uri, headers, "payload")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    dispatch.seen().remove(0)
}

#[tokio::test]
async fn the_facts_of_a_request() {
    let event = event(
        "/orders/{id}/{*rest}",
        "/orders/7/a/b?x=1&y=%20",
        &[("host", "example.test:8080"), ("content-type", "text/plain; charset=utf-8")],
    )
    .await;
    assert_eq!(event.custody, Custody::Caller);
    assert_eq!(event.binding.trigger_type, Kind::Http);
    assert_eq!(&*event.subject, "/orders/7/a/b");
    assert_eq!(event.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(&event.payload[..], b"payload");
    let attributes: Vec<(&str, &str)> = event.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        attributes,
        [
            ("method", "PUT"),
            ("path", "/orders/7/a/b"),
            ("query", "x=1&y=%20"),
            ("host", "example.test:8080"),
            ("param.id", "7"),
            ("param.rest", "a/b"),
        ]
    );
    assert_eq!((event.caller, event.depth, event.parent, event.idempotency_key), (None, 0, None, None));
}

#[tokio::test]
async fn what_is_absent_stays_absent() {
    let event = event("/f", "/f", &[]).await;
    assert_eq!((event.attribute("query"), event.attribute("host"), event.content_type.as_ref()), (None, None, None));
    let empty = self::event("/f", "/f?", &[]).await;
    assert_eq!(empty.attribute("query"), Some(""), "an empty query was sent, so it is there");
}

#[tokio::test]
async fn the_request_line_overrules_the_host_header() {
    let event = event("/f", "http://line.test/f", &[("host", "header.test")]).await;
    assert_eq!(event.attribute("host"), Some("line.test"));
}

#[tokio::test]
async fn parameters_are_decoded_and_the_path_is_not() {
    for (sent, decoded) in [
        ("plain", "plain"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("caf%C3%A9", "café"),
        ("a%2Fb", "a/b"),
        ("100%25", "100%"),
        ("broken%zz", "broken%zz"),
        ("%", "%"),
    ] {
        let uri = format!("/orders/{sent}");
        let event = event("/orders/{id}", &uri, &[]).await;
        assert_eq!(event.attribute("param.id"), Some(decoded), "{sent}");
        assert_eq!((&*event.subject, event.attribute("path")), (&*uri, Some(&*uri)));
    }
}

#[tokio::test]
async fn a_trace_goes_on_and_a_chain_of_functions_keeps_its_depth() {
    let parent = "0197c4a2-3f00-7000-8000-000000000001";
    let event = event(
        "/f",
        "/f",
        &[
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
            ("tripline-depth", "3"),
            ("tripline-parent", parent),
        ],
    )
    .await;
    assert_eq!(event.trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(event.trace.state.as_deref(), Some("a=b"));
    assert_eq!((event.depth, event.parent.map(|id| id.to_string()).as_deref()), (3, Some(parent)));
    let forged = self::event("/f", "/f", &[("tripline-depth", "-1")]).await;
    assert_eq!(forged.depth, u32::MAX, "nobody gets below the guard");
}

#[tokio::test]
async fn headers_arrive_repeated_and_as_bytes() {
    let dispatch = FakeDispatch::echo();
    let listener = serve(config(), &dispatch, json!({ "path": "/f" })).await;
    let mut caller = Caller::connect(&listener).await;
    let head = b"GET /f HTTP/1.1\r\nHost: a\r\nX-Tag: one\r\nx-tag: two\r\nX-Bytes: \xff\xfe\r\n\r\n";
    assert_eq!(caller.ask(head).await.status, 200);
    let event = dispatch.seen().remove(0);
    assert!(matches!(event.headers, Headers::Http(_)));
    let tags: Vec<&[u8]> = event.headers.iter().filter(|(name, _)| *name == "x-tag").map(|(_, value)| value).collect();
    assert_eq!(tags, [b"one", b"two"]);
    assert_eq!(event.headers.get("X-Bytes"), Some(&b"\xff\xfe"[..]));
}
