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
//! sleep is longer than a second, and every look starts from the wall clock. What was put off comes back by monotonic
//! time: it is still to be made, whatever the clock shows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::Clock;
use trigger_core::clock::Wake;

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
    core: Mutex<Core<S::Trigger>>,
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
    queue: Queue<i64>,
    /// Those that were put off, by when they come back.
    put_off: Queue<Instant>,
    /// How many numbers in the queue may be of slots that are no longer due then.
    stale: usize,
    /// The newest slot of each path, by its hash.
    by_path: HashMap<u64, u32>,
    /// The latest time that the clock has told, in milliseconds since the Unix epoch.
    seen_ms: i64,
    /// `None` while there are no triggers.
    task: Option<Task>,
}

/// The task that looks at the clock.
#[derive(Clone)]
struct Task {
    stop: CancellationToken,
    clock: Clock,
    /// Something comes sooner than was known when it fell asleep.
    sooner: Arc<Wake>,
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
    /// Whether it was put off and comes back.
    put_off: bool,
}

const NOWHERE: i64 = i64::MAX;

/// Slots by the moment at which they come. Those of one moment lie together: in practice many do.
struct Queue<M> {
    by_moment: BTreeMap<M, Vec<u32>>,
}

impl<M: Ord> Default for Queue<M> {
    fn default() -> Self {
        Self { by_moment: BTreeMap::new() }
    }
}

impl<M: Ord + Copy> Queue<M> {
    /// Adds a slot; true when nothing else is due before.
    fn push(&mut self, moment: M, slot: u32) -> bool {
        let first = self.first().is_none_or(|first| moment < first);
        self.by_moment.entry(moment).or_default().push(slot);
        first
    }

    fn first(&self) -> Option<M> {
        self.by_moment.first_key_value().map(|(moment, _)| *moment)
    }

    /// The slots of the first moment, if it has come.
    fn pop(&mut self, now: M) -> Option<(M, Vec<u32>)> {
        let first = self.by_moment.first_entry()?;
        (*first.key() <= now).then(|| first.remove_entry())
    }

    /// Leaves only what `keep` wants: slots that left are not looked for one by one.
    fn retain(&mut self, mut keep: impl FnMut(M, u32) -> bool) {
        self.by_moment.retain(|moment, slots| {
            slots.retain(|slot| keep(*moment, *slot));
            !slots.is_empty()
        });
    }
}

impl<S: Sink> Scheduler<S> {
    /// A scheduler without triggers. It runs a task as long as it has some.
    pub fn new(sink: S) -> Self {
        let core = Core {
            slots: Vec::new(),
            free: Vec::new(),
            queue: Queue::default(),
            put_off: Queue::default(),
            stale: 0,
            by_path: HashMap::new(),
            seen_ms: i64::MIN,
            task: None,
        };
        Self {
            inner: Arc::new(Inner { sink, core: Mutex::new(core), settled: Notify::new(), tasks: TaskTracker::new() }),
        }
    }

