//! How far something is known: of each engine, the number of the last that it said.
//!
//! Engines that share sockets number what they say, each for itself, and hear each other's in that order, but not in one
//! order together. So a place among the messages of a room is a number for each of them. An engine that shares its
//! sockets with nobody has one number for each room.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The name that an engine has where it is alone.
pub(crate) const ALONE: u64 = 0;

/// The most engines that a client may name.
const MAX_ENGINES: usize = 256;

/// A number for each engine, in the order of their names; 0 stands for engines that are not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(Vec<(u64, u64)>);

impl Mark {
    /// A place in the one order that an engine alone has.
    pub(crate) fn alone(number: u64) -> Self {
        Self(vec![(ALONE, number)])
    }

    pub(crate) fn get(&self, engine: u64) -> u64 {
        self.0.binary_search_by_key(&engine, |(name, _)| *name).map_or(0, |index| self.0[index].1)
    }

    /// Whether it names an engine.
    pub(crate) fn knows(&self, engine: u64) -> bool {
        self.0.binary_search_by_key(&engine, |(name, _)| *name).is_ok()
    }

    /// Notes that this one's messages are known up to a number.
    pub(crate) fn raise(&mut self, engine: u64, number: u64) {
        match self.0.binary_search_by_key(&engine, |(name, _)| *name) {
            Ok(index) => self.0[index].1 = self.0[index].1.max(number),
            Err(index) => self.0.insert(index, (engine, number)),
        }
    }

    pub(crate) fn raise_all(&mut self, other: &Mark) {
        other.iter().for_each(|(engine, number)| self.raise(engine, number));
    }

    pub(crate) fn forget(&mut self, engine: u64) {
        self.0.retain(|(name, _)| *name != engine);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Whether it lacks something that the other one has.
    pub(crate) fn is_behind(&self, other: &Mark) -> bool {
        other.iter().any(|(engine, number)| self.get(engine) < number)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(ALONE, number)] = self.0[..] {
            return write!(f, "{number}");
        }
        for (index, (engine, number)) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "-" };
            write!(f, "{between}{engine:x}.{number}")?;
        }
        Ok(())
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if !text.contains('.') {
            return Ok(Self::alone(text.parse().map_err(drop)?));
        }
        let mut mark = Self::default();
        for (index, one) in text.split('-').enumerate() {
            let (engine, number) = one.split_once('.').filter(|_| index < MAX_ENGINES).ok_or(())?;
            mark.raise(u64::from_str_radix(engine, 16).map_err(drop)?, number.parse().map_err(drop)?);
        }
        Ok(mark)
    }
}

/// A number where there is one, and otherwise text that nobody but an engine can read.
impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0[..] {
            [(ALONE, number)] => serializer.serialize_u64(number),
            _ => serializer.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mut mark = Mark::default();
        for (engine, number) in [(0xbeef, 7), (3, 1), (u64::MAX, u64::MAX), (3, 0)] {
            mark.raise(engine, number);
        }
        let text = mark.to_string();
        assert_eq!(text, "3.1-beef.7-ffffffffffffffff.18446744073709551615");
        assert_eq!(text.parse(), Ok(mark.clone()));
        assert_eq!(serde_json::to_value(&mark).unwrap(), text);
        assert_eq!("17".parse(), Ok(Mark::alone(17)));
        assert_eq!(serde_json::to_value(Mark::alone(17)).unwrap(), 17);
        for bad in ["", "x", "-1", "1.", ".1", "1.2-", "1.2-3", "g.1", "1.2.3", "1.18446744073709551616"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad:?}");
        }
        assert!(vec!["1.1"; MAX_ENGINES + 1].join("-").parse::<Mark>().is_err());
    }

    #[test]
    fn who_lacks_one_number_is_behind() {
        let mark = |text: &str| text.parse::<Mark>().unwrap();
        assert!(!mark("1.5-2.3").is_behind(&mark("1.5-2.3")));
        assert!(!mark("1.5-2.3").is_behind(&mark("1.4")));
        assert!(mark("1.5-2.3").is_behind(&mark("2.4")));
        assert!(mark("1.5").is_behind(&mark("2.1")), "who names no number had nothing");
    }
}
