//! Who may come in by a trigger that faces the internet: what its section says about that, and the guard at its door.
//!
//! ```text
//! request ─► Guard::check ─► Caller ─► InvocationContext.caller
//!              └─► Denied: 401, 403 or 503, counted
//! ```
//!
//! A guard decides before any guest code runs, and before a body is read. It is no trigger: the adapters of HTTP and WebSocket share it. What credentials are checked against is the engine's
//! ([`trigger_core::Credentials`]); this crate keeps none. A route without a guard has none, and pays nothing.

mod basic;
mod bearer;
mod config;
mod guard;

pub use config::{Auth, AuthType};
pub use guard::{Caller, Denied, Guard};
