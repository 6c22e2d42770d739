//! The threads that read, each on a connection of its own that cannot write.
//!
//! Threads of their own rather than the runtime's blocking ones: how many reads run at once is bounded by how many
//! there are, and compiled statements stay with their connection.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::inbox::{Inbox, Job, Jobs};
use super::schema;
use crate::store::{Error, Result};

/// Reads at once. More would only take the disk and the cores from the writer.
const THREADS: usize = 2;

/// The threads, and how to reach them.
pub(super) struct Readers {
    /// `None` only while dropping.
    inbox: Option<Inbox>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub(super) fn start(database: &Path) -> Result<Self> {
        let (inbox, jobs) = Inbox::new();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut readers = Self { inbox: Some(inbox), threads: Vec::new() };
        for number in 1..=THREADS {
            let (connection, jobs) = (schema::open_reader(database)?, jobs.clone());
            let thread = std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || serve(&connection, &jobs))
                .map_err(|error| Error::Unavailable(format!("a thread cannot be started: {error}")))?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// Where reads are handed in.
    pub(super) fn inbox(&self) -> &Inbox {
        self.inbox.as_ref().expect("taken only while dropping")
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.inbox.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(connection: &Connection, jobs: &Mutex<Jobs>) {
    loop {
        // One thread waits for work, the other for its turn to wait: either way asleep.
        let next = jobs.lock().blocking_recv();
        let Some(mut waiting) = next else { return };
        if waiting.job.is_wanted() {
            if let Err(error) = snapshot(connection, waiting.job.as_mut()) {
                waiting.job.fail(&error);
            }
            waiting.job.answer();
        }
    }
}

/// Runs a read whose statements all see the same commit.
fn snapshot(connection: &Connection, job: &mut dyn Job) -> Result<()> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    job.run(connection);
    if !connection.is_autocommit() {
        connection.prepare_cached("ROLLBACK")?.execute([])?;
    }
    Ok(())
}
