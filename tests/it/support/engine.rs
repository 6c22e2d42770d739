//! The real binary with a project of its own, seen from outside.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::found::free_ports;

/// A project directory: a manifest and modules.
pub struct Project {
    directory: tempfile::TempDir,
    /// The public port.
    pub public: u16,
    /// The admin port.
    pub admin: u16,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// The directory of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Project {
    /// A project with this manifest below an `[engine]` section that names free ports. `engine` adds keys to it.
    pub fn new(engine: &str, functions: &str) -> Self {
        let [public, admin] = free_ports();
        let project = Self { directory: tempfile::tempdir().unwrap(), public, admin };
        project.manifest(engine, functions);
        project
    }

    /// Writes the manifest anew.
    pub fn manifest(&self, engine: &str, functions: &str) {
        let (public, admin) = (self.public, self.admin);
        let text = format!(
            "[engine]\nlisten = \"127.0.0.1:{public}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n{engine}\n\n{functions}"
        );
        // Renamed into place, as editors do.
        let path = self.path("tripline.toml");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Puts a module of `tests/guests` into the project: a `.wasm` as it is, a `.wat` compiled.
    pub fn guest(&self, source: &str, name: &str) {
        let source = workspace().join("tests/guests").join(source);
        let bytes = wat::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let path = self.path(name);
        std::fs::write(path.with_extension("new"), bytes).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Puts a module written here into the project.
    pub fn wat(&self, text: &str, name: &str) {
        let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = self.path(name);
        std::fs::write(path.with_extension("new"), bytes).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The binary with these arguments, in the project's directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tripline"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("TRIPLINE_ADMIN", format!("http://127.0.0.1:{}", self.admin))
            .env_remove("TRIPLINE_LOG")
            .env_remove("TRIPLINE_LOG_FORMAT");
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb that must succeed, and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a verb and reads its JSON, however it ended.
    pub fn json_of(&self, arguments: &[&str]) -> Value {
        let output = self.run(&arguments.iter().copied().chain(["--json"]).collect::<Vec<_>>());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts `tripline serve` and waits until it is ready.
    pub async fn serve(&self) -> Engine {
        self.start("serve").await
    }

    /// Starts a verb that runs the engine and waits until it is ready.
    pub async fn start(&self, verb: &str) -> Engine {
        self.start_with(&[verb]).await
    }

    /// The same with options.
    pub async fn start_with(&self, arguments: &[&str]) -> Engine {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let out = std::fs::File::options().create(true).append(true).open(self.path("out")).unwrap();
        let child = self.command(arguments).stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap();
        let mut engine = Engine { child, log: self.path("log") };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = engine.child.try_wait().unwrap() {
                panic!("the engine ended with {status}: {}", engine.log());
            }
            if let Ok(answer) = self.try_admin("/health/ready").await
                && answer.status == StatusCode::OK
            {
                return engine;
            }
            assert!(Instant::now() < deadline, "the engine is not ready: {}", engine.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn try_admin(&self, path: &str) -> Result<Answer, hyper_util::client::legacy::Error> {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        call(Request::get(url).body(Full::default()).unwrap()).await
    }

    /// Sends JSON to the admin API.
    pub async fn post_admin(&self, path: &str, body: &str) -> Answer {
        let request = Request::post(format!("http://127.0.0.1:{}{path}", self.admin));
        let request = request.header("content-type", "application/json");
        call(request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await.unwrap()
    }

    /// Reads the admin API.
    pub async fn admin(&self, path: &str) -> Value {
        self.try_admin(path).await.unwrap().json()
    }

    /// A metric's samples, summed over those whose line contains every part.
    pub async fn metric(&self, name: &str, parts: &[&str]) -> u64 {
        let text = self.try_admin("/metrics").await.unwrap().text();
        text.lines()
            .filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Sends a request to the public listener.
    pub async fn http(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.send(method, &format!("http://127.0.0.1:{}{path}", self.public), headers, body).await
    }

    /// Sends a request to whichever listener.
    pub async fn send(&self, method: Method, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        call(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.http(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.http(Method::POST, path, &[], body).await
    }

    /// The same where the engine may die before it answers: `None` then.
    pub async fn try_post(&self, path: &str, body: impl Into<Bytes>) -> Option<Answer> {
        let url = format!("http://127.0.0.1:{}{path}", self.public);
        call(Request::post(url).body(Full::new(body.into())).unwrap()).await.ok()
    }

    /// The attempts of a function so far, oldest first: number and outcome.
    pub async fn attempts(&self, function: &str) -> Vec<(u64, String)> {
        let traces = self.admin(&format!("/api/v1/traces?function={function}&limit=1000")).await;
        let mut attempts: Vec<(u64, String)> = traces["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["attempt"].as_u64().unwrap(), row["outcome"].as_str().unwrap().to_owned()))
            .collect();
        attempts.reverse();
        attempts
    }
}

/// Sends JSON to an admin API that may be away; `None` then.
pub async fn try_post(admin: u16, path: &str, body: &str) -> Option<Answer> {
    let request = Request::post(format!("http://127.0.0.1:{admin}{path}")).header("content-type", "application/json");
    call(request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await.ok()
}

async fn call(request: Request<Full<Bytes>>) -> Result<Answer, hyper_util::client::legacy::Error> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// A running engine. Killed when dropped.
pub struct Engine {
    child: Child,
    log: PathBuf,
}

impl Engine {
    /// What it logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait().await
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the engine does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
