//! WebSocket as an event source: sockets that the engine holds, and functions that are called for what comes over them.
//!
//! ```text
//! request ─► Endpoint::upgrade ─► connection::serve ─► InvocationContext ─► Dispatch ─► Answer ─► frame
//!            origin · connect      one task a socket     one at a time
//!                                      ▲
//!            Hub (rooms, tags) ────────┘ frames from functions of any trigger
//! ```
//!
//! A socket belongs to its [`Hub`] and not to the run of its trigger: a function may be swapped and a trigger's keys
//! changed under it. Between two messages it is a task, a buffer and an entry, and no instance of a guest. This crate
//! never runs a function, never retries, and knows of HTTP what `trigger_core::upgrade` says. README.md has the promise,
//! the keys and the close codes.

mod cluster;
mod config;
mod connection;
mod endpoint;
mod event;
mod frame;
mod handshake;
mod hub;
mod mark;
mod peers;
mod reply;
mod room;
mod socket;
mod trigger;
mod wire;

pub use config::{Config, Event, OnFailure, SlowConsumer};
pub use hub::Hub;
pub use trigger::{Bound, Websocket};
