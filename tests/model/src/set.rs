//! A table that has nothing but ids.

/// Numbers below 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Set(u8);

impl Set {
    /// The numbers below `end`.
    pub(crate) fn below(end: usize) -> Self {
        (0..end).fold(Self::default(), |mut set, number| {
            set.insert(number);
            set
        })
    }

    pub(crate) fn contains(self, number: usize) -> bool {
        self.0 & (1 << number) != 0
    }

    /// Whether it was not there.
    pub(crate) fn insert(&mut self, number: usize) -> bool {
        let new = !self.contains(number);
        self.0 |= 1 << number;
        new
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, number: usize) -> bool {
        let there = self.contains(number);
        self.0 &= !(1 << number);
        there
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
