//! What a function is told of a socket.

use bytes::Bytes;
use trigger_core::{Custody, InvocationContext};

use crate::config::Event;
use crate::endpoint::Serving;
use crate::socket::Socket;

/// An event of a socket: its attributes are those of the request that opened it, `event` and `socket`.
pub(crate) fn of(socket: &Socket, serving: &Serving, event: Event, payload: Bytes) -> InvocationContext {
    let mut invocation = serving.cx.event(Custody::Caller, payload);
    invocation.subject = socket.path.clone();
    invocation.caller.clone_from(&socket.caller);
    invocation.ws_client_id = Some(socket.id.to_string().into());
    let own = [("event".into(), event.as_str().to_owned()), ("socket".into(), socket.id.to_string())];
    invocation.attributes = socket.attributes.iter().cloned().chain(own).collect();
    invocation
}

/// A message.
pub(crate) fn message(socket: &Socket, serving: &Serving, text: bool, payload: Bytes) -> InvocationContext {
    let mut invocation = of(socket, serving, Event::Message, payload);
    let (opcode, content_type) = match text {
        true => ("text", "text/plain; charset=utf-8"),
        false => ("binary", "application/octet-stream"),
    };
    invocation.attributes.push(("opcode".into(), opcode.to_owned()));
    invocation.content_type = Some(content_type.into());
    invocation
}

/// The end of a socket, or what broke it: by which code, and why.
pub(crate) fn end(socket: &Socket, serving: &Serving, event: Event, code: u16, reason: &str) -> InvocationContext {
    let mut invocation = of(socket, serving, event, Bytes::new());
    invocation.attributes.extend([("code".into(), code.to_string()), ("reason".into(), reason.to_owned())]);
    invocation
}
