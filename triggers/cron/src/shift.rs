//! By how much a fire is made later than its instant: the same on every node, for it is computed and not drawn.
//!
//! **Invariant:** these functions never change. Two nodes of different releases that share a store would make a fire at
//! different moments (once, all the same: its identity is the instant, which no shift touches).

/// The delays of one trigger's fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shift {
    /// What tells the trigger from all others.
    seed: u64,
    /// The trigger's own, fixed delay.
    spread_ms: u32,
    /// A fire's delay lies below this.
    jitter_ms: u32,
}

impl Shift {
    /// The delays of the trigger of this path, within these windows.
    pub(crate) fn of(path: &str, spread_seconds: u32, jitter_seconds: u32) -> Self {
        let seed = fnv_1a(path.as_bytes());
        let milliseconds = |seconds: u32| seconds.saturating_mul(1_000);
        let spread_ms = below(mixed(seed), milliseconds(spread_seconds));
        Self { seed, spread_ms, jitter_ms: milliseconds(jitter_seconds) }
    }

    /// What tells the trigger from all others: the hash of its path.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// How many milliseconds after its instant (seconds since the Unix epoch) a fire is made.
    pub(crate) fn delay_ms(&self, instant: i64) -> i64 {
        let jitter = below(mixed(self.seed ^ mixed(instant.cast_unsigned())), self.jitter_ms);
        i64::from(self.spread_ms) + i64::from(jitter)
    }

    /// When the fire of an instant is made, in milliseconds since the Unix epoch.
    pub(crate) fn due_ms(&self, instant: i64) -> i64 {
        instant.saturating_mul(1_000).saturating_add(self.delay_ms(instant))
    }

    /// The least that any fire is delayed by.
    pub(crate) fn least_ms(&self) -> i64 {
        i64::from(self.spread_ms)
    }
}

/// A number below `window`, in proportion to `hash`; 0 for an empty window.
fn below(hash: u64, window: u32) -> u32 {
    // The product's upper half is less than `window`.
    ((u128::from(hash) * u128::from(window)) >> 64) as u32
}

/// FNV-1a, 64 bits.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of SplitMix64: near inputs give far outputs.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_these_and_stay_these() {
        let shift = Shift::of("default/report/nightly", 600, 30);
        let delays: Vec<i64> = (0..4).map(|minute| shift.delay_ms(1_800_000_000 + 60 * minute)).collect();
        assert_eq!(
            (shift.least_ms(), delays),
            (247_226, vec![273_774, 253_395, 252_001, 265_109]),
            "other releases compute the same"
        );
    }

    #[test]
    fn a_fire_is_delayed_by_less_than_both_windows_and_never_made_early() {
        for trigger in 0..200 {
            let shift = Shift::of(&format!("default/f/{trigger}"), 7, 3);
            for instant in 0..50 {
                let delay = shift.delay_ms(instant);
                assert!(
                    (shift.least_ms()..shift.least_ms() + 3_000).contains(&delay)
                        && (0..7_000).contains(&shift.least_ms())
                );
                assert_eq!(shift.due_ms(instant), instant * 1_000 + delay);
            }
        }
        assert_eq!(Shift::of("default/f/one", 0, 0).delay_ms(77), 0);
    }

    #[test]
    fn triggers_are_spread_evenly() {
        let mut tenths = [0_u32; 10];
        for trigger in 0..10_000 {
            let delay = Shift::of(&format!("default/f/{trigger}"), 10, 0).least_ms();
            tenths[usize::try_from(delay / 1_000).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
    }
}
