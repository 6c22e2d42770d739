//! How fast a redrive goes, and when it stops. No clock and no I/O: both are told.

use std::str::FromStr;
use std::time::Duration;

/// How many a second, as in `50/s`, `600/m` or `10/h`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) struct Rate {
    per_second: f64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let wrong = || format!("{typed:?} is no rate; write a number and a unit, like \"50/s\", \"600/m\" or \"10/h\"");
        let (number, unit) = typed.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        if !(number > 0.0 && number <= 1e9) {
            return Err(wrong());
        }
        Ok(Self { per_second: number / seconds })
    }
}

/// Lets so many through in a second: at most a second's worth at once, whatever was not used before.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    room: f64,
    at: Duration,
}

impl Pace {
    /// Begins now, with room for one.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, room: 1.0, at: Duration::ZERO }
    }

    /// How many may go, so long after the beginning.
    pub(super) fn room(&mut self, since_beginning: Duration) -> u64 {
        let most = self.rate.per_second.max(1.0);
        let passed = since_beginning.saturating_sub(self.at);
        self.room = (self.room + passed.as_secs_f64() * self.rate.per_second).min(most);
        self.at = self.at.max(since_beginning);
        self.room as u64
    }

    /// Notes that some went.
    pub(super) fn took(&mut self, count: u64) {
        self.room -= count as f64;
    }

    /// How long until there is room for one. A bit longer rather than a bit less.
    pub(super) fn wait(&self) -> Duration {
        let missing = (1.0 - self.room).max(0.0) / self.rate.per_second;
        Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(1))
    }
}

/// A share of failures, as in `20%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let number = typed.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        match number {
            Some(percent) if (0.0..100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => {
                Err(format!("{typed:?} is no share of failures; write one from \"0%\" to below \"100%\", like \"20%\""))
            }
        }
    }
}

/// The most redriven events that are watched at once.
const MAX_WATCHED: u64 = 1000;

/// Watches what becomes of redriven events, and says when too many have died again.
///
/// Until as many have ended as make a sample, no more than that are redriven; then at most as many as have ended. So
/// a repair that repaired nothing is found out by a sample and not by everything that was dead.
#[derive(Debug)]
pub(super) struct Watch {
    share: Share,
    sample: u64,
    pub(super) under_way: u64,
    pub(super) ended: u64,
    pub(super) died_again: u64,
}

impl Watch {
    pub(super) fn new(share: Share, sample: u64) -> Self {
        Self { share, sample, under_way: 0, ended: 0, died_again: 0 }
    }

    /// How many more may be redriven now.
    pub(super) fn room(&self) -> u64 {
        let known = self.ended + self.died_again;
        let most = match known < self.sample {
            // What is known of a part of the sample says nothing yet, so nothing takes its place.
            true => self.sample - known,
            false => known.min(self.sample.max(MAX_WATCHED)),
        };
        most.saturating_sub(self.under_way)
    }

    /// Notes that some were redriven.
    pub(super) fn redriven(&mut self, count: u64) {
        self.under_way += count;
    }

    /// Notes how some ended.
    pub(super) fn came(&mut self, ended: u64, died_again: u64) {
        self.under_way = self.under_way.saturating_sub(ended + died_again);
        self.ended += ended;
        self.died_again += died_again;
    }

