//! The harness that every story uses: servers of its own, the real binary, waiting with a limit.

#![allow(unreachable_pub, reason = "the stories' common vocabulary reads as such")]

pub mod browser;
pub mod cable;
pub mod engine;
pub mod found;
pub mod nats;
pub mod postgres;
pub mod websocket;

use std::time::{Duration, Instant};

/// How long something may take to come true. Generous, since every core may be busy; a test that waits this long fails.
const EVENTUALLY: Duration = Duration::from_secs(60);

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + EVENTUALLY;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {} s for {what}", EVENTUALLY.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the future gives.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WITHIN, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", WITHIN.as_secs()),
    }
}
