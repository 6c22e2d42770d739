//! Runs triggers: starts them, starts a failed one again, and sees that each has answered before it goes.
//!
//! One source down is not the engine down: a trigger that ends by itself is bound and run again with backoff while the
//! others go on, and says so in its health.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::clock::Busy;
use trigger_core::{BindError, Binding, BoxFuture, Clock, Credentials, Dispatch, TriggerContext};

use crate::kinds::{BoundTrigger, Kinds};
use crate::store::TriggerRow;

/// The first pause before a trigger that ended is started again; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest of these pauses.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A trigger that ran this long is healthy again: its next pause is the first.
const SETTLED: Duration = Duration::from_secs(60);

/// Runs the triggers of the routed functions.
pub struct Supervisor {
    kinds: Arc<Kinds>,
    dispatch: Arc<dyn Dispatch>,
    credentials: Arc<dyn Credentials>,
    clock: Clock,
    running: Mutex<HashMap<String, Running>>,
}

struct Running {
    row: TriggerRow,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    health: watch::Receiver<Option<String>>,
}

/// How a trigger is.
#[derive(Clone, Debug)]
pub struct TriggerHealth {
    /// The trigger.
    pub row: TriggerRow,
    /// Why it cannot do its work at the moment; `None` while it can.
    pub degraded: Option<String>,
}

/// Triggers that are bound and not yet running: a reload binds everything before it changes anything.
pub struct Bound {
    fresh: Vec<(TriggerRow, Arc<Binding>, Box<dyn BoundTrigger>)>,
    keep: Vec<String>,
}

impl Supervisor {
    /// A supervisor without triggers; those that it starts go by this clock.
    pub fn new(
        kinds: Arc<Kinds>,
        dispatch: Arc<dyn Dispatch>,
        credentials: Arc<dyn Credentials>,
        clock: Clock,
    ) -> Self {
        Self { kinds, dispatch, credentials, clock, running: Mutex::default() }
    }

    /// Binds every trigger that is new or changed. All of them or none: the errors name each that cannot be bound.
    pub async fn bind(&self, rows: &[TriggerRow]) -> Result<Bound, Vec<(String, BindError)>> {
        let mut bound = Bound { fresh: Vec::new(), keep: Vec::new() };
        let mut errors = Vec::new();
        for row in rows {
            let path = row.binding.path();
            if self.running.lock().get(&path).is_some_and(|running| running.row == *row) {
                bound.keep.push(path);
                continue;
            }
            let binding = Arc::new(row.binding.clone());
            match self.kinds.bind(row).await {
                Ok(trigger) => bound.fresh.push((row.clone(), binding, trigger)),
                Err(error) => errors.push((path, error)),
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }

    /// Runs what is bound, then stops what it replaces and what is no longer wanted. Waits until those have answered
    /// what they took.
    pub async fn replace(&self, bound: Bound) {
        let mut gone = Vec::new();
        {
            let mut running = self.running.lock();
            let fresh: Vec<_> =
                bound.fresh.into_iter().map(|(row, binding, trigger)| self.start(row, binding, trigger)).collect();
            let unwanted: Vec<String> = running.keys().filter(|path| !bound.keep.contains(path)).cloned().collect();
            gone.extend(unwanted.iter().filter_map(|path| running.remove(path)));
            for one in fresh {
                running.insert(one.row.binding.path(), one);
            }
        }
        stop(gone).await;
    }

    /// Stops every trigger; returns when each has answered what it took.
    pub async fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        stop(running.into_values().collect()).await;
    }

    /// How every trigger is, in order of its path.
    pub fn health(&self) -> Vec<TriggerHealth> {
        let running = self.running.lock();
        let mut health: Vec<_> = running
            .values()
            .map(|one| TriggerHealth { row: one.row.clone(), degraded: one.health.borrow().clone() })
            .collect();
        health.sort_by_key(|one| one.row.binding.path());
        health
    }

    fn start(&self, row: TriggerRow, binding: Arc<Binding>, trigger: Box<dyn BoundTrigger>) -> Running {
        let (health, health_seen) = watch::channel(None);
        let cx = TriggerContext {
            binding,
            dispatch: self.dispatch.clone(),
            credentials: self.credentials.clone(),
            clock: self.clock.clone(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            health,
        };
        let running =
            Running { row: row.clone(), shutdown: cx.shutdown.clone(), tasks: cx.tasks.clone(), health: health_seen };
        let starting = self.clock.busy(|| format!("starting {}", cx.binding.path()));
        cx.tasks.spawn(keep_running(self.kinds.clone(), row, cx.clone(), trigger, starting));
        running
    }
}

/// Asks all of them to stop, then waits for each.
async fn stop(running: Vec<Running>) {
    for one in &running {
        one.shutdown.cancel();
        one.tasks.close();
    }
    for one in running {
        one.tasks.wait().await;
    }
}

/// Runs a future to its end. What stands for it on the clock goes once it has begun and stands there itself.
async fn begun<T>(mut run: BoxFuture<'_, T>, starting: &mut Option<Busy>) -> T {
    let first = futures_util::poll!(&mut run);
    starting.take();
    match first {
        Poll::Ready(done) => done,
        Poll::Pending => run.await,
    }
}

/// Runs a trigger, and again when it ends though nobody asked it to.
async fn keep_running(
    kinds: Arc<Kinds>,
    row: TriggerRow,
    cx: TriggerContext,
    first: Box<dyn BoundTrigger>,
    starting: Busy,
) {
    let mut bound = Some(first);
    let mut starting = Some(starting);
    let mut pause = FIRST_PAUSE;
    while !cx.shutdown.is_cancelled() {
        let began = tokio::time::Instant::now();
        let ended = match bound.take() {
            Some(trigger) => match begun(trigger.run(cx.clone()), &mut starting).await {
                Ok(()) if cx.shutdown.is_cancelled() => return,
                Ok(()) => "the source ended".to_owned(),
                Err(error) => error.to_string(),
            },
            None => match kinds.bind(&row).await {
                Ok(trigger) => {
                    bound = Some(trigger);
                    cx.healthy();
                    continue;
                }
                Err(error) => error.to_string(),
            },
        };
        cx.degraded(ended);
        if began.elapsed() > SETTLED {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
            () = cx.shutdown.cancelled() => return,
        }
    }
}
