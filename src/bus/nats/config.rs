//! Where the NATS servers are and how to be let in: text to meaning. Secrets are shown by nothing here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// The port of a server that names none.
const DEFAULT_PORT: u16 = 4222;

/// The servers of one cluster and how to be let in.
///
/// Written as `nats://host:4222`, several separated by commas; `tls://` asks for TLS; `user:password@` or `token@`
/// before the host lets in, the same for every server. Reserved characters in them are percent-encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsConfig {
    servers: Vec<Server>,
    /// How to be let in.
    pub auth: Auth,
}

/// How to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// The server asks for nothing.
    None,
    /// A name and a password.
    UserPassword {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A `.creds` file with a JWT and an nkey, as `nsc` writes it.
    CredentialsFile(PathBuf),
}

#[derive(Clone, PartialEq, Eq)]
struct Server {
    tls: bool,
    host: String,
    port: u16,
}

/// What is wrong with the servers of a bus. It names the server's position, never what was typed before its `@`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing between two commas, or nothing at all.
    #[error("server {0} of the bus is empty; write \"nats://host:4222\"")]
    Empty(usize),
    /// Another protocol.
    #[error("server {position} of the bus begins with {scheme:?}; use \"nats://\" or \"tls://\"")]
    Scheme {
        /// Which server, from 1.
        position: usize,
        /// What it begins with.
        scheme: String,
    },
    /// No such host can be.
    #[error("server {position} of the bus has the host {host:?}, which cannot be; write \"nats://host:4222\"")]
    Host {
        /// Which server, from 1.
        position: usize,
        /// What stands for the host.
        host: String,
    },
    /// No such port can be.
    #[error("server {position} of the bus has the port {port:?}; choose from 1 to 65535")]
    Port {
        /// Which server, from 1.
        position: usize,
        /// What stands for the port.
        port: String,
    },
    /// Something after the port.
    #[error("server {0} of the bus has a path or a query; a server is a host and a port")]
    Path(usize),
    /// Credentials that do not decode.
    #[error("the credentials of server {0} of the bus are not valid; percent-encode '@', ':', '/', '%' in them")]
    Credentials(usize),
    /// Different credentials.
    #[error("the credentials of server {0} of the bus differ from the others'; one cluster has one user")]
    DifferentCredentials(usize),
}

impl FromStr for NatsConfig {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut servers = Vec::new();
        let mut auth = Auth::None;
        for (index, part) in text.split(',').enumerate() {
            let position = index + 1;
            let (server, own) = parse_server(part.trim(), position)?;
            match own {
                None => {}
                Some(own) if auth == Auth::None => auth = own,
                Some(own) if auth != own => return Err(ParseError::DifferentCredentials(position)),
                Some(_) => {}
            }
            servers.push(server);
        }
        Ok(Self { servers, auth })
    }
}

fn parse_server(text: &str, position: usize) -> Result<(Server, Option<Auth>), ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty(position));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "nats" => false,
        "tls" => true,
        // What is not a word may be a credential in the wrong place.
        other if other.chars().all(|c| c.is_ascii_alphabetic()) => {
            return Err(ParseError::Scheme { position, scheme: format!("{other}://") });
        }
        _ => return Err(ParseError::Scheme { position, scheme: "…://".to_owned() }),
    };
    let (credentials, address) = match rest.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, rest),
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    if address.contains(['/', '?', '#']) {
        return Err(ParseError::Path(position));
    }
    let auth = credentials.map(|credentials| parse_credentials(credentials, position)).transpose()?;
    Ok((parse_address(address, tls, position)?, auth))
}

fn parse_credentials(text: &str, position: usize) -> Result<Auth, ParseError> {
    let decode = |part: &str| match percent_decode_str(part).decode_utf8() {
        Ok(text) if !text.is_empty() && !part.contains(['/', '@']) => Ok(text.into_owned()),
        _ => Err(ParseError::Credentials(position)),
    };
    Ok(match text.split_once(':') {
        Some((user, password)) => Auth::UserPassword { user: decode(user)?, password: decode(password)? },
        None => Auth::Token(decode(text)?),
    })
}

