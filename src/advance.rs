//! Moves a virtual clock: from one due moment to the next, and never past anything that is under way.
//!
//! A jump to the target would be of no use: an hourly schedule fires 72 times in three days, and what its functions
//! leave behind is retried in between, each attempt at its own moment. So the clock stops wherever somebody sleeps
//! until, everyone who is due is woken, and it goes on when the engine is quiet again.
//!
//! Quiet is no guess. Who works is counted by the clock itself ([`trigger_core::clock`]): loops outside their sleep,
//! attempts, rows that were claimed, calls to look that nobody has answered, messages between the bus and their
//! subscribers. The queue is looked at after every stop, by the same statement that claims rows at any other time, and
//! then asked whether it has kept anything back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use trigger_core::Clock;
use trigger_core::clock::{Backwards, Step, VirtualTime};

use crate::dispatch::Dispatcher;
use crate::store::{self, Store};

/// How often a due row that nobody claims is offered again before it counts as held back: by its order, say.
const LOOKS: u32 = 3;

/// How many names of what is under way an error tells.
const TOLD: usize = 5;

/// The clock was not moved to where it was to be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine goes by the system's clock.
    #[error(
        "the engine goes by the system's clock, which nobody moves: start it with `tripline dev --clock virtual` to \
         have one that stands still until it is moved"
    )]
    NotVirtual,
    /// Somebody moves it already.
    #[error("the clock is being moved already: wait until that has ended")]
    Moving,
    /// The target lies in the past.
    #[error(transparent)]
    Backwards(#[from] Backwards),
    /// Something did not end in time.
    #[error(
        "the clock stands at {now}, where the engine was still busy after {} s with {}: it can be moved on when that \
         has ended",
        .limit.as_secs_f64(),
        told(.busy)
    )]
    Busy {
        /// What the clock shows.
        now: DateTime<Utc>,
        /// How long it was waited for.
        limit: Duration,
        /// What is under way, and how many of each.
        busy: Vec<(String, usize)>,
    },
    /// The store cannot say what is due.
    #[error("the clock stands at {now}: {error}")]
    Store {
        /// What the clock shows.
        now: DateTime<Utc>,
        /// Why.
        error: store::Error,
    },
}

fn told(busy: &[(String, usize)]) -> String {
    let mut told: Vec<String> = busy
        .iter()
        .take(TOLD)
        .map(|(name, count)| if *count == 1 { name.clone() } else { format!("{name} ({count})") })
        .collect();
    if busy.len() > TOLD {
        told.push(format!("{} more", busy.len() - TOLD));
    }
    if told.is_empty() { "something that has just ended".to_owned() } else { told.join(", ") }
}

/// How far the clock was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What the clock shows.
    pub now: DateTime<Utc>,
    /// Whether that is the target; otherwise the time for it was over, and the same call goes on from here.
    pub reached: bool,
    /// How many moments the clock stopped at.
    pub stops: u64,
}

/// How long moving a clock may take, in real time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the engine may be busy at one moment before the clock is left standing there, with an error.
    pub moment: Duration,
    /// After how long the clock is left standing where it is, to be moved on by the next call.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { moment: Duration::from_secs(20), call: Duration::from_secs(30) }
    }
}

/// Moves an engine's clock.
pub struct Advance {
    clock: Clock,
    dispatcher: Arc<Dispatcher>,
    store: Arc<dyn Store>,
    moving: tokio::sync::Mutex<()>,
}

impl Advance {
    /// Moves the clock that this dispatcher goes by.
    pub fn new(dispatcher: Arc<Dispatcher>, store: Arc<dyn Store>) -> Self {
        Self { clock: dispatcher.clock().clone(), dispatcher, store, moving: tokio::sync::Mutex::new(()) }
    }

    /// The clock that is moved, or that cannot be.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Moves the clock to this moment. Everything that was due until then has been
    /// begun at its moment and has ended when this returns `reached`. If the future is dropped, the clock stands where
    /// it was moved to by then.
    pub async fn to(&self, target: DateTime<Utc>, limits: Limits) -> Result<Moved, Error> {
        let time = self.clock.virtual_time().ok_or(Error::NotVirtual)?;
        let _alone = self.moving.try_lock().map_err(|_| Error::Moving)?;
        if target < time.now() {
            return Err(Backwards { now: time.now(), to: target }.into());
        }
        let began = Instant::now();
        let mut stops = 0;
        self.settle(time, limits.moment).await?;
        while began.elapsed() < limits.call {
            match time.step(target)? {
                Step::There => return Ok(Moved { now: target, reached: true, stops }),
                // An event came from outside since: it happens at the present moment.
                Step::Busy => {}
                Step::Moved(_) => {
                    stops += 1;
                    // Whether or not the queue sleeps until this moment: a dead engine's lease may have run out at it.
                    self.dispatcher.look();
                }
            }
            self.settle(time, limits.moment).await?;
        }
        Ok(Moved { now: time.now(), reached: time.now() == target, stops })
    }

    /// Waits until nothing is under way and no due row is left that could be.
    async fn settle(&self, time: &VirtualTime, limit: Duration) -> Result<(), Error> {
        let mut looks = 0;
        loop {
            if tokio::time::timeout(limit, time.quiet()).await.is_err() {
                return Err(Error::Busy { now: time.now(), limit, busy: time.busy() });
            }
            let now = time.now();
            match self.store.next_due().await {
                Ok(Some(due)) if due <= now && looks < LOOKS => {
                    looks += 1;
                    self.dispatcher.look();
                }
                Ok(_) => return Ok(()),
                Err(error) => return Err(Error::Store { now, error }),
            }
        }
    }
}
