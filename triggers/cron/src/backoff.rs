//! How long to wait before a refused fire is offered again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait: between half and all of the doubled one, so that triggers refused together do not return
    /// together, yet as long as the refusal asked for. Never over 5 s.
    pub(crate) fn delay(&mut self, asked_for: Duration) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        full.mul_f64(0.5 + 0.5 * fastrand::f64()).max(asked_for.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_within_bounds_and_honour_what_was_asked_for(asked_ms in 0_u64..20_000, tries in 1_u32..40) {
            let asked_for = Duration::from_millis(asked_ms);
            let mut backoff = Backoff::default();
            for number in 0..tries {
                let full = (FIRST * 2_u32.pow(number.min(10))).min(LONGEST);
                let wait = backoff.delay(asked_for);
                prop_assert!(wait >= full / 2 && wait >= asked_for.min(LONGEST));
                prop_assert!(wait <= full.max(asked_for.min(LONGEST)));
            }
        }
    }
}
