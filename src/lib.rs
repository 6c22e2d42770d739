//! x
pub mod dispatch;
pub mod executor;
pub mod functions;
pub mod store;
pub mod telemetry;
pub mod traces;
