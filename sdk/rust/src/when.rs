//! Moments by the engine's clock.

use std::time::{Duration, SystemTime};

use crate::bindings::tripline::function::types::Moment;

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long from now, in whole milliseconds.
    After(Duration),
    /// At this moment, to the millisecond.
    At(SystemTime),
}

impl From<Duration> for When {
    fn from(after: Duration) -> Self {
        When::After(after)
    }
}

impl From<SystemTime> for When {
    fn from(at: SystemTime) -> Self {
        When::At(at)
    }
}

impl From<When> for Moment {
    fn from(when: When) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match when {
            When::After(after) => Moment::After(millis(after)),
            // Before 1970 is as past as 1970.
            When::At(at) => Moment::At(millis(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_whole_milliseconds_and_never_before_1970() {
        assert!(matches!(When::from(Duration::from_micros(1_999)).into(), Moment::After(1)));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2);
        assert!(matches!(When::from(at).into(), Moment::At(2_000)));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(2);
        assert!(matches!(When::from(before).into(), Moment::At(0)));
    }
}
