//! Who asks for a socket, from where, and how often.

use serde_json::json;
use trigger_core::Shed;
use trigger_core::testing::FakeDispatch;
use trigger_http::Trust;

use super::support::{Place, wait_for_events};

#[tokio::test]
async fn every_event_of_a_socket_has_the_callers_address_and_believes_no_stranger() {
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    for (trust, expected) in [(Trust::default(), "127.0.0.1"), (Trust { proxies, ..Trust::default() }, "203.0.113.9")] {
        let (place, dispatch) = (Place::trusting(trust).await, FakeDispatch::echo());
        place.run(&dispatch, json!({ "events": ["connect", "message", "disconnect"] })).await;
        let claims = [("x-forwarded-for", "198.51.100.1, 203.0.113.9")];
        let mut client = place.ask("/live", &claims).await.unwrap();
        client.send("hello").await;
        assert_eq!(client.text().await, "hello");
        drop(client);
        wait_for_events(&dispatch, 3).await;
        for event in dispatch.seen() {
            assert_eq!(event.attribute("client"), Some(expected), "{:?}", event.attribute("event"));
        }
    }
}

#[tokio::test]
async fn who_asks_for_sockets_too_often_is_told_to_come_back() {
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (place, dispatch) = (Place::trusting(Trust { proxies, ..Trust::default() }).await, FakeDispatch::echo());
    let limit = |by| json!({ "requests": 1, "per_seconds": 3600, "by": by });
    place.run_at("/address", &dispatch, json!({ "events": ["connect"], "rate_limit": limit("address") })).await;
    place.run_at("/caller", &dispatch, json!({ "events": ["connect"], "rate_limit": limit("caller") })).await;
    let mut by_header = limit("header");
    by_header["header"] = json!("x-api-key");
    place.run_at("/header", &dispatch, json!({ "events": ["connect"], "rate_limit": by_header })).await;
    for (path, header) in [("/address", "x-forwarded-for"), ("/caller", "x-forwarded-for"), ("/header", "x-api-key")] {
        let before = dispatch.shed().len();
        let ask = async |value: &str| place.ask(path, &[(header, value)]).await.map(drop);
        assert_eq!(ask("203.0.113.1").await, Ok(()), "{path}");
        assert_eq!(ask("203.0.113.1").await, Err((429, "rate_limited".to_owned())), "{path}");
        assert_eq!(ask("203.0.113.2").await, Ok(()), "{path}: another one has its own");
        assert_eq!(dispatch.shed()[before..], [(Shed::RateLimited, 1)], "{path}");
    }
    assert_eq!(dispatch.seen().len(), 6, "no function was asked by the others");
}
