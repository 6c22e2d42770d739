//! A real PostgreSQL server, for what keeps its state there.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::free_port;
use super::{on_path, program};

/// Whom the server runs as where the tests run as root, which PostgreSQL refuses.
const NOBODY: u32 = 65_534;

/// A PostgreSQL server with data of its own. Killed when dropped.
pub struct Server {
    child: Child,
    data: tempfile::TempDir,
    url: String,
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
    /// A server on a free port, without the pains that durability takes.
    pub fn own() -> Self {
        let data = tempfile::tempdir().unwrap();
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(data.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let directory = data.path().join("d");
        let made = command("initdb")
            .arg("-D")
            .arg(&directory)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let child = start(&directory, data.path(), port);
        let mut server = Self { child, url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), data };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.query("SELECT 1").is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "postgres ended: {}", server.log());
            assert!(Instant::now() < deadline, "postgres does not answer: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
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

    fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }
}

fn start(directory: &Path, data: &Path, port: u16) -> Child {
    let log = std::fs::File::create(data.join("log")).unwrap();
    command("postgres")
        .arg("-D")
        .arg(directory)
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
        .arg(data)
        .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "wal_level=logical"])
        .args(["-c", "max_wal_senders=8", "-c", "max_replication_slots=8"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        // The fast way out that leaves no process behind: children of a killed postmaster live on for a while.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_of_its_own_answers() {
    let server = Server::own();
    assert_eq!(server.query("SELECT 1").as_deref(), Ok("1"));
    assert_eq!(server.query("SHOW wal_level").as_deref(), Ok("logical"));
    assert!(server.query("SELECT nothing").unwrap_err().contains("nothing"));
}
