//! Many callers, one statement: gathers what arrives while a statement is under way and does it with the next.
//!
//! Nothing waits for more to come. Where little happens every operation goes alone and at once; where much happens the
//! groups grow by themselves, and with them what a round trip and a commit are worth. So there is one group at a time:
//! several at once would each be smaller, and most of a statement's cost is the same for one row and for fifty. Only one
//! that takes long, because it waits for a lock, must not hold up those behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::TaskTracker;
use trigger_core::BoxFuture;

use crate::store::{Error, Result};

/// Operations that wait; further callers wait to hand theirs in.
const MAX_WAITING: usize = 4096;

/// How long a group may take before another one is begun beside it.
const PATIENCE: Duration = Duration::from_millis(10);

/// Operations in one group.
const MAX_GROUP: usize = 512;

/// What a group may hold, in bytes, before it takes no more.
const MAX_GROUP_BYTES: usize = 8 << 20;

/// An operation and how much it holds.
struct Waiting<J, A> {
    job: J,
    bytes: usize,
    reply: oneshot::Sender<Result<A>>,
}

/// Where operations are handed in. What was handed in is done even when this is dropped.
pub(super) struct Gather<J, A> {
    jobs: mpsc::Sender<Waiting<J, A>>,
}

impl<J: Send + Sync + 'static, A: Send + 'static> Gather<J, A> {
    /// Starts `workers` tasks. `work` answers each job of a group, in order.
    pub(super) fn start<W>(tasks: &TaskTracker, workers: usize, work: W) -> Self
    where
        W: Fn(Vec<J>) -> BoxFuture<'static, Vec<Result<A>>> + Send + Sync + 'static,
    {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let (receiver, work) = (Arc::new(Mutex::new(receiver)), Arc::new(work));
        for _ in 0..workers {
            let (receiver, work) = (receiver.clone(), work.clone());
            tasks.spawn(async move {
                loop {
                    let mut receiver = receiver.lock().await;
                    let Some((jobs, replies)) = next_group(&mut receiver).await else { return };
                    if jobs.is_empty() {
                        continue;
                    }
                    let mut work = work(jobs);
                    let answers = match tokio::time::timeout(PATIENCE, &mut work).await {
                        Ok(answers) => answers,
                        Err(_) => {
                            drop(receiver);
                            work.await
                        }
                    };
                    let mut answers = answers.into_iter();
                    for reply in replies {
                        // A caller that went away meanwhile wants no answer.
                        let _ = reply.send(answers.next().unwrap_or_else(|| Err(gone())));
                    }
                }
            });
        }
        Self { jobs: sender }
    }

    /// Has the job done with others, and waits for what comes of it.
    pub(super) async fn run(&self, job: J, bytes: usize) -> Result<A> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Waiting { job, bytes, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

type Group<J, A> = (Vec<J>, Vec<oneshot::Sender<Result<A>>>);

/// What has arrived, without that whose caller went away; `None` when nobody can hand in more.
async fn next_group<J, A>(receiver: &mut mpsc::Receiver<Waiting<J, A>>) -> Option<Group<J, A>> {
    let mut next = Some(receiver.recv().await?);
    // Those who were answered together ask together: whoever is about to hand something in may do so first.
    tokio::task::yield_now().await;
    let (mut jobs, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(waiting) = next.take() {
        if !waiting.reply.is_closed() {
            bytes += waiting.bytes;
            jobs.push(waiting.job);
            replies.push(waiting.reply);
        }
        if jobs.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
            next = receiver.try_recv().ok();
        }
    }
    Some((jobs, replies))
}

fn gone() -> Error {
    Error::Unavailable("the store's tasks have ended; restart the engine".to_owned())
}
