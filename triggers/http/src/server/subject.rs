//! The name in a certificate: its subject, as RFC 4514 writes it (`CN=billing,O=Example`).
//!
//! Only certificates that a handshake has verified come here. The reader still believes no length: what it cannot read
//! is no name, and such a caller stays without one.

use std::fmt::Write as _;

/// The longest name that is told.
const MAX_BYTES: usize = 1024;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// The attributes that have a short name (RFC 4514, section 3), by the bytes of their object identifiers.
const SHORT: [(&[u8], &str); 9] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];

/// The subject of a certificate; nothing if it is empty, has an attribute without a short name, or is not to be read.
pub(super) fn of(certificate: &[u8]) -> Option<String> {
    let (signed, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(signed, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = element(fields, VERSION)?;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        (.., fields) = any(fields)?;
    }
    let (mut names, _) = element(fields, SEQUENCE)?;
    let mut parts = Vec::new();
    while !names.is_empty() {
        let (set, rest) = element(names, SET)?;
        parts.push(part(set)?);
        names = rest;
    }
    // The most specific comes first (RFC 4514, section 2.1).
    parts.reverse();
    Some(parts.join(",")).filter(|name| !name.is_empty() && name.len() <= MAX_BYTES)
}

/// One part of a name: `CN=billing`, or several at once, `CN=billing+UID=7`.
fn part(mut set: &[u8]) -> Option<String> {
    let mut text = String::new();
    while !set.is_empty() {
        let (attribute, rest) = element(set, SEQUENCE)?;
        let (id, value) = element(attribute, OBJECT_ID)?;
        let (_, name) = SHORT.iter().find(|(known, _)| *known == id)?;
        let (kind, value, _) = any(value)?;
        // UTF-8, printable and IA5 strings; the others are relics that nobody issues.
        if !matches!(kind, 0x0c | 0x13 | 0x16) {
            return None;
        }
        let plus = if text.is_empty() { "" } else { "+" };
        let _infallible = write!(text, "{plus}{name}=");
        escape(&mut text, std::str::from_utf8(value).ok()?);
        set = rest;
    }
    Some(text)
}

/// RFC 4514, section 2.4, and control characters too: a name ends up in logs.
fn escape(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', character]),
            ' ' | '#' if index == 0 => text.extend(['\\', character]),
            ' ' if index == last => text.extend(['\\', character]),
            character if character.is_control() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _infallible = write!(text, "\\{byte:02X}");
                }
            }
            character => text.push(character),
        }
    }
}

/// The content of an element of this kind, and what follows it.
fn element(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    any(bytes).filter(|(found, ..)| *found == kind).map(|(_, content, rest)| (content, rest))
}

/// An element's kind, its content, and what follows it (DER: lengths of one to four bytes behind the first).
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any as arbitrary, prop, proptest};
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(attributes: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_name_is_written_as_the_rfc_says() {
        let names =
            [(DnType::CountryName, "FR"), (DnType::OrganizationName, "Example, Inc."), (DnType::CommonName, "billing")];
        assert_eq!(of(&certificate(&names)).as_deref(), Some("CN=billing,O=Example\\, Inc.,C=FR"));
        assert_eq!(of(&certificate(&[(DnType::CommonName, " a=b\n")])).as_deref(), Some("CN=\\ a\\=b\\0A"));
        assert_eq!(of(&certificate(&[])), None);
        let unknown = DnType::CustomDnType(vec![1, 2, 3, 4]);
        assert_eq!(
            of(&certificate(&[(unknown, "x"), (DnType::CommonName, "y")])),
            None,
            "a name that is told is whole"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in prop::collection::vec(arbitrary::<u8>(), 0..64),
            at in 0_usize..600,
            value in arbitrary::<u8>(),
        ) {
            let _ = of(&bytes);
            let mut broken = certificate(&[(DnType::CommonName, "billing")]);
            if let Some(byte) = broken.get_mut(at) {
                *byte = value;
            }
            let _ = of(&broken);
        }
    }
}
