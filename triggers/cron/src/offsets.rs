//! A zone's time line: the stretches in which its clock runs evenly.
//!
//! The IANA database is compiled into chrono-tz, which tells an offset for a moment but not when it ends. A search for
//! instants needs the ends, so each zone's are found once, by looking, and shared.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use parking_lot::Mutex;

const DAY: i64 = 24 * 60 * 60;
/// No instant lies before 1970.
const FIRST: i64 = -2 * DAY;
/// 2101-01-01: the database describes no later change.
const LAST: i64 = 4_133_980_800;
/// No zone lies further from UTC.
pub(crate) const FURTHEST: i64 = 16 * 60 * 60;

/// The offsets of a zone, from 1970 on.
#[derive(Debug)]
pub(crate) struct Offsets {
    /// When each begins, and the seconds to add to UTC from then on.
    changes: Box<[(i64, i32)]>,
}

/// A time in which a zone keeps one offset. Moments are seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: i64,
    /// The first moment after it; `i64::MAX` for the last stretch.
    pub(crate) end: i64,
    pub(crate) offset: i64,
    /// The offset before it; its own for the first stretch.
    pub(crate) before: i64,
    /// The offset after it; its own for the last stretch.
    pub(crate) after: i64,
}

impl Offsets {
    /// The offsets of `zone`.
    pub(crate) fn of(zone: Tz) -> Arc<Self> {
        static KNOWN: LazyLock<Mutex<HashMap<Tz, Arc<Offsets>>>> = LazyLock::new(Mutex::default);
        KNOWN.lock().entry(zone).or_insert_with(|| Arc::new(Self::look_up(zone))).clone()
    }

    fn look_up(zone: Tz) -> Self {
        let offset = |moment: i64| {
            let moment = DateTime::from_timestamp(moment, 0).expect("a moment between 1969 and 2101");
            zone.offset_from_utc_datetime(&moment.naive_utc()).fix().local_minus_utc()
        };
        let (mut at, mut held) = (FIRST, offset(FIRST));
        let mut changes = vec![(i64::MIN, held)];
        while at < LAST {
            let next = at + DAY;
            if offset(next) == held {
                at = next;
                continue;
            }
            // It changes after `same` and not after `other`.
            let (mut same, mut other) = (at, next);
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if offset(middle) == held { same = middle } else { other = middle }
            }
            (at, held) = (other, offset(other));
            changes.push((at, held));
        }
        Self { changes: changes.into() }
    }

    /// The stretch that holds a moment.
    pub(crate) fn at(&self, moment: i64) -> Stretch {
        let index = self.changes.partition_point(|(start, _)| *start <= moment) - 1;
        let offset_of = |index: usize| self.changes.get(index).map(|(_, offset)| i64::from(*offset));
        let (start, offset) = self.changes[index];
        let offset = i64::from(offset);
        Stretch {
            start,
            end: self.changes.get(index + 1).map_or(i64::MAX, |(start, _)| *start),
            offset,
            before: index.checked_sub(1).and_then(offset_of).unwrap_or(offset),
            after: offset_of(index + 1).unwrap_or(offset),
        }
    }
}

impl Stretch {
    /// Whether the wall time of this moment was shown before: the clock had been set back.
    pub(crate) fn is_second_pass(&self, moment: i64) -> bool {
        self.before > self.offset && moment < self.second_pass_end()
    }

    /// The first moment whose wall time is new.
    pub(crate) fn second_pass_end(&self) -> i64 {
        self.start.saturating_add(self.before - self.offset)
    }

    /// Whether the wall time of this moment will be shown again: the clock will be set back.
    pub(crate) fn is_first_pass(&self, moment: i64) -> bool {
        self.after < self.offset && moment >= self.end - (self.offset - self.after)
    }

    /// Whether the clock never shows this wall time (seconds, as if it were UTC): it jumps over it at the end.
    pub(crate) fn skips(&self, wall: i64) -> bool {
        self.end != i64::MAX && (self.end + self.offset..self.end + self.after).contains(&wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paris_keeps_an_offset_for_half_a_year() {
        let offsets = Offsets::of(Tz::Europe__Paris);
        let summer = offsets.at("2026-06-01T00:00:00Z".parse::<DateTime<chrono::Utc>>().unwrap().timestamp());
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339();
        assert_eq!(
            (at(summer.start).as_str(), at(summer.end).as_str()),
            ("2026-03-29T01:00:00+00:00", "2026-10-25T01:00:00+00:00")
        );
        assert_eq!((summer.before, summer.offset, summer.after), (3_600, 7_200, 3_600));
        assert!(summer.is_first_pass(summer.end - 1) && !summer.is_first_pass(summer.end - 3_601));
        let winter = offsets.at(summer.end);
        assert!(winter.is_second_pass(winter.start) && !winter.is_second_pass(winter.start + 3_600));
        let spring = offsets.at(summer.start - 1);
        assert!(spring.skips(spring.end + 3_600) && !spring.skips(spring.end + 7_200));
    }

    #[test]
    fn a_zone_without_changes_is_one_stretch() {
        let only = Offsets::of(Tz::UTC).at(0);
        assert_eq!(only, Stretch { start: i64::MIN, end: i64::MAX, offset: 0, before: 0, after: 0 });
        assert!(!only.is_first_pass(0) && !only.is_second_pass(0) && !only.skips(0));
    }

    #[test]
    fn every_change_of_every_zone_is_seen() {
        for zone in chrono_tz::TZ_VARIANTS {
            let offsets = Offsets::of(zone);
            for pair in offsets.changes.windows(2) {
                let [(_, before), (start, after)] = pair else { unreachable!("windows of two") };
                assert_ne!(before, after, "{zone}");
                let told = |moment: i64| {
                    let moment = DateTime::from_timestamp(moment, 0).unwrap().naive_utc();
                    zone.offset_from_utc_datetime(&moment).fix().local_minus_utc()
                };
                assert_eq!((told(start - 1), told(*start)), (*before, *after), "{zone} at {start}");
                assert!(i64::from(before.abs().max(after.abs())) <= FURTHEST, "{zone}");
            }
        }
    }
}
