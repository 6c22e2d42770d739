//! How often somebody may come: so many in so long, for each caller, address or value of a header.
//!
//! A key has one number, the moment at which it would have used up nothing again (GCRA), so a bucket needs no timer. The
//! memory is bounded: keys live in two generations, and when the newer one is full the older one is forgotten. Whoever
//! comes with ever new keys makes the engine forget those that were quiet for longest, and no more.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::{Problems, Shed, TriggerContext};

use crate::guard::{Caller, Denied};

/// The most keys of a generation.
const MAX_KEYS: usize = 20_000;

/// How often somebody may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many requests, for each key, on each engine.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// In so many seconds, 1 by default.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 86_400))]
    pub per_seconds: u32,
    /// So many of them at once, by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// Whose requests are counted together: those of a `"caller"` (who is not known is counted by its address), of an
    /// `"address"`, or with one value of a `"header"`.
    pub by: By,
    /// With `by = "header"`: the header. Requests without it are counted together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A caller's.
    Caller,
    /// An address's.
    Address,
    /// Those with one value of a header.
    Header,
}

fn one() -> u32 {
    1
}

impl RateLimit {
    /// Finds every mistake that the schema cannot. To be called within the key `rate_limit`.
    pub fn check(&self, problems: &mut Problems) {
        match (&self.header, self.by) {
            (None, By::Header) => problems.add("header", "this key is missing", "name the header: \"x-api-key\""),
            (Some(_), By::Caller | By::Address) => {
                problems.add("header", "only by = \"header\" has use for it", "leave it out, or count by header");
            }
            (Some(name), By::Header) if HeaderName::from_bytes(name.as_bytes()).is_err() => {
                problems.add("header", format!("{name:?} is not the name of a header"), "write it as in \"x-api-key\"");
            }
            _ => {}
        }
        if let Some(burst) = self.burst.filter(|burst| *burst > self.requests) {
            let message = format!("{burst} at once are more than {} in {} s", self.requests, self.per_seconds);
            problems.add("burst", message, "lower it, or raise requests");
        }
    }
}

/// The counts of one running trigger.
pub struct Limiter {
    by: By,
    header: Option<HeaderName>,
    /// Nanoseconds in which one more may come.
    interval: i64,
    /// How far ahead of the present the number of a key may be: what may come at once.
    ahead: i64,
    hasher: RandomState,
    keys: Mutex<Keys>,
    cx: TriggerContext,
}

#[derive(Default)]
struct Keys {
    newer: HashMap<u64, i64>,
    older: HashMap<u64, i64>,
}

impl Limiter {
    /// The counts of a trigger.
    pub fn new(limit: &RateLimit, cx: &TriggerContext) -> Self {
        let interval = i64::from(limit.per_seconds) * 1_000_000_000 / i64::from(limit.requests);
        Self {
            by: limit.by,
            header: limit.header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()),
            interval,
            ahead: interval * (i64::from(limit.burst.unwrap_or(limit.requests)) - 1),
            hasher: RandomState::new(),
            keys: Mutex::default(),
            cx: cx.clone(),
        }
    }

    /// Counts a request by its head, before anybody looks at who calls.
    pub fn check_head(&self, headers: &HeaderMap, address: Option<&str>) -> Result<(), Denied> {
        match self.by {
            By::Caller => Ok(()),
            By::Address => self.count(address.map(str::as_bytes)),
            By::Header => {
                let value = self.header.as_ref().and_then(|name| headers.get(name));
                self.count(value.map(http::HeaderValue::as_bytes))
            }
        }
    }

    /// Counts a request by its caller, where that is what is counted by.
    pub fn check_caller(&self, caller: Option<&Caller>, address: Option<&str>) -> Result<(), Denied> {
        match (self.by, caller) {
            (By::Caller, Some(caller)) => self.count(Some(caller.name.as_bytes())),
            (By::Caller, None) => self.count(address.map(str::as_bytes)),
            _ => Ok(()),
        }
    }

    fn count(&self, key: Option<&[u8]>) -> Result<(), Denied> {
        let now = self.cx.clock.now().timestamp_nanos_opt().unwrap_or(i64::MAX / 2);
        let key = self.hasher.hash_one(key);
        let admitted =
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).admit(key, now, self.interval, self.ahead);
        admitted.map_err(|wait| {
            self.cx.dispatch.count_shed(&self.cx.binding, Shed::RateLimited, 1);
            let retry_after = Duration::from_nanos(wait.unsigned_abs());
            Denied {
                reason: Shed::RateLimited,
                detail: Shed::RateLimited.detail().into(),
                challenge: None,
                retry_after,
            }
        })
    }
}

impl Keys {
    /// Counts one more of a key, or says how many nanoseconds are to be waited before.
    fn admit(&mut self, key: u64, now: i64, interval: i64, ahead: i64) -> Result<(), i64> {
        let known = self.newer.get(&key).or_else(|| self.older.get(&key)).copied();
        // Not further ahead than it can be, or a clock that was set back would keep a key out until it is there again.
        let free_at = known.map_or(now, |free_at| free_at.clamp(now, now + ahead + interval));
        let wait = free_at - now - ahead;
        let counted = if wait > 0 { free_at } else { free_at + interval };
        // Also where it is refused: who comes again and again is not to be forgotten.
        if self.newer.len() >= MAX_KEYS && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, counted);
        if wait > 0 { Err(wait) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::testing::FakeDispatch;
    use trigger_core::{Clock, Kind};

    fn limit(section: serde_json::Value) -> RateLimit {
        serde_json::from_value(section).unwrap()
    }

    fn at(seconds: f64) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_millis(1_800_000_000_000 + (seconds * 1000.0) as i64).unwrap()
    }

