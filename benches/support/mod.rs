//! What the whole-process benchmarks share: a tripline with a project of its own, a load generator, figures.

#![allow(unreachable_pub, reason = "shared by programs that each use a part")]
#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

pub mod in_process;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the engine's binary allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port()
}

/// The directory of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A process that is killed when it goes out of scope.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// User and system time so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Resident memory, in MiB.
    pub fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
    }
}

/// A running tripline.
pub struct Tripline {
    pub process: Process,
    pub public: u16,
    pub admin: u16,
    pub directory: PathBuf,
}

impl Tripline {
    /// Starts one with these functions (manifest text below `[functions.*]`; `GUESTS` stands for `tests/guests`).
    pub fn start(name: &str, engine: &str, functions: &str) -> Self {
        let directory = workspace().join("target/bench").join(name);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("a directory for the project");
        let (public, admin) = (free_port(), free_port());
        let guests = workspace().join("tests/guests");
        let functions = functions.replace("GUESTS", &guests.display().to_string());
        let manifest = format!(
            "[engine]\nlisten = \"127.0.0.1:{public}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n{engine}\n{functions}\n"
        );
        std::fs::write(directory.join("tripline.toml"), manifest).expect("the manifest is written");
        let process = Self::spawn(&directory);
        let tripline = Self { process, public, admin, directory };
        tripline.wait_until_ready();
        tripline
    }

    /// Starts the process of a project.
    pub fn spawn(directory: &Path) -> Process {
        let child = Command::new(env!("CARGO_BIN_EXE_tripline"))
            .args(["serve", "--log", "error"])
            .arg(directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("tripline starts");
        Process(child)
    }

    fn wait_until_ready(&self) {
        wait_for(&format!("http://127.0.0.1:{}/health/ready", self.admin));
    }

    /// A metric's samples, summed over those whose line contains `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        let text = get(&format!("http://127.0.0.1:{}/metrics", self.admin)).unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains(part))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// The body of a GET, by a plain socket.
pub fn get(url: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let mut stream = std::net::TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Waits until a URL answers 200.
pub fn wait_for(url: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(url).is_none() {
        assert!(Instant::now() < deadline, "{url} does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a run of `wrk` measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub requests_per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    /// CPU of the server for each request, in µs.
    pub cpu_micros: f64,
}

/// Loads a URL with `wrk` (Debian: `apt-get install wrk`); with a body, by POST.
pub fn wrk(server: &Process, url: &str, connections: u32, seconds: u32, body: Option<usize>) -> Load {
    let script = workspace().join("target/bench/post.lua");
    let post = body.map_or(String::new(), |size| {
        format!(
            "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {size})\n\
             wrk.headers[\"content-type\"] = \"application/octet-stream\"\n"
        )
    });
    std::fs::write(&script, post).expect("the script is written");
    let before = server.cpu_seconds();
    let output = Command::new("wrk")
        .args(["-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .arg("-s")
        .arg(&script)
        .arg(url)
        .output()
        .expect("wrk runs: apt-get install wrk");
    let cpu = server.cpu_seconds() - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{url} answered errors:\n{text}");
    let field = |prefix: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(prefix));
        line.and_then(|line| line.split_whitespace().nth(1).map(str::to_owned)).unwrap_or_default()
    };
    let requests: f64 = text
        .lines()
        .find(|line| line.contains("requests in"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    Load {
        requests_per_second: field("Requests/sec:").parse().unwrap_or_default(),
        p50_micros: micros(&field("50%")),
        p99_micros: micros(&field("99%")),
        cpu_micros: cpu * 1e6 / requests.max(1.0),
    }
}

fn micros(text: &str) -> f64 {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().unwrap_or_default() * factor;
        }
    }
    0.0
}

/// The middle of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// `median (min..max)`.
pub fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.0} ({least:.0}..{most:.0})", median(figures.to_vec()))
}

/// A program from an environment variable, from PATH, or nowhere.
pub fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Reads a child's first line.
pub fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.take().expect("standard output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("a first line");
    line.trim().to_owned()
}
