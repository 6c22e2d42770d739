//! Whether a function is tried at all: one that fails again and again is left alone for a while, then probed.
//!
//! What counts is a failure that may pass: of whatever the function needs, not of one event. While the circuit is open
//! nothing is lost and nothing is used up: callers are told when to come back, what waits goes on waiting, and the one
//! attempt that probes costs its event none of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use trigger_core::{Failure, Response};

use crate::functions::CircuitBreaker;

/// The breaker of a function, where its definition asks for one.
#[derive(Debug)]
pub struct Breaker {
    /// Read on every attempt, so that a function without a breaker pays no lock.
    armed: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Failures in a row that open it, and for how long.
    failures: u32,
    rest: TimeDelta,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Attempts begin; so many of the last ones have failed.
    Closed(u32),
    /// None begins before this moment, then one.
    Open(DateTime<Utc>),
    /// That one is under way.
    Probing,
}

/// Nothing begins before this moment. Where a probe is under way that is not known: it may end at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The moment.
    pub until: DateTime<Utc>,
}

impl Open {
    /// How long that is from now.
    pub fn wait(self, now: DateTime<Utc>) -> Duration {
        (self.until - now).to_std().unwrap_or_default()
    }
}

/// How many attempts of a function may begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// As many as there are slots for.
    All,
    /// One, to see whether the function works again.
    One,
    /// None.
    None,
}

impl Breaker {
    /// A closed breaker; one without settings never opens.
    pub fn new(settings: Option<&CircuitBreaker>) -> Self {
        let inner = Inner { failures: 0, rest: TimeDelta::zero(), state: State::Closed(0) };
        let breaker = Self { armed: AtomicBool::new(false), inner: Mutex::new(inner) };
        breaker.set(settings);
        breaker
    }

    /// Changes the settings. One that is open stays so, unless there is none any more.
    pub fn set(&self, settings: Option<&CircuitBreaker>) {
        let mut inner = self.inner.lock();
        match settings {
            Some(CircuitBreaker { failures, open_seconds }) => {
                inner.failures = (*failures).max(1);
                inner.rest = TimeDelta::from_std(Duration::from_secs_f64(*open_seconds)).unwrap_or(TimeDelta::MAX);
            }
            None => inner.state = State::Closed(0),
        }
        self.armed.store(settings.is_some(), Ordering::Release);
    }

    /// Whether it can open at all.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Whether attempts may begin: all of them, one, or none.
    pub fn room(&self, now: DateTime<Utc>) -> Room {
        if !self.is_armed() {
            return Room::All;
        }
        match self.inner.lock().state {
            State::Closed(_) => Room::All,
            State::Open(until) if until <= now => Room::One,
            State::Open(_) | State::Probing => Room::None,
        }
    }

    /// When one attempt may begin, if none may now.
    pub fn opens_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.inner.lock().state {
            State::Open(until) => Some(until).filter(|until| *until > now),
            State::Closed(_) | State::Probing => None,
        }
    }

    /// The right to make an attempt now.
    pub fn enter(&self, now: DateTime<Utc>) -> Result<Pass<'_>, Open> {
        if !self.is_armed() {
            return Ok(Pass { breaker: self, probe: false, ended: false });
        }
        let mut inner = self.inner.lock();
        let probe = match inner.state {
            State::Closed(_) => false,
            State::Open(until) if until <= now => {
                inner.state = State::Probing;
                true
            }
            State::Open(until) => return Err(Open { until }),
            State::Probing => return Err(Open { until: now + inner.rest.min(SOON) }),
        };
        Ok(Pass { breaker: self, probe, ended: false })
    }
}

/// When to come back where a probe is under way.
const SOON: TimeDelta = TimeDelta::seconds(1);

/// The right to make one attempt. Whoever drops it without an end was cut, and has learned nothing.
#[derive(Debug)]
pub struct Pass<'b> {
    breaker: &'b Breaker,
    probe: bool,
    ended: bool,
}

impl Pass<'_> {
    /// Where it is the one attempt by which the function is looked at: how long it is until the next one, if it fails.
    pub fn probes_every(&self) -> Option<Duration> {
        self.probe.then(|| self.breaker.inner.lock().rest.to_std().unwrap_or_default())
    }

    /// How the attempt ended. Answers whether the circuit is another one now: open, or closed again.
    pub fn end(mut self, result: &Result<Response, Failure>, now: DateTime<Utc>) -> Option<Turn> {
        self.ended = true;
        if !self.breaker.is_armed() {
            return None;
        }
        // One that may not be retried says something of its event, and that the function was there to say it.
        let failed = result.as_ref().is_err_and(|failure| failure.retryable);
        let mut inner = self.breaker.inner.lock();
        let (state, turn) = match inner.state {
            State::Probing if self.probe && failed => (State::Open(now + inner.rest), None),
            State::Probing if self.probe => (State::Closed(0), Some(Turn::Closed)),
            State::Closed(before) if failed && before + 1 >= inner.failures => {
                (State::Open(now + inner.rest), Some(Turn::Opened))
            }
            State::Closed(before) if failed => (State::Closed(before + 1), None),
            State::Closed(before) => (State::Closed(if result.is_ok() { 0 } else { before }), None),
            // It began before the circuit opened: that was decided by others.
            state @ (State::Open(_) | State::Probing) => (state, None),
        };
        inner.state = state;
        turn
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe && !self.ended {
            let mut inner = self.breaker.inner.lock();
            if inner.state == State::Probing {
                // Another one may look at once.
                inner.state = State::Open(DateTime::UNIX_EPOCH);
            }
        }
    }
}

