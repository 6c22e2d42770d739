//! Lines for the invocation's trace, by the macros [`info!`](crate::info), [`warn!`](crate::warn), … or [`write()`].

use std::fmt::Arguments;

use crate::bindings::tripline::function::log;

/// How much a line matters.
pub use crate::bindings::tripline::function::log::Level;

/// Logs a line. The engine keeps as many as the definition's `max_log_lines` and `max_log_bytes` allow.
pub fn write(level: Level, line: Arguments<'_>) {
    match line.as_str() {
        Some(line) => log::write(level, line),
        None => log::write(level, &line.to_string()),
    }
}

/// Logs a line of level `trace`, as [`format!`] makes it.
#[macro_export]
macro_rules! trace {
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::std::format_args!($($line)+)) };
}

/// Logs a line of level `debug`, as [`format!`] makes it.
#[macro_export]
macro_rules! debug {
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::std::format_args!($($line)+)) };
}

/// Logs a line of level `info`, as [`format!`] makes it.
#[macro_export]
macro_rules! info {
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Info, ::std::format_args!($($line)+)) };
}

/// Logs a line of level `warn`, as [`format!`] makes it.
#[macro_export]
macro_rules! warn {
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::std::format_args!($($line)+)) };
}

/// Logs a line of level `error`, as [`format!`] makes it.
#[macro_export]
macro_rules! error {
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Error, ::std::format_args!($($line)+)) };
}
