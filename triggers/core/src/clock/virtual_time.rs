//! A clock that stands still until it is moved, and knows who sleeps on it and what is under way.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

/// The state of a virtual clock.
///
/// Whoever is neither asleep nor counted as busy is invisible here, so the two change places under one lock: a sleeper
/// that becomes due is busy from the moment that the clock is moved, long before its task has been polled.
pub struct VirtualTime {
    state: Mutex<State>,
    idle: Notify,
}

struct State {
    now: DateTime<Utc>,
    next_id: u64,
    asleep: BTreeMap<Key, Asleep>,
    /// What is under way, by its name. Empty is quiet.
    busy: BTreeMap<Arc<str>, usize>,
}

/// The moment, and a number that keeps the order in which they fell asleep.
type Key = (DateTime<Utc>, u64);

struct Asleep {
    name: Arc<str>,
    waker: Waker,
    /// Whether the clock stops at this moment.
    stop: bool,
}

/// What [`VirtualTime::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: something is under way at the present moment.
    Busy,
    /// The clock was moved to this moment, and who slept until then is awake.
    Moved(DateTime<Utc>),
    /// Nothing: the clock shows the target already.
    There,
}

/// A clock cannot be turned back: what has happened has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{to} is before {now}, which the clock shows: it only goes forward")]
pub struct Backwards {
    /// What the clock shows.
    pub now: DateTime<Utc>,
    /// What was asked for.
    pub to: DateTime<Utc>,
}

impl VirtualTime {
    pub(super) fn standing_at(now: DateTime<Utc>) -> Arc<Self> {
        let state = State { now, next_id: 0, asleep: BTreeMap::new(), busy: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state), idle: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    /// What the clock shows.
    pub fn now(&self) -> DateTime<Utc> {
        self.state().now
    }

    /// Moves the clock towards `to`, to the first moment on the way that somebody sleeps until, if nothing is under
    /// way. Both are decided at once: nothing can begin in between.
    pub fn step(&self, to: DateTime<Utc>) -> Result<Step, Backwards> {
        let mut state = self.state();
        if to < state.now {
            return Err(Backwards { now: state.now, to });
        }
        if !state.busy.is_empty() {
            return Ok(Step::Busy);
        }
        if to == state.now {
            return Ok(Step::There);
        }
        let stop = state.asleep.iter().find(|(_, asleep)| asleep.stop).map(|(key, _)| key.0);
        let moment = stop.map_or(to, |stop| stop.min(to));
        state.now = moment;
        let mut wakers = Vec::new();
        while let Some(first) = state.asleep.first_entry().filter(|first| first.key().0 <= moment) {
            let Asleep { name, waker, .. } = first.remove();
            state.enter(&name);
            wakers.push(waker);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(Step::Moved(moment))
    }

    /// Waits until nothing is under way. It may be otherwise as soon as this returns: [`step`](Self::step) looks again.
    pub async fn quiet(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Armed before the look, so that what ends behind the look wakes us.
            idle.as_mut().enable();
            if self.state().busy.is_empty() {
                return;
            }
            idle.await;
        }
    }

    /// What is under way: names, and how many of each.
    pub fn busy(&self) -> Vec<(String, usize)> {
        self.state().busy.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    /// The next moment at which the clock would stop on its way.
    pub fn next(&self) -> Option<DateTime<Utc>> {
        self.state().asleep.iter().find(|(_, asleep)| asleep.stop).map(|(key, _)| key.0)
    }

    pub(super) fn enter(&self, name: &Arc<str>) {
        self.state().enter(name);
    }

    pub(super) fn leave(&self, name: &Arc<str>) {
        let mut state = self.state();
        state.leave(name);
        self.tell_if_idle(&state);
    }

    fn tell_if_idle(&self, state: &State) {
        if state.busy.is_empty() {
            self.idle.notify_waiters();
        }
    }
}

impl State {
    fn enter(&mut self, name: &Arc<str>) {
        match self.busy.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.busy.insert(name.clone(), 1);
            }
        }
    }

    fn leave(&mut self, name: &Arc<str>) {
        let count = self.busy.get_mut(name).expect("who leaves has entered");
        *count -= 1;
        if *count == 0 {
            self.busy.remove(name);
        }
    }
}

/// Sleeps on a virtual clock until a moment.
pub(super) struct Nap {
    time: Arc<VirtualTime>,
    moment: DateTime<Utc>,
    name: Arc<str>,
    stop: bool,
    /// Whether who sleeps here is counted as busy while awake.
    counted: bool,
    key: Option<Key>,
}

impl Nap {
    /// The sleep of somebody who is not counted otherwise: busy from when it is due to when it has been told.
    pub(super) fn plain(time: Arc<VirtualTime>, moment: DateTime<Utc>) -> Self {
        Self { time, moment, name: "a sleep".into(), stop: true, counted: false, key: None }
    }

    /// The sleep of a [`Sleeper`](super::Sleeper), which is counted as busy now; without a moment it never ends.
    pub(super) fn of(time: Arc<VirtualTime>, name: Arc<str>, moment: Option<DateTime<Utc>>, stop: bool) -> Self {
        let (moment, stop) = moment.map_or((DateTime::<Utc>::MAX_UTC, false), |moment| (moment, stop));
        Self { time, moment, name, stop, counted: true, key: None }
    }
}

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.time.state();
        let Some(key) = this.key else {
            if this.moment <= state.now {
                return Poll::Ready(());
            }
            let key = (this.moment, state.next_id);
            state.next_id += 1;
            let asleep = Asleep { name: this.name.clone(), waker: cx.waker().clone(), stop: this.stop };
            state.asleep.insert(key, asleep);
            this.key = Some(key);
            if this.counted {
                state.leave(&this.name);
                this.time.tell_if_idle(&state);
            }
            return Poll::Pending;
        };
        if let Some(asleep) = state.asleep.get_mut(&key) {
            asleep.waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        // Moving the clock counted us as busy.
        this.key = None;
        if !this.counted {
            state.leave(&this.name);
            this.time.tell_if_idle(&state);
        }
        Poll::Ready(())
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut state = self.time.state();
        let was_asleep = state.asleep.remove(&key).is_some();
        if was_asleep && self.counted {
            state.enter(&self.name);
        } else if !was_asleep && !self.counted {
            state.leave(&self.name);
            self.time.tell_if_idle(&state);
        }
    }
}
