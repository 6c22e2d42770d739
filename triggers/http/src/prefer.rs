//! `Prefer: wait=N` (RFC 7240): a caller that would rather wait for the result than ask for it.
//!
//! A preference that cannot be read or is too much is no error: it is not applied, or applied as far as it may be, and
//! `Preference-Applied` says which.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

static PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) static PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A wait that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    seconds: u32,
}

impl Wait {
    /// The wait that a request prefers, as far as the route grants one.
    pub(crate) fn of(headers: &HeaderMap, most_seconds: u32) -> Option<Self> {
        let seconds = preferred(headers)?.min(most_seconds);
        (seconds > 0).then_some(Self { seconds })
    }

    /// For how long.
    pub(crate) fn time(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// What the answer says of it.
    pub(crate) fn applied(self) -> HeaderValue {
        HeaderValue::try_from(format!("wait={}", self.seconds)).expect("letters, digits and '=' are visible")
    }
}

/// The seconds of the first `wait` among the preferences (RFC 7240, section 2: the first of a name counts).
fn preferred(headers: &HeaderMap) -> Option<u32> {
    let lines = headers.get_all(&PREFER).iter().filter_map(|line| line.to_str().ok());
    let mut preferences = lines.flat_map(|line| line.split(',')).filter_map(|preference| {
        // What follows a semicolon are parameters, and `wait` has none.
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse().ok())
    });
    preferences.next()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(lines: &[&str]) -> Option<u32> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&PREFER, HeaderValue::from_str(line).unwrap());
        }
        Wait::of(&headers, 30).map(|wait| wait.seconds)
    }

    #[test]
    fn the_first_wait_counts_and_no_more_than_the_route_grants() {
        for (lines, expected) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, WAIT = 10; foo=bar"], Some(10)),
            (&["return=minimal", "wait=\"7\""], Some(7)),
            (&["wait=5, wait=9"], Some(5)),
            (&["wait=3600"], Some(30)),
            (&["wait=0"], None),
            (&["wait=-1"], None),
            (&["wait=99999999999999999999"], None),
            (&["wait"], None),
            (&["await=5"], None),
            (&[], None),
        ] {
            assert_eq!(wait(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_was_granted_is_told() {
        assert_eq!(Wait { seconds: 12 }.applied(), "wait=12");
        assert_eq!(Wait { seconds: 12 }.time(), Duration::from_secs(12));
    }
}
