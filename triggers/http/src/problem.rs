//! What a caller is told when there is no answer: problem details (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use trigger_auth::Denied;
use trigger_core::Shed;

/// One problem, before it is known which request it answers.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// The stable code, for programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) detail: Cow<'static, str>,
    /// Whether the same request may go better later.
    pub(crate) retryable: bool,
    pub(crate) retry_after: Option<Duration>,
    /// Why an invocation was given up on.
    pub(crate) reason: Option<&'static str>,
    /// Further headers of the response: `Allow` for 405, the protocol for 426, `WWW-Authenticate` for 401.
    pub(crate) headers: Option<Box<HeaderMap>>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    request_id: &'a str,
    retryable: bool,
}

impl Problem {
    /// A problem that the same request would meet again.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, retryable: false, retry_after: None, reason: None, headers: None }
    }

    /// The engine did not take the event.
    pub(crate) fn shed(reason: Shed, detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        let status = StatusCode::from_u16(reason.status()).expect("the statuses of reasons are HTTP's");
        let problem = Self::new(status, reason.as_str(), detail);
        if reason.retryable() { problem.again_after(retry_after) } else { problem }
    }

    /// The same problem, which may be gone after `delay`.
    pub(crate) fn again_after(mut self, delay: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(delay);
        self
    }

    /// The same problem, with a header of its own.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// The response to the request of this id.
    pub(crate) fn respond(self, request_id: &HeaderValue) -> Response<Full<Bytes>> {
        let document = Document {
            // RFC 9457, section 4.2.1: without a page about the problem, the status is its type and its title.
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Unknown"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            reason: self.reason,
            request_id: request_id.to_str().unwrap_or_default(),
            retryable: self.retryable,
        };
        let body = serde_json::to_vec(&document).expect("a struct of strings and numbers becomes JSON");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(more) = self.headers {
            *headers = *more;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after(delay));
        }
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let Denied { reason, detail, challenge, retry_after } = denied;
        let problem = Self::shed(reason, detail, retry_after);
        match challenge {
            Some(challenge) => problem.with(header::WWW_AUTHENTICATE, challenge),
            None => problem,
        }
    }
}

/// `Retry-After` in whole seconds: rounded up, since coming early is useless, and at least one.
fn retry_after(delay: Duration) -> HeaderValue {
    let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    HeaderValue::from(seconds.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (delay, seconds) in [
            (Duration::ZERO, "1"),
            (Duration::from_millis(1), "1"),
            (Duration::from_secs(1), "1"),
            (Duration::from_millis(1001), "2"),
            (Duration::from_secs(90), "90"),
            (Duration::MAX, "18446744073709551615"),
        ] {
            assert_eq!(retry_after(delay), seconds, "{delay:?}");
        }
    }

    #[tokio::test]
    async fn the_document_has_every_member() {
        use http_body_util::BodyExt as _;
        let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", "no route takes this path");
        let response = problem.respond(&HeaderValue::from_static("request-1"));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
            serde_json::json!({
                "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no route takes this path",
                "code": "not_found", "request_id": "request-1", "retryable": false
            })
        );
    }
}
