//! A function is replaced a hundred times while events of every kind arrive, and none of them notices.

use std::cell::Cell;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::Message;

use crate::support::engine::{Project, workspace};
use crate::support::{eventually, within};

const SWAPS: u64 = 100;

fn functions(swap: u64) -> String {
    format!(
        r#"
[functions.busy]
module = "busy.wasm"
retry_count = 2
retry_delay_seconds = 0.05
env_vars = {{ SWAP = "{swap}" }}
triggers = [
    {{ type = "http", method = "POST", path = "/busy" }},
    {{ type = "websocket", path = "/socket" }},
    {{ type = "pubsub", subject = "busy" }},
    {{ type = "job", queue = "busy" }},
    {{ type = "timer", timers = "busy" }},
    {{ type = "cron", schedule = "@every 1s" }},
]
"#
    )
}

/// The steering guest, with a mark that makes its bytes others each time.
fn module(swap: u64) -> String {
    let source = std::fs::read_to_string(workspace().join("tests/guests/steer.wat")).unwrap();
    let end = source.rfind(')').unwrap();
    format!("{}\n  (data (i32.const 512) \"swap {swap}\"))", &source[..end])
}

#[tokio::test]
async fn a_hundred_swaps_under_load_are_noticed_by_nobody() {
    let project = Project::new("", &functions(0));
    project.wat(&module(0), "busy.wasm");
    let engine = project.serve().await;
    let swapped = Cell::new(false);
    let going = || !swapped.get();

    let swap = async {
        for swap in 1..=SWAPS {
            project.wat(&module(swap), "busy.wasm");
            project.manifest("", &functions(swap));
            let reloaded = project.post_admin("/api/v1/reload", "").await;
            assert_eq!(reloaded.status, StatusCode::OK, "{}", reloaded.text());
        }
        swapped.set(true);
    };
    let requests = async {
        let mut sent = 0_u64;
        while going() {
            let answer = project.post("/busy", format!("request {sent}")).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, format!("request {sent}")));
            sent += 1;
        }
        sent
    };
    let frames = async {
        let url = format!("ws://127.0.0.1:{}/socket", project.public);
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", project.public)).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut sent = 0_u64;
        while going() {
            socket.send(Message::text(format!("words {sent}"))).await.unwrap();
            let echoed = within("an echo", socket.next()).await.unwrap().unwrap();
            assert_eq!(echoed.into_data(), format!("words {sent}"), "one socket, over every swap");
            sent += 1;
        }
        sent
    };
    let queued = async {
        let mut sent = 0_u64;
        while going() {
            // A job that fails at each attempt, one that does not, a message and a timer.
            for payload in ["fail", "job"] {
                let job = format!(r#"{{"payload": "{payload}"}}"#);
                assert_eq!(project.post_admin("/api/v1/jobs/busy", &job).await.status, StatusCode::ACCEPTED);
            }
            let message = r#"{"subject": "busy", "payload": "news"}"#;
            assert!(project.post_admin("/api/v1/publish", message).await.status.is_success());
            let url = format!("http://127.0.0.1:{}/api/v1/timers/busy/{sent}", project.admin);
            let json = [("content-type", "application/json")];
            let set = project.send(Method::PUT, &url, &json, r#"{"delay_seconds": 0.1}"#).await;
            assert!(set.status.is_success(), "{}", set.text());
            sent += 1;
        }
        sent
    };
    let ((), requests, frames, queued) = tokio::join!(swap, requests, frames, queued);
    assert!(requests > 0 && frames > 0 && queued > 0);

    let count = async |kind: &str, outcome: &str| {
        let parts = [format!("kind=\"{kind}\""), format!("outcome=\"{outcome}\"")];
        project.metric("tripline_invocations_total", &[&parts[0], &parts[1]]).await
    };
    eventually("everything to end", async || {
        count("job", "ok").await == queued
            && count("job", "dead").await == queued
            && count("pubsub", "ok").await == queued
            && count("timer", "ok").await == queued
    })
    .await;
    assert_eq!((count("http", "ok").await, count("websocket", "ok").await), (requests, frames));
    for kind in ["http", "websocket", "pubsub", "job", "timer", "cron"] {
        for outcome in ["failed", "shed", "cancelled"] {
            assert_eq!(count(kind, outcome).await, 0, "{kind} {outcome}");
        }
    }
    assert_eq!(project.admin("/api/v1/functions").await["items"][0]["version"], SWAPS + 1);
    let dead = project.admin("/api/v1/dead-letters?limit=1000").await;
    for letter in dead["items"].as_array().unwrap() {
        let shown = project.admin(&format!("/api/v1/dead-letters/{}", letter["invocation_id"].as_str().unwrap())).await;
        let attempts = shown["data"]["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3, "{shown}");
        assert!(attempts.iter().all(|attempt| attempt["version"] == attempts[0]["version"]), "{shown}");
    }
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    assert!(engine.stop().await.success());
}