    fn limiter(section: serde_json::Value) -> (Limiter, Clock, std::sync::Arc<FakeDispatch>) {
        let (dispatch, clock) = (FakeDispatch::echo(), Clock::standing_at(at(0.0)));
        let cx = TriggerContext { clock: clock.clone(), ..dispatch.context(Kind::Http, "http") };
        (Limiter::new(&limit(section), &cx), clock, dispatch)
    }

    fn pass(clock: &Clock, seconds: f64) {
        clock.virtual_time().unwrap().step(at(seconds)).unwrap();
    }

    #[test]
    fn so_many_come_in_so_long_and_are_told_when_to_come_again() {
        let (limiter, clock, dispatch) =
            limiter(serde_json::json!({ "requests": 4, "per_seconds": 2, "burst": 2, "by": "address" }));
        let come = |address| limiter.check_head(&HeaderMap::new(), Some(address)).map_err(|denied| denied.retry_after);
        assert_eq!([come("a"), come("a"), come("b")], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(come("a"), Err(Duration::from_millis(500)));
        assert_eq!(come("b"), Ok(()));
        pass(&clock, 0.4);
        assert_eq!(come("a"), Err(Duration::from_millis(100)), "being refused costs nothing");
        pass(&clock, 0.5);
        assert_eq!([come("a"), come("a")], [Ok(()), Err(Duration::from_millis(500))]);
        pass(&clock, 60.0);
        assert_eq!([come("a"), come("a"), come("a")], [Ok(()), Ok(()), Err(Duration::from_millis(500))]);
        assert_eq!(dispatch.shed(), [(Shed::RateLimited, 1); 4]);
    }

    #[test]
    fn requests_are_counted_by_what_the_limit_says() {
        let caller = |name: &str| Caller { name: name.into(), claims: None };
        let (by_caller, ..) = limiter(serde_json::json!({ "requests": 1, "by": "caller" }));
        assert!(by_caller.check_head(&HeaderMap::new(), Some("a")).is_ok());
        assert!(by_caller.check_caller(Some(&caller("alice")), Some("a")).is_ok());
        assert!(by_caller.check_caller(Some(&caller("alice")), Some("b")).is_err());
        assert!(by_caller.check_caller(Some(&caller("bob")), Some("a")).is_ok());
        assert!(by_caller.check_caller(None, Some("a")).is_ok());
        assert!(by_caller.check_caller(None, Some("a")).is_err());
        let (by_header, ..) = limiter(serde_json::json!({ "requests": 1, "by": "header", "header": "X-Key" }));
        let with = |value: &str| HeaderMap::from_iter([(HeaderName::from_static("x-key"), value.parse().unwrap())]);
        assert!(by_header.check_head(&with("one"), Some("a")).is_ok());
        assert!(by_header.check_head(&with("two"), Some("a")).is_ok());
        assert!(by_header.check_head(&with("one"), Some("b")).is_err());
        assert!(by_header.check_head(&HeaderMap::new(), Some("a")).is_ok());
        assert!(by_header.check_head(&HeaderMap::new(), Some("b")).is_err(), "without it all are one");
    }

    #[test]
    fn ever_new_keys_take_no_more_memory_and_the_busy_one_stays_known() {
        let mut keys = Keys::default();
        assert_eq!(keys.admit(u64::MAX, 0, 1, 0), Ok(()));
        for key in 0..10 * MAX_KEYS as u64 {
            assert_eq!(keys.admit(key, 0, 1_000_000_000, 0), Ok(()));
            // It comes again and again, a nanosecond in each.
            let now = key as i64 / 1000;
            let _counted = keys.admit(u64::MAX, now, 1, 0);
            assert!(keys.newer.len() <= MAX_KEYS && keys.older.len() <= MAX_KEYS);
        }
        assert!(keys.newer.contains_key(&u64::MAX) || keys.older.contains_key(&u64::MAX));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out_for_longer_than_the_limit() {
        let (mut keys, hour) = (Keys::default(), 3_600_000_000_000);
        assert_eq!(keys.admit(1, hour, 10, 0), Ok(()));
        assert_eq!(keys.admit(1, 0, 10, 0), Err(10));
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        for (section, expected) in [
            (serde_json::json!({ "requests": 1, "by": "header", "header": "x-key" }), None),
            (serde_json::json!({ "requests": 1, "by": "header" }), Some("header")),
            (serde_json::json!({ "requests": 1, "by": "header", "header": "x key" }), Some("header")),
            (serde_json::json!({ "requests": 1, "by": "caller", "header": "x-key" }), Some("header")),
            (serde_json::json!({ "requests": 1, "burst": 2, "by": "caller" }), Some("burst")),
        ] {
            let mut problems = Problems::new();
            limit(section.clone()).check(&mut problems);
            let found = problems.into_vec().pop().map(|problem| trigger_core::display_path(&problem.path).to_string());
            assert_eq!(found.as_deref(), expected, "{section}");
        }
    }
}
