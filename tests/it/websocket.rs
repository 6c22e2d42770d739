//! Sockets on a running engine.

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::websocket::{ENVELOPE, chat, open};

const ECHO: &str = r#"
[functions.echo]
module = "echo.wasm"

[[functions.echo.triggers]]
type = "websocket"
path = "/echo/{room}"
max_message_bytes = 1000
"#;

#[tokio::test]
async fn a_component_answers_frames_and_a_new_version_takes_its_sockets_over() {
    let project = Project::new("", ECHO);
    project.guest("echo.component.wasm", "echo.wasm");
    let engine = project.serve().await;
    let mut client = open(&project, "/echo/a", &[]).await.unwrap();
    client.send("hello").await;
    let first = client.text().await;
    assert!(first.contains("hello"), "{first}");

    // Another module, and another definition of the trigger.
    project.guest("steer.component.wat", "echo.wasm");
    project.manifest("", &ECHO.replace("1000", "2000"));
    engine.signal(rustix::process::Signal::HUP);
    eventually("the new version", async || project.admin("/api/v1/functions").await["items"][0]["version"] == 2).await;
    client.send("ok").await;
    let second = client.text().await;
    assert_eq!(project.attempts("echo").await.len(), 2, "{second}");

    let mut large = open(&project, "/echo/b", &[]).await.unwrap();
    large.send(&"x".repeat(2001)).await;
    assert_eq!(large.closed().await, 1009);
    assert_eq!(open(&project, "/echo/b", &[("origin", "https://evil.example")]).await.map(drop), Err(403));
    let shed = |reason: &'static str| {
        let project = &project;
        async move { project.metric("tripline_invocations_total", &["websocket", reason]).await }
    };
    assert_eq!((shed("too_large").await, shed("forbidden").await), (1, 1));
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);

    let stopping = engine.stop();
    let (code, status) = tokio::join!(client.closed(), stopping);
    assert_eq!(code, 1001);
    assert!(status.success());
}

#[tokio::test]
async fn a_private_functions_sockets_are_for_those_who_prove_who_they_are() {
    let private = ECHO.replace("module = \"echo.wasm\"", "module = \"echo.wasm\"\nis_public = false");
    let project = Project::new("", &private);
    project.guest("echo.component.wasm", "echo.wasm");
    let _engine = project.serve().await;
    let made = project.json(&["tokens", "new", "ci", "--function", "echo"]);
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    for (headers, refused) in [(&[][..], 401), (&[("authorization", "Bearer tripline_x.y")][..], 401)] {
        assert_eq!(open(&project, "/echo/a", headers).await.map(drop), Err(refused));
    }
    let mut client = open(&project, "/echo/a", &[("authorization", &token)]).await.unwrap();
    client.send("hello").await;
    assert_eq!(client.text().await, "hello");
    let trace = &project.admin("/api/v1/traces?function=echo&limit=1").await["items"][0];
    assert_eq!(trace["caller"], "token:ci", "{trace}");
    assert_eq!(project.metric("tripline_invocations_total", &["websocket", "unauthenticated"]).await, 2);
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);

    let signed = ECHO.replace("path =", "auth = { type = \"github\", secrets = [\"HOOK\"] }\npath =");
    project.manifest("secrets = { HOOK = { env = \"HOOK\" } }", &signed);
    let output = project.run(&["check"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("a request for a socket has none"), "{output:?}");
}

#[tokio::test]
async fn the_chat_room_talks_announces_refuses_and_goes_on_after_a_break() {
    let project = chat("");
    let engine = project.serve().await;
    assert!(project.get("/").await.text().contains("<title>Chat</title>"));
    assert_eq!(open(&project, "/rooms/lobby", &[]).await.map(drop), Err(403), "a name is needed");
    assert_eq!(project.get("/rooms/lobby").await.status, 405, "this path is for POST, and for sockets");

    let mut ann = open(&project, "/rooms/lobby?name=ann", &[]).await.unwrap();
    assert_eq!(ann.text().await, r#"{"came":"ann"}"#);
    let mut bob = open(&project, "/rooms/lobby?name=bob", &[ENVELOPE]).await.unwrap();
    assert_eq!(ann.text().await, r#"{"came":"bob"}"#);
    let mut other = open(&project, "/rooms/other?name=eve", &[]).await.unwrap();
    assert_eq!(other.text().await, r#"{"came":"eve"}"#);

    ann.send("hello").await;
    assert_eq!(ann.text().await, r#"{"from":"ann","text":"hello"}"#);
    // Another trigger's event reaches the sockets.
    assert_eq!(project.post("/rooms/lobby", "lunch").await.status, 202);
    assert_eq!(ann.text().await, r#"{"announcement":"lunch"}"#);
    let mut told = Vec::new();
    while told.len() < 5 {
        told.push(serde_json::from_str::<serde_json::Value>(&bob.text().await).unwrap());
    }
    let types: Vec<&str> = told.iter().map(|told| told["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["welcome", "joined", "message", "message", "message"]);
    let seq = told[3]["seq"].as_u64().unwrap();
    assert_eq!(told[3]["text"], r#"{"from":"ann","text":"hello"}"#);

    // Bob loses his connection, misses a line, and comes back for it.
    drop(bob);
    let mut back =
        open(&project, &format!("/rooms/lobby?name=bob&resume_from=lobby:{seq}"), &[ENVELOPE]).await.unwrap();
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != r#"{"came":"bob"}"#) {
        let told: serde_json::Value = serde_json::from_str(&back.text().await).unwrap();
        texts.extend(told["text"].as_str().map(str::to_owned));
    }
    assert_eq!(texts, [r#"{"announcement":"lunch"}"#, r#"{"came":"bob"}"#]);
    assert_eq!(project.metric("tripline_ledger_drift", &[]).await, 0);
    engine.kill();
}
