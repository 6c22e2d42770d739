//! What may be asked of the queue: one set of limits for jobs, timers and whoever else brings events with terms.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{Headers, PRIORITIES, Unique, UniqueScope};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// How far ahead something may be put off.
pub const MAX_AHEAD: TimeDelta = TimeDelta::days(3650);

/// What a moment may lie in the past and still mean now: clocks differ, and requests take their time.
pub const PAST_GRACE: TimeDelta = TimeDelta::minutes(1);

/// The most retries after the first attempt.
pub const MAX_RETRIES: u32 = 1000;

/// The longest that a result is kept, in seconds: a year.
pub const MAX_RESULT_TTL_SECONDS: u32 = 366 * 86_400;

/// The longest media type, in bytes.
pub const MAX_CONTENT_TYPE: usize = 256;

/// The most bytes of headers, names and values together.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Something that cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// Which field.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub why: String,
}

fn invalid<T>(field: &'static str, why: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { field, why: why.into() })
}

/// A key: some text without control characters.
pub fn key(field: &'static str, key: Option<&str>) -> Result<(), Invalid> {
    match key {
        None => Ok(()),
        Some("") => invalid(field, "it is empty; leave it out, or name something"),
        Some(key) if key.len() > MAX_KEY => {
            invalid(field, format!("it has {} bytes, the limit is {MAX_KEY}", key.len()))
        }
        Some(key) if key.chars().any(char::is_control) => invalid(field, "it has a control character"),
        Some(_) => Ok(()),
    }
}

/// A key that comes from outside, as it can be kept: one that is longer than keys may be stands for itself by its
/// digest, so that it is still the same key whenever it comes.
pub fn fit_key(key: Box<str>) -> Box<str> {
    use std::fmt::Write as _;
    if key.len() <= MAX_KEY {
        return key;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let mut text = "sha256:".to_owned();
    for byte in digest.as_ref() {
        let _infallible = write!(text, "{byte:02x}");
    }
    text.into()
}

/// A unique key and the time for which it is held.
pub fn unique(field: &'static str, unique: Option<&Unique>) -> Result<(), Invalid> {
    let Some(unique) = unique else { return Ok(()) };
    key(field, Some(&unique.key))?;
    if unique.scope == UniqueScope::Period(0) {
        return invalid("unique_scope", "a period of 0 seconds is none; it lasts 1 second at least");
    }
    Ok(())
}

/// Headers, as many as a row may carry.
pub fn headers(headers: &Headers) -> Result<(), Invalid> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return invalid("headers", format!("they have {bytes} bytes, the limit is {MAX_HEADER_BYTES}"));
    }
    if headers.iter().any(|(name, _)| name.is_empty() || name.chars().any(|char| char.is_control() || char == ':')) {
        return invalid("headers", "a name is empty, or has a control character or a colon");
    }
    Ok(())
}

/// A media type.
pub fn content_type(content_type: Option<&str>) -> Result<(), Invalid> {
    match content_type {
        Some(text) if text.len() > MAX_CONTENT_TYPE => {
            invalid("content_type", format!("it has {} bytes, the limit is {MAX_CONTENT_TYPE}", text.len()))
        }
        Some(text) if text.chars().any(char::is_control) => invalid("content_type", "it has a control character"),
        _ => Ok(()),
    }
}

/// A priority.
pub fn priority(priority: Option<i8>) -> Result<(), Invalid> {
    match priority.filter(|priority| !PRIORITIES.contains(priority)) {
        None => Ok(()),
        Some(wrong) => {
            invalid("priority", format!("{wrong} is not within {} and {}", PRIORITIES.start(), PRIORITIES.end()))
        }
    }
}

/// A number of retries.
pub fn retry_count(retries: Option<u32>) -> Result<(), Invalid> {
    match retries.filter(|retries| *retries > MAX_RETRIES) {
        None => Ok(()),
        Some(wrong) => invalid("retry_count", format!("{wrong} is too many, the limit is {MAX_RETRIES}")),
    }
}

/// For how long a result is kept.
pub fn result_ttl(seconds: Option<u32>) -> Result<(), Invalid> {
    match seconds.filter(|seconds| *seconds > MAX_RESULT_TTL_SECONDS) {
        None => Ok(()),
        Some(wrong) => {
            let why = format!("{wrong} is too long, the limit is {MAX_RESULT_TTL_SECONDS} (366 days)");
            invalid("result_ttl_seconds", why)
        }
    }
}

/// A moment that is not too far ahead.
pub fn horizon(field: &'static str, moment: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), Invalid> {
    match moment.filter(|moment| *moment - now > MAX_AHEAD) {
        None => Ok(()),
        Some(far) => invalid(field, format!("{far} is more than {} days ahead", MAX_AHEAD.num_days())),
    }
}

