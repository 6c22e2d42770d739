//! Who is counted on a virtual clock: loops that time drives, what wakes them, and what is on its way between tasks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::virtual_time::Nap;
use super::{Clock, HORIZON, VirtualTime};

/// Something under way, which keeps a virtual clock from being moved until it is dropped.
#[derive(Default)]
#[must_use = "dropped at once it says that nothing is under way"]
pub struct Busy(Option<Box<Counted>>);

struct Counted {
    time: Arc<VirtualTime>,
    name: Arc<str>,
}

impl Counted {
    fn new(time: &Arc<VirtualTime>, name: String) -> Self {
        let name: Arc<str> = name.into();
        time.enter(&name);
        Self { time: time.clone(), name }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.time.leave(&self.name);
    }
}

impl Busy {
    pub(super) fn new(time: &Arc<VirtualTime>, name: String) -> Self {
        Self(Some(Box::new(Counted::new(time, name))))
    }
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Busy").field(&self.0.as_ref().map(|counted| &*counted.name)).finish()
    }
}

/// The sleep of a loop that time drives: look at the clock, do what is due, sleep until the next moment.
///
/// On a virtual clock the loop counts as busy from when this is made until it is dropped, but for the time that it
/// spends in [`until`](Self::until).
pub struct Sleeper {
    clock: Clock,
    counted: Option<Counted>,
    stop: bool,
}

impl Sleeper {
    pub(super) fn new(clock: &Clock, name: impl FnOnce() -> String, stop: bool) -> Self {
        let counted = clock.virtual_time().map(|time| Counted::new(time, name()));
        Self { clock: clock.clone(), counted, stop }
    }

    /// Sleeps until this moment; without one until the loop looks again for another reason, which it lets this future
    /// be dropped for. On a wall clock it ends after [`HORIZON`] at the latest, since the clock may have been set: look
    /// at it and sleep again.
    pub async fn until(&mut self, moment: Option<DateTime<Utc>>) {
        if let Some(counted) = &self.counted {
            return Nap::of(counted.time.clone(), counted.name.clone(), moment, self.stop).await;
        }
        let Some(moment) = moment else { return tokio::time::sleep(HORIZON).await };
        while let Some(left) = self.clock.left(moment) {
            if left > HORIZON {
                return tokio::time::sleep(HORIZON).await;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Sleeps this long, or less (see [`until`](Self::until)).
    pub async fn pause(&mut self, pause: Duration) {
        self.until(Some(self.clock.after(pause))).await;
    }
}

/// Tells a loop that there is work, without its being polled before a virtual clock is moved on.
pub struct Wake {
    notify: Notify,
    clock: Clock,
    name: &'static str,
    /// On a virtual clock: somebody called, and the loop has not begun to look since.
    called: Mutex<Option<Busy>>,
}

impl Wake {
    /// One that nobody has called yet. `name` says what work it is about.
    pub fn new(clock: &Clock, name: &'static str) -> Self {
        Self { notify: Notify::new(), clock: clock.clone(), name, called: Mutex::default() }
    }

    /// Has the loop look, at once or when it has ended its present look. Calls are not counted.
    pub fn wake(&self) {
        if self.clock.virtual_time().is_some() {
            let mut called = self.called.lock().expect("nothing panics while holding it");
            // Before the notification: a look that begins after it must find the call.
            called.get_or_insert_with(|| self.clock.busy(|| self.name.to_owned()));
        }
        self.notify.notify_one();
    }

    /// For the loop, when it begins to look: ends when somebody calls from now on.
    pub fn armed(&self) -> Notified<'_> {
        if self.clock.virtual_time().is_some() {
            self.called.lock().expect("nothing panics while holding it").take();
        }
        self.notify.notified()
    }
}
