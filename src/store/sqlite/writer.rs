//! The one thread that writes, and its group commits.
//!
//! It takes what has arrived, does it in one transaction, commits, and only then answers. While it waits for the disk
//! the next group gathers by itself, so nothing here waits for more to come.

use std::thread::JoinHandle;

use rusqlite::Connection;

use super::inbox::{Inbox, Jobs, Waiting};
use super::ledger;
use super::lock::Lock;
use crate::store::{Error, Result};

/// Operations in one commit.
const MAX_GROUP: usize = 512;

/// What a group may hold, in bytes, before it takes no more.
const MAX_GROUP_BYTES: usize = 8 << 20;

/// The thread, and how to reach it.
pub(super) struct Writer {
    /// `None` only while dropping.
    inbox: Option<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. It holds the lock until its connection is closed.
    pub(super) fn start(connection: Connection, lock: Option<Lock>) -> Result<Self> {
        let (inbox, jobs) = Inbox::new();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                serve(&connection, jobs);
                drop(connection);
                drop(lock);
            })
            .map_err(|error| Error::Unavailable(format!("a thread cannot be started: {error}")))?;
        Ok(Self { inbox: Some(inbox), thread: Some(thread) })
    }

    /// Where operations are handed in.
    pub(super) fn inbox(&self) -> &Inbox {
        self.inbox.as_ref().expect("taken only while dropping")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when nobody can hand in more. Waiting for it here means that a store which was dropped has
        // let go of its file: it can be opened again at once.
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(connection: &Connection, mut jobs: Jobs) {
    let mut group: Vec<Waiting> = Vec::new();
    while let Some(first) = jobs.blocking_recv() {
        let mut bytes = first.bytes;
        group.push(first);
        while group.len() < MAX_GROUP
            && bytes < MAX_GROUP_BYTES
            && let Ok(next) = jobs.try_recv()
        {
            bytes += next.bytes;
            group.push(next);
        }
        group.retain(|waiting| waiting.job.is_wanted());
        if !group.is_empty() {
            commit(connection, &mut group);
        }
        group.drain(..).for_each(|waiting| waiting.job.answer());
    }
}

/// Why a transaction was not committed.
enum Failed {
    /// It could not even begin: neither could another one.
    Begin(Error),
    /// Something in it failed.
    Inside(Error),
}

/// Does a group in one transaction, or, if something in it fails, each operation in one of its own.
fn commit(connection: &Connection, group: &mut [Waiting]) {
    let fail = |group: &mut [Waiting], error: &Error| group.iter_mut().for_each(|waiting| waiting.job.fail(error));
    match transact(connection, group) {
        Ok(()) => {}
        Err(Failed::Inside(_)) if group.len() > 1 => {
            for index in 0..group.len() {
                match transact(connection, &mut group[index..=index]) {
                    Ok(()) => {}
                    Err(Failed::Inside(error)) => fail(&mut group[index..=index], &error),
                    // Each of the rest would wait as long for the lock to find the same.
                    Err(Failed::Begin(error)) => return fail(&mut group[index..], &error),
                }
            }
        }
        Err(Failed::Begin(error) | Failed::Inside(error)) => fail(group, &error),
    }
}

/// Does these operations in one transaction. `Ok` if it was committed, with every outcome as its job remembers it.
fn transact(connection: &Connection, group: &mut [Waiting]) -> std::result::Result<(), Failed> {
    // IMMEDIATE: a transaction that begins by reading would be refused at its first write if another program wrote
    // meanwhile, and the busy timeout does not apply to that.
    execute(connection, "BEGIN IMMEDIATE").map_err(Failed::Begin)?;
    ledger::begin();
    let alone = group.len() == 1;
    for waiting in group {
        let changes = connection.total_changes();
        let done = waiting.job.run(connection);
        // Some failures (a full disk) take the whole transaction with them. One that changed nothing hurts nobody.
        let lost = connection.is_autocommit();
        if lost || (!done && connection.total_changes() != changes) {
            rollback(connection);
            // Alone, its own error is the answer.
            return if alone && !done { Ok(()) } else { Err(Failed::Inside(lost_with_others())) };
        }
    }
    ledger::write(connection).and_then(|()| execute(connection, "COMMIT")).map_err(|error| {
        rollback(connection);
        Failed::Inside(error)
    })
}

fn lost_with_others() -> Error {
    Error::Unavailable("the transaction was rolled back".to_owned())
}

fn rollback(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = execute(connection, "ROLLBACK")
    {
        tracing::error!("a transaction of the store cannot be rolled back: {error}");
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
