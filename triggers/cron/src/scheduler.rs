//! One scheduler for all triggers: which of them are due, and how long nothing will be.
//!
//! ```text
//! register ─► slot ─► queue: due ─► slots ─► due: all of one moment ─► Sink::hand_over ─► next instant ─► queue
//! ```
//!
//! A task and a timer for each trigger would cost kilobytes a trigger and a wake-up each; here a trigger is a slot and
//! four bytes in the queue, and all that is due at a moment is handed over together. It knows moments and nothing of
//! events: what a turn means is the [`Sink`]'s.
//!
//! A sleep measures monotonic time and knows nothing of a clock that was set or a machine that was suspended. So no
//! sleep is longer than a second, and every look starts from the wall clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Clock;
use crate::plan::Plan;
use crate::progress::{CORRECTION, Progress};
use crate::shift::Shift;

/// The longest time between two looks at the wall clock.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Takes what is due.
pub trait Sink: Send + Sync + 'static {
    /// What the sink knows of a trigger.
    type Trigger: Send + Sync + 'static;

    /// Makes the fires that are due at `now_ms` (since the Unix epoch), and says in each how far its trigger has come
    /// and when to come back. The scheduler waits for it: what comes due meanwhile comes together.
    fn hand_over(&self, due: &mut [Due<Self::Trigger>], now_ms: i64) -> impl Future<Output = ()> + Send;
}

/// A trigger of the scheduler.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its instants.
    pub(crate) plan: Arc<Plan>,
    /// By how much its fires are made later.
    pub(crate) shift: Shift,
    /// What the sink knows of it.
    pub trigger: T,
}

impl<T> Entry<T> {
    /// A trigger of this path. Its fires are made later than their instants by its place within `spread_seconds`, and
    /// each by up to `jitter_seconds`.
    pub fn new(plan: Arc<Plan>, path: &str, spread_seconds: u32, jitter_seconds: u32, trigger: T) -> Self {
        Self { plan, shift: Shift::of(path, spread_seconds, jitter_seconds), trigger }
    }

    /// When the fire after `reached` is due, in milliseconds since the Unix epoch; `None` when there is none left.
    fn due_ms(&self, reached: i64) -> Option<i64> {
        Some(self.shift.due_ms(self.plan.next_second(reached)?))
    }
}

/// A trigger whose turn it is.
#[derive(Debug)]
pub struct Due<T> {
    slot: u32,
    /// The trigger.
    pub entry: Arc<Entry<T>>,
    /// When its fire was due, in milliseconds since the Unix epoch.
    pub due_ms: i64,
    /// How far it has come; the sink moves it on.
    pub progress: Progress,
    /// How often it has been put off in a row.
    pub tries: u32,
    /// When the sink wants to see it again, if it has not come to the end of its turn.
    pub again_in: Option<Duration>,
}

impl<T> Due<T> {
    /// The instant whose turn it is, in seconds since the Unix epoch.
    pub fn instant(&self) -> Option<i64> {
        self.entry.plan.next_second(self.progress.reached)
    }

    /// The turn is over: instants up to this one have been made.
    pub fn made(&mut self, instant: i64) {
        self.progress.fired(instant);
    }
}

/// The scheduler of all triggers that share a [`Sink`].
pub struct Scheduler<S: Sink> {
    inner: Arc<Inner<S>>,
}

struct Inner<S: Sink> {
    sink: S,
    clock: Clock,
    core: Mutex<Core<S::Trigger>>,
    /// Something comes sooner than was known when the task fell asleep.
    sooner: Notify,
    /// What was due has been handed over.
    settled: Notify,
    tasks: TaskTracker,
}

/// A place in the scheduler; [`Scheduler::leave`] gives it back.
#[derive(Debug)]
#[must_use = "a trigger that is not taken out is fired for ever"]
pub struct Place<T> {
    slot: u32,
    entry: Arc<Entry<T>>,
}

struct Core<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    queue: Queue,
    /// How many numbers in the queue may be of slots that are no longer due then.
    stale: usize,
    /// The newest slot of each path, by its hash.
    by_path: HashMap<u64, u32>,
    /// The latest time that the clock has told, in milliseconds since the Unix epoch.
    seen_ms: i64,
    /// Stops the task; `None` while there is none.
    task: Option<CancellationToken>,
}

struct Slot<T> {
    /// `None` for a slot that is free.
    entry: Option<Arc<Entry<T>>>,
    progress: Progress,
    /// Where it stands in the queue; [`NOWHERE`] while it does not.
    due_ms: i64,
    tries: u32,
    /// Whether it is with the sink.
    out: bool,
}

const NOWHERE: i64 = i64::MAX;

/// Slots by the moment at which they are due. Those of one moment lie together: in practice many do.
#[derive(Default)]
struct Queue {
    by_moment: BTreeMap<i64, Vec<u32>>,
}

