//! Routes that share a path: by host, by headers, by query; and what browsers are told of them.

use serde_json::json;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, HttpParts, Response};
use trigger_http::Routes;

use crate::support::{ask, request, run, table};

#[tokio::test]
async fn the_most_specific_route_answers_and_the_others_stand_behind_it() {
    let dispatch =
        FakeDispatch::new(|event| Answer::Ok(Response::from(bytes::Bytes::from(event.binding.trigger_id.to_string()))));
    let routes = Routes::default();
    let push = json!({ "path": "/hook", "headers": { "x-event": "push" } });
    let mut running = Vec::new();
    for (name, section) in [
        ("plain", json!({ "path": "/hook" })),
        ("push", push),
        ("push-v2", json!({ "path": "/hook", "headers": { "x-event": "push" }, "query": { "v": "2" } })),
        ("any-event", json!({ "path": "/hook", "headers": { "x-event": "*" } })),
        ("tenant", json!({ "path": "/hook", "host": "*.example.com" })),
        ("shop", json!({ "method": "POST", "path": "/hook", "host": "shop.example.com" })),
        ("only", json!({ "path": "/only", "query": { "key": "yes" } })),
    ] {
        running.push(run(&routes, &dispatch, name, section).await);
    }
    tokio::task::yield_now().await;
    for (method, uri, host, event, expected) in [
        ("GET", "/hook", "a", "", "plain"),
        ("GET", "/hook", "a", "push", "push"),
        ("GET", "/hook?v=2", "a", "push", "push-v2"),
        ("GET", "/hook?v=3", "a", "push", "push"),
        ("GET", "/hook", "a", "pull", "any-event"),
        ("GET", "/hook", "x.y.EXAMPLE.com:80", "push", "tenant"),
        ("POST", "/hook", "shop.example.com", "", "shop"),
        ("GET", "/hook", "shop.example.com", "", "tenant"),
        ("GET", "/hook", "example.com", "", "plain"),
        ("GET", "/only?key=yes", "a", "", "only"),
    ] {
        let mut headers = vec![("host", host)];
        if !event.is_empty() {
            headers.push(("x-event", event));
        }
        let reply = ask(&routes, request(method, uri, &headers, "")).await;
        assert_eq!((reply.status, &reply.body[..]), (200, expected.as_bytes()), "{method} {uri} {host} {event}");
    }
    let unmet = ask(&routes, request("GET", "/only?key=no", &[("host", "a")], "")).await;
    assert_eq!(unmet.code(), "not_found", "the path is served, but not for such a request");
    running.remove(1).stop().await;
    let reply = ask(&routes, request("GET", "/hook", &[("x-event", "push")], "")).await;
    assert_eq!(&reply.body[..], b"any-event", "what it covered answers");
}

#[tokio::test]
async fn methods_of_every_host_that_takes_the_request_are_allowed() {
    let dispatch = FakeDispatch::echo();
    let routes = Routes::default();
    run(&routes, &dispatch, "one", json!({ "method": "GET", "path": "/f" })).await;
    run(&routes, &dispatch, "two", json!({ "method": "PUT", "path": "/f", "host": "a.example" })).await;
    tokio::task::yield_now().await;
    let allowed = async |host| {
        let reply = ask(&routes, request("DELETE", "/f", &[("host", host)], "")).await;
        assert_eq!(reply.status, 405);
        reply.header("allow").unwrap().to_owned()
    };
    assert_eq!(allowed("a.example").await, "GET, HEAD, PUT, OPTIONS");
    assert_eq!(allowed("b.example").await, "GET, HEAD, OPTIONS");
}

const PAGE: (&str, &str) = ("origin", "https://app.example.com");

#[tokio::test]
async fn a_preflight_is_answered_without_the_function() {
    let dispatch = FakeDispatch::echo();
    let cors = json!({ "origins": ["https://app.example.com"], "headers": ["content-type", "x-key"], "credentials": true,
        "max_age_seconds": 60 });
    let routes = table(&dispatch, json!({ "method": ["PUT", "OPTIONS"], "path": "/f", "cors": cors })).await;
    let asks = ("access-control-request-method", "PUT");
    let reply = ask(&routes, request("OPTIONS", "/f", &[PAGE, asks], "")).await;
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", Some("https://app.example.com")),
        ("access-control-allow-methods", Some("PUT, OPTIONS")),
        ("access-control-allow-headers", Some("content-type, x-key")),
        ("access-control-allow-credentials", Some("true")),
        ("access-control-max-age", Some("60")),
        ("vary", Some("origin")),
        ("allow", None),
    ] {
        assert_eq!(reply.header(name), value, "{name}");
    }
    let other = ask(&routes, request("OPTIONS", "/f", &[("origin", "https://evil.example"), asks], "")).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (204, None));
    assert_eq!((other.header("vary"), other.header("access-control-allow-methods")), (Some("origin"), None));
    assert!(dispatch.seen().is_empty());
    assert_eq!(ask(&routes, request("OPTIONS", "/f", &[PAGE], "")).await.status, 200, "no preflight: the function's");
    assert_eq!(dispatch.seen().len(), 1);
}

#[tokio::test]
async fn every_answer_of_a_route_says_who_may_read_it() {
    let mut headers = http::HeaderMap::new();
    headers.insert("access-control-allow-origin", "*".parse().unwrap());
    headers.insert("vary", "accept".parse().unwrap());
    let http = HttpParts { status: http::StatusCode::OK, headers };
    let answer = Response { body: "x".into(), http: Some(Box::new(http)) };
    let dispatch = FakeDispatch::new(move |_| Answer::Ok(answer.clone()));
    let cors = json!({ "origins": ["https://app.example.com"] });
    let routes = table(&dispatch, json!({ "path": "/f", "cors": cors, "max_body_bytes": 1 })).await;
    let reply = ask(&routes, request("GET", "/f", &[PAGE], "")).await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example.com"));
    let varies: Vec<_> = reply.headers.get_all("vary").iter().collect();
    assert_eq!(varies, ["accept", "origin"]);
    assert_eq!(
        reply.header("access-control-expose-headers"),
        Some("x-request-id, server-timing, location, retry-after")
    );
    let refused = ask(&routes, request("POST", "/f", &[PAGE], "xx")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (413, Some("https://app.example.com")));
    let stranger = ask(&routes, request("GET", "/f", &[("origin", "https://evil.example")], "")).await;
    assert_eq!(
        (stranger.status, stranger.header("access-control-allow-origin")),
        (200, None),
        "the policy is the route's"
    );
    let plain = ask(&routes, request("GET", "/f", &[], "")).await;
    assert_eq!(plain.header("access-control-allow-origin"), None, "an answer that a cache may give to a page");

    let open = table(&dispatch, json!({ "path": "/f", "cors": { "origins": ["*"], "methods": "GET" } })).await;
    let reply = ask(&open, request("GET", "/f", &[PAGE], "")).await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.headers.get_all("vary").iter().collect::<Vec<_>>(), ["accept"]);
    let asks = ("access-control-request-method", "DELETE");
    let reply = ask(&open, request("OPTIONS", "/f", &[PAGE, asks], "")).await;
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET"));
}
