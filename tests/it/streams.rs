//! Routes whose bodies stream, over real sockets: what is sent arrives while the function runs, in both directions.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::engine::{Engine, Project};
use crate::support::eventually;

const FUNCTIONS: &str = r#"
[functions.stream]
module = "stream.wasm"
timeout_seconds = 60
max_output_bytes = 1000
[[functions.stream.triggers]]
type = "http"
path = "/{*all}"
mode = "stream"
max_body_bytes = 60000000
"#;

fn project() -> Project {
    let project = Project::new("", FUNCTIONS);
    project.guest("stream.wasm", "stream.wasm");
    project
}

/// A connection that one request is sent on.
struct Connection(TcpStream);

impl Connection {
    async fn send(project: &Project, head: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", project.public)).await.unwrap();
        let request = format!("{head}\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn chunk(&mut self, text: &[u8]) {
        let mut chunk = format!("{:x}\r\n", text.len()).into_bytes();
        chunk.extend_from_slice(text);
        chunk.extend_from_slice(b"\r\n");
        self.0.write_all(&chunk).await.unwrap();
    }

    /// Reads until this has come.
    async fn until(&mut self, wanted: &str) -> String {
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains(wanted) {
            let mut piece = [0; 1024];
            let read = tokio::time::timeout(Duration::from_secs(30), self.0.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", String::from_utf8_lossy(&got))).unwrap();
            assert_ne!(read, 0, "no {wanted:?} in {:?}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&piece[..read]);
        }
        String::from_utf8_lossy(&got).into_owned()
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
        rest
    }
}

/// Memory of the engine that is its own, in KiB.
fn memory_kib(engine: &Engine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The outcome and the failure's code of the newest attempt.
async fn newest(project: &Project) -> (String, String) {
    let traces = project.admin("/api/v1/traces?function=stream&limit=1").await;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let trace = &traces["items"][0];
    (word(&trace["outcome"]), word(&trace["failure"]["code"]))
}

async fn ends_as(project: &Project, outcome: &str, code: &str) {
    eventually("the attempt to end", async || newest(project).await == (outcome.to_owned(), code.to_owned())).await;
}

#[tokio::test]
async fn each_piece_is_sent_back_before_the_next_one_is_there() {
    let project = project();
    let _engine = project.serve().await;
    let mut connection = Connection::send(&project, "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked").await;
    for word in ["one", "two", "three"] {
        connection.chunk(word.as_bytes()).await;
        connection.until(word).await;
    }
    connection.chunk(b"").await;
    connection.until("0\r\n\r\n").await;
    ends_as(&project, "ok", "").await;
}

#[tokio::test]
async fn events_arrive_as_they_are_sent_and_a_caller_that_leaves_ends_them() {
    let project = project();
    let _engine = project.serve().await;
    let mut connection = Connection::send(&project, "GET /ticks?1000000 HTTP/1.1").await;
    let head = connection.until("data: 0\n\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("transfer-encoding: chunked"), "{head}");
    connection.until("data: 2\n\n").await;
    drop(connection);
    ends_as(&project, "cancelled", "").await;
}

#[tokio::test]
async fn more_is_sent_and_taken_than_is_ever_held() {
    let project = project();
    let engine = project.serve().await;
    // Compiles and warms.
    Connection::send(&project, "GET /download?70000 HTTP/1.1").await.rest().await;
    let before = memory_kib(&engine);
    const BYTES: usize = 50_000_000;
    let mut connection = Connection::send(&project, &format!("GET /download?{BYTES} HTTP/1.1")).await;
    let sent = connection.rest().await;
    assert!(sent.len() > BYTES && sent.ends_with(b"\r\n0\r\n\r\n"), "{}", sent.len());
    let head = format!("POST /upload HTTP/1.1\r\nContent-Length: {BYTES}");
    let mut connection = Connection::send(&project, &head).await;
    for _ in 0..BYTES / 1_000_000 {
        connection.0.write_all(&vec![b'y'; 1_000_000]).await.unwrap();
    }
    connection.until(&BYTES.to_string()).await;
    let grown = memory_kib(&engine).saturating_sub(before);
    assert!(grown <= 4 << 10, "100 MB were streamed and {grown} KiB of them held");
}

#[tokio::test]
async fn what_breaks_off_is_seen_to_break_off() {
    let project = project();
    let _engine = project.serve().await;
    for (path, code) in [("/breaks", "trap"), ("/unfinished", "bad_output")] {
        let mut connection = Connection::send(&project, &format!("GET {path} HTTP/1.1")).await;
        let sent = String::from_utf8(connection.rest().await).unwrap();
        assert!(sent.contains("begun") || sent.starts_with("HTTP/1.1 500 "), "{path}: {sent}");
        assert!(!sent.contains("begun") || !sent.ends_with("0\r\n\r\n"), "{path}: {sent}");
        ends_as(&project, "failed", code).await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_sent_and_cut_while_it_is() {
    let project = project();
    let _engine = project.serve().await;
    let mut told = Connection::send(&project, "POST /upload HTTP/1.1\r\nContent-Length: 60000001").await;
    told.until("HTTP/1.1 413 ").await;
    let mut untold = Connection::send(&project, "POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked").await;
    let piece = vec![b'y'; 1_000_000];
    let sending = async {
        for _ in 0..61 {
            let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
            chunk.extend_from_slice(&piece);
            chunk.extend_from_slice(b"\r\n");
            if untold.0.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), sending).await.expect("it is read or refused");
    ends_as(&project, "failed", "trap").await;
}

#[tokio::test]
async fn only_guests_with_streams_are_given_them() {
    let functions = FUNCTIONS.replace("stream.wasm", "echo.wasm");
    let project = Project::new("", &functions);
    project.guest("echo.component.wasm", "echo.wasm");
    let output = project.run(&["check"]);
    assert!(!output.status.success());
    let refused = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(refused.contains("stream, which takes a wasi:http component and not a component"), "{refused}");
}
