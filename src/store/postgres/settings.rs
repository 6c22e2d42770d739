//! Where the server is, as it is written in `store`.
//!
//! No message repeats a part of the address where there may be a password: one that was not encoded can look like a
//! host, a port or a database.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::Secret;

/// The schema where none is named.
const DEFAULT_SCHEMA: &str = "tripline";

/// The longest schema's name: the channel's is made of it, and PostgreSQL's names have 63 bytes.
const MAX_SCHEMA_BYTES: usize = 56;

/// The longest address, in bytes.
const MAX_BYTES: usize = 4096;

/// The most connections that may be asked for.
const MAX_CONNECTIONS: u32 = 1000;

/// What follows the `?`, and its values.
const PARAMETERS: &str = "schema, max_connections, sslmode, sslrootcert, sslcert, sslkey, host and application_name";

/// What to open.
#[derive(Clone)]
pub struct PostgresSettings {
    /// Where the server is and who asks; the password is in there.
    pub(crate) options: PgConnectOptions,
    /// The server, database and schema, for people.
    pub(super) place: String,
    /// The schema: letters, digits and `_`.
    pub schema: String,
    /// Connections at once, beside the one that listens.
    pub max_connections: u32,
    /// How long an operation waits for one of them.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// Whether a commit counts as done when the server says so (`true`), or also before it is on the disk.
    pub durable: bool,
    /// How long a message of the outbox is its reader's to publish: when its engine is gone, another one waits as long.
    pub lease: Duration,
}

/// An address of a store cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct ParseError {
    /// What is wrong. No part of a password is in it.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings").field("place", &self.place).finish_non_exhaustive()
    }
}

impl PostgresSettings {
    /// The settings that an address means, whoever must not see it.
    pub fn from_secret(url: &Secret) -> Result<Self, ParseError> {
        url.expose().parse()
    }

    /// Where the server is and who asks, the password included.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// The channel on which engines tell each other that rows are due.
    pub(super) fn channel(&self) -> String {
        format!("{}_queue", self.schema)
    }
}

impl FromStr for PostgresSettings {
    type Err = ParseError;

    fn from_str(typed: &str) -> Result<Self, ParseError> {
        if typed.len() > MAX_BYTES {
            return Err(wrong(format!("the store's address has {} bytes, the limit is {MAX_BYTES}", typed.len())));
        }
        let rest = typed.strip_prefix("postgres://").or_else(|| typed.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| wrong("the store's address has no \"//\" behind its scheme"))?;
        let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if parameters.contains('@') {
            return Err(credentials());
        }
        let (server, database) = address.split_once('/').unwrap_or((address, ""));
        if database.contains(['@', '/']) {
            return Err(credentials());
        }
        let (who, server) = server.rsplit_once('@').map_or((None, server), |(who, server)| (Some(who), server));
        let secret = who.is_some();
        let mut options =
            PgConnectOptions::new_without_pgpass().application_name("tripline").disable_statement_logging();
        if let Some(who) = who {
            let (user, password) = who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
            if user.is_empty() {
                return Err(wrong("the store's address has an \"@\" and no user before it"));
            }
            options = options.username(&decoded(user)?);
            if let Some(password) = password {
                options = options.password(&decoded(password)?);
            }
        }
        let (host, port) = host_and_port(server).ok_or_else(|| {
            if secret { credentials() } else { wrong("the store's address has no sound host and port") }
        })?;
        if let Some(port) = port {
            options = options.port(port);
        }
        if database.is_empty() {
            return Err(wrong("the store's address names no database"));
        }
        let database = decoded(database)?;
        options = options.database(&database);
        let mut settings = Self {
            options,
            place: String::new(),
            schema: DEFAULT_SCHEMA.to_owned(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            durable: true,
            lease: Duration::from_secs(30),
        };
        let mut host = if host.is_empty() { None } else { Some(host.to_owned()) };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            settings.parameter(name, &decoded(value)?, &mut host)?;
        }
        let Some(host) = host else { return Err(wrong("the store's address names no host")) };
        settings.options = match host.strip_prefix('/') {
            Some(_) => settings.options.socket(PathBuf::from(&host)),
            None => settings.options.host(&host),
        };
        let port = settings.options.get_port();
        settings.place = format!("postgres://{host}:{port}/{database} (schema {})", settings.schema);
        Ok(settings)
    }
}

