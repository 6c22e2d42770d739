//! Who is at the other end of a connection, and for whom it speaks.
//!
//! Nothing that a caller says of its own address is believed, unless its connection comes from a proxy that the
//! configuration trusts; and of what passed several proxies only so much as trusted ones have added.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use trigger_core::Network;

/// Whom to believe about a caller's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The networks of the proxies in front. Default none.
    pub proxies: Vec<Network>,
    /// Where they write whom they speak for. Default `X-Forwarded-For`.
    pub header: ForwardHeader,
    /// Whether they begin every connection with a header of the PROXY protocol, version 1 or 2. Default false.
    pub proxy_protocol: bool,
}

impl Trust {
    /// Whether an address is that of a proxy.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }
}

/// The header in which a proxy adds the address that it was called from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardHeader {
    /// `X-Forwarded-For: 203.0.113.7, 10.0.0.2`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=203.0.113.7;proto=https` (RFC 7239).
    Forwarded,
}

impl ForwardHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => http::header::FORWARDED,
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: Box<str>,
    /// The subject of the certificate that it has shown.
    pub(crate) subject: Option<Box<str>>,
    /// Whom to believe further, where this is a proxy.
    trust: Option<Arc<Trust>>,
}

impl Peer {
    pub(crate) fn new(address: IpAddr, subject: Option<String>, trust: &Arc<Trust>) -> Self {
        let address = address.to_canonical();
        Self {
            address: address.to_string().into(),
            subject: subject.map(String::into_boxed_str),
            trust: trust.covers(address).then(|| trust.clone()),
        }
    }

    /// The address of the client that a request comes from.
    pub(crate) fn client(&self, headers: &HeaderMap) -> String {
        let forwarded = self.trust.as_ref().and_then(|trust| forwarded(headers, trust));
        forwarded.map_or_else(|| self.address.to_string(), |address| address.to_string())
    }
}

/// The nearest address that no proxy of ours has, or the farthest that is known; nothing if the nearest proxy has said
/// none.
fn forwarded(headers: &HeaderMap, trust: &Trust) -> Option<IpAddr> {
    let mut known = None;
    for line in headers.get_all(trust.header.name()).iter().rev() {
        let Ok(line) = line.to_str() else { return known };
        let hops: Option<Vec<Option<IpAddr>>> = match trust.header {
            ForwardHeader::XForwardedFor => Some(line.split(',').map(address).collect()),
            ForwardHeader::Forwarded => elements(line),
        };
        let Some(hops) = hops else { return known };
        for hop in hops.into_iter().rev() {
            let Some(address) = hop else { return known };
            known = Some(address);
            if !trust.covers(address) {
                return known;
            }
        }
    }
    known
}

/// The address in each element of a `Forwarded` header, where it has one; nothing if the line is malformed. What stands
/// in quotation marks is chosen by strangers, so nothing in there may end an element.
fn elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut found = vec![None];
    let (mut name, mut value) = (String::new(), None::<String>);
    let (mut quoted, mut escaped) = (false, false);
    for character in line.chars().chain([',']) {
        match (&mut value, character) {
            (Some(value), character) if escaped => {
                value.push(character);
                escaped = false;
            }
            (_, '\\') if quoted => escaped = true,
            (Some(_), '"') => quoted = !quoted,
            (Some(value), character) if quoted => value.push(character),
            (_, ',' | ';') => {
                if name.trim().eq_ignore_ascii_case("for") {
                    *found.last_mut()? = value.as_deref().and_then(address);
                }
                if character == ',' {
                    found.push(None);
                }
                (name, value) = (String::new(), None);
            }
            (None, '=') => value = Some(String::new()),
            (Some(value), character) => value.push(character),
            (None, character) => name.push(character),
        }
    }
    // The comma that was put behind the line has begun one more, unless it stands in quotation marks.
    if quoted {
        return None;
    }
    found.pop();
    Some(found)
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:443`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(header: ForwardHeader, from: &str, lines: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        let trust = Arc::new(Trust { proxies, header, proxy_protocol: false });
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), line.parse().unwrap());
        }
        Peer::new(from.parse().unwrap(), None, &trust).client(&headers)
    }

    #[test]
    fn only_what_trusted_proxies_have_added_is_believed() {
        for (from, lines, expected) in [
            ("203.0.113.9", &["1.1.1.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1, 2.2.2.2"], "2.2.2.2"),
            ("10.0.0.1", &["1.1.1.1, 2.2.2.2, 10.0.0.2"], "2.2.2.2"),
            ("10.0.0.1", &["1.1.1.1", "2.2.2.2,fd00::2"], "2.2.2.2"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["1.1.1.1:99"], "1.1.1.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(ForwardHeader::XForwardedFor, from, lines), expected, "{from} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_the_rfc_writes_it() {
        for (lines, expected) in [
            (&["for=1.1.1.1"][..], "1.1.1.1"),
            (&["For=\"[2001:db8::17]:4711\";proto=https"], "2001:db8::17"),
            (&["for=1.1.1.1, proto=http;for=2.2.2.2;by=10.0.0.1"], "2.2.2.2"),
            (&["for=1.1.1.1;host=\"a,for=9.9.9.9\""], "1.1.1.1"),
            (&["for=1.1.1.1;host=\"a\\\",for=9.9.9.9\""], "1.1.1.1"),
            (&["for=9.9.9.9", "for=2.2.2.2, for=10.0.0.2"], "2.2.2.2"),
            (&["for=_hidden"], "10.0.0.1"),
            (&["for=\"1.1.1.1"], "10.0.0.1"),
            (&["for=\", for=1.1.1.1"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
        ] {
            assert_eq!(client(ForwardHeader::Forwarded, "10.0.0.1", lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(line in "[ -~]{0,60}", list in "[a-f0-9:.,;=\"\\\\\\[\\] ]{0,40}") {
            for header in [ForwardHeader::XForwardedFor, ForwardHeader::Forwarded] {
                client(header, "10.0.0.1", &[&line, &list]);
            }
        }

        #[test]
        fn whatever_a_stranger_sends_the_last_hop_is_told(line in "[ -~]{0,60}") {
            let lines = [line.as_str(), "2.2.2.2"];
            prop_assert_eq!(client(ForwardHeader::XForwardedFor, "10.0.0.1", &lines), "2.2.2.2");
            prop_assert_eq!(client(ForwardHeader::Forwarded, "10.0.0.1", &[&line, "for=2.2.2.2"]), "2.2.2.2");
        }
    }
}
