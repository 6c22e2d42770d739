//! `wasi:logging/logging`: lines for the invocation's trace.

use super::bindings::logging::wasi::logging::logging::{Host, Level};
use crate::executor::guest::Guest;

impl Host for Guest {
    fn log(&mut self, level: Level, context: String, message: String) {
        let level = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            // The trace has no level above it.
            Level::Error | Level::Critical => "error",
        };
        match context.as_str() {
            "" => self.logs.push(level, &message),
            context => self.logs.push(level, &format!("{context}: {message}")),
        }
    }
}
