//! What bounds a trigger's rows on this engine: attempts at once, attempts over time, a pause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use parking_lot::RwLock;
use trigger_core::{Binding, Gate};

use super::breaker::{Breaker, Room};
use crate::functions::Route;
use crate::store::Pause;

/// Claims of one look, at most, of a trigger that is limited by nothing.
const UNLIMITED: u32 = u32::MAX;

/// What a sum of parts may be short of the whole by its rounding.
const ROUNDING: f64 = 1e-9;

/// Rows of a trigger that may be claimed however few attempts its function may make at once.
const FEW: u32 = 8;

/// The gates of every trigger that has one, and the pauses as they were read last.
#[derive(Default)]
pub(super) struct Gates {
    gates: RwLock<HashMap<Binding, State>>,
    paused: ArcSwap<HashMap<Binding, Arc<str>>>,
}

struct State {
    binding: Arc<Binding>,
    gate: Gate,
    /// How many attempts the function's definition allows at once.
    function: Option<u32>,
    /// Whether the function is tried at all, where its definition has a say in that.
    breaker: Option<Arc<Breaker>>,
    running: u32,
    /// Attempts that may begin now, and since when that is so.
    tokens: f64,
    counted_at: DateTime<Utc>,
}

impl State {
    fn new(binding: &Binding, gate: Gate, now: DateTime<Utc>) -> Self {
        let tokens = gate.rate.map_or(0.0, |rate| f64::from(rate.events));
        let binding = Arc::new(binding.clone());
        Self { binding, gate, function: None, breaker: None, running: 0, tokens, counted_at: now }
    }

    /// Earns tokens up to now: never more than one period's.
    fn earn(&mut self, now: DateTime<Utc>) {
        let Some(rate) = self.gate.rate else { return };
        let passed = (now - self.counted_at).to_std().unwrap_or_default();
        let earned = passed.as_secs_f64() / rate.per.as_secs_f64().max(1e-3) * f64::from(rate.events);
        self.tokens = (self.tokens + earned).min(f64::from(rate.events.max(1)));
        self.counted_at = now;
    }

    fn room(&self, now: DateTime<Utc>) -> u32 {
        let of_breaker = match self.breaker.as_ref().map_or(Room::All, |breaker| breaker.room(now)) {
            Room::All => UNLIMITED,
            Room::One => 1,
            Room::None => 0,
        };
        // Rows that wait for a slot of their function hold room that others could use: a few are enough to keep it busy.
        let of_function = self.function.map(|most| most.saturating_mul(2).max(FEW));
        let most = [self.gate.concurrency, of_function].into_iter().flatten().min();
        let slots = most.map_or(UNLIMITED, |most| most.saturating_sub(self.running));
        let tokens = if self.gate.rate.is_some() { (self.tokens + ROUNDING) as u32 } else { UNLIMITED };
        slots.min(tokens).min(of_breaker)
    }
}

impl Gates {
    /// Bounds a trigger from now on. One that was bounded before keeps what it has running and what it has earned.
    pub(super) fn set(&self, binding: &Binding, gate: Gate, now: DateTime<Utc>) {
        let mut gates = self.gates.write();
        match gates.get_mut(binding) {
            Some(state) => state.gate = gate,
            None if gate == Gate::default() => {}
            None => {
                gates.insert(binding.clone(), State::new(binding, gate, now));
            }
        }
    }

    /// A trigger's gate, once more told what its function allows: that bounds what is claimed for it.
    pub(super) fn of_function(&self, binding: &Binding, route: &Route, now: DateTime<Utc>) -> Gate {
        let concurrency = route.version.load().definition.concurrency;
        let breaker = Some(&route.breaker).filter(|breaker| breaker.is_armed());
        let is_told = |state: &State| {
            state.function == concurrency && state.breaker.as_ref().map(Arc::as_ptr) == breaker.map(Arc::as_ptr)
        };
        match self.gates.read().get(binding) {
            Some(state) if is_told(state) => return state.gate,
            None if concurrency.is_none() && breaker.is_none() => return Gate::default(),
            Some(_) | None => {}
        }
        let mut gates = self.gates.write();
        let state = gates.entry(binding.clone()).or_insert_with(|| State::new(binding, Gate::default(), now));
        state.function = concurrency;
        state.breaker = breaker.cloned();
        state.gate
    }