/// A moment after which nothing begins: it must leave time for something to.
pub fn expiry(
    expires_at: Option<DateTime<Utc>>,
    run_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), Invalid> {
    let Some(expires_at) = expires_at else { return Ok(()) };
    if expires_at <= now {
        return invalid("expires_at", format!("{expires_at} is over already"));
    }
    match run_at.filter(|run_at| *run_at >= expires_at) {
        None => Ok(()),
        Some(run_at) => invalid("expires_at", format!("{expires_at} is over before it is due at {run_at}")),
    }
}

/// The moment that is so many seconds from now.
pub fn delay(field: &'static str, now: DateTime<Utc>, seconds: f64) -> Result<DateTime<Utc>, Invalid> {
    let delay = Duration::try_from_secs_f64(seconds).ok().and_then(|delay| TimeDelta::from_std(delay).ok());
    match delay {
        None => invalid(field, format!("{seconds} is no time to wait: it is a number of seconds, 0 or more")),
        Some(delay) if delay > MAX_AHEAD => {
            invalid(field, format!("{seconds} seconds are more than {} days", MAX_AHEAD.num_days()))
        }
        Some(delay) => Ok(now + delay),
    }
}

/// A time to wait as people write it: `90s`, `1h 30m`, `10days`, or by ISO 8601 `PT10M`, `P1DT12H`.
pub fn span(text: &str) -> Result<Duration, String> {
    let told = || format!("{text:?} is no duration like \"10m\", \"1h 30m\" or \"PT10M\"");
    match text.strip_prefix('P') {
        None => humantime::parse_duration(text).map_err(|error| format!("{}: {error}", told())),
        Some(iso) => iso_span(iso).ok_or_else(told),
    }
}

/// What follows the `P`: whole numbers of weeks, days, hours and minutes, and seconds. Months and years are no durations.
fn iso_span(text: &str) -> Option<Duration> {
    let (days, time) = text.split_once('T').map_or((text, None), |(days, time)| (days, Some(time)));
    let mut total = Duration::ZERO;
    for (part, units) in
        [(Some(days), &[('W', 604_800), ('D', 86_400)][..]), (time, &[('H', 3600), ('M', 60), ('S', 1)])]
    {
        let Some(mut part) = part else { continue };
        let mut units = units.iter();
        while !part.is_empty() {
            let end = part.find(|char: char| char.is_ascii_alphabetic())?;
            let (number, unit) = (&part[..end], part[end..].chars().next()?);
            let (_, seconds) = units.find(|(known, _)| *known == unit)?;
            if !number.bytes().all(|byte| byte.is_ascii_digit() || (byte == b'.' && unit == 'S')) {
                return None;
            }
            let amount = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * f64::from(*seconds)).ok()?;
            total = total.checked_add(amount)?;
            part = &part[end + 1..];
        }
    }
    let empty = text.is_empty() || time == Some("");
    (!empty).then_some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_and_as_iso_8601_write_them() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("1h 30m", 5400.0),
            ("3d", 259_200.0),
            ("250ms", 0.25),
            ("PT10M", 600.0),
            ("P1DT12H", 129_600.0),
            ("P2W", 1_209_600.0),
            ("PT0.5S", 0.5),
            ("PT1H2M3S", 3723.0),
        ] {
            assert_eq!(span(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in
            ["", "P", "PT", "P1M", "P1Y", "PT5", "PT1M1H", "P1H", "PT-5S", "PT1.5H", "-3s", "3", "PT5S ", "PTéS"]
        {
            assert!(span(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_says_what_could() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(delay("delay_seconds", now, 1.5), Ok(now + TimeDelta::milliseconds(1500)));
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300, 4e8] {
            assert_eq!(delay("delay_seconds", now, seconds).unwrap_err().field, "delay_seconds", "{seconds}");
        }
        assert!(priority(Some(100)).is_ok() && priority(Some(-100)).is_ok() && priority(None).is_ok());
        assert!(priority(Some(101)).unwrap_err().to_string().contains("-100 and 100"));
        assert!(retry_count(Some(MAX_RETRIES)).is_ok() && retry_count(Some(MAX_RETRIES + 1)).is_err());
        assert!(result_ttl(Some(0)).is_ok() && result_ttl(Some(u32::MAX)).is_err());
        assert!(expiry(Some(now), None, now).is_err());
        assert!(expiry(Some(now + PAST_GRACE), Some(now + PAST_GRACE), now).is_err());
        assert!(expiry(Some(now + PAST_GRACE), None, now).is_ok());
        assert!(horizon("run_at", Some(DateTime::<Utc>::MAX_UTC), now).is_err());
        assert!(horizon("run_at", Some(DateTime::<Utc>::MIN_UTC), now).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_is_too_much_for_a_duration(text in "P?[0-9WDTHMS. a-z]{0,20}") {
            let _ = span(&text);
        }
    }
}
