//! Addresses of NATS servers, as they are written in `bus`. What they mean is told by the bus itself.

use crate::bus::NatsConfig;
use crate::bus::nats::ParseError;

use super::words;

/// The longest list of addresses, in bytes.
const MAX_BYTES: usize = 4096;

/// What is wrong with NATS addresses, and what would be right. Never repeats what may be a password.
pub(super) fn mistake(typed: &str) -> Option<(String, String)> {
    let help = "write \"memory\", or NATS servers like \"nats://127.0.0.1:4222\", separated by commas".to_owned();
    if typed.len() > MAX_BYTES {
        return Some((format!("the bus has {} bytes of addresses, the limit is {MAX_BYTES}", typed.len()), help));
    }
    // Whoever writes no scheme meant another bus, or misspelt one.
    if let Some(server) = typed.split(',').map(str::trim).find(|server| !server.contains("://")) {
        let shown = if typed.contains('@') { "what is written".to_owned() } else { words::quoted(server) };
        return Some((format!("there is no bus {shown}"), help));
    }
    let error = typed.parse::<NatsConfig>().err()?;
    // These repeat a part of what is written, and a password with a comma or a slash in it looks like such a part.
    let repeats = matches!(error, ParseError::Scheme { .. } | ParseError::Host { .. } | ParseError::Port { .. });
    if typed.contains('@') && repeats {
        let message = "the servers of the bus cannot be told apart from their credentials";
        return Some((message.to_owned(), "percent-encode '@', ':', '/', ',' and '%' in credentials".to_owned()));
    }
    let error = error.to_string();
    Some(match error.split_once("; ") {
        Some((message, help)) => (message.to_owned(), help.to_owned()),
        None => (error, help),
    })
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
            "nats://a\nb",
            "nats://u:hunter2@",
            "nats://u:hunter2@host:70000",
            "nats://u:hun,ter2@host",
            "nats://u:hunter2@one,nats://v:hunter2@two",
            "nats://u:hun/ter2@host",
            "u:hunter2@host",
            "hunter2://u@host",
        ] {
            let (message, help) = mistake(bad).expect(bad);
            assert!(!message.contains("ter2") && !message.contains("hun") && !help.contains("ter2"), "{message}");
        }
        assert!(mistake(&"nats://host,".repeat(1000)).unwrap().0.contains("the limit is 4096"));
        let (message, help) = mistake("nats://host:0").unwrap();
        assert_eq!(message, "server 1 of the bus has the port \"0\"");
        assert_eq!(help, "choose from 1 to 65535");
    }
}