    /// A trigger's gate.
    pub(super) fn get(&self, binding: &Binding) -> Gate {
        let gates = self.gates.read();
        gates.get(binding).map(|state| state.gate).unwrap_or_default()
    }

    /// Whether rows of a trigger may begin the moment they come: nothing bounds it, and it is not paused.
    pub(super) fn is_open(&self, binding: &Binding, now: DateTime<Utc>) -> bool {
        let is_bounded = |state: &State| {
            let is_shut = state.breaker.as_ref().is_some_and(|breaker| breaker.room(now) != Room::All);
            state.gate.concurrency.is_some() || state.gate.rate.is_some() || state.function.is_some() || is_shut
        };
        !self.gates.read().get(binding).is_some_and(is_bounded) && self.paused(binding).is_none()
    }

    /// How many rows of bounded triggers may be claimed now.
    pub(super) fn limits(&self, now: DateTime<Utc>) -> Vec<(Arc<Binding>, u32)> {
        let mut gates = self.gates.write();
        let limits = gates.values_mut().map(|state| {
            state.earn(now);
            (state.binding.clone(), state.room(now))
        });
        limits.filter(|(_, room)| *room != UNLIMITED).collect()
    }

    /// An attempt of a trigger begins; it is counted until [`ended`](Self::ended). Whether it is bounded at all.
    pub(super) fn began(&self, binding: &Binding) -> bool {
        if self.gates.read().get(binding).is_none() {
            return false;
        }
        let mut gates = self.gates.write();
        let Some(state) = gates.get_mut(binding) else { return false };
        state.running += 1;
        state.tokens = (state.tokens - 1.0).max(0.0);
        true
    }

    /// An attempt that was counted has ended.
    pub(super) fn ended(&self, binding: &Binding) {
        if let Some(state) = self.gates.write().get_mut(binding) {
            state.running = state.running.saturating_sub(1);
        }
    }

    /// How long until a trigger that has used up its rate may go on.
    pub(super) fn next_token(&self) -> Option<Duration> {
        let gates = self.gates.read();
        let waits = gates.values().filter_map(|state| {
            let rate = state.gate.rate.filter(|_| state.tokens + ROUNDING < 1.0)?;
            let one = rate.per.as_secs_f64() / f64::from(rate.events.max(1));
            // Rounded up to what a clock tells apart: a moment too early would be waited for again and again.
            Some(Duration::from_micros((one * (1.0 - state.tokens) * 1e6).ceil() as u64))
        });
        waits.min()
    }

    /// When a function that is not tried now may be probed.
    pub(super) fn next_probe(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let gates = self.gates.read();
        gates.values().filter_map(|state| state.breaker.as_ref()?.opens_at(now)).min()
    }

    /// Why a trigger is paused, as far as this engine knows.
    pub(super) fn paused(&self, binding: &Binding) -> Option<Arc<str>> {
        let paused = self.paused.load();
        // Nearly always there is nothing, and a look costs a hash of three names.
        if paused.is_empty() { None } else { paused.get(binding).cloned() }
    }

