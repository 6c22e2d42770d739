//! A real NATS server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::workspace;
use super::found::{on_path, program};

/// A NATS server with data of its own. Killed when dropped.
pub struct Server {
    url: String,
    /// None for a server that somebody else runs.
    own: Option<Own>,
}

struct Own {
    child: Child,
    data: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
}

fn find() -> PathBuf {
    let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let installed = workspace().join(".ci/venv/bin/nats-server");
    program(named.into_iter().chain([installed]).chain(on_path("nats-server")))
        .expect("nats-server is not here: run tests/run, which installs it, or set NATS_SERVER to the program")
}

impl Server {
    /// A server on a free port, with or without JetStream.
    pub fn own(jetstream: bool) -> Self {
        Self::with(jetstream, &[])
    }

    /// A server with further arguments.
    pub fn with(jetstream: bool, arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut all: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if jetstream {
            all.extend(["-js".to_owned(), "-sd".to_owned(), data.path().join("js").display().to_string()]);
        }
        // The server chooses the port and writes it down: nobody can take it in between.
        let mut child = start(&all, data.path(), "-1");
        let ports = data.path().join(format!("nats-server_{}.ports", child.id()));
        let port = wait_for_port(&ports, &mut child, data.path());
        Self { url: format!("nats://127.0.0.1:{port}"), own: Some(Own { child, data, port, arguments: all }) }
    }

    /// The server that `TEST_NATS_URL` names, with JetStream, or one of its own. Its subjects are not this test's alone.
    pub fn shared() -> Self {
        match std::env::var("TEST_NATS_URL") {
            Ok(url) => Self { url, own: None },
            Err(_) => Self::own(true),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let own = self.own.as_mut().expect("a server that somebody else runs is not killed");
        own.child.kill().unwrap();
        own.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let own = self.own.as_ref().expect("a server that somebody else runs gets no signals");
        rustix::process::kill_process(rustix::process::Pid::from_child(&own.child), signal).unwrap();
    }

    /// Starts it again on the same port with the same data, and waits until it listens.
    pub fn restart(&mut self) {
        let own = self.own.as_mut().expect("a server that somebody else runs is not restarted");
        let _ = own.child.kill();
        let _ = own.child.wait();
        own.child = start(&own.arguments, own.data.path(), &own.port.to_string());
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", own.port)).is_err() {
            assert!(own.child.try_wait().unwrap().is_none(), "nats-server ended: {}", log(own.data.path()));
            assert!(Instant::now() < deadline, "nats-server does not listen: {}", log(own.data.path()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn start(arguments: &[String], data: &Path, port: &str) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(data.join("log")).unwrap();
    Command::new(find())
        .args(["-a", "127.0.0.1", "-p", port, "--ports_file_dir"])
        .arg(data)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log(data: &Path) -> String {
    std::fs::read_to_string(data.join("log")).unwrap_or_default()
}

fn wait_for_port(file: &Path, child: &mut Child, data: &Path) -> u16 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let written: Option<serde_json::Value> =
            std::fs::read_to_string(file).ok().and_then(|text| serde_json::from_str(&text).ok());
        let url = written.as_ref().and_then(|ports| ports["nats"][0].as_str());
        if let Some(port) = url.and_then(|url| url.rsplit(':').next()).and_then(|port| port.parse().ok()) {
            return port;
        }
        assert!(child.try_wait().unwrap().is_none(), "nats-server ended: {}", log(data));
        assert!(Instant::now() < deadline, "nats-server does not listen: {}", log(data));
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            let _ = own.child.kill();
            let _ = own.child.wait();
        }
    }
}
