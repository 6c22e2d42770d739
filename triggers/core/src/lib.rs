//! The contract between an event source and the engine.
//!
//! ```text
//! event source ─► adapter (triggers/<kind>) ─► InvocationContext ─► Dispatch ─► Answer ─► event source
//! ```
//!
//! An adapter is three readable steps: receive an event, build an [`InvocationContext`], tell its source what the
//! [`Answer`] means there (a status, an ack, a frame). It never retries, never counts attempts and never calls a
//! guest: all of that lies behind [`Dispatch`]. This crate knows neither the engine nor any protocol, so that adapters
//! compile without WebAssembly and the engine compiles without adapters.

mod answer;
pub mod bounds;
pub mod bus;
pub mod clock;
pub mod cloud_event;
mod credentials;
mod dispatch;
mod exchange;
mod headers;
mod invocation;
mod jobs;
mod network;
mod pick;
mod problems;
mod sockets;
pub mod subject;
mod terms;
pub mod testing;
mod timers;
mod timetable;
mod trace_context;
mod trigger;
pub mod upgrade;

pub use answer::{Answer, DeadReason, Failure, FailureCode, HttpParts, Response, Shed, SkipReason};
pub use bus::{Bus, Message, Peers};
pub use clock::Clock;
pub use credentials::{Credentials, Token};
pub use dispatch::{Accepted, Cancelled, Dispatch, Gate, Progress, Rate, Refused, SkippedFire, Status, StatusState};
pub use exchange::{BodyError, Exchange, StreamedBody};
pub use headers::Headers;
pub use invocation::{Attribute, Binding, Custody, InvocationContext, Kind};
pub use jobs::{EnqueueError, Jobs, NewJob};
pub use network::{Network, NotANetwork};
pub use pick::Pick;
pub use problems::{Problem, Problems, Step, display_path};
pub use sockets::{
    MAX_ATTACHMENT, MAX_CLOSE_REASON, MAX_SOCKET_NAME, MEMBERS_PAGE, Recipients, SocketCommand, SocketEffect,
    SocketFrame, SocketMember, SocketPeers, Sockets,
};
pub use terms::{Fingerprint, FireCause, Ordering, PRIORITIES, Terms, Unique, UniqueConflict, UniqueScope};
pub use timers::{NewTimer, Timers};
pub use timetable::{MAX_INSTANTS, Timetable};
pub use trace_context::TraceContext;
pub use trigger::{BindError, Finding, Trigger, TriggerContext, TriggerError, TriggerKind};

/// A boxed, sendable future: what the object-safe traits of this crate return.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