fn parse_address(text: &str, tls: bool, position: usize) -> Result<Server, ParseError> {
    let bad_host = || ParseError::Host { position, host: text.chars().take(64).collect() };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad_host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad_host())?;
            (format!("[{host}]"), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            let sound = !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            (if sound { host.to_owned() } else { return Err(bad_host()) }, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        None => return Err(bad_host()),
        Some(port) => match port.parse() {
            Ok(number) if number != 0 => number,
            _ => return Err(ParseError::Port { position, port: port.chars().take(16).collect() }),
        },
    };
    Ok(Server { tls, host, port })
}

impl NatsConfig {
    /// The servers' addresses without credentials, as the client library takes them and as people may see them.
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "tls" } else { "nats" }, self.host, self.port)
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig").field("servers", &self.addresses()).field("auth", &self.auth).finish()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::UserPassword { .. } => f.write_str("UserPassword(…)"),
            Auth::Token(_) => f.write_str("Token(…)"),
            Auth::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> NatsConfig {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn servers_are_hosts_and_ports() {
        for (text, addresses) in [
            ("nats://localhost", &["nats://localhost:4222"][..]),
            ("localhost:1234", &["nats://localhost:1234"]),
            ("TLS://a.example.com:4443/", &["tls://a.example.com:4443"]),
            ("nats://[::1]:1, nats://10.0.0.1", &["nats://[::1]:1", "nats://10.0.0.1:4222"]),
        ] {
            let config = parse(text);
            assert_eq!(
                (config.addresses(), config.auth),
                (addresses.iter().map(|a| (*a).to_owned()).collect(), Auth::None)
            );
        }
    }

    #[test]
    fn credentials_are_the_same_for_all_servers() {
        let user = Auth::UserPassword { user: "me".into(), password: "p@ss:w/rd".into() };
        assert_eq!(parse("nats://me:p%40ss%3Aw%2Frd@a").auth, user);
        assert_eq!(parse("nats://a,nats://me:p%40ss:w%2Frd@b").auth, user);
        assert_eq!(parse("nats://t0k3n@a,nats://t0k3n@b").auth, Auth::Token("t0k3n".into()));
        assert_eq!("nats://one@a,nats://two@b".parse::<NatsConfig>(), Err(ParseError::DifferentCredentials(2)));
    }

    #[test]
    fn what_is_wrong_is_told_without_secrets() {
        for (text, expected) in [
            ("", ParseError::Empty(1)),
            ("nats://a,,nats://b", ParseError::Empty(2)),
            ("http://a", ParseError::Scheme { position: 1, scheme: "http://".into() }),
            ("s3cret@x://a", ParseError::Scheme { position: 1, scheme: "…://".into() }),
            ("nats://a:0", ParseError::Port { position: 1, port: "0".into() }),
            ("nats://a:99999", ParseError::Port { position: 1, port: "99999".into() }),
            ("nats://u:s3cret@a/path", ParseError::Path(1)),
            ("nats://u:@a", ParseError::Credentials(1)),
            ("nats://u:s3cret/x@a", ParseError::Credentials(1)),
            ("nats://u:s3cret@", ParseError::Host { position: 1, host: String::new() }),
            ("nats://[::1", ParseError::Host { position: 1, host: "[::1".into() }),
            ("nats://a b", ParseError::Host { position: 1, host: "a b".into() }),
        ] {
            let error = text.parse::<NatsConfig>().unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
        let debug = format!("{:?} {:?}", parse("nats://me:s3cret@a"), parse("nats://s3cret@a"));
        assert!(!debug.contains("s3cret") && debug.contains("nats://a:4222"), "{debug}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_config_or_an_error(text in "\\PC{0,60}") {
            let _ = text.parse::<NatsConfig>();
        }

        #[test]
        fn what_was_read_is_what_the_client_takes(host in "[a-z][a-z0-9.-]{0,20}", port in 1u16..) {
            let config = parse(&format!("nats://{host}:{port}"));
            prop_assert_eq!(config.addresses(), [format!("nats://{host}:{port}")]);
        }
    }
}