/// What became of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The function is left alone from now on.
    Opened,
    /// It works again.
    Closed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trigger_core::FailureCode;

    use super::*;

    const SETTINGS: CircuitBreaker = CircuitBreaker { failures: 3, open_seconds: 10.0 };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
    }

    fn ok() -> Result<Response, Failure> {
        Ok(Response::default())
    }

    fn passing() -> Result<Response, Failure> {
        Err(Failure::new(FailureCode::GuestError, "the other side is away"))
    }

    fn permanent() -> Result<Response, Failure> {
        Err(Failure::new(FailureCode::GuestError, "no such order").permanent())
    }

    #[test]
    fn so_many_failures_in_a_row_open_it_and_one_probe_closes_it() {
        let breaker = Breaker::new(Some(&SETTINGS));
        let end =
            |result: Result<Response, Failure>, second| breaker.enter(at(second)).unwrap().end(&result, at(second));
        for result in [passing(), passing(), ok(), passing(), permanent(), passing()] {
            assert_eq!(end(result, 0), None, "a success between begins anew, what an event cannot help does not count");
        }
        assert_eq!(end(passing(), 0), Some(Turn::Opened));
        assert_eq!(breaker.enter(at(9)).unwrap_err(), Open { until: at(10) });
        assert_eq!((breaker.room(at(9)), breaker.opens_at(at(9))), (Room::None, Some(at(10))));
        assert_eq!((breaker.room(at(10)), breaker.opens_at(at(10))), (Room::One, None));

        let probe = breaker.enter(at(10)).unwrap();
        assert_eq!(probe.probes_every(), Some(Duration::from_secs(10)));
        assert_eq!((breaker.enter(at(10)).unwrap_err(), breaker.room(at(10))), (Open { until: at(11) }, Room::None));
        assert_eq!(probe.end(&passing(), at(12)), None);
        assert_eq!(breaker.opens_at(at(12)), Some(at(22)));
        assert_eq!(end(permanent(), 22), Some(Turn::Closed), "it was there to say so");
        assert_eq!(breaker.room(at(22)), Room::All);
    }

    #[test]
    fn what_began_before_or_was_cut_decides_nothing() {
        let breaker = Breaker::new(Some(&CircuitBreaker { failures: 1, ..SETTINGS }));
        let (late, early) = (breaker.enter(at(0)).unwrap(), breaker.enter(at(0)).unwrap());
        assert_eq!(early.end(&passing(), at(1)), Some(Turn::Opened));
        assert_eq!(late.end(&ok(), at(2)), None);
        assert_eq!(breaker.room(at(2)), Room::None);
        drop(breaker.enter(at(20)).unwrap());
        assert_eq!(breaker.room(at(20)), Room::One, "the next one probes");
        breaker.set(None);
        assert_eq!(breaker.room(at(0)), Room::All);
        let pass = breaker.enter(at(0)).unwrap();
        assert_eq!((pass.probes_every(), pass.end(&passing(), at(0))), (None, None));
    }

    proptest! {
        #[test]
        fn there_is_never_more_than_one_probe_and_never_a_way_to_stay_shut(steps in proptest::collection::vec((0_u8..4, 0_i64..8), 1..200)) {
            let breaker = Breaker::new(Some(&SETTINGS));
            let (mut second, mut under_way) = (0, Vec::new());
            for (what, passed) in steps {
                second += passed;
                match (what, under_way.pop()) {
                    (0, back) => {
                        under_way.extend(back);
                        under_way.extend(breaker.enter(at(second)).ok());
                    }
                    (1, Some(pass)) => drop::<Option<Turn>>(Pass::end(pass, &ok(), at(second))),
                    (2, Some(pass)) => drop::<Option<Turn>>(Pass::end(pass, &passing(), at(second))),
                    (_, pass) => drop(pass),
                }
                prop_assert!(under_way.iter().filter(|pass| pass.probe).count() <= 1);
            }
            under_way.clear();
            prop_assert_ne!(breaker.room(at(second + 10)), Room::None);
        }
    }
}
