//! Cross-origin requests: what a browser is told before and with an answer (the Fetch standard's CORS protocol).
//!
//! A policy is told, never enforced: it is the browser that keeps an answer from a page. Who may call is for
//! authentication to say.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use schemars::JsonSchema;
use serde::Deserialize;
use trigger_core::Problems;

use crate::config::{Methods, Served};

/// All origins, or all headers.
const ANY: &str = "*";

/// The longest that browsers keep an answer to a preflight.
const MAX_AGE_SECONDS: u32 = 86_400;

/// Which pages of other origins may call a route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsSection {
    /// The pages' origins, like `"https://app.example.com"`, or `"*"` for all.
    pub origins: Vec<String>,
    /// The methods that they may use; without it those of the route.
    pub methods: Option<Methods>,
    /// The headers that they may set beside the harmless ones, or `"*"` for all.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Whether they may send cookies and credentials.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may keep the answer to a preflight, in seconds: from 0 to 86400, default 600.
    #[serde(default = "default_max_age_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub max_age_seconds: u32,
}

fn default_max_age_seconds() -> u32 {
    600
}

/// What a route tells browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cors {
    /// Nothing means all of them.
    origins: Option<Vec<HeaderValue>>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

impl CorsSection {
    /// Every mistake that the schema cannot find.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let mut wrong = |message: String, help: &str| problems.add("cors", message, help.to_owned());
        if self.origins.is_empty() {
            wrong("no origin may call".to_owned(), "name one in origins, or leave cors out");
        }
        for origin in &self.origins {
            match origin.as_str() {
                ANY if self.credentials => {
                    let help = "name the origins: with credentials a browser takes no \"*\"";
                    wrong("all origins may call with credentials".to_owned(), help);
                }
                ANY if self.origins.len() > 1 => {
                    wrong(
                        "\"*\" already means every origin".to_owned(),
                        "write origins = [\"*\"], or name them without it",
                    );
                }
                ANY => {}
                origin if is_origin(origin) => {}
                origin => {
                    let help = "write scheme, host and port only, in small letters: \"https://app.example.com\"";
                    wrong(format!("{origin:?} is not an origin"), help);
                }
            }
        }
        for (message, help) in self.methods.iter().flat_map(|methods| methods.read().err()).flatten() {
            wrong(message, &help);
        }
        for name in &self.headers {
            if name == ANY && self.credentials {
                wrong("all headers may be set with credentials".to_owned(), "name the headers");
            } else if name != ANY && HeaderName::from_bytes(name.as_bytes()).is_err() {
                wrong(format!("{name:?} is not a header's name"), "write it like \"content-type\"");
            }
        }
        if self.max_age_seconds > MAX_AGE_SECONDS {
            wrong(format!("max_age_seconds is {}", self.max_age_seconds), "choose from 0 to 86400 (a day)");
        }
    }

    /// What is meant, for a section that has passed the check.
    pub(crate) fn meant(&self, served: &Served) -> Option<Cors> {
        let own = self.methods.as_ref().map(Methods::read).transpose().ok()?;
        let methods = match own.as_ref().unwrap_or(served) {
            Served::Any => None,
            Served::These(methods) => {
                Some(HeaderValue::try_from(methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")).ok()?)
            }
        };
        let all = self.origins.iter().any(|origin| origin == ANY);
        let origins: Result<Vec<_>, _> = self.origins.iter().map(HeaderValue::try_from).collect();
        Some(Cors {
            origins: if all { None } else { Some(origins.ok()?) },
            methods,
            headers: match self.headers.is_empty() {
                true => None,
                false => Some(HeaderValue::try_from(self.headers.join(", ")).ok()?),
            },
            credentials: self.credentials,
            max_age: self.max_age_seconds.into(),
        })
    }
}

/// `https://app.example.com`, `http://localhost:3000`: what a browser sends, to compare letter by letter.
fn is_origin(text: &str) -> bool {
    let plain = text.parse::<Uri>().is_ok_and(|uri| uri.authority().is_some_and(|host| !host.as_str().contains('@')));
    let bare = text.split_once("://").is_some_and(|(_, host)| !host.contains(['/', '?', '#']));
    plain && bare && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// The method that a preflight asks about.
pub(crate) fn preflight(head: &Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Cors {
    /// What every answer to this request has to say.
    pub(crate) fn with_answer(&self, request: &HeaderMap) -> HeaderMap {
        let mut told = HeaderMap::new();
        match &self.origins {
            None => drop(told.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(ANY))),
            Some(origins) => {
                // A cache must not give one origin's answer to another, nor that to a caller without one.
                told.insert(VARY, HeaderValue::from_static("origin"));
                match request.get(ORIGIN).filter(|origin| origins.contains(origin)) {
                    Some(origin) => drop(told.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())),
                    None => return told,
                }
            }
        }
        if self.credentials {
            told.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let ours = "x-request-id, server-timing, location, retry-after";
        told.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ours));
        told
    }

    /// What a preflight about this method is told.
    pub(crate) fn with_preflight(&self, request: &HeaderMap, asked: &Method) -> HeaderMap {
        let mut told = self.with_answer(request);
        told.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        if !told.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return told;
        }
        let asked = || HeaderValue::from_str(asked.as_str()).expect("a method is a token");
        told.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone().unwrap_or_else(asked));
        if let Some(headers) = &self.headers {
            told.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        told.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        told
    }
}

/// Adds what is told to an answer. What a function says of the same is overruled, except what its answer varies by.
pub(crate) fn tell(answer: &mut HeaderMap, told: HeaderMap) {
    for (name, value) in &told {
        if name == VARY {
            answer.append(name, value.clone());
        } else {
            answer.insert(name, value.clone());
        }
    }
    if !told.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        answer.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(section: serde_json::Value) -> Vec<String> {
        let mut problems = Problems::new();
        serde_json::from_value::<CorsSection>(section).unwrap().check(&mut problems);
        problems.into_vec().into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn what_no_browser_would_take_is_refused() {
        let good = json!({ "origins": ["https://app.example.com", "http://localhost:3000"], "methods": ["GET"],
            "headers": ["content-type"], "credentials": true, "max_age_seconds": 86400 });
        assert_eq!(problems(good), Vec::<String>::new());
        assert_eq!(problems(json!({ "origins": ["*"], "headers": ["*"] })), Vec::<String>::new());
        for (section, message) in [
            (json!({ "origins": [] }), "no origin may call"),
            (json!({ "origins": ["*"], "credentials": true }), "all origins may call with credentials"),
            (json!({ "origins": ["*", "https://a.example"] }), "\"*\" already means every origin"),
            (json!({ "origins": ["app.example.com"] }), "\"app.example.com\" is not an origin"),
            (json!({ "origins": ["https://a.example/"] }), "\"https://a.example/\" is not an origin"),
            (json!({ "origins": ["https://A.example"] }), "\"https://A.example\" is not an origin"),
            (json!({ "origins": ["https://me@a.example"] }), "\"https://me@a.example\" is not an origin"),
            (json!({ "origins": ["*"], "methods": "get" }), "\"get\" is not a method that can be named"),
            (json!({ "origins": ["*"], "headers": ["a b"] }), "\"a b\" is not a header's name"),
            (
                json!({ "origins": ["https://a.example"], "headers": ["*"], "credentials": true }),
                "all headers may be set with credentials",
            ),
            (json!({ "origins": ["*"], "max_age_seconds": 86401 }), "max_age_seconds is 86401"),
        ] {
            assert_eq!(problems(section), [message]);
        }
    }
}
