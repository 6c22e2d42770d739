//! From what went wrong in wasmtime to a failure with a stable code.

use std::fmt::Write as _;

use trigger_core::{Failure, FailureCode};
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use super::guest::Guest;
use super::logs::prefix;

/// The longest message of a failure, in bytes.
pub(super) const MAX_MESSAGE: usize = 4 << 10;

/// Frames of a backtrace that a message tells.
const MAX_FRAMES: usize = 8;

/// What an error of a call or an instantiation means.
pub(super) fn classify(error: &wasmtime::Error, guest: &Guest) -> Failure {
    if let Some(breach) = &guest.breach {
        return over_budget(breach);
    }
    if let Some(refused) = &guest.limits.refused {
        return Failure::new(FailureCode::Memory, refused.clone());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return timeout(guest.version.definition.timeout_seconds),
        Some(Trap::OutOfFuel) => return out_of_fuel(guest),
        Some(trap) => {
            let mut message = trap.to_string();
            write_frames(&mut message, error);
            return Failure::new(FailureCode::Trap, bounded(&message));
        }
        None => {}
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return no_room();
    }
    let text = error.root_cause().to_string();
    if text.contains("fuel allocated for hostcalls") {
        let message = format!("the guest handed over more than {} bytes at once", guest.handover_limit());
        return Failure::new(FailureCode::BadOutput, message);
    }
    // What is left are host functions that would not go on: an interface was used against its rules.
    let mut message = text;
    write_frames(&mut message, error);
    Failure::new(FailureCode::Trap, bounded(&message))
}

fn out_of_fuel(guest: &Guest) -> Failure {
    let fuel = guest.version.definition.max_fuel.unwrap_or_default();
    Failure::new(FailureCode::Fuel, format!("the guest used up its fuel, {fuel} units (max_fuel)"))
}

/// The attempt used more than its definition's `budget` allows.
pub(super) fn over_budget(breach: &str) -> Failure {
    Failure::new(FailureCode::Fuel, breach.to_owned())
}

/// The pool has no instance left.
pub(super) fn no_room() -> Failure {
    Failure::new(FailureCode::HostError, "no instance is free: raise max_concurrency")
}

/// The attempt reached its deadline.
pub(super) fn timeout(seconds: f64) -> Failure {
    Failure::new(FailureCode::Timeout, format!("the guest ran longer than its {seconds} s"))
}

/// The executor panicked. That is ours, whatever the guest did to cause it.
pub(super) fn panicked() -> Failure {
    Failure::new(FailureCode::HostError, "the engine failed while it ran the guest")
}

fn write_frames(message: &mut String, error: &wasmtime::Error) {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return };
    for frame in backtrace.frames().iter().take(MAX_FRAMES) {
        let name = frame.func_name().unwrap_or("?");
        let _ = write!(message, "\n  at {}", prefix(name, 200));
    }
}

/// A guest's text as a message: of bounded length, without what would move a terminal's cursor.
pub(super) fn bounded(text: &str) -> String {
    prefix(text, MAX_MESSAGE)
        .chars()
        .map(|char| if char.is_control() && char != '\n' && char != '\t' { char::REPLACEMENT_CHARACTER } else { char })
        .collect()
}
