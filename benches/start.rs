//! Start to first answer, and resident memory, beside `wasmtime serve` with the same component.
//!
//! See `benches/README.md` for how to run it and what it needs.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Process, Tripline, find, free_port, get, median, workspace, wrk};

const FUNCTIONS: &str = r#"
[functions.hello]
module = "GUESTS/hello-http.wasm"
[[functions.hello.triggers]]
type = "http"
method = "GET"
path = "/"
"#;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(15);
    // The first start compiles; those that are measured find compiled code.
    let tripline = Tripline::start("start", "", FUNCTIONS);
    let (directory, public) = (tripline.directory.clone(), tripline.public);
    drop(tripline);
    let Some(wasmtime) = find("WASMTIME", "wasmtime") else {
        println!("wasmtime is not installed: nothing to compare with (set WASMTIME or PATH)");
        return;
    };
    let compiled = directory.join("hello.cwasm");
    let guest = workspace().join("tests/guests/hello-http.wasm");
    let done = Command::new(&wasmtime).arg("compile").arg(&guest).arg("-o").arg(&compiled).status();
    assert!(done.is_ok_and(|status| status.success()), "wasmtime compile");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut our_rss, mut their_rss) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (took, process) = first_answer(public, || Tripline::spawn(&directory));
        wrk(&process, &format!("http://127.0.0.1:{public}/"), 8, 1, None);
        ours.push(took);
        our_rss.push(process.rss_mib());
        drop(process);
        let port = free_port();
        let (took, process) = first_answer(port, || serve(&wasmtime, &compiled, port));
        wrk(&process, &format!("http://127.0.0.1:{port}/"), 8, 1, None);
        theirs.push(took);
        their_rss.push(process.rss_mib());
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("start to first answer, compiled code at hand, median of {rounds}");
    println!(
        "  tripline {ours:.1} ms   wasmtime serve --allow-precompiled {theirs:.1} ms   ratio {:.2}",
        ours / theirs
    );
    let (ours, theirs) = (median(our_rss), median(their_rss));
    println!("resident memory after a second of 8 connections, median");
    println!("  tripline {ours:.1} MiB   wasmtime serve {theirs:.1} MiB   ratio {:.2}", ours / theirs);
}

fn first_answer(port: u16, start: impl FnOnce() -> Process) -> (f64, Process) {
    let began = Instant::now();
    let process = start();
    while get(&format!("http://127.0.0.1:{port}/")).is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "no answer on port {port}");
        std::thread::sleep(Duration::from_micros(200));
    }
    (began.elapsed().as_secs_f64() * 1e3, process)
}

fn serve(wasmtime: &Path, compiled: &Path, port: u16) -> Process {
    let child = Command::new(wasmtime)
        .args(["serve", "--allow-precompiled", "--addr", &format!("127.0.0.1:{port}")])
        .arg(compiled)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("wasmtime serve starts");
    Process(child)
}
