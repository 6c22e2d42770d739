//! `tripline clock`, and what `tripline dev --clock` takes.

use std::str::FromStr;

use chrono::{DateTime, SubsecRound as _, Utc};
use trigger_core::Clock;

/// Which clock an engine goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockArg {
    /// The machine's.
    System,
    /// One that stands still until it is moved: at this moment, or at the present.
    Virtual(Option<DateTime<Utc>>),
}

impl ClockArg {
    /// The clock.
    pub fn clock(self) -> Clock {
        match self {
            Self::System => Clock::system(),
            // To the second, so that what is due in an hour is due at a moment that people can read.
            Self::Virtual(start) => Clock::standing_at(start.unwrap_or(Clock::system().now().trunc_subsecs(0))),
        }
    }
}

impl FromStr for ClockArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "system" => Ok(Self::System),
            None if text == "virtual" => Ok(Self::Virtual(None)),
            Some(("virtual", start)) => match start.parse::<DateTime<Utc>>() {
                Ok(start) => Ok(Self::Virtual(Some(start))),
                Err(error) => Err(format!("{start:?} is no moment like 2027-01-01T00:00:00Z: {error}")),
            },
            _ => Err("expected system, virtual or virtual=2027-01-01T00:00:00Z".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_the_machines_or_stands_at_a_moment() {
        assert_eq!("system".parse(), Ok(ClockArg::System));
        assert_eq!("virtual".parse(), Ok(ClockArg::Virtual(None)));
        let start: DateTime<Utc> = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!("virtual=2027-01-01T01:00:00+01:00".parse(), Ok(ClockArg::Virtual(Some(start))));
        assert_eq!(ClockArg::Virtual(Some(start)).clock().now(), start);
        assert!(ClockArg::System.clock().virtual_time().is_none());
        for bad in ["", "real", "virtual=", "virtual=tomorrow", "virtual=2027-02-30T00:00:00Z", "system=1", "=virtual"]
        {
            assert!(bad.parse::<ClockArg>().is_err(), "{bad:?}");
        }
    }
}
