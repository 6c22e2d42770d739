//! How work reaches a thread that owns a connection, and how its answer comes back.
//!
//! The queue is bounded in number and in bytes; when it is full, callers wait. That is the store's backpressure: an
//! admission that cannot be written waits with its source still holding the event.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::gone;
use crate::store::{Error, Result};

/// Operations that wait for a thread.
const MAX_WAITING: usize = 4096;

/// What they may hold together, in KiB. A single one that holds more waits until it is alone.
const MAX_WAITING_KIB: usize = 64 << 10;

/// An operation without its type.
pub(super) trait Job: Send {
    /// Whether somebody waits for the answer. An operation whose caller went away before it began is not done.
    fn is_wanted(&self) -> bool;
    /// Does the work and remembers what came of it; `false` if it failed. May be called again after a rollback.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Remembers a failure that came from outside the work.
    fn fail(&mut self, error: &Error);
    /// Tells the caller.
    fn answer(self: Box<Self>);
}

/// An operation on its way.
pub(super) struct Waiting {
    pub(super) job: Box<dyn Job>,
    /// What it holds.
    pub(super) bytes: usize,
    _room: OwnedSemaphorePermit,
}

/// A thread's receiving end.
pub(super) type Jobs = mpsc::Receiver<Waiting>;

/// Where operations are handed in.
pub(super) struct Inbox {
    jobs: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// An inbox and its thread's end of it.
    pub(super) fn new() -> (Self, Jobs) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self { jobs: sender, room: Arc::new(Semaphore::new(MAX_WAITING_KIB)) }, receiver)
    }

    /// Has the thread do `work`, which holds `bytes`, and waits for what comes of it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let kib = u32::try_from((bytes / 1024 + 1).min(MAX_WAITING_KIB)).expect("the limit is below 2^32");
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Task { work, reply, outcome: None });
        self.jobs.send(Waiting { job, bytes, _room: room }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

struct Task<T, W> {
    work: W,
    reply: oneshot::Sender<Result<T>>,
    outcome: Option<Result<T>>,
}

impl<T: Send, W: FnMut(&Connection) -> Result<T> + Send> Job for Task<T, W> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> bool {
        // A panic would be a mistake in this crate; it costs one operation, not the store.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(connection)))
            .unwrap_or_else(|_| Err(Error::Unavailable("the operation panicked; please report it".to_owned())));
        self.outcome.insert(outcome).is_ok()
    }

    fn fail(&mut self, error: &Error) {
        self.outcome = Some(Err(error.clone()));
    }

    fn answer(self: Box<Self>) {
        // A caller that went away meanwhile wants no answer.
        let _ = self.reply.send(self.outcome.unwrap_or_else(|| Err(gone())));
    }
}
