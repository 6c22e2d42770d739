//! What functions, namespaces, triggers and variables may be called.

/// The longest name of a function, namespace or trigger, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// The longest name of an environment variable, in bytes.
const MAX_VARIABLE_BYTES: usize = 256;

/// The names of functions, namespaces and triggers as a regular expression, for editors.
pub(super) const NAME_PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";

/// Why something cannot be called so: what is wrong, and what would be right.
type Refusal = Result<(), (String, String)>;

/// Whether a function, namespace or trigger may be called so. The names become subjects, paths and labels of metrics,
/// so they are plain.
pub(super) fn check(what: &str, name: &str) -> Refusal {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let rule = "lower-case letters, digits, \"-\" and \"_\", with a letter or a digit first";
    if name.is_empty() {
        return Err((format!("{what} has an empty name"), format!("use {rule}")));
    }
    if name.len() > MAX_NAME_BYTES {
        let message = format!("the name of {what} has {} bytes, the limit is {MAX_NAME_BYTES}", name.len());
        return Err((message, "use a shorter one".to_owned()));
    }
    let sound = name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_')) && plain(name.as_bytes()[0]);
    if sound {
        return Ok(());
    }
    let help = match repaired(name) {
        Some(repaired) => format!("use {rule}: \"{repaired}\""),
        None => format!("use {rule}"),
    };
    Err((format!("{what} cannot be called {name:?}"), help))
}

/// The nearest name that is allowed, if there is one.
fn repaired(name: &str) -> Option<String> {
    let replaced: String = name
        .chars()
        .map(|char| match char.to_ascii_lowercase() {
            char if char.is_ascii_alphanumeric() || matches!(char, '-' | '_') => char,
            _ => '-',
        })
        .collect();
    let trimmed = replaced.trim_matches(['-', '_']);
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// Whether an environment variable may be called so.
pub(super) fn check_variable(name: &str) -> Refusal {
    let help = "use letters, digits and \"_\", not a digit first: \"API_URL\"".to_owned();
    if name.len() > MAX_VARIABLE_BYTES {
        let message = format!("the variable's name has {} bytes, the limit is {MAX_VARIABLE_BYTES}", name.len());
        return Err((message, help));
    }
    let sound = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if sound { Ok(()) } else { Err((format!("a variable cannot be called {name:?}"), help)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "orders", "orders-2", "2fa", "a_b", &"a".repeat(64)] {
            assert_eq!(check("a function", name), Ok(()), "{name}");
        }
        for (name, help) in [
            ("Orders", "\"orders\""),
            ("my orders!", "\"my-orders\""),
            ("-a", "\"a\""),
            ("ä", "first"),
            ("a.b", "\"a-b\""),
            ("", "lower-case"),
            (&"a".repeat(65), "shorter"),
        ] {
            let (message, said) = check("a function", name).unwrap_err();
            assert!(message.contains("function") && said.contains(help), "{message}; {said}");
        }
    }

    #[test]
    fn variables_are_those_of_a_shell() {
        for name in ["A", "_a", "API_URL2"] {
            assert_eq!(check_variable(name), Ok(()), "{name}");
        }
        for name in ["", "2A", "A-B", "A=B", "ä", "A\0", &"A".repeat(257)] {
            assert!(check_variable(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_suggested_is_allowed(name in ".{0,64}") {
            if let Some(repaired) = repaired(&name) {
                prop_assert_eq!(check("it", &repaired), Ok(()));
            }
        }
    }
}
