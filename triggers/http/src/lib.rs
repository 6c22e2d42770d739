//! HTTP as an event source: routes that lead to functions, and the public listener in front of them.
//!
//! ```text
//! socket ─► Server ─► Routes::handle ─► Route ─► InvocationContext ─► Dispatch ─► Answer ─► response
//!           bounds    method and path    body                                     status table
//! ```
//!
//! [`Server`] owns sockets and what a caller may cost. [`Routes`] is the table between it and the triggers: a trigger
//! of the kind [`Http`] puts a route in when it runs and takes it out when it stops, so that functions come and go
//! while requests are answered. This crate never runs a function, never retries, and knows no engine but the contract
//! in `trigger-core`. README.md has the promise, the keys and the statuses.
//!
//! It stands on hyper alone, without a web framework: the routes are not known at compile time, and what a framework
//! would add to every request is most of what the engine may cost.

mod answer;
mod body;
mod cloud_events;
mod conditions;
mod config;
mod cors;
mod handle;
mod idempotency;
mod invocations;
mod pattern;
mod peer;
mod prefer;
mod problem;
mod refusals;
mod request_id;
mod routes;
mod server;
mod stream;
mod trees;
mod trigger;
mod upgrade;

pub use config::{Config, Methods, Mode};
pub use cors::CorsSection;
pub use peer::{ForwardHeader, Trust};
pub use routes::Routes;
pub use server::{Certificates, Error, Server, ServerConfig, TlsError, TlsFiles};
pub use stream::ResponseBody;
pub use trigger::{Bound, Http};
