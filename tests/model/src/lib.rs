//! A model of the protocols that the store's statements make together, checked by [stateright]: every interleaving of
//! every step, within bounds, instead of those that a test happened to meet.
//!
//! - `queue`: events are accepted, claimed under a token and a lease, renewed, settled; keys keep their order; dead
//!   letters go through the outbox; nodes crash, are slow, and read clocks that differ.
//! - `cron`: several nodes decide about the same instants of a schedule.
//!
//! A step of a model is one statement (or one transaction) of the store, or one thing that happens outside of it. What
//! one statement does for many rows is one step for each of them here: more interleavings than there are, none fewer.
//! Which statement each step stands for is told in `docs/architecture.md`, "What is model-checked".
//!
//! What a model leaves out it cannot find: payloads, retention, the SQL itself. That the statements do what the steps
//! say is the business of the store's conformance suite.
//!
//! **Mistakes.** Each model can be told to get one thing wrong, and each mistake has a test that demands the property
//! it breaks. A model in which a mistake goes unnoticed proves nothing.
//!
//! **Bounds.** What is left to chance has a budget (so many crashes, leases that run out under their worker, answers
//! lost, cancels, …). Time is told as what is left of each lease and wait, and tokens that everybody has forgotten are
//! used again, so that neither needs a bound. The graph of states is finite then and has no cycles, which every test
//! that looks at all of them checks: each run comes to a state where nothing goes on that is not left to chance. That
//! everything has ended there is what "eventually" means here; no run may need a crash or a cancel to come to its end.
//!
//! [stateright]: https://docs.rs/stateright

#[cfg(test)]
mod check;
#[cfg(test)]
mod cron;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod set;
