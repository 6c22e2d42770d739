//! HTTP through tripline beside bare axum and `wasmtime serve`: one load generator, one run, interleaved.
//!
//! See `benches/README.md` for how to run it and what it needs.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(clippy::disallowed_methods, reason = "the bare server is not the engine")]

mod support;

use std::process::{Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use support::{Load, Process, Tripline, find, free_port, median, spread, wait_for, workspace, wrk};

const FUNCTIONS: &str = r#"
[functions.echo]
module = "GUESTS/echo.component.wasm"
[[functions.echo.triggers]]
type = "http"
method = "POST"
path = "/echo"

[functions.hello]
module = "GUESTS/hello-http.wasm"
[[functions.hello.triggers]]
type = "http"
method = "GET"
path = "/"

[functions.echo-reused]
module = "GUESTS/echo.component.wasm"
reuse = { max_uses = 1000 }
[[functions.echo-reused.triggers]]
type = "http"
method = "POST"
path = "/echo-reused"

[functions.hello-reused]
module = "GUESTS/hello-http.wasm"
reuse = { max_uses = 1000 }
[[functions.hello-reused.triggers]]
type = "http"
method = "GET"
path = "/reused"
"#;

/// The options that `wasmtime serve` needs to be as quick as it can be with a fresh instance for every request.
const TUNED: &[&str] = &[
    "-O",
    "pooling-allocator=y",
    "-O",
    "pooling-pagemap-scan=y",
    "-O",
    "pooling-memory-keep-resident=262144",
    "-O",
    "pooling-table-keep-resident=65536",
    "-W",
    "timeout=10s",
];

/// The same, but for an instance that serves as many requests as the engine's here.
const REUSED: &[&str] = &["--max-instance-reuse-count", "1000"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("bare-axum") {
        return bare_axum(arguments[2].parse().expect("a port"));
    }
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let setting =
        |name: &str, default: u32| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (setting("ROUNDS", 5), setting("SECONDS", 2));

    let tripline = Tripline::start("http", "", FUNCTIONS);
    let axum_port = free_port();
    let axum = Process(
        Command::new(std::env::current_exe().expect("this program"))
            .args(["bare-axum", &axum_port.to_string()])
            .spawn()
            .expect("the bare server starts"),
    );
    wait_for(&format!("http://127.0.0.1:{axum_port}/"));
    let wasmtime = find("WASMTIME", "wasmtime");
    let serve = |options: &[&str]| {
        let wasmtime = wasmtime.as_ref()?;
        let port = free_port();
        let child = Command::new(wasmtime)
            .args(["serve", "--addr", &format!("127.0.0.1:{port}")])
            .args(options)
            .arg(workspace().join("tests/guests/hello-http.wasm"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wasmtime serve starts");
        wait_for(&format!("http://127.0.0.1:{port}/"));
        Some((Process(child), port))
    };
    let peers = [serve(&[]), serve(TUNED), serve(REUSED)];
    if peers[0].is_none() {
        println!("wasmtime is not installed: no comparison with `wasmtime serve` (set WASMTIME or PATH)");
    }

    let axum_url = |path: &str| format!("http://127.0.0.1:{axum_port}/{path}");
    let our_url = |path: &str| format!("http://127.0.0.1:{}/{path}", tripline.public);
    let mut subjects: Vec<(&str, &Process, String, Option<usize>)> = vec![
        ("bare axum echo, POST 256 B", &axum, axum_url("echo"), Some(256)),
        ("tripline → typed component, POST 256 B", &tripline.process, our_url("echo"), Some(256)),
        ("tripline → typed component, reused", &tripline.process, our_url("echo-reused"), Some(256)),
        ("bare axum hello", &axum, axum_url(""), None),
        ("tripline → wasi:http hello", &tripline.process, our_url(""), None),
        ("tripline → wasi:http hello, reused", &tripline.process, our_url("reused"), None),
    ];
    let names = ["wasmtime serve, defaults", "wasmtime serve, tuned", "wasmtime serve, reused"];
    for (name, peer) in names.into_iter().zip(&peers) {
        if let Some((process, port)) = peer {
            subjects.push((name, process, format!("http://127.0.0.1:{port}/"), None));
        }
    }
    for connections in [64, 2] {
        println!("\n{connections} connections, {rounds} rounds of {seconds} s, interleaved; median (min..max)");
        let mut loads: Vec<Vec<Load>> = vec![Vec::new(); subjects.len()];
        for _ in 0..rounds {
            for (results, (_, process, url, body)) in loads.iter_mut().zip(&subjects) {
                results.push(wrk(process, url, connections, seconds, *body));
            }
        }
        let rate = |index: usize| median(loads[index].iter().map(|load| load.requests_per_second).collect());
        for ((name, process, _, _), results) in subjects.iter().zip(&loads) {
            let rates: Vec<f64> = results.iter().map(|load| load.requests_per_second).collect();
            let of = |pick: fn(&Load) -> f64| median(results.iter().map(pick).collect());
            println!(
                "  {name:40} {:>24} rps  p50 {:>6.0} µs  p99 {:>6.0} µs  cpu {:>5.1} µs/req  rss {:.1} MiB",
                spread(&rates),
                of(|load| load.p50_micros),
                of(|load| load.p99_micros),
                of(|load| load.cpu_micros),
                process.rss_mib(),
            );
        }
        let mut ratios = vec![("typed component / axum echo", 1, 0), ("typed component, reused / axum echo", 2, 0)];
        if subjects.len() > 6 {
            ratios.push(("wasi:http / wasmtime serve, defaults", 4, 6));
            ratios.push(("wasi:http / wasmtime serve, tuned", 4, 7));
            ratios.push(("wasi:http, reused / wasmtime serve, reused", 5, 8));
        }
        for (name, ours, theirs) in ratios {
            println!("  {name:44} {:.2}", rate(ours) / rate(theirs));
        }
    }
}

/// What a user would write without an engine.
fn bare_axum(port: u16) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let router = Router::new()
            .route("/", get(|| async { "hello\n" }))
            .route("/echo", post(|body: Bytes| async move { body }));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        axum::serve(listener, router).await.expect("the server runs");
    });
}
