//! The pub/sub trigger on a bus in memory, in front of a dispatch that answers as told. What NATS adds is tested by the
//! engine's own stories, over a real server.

mod config;
mod subject;
mod support;
