//! Runs the checker.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use stateright::{Checker, HasDiscoveries, Model};

/// A model that the checker can run.
pub(crate) trait Checked:
    Model<State: Explored, Action: Debug + Clone + PartialEq> + Clone + Sync + Send + 'static
{
}
impl<M> Checked for M where M: Model<State: Explored, Action: Debug + Clone + PartialEq> + Clone + Sync + Send + 'static {}

/// What a state must be.
pub(crate) trait Explored: Clone + Debug + PartialEq + Hash + Send + Sync + 'static {}
impl<S> Explored for S where S: Clone + Debug + PartialEq + Hash + Send + Sync + 'static {}

/// Looks at every state. All properties must hold, every "sometimes" must have come about, no step may lead back, and
/// there must be at least `floor` states: a model that can do little proves little.
pub(crate) fn holds<M: Checked>(model: &M, floor: usize) {
    let states = without_cycles(model);
    let checker = model.clone().checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    report(&format!("{} states, at most {} steps deep", checker.unique_state_count(), checker.max_depth()));
    assert_eq!(checker.unique_state_count(), states, "the checker has seen them all");
    assert!(states >= floor, "{states} states are fewer than the {floor} that were there once");
}

/// Looks at every state: these properties are broken in some, and no other is.
pub(crate) fn breaks_just<M: Checked>(model: &M, broken: &[&'static str]) {
    let checker = model.clone().checker().threads(2).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let found: BTreeSet<&str> = model
        .properties()
        .iter()
        .filter(|property| property.expectation.discovery_is_failure() && discoveries.contains_key(property.name))
        .map(|property| property.name)
        .collect();
    assert_eq!(found, broken.iter().copied().collect());
}

/// Looks until `property` is broken, deeper each time, and answers the steps that lead there: none are fewer.
pub(crate) fn breaks<M: Checked>(model: &M, property: &'static str) -> Vec<M::Action> {
    let only = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let mut seen = 0;
    for depth in 1.. {
        let checker = model.clone().checker().finish_when(only.clone()).target_max_depth(depth);
        let checker = checker.spawn_bfs().join();
        if let Some(path) = checker.discoveries().remove(property) {
            let steps = path.into_actions();
            let lines: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            report(&format!("\"{property}\" is broken by\n{}", lines.join("\n")));
            return steps;
        }
        let states = checker.unique_state_count();
        assert_ne!(states, seen, "in none of {states} states this is broken: {property}");
        seen = states;
    }
    unreachable!("there are finitely many states")
}

/// A step of a model.
pub(crate) trait Step {
    /// Something that goes wrong, or that somebody may do or leave. Nothing may wait for it.
    fn is_chance(&self) -> bool;
}

/// Whether anything can be done that is not left to chance.
pub(crate) fn goes_on<M: Model<Action: Step>>(model: &M, state: &M::State) -> bool {
    let mut steps = Vec::new();
    model.actions(state, &mut steps);
    steps.into_iter().any(|step| !step.is_chance() && model.next_state(state, step).is_some())
}

/// How many states there are. None is reached from itself, so that every run comes to where it does not go on.
fn without_cycles<M: Checked>(model: &M) -> usize {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    // By fingerprint: whether the state is on the way that is being walked, or done with.
    let mut on_the_way: HashMap<u64, bool> = HashMap::new();
    let mut way: Vec<(u64, Vec<M::State>)> = vec![(0, model.init_states())];
    while let Some((_, open)) = way.last_mut() {
        let Some(state) = open.pop() else {
            let (done, _) = way.pop().expect("it is the last");
            on_the_way.insert(done, false);
            continue;
        };
        let fingerprint = hasher.hash_one(&state);
        match on_the_way.get(&fingerprint) {
            Some(true) => panic!("a run comes back to {state:#?}"),
            Some(false) => {}
            None => {
                on_the_way.insert(fingerprint, true);
                way.push((fingerprint, model.next_states(&state)));
            }
        }
    }
    // Without the one before the first.
    on_the_way.len() - 1
}

#[expect(clippy::print_stderr, reason = "what was explored is for whoever reads a test's output")]
fn report(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use stateright::Property;

    use super::*;

    /// Counts up to 3, and back to 0 if it may.
    #[derive(Clone)]
    struct Counter {
        wraps: bool,
    }

    impl Model for Counter {
        type State = u8;
        type Action = ();

        fn init_states(&self) -> Vec<u8> {
            vec![0]
        }

        fn actions(&self, _: &u8, actions: &mut Vec<()>) {
            actions.push(());
        }

        fn next_state(&self, state: &u8, (): ()) -> Option<u8> {
            if *state < 3 { Some(state + 1) } else { self.wraps.then_some(0) }
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always("it stays below 3", |_, state: &u8| *state < 3),
                Property::always("it stays below 4", |_, state: &u8| *state < 4),
            ]
        }
    }

    #[test]
    fn states_are_counted() {
        assert_eq!(without_cycles(&Counter { wraps: false }), 4);
    }

    #[test]
    #[should_panic(expected = "a run comes back to 0")]
    fn a_cycle_is_refused() {
        without_cycles(&Counter { wraps: true });
    }

    #[test]
    fn the_way_to_a_broken_property_is_told() {
        assert_eq!(breaks(&Counter { wraps: false }, "it stays below 3").len(), 3);
        breaks_just(&Counter { wraps: false }, &["it stays below 3"]);
    }

    #[test]
    #[should_panic(expected = "in none of 4 states")]
    fn a_property_that_holds_is_not_called_broken() {
        breaks(&Counter { wraps: false }, "it stays below 4");
    }
}
