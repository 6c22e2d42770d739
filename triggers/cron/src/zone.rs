//! Time zone names: the IANA database as compiled in, and the nearest name for one that is not in it.

use chrono_tz::{TZ_VARIANTS, Tz};

use crate::Error;

/// Longer names are refused without looking for the nearest one, whose cost grows with the length.
const MAX_NAME_BYTES: usize = 64;

/// The zone of this IANA name, letter case included.
pub(crate) fn parse_zone(name: &str) -> Result<Tz, Error> {
    name.parse().map_err(|_| {
        let help = match nearest(name) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "write an IANA name such as \"Europe/Paris\", or leave it out for UTC".to_owned(),
        };
        Error::timezone(format!("unknown time zone {name:?}"), help)
    })
}

/// The name within one edit per five letters, of the whole name or of its last part (`Paris`, `New York`).
fn nearest(typed: &str) -> Option<&'static str> {
    if typed.len() > MAX_NAME_BYTES {
        return None;
    }
    let typed = typed.trim().to_lowercase().replace(' ', "_");
    let furthest = typed.chars().count() / 5;
    TZ_VARIANTS
        .iter()
        .map(|zone| zone.name())
        // `Etc/GMT+2` lies west of Greenwich: for someone who typed `GMT+2` it would be the worst of answers.
        .filter(|name| !name.contains(|c: char| c.is_ascii_digit()))
        .map(|name| {
            let whole = name.to_lowercase();
            let place = whole.rsplit('/').next().unwrap_or(&whole);
            (strsim::osa_distance(&typed, &whole).min(strsim::osa_distance(&typed, place)), name)
        })
        .filter(|(distance, _)| *distance <= furthest)
        // Of two equally near, the plainer: `UTC`, not `Etc/UTC`.
        .min_by_key(|(distance, name)| (*distance, name.len()))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        for (typed, near) in [
            ("Europe/Pariss", "Europe/Paris"),
            ("europe/paris", "Europe/Paris"),
            ("Paris", "Europe/Paris"),
            ("Europe/Lodnon", "Europe/London"),
            ("New York", "America/New_York"),
            ("America/NewYork", "America/New_York"),
            ("Asia/Calcuta", "Asia/Calcutta"),
            ("utc", "UTC"),
        ] {
            let error = parse_zone(typed).unwrap_err();
            assert_eq!(error.message, format!("unknown time zone {typed:?}"));
            assert_eq!(error.help, format!("did you mean {near:?}?"), "for {typed:?}");
        }
    }

    #[test]
    fn a_name_that_is_near_nothing_gets_an_example_instead_of_a_wrong_guess() {
        for typed in ["PST", "CEST", "GMT+2", "UTC+2", "+02:00", "", "nowhere at all", &"x".repeat(10_000)] {
            let error = parse_zone(typed).unwrap_err();
            assert!(error.help.contains("Europe/Paris"), "for {typed:?}: {}", error.help);
        }
    }

    #[test]
    fn every_name_of_the_database_is_known() {
        for zone in TZ_VARIANTS {
            assert_eq!(parse_zone(zone.name()).unwrap(), zone);
        }
    }
}
