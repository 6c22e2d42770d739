//! One call of the guest, from what the engine hands over to what it is answered.

use std::sync::Once;

use crate::bindings::{self, Context};
use crate::{Event, Failure, Response, log};

/// Calls the handler. For the macro [`handler!`](crate::handler).
pub fn run<R: Into<Response>>(
    context: Context,
    payload: Vec<u8>,
    handle: impl FnOnce(Event) -> Result<R, Failure>,
) -> Result<Vec<u8>, bindings::Failure> {
    tell_of_panics();
    let answered = handle(Event::of(context, payload)).and_then(|response| response.into().hand_over());
    answered.map_err(Failure::into)
}

/// A panic ends in a trap, which tells nothing: its message is logged before.
fn tell_of_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, format_args!("{panic}"))));
    });
}
