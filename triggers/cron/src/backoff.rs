//! How long to wait before a refused fire is offered again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The wait after so many refusals in a row (0 for the first): 100 ms, doubled up to 5 s, of which between half and
/// all, so that triggers refused together do not return together; yet as long as the refusal asked for, up to 5 s.
pub(crate) fn delay(refused_before: u32, asked_for: Duration) -> Duration {
    let full = (FIRST * 2_u32.pow(refused_before.min(10))).min(LONGEST);
    full.mul_f64(0.5 + 0.5 * fastrand::f64()).max(asked_for.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_within_bounds_and_honour_what_was_asked_for(asked_ms in 0_u64..20_000, refused in 0_u32..40) {
            let asked_for = Duration::from_millis(asked_ms);
            let full = (FIRST * 2_u32.pow(refused.min(10))).min(LONGEST);
            let wait = delay(refused, asked_for);
            prop_assert!(wait >= full / 2 && wait >= asked_for.min(LONGEST));
            prop_assert!(wait <= full.max(asked_for.min(LONGEST)));
        }
    }
}
