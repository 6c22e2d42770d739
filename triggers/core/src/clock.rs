//! The time that decisions are made by: when something is due, how old it is, until when a lease holds.
//!
//! ```text
//! Clock::system()     the wall clock; costs what `Utc::now` and a tokio timer cost
//! Clock::standing_at  a virtual clock: stands still until it is moved, from one due moment to the next
//! ```
//!
//! Everything that decides by time asks a [`Clock`], and nothing else does: how long a call took, how long a guest may
//! run, how long a peer may take to answer are measured in real time on either clock, since guests and peers are real.
//!
//! A virtual clock may only be moved while nothing is under way that began at its present moment, and it is the only
//! place that knows: loops that time drives sleep on a [`Sleeper`], whoever tells them that there is work does so
//! through a [`Wake`], and what is handed from one task to another carries a [`Busy`]. Each of these overlaps with the
//! next, so that there is no instant in which work is on its way and nobody counts it. On the system clock all three
//! are empty.

mod sleeper;
#[cfg(test)]
mod tests;
mod virtual_time;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::Either;

pub use sleeper::{Busy, Sleeper, Wake};
pub use virtual_time::{Backwards, Step, VirtualTime};

use virtual_time::Nap;

/// The longest stretch slept on a wall clock without a look at it: timers run on monotonic time, which knows nothing of
/// a clock that was set or a machine that was suspended.
pub const HORIZON: Duration = Duration::from_secs(30);

/// Tells the time and waits for it. Cheap to clone; clones are the same clock.
#[derive(Clone, Default)]
pub struct Clock(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    System,
    Read(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>),
    Virtual(Arc<VirtualTime>),
}

impl Clock {
    /// The system's wall clock.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// A wall clock that is read by a function and slept on with tokio's timers. For tests: on a paused runtime it can
    /// be a clock that is set, or a machine that was suspended.
    pub fn reading(read: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>) -> Self {
        Self(Kind::Read(read))
    }

    /// A virtual clock that stands at this moment until [`VirtualTime`] moves it.
    pub fn standing_at(now: DateTime<Utc>) -> Self {
        Self(Kind::Virtual(VirtualTime::standing_at(now)))
    }

    /// What moves the clock; `None` where it moves by itself.
    pub fn virtual_time(&self) -> Option<&Arc<VirtualTime>> {
        match &self.0 {
            Kind::Virtual(time) => Some(time),
            Kind::System | Kind::Read(_) => None,
        }
    }

    /// The time.
    #[inline]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
            Kind::System => Utc::now(),
            Kind::Read(read) => read(),
            Kind::Virtual(time) => time.now(),
        }
    }

    /// The moment `delay` from now; the end of time where there is no such moment.
    pub fn after(&self, delay: Duration) -> DateTime<Utc> {
        let delay = TimeDelta::from_std(delay).ok();
        delay.and_then(|delay| self.now().checked_add_signed(delay)).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The moment at which something began that has taken `elapsed` of real time. On a virtual clock, which stood still
    /// meanwhile, that is now.
    pub fn ago(&self, elapsed: Duration) -> DateTime<Utc> {
        match &self.0 {
            Kind::Virtual(time) => time.now(),
            Kind::System | Kind::Read(_) => {
                let elapsed = TimeDelta::from_std(elapsed).ok();
                elapsed.and_then(|elapsed| self.now().checked_sub_signed(elapsed)).unwrap_or(DateTime::<Utc>::MIN_UTC)
            }
        }
    }

    /// Sleeps this long: on a wall clock by monotonic time, as `tokio::time::sleep` does. Safe to drop at any time.
    pub fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + Send + use<> {
        match &self.0 {
            Kind::Virtual(time) => Either::Right(Nap::plain(time.clone(), self.after(delay))),
            Kind::System | Kind::Read(_) => Either::Left(tokio::time::sleep(delay)),
        }
    }

    /// Sleeps until the clock shows this moment, however it was set meanwhile. Safe to drop at any time.
    pub fn sleep_until(&self, moment: DateTime<Utc>) -> impl Future<Output = ()> + Send + use<> {
        match &self.0 {
            Kind::Virtual(time) => Either::Right(Nap::plain(time.clone(), moment)),
            Kind::System | Kind::Read(_) => {
                let clock = self.clone();
                Either::Left(async move {
                    while let Some(left) = clock.left(moment) {
                        tokio::time::sleep(left.min(HORIZON)).await;
                    }
                })
            }
        }
    }

    /// How long it is until a moment; `None` once it has come.
    fn left(&self, moment: DateTime<Utc>) -> Option<Duration> {
        (moment - self.now()).to_std().ok().filter(|left| !left.is_zero())
    }

    /// For a loop that time drives. `name` says which it is to whoever moves a virtual clock, and is not asked for on
    /// another.
    pub fn sleeper(&self, name: impl FnOnce() -> String) -> Sleeper {
        Sleeper::new(self, name, true)
    }

    /// For a loop whose moments need not be kept exactly, since nothing that happens to an event hangs on them: a
    /// virtual clock that is moved wakes it once it has passed its moment, and does not stop there for its sake.
    pub fn background(&self, name: impl FnOnce() -> String) -> Sleeper {
        Sleeper::new(self, name, false)
    }

    /// Keeps a virtual clock from being moved for as long as it is held: something is under way. Nothing on another.
    #[inline]
    pub fn busy(&self, name: impl FnOnce() -> String) -> Busy {
        match &self.0 {
            Kind::Virtual(time) => Busy::new(time, name()),
            Kind::System | Kind::Read(_) => Busy::default(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::System => "Clock(system)",
            Kind::Read(_) => "Clock(read)",
            Kind::Virtual(_) => "Clock(virtual)",
        })
    }
}