    /// Whether a larger share than was allowed has died again, of a sample that is large enough to say so.
    pub(super) fn is_exceeded(&self) -> bool {
        let known = self.ended + self.died_again;
        known >= self.sample && self.died_again as f64 > self.share.0 * known as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_have_a_number_and_a_unit() {
        for (typed, per_second) in [("50/s", 50.0), ("600/m", 10.0), ("3600/h", 1.0), ("0.5/s", 0.5)] {
            assert_eq!(typed.parse(), Ok(Rate { per_second }));
        }
        for bad in ["", "50", "/s", "50/d", "0/s", "-1/s", "NaN/s", "inf/s", "1e12/s", "5 /x"] {
            assert!(bad.parse::<Rate>().unwrap_err().contains("is no rate"), "{bad}");
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!("20%".parse(), Ok(Share(0.2)));
        assert_eq!("0%".parse(), Ok(Share(0.0)));
        for bad in ["20", "0.2", "100%", "-1%", "NaN%", "%", ""] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pace_lets_through_what_its_rate_says() {
        let mut pace = Pace::new("10/s".parse().unwrap());
        assert_eq!(pace.room(Duration::ZERO), 1, "the first goes at once");
        pace.took(1);
        assert_eq!(pace.room(Duration::ZERO), 0);
        assert!(pace.wait() >= Duration::from_millis(100) && pace.wait() < Duration::from_millis(110));
        assert_eq!(pace.room(Duration::from_millis(550)), 5);
        pace.took(5);
        assert_eq!(pace.room(Duration::from_secs(3600)), 10, "an hour of waiting lets no flood through");
        let slow = Pace::new("1/h".parse().unwrap());
        assert!(slow.wait() < Duration::from_secs(3601));
    }

    proptest! {
        #[test]
        fn no_more_than_the_rate_goes_in_any_time(
            per_second in 0.1..1000.0_f64,
            steps in proptest::collection::vec(0..2_000_u64, 1..50),
        ) {
            let mut pace = Pace::new(Rate { per_second });
            let (mut at, mut gone) = (Duration::ZERO, 0);
            for step in steps {
                at += Duration::from_millis(step);
                let room = pace.room(at);
                pace.took(room);
                gone += room;
                let most = 1.0 + per_second * at.as_secs_f64();
                prop_assert!(gone as f64 <= most + 1e-6, "{gone} of {most} after {at:?}");
                let mut later = Pace { rate: pace.rate, room: pace.room, at };
                prop_assert!(later.room(at + pace.wait()) >= 1, "whoever waits as told finds room");
            }
        }

        #[test]
        fn a_bad_repair_costs_a_sample(
            sample in 1..100_u64,
            share in 0..99_u32,
            deaths in proptest::collection::vec(1..10_u64, 100),
        ) {
            let mut watch = Watch::new(format!("{share}%").parse().unwrap(), sample);
            let mut redriven = 0;
            // However their deaths become known: one by one, or several at once.
            let mut deaths = deaths.into_iter();
            while !watch.is_exceeded() {
                let room = watch.room();
                prop_assert!(room > 0 || watch.under_way > 0);
                watch.redriven(room);
                redriven += room;
                watch.came(0, deaths.next().unwrap().min(watch.under_way));
            }
            prop_assert_eq!(redriven, sample);
        }

        #[test]
        fn a_good_repair_is_never_stopped_and_grows(ends in proptest::collection::vec(1..500_u64, 1..40)) {
            let mut watch = Watch::new("20%".parse().unwrap(), 20);
            for ended in ends {
                let room = watch.room();
                prop_assert!(watch.under_way + room <= MAX_WATCHED);
                watch.redriven(room);
                let ended = ended.min(watch.under_way);
                // One in ten dies again.
                watch.came(ended - ended / 10, ended / 10);
                prop_assert!(!watch.is_exceeded());
                prop_assert!(watch.under_way > 0 || watch.room() >= 20);
            }
        }
    }

    #[test]
    fn the_share_is_judged_on_a_sample_and_must_be_exceeded() {
        let mut watch = Watch::new("20%".parse().unwrap(), 10);
        assert_eq!(watch.room(), 10);
        watch.redriven(10);
        assert_eq!(watch.room(), 0, "the sample's outcome comes first");
        watch.came(0, 3);
        assert!(!watch.is_exceeded(), "three are no sample");
        watch.came(7, 0);
        assert!(watch.is_exceeded());
        let mut watch = Watch::new("20%".parse().unwrap(), 10);
        watch.redriven(10);
        watch.came(8, 2);
        assert!(!watch.is_exceeded(), "a fifth is not more than a fifth");
    }
}
