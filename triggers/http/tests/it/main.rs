//! The HTTP trigger as its callers see it: real sockets where the wire matters, the routing table alone elsewhere.

mod answers;
mod asynchronous;
mod auth;
mod bounds;
mod clients;
mod connections;
mod drain;
mod events;
mod hostile;
mod http2;
mod reload;
mod routing;
mod support;
mod tls;
