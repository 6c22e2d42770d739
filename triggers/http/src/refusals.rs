//! What was refused before any function heard of it: how often, and why.
//!
//! A connection that is refused belongs to no function, so this is beside the engine's ledger and not in it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why, in a connection's words: a stable code. Requests are refused by the code of their problem.
pub(crate) const MALFORMED: &str = "malformed";
pub(crate) const HEADERS_TOO_LARGE: &str = "headers_too_large";
pub(crate) const REQUEST_LATE: &str = "request_late";
pub(crate) const HANDSHAKE: &str = "tls_handshake";
pub(crate) const PROXY_HEADER: &str = "proxy_header";
pub(crate) const FLOOD: &str = "http2_flood";
pub(crate) const NOT_TAKEN: &str = "response_not_taken";

const REASONS: [&str; 18] = [
    MALFORMED,
    HEADERS_TOO_LARGE,
    REQUEST_LATE,
    HANDSHAKE,
    PROXY_HEADER,
    FLOOD,
    NOT_TAKEN,
    "not_found",
    "method_not_allowed",
    "too_large",
    "body_timeout",
    "invalid_body",
    "invalid_json",
    "invalid_host",
    "invalid_path",
    "invalid_idempotency_key",
    "shutting_down",
    OTHER,
];
const OTHER: &str = "other";

/// How often each was the reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; REASONS.len()]);

impl Refusals {
    pub(crate) fn count(&self, reason: &str) {
        let place = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len() - 1);
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        REASONS.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_has_no_count_of_its_own_is_another() {
        let refusals = Refusals::default();
        for reason in [MALFORMED, "too_large", "too_large", "a new one"] {
            refusals.count(reason);
        }
        let counted: Vec<_> = refusals.read().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(MALFORMED, 1), ("too_large", 2), (OTHER, 1)]);
    }
}