    /// What the store says of pauses.
    pub(super) fn learn(&self, pauses: Vec<(Binding, Pause)>) {
        if pauses.is_empty() && self.paused.load().is_empty() {
            return;
        }
        self.paused.store(Arc::new(pauses.into_iter().map(|(binding, pause)| (binding, pause.note.into())).collect()));
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use trigger_core::{Kind, Rate};

    use super::*;
    use crate::executor::{Abi, ModuleSlot};
    use crate::functions::{Definition, Digest, Version};

    fn binding() -> Binding {
        Binding {
            namespace: "default".into(),
            function_name: "f".into(),
            trigger_id: "jobs".into(),
            trigger_type: Kind::Job,
        }
    }

    /// The route of a function that allows so many attempts at once.
    fn route(concurrency: Option<u32>) -> Route {
        let definition = Definition { concurrency, ..Definition::new("default", "f") };
        let module = Arc::new(ModuleSlot::new(Digest([0; 32]), Abi::Component));
        Route::detached(Arc::new(Version::new(uuid::Uuid::nil(), 1, Digest([0; 32]), definition, module)))
    }

    #[test]
    fn a_rate_lets_so_many_begin_in_so_long_and_saves_no_more_than_one_period() {
        let (gates, start) = (Gates::default(), Utc::now());
        let rate = Rate { events: 10, per: Duration::from_secs(1) };
        gates.set(&binding(), Gate { rate: Some(rate), ..Gate::default() }, start);
        let room = |at: DateTime<Utc>| gates.limits(at)[0].1;
        assert_eq!(room(start), 10);
        for _ in 0..10 {
            assert!(gates.began(&binding()));
        }
        assert_eq!(room(start), 0);
        assert_eq!(gates.next_token(), Some(Duration::from_millis(100)));
        assert_eq!(room(start + TimeDelta::milliseconds(250)), 2);
        assert_eq!(room(start + TimeDelta::hours(1)), 10, "an idle hour is no reserve");
        assert_eq!(room(start), 10, "a clock that goes back takes nothing");
    }

    #[test]
    fn the_moment_at_which_a_rate_allows_more_is_never_too_early() {
        for events in [1, 3, 7, 10, 999, 100_000] {
            for seconds in [1, 60, 3600, 86_400] {
                let (gates, start) = (Gates::default(), Utc::now());
                let rate = Rate { events, per: Duration::from_secs(seconds) };
                gates.set(&binding(), Gate { rate: Some(rate), ..Gate::default() }, start);
                (0..events).for_each(|_| assert!(gates.began(&binding())));
                // An odd look in between leaves a part of one behind.
                let mut now = start + TimeDelta::microseconds(7);
                for _ in 0..20 {
                    assert_eq!(gates.limits(now)[0].1, 0, "{events} in {seconds} s");
                    now += gates.next_token().unwrap();
                    assert!(gates.limits(now)[0].1 >= 1, "{events} in {seconds} s");
                    (0..gates.limits(now)[0].1).for_each(|_| assert!(gates.began(&binding())));
                }
            }
        }
    }

    #[test]
    fn a_function_that_is_slow_by_definition_holds_no_room_but_its_own() {
        let (gates, now) = (Gates::default(), Utc::now());
        assert!(gates.is_open(&binding(), now));
        gates.of_function(&binding(), &route(Some(1)), now);
        assert!(!gates.is_open(&binding(), now));
        assert_eq!(gates.limits(now)[0].1, FEW);
        (0..FEW).for_each(|_| assert!(gates.began(&binding())));
        assert_eq!(gates.limits(now)[0].1, 0);
        gates.of_function(&binding(), &route(Some(100)), now);
        assert_eq!(gates.limits(now)[0].1, 200 - FEW);
        gates.of_function(&binding(), &route(None), now);
        assert!(gates.is_open(&binding(), now) && gates.limits(now).is_empty());
    }

    #[test]
    fn attempts_at_once_are_given_back_when_they_end() {
        let (gates, now) = (Gates::default(), Utc::now());
        gates.set(&binding(), Gate { concurrency: Some(2), ..Gate::default() }, now);
        assert!(gates.began(&binding()) && gates.began(&binding()));
        assert_eq!(gates.limits(now)[0].1, 0);
        gates.ended(&binding());
        assert_eq!(gates.limits(now)[0].1, 1);
        gates.set(&binding(), Gate { concurrency: Some(4), ..Gate::default() }, now);
        assert_eq!(gates.limits(now)[0].1, 3, "a new limit knows what runs");
        assert!(!gates.is_open(&binding(), now));
        gates.set(&binding(), Gate::default(), now);
        assert!(gates.is_open(&binding(), now) && gates.limits(now).is_empty());
    }
}
