//! `@every`: intervals counted from the Unix epoch, so that nodes agree on the instants without talking.

use crate::Error;

const MAX_SECONDS: i64 = 365 * 24 * 60 * 60;
const WORD: &str = "@every";

/// Instants at every multiple of some seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Every {
    seconds: i64,
}

/// Whether `text` is meant as an interval.
pub(crate) fn is_every(text: &str) -> bool {
    text.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(WORD))
}

impl Every {
    /// Reads what follows the word `@every`: `90s`, `5m`, `1h30m`, `7d`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let interval = text.trim().get(WORD.len()..).unwrap_or_default().trim();
        let seconds = total_seconds(interval)?;
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(Error::schedule(
                format!("the interval {interval:?} is out of range"),
                "an interval runs from 1s to 365d",
            ));
        }
        Ok(Self { seconds })
    }

    /// The first multiple after `after`, both in seconds since the epoch; `None` past the end of time.
    pub(crate) fn next_after(self, after: i64) -> Option<i64> {
        after.div_euclid(self.seconds).checked_add(1)?.checked_mul(self.seconds)
    }
}

/// The sum of the amounts, held at `i64::MAX` where it would not fit: the caller's range then refuses it.
fn total_seconds(interval: &str) -> Result<i64, Error> {
    let malformed = |why: String| {
        Err(Error::schedule(why, "write whole numbers with units s, m, h or d: \"@every 90s\", \"@every 1h30m\""))
    };
    if interval.is_empty() {
        return malformed("\"@every\" names no interval".to_owned());
    }
    let mut total = 0_i64;
    let mut rest = interval;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (amount, tail) = rest.split_at(digits);
        if amount.is_empty() {
            return malformed(format!("the interval {interval:?} has no number at {rest:?}"));
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            "" => return malformed(format!("the interval {interval:?} has no unit after {amount:?}")),
            other => return malformed(format!("the interval {interval:?} has an unknown unit {other:?}")),
        };
        // Only digits: a number that does not parse is too large.
        let amount: i64 = amount.parse().unwrap_or(i64::MAX);
        total = total.saturating_add(amount.saturating_mul(unit_seconds));
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        for (text, seconds) in [
            ("@every 90s", 90),
            ("@every 5m", 300),
            ("@EVERY  1h30m", 5_400),
            ("@every 1d", 86_400),
            ("@every 365d", MAX_SECONDS),
            ("@every 1s", 1),
        ] {
            assert_eq!(Every::parse(text), Ok(Every { seconds }), "{text}");
        }
    }

    #[test]
    fn what_is_no_interval_is_refused() {
        for (text, message) in [
            ("@every", "\"@every\" names no interval"),
            ("@every 0s", "the interval \"0s\" is out of range"),
            ("@every 366d", "the interval \"366d\" is out of range"),
            ("@every 365d1s", "the interval \"365d1s\" is out of range"),
            ("@every 99999999999999999999d", "the interval \"99999999999999999999d\" is out of range"),
            ("@every 500ms", "the interval \"500ms\" has an unknown unit \"ms\""),
            ("@every 1.5s", "the interval \"1.5s\" has an unknown unit \".\""),
            ("@every 90", "the interval \"90\" has no unit after \"90\""),
            ("@every -5m", "the interval \"-5m\" has no number at \"-5m\""),
            ("@every 5 m", "the interval \"5 m\" has an unknown unit \" m\""),
            ("@every 1ü", "the interval \"1ü\" has an unknown unit \"ü\""),
        ] {
            assert_eq!(Every::parse(text).unwrap_err().message, message);
        }
    }

    #[test]
    fn instants_are_multiples_since_the_epoch_whoever_asks() {
        let every = Every::parse("@every 90s").unwrap();
        assert_eq!(every.next_after(0), Some(90), "strictly after");
        assert_eq!(every.next_after(89), Some(90));
        assert_eq!(every.next_after(-1), Some(0));
        assert_eq!(every.next_after(i64::MAX), None);
    }
}
