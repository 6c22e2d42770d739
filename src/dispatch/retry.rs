//! What follows a failed attempt: a decision without clock, randomness of its own or I/O.
//!
//! Nobody else decides a failure's fate, and nobody looks at a message's text for it.

use std::time::Duration;

use trigger_core::{DeadReason, Failure, FailureCode};

use crate::functions::{Backoff, Jitter};

/// The longest delay that anything can ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often and when to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Attempts after the first.
    pub retries: u32,
    /// Delay before the second attempt.
    pub delay: Duration,
    /// How delays grow.
    pub backoff: Backoff,
    /// What an exponential delay is multiplied by each time; at least 1.
    pub factor: f64,
    /// The longest computed delay.
    pub max_delay: Duration,
    /// How delays are spread.
    pub jitter: Jitter,
    /// No attempt begins later than this after the event arrived.
    pub max_age: Option<Duration>,
    /// Codes that are never retried.
    pub except: Vec<FailureCode>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this delay.
    Retry(Duration),
    /// Give up.
    Dead(DeadReason),
}

/// Decides what follows the failure of attempt number `attempt` (from 1) of an event that is `age` old.
///
/// `random` in `0.0..1.0` spreads the delay. A failure's own `retry_after` is honoured as the least delay, up to
/// [`MAX_DELAY`].
pub fn decide(policy: &Policy, attempt: u32, age: Duration, failure: &Failure, random: f64) -> Decision {
    if policy.except.contains(&failure.code) {
        return Decision::Dead(match failure.code {
            FailureCode::Timeout => DeadReason::Timeout,
            FailureCode::Memory => DeadReason::Memory,
            FailureCode::Trap => DeadReason::TrapPoison,
            _ => DeadReason::Permanent,
        });
    }
    if !failure.retryable {
        return Decision::Dead(DeadReason::Permanent);
    }
    if attempt > policy.retries {
        return Decision::Dead(DeadReason::RetriesExhausted);
    }
    let delay = spread(policy.jitter, nominal_delay(policy, attempt), random);
    let delay = delay.max(failure.retry_after.unwrap_or_default()).min(MAX_DELAY);
    match policy.max_age {
        Some(max_age) if age.saturating_add(delay) > max_age => Decision::Dead(DeadReason::AgeExceeded),
        _ => Decision::Retry(delay),
    }
}

/// The delay after attempt number `attempt`, before it is spread; never over `max_delay`.
fn nominal_delay(policy: &Policy, attempt: u32) -> Duration {
    let failed = attempt.max(1);
    let factor = match policy.backoff {
        Backoff::Fixed => 1.0,
        Backoff::Linear => f64::from(failed),
        Backoff::Exponential => policy.factor.powi(i32::try_from(failed - 1).unwrap_or(i32::MAX)),
    };
    let seconds = policy.delay.as_secs_f64() * factor;
    // The power may be infinite (attempt 1,000), and 0 times that is no number at all.
    let seconds = if seconds.is_nan() { 0.0 } else { seconds.min(policy.max_delay.as_secs_f64()) };
    Duration::from_secs_f64(seconds)
}

