//! Addresses of NATS servers, as they are written in `bus`.

use super::words;

/// What is wrong with NATS addresses, and what would be right. Never repeats what may be a password.
pub(super) fn mistake(typed: &str) -> Option<(String, String)> {
    let help = "write \"memory\", or NATS servers like \"nats://127.0.0.1:4222\", separated by commas".to_owned();
    if typed.chars().any(|char| char.is_control()) || typed.len() > 4096 {
        return Some(("the bus is no address".to_owned(), help));
    }
    for server in typed.split(',').map(str::trim) {
        let Some((scheme, rest)) = server.split_once("://") else {
            let shown = if typed.contains('@') { "what is written".to_owned() } else { words::quoted(server) };
            return Some((format!("there is no bus {shown}"), help));
        };
        if !matches!(scheme, "nats" | "tls") {
            let shown = if typed.contains('@') { "its scheme".to_owned() } else { words::quoted(scheme) };
            return Some((format!("a bus is reached by \"nats\" or \"tls\", not by {shown}"), help));
        }
        let host = rest.rsplit('@').next().unwrap_or_default().trim_end_matches('/');
        let (name, port) = match host.rsplit_once(':') {
            // An IPv6 address without a port ends with a bracket.
            Some(_) if host.ends_with(']') => (host, None),
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let named = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
        };
        if !named {
            return Some(("an address of the bus names no host".to_owned(), help));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err() || port == "0") {
            return Some(("an address of the bus has no port from 1 to 65535 behind its \":\"".to_owned(), help));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_scheme_a_host_and_perhaps_a_port() {
        for sound in ["nats://host", "tls://u:p@host:4222, nats://[::1]:4222", "nats://[::1]", "nats://a_b.example/"] {
            assert_eq!(mistake(sound), None, "{sound}");
        }
        for bad in [
            "",
            "carrier-pigeon",
            "http://host",
            "nats://",
            "nats://host:0",
            "nats://host:x",
            "nats://one,two",
            "nats://[x]",
            "nats://a\n",
            "nats://u:hunter2@",
            "nats://u:hunter2@host:70000",
            "nats://u:hun,ter2@host",
            "u:hunter2@host",
            "hunter2://u@host",
        ] {
            let (message, help) = mistake(bad).expect(bad);
            assert!(!message.contains("ter2") && help.contains("nats://"), "{message}");
        }
    }
}
