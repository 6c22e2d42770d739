//! What a guest may know and nobody else may read: stars stand in its place.

use std::borrow::Cow;
use std::sync::Arc;

/// What stands in the place of a secret.
const STARS: &str = "***";

/// The shortest line of a secret of several lines that is hidden by itself, in bytes: shorter ones say nothing.
const MIN_LINE: usize = 8;

/// Texts that are hidden; mostly none.
#[derive(Clone, Debug, Default)]
pub(super) struct Masks(Option<Arc<[String]>>);

impl Masks {
    /// Hides these secrets, and the lines of those that have several: a guest may tell them one by one.
    pub(super) fn of<'s>(secrets: impl Iterator<Item = &'s str>) -> Self {
        let mut hidden = Vec::new();
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            hidden.push(secret.to_owned());
            if secret.contains('\n') {
                hidden.extend(secret.lines().map(str::trim).filter(|line| line.len() >= MIN_LINE).map(str::to_owned));
            }
        }
        // The longest first, or one that begins like another would leave the other's rest.
        hidden.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self((!hidden.is_empty()).then(|| hidden.into()))
    }

    /// The text as others may read it.
    pub(super) fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut shown = Cow::Borrowed(text);
        for hidden in self.0.iter().flat_map(|hidden| hidden.iter()) {
            if shown.contains(hidden.as_str()) {
                shown = Cow::Owned(shown.replace(hidden.as_str(), STARS));
            }
        }
        shown
    }

    /// The same, in place.
    pub(super) fn hide_in(&self, text: &mut String) {
        if let Cow::Owned(shown) = self.hide(text) {
            *text = shown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        let masks = Masks::of(["hunter", "hunter2", "", "BEGIN KEY\nabcdefgh\nxyz\n"].into_iter());
        for (said, shown) in [
            ("nothing", "nothing"),
            ("hunter2hunter", "******"),
            ("a hunter is no hunter2.", "a *** is no ***."),
            ("BEGIN KEY\nabcdefgh\nxyz\n", "***"),
            ("line abcdefgh", "line ***"),
            ("xyz", "xyz"),
        ] {
            assert_eq!(masks.hide(said), shown);
        }
        assert!(matches!(Masks::default().hide("hunter2"), Cow::Borrowed("hunter2")));
    }
}