impl Queue {
    /// Adds a slot; true when nothing else is due before.
    fn push(&mut self, due_ms: i64, slot: u32) -> bool {
        let first = self.first().is_none_or(|first| due_ms < first);
        self.by_moment.entry(due_ms).or_default().push(slot);
        first
    }

    fn first(&self) -> Option<i64> {
        self.by_moment.first_key_value().map(|(due_ms, _)| *due_ms)
    }

    /// The slots of the first moment, if it has come.
    fn pop(&mut self, now_ms: i64) -> Option<(i64, Vec<u32>)> {
        let first = self.by_moment.first_entry()?;
        (*first.key() <= now_ms).then(|| first.remove_entry())
    }

    /// Leaves only what `keep` wants: slots that left are not looked for one by one.
    fn retain(&mut self, mut keep: impl FnMut(i64, u32) -> bool) {
        self.by_moment.retain(|due_ms, slots| {
            slots.retain(|slot| keep(*due_ms, *slot));
            !slots.is_empty()
        });
    }
}

impl<S: Sink> Scheduler<S> {
    /// A scheduler without triggers. It runs a task as long as it has some.
    pub fn new(sink: S, clock: Clock) -> Self {
        let core = Core {
            slots: Vec::new(),
            free: Vec::new(),
            queue: Queue::default(),
            stale: 0,
            by_path: HashMap::new(),
            seen_ms: i64::MIN,
            task: None,
        };
        Self {
            inner: Arc::new(Inner {
                sink,
                clock,
                core: Mutex::new(core),
                sooner: Notify::new(),
                settled: Notify::new(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Adds a trigger that has come as far as `progress`. A trigger of the same path that is here already was awake
    /// until now: what it has not made yet is left to the new one, and nothing before that is missed.
    pub fn enter(&self, entry: Entry<S::Trigger>, mut progress: Progress) -> Place<S::Trigger> {
        let entry = Arc::new(entry);
        let mut core = self.inner.core.lock();
        let now_ms = self.inner.now_ms();
        if let Some(reached) = core.reached_by(entry.shift.seed(), now_ms) {
            progress.reached = progress.reached.max(reached);
        }
        let slot = core.add(entry.clone(), progress);
        if core.schedule(slot, None) {
            self.inner.sooner.notify_one();
        }
        if core.task.is_none() {
            let stop = CancellationToken::new();
            core.task = Some(stop.clone());
            self.inner.tasks.spawn(run(self.inner.clone(), stop));
        }
        Place { slot, entry }
    }

    /// Takes a trigger out and says how far it has come. Waits for at most `patience` while it is with the sink.
    pub async fn leave(&self, place: Place<S::Trigger>, patience: Duration) -> Progress {
        let waited = async {
            loop {
                let settled = self.inner.settled.notified();
                if !self.inner.core.lock().slots[place.slot as usize].out {
                    return;
                }
                settled.await;
            }
        };
        // When it runs out, so be it: the fire that is under way may still come to be.
        let _ = tokio::time::timeout(patience, waited).await;
        let mut core = self.inner.core.lock();
        let progress = core.remove(&place);
        if core.slots.len() == core.free.len()
            && let Some(task) = core.task.take()
        {
            task.cancel();
        }
        progress
    }

    /// How many triggers there are.
    pub fn len(&self) -> usize {
        let core = self.inner.core.lock();
        core.slots.len() - core.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn run<S: Sink>(inner: Arc<Inner<S>>, stop: CancellationToken) {
    let mut due = Vec::new();
    loop {
        let now_ms = inner.now_ms();
        let pause = inner.core.lock().look(now_ms, &mut due);
        if due.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = inner.sooner.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            continue;
        }
        tokio::select! {
            biased;
            () = inner.sink.hand_over(&mut due, now_ms) => {}
            () = stop.cancelled() => return,
        }
        inner.core.lock().settle(due.drain(..), inner.now_ms());
        inner.settled.notify_waiters();
        // A crowd like the last one need not come again.
        due.shrink_to(1_024);
    }
}

impl<S: Sink> Inner<S> {
    fn now_ms(&self) -> i64 {
        (self.clock)().timestamp_millis()
    }
}

impl<T> Core<T> {
    /// How far a trigger of this path has come that is here and up to date: to the present, if it is not overdue.
    fn reached_by(&self, path: u64, now_ms: i64) -> Option<i64> {
        let slot = &self.slots[*self.by_path.get(&path)? as usize];
        let overdue = slot.out || slot.due_ms <= now_ms;
        Some(if overdue { slot.progress.reached } else { now_ms.div_euclid(1_000).max(slot.progress.reached) })
    }

    fn add(&mut self, entry: Arc<Entry<T>>, progress: Progress) -> u32 {
        let path = entry.shift.seed();
        let slot = Slot { entry: Some(entry), progress, due_ms: NOWHERE, tries: 0, out: false };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than four billion triggers fit into memory")
            }
        };
        self.by_path.insert(path, index);
        index
    }

    /// Queues a slot for its next instant, or for `at_ms`; true when nothing else is due before.
    fn schedule(&mut self, index: u32, at_ms: Option<i64>) -> bool {
        let slot = &mut self.slots[index as usize];
        let Some(entry) = &slot.entry else { return false };
        let Some(due_ms) = at_ms.or_else(|| entry.due_ms(slot.progress.reached)) else {
            slot.due_ms = NOWHERE;
            return false;
        };
        slot.due_ms = due_ms;
        self.queue.push(due_ms, index)
    }

    fn remove(&mut self, place: &Place<T>) -> Progress {
        let slot = &mut self.slots[place.slot as usize];
        let (progress, due_ms) = (slot.progress, slot.due_ms);
        (slot.entry, slot.due_ms, slot.out) = (None, NOWHERE, false);
        if due_ms != NOWHERE {
            self.forget_one();
        }
        let path = place.entry.shift.seed();
        if self.by_path.get(&path) == Some(&place.slot) {
            self.by_path.remove(&path);
        }
        self.free.push(place.slot);
        progress
    }

    /// Something in the queue counts no more. It is passed over when its moment comes; when there is much of it, all of
    /// it is taken out.
    fn forget_one(&mut self) {
        self.stale += 1;
        if self.stale > self.slots.len() + 1_024 {
            self.stale = 0;
            let slots = &self.slots;
            self.queue.retain(|due_ms, slot| slots[slot as usize].due_ms == due_ms);
        }
    }

    /// Takes out what is due, and says for how long nothing will be.
    fn look(&mut self, now_ms: i64, due: &mut Vec<Due<T>>) -> Duration {
        self.observe(now_ms);
        while let Some((due_ms, slots)) = self.queue.pop(now_ms) {
            due.reserve(slots.len());
            for index in slots {
                let slot = &mut self.slots[index as usize];
                let Some(entry) = slot.entry.as_ref().filter(|_| slot.due_ms == due_ms).cloned() else { continue };
                (slot.due_ms, slot.out) = (NOWHERE, true);
                let (progress, tries) = (slot.progress, slot.tries);
                due.push(Due { slot: index, entry, due_ms, progress, tries, again_in: None });
            }
        }
        let next = self.queue.first().map_or(i64::MAX, |next| next.saturating_sub(now_ms));
        Duration::from_millis(u64::try_from(next).unwrap_or(0)).min(LONGEST_SLEEP)
    }

    /// Takes note of the clock's time. One that was set back far holds at once, for every trigger that is ahead of it.
    fn observe(&mut self, now_ms: i64) {
        let corrected = self.seen_ms.saturating_sub(now_ms) > CORRECTION * 1_000;
        self.seen_ms = if corrected { now_ms } else { self.seen_ms.max(now_ms) };
        if !corrected {
            return;
        }
        let now = now_ms.div_euclid(1_000);
        let time = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        tracing::warn!(now = %time, "the clock was set back: schedules go on from its new time");
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.entry.is_none() || slot.out || slot.progress.reached - now <= CORRECTION {
                continue;
            }
            slot.progress = Progress::from(now);
            let queued = std::mem::replace(&mut slot.due_ms, NOWHERE) != NOWHERE;
            self.schedule(u32::try_from(index).expect("slots are numbered by u32"), None);
            if queued {
                self.forget_one();
            }
        }
    }

    /// Takes back what was with the sink, and queues each for what comes next.
    fn settle(&mut self, due: impl Iterator<Item = Due<T>>, now_ms: i64) {
        for Due { slot: index, entry, progress, tries, again_in, .. } in due {
            let slot = &mut self.slots[index as usize];
            // It may have left meanwhile, and another may have its slot.
            if !slot.entry.as_ref().is_some_and(|own| Arc::ptr_eq(own, &entry)) {
                continue;
            }
            slot.out = false;
            slot.progress = progress;
            slot.tries = if again_in.is_some() { tries.saturating_add(1) } else { 0 };
            let at_ms = again_in.map(|wait| now_ms + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2));
            self.schedule(index, at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_gives_out_whole_moments_in_order() {
        let mut queue = Queue::default();
        assert!(queue.push(20, 1) && queue.push(10, 2));
        assert!(!queue.push(10, 3) && !queue.push(30, 4));
        queue.retain(|_, slot| slot != 4);
        assert_eq!(queue.pop(9), None);
        assert_eq!(queue.pop(25), Some((10, vec![2, 3])));
        assert_eq!(queue.pop(25), Some((20, vec![1])));
        assert_eq!((queue.pop(i64::MAX), queue.first()), (None, None));
    }
}