    /// Adds a trigger that has come as far as `progress`. A trigger of the same path that is here already was awake
    /// until now: what it has not made yet is left to the new one, and nothing before that is missed.
    ///
    /// All triggers of a scheduler go by one clock: that of the first.
    pub fn enter(&self, entry: Entry<S::Trigger>, mut progress: Progress, clock: &Clock) -> Place<S::Trigger> {
        let entry = Arc::new(entry);
        let mut core = self.inner.core.lock();
        let task = core.task.get_or_insert_with(|| {
            let sooner = Arc::new(Wake::new(clock, "a schedule that is new"));
            let task = Task { stop: CancellationToken::new(), clock: clock.clone(), sooner };
            self.inner.tasks.spawn(run(self.inner.clone(), task.clone()));
            task
        });
        let task = task.clone();
        if let Some(reached) = core.reached_by(entry.shift.seed(), task.now_ms()) {
            progress.reached = progress.reached.max(reached);
        }
        let slot = core.add(entry.clone(), progress);
        if core.schedule(slot) {
            task.sooner.wake();
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
            task.stop.cancel();
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

async fn run<S: Sink>(inner: Arc<Inner<S>>, task: Task) {
    let mut sleeper = task.clock.sleeper(|| "the scheduler".to_owned());
    let mut due = Vec::new();
    loop {
        let sooner = task.sooner.armed();
        let now_ms = task.now_ms();
        let next = inner.core.lock().look(now_ms, &mut due);
        if due.is_empty() {
            let longest = next.put_off.map_or(LONGEST_SLEEP, |moment| (moment - Instant::now()).min(LONGEST_SLEEP));
            let slept = async {
                match task.clock.virtual_time() {
                    None => drop(tokio::time::timeout(longest, sleeper.until(next.due)).await),
                    // Not by the sleeper: the clock is not to be moved over what is still to be made.
                    Some(_) if next.put_off.is_some() => tokio::time::sleep(longest).await,
                    Some(_) => sleeper.until(next.due).await,
                }
            };
            tokio::select! {
                () = task.stop.cancelled() => return,
                () = sooner => {}
                () = slept => {}
            }
            continue;
        }
        tokio::select! {
            biased;
            () = inner.sink.hand_over(&mut due, now_ms) => {}
            () = task.stop.cancelled() => return,
        }
        inner.core.lock().settle(due.drain(..));
        inner.settled.notify_waiters();
        // A crowd like the last one need not come again.
        due.shrink_to(1_024);
    }
}

impl Task {
    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }
}

/// When the scheduler has to look again; `None` is not for the sake of what is known now.
#[derive(Clone, Copy, Debug)]
struct Next {
    due: Option<DateTime<Utc>>,
    put_off: Option<Instant>,
}

impl<T> Core<T> {
    /// How far a trigger of this path has come that is here and up to date: to the present, if it is not overdue.
    fn reached_by(&self, path: u64, now_ms: i64) -> Option<i64> {
        let slot = &self.slots[*self.by_path.get(&path)? as usize];
        let overdue = slot.out || slot.put_off || slot.due_ms <= now_ms;
        Some(if overdue { slot.progress.reached } else { now_ms.div_euclid(1_000).max(slot.progress.reached) })
    }

    fn add(&mut self, entry: Arc<Entry<T>>, progress: Progress) -> u32 {
        let path = entry.shift.seed();
        let slot = Slot { entry: Some(entry), progress, due_ms: NOWHERE, tries: 0, out: false, put_off: false };
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

    /// Queues a slot for its next instant; true when nothing else is due before.
    fn schedule(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        let due_ms = slot.entry.as_ref().and_then(|entry| entry.due_ms(slot.progress.reached));
        slot.due_ms = due_ms.unwrap_or(NOWHERE);
        due_ms.is_some_and(|due_ms| self.queue.push(due_ms, index))
    }

    fn remove(&mut self, place: &Place<T>) -> Progress {
        let slot = &mut self.slots[place.slot as usize];
        let (progress, due_ms) = (slot.progress, slot.due_ms);
        (slot.entry, slot.due_ms, slot.out, slot.put_off) = (None, NOWHERE, false, false);
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

    /// Takes out what is due or comes back, and says when there will be more.
    fn look(&mut self, now_ms: i64, due: &mut Vec<Due<T>>) -> Next {
        self.observe(now_ms);
        while let Some((due_ms, slots)) = self.queue.pop(now_ms) {
            self.take_out(slots, due, |slot| (slot.due_ms == due_ms).then_some(due_ms));
        }
        let now = Instant::now();
        while let Some((_, slots)) = self.put_off.pop(now) {
            self.take_out(slots, due, |slot| {
                slot.put_off.then(|| slot.entry.as_ref()?.due_ms(slot.progress.reached))?
            });
        }
        let moment = |due_ms| DateTime::from_timestamp_millis(due_ms).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Next { due: self.queue.first().map(moment), put_off: self.put_off.first() }
    }

    /// Takes out those of the slots that `due_at` knows to be due, and since when.
    fn take_out(&mut self, slots: Vec<u32>, due: &mut Vec<Due<T>>, due_at: impl Fn(&Slot<T>) -> Option<i64>) {
        due.reserve(slots.len());
        for index in slots {
            let slot = &mut self.slots[index as usize];
            let Some((entry, due_ms)) = slot.entry.clone().zip(due_at(slot)) else { continue };
            (slot.due_ms, slot.out, slot.put_off) = (NOWHERE, true, false);
            let (progress, tries) = (slot.progress, slot.tries);
            due.push(Due { slot: index, entry, due_ms, progress, tries, again_in: None });
        }
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
            if slot.entry.is_none() || slot.out || slot.put_off || slot.progress.reached - now <= CORRECTION {
                continue;
            }
            slot.progress = Progress::from(now);
            let queued = std::mem::replace(&mut slot.due_ms, NOWHERE) != NOWHERE;
            self.schedule(u32::try_from(index).expect("slots are numbered by u32"));
            if queued {
                self.forget_one();
            }
        }
    }

    /// Takes back what was with the sink, and queues each for what comes next.
    fn settle(&mut self, due: impl Iterator<Item = Due<T>>) {
        let now = Instant::now();
        for Due { slot: index, entry, progress, tries, again_in, .. } in due {
            let slot = &mut self.slots[index as usize];
            // It may have left meanwhile, and another may have its slot.
            if !slot.entry.as_ref().is_some_and(|own| Arc::ptr_eq(own, &entry)) {
                continue;
            }
            slot.out = false;
            slot.progress = progress;
            match again_in {
                Some(wait) => {
                    (slot.tries, slot.put_off) = (tries.saturating_add(1), true);
                    self.put_off.push(now + wait, index);
                }
                None => {
                    slot.tries = 0;
                    self.schedule(index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_gives_out_whole_moments_in_order() {
        let mut queue = Queue::<i64>::default();
        assert!(queue.push(20, 1) && queue.push(10, 2));
        assert!(!queue.push(10, 3) && !queue.push(30, 4));
        queue.retain(|_, slot| slot != 4);
        assert_eq!(queue.pop(9), None);
        assert_eq!(queue.pop(25), Some((10, vec![2, 3])));
        assert_eq!(queue.pop(25), Some((20, vec![1])));
        assert_eq!((queue.pop(i64::MAX), queue.first()), (None, None));
    }
}