impl PostgresSettings {
    fn parameter(&mut self, name: &str, value: &str, host: &mut Option<String>) -> Result<(), ParseError> {
        let options = self.options.clone();
        match name {
            "schema" => {
                check_schema(value)?;
                self.schema = value.to_owned();
            }
            "max_connections" => {
                let number = value.parse().ok().filter(|number| (1..=MAX_CONNECTIONS).contains(number));
                self.max_connections = number.ok_or_else(|| {
                    wrong(format!("the store's max_connections is not a number from 1 to {MAX_CONNECTIONS}"))
                })?;
            }
            "sslmode" => {
                let words = "disable, allow, prefer, require, verify-ca and verify-full";
                let mode: PgSslMode =
                    value.parse().map_err(|_| wrong(format!("the store's sslmode is none of {words}")))?;
                self.options = options.ssl_mode(mode);
            }
            "sslrootcert" => self.options = options.ssl_root_cert(value),
            "sslcert" => self.options = options.ssl_client_cert(value),
            "sslkey" => self.options = options.ssl_client_key(value),
            "application_name" => self.options = options.application_name(value),
            "host" if value.is_empty() => return Err(wrong("the store's host is empty")),
            "host" => *host = Some(value.to_owned()),
            _ => {
                let message = "the store's address has a parameter that is not known".to_owned();
                return Err(ParseError { message, help: format!("what may follow the \"?\": {PARAMETERS}") });
            }
        }
        Ok(())
    }
}

/// A host, which may be left out for a socket's directory, and a port.
fn host_and_port(server: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => server.split_once(':').unwrap_or((server, "")),
    };
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !host.bytes().all(sound) || (server.ends_with(':')) {
        return None;
    }
    let port = match port {
        "" => None,
        port => Some(port.parse().ok().filter(|port| *port != 0)?),
    };
    Some((host, port))
}

fn check_schema(name: &str) -> Result<(), ParseError> {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if begins && name.len() <= MAX_SCHEMA_BYTES && name.bytes().all(sound) && !name.starts_with("pg_") {
        return Ok(());
    }
    let message = "the store's schema is not a name that the engine can use".to_owned();
    let help = format!(
        "write 1 to {MAX_SCHEMA_BYTES} lower-case letters, digits and \"_\", a letter first, and not \"pg_\" first"
    );
    Err(ParseError { message, help })
}

fn decoded(text: &str) -> Result<String, ParseError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| wrong("the store's address holds bytes that are no UTF-8"))?;
    if decoded.contains('\0') {
        return Err(wrong("the store's address holds a NUL"));
    }
    Ok(decoded.into_owned())
}

fn wrong(message: impl Into<String>) -> ParseError {
    let help = "write \"postgres://user:password@host:5432/database\", and \"?schema=name\" for another schema than \
                \"tripline\"";
    ParseError { message: message.into(), help: help.to_owned() }
}

fn credentials() -> ParseError {
    ParseError {
        message: "the server of the store cannot be told apart from its credentials".to_owned(),
        help: "percent-encode '@', ':', '/', '?' and '%' in user and password".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_server_database_and_schema() {
        for (typed, place) in [
            ("postgres://db/app", "postgres://db:5432/app (schema tripline)"),
            ("postgresql://me:hunter2@db:6543/app?schema=jobs", "postgres://db:6543/app (schema jobs)"),
            ("postgres://me:h%40%2F%3Ax@[::1]:1/a%20b", "postgres://::1:1/a b (schema tripline)"),
            ("postgres://me@/app?host=/run/postgresql&sslmode=disable", "postgres:///run/postgresql:5432/app"),
            ("postgres://me:hunt@er2@db/app?max_connections=3", "postgres://db:5432/app (schema tripline)"),
        ] {
            let settings: PostgresSettings = typed.parse().unwrap_or_else(|error| panic!("{typed}: {error}"));
            assert!(settings.place.starts_with(place), "{typed}: {}", settings.place);
            assert!(!format!("{settings:?}").contains("hunt"), "{settings:?}");
        }
    }

    #[test]
    fn mistakes_are_told_without_the_password() {
        for bad in [
            "postgres:db/app",
            "postgres://",
            "postgres://db",
            "postgres://db/",
            "postgres:///app",
            "postgres://db:0/app",
            "postgres://db:x/app",
            "postgres://db:/app",
            "postgres://d b/app",
            "postgres://[x]/app",
            "postgres://me:hunter2@db:70000/app",
            "postgres://me:hun/ter2@db/app",
            "postgres://me:hun?ter2@db/app",
            "postgres://me:hun%ff@db/app",
            "postgres://:hunter2@db/app",
            "postgres://me:hunter2@db/app?password=hunter2",
            "postgres://me:hunter2@db/app?schema=Jobs",
            "postgres://me:hunter2@db/app?schema=pg_jobs",
            "postgres://me:hunter2@db/app?schema=",
            "postgres://me:hunter2@db/app?schema=a;drop",
            "postgres://me:hunter2@db/app?max_connections=0",
            "postgres://me:hunter2@db/app?sslmode=maybe",
            "postgres://me:hunter2@db/app?host=",
            "postgres://me:hunter2@db/app%00",
        ] {
            let error = bad.parse::<PostgresSettings>().expect_err(bad).to_string();
            assert!(!error.contains("hun") && !error.contains("ter2"), "{bad}: {error}");
        }
        assert!("postgres://x/".repeat(400).parse::<PostgresSettings>().unwrap_err().message.contains("4096"));
    }
}
