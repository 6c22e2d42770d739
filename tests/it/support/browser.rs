//! A real browser without a window, driven by the DevTools protocol (<https://chromedevtools.github.io/devtools-protocol/>).

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::found::{on_path, program};
use super::{eventually, within};

/// A running Chromium with a profile of its own. Killed when dropped.
pub struct Browser {
    process: Process,
    line: WebSocketStream<TcpStream>,
    calls: u64,
}

/// A page in it.
pub struct Tab(String);

struct Process {
    child: Child,
    profile: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is a group of processes.
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn find() -> PathBuf {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome"];
    program(named.into_iter().chain(names.into_iter().flat_map(on_path)))
        .expect("Chromium is not here: apt-get install chromium, run tests/run, which installs it, or set CHROMIUM")
}

impl Process {
    fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(profile.path().join("log")).unwrap();
        let child = Command::new(find())
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, profile }
    }

    /// Where it listens: its port and a path, which it writes down once it does.
    async fn address(&mut self) -> (u16, String) {
        let mut address = None;
        eventually("Chromium to listen", async || {
            let log = self.profile.path().join("log");
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "Chromium ended: {}", std::fs::read_to_string(log).unwrap_or_default());
            let written = std::fs::read_to_string(self.profile.path().join("DevToolsActivePort")).unwrap_or_default();
            address = written.split_once('\n').and_then(|(port, path)| Some((port.parse().ok()?, path.to_owned())));
            address.is_some()
        })
        .await;
        address.expect("it was there just now")
    }
}

impl Browser {
    pub async fn start() -> Self {
        let mut process = Process::start();
        let (port, path) = process.address().await;
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (line, _) = within("Chromium", tokio_tungstenite::client_async(url, stream)).await.unwrap();
        Self { process, line, calls: 0 }
    }

    /// Opens a page.
    pub async fn open(&mut self, url: &str) -> Tab {
        let target = self.call(None, "Target.createTarget", json!({ "url": url })).await["targetId"].clone();
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attach).await;
        Tab(attached["sessionId"].as_str().unwrap().to_owned())
    }

    /// What an expression of JavaScript comes to in a page.
    pub async fn eval(&mut self, tab: &Tab, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call(Some(&tab.0), "Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in a page.
    pub async fn until(&mut self, tab: &Tab, expression: &str) {
        eventually(expression, async || self.eval(tab, expression).await == true).await;
    }

    async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = session {
            call["sessionId"] = session.into();
        }
        self.line.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let Some(Ok(message)) = within(method, self.line.next()).await else {
                panic!("Chromium went away during {method}: {:?}", self.process.child.try_wait());
            };
            // What it tells beside answers is nothing to us.
            let told: Value =
                message.to_text().ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            if told["id"] == self.calls {
                assert!(told["error"].is_null(), "{method}: {told}");
                return told["result"].clone();
            }
        }
    }
}
