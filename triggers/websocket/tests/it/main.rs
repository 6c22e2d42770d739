//! Sockets over a real listener, a fake engine behind them, and clients that speak the protocol or break it.

mod bad_input;
mod bounds;
mod callers;
mod cases;
mod events;
mod lifetime;
mod rooms;
mod shared;
mod support;
