//! Says what it is told to every socket of its function, in one call: the least that a broadcast can be, so that a
//! benchmark of it measures the engine.

use tripline_guest::sockets::Sockets;
use tripline_guest::{Event, Failure, Response};

tripline_guest::handler!(broadcast);

fn broadcast(event: Event) -> Result<Response, Failure> {
    Sockets::of(event.function_name()).to_everyone(event.text()?)?;
    Ok(Response::new(""))
}
