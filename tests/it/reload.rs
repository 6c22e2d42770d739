//! A changed manifest or module serves without a dropped connection, and what is under way ends on its version.

use std::io::{Read as _, Write as _};

use http::StatusCode;

use crate::support::engine::Project;
use crate::support::eventually;

fn functions(answer: &str) -> String {
    format!(
        r#"
[functions.greet]
module = "greet.wasm"
env_vars = {{ ANSWER = "{answer}" }}
[[functions.greet.triggers]]
type = "http"
path = "/greet"
"#
    )
}

/// A command that says these words.
fn says(words: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 100) "{words}")
          (func (export "_start")
            (i32.store (i32.const 0) (i32.const 100))
            (i32.store (i32.const 4) (i32.const {}))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        words.len()
    )
}

/// One connection, kept open.
struct Connection(std::net::TcpStream);

impl Connection {
    fn open(project: &Project) -> Self {
        let stream = std::net::TcpStream::connect(("127.0.0.1", project.public)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        Self(stream)
    }

    fn get(&mut self, path: &str) -> String {
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("the connection was dropped");
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

#[tokio::test]
async fn dev_serves_a_saved_module_on_the_same_connection() {
    let project = Project::new("", &functions("x"));
    project.wat(&says("one"), "greet.wasm");
    let _engine = project.start("dev").await;
    let mut connection = Connection::open(&project);
    assert_eq!(connection.get("/greet"), "one");
    project.wat(&says("two"), "greet.wasm");
    eventually("the new module", async || connection.get("/greet") == "two").await;
    let versions = project.json(&["versions", "greet"]);
    let numbers: Vec<u64> =
        versions["items"].as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 1]);

    // A manifest with a mistake changes nothing; the next good one does.
    project.manifest("", &functions("x").replace("path", "pth"));
    eventually("the mistake to be told", async || {
        std::fs::read_to_string(project.path("log")).unwrap().contains("pth")
    })
    .await;
    assert_eq!(connection.get("/greet"), "two");
    project.manifest("", &functions("x").replace("/greet", "/hello"));
    eventually("the new route", async || project.get("/hello").await.status == StatusCode::OK).await;
    assert_eq!(project.get("/greet").await.status, StatusCode::NOT_FOUND);
    assert_eq!(connection.get("/hello"), "two");
}

#[tokio::test]
async fn serve_takes_a_change_in_when_told_and_an_unchanged_manifest_makes_no_version() {
    let project = Project::new("", &functions("one"));
    project.wat(&says("same"), "greet.wasm");
    let engine = project.serve().await;
    let reloaded = project.json(&["reload"]);
    assert_eq!(reloaded["functions"][0], serde_json::json!(["greet", 1, false]));
    project.manifest("", &functions("two"));
    let reloaded = project.json(&["reload"]);
    assert_eq!(reloaded["functions"][0], serde_json::json!(["greet", 2, true]), "the definition is part of a version");
    project.manifest("", &functions("three"));
    engine.signal(rustix::process::Signal::HUP);
    eventually("SIGHUP to be taken", async || {
        project.json(&["functions"])["items"][0]["version"] == serde_json::json!(3)
    })
    .await;
    engine.kill();
    let _engine = project.serve().await;
    assert_eq!(project.json(&["functions"])["items"][0]["version"], 3, "versions survive a restart");

    project.manifest("", &functions("three").replace("\"greet.wasm\"", "\"gone.wasm\""));
    let output = project.run(&["reload"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("gone.wasm"));
    assert_eq!(project.get("/greet").await.text(), "same");
}

#[tokio::test]
async fn an_attempt_ends_on_the_version_that_it_began_with() {
    let slow = |words: &str| {
        says(words)
            .replace(
                "(memory",
                r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
                (memory"#,
            )
            .replace(
                r#"(func (export "_start")"#,
                r#"(func (export "_start")
                (i32.store (i32.const 216) (i32.const 1))
                (i64.store (i32.const 224) (i64.const 1500000000))
                (drop (call $poll (i32.const 200) (i32.const 304) (i32.const 1) (i32.const 400)))"#,
            )
    };
    let project = Project::new("", &functions("x"));
    project.wat(&slow("old"), "greet.wasm");
    let _engine = project.serve().await;
    let (answer, ()) = tokio::join!(project.get("/greet"), async {
        eventually("the attempt", async || project.metric("tripline_attempts_running", &[]).await == 1).await;
        project.wat(&says("new"), "greet.wasm");
        project.json(&["reload"]);
        assert_eq!(project.get("/greet").await.text(), "new", "new events run on the new version at once");
    });
    assert_eq!(answer.text(), "old");
}
