//! A real PostgreSQL server, for what keeps its state there. The library's own tests use this file as well.

#![allow(dead_code, reason = "stories and the library's tests use different parts of it")]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::found::{free_port, on_path, program};

/// Whom the server runs as where the tests run as root, which PostgreSQL refuses.
const NOBODY: u32 = 65_534;

/// A PostgreSQL server. One with data of its own is killed when dropped.
pub struct Server {
    url: String,
    /// None for a server that somebody else runs.
    own: Option<Own>,
}

struct Own {
    child: Child,
    data: tempfile::TempDir,
    port: u16,
}

/// A program of PostgreSQL's.
fn find(name: &str) -> PathBuf {
    let named = std::env::var_os("PG_BIN").map(|directory| PathBuf::from(directory).join(name));
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .collect();
    installed.sort();
    program(named.into_iter().chain(installed.into_iter().rev()).chain(on_path(name))).unwrap_or_else(|| {
        panic!("{name} is not here: run tests/run, which installs PostgreSQL, or set PG_BIN to its bin directory")
    })
}

fn command(name: &str) -> Command {
    let mut command = Command::new(find(name));
    command.stdin(Stdio::null()).current_dir("/");
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

impl Server {
    /// The server that `TEST_PG_URL` names, or one for all tests of this process that run at the same time.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        // A test that could not start it leaves the lock poisoned and nothing half done.
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(match std::env::var("TEST_PG_URL") {
            Ok(url) => Self { url, own: None },
            Err(_) => Self::own(),
        });
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server on a free port, without the pains that durability takes.
    pub fn own() -> Self {
        let data = tempfile::tempdir().unwrap();
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(data.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let made = command("initdb")
            .arg("-D")
            .arg(data.path().join("d"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let child = start(data.path(), port);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let mut server = Self { url, own: Some(Own { child, data, port }) };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.query("SELECT 1").is_err() {
            let own = self.own.as_mut().expect("only a server of ours is waited for");
            assert!(own.child.try_wait().unwrap().is_none(), "postgres ended: {}", own.log());
            assert!(Instant::now() < deadline, "postgres does not answer: {}", own.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it as a crash does.
    pub fn kill(&mut self) {
        self.own.as_mut().expect("only a server of ours may be killed").kill();
    }

    /// Starts it again, with the data and on the port that it had.
    pub fn restart(&mut self) {
        let own = self.own.as_mut().expect("only a server of ours is started");
        own.child = start(own.data.path(), own.port);
        self.wait();
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a query gives, as psql prints it, or its complaint.
    pub fn query(&self, sql: &str) -> Result<String, String> {
        let output = command("psql").args(["-X", "-A", "-t", "-c", sql, self.url()]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

fn start(data: &Path, port: u16) -> Child {
    let log = std::fs::File::create(data.join("log")).unwrap();
    command("postgres")
        .arg("-D")
        .arg(data.join("d"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
        .arg(data)
        .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "wal_level=logical"])
        .args(["-c", "max_wal_senders=8", "-c", "max_replication_slots=8"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Own {
    fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        // The fast way out that leaves no process behind: children of a killed postmaster live on for a while.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_server_of_its_own_answers() {
    let server = Server::own();
    assert_eq!(server.query("SELECT 1").as_deref(), Ok("1"));
    assert_eq!(server.query("SHOW wal_level").as_deref(), Ok("logical"));
    assert!(server.query("SELECT nothing").unwrap_err().contains("nothing"));
}