fn spread(jitter: Jitter, delay: Duration, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    match jitter {
        Jitter::None => delay,
        Jitter::Quarter => delay.mul_f64(0.75 + random / 2.0),
        Jitter::Full => delay.mul_f64(random),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(backoff: Backoff, jitter: Jitter) -> Policy {
        Policy {
            retries: 5,
            delay: Duration::from_secs(1),
            backoff,
            factor: 2.0,
            max_delay: Duration::from_secs(300),
            jitter,
            max_age: None,
            except: Vec::new(),
        }
    }

    fn failure() -> Failure {
        Failure::new(FailureCode::GuestError, "no")
    }

    fn delays(backoff: Backoff) -> Vec<u64> {
        let policy = policy(backoff, Jitter::None);
        (1..=5)
            .map(|attempt| match decide(&policy, attempt, Duration::ZERO, &failure(), 0.5) {
                Decision::Retry(delay) => delay.as_secs(),
                Decision::Dead(reason) => panic!("dead: {reason}"),
            })
            .collect()
    }

    #[test]
    fn delays_grow_as_their_backoff_says() {
        assert_eq!(delays(Backoff::Fixed), [1, 1, 1, 1, 1]);
        assert_eq!(delays(Backoff::Linear), [1, 2, 3, 4, 5]);
        assert_eq!(delays(Backoff::Exponential), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn retries_are_attempts_after_the_first() {
        let mut policy = policy(Backoff::Fixed, Jitter::None);
        policy.retries = 0;
        let decision = decide(&policy, 1, Duration::ZERO, &failure(), 0.0);
        assert_eq!(decision, Decision::Dead(DeadReason::RetriesExhausted));
        policy.retries = 1;
        assert!(matches!(decide(&policy, 1, Duration::ZERO, &failure(), 0.0), Decision::Retry(_)));
        let decision = decide(&policy, 2, Duration::ZERO, &failure(), 0.0);
        assert_eq!(decision, Decision::Dead(DeadReason::RetriesExhausted));
    }

    #[test]
    fn a_permanent_failure_dies_at_once() {
        let decision = decide(&policy(Backoff::Fixed, Jitter::None), 1, Duration::ZERO, &failure().permanent(), 0.0);
        assert_eq!(decision, Decision::Dead(DeadReason::Permanent));
    }

    #[test]
    fn codes_that_are_excepted_die_with_their_own_reason() {
        let mut policy = policy(Backoff::Fixed, Jitter::None);
        for (code, reason) in [
            (FailureCode::Timeout, DeadReason::Timeout),
            (FailureCode::Memory, DeadReason::Memory),
            (FailureCode::Trap, DeadReason::TrapPoison),
            (FailureCode::GuestError, DeadReason::Permanent),
        ] {
            assert!(matches!(decide(&policy, 1, Duration::ZERO, &Failure::new(code, "x"), 0.0), Decision::Retry(_)));
            policy.except = vec![code];
            let decision = decide(&policy, 1, Duration::ZERO, &Failure::new(code, "x"), 0.0);
            assert_eq!(decision, Decision::Dead(reason));
            policy.except.clear();
        }
    }

    #[test]
    fn retry_after_is_the_least_delay_and_capped() {
        let policy = policy(Backoff::Fixed, Jitter::None);
        let hinted = failure().after(Duration::from_secs(20));
        assert_eq!(decide(&policy, 1, Duration::ZERO, &hinted, 0.0), Decision::Retry(Duration::from_secs(20)));
        let hinted = failure().after(Duration::MAX);
        assert_eq!(decide(&policy, 1, Duration::ZERO, &hinted, 0.0), Decision::Retry(MAX_DELAY));
    }

    #[test]
    fn an_attempt_that_would_begin_too_late_is_not_made() {
        let mut policy = policy(Backoff::Fixed, Jitter::None);
        policy.max_age = Some(Duration::from_secs(10));
        assert!(matches!(decide(&policy, 1, Duration::from_secs(9), &failure(), 0.0), Decision::Retry(_)));
        let decision = decide(&policy, 1, Duration::from_millis(9_001), &failure(), 0.0);
        assert_eq!(decision, Decision::Dead(DeadReason::AgeExceeded));
    }

    proptest! {
        #[test]
        fn every_delay_is_within_its_bounds(
            attempt in 1u32..2_000,
            delay_ms in 0u64..100_000_000,
            factor in 1.0f64..100.0,
            max_ms in 0u64..1_000_000_000,
            random in 0.0f64..1.0,
            backoff in prop::sample::select(vec![Backoff::Fixed, Backoff::Linear, Backoff::Exponential]),
            jitter in prop::sample::select(vec![Jitter::None, Jitter::Quarter, Jitter::Full]),
        ) {
            let policy = Policy {
                retries: u32::MAX,
                delay: Duration::from_millis(delay_ms),
                backoff,
                factor,
                max_delay: Duration::from_millis(max_ms),
                jitter,
                max_age: None,
                except: Vec::new(),
            };
            let nominal = nominal_delay(&policy, attempt);
            prop_assert!(nominal <= policy.max_delay);
            prop_assert!(nominal_delay(&policy, attempt + 1) >= nominal, "delays never shrink");
            let Decision::Retry(delay) = decide(&policy, attempt, Duration::ZERO, &failure(), random) else {
                panic!("dead without a reason to be");
            };
            prop_assert!(delay <= policy.max_delay.mul_f64(1.25).min(MAX_DELAY));
            if jitter == Jitter::Quarter {
                prop_assert!(delay >= nominal.mul_f64(0.749).min(MAX_DELAY));
            }
            let again = decide(&policy, attempt, Duration::ZERO, &failure(), random);
            prop_assert_eq!(again, Decision::Retry(delay), "the same input, the same decision");
        }
    }
}
