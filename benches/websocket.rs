//! WebSocket through tripline beside a bare tungstenite server: an echo over 64 connections, the memory of sockets that
//! say nothing, and one call whose frame goes to thousands.
//!
//! See `benches/README.md` for how to run it.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(clippy::disallowed_methods, reason = "neither the bare server nor the load is the engine")]

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use support::{Process, Tripline, free_port, median, spread};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
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

[functions.broadcast]
module = "GUESTS/broadcast.component.wasm"
allow = { sockets = ["broadcast"] }
[[functions.broadcast.triggers]]
type = "websocket"
path = "/broadcast"
"#;

const CONNECTIONS: usize = 64;
const BYTES: usize = 128;

/// Files that are open beside sockets.
const OTHER_FILES: u64 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let port = || arguments[2].parse().expect("a port");
    match arguments.get(1).map(String::as_str) {
        Some("bare") => return runtime(true).block_on(bare(port())),
        Some("bare-broadcast") => return runtime(true).block_on(bare_broadcast(port())),
        _ => {}
    }
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let setting =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (setting("ROUNDS", 5), setting("SECONDS", 2));
    let files = raise_open_files();
    let at_most = |sockets: u64, crowds: u64| sockets.min(files.saturating_sub(OTHER_FILES) / crowds) as usize;
    let (idle, hearers) = (at_most(setting("SOCKETS", 10_000), 1), at_most(setting("HEARERS", 5_000), 2));

    let tripline = Tripline::start("websocket", "http.max_connections = 20000", FUNCTIONS);
    let runtime = runtime(false);
    let (server, port) = start_bare("bare", &runtime);

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

    let (server, port) = start_bare("bare-broadcast", &runtime);
    println!("a frame of {BYTES} B to {hearers} connections, {rounds} rounds of {seconds} s, interleaved");
    let subjects = [("bare tungstenite", port), ("tripline → typed component", tripline.public)];
    let mut crowds: Vec<Crowd> =
        subjects.iter().map(|(_, port)| runtime.block_on(Crowd::gather(*port, hearers))).collect();
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for _ in 0..rounds {
        for (index, crowd) in crowds.iter_mut().enumerate() {
            rates[index].push(runtime.block_on(crowd.tell(Duration::from_secs(seconds))));
        }
    }
    for (index, (name, _)) in subjects.iter().enumerate() {
        let ratio = median(rates[index].clone()) / median(rates[0].clone());
        println!("  {name:36} {:>24} deliveries/s  {ratio:.2} ×", spread(&rates[index]));
    }
    drop(server);
}

/// As many as this process and those that it starts may have.
fn raise_open_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _as_it_was = rustix::process::setrlimit(rustix::process::Resource::Nofile, most);
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A bare server of its own, and its port.
fn start_bare(what: &str, runtime: &Runtime) -> (Process, u16) {
    let (program, port) = (std::env::current_exe().expect("this program"), free_port());
    let server = Command::new(program).args([what, &port.to_string()]).spawn().expect("the bare server starts");
    let server = Process(server);
    while runtime.block_on(connect(port, "echo")).is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (server, port)
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

/// Connections that are told the same.
struct Crowd {
    /// The first of them speaks as well.
    speaker: SplitSink<WebSocketStream<TcpStream>, Message>,
    hearers: usize,
    heard: mpsc::UnboundedReceiver<()>,
}

impl Crowd {
    async fn gather(port: u16, hearers: usize) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        let mut speaker = None;
        for _ in 0..hearers {
            let (sink, mut stream) = connect(port, "broadcast").await.expect("a socket").split();
            // The others' halves are kept as well, or their connections would end.
            let own = match speaker {
                None => {
                    speaker = Some(sink);
                    None
                }
                Some(_) => Some(sink),
            };
            let told = told.clone();
            tokio::spawn(async move {
                let _kept = own;
                while let Some(Ok(message)) = stream.next().await {
                    if message.is_text() && told.send(()).is_err() {
                        return;
                    }
                }
            });
        }
        Self { speaker: speaker.expect("somebody speaks"), hearers, heard }
    }

    /// Says something, waits until everybody has heard it, and says the next. Deliveries per second.
    async fn tell(&mut self, time: Duration) -> f64 {
        let (began, mut deliveries) = (Instant::now(), 0);
        while began.elapsed() < time {
            self.speaker.send(Message::text("x".repeat(BYTES))).await.expect("it is sent");
            for _ in 0..self.hearers {
                self.heard.recv().await.expect("everybody is there");
            }
            deliveries += self.hearers;
        }
        deliveries as f64 / began.elapsed().as_secs_f64()
    }
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

/// The same for a broadcast: whatever comes goes to every connection, each of which has a queue and a task.
async fn bare_broadcast(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let everyone: Arc<Mutex<Vec<mpsc::UnboundedSender<Message>>>> = Arc::default();
    while let Ok((stream, _)) = listener.accept().await {
        let everyone = everyone.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config())).await else {
                return;
            };
            let (mut sink, mut stream) = socket.split();
            let (tx, mut rx) = mpsc::unbounded_channel();
            everyone.lock().expect("nobody panics").push(tx);
            loop {
                tokio::select! {
                    message = stream.next() => match message {
                        Some(Ok(message)) if !message.is_close() => {
                            everyone.lock().expect("nobody panics").retain(|one| one.send(message.clone()).is_ok());
                        }
                        _ => return,
                    },
                    Some(message) = rx.recv() => if sink.send(message).await.is_err() { return },
                }
            }
        });
    }
}
