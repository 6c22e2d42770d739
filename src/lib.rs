//! Tripline: an event-driven trigger engine.
//!
//! ```text
//! event source ─► adapter ─► InvocationContext ─► dispatch ─► executor ─► guest
//! ```
//!
//! The modules in the order of that picture; `docs/architecture.md` walks it with reasons. The adapters are crates of
//! their own (`triggers/*`) that this library does not know: the binary adds them to [`kinds::Kinds`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make moments of the machine's own clock"))]

pub mod config;
pub mod databases;
pub mod kinds;
pub mod local;

pub mod egress;
pub mod filter;
pub mod functions;
pub mod payload_schema;
pub mod secrets;

pub mod credentials;
pub mod tokens;

pub mod demands;
pub mod dispatch;
pub mod executor;
pub mod relay;

pub mod bus;
pub mod store;
pub mod traces;

pub mod supervisor;

pub mod advance;
pub mod engine;
pub mod housekeeping;

pub mod admin;
pub mod cli;
pub mod telemetry;
pub mod watch;
