//! WebSocket through tripline beside a bare tungstenite server: an echo over 64 connections, and the memory of sockets
//! that say nothing.
//!
//! See `benches/README.md` for how to run it.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(clippy::disallowed_methods, reason = "neither the bare server nor the load is the engine")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Process, Tripline, free_port, median, spread};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

const FUNCTIONS: &str = r#"
[functions.echo]
module = "GUESTS/echo.component.wasm"
[[functions.echo.triggers]]
type = "websocket"
path = "/echo"

[functions.reused]
module = "GUESTS/echo.component.wasm"
reuse = { max_uses = 1000 }
[[functions.reused.triggers]]
type = "websocket"
path = "/reused"
"#;

const CONNECTIONS: usize = 64;
const BYTES: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("bare") {
        return runtime(true).block_on(bare(arguments[2].parse().expect("a port")));
    }
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let setting =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (rounds, seconds, idle) = (setting("ROUNDS", 5), setting("SECONDS", 2), setting("SOCKETS", 10_000));

    let tripline = Tripline::start("websocket", "http.max_connections = 20000", FUNCTIONS);
    let port = free_port();
    let program = std::env::current_exe().expect("this program");
    let server = Command::new(program).args(["bare", &port.to_string()]).spawn().expect("the bare server starts");
    let server = Process(server);
    let runtime = runtime(false);
    while runtime.block_on(connect(port, "echo")).is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }

    let subjects = [
        ("bare tungstenite", &server, port, "echo"),
        ("tripline → typed component", &tripline.process, tripline.public, "echo"),
        ("tripline → typed component, reused", &tripline.process, tripline.public, "reused"),
    ];
    println!("echo of {BYTES} B over {CONNECTIONS} connections, {rounds} rounds of {seconds} s, interleaved");
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut waits: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for _ in 0..rounds {
        for (index, (_, _, port, path)) in subjects.iter().enumerate() {
            let (rate, wait) = runtime.block_on(load(*port, path, Duration::from_secs(seconds)));
            rates[index].push(rate);
            waits[index].push(wait);
        }
    }
    for (index, (name, ..)) in subjects.iter().enumerate() {
        let ratio = median(rates[index].clone()) / median(rates[0].clone());
        let wait = median(waits[index].clone());
        println!("  {name:36} {:>24} messages/s  p50 {wait:>5.0} µs  {ratio:.2} ×", spread(&rates[index]));
    }

    println!("{idle} sockets that say nothing");
    for (name, process, port, path) in &subjects[..2] {
        let before = process.rss_mib();
        let sockets = runtime.block_on(async {
            let mut sockets = Vec::new();
            for _ in 0..idle {
                sockets.extend(connect(*port, path).await);
            }
            sockets
        });
        let each = (process.rss_mib() - before) * 1024.0 / sockets.len() as f64;
        println!("  {name:36} {:>6} open, {each:.1} KiB each", sockets.len());
    }
}

fn runtime(many: bool) -> Runtime {
    let mut builder = if many { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_all().build().expect("a runtime")
}

/// Small buffers at both ends, as the engine has them.
fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0)
}

async fn connect(port: u16, path: &str) -> Option<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let request = format!("ws://127.0.0.1:{port}/{path}").into_client_request().ok()?;
    let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config())).await;
    opened.ok().map(|(socket, _)| socket)
}

/// Each connection sends a message, waits for its echo, and sends the next. Messages per second, and the median wait in
/// microseconds.
async fn load(port: u16, path: &str, time: Duration) -> (f64, f64) {
    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS {
        sockets.push(connect(port, path).await.expect("a socket"));
    }
    let began = Instant::now();
    let conversations = sockets.into_iter().map(|mut socket| async move {
        let mut waits = Vec::new();
        while began.elapsed() < time {
            let sent = Instant::now();
            socket.send(Message::text("x".repeat(BYTES))).await.expect("it is sent");
            let echo = socket.next().await.expect("an echo").expect("a frame");
            assert_eq!(echo.len(), BYTES);
            waits.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        waits
    });
    let waits = futures_util::future::join_all(conversations).await.concat();
    (waits.len() as f64 / began.elapsed().as_secs_f64(), median(waits))
}

/// What a user would write without an engine.
async fn bare(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config())).await else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}
