//! Which addresses are the public's.

use std::net::IpAddr;

use trigger_core::Network;

/// What is not the public's (the registries of special-purpose addresses, RFC 6890 and its updates): this host, private
/// and shared networks, links with their metadata services, documentation, benchmarks, multicast, reserved.
const SPECIAL_V4: [Network; 15] = [
    Network::v4(0, 0, 0, 8),
    Network::v4(10, 0, 0, 8),
    Network::v4(100, 64, 0, 10),
    Network::v4(127, 0, 0, 8),
    Network::v4(169, 254, 0, 16),
    Network::v4(172, 16, 0, 12),
    Network::v4(192, 0, 0, 24),
    Network::v4(192, 0, 2, 24),
    Network::v4(192, 88, 99, 24),
    Network::v4(192, 168, 0, 16),
    Network::v4(198, 18, 0, 15),
    Network::v4(198, 51, 100, 24),
    Network::v4(203, 0, 113, 24),
    Network::v4(224, 0, 0, 4),
    Network::v4(240, 0, 0, 4),
];

/// What is global unicast: all else, loopback, link-local, unique-local, multicast and addresses that wrap another one,
/// is not.
const GLOBAL_V6: Network = Network::v6(0x2000, 0, 3);

/// What of it is not the public's: tunnels that end anywhere (Teredo, 6to4), documentation, special purposes.
const SPECIAL_V6: [Network; 4] = [
    Network::v6(0x2001, 0, 23),
    Network::v6(0x2001, 0x0db8, 32),
    Network::v6(0x2002, 0, 16),
    Network::v6(0x3fff, 0, 20),
];

/// An address as it is judged: an IPv4 address in IPv6's clothes is an IPv4 address.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether an address, in its canonical form, is the public's.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !SPECIAL_V4.iter().any(|network| network.contains(address)),
        IpAddr::V6(_) => GLOBAL_V6.contains(address) && !SPECIAL_V6.iter().any(|network| network.contains(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(address: &str) -> bool {
        is_public(canonical(address.parse().unwrap()))
    }

    #[test]
    fn what_is_not_the_publics_is_known_in_every_form() {
        for address in ["1.1.1.1", "93.184.216.34", "100.63.255.255", "172.32.0.1", "223.255.255.255"] {
            assert!(public(address), "{address}");
            assert!(public(&format!("::ffff:{address}")), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!public(address), "{address}");
            assert!(!public(&format!("::ffff:{address}")), "{address}");
            assert!(!public(&format!("::{address}")), "{address}");
            assert!(!public(&format!("64:ff9b::{address}")), "{address}");
        }
        assert!(public("2606:4700:4700::1111"));
        for address in [
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "64:ff9b:1::1",
            "100::1",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }
}
