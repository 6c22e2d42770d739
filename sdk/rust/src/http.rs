//! Requests to the outside, to those that the definition's `allow.http` grants.
//!
//! They are sent at once. Addresses that are not public are refused unless the engine's settings allow their network.
//!
//! ```no_run
//! use std::time::Duration;
//! use tripline_guest::{Failure, http::Request, secrets};
//!
//! fn charge(order: &str) -> Result<String, Failure> {
//!     let token = secrets::get("PAYMENTS_TOKEN")?;
//!     let response = Request::post("https://payments.example.com/charges")
//!         .header("authorization", format!("Bearer {token}"))
//!         .body(order)
//!         .timeout(Duration::from_secs(2))
//!         .send()?
//!         .success()?;
//!     Ok(response.text()?.to_owned())
//! }
//! ```

use std::time::Duration;

use crate::bindings::tripline::function::http_client;
use crate::{Failure, HostError, Reason};

/// A request to send.
#[derive(Clone, Debug)]
pub struct Request(http_client::Request);

/// What was answered, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status, as 200.
    pub status: u16,
    /// The headers in their order. A value need not be text.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request of any method to a whole URL, `https://host/path?query`.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self(http_client::Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            redirects: 0,
        })
    }

    /// A GET request.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST request.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Adds a header. `host`, what concerns the connection, `traceparent` and `tracestate` are set by the engine.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// Sets a body in JSON, with its content type. A value that cannot be written as JSON is a permanent failure.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(self, value: &T) -> Result<Self, Failure> {
        match serde_json::to_vec(value) {
            Ok(body) => Ok(self.header("content-type", "application/json").body(body)),
            Err(error) => Err(Failure::permanent(format!("the request cannot be written as JSON: {error}"))),
        }
    }

    /// The whole response must be there after this time, in whole milliseconds. The attempt's deadline holds in any
    /// case.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Follows up to so many redirects, at most 10; without this the answer is the redirect itself. Where one leads
    /// must be granted, too.
    #[must_use]
    pub fn follow_redirects(mut self, count: u8) -> Self {
        self.0.redirects = count;
        self
    }

    /// Sends it and waits for the whole response.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where the host is not granted or its address may not be asked,
    /// [`Invalid`](Reason::Invalid) naming a field, [`TooLarge`](Reason::TooLarge) over the requests or the bytes of
    /// responses that an attempt may have, [`Unavailable`](Reason::Unavailable) where there was no answer in time, or
    /// nobody there who speaks HTTP.
    pub fn send(self) -> Result<Response, HostError> {
        match http_client::send(&self.0) {
            Ok(answer) => Ok(Response { status: answer.status, headers: answer.headers, body: answer.body }),
            Err(error) => Err(refused(error)),
        }
    }
}

impl Response {
    /// The first header of this name, in whatever case, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(has, _)| has.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The body as text. A body that is none is a permanent failure.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).map_err(|_| Failure::permanent("the response is not UTF-8 text"))
    }

    /// The body as JSON. One that does not fit is a permanent failure.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::permanent(format!("the response is not the JSON that is expected: {error}")))
    }

    /// The response where its status is from 200 to 299, and otherwise a failure: 408, 429 and from 500 on one that
    /// may be tried again, after the seconds of `retry-after` where there are some; a permanent one for the rest.
    pub fn success(self) -> Result<Self, Failure> {
        let message = format!("the response has status {}", self.status);
        match self.status {
            200..300 => Ok(self),
            408 | 429 | 500.. => Err(match self.header("retry-after").and_then(|after| after.trim().parse().ok()) {
                Some(seconds) => Failure::retry_after(Duration::from_secs(seconds), message),
                None => Failure::retryable(message),
            }),
            _ => Err(Failure::permanent(message)),
        }
    }
}

fn refused(error: http_client::Error) -> HostError {
    match error {
        http_client::Error::Denied(why) => HostError::new(Reason::Denied, why),
        http_client::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        http_client::Error::TooLarge(why) | http_client::Error::TooMany(why) => HostError::new(Reason::TooLarge, why),
        http_client::Error::Timeout(why) | http_client::Error::Unreachable(why) => {
            HostError::new(Reason::Unavailable, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Response { status, headers, body: body.into() }
    }

    #[test]
    fn a_request_has_what_it_was_given() {
        let request = Request::post("https://a.example/b")
            .header("x-one", "1")
            .body("body")
            .timeout(Duration::from_micros(2_999))
            .follow_redirects(3)
            .0;
        assert_eq!((&*request.method, &*request.url), ("POST", "https://a.example/b"));
        assert_eq!(request.headers, [("x-one".to_owned(), b"1".to_vec())]);
        assert_eq!((&*request.body, request.timeout, request.redirects), (&b"body"[..], Some(2), 3));
    }

    #[test]
    fn headers_are_found_in_whatever_case() {
        let response = answered(200, &[("Content-Type", "text/plain"), ("content-type", "other")], "é");
        assert_eq!(response.header("CONTENT-TYPE"), Some("text/plain"));
        assert_eq!((response.header("x"), response.text().unwrap()), (None, "é"));
        let bytes = Response { status: 200, headers: vec![("x".into(), vec![0xff])], body: vec![0xff] };
        assert_eq!(bytes.header("x"), None);
        assert!(!bytes.text().unwrap_err().is_retryable());
    }

    #[test]
    fn a_status_says_whether_asking_again_may_help() {
        assert!(answered(204, &[], "").success().is_ok());
        let failure = |status, headers| answered(status, headers, "").success().unwrap_err();
        for status in [408, 429, 500, 503] {
            assert_eq!(failure(status, &[]), Failure::retryable(format!("the response has status {status}")));
        }
        for status in [301, 400, 404] {
            assert_eq!(failure(status, &[]), Failure::permanent(format!("the response has status {status}")));
        }
        let later = Failure::retry_after(Duration::from_secs(7), "the response has status 429");
        assert_eq!(failure(429, &[("Retry-After", "7")]), later);
        assert!(failure(429, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]).is_retryable());
    }

    #[test]
    fn who_did_not_answer_may_answer_later() {
        let next = |error| Failure::from(refused(error));
        assert_eq!(next(http_client::Error::Timeout("2 s".into())), Failure::retryable("2 s"));
        assert_eq!(next(http_client::Error::Denied("no".into())), Failure::permanent("no"));
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_goes_out_and_comes_in() {
        let request = Request::post("https://a.example").json(&[1, 2]).unwrap().0;
        assert_eq!((&*request.body, &*request.headers[0].1), (&b"[1,2]"[..], &b"application/json"[..]));
        assert_eq!(answered(200, &[], "[1,2]").json::<Vec<u8>>().unwrap(), [1, 2]);
        assert!(!answered(200, &[], "no").json::<Vec<u8>>().unwrap_err().is_retryable());
    }
}
