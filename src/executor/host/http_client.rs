//! `http-client`: a request and its whole response.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};

use super::bindings::tripline::function::http_client::{Error, Host, Request, Response};
use crate::egress::{RequestBody, Target};
use crate::executor::guest::Guest;
use crate::executor::outbound::SendError;

/// The most redirects that are followed.
const MAX_REDIRECTS: u8 = 10;

/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 8 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 256;

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Denied(why) => Error::Denied(why),
            SendError::Prohibited(_) => Error::Denied(error.to_string()),
            SendError::Invalid(field, why) => Error::Invalid((field.to_owned(), why)),
            SendError::TooLarge(why) => Error::TooLarge(why),
            SendError::TooMany(why) => Error::TooMany(why),
            SendError::Timeout(why) => Error::Timeout(why),
            SendError::Unreachable(why) => Error::Unreachable(why),
        }
    }
}

impl Host for Guest {
    async fn send(&mut self, request: Request) -> Result<Response, Error> {
        let until = request.timeout.map(|millis| {
            let within = Duration::from_millis(millis);
            Instant::now().checked_add(within).map_or(self.deadline, |until| until.min(self.deadline))
        });
        let until = until.unwrap_or(self.deadline);
        let answered = tokio::time::timeout_at(until.into(), self.send_typed(request)).await;
        let late = |_| SendError::Timeout("the response was not there in time".to_owned());
        Ok(answered.map_err(late)??)
    }
}

/// A request that can be sent more than once.
struct Wish {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Wish {
    fn of(request: Request) -> Result<Self, SendError> {
        let invalid = |field, why: &str| SendError::Invalid(field, why.to_owned());
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| invalid("method", "it is no method"))?;
        if request.url.len() > MAX_URL_BYTES {
            return Err(SendError::Invalid("url", format!("it is longer than {MAX_URL_BYTES} bytes")));
        }
        let uri: Uri = request.url.parse().map_err(|_| invalid("url", "it is no URL"))?;
        if request.headers.len() > MAX_HEADERS {
            return Err(SendError::Invalid("headers", format!("there are more than {MAX_HEADERS}")));
        }
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        for (name, value) in request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("headers", "a name is no name"))?;
            if name == header::HOST || name == header::CONTENT_LENGTH {
                return Err(SendError::Invalid("headers", format!("{name} is set by the engine")));
            }
            let value = HeaderValue::from_bytes(&value)
                .map_err(|_| SendError::Invalid("headers", format!("the value of {name} is no header value")))?;
            headers.append(name, value);
        }
        Ok(Self { method, uri, headers, body: request.body.into() })
    }

    fn request(&self) -> http::Request<RequestBody> {
        let body = Full::new(self.body.clone()).map_err(|never| match never {}).boxed_unsync();
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The request that a redirect asks for, if it is one. Who is somebody else is told no credentials.
    fn redirected(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<bool, SendError> {
        let Some(location) = headers.get(header::LOCATION).filter(|_| status.is_redirection()) else {
            return Ok(false);
        };
        let nowhere = || SendError::Unreachable("it redirects to what is no URL".to_owned());
        let location = location.to_str().map_err(|_| nowhere())?;
        let next = resolve(&self.uri, location).ok_or_else(nowhere)?;
        let rewritten = matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND)
            && self.method == Method::POST
            || status == StatusCode::SEE_OTHER && self.method != Method::HEAD;
        if rewritten {
            self.method = Method::GET;
            self.body = Bytes::new();
            self.headers.remove(header::CONTENT_TYPE);
        }
        if Target::of(&next) != Target::of(&self.uri) {
            self.headers.remove(header::AUTHORIZATION);
            self.headers.remove(header::COOKIE);
        }
        self.uri = next;
        Ok(true)
    }
}

/// A reference within a document, as a whole URL.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let whole = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    whole.parse().ok()
}

impl Guest {
    async fn send_typed(&mut self, request: Request) -> Result<Response, SendError> {
        let outbound = self.outbound().ok_or_else(|| SendError::Denied("this engine sends no requests".to_owned()))?;
        let mut left = request.redirects;
        if left > MAX_REDIRECTS {
            return Err(SendError::Invalid("redirects", format!("at most {MAX_REDIRECTS} are followed")));
        }
        let mut wish = Wish::of(request)?;
        loop {
            let (head, body) = outbound.send(wish.request(), None).await?.into_parts();
            if left > 0 && wish.redirected(head.status, &head.headers)? {
                left -= 1;
                continue;
            }
            let body = body.collect().await?.to_bytes();
            let headers =
                head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
            return Ok(Response { status: head.status.as_u16(), headers: headers.collect(), body: body.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_resolved_against_what_was_asked() {
        let base: Uri = "http://host:81/a/b?c".parse().unwrap();
        for (location, expected) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "http://other/x"),
            ("/x?y#z", "http://host:81/x?y"),
            ("x", "http://host:81/a/x"),
            ("?x", "http://host:81/a/b?x"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expected);
        }
        assert_eq!(resolve(&base, "http://a b"), None);
    }
}
