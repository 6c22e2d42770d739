//! To whom a definition lets its guest send requests: `https://api.example.com`, `http://*.internal.example:8080`.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Whom a request goes to: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    https: bool,
    /// In lower case, an IPv6 address in brackets, without a dot at the end.
    host: String,
    port: u16,
}

/// A URL cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL, or not a whole one.
    #[error("it is not a URL with a scheme and a host")]
    NotAUrl,
    /// Its scheme is another one.
    #[error("its scheme is neither http nor https")]
    Scheme,
    /// It holds a user's name or a password: what reads like a host may be none.
    #[error("it holds a user's name or a password")]
    Userinfo,
    /// Its port is none.
    #[error("its port is not from 1 to 65535")]
    Port,
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

fn is_https(scheme: &str) -> Option<bool> {
    match scheme {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

impl Target {
    /// Whom a URL is about.
    pub fn of(uri: &Uri) -> Result<Self, TargetError> {
        let https = is_https(uri.scheme_str().ok_or(TargetError::NotAUrl)?).ok_or(TargetError::Scheme)?;
        let authority = uri.authority().ok_or(TargetError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::Userinfo);
        }
        let host = normal(authority.host());
        if host.is_empty() {
            return Err(TargetError::NotAUrl);
        }
        let port = match (authority.port(), authority.port_u16()) {
            (None, _) if authority.as_str().len() == authority.host().len() => default_port(https),
            (_, Some(port)) if port > 0 => port,
            _ => return Err(TargetError::Port),
        };
        Ok(Self { https, host, port })
    }

    /// The host and the port.
    pub(super) fn into_parts(self) -> (String, u16) {
        (self.host, self.port)
    }

    /// The host and its port as `Host` names them.
    pub fn authority(&self) -> String {
        match self.port == default_port(self.https) {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// As traces name it: nothing of path and query, which may hold what is nobody's business.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.https { "https" } else { "http" }, self.host, self.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// This one.
    Is(String),
    /// Those that end so, with something before it.
    Under(String),
}

/// Whom requests may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    https: bool,
    host: Host,
    /// `None` for every port.
    port: Option<u16>,
}

impl Grant {
    /// Whether it covers a target.
    pub fn covers(&self, target: &Target) -> bool {
        let host = match &self.host {
            Host::Any => true,
            Host::Is(host) => *host == target.host,
            Host::Under(end) => target.host.len() > end.len() && target.host.ends_with(end.as_str()),
        };
        host && self.https == target.https && self.port.is_none_or(|port| port == target.port)
    }
}

impl FromStr for Grant {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let https = is_https(scheme).ok_or("its scheme is neither http nor https")?;
        if rest.contains(['/', '?', '#', '@']) || rest.chars().any(char::is_whitespace) {
            return Err("a host is granted as a whole: scheme, host and port alone");
        }
        let behind_address = rest.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match rest[behind_address..].rfind(':') {
            Some(colon) => (&rest[..behind_address + colon], Some(&rest[behind_address + colon + 1..])),
            None => (rest, None),
        };
        let port = match port {
            None => Some(default_port(https)),
            Some("*") => None,
            Some(port) => {
                Some(port.parse().ok().filter(|port| *port > 0).ok_or("its port is not from 1 to 65535, or \"*\"")?)
            }
        };
        let host = match (host, host.strip_prefix("*.")) {
            ("*", _) => Host::Any,
            (_, Some(under)) => Host::Under(format!(".{}", checked(under)?)),
            (host, None) => Host::Is(checked(host)?),
        };
        Ok(Self { https, host, port })
    }
}

fn checked(host: &str) -> Result<String, &'static str> {
    let host = normal(host);
    if host.contains('*') {
        return Err("\"*\" stands for the first words of a host alone: \"*.example.com\"");
    }
    let is_host = host.parse::<http::uri::Authority>().is_ok_and(|authority| authority.host() == host);
    if is_host { Ok(host) } else { Err("its host is none") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, TargetError> {
        Target::of(&url.parse().map_err(|_| TargetError::NotAUrl)?)
    }

    fn covers(grant: &str, url: &str) -> bool {
        grant.parse::<Grant>().unwrap().covers(&target(url).unwrap())
    }

    #[test]
    fn a_grant_covers_a_scheme_a_host_and_a_port() {
        for (grant, url) in [
            ("https://api.example.com", "https://api.example.com/x?y"),
            ("https://api.example.com", "https://API.Example.COM./x"),
            ("https://api.example.com", "https://api.example.com:443"),
            ("https://API.example.com:8443", "https://api.example.com:8443"),
            ("http://*.example.com", "http://a.b.example.com/"),
            ("http://*:*", "http://anything:1/"),
            ("http://[::1]:80", "http://[::1]/"),
            ("http://127.0.0.1:*", "http://127.0.0.1:9/"),
        ] {
            assert!(covers(grant, url), "{grant} {url}");
        }
        for (grant, url) in [
            ("https://api.example.com", "http://api.example.com"),
            ("https://api.example.com", "https://api.example.com:8443"),
            ("https://api.example.com", "https://api.example.com.evil.example"),
            ("https://api.example.com", "https://evil-api.example.com"),
            ("http://*.example.com", "http://example.com/"),
            ("http://*.example.com", "http://evilexample.com/"),
            ("http://*", "http://host:8080/"),
            ("http://127.0.0.1", "http://2130706433/"),
        ] {
            assert!(!covers(grant, url), "{grant} {url}");
        }
    }

    #[test]
    fn urls_that_deceive_are_refused() {
        assert_eq!(target("http://api.example.com@evil.example/"), Err(TargetError::Userinfo));
        assert_eq!(target("http://user:pass@api.example.com/"), Err(TargetError::Userinfo));
        assert_eq!(target("ftp://api.example.com/"), Err(TargetError::Scheme));
        assert_eq!(target("/path"), Err(TargetError::NotAUrl));
        assert_eq!(target("api.example.com"), Err(TargetError::NotAUrl));
        for url in ["http://host:0/", "http://host:/", "http://host:65536/"] {
            assert!(matches!(target(url), Err(TargetError::Port | TargetError::NotAUrl)), "{url}");
        }
        for url in ["http://a b/", "http:///x", "http://\r\nHost: x/", "http://[::1/", "http://"] {
            assert!(target(url).is_err(), "{url}");
        }
        let told = target("http://host:81/secret?token=1").unwrap();
        assert_eq!((told.to_string(), told.authority()), ("http://host:81".into(), "host:81".into()));
    }

    #[test]
    fn what_is_no_grant_is_refused_with_the_reason() {
        for text in [
            "api.example.com",
            "ftp://x",
            "https://",
            "https://a/path",
            "https://u@h",
            "https://a.*.com",
            "https://*a.com",
            "https://h:0",
            "https://h:x",
            "https://a b",
            "https://h?x",
            "https://**",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }
}
