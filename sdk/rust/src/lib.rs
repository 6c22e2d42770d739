//! Functions for Tripline in Rust.
//!
//! A function is a library of type `cdylib` that names its handler. What the handler answers is the event's outcome:
//! what it asked for (messages, jobs, timers) is released with a success and dropped with a failure.
//!
//! ```no_run
//! use tripline_guest::{Event, Failure, Message, Response};
//!
//! tripline_guest::handler!(greet);
//!
//! fn greet(event: Event) -> Result<Response, Failure> {
//!     let name = event.text()?.trim();
//!     tripline_guest::info!("greeting {name}");
//!     Message::new("greetings.sent", name).publish()?;
//!     Ok(Response::from(format!("Hello, {name}!")).header("content-type", "text/plain; charset=utf-8"))
//! }
//! ```
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//!
//! Compile it for `wasm32-wasip2`, or for `wasm32-unknown-unknown` and make a component of it (`wasm-tools component
//! new`): then it imports what it uses and nothing else.
//!
//! Outside of WebAssembly, where there is no engine, whatever asks the engine panics: keep what you want to test apart
//! from it. [`Event::new`] makes an event for tests.

pub mod environment;
mod event;
mod failure;
pub mod functions;
pub mod http;
pub mod jobs;
pub mod kv;
pub mod log;
mod messages;
mod response;
mod run;
pub mod secrets;
pub mod sockets;
pub mod sql;
pub mod timers;
mod when;

pub use event::{Event, Trigger};
pub use failure::{Failure, HostError, Reason, ResultExt};
pub use functions::Call;
pub use jobs::{Cancelled, Conflict, Job};
pub use messages::{Message, publish_all};
pub use response::Response;
pub use timers::Timer;
pub use when::When;

#[doc(hidden)]
pub use run::run;

/// The world of `wit/`, as it is generated.
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated from wit/, which has the text")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "function",
        pub_export_macro: true,
        default_bindings_module: "tripline_guest::bindings",
    });
}

/// Names the function that handles events: `fn(Event) -> Result<impl Into<Response>, Failure>`.
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        const _: () = {
            struct Exported;

            impl $crate::bindings::Guest for Exported {
                fn handle(
                    context: $crate::bindings::Context,
                    payload: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<u8>, $crate::bindings::Failure> {
                    $crate::run(context, payload, $handle)
                }
            }

    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}
