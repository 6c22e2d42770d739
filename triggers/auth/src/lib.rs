//! Who may come in by a trigger that faces the internet, and how often: what its section says about that, the guard at
//! its door and the counts beside it.
//!
//! ```text
//! request ─► Guard::check ─► (body) ─► Guard::check_body ─► Caller ─► InvocationContext.caller
//!              └──► Denied: 401, 403 or 503, counted ◄──┘
//! ```
//!
//! A guard decides before any guest code runs, and before a body is read wherever the head is enough. It is no trigger:
//! the adapters of HTTP and WebSocket share it. What credentials are checked against is the engine's
//! ([`trigger_core::Credentials`]); this crate keeps none. A route without a guard has none, and pays nothing.

mod basic;
mod bearer;
mod config;
mod guard;
mod jwk;
mod jwt;
mod keys;
mod limit;
mod webhook;

pub use config::{Algorithm, Auth, AuthType, Encoding};
pub use guard::{Caller, Checked, Denied, Guard};
pub use jwk::JwtAlgorithm;
pub use limit::{By, Limiter, RateLimit};
pub use webhook::Signature;
