//! From the engine's answer to an HTTP response: the one table of statuses (README.md prints it).

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use trigger_core::{Accepted, Answer, DeadReason, Failure, FailureCode, SkipReason};
use uuid::Uuid;

use crate::invocations;
use crate::problem::Problem;

/// What the caller of an invocation gets.
pub(crate) fn respond(answer: Answer, invocation_id: Uuid) -> Result<Response<Full<Bytes>>, Problem> {
    match answer {
        Answer::Ok(response) => from_guest(response),
        Answer::Failed(failure) => Err(failed(failure)),
        // Asked of sources that deliver again. A caller is no such source, but can be told when to come back.
        Answer::Retry { after, mut failure } => {
            failure.retry_after.get_or_insert(after);
            Err(failed(failure))
        }
        Answer::Kept(_) => Ok(invocations::accepted(Accepted::new(invocation_id))),
        Answer::Dead { reason, failure } => Err(dead(reason, failure)),
        Answer::Skipped(SkipReason::Filtered) => Ok(filtered()),
        Answer::Skipped(reason) => Err(skipped(reason)),
        Answer::Shed { reason, retry_after } => Err(Problem::shed(reason, reason.detail(), retry_after)),
        Answer::Cancelled => Err(failed(Failure::new(FailureCode::Cancelled, ""))),
    }
}

/// A guest's own response: its status, its headers but those that belong to the connection, its bytes.
pub(crate) fn from_guest(answer: trigger_core::Response) -> Result<Response<Full<Bytes>>, Problem> {
    let mut response = Response::new(Full::new(answer.body));
    let Some(parts) = answer.http else {
        // What the bytes are is the guest's to say: a guess would let a caller's input decide how a browser reads it.
        let octets = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, octets);
        return Ok(response);
    };
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    of_guest(response)
}

/// The same where status and headers are in their place.
pub(crate) fn of_guest<B>(mut response: Response<B>) -> Result<Response<B>, Problem> {
    if response.status().is_informational() {
        let detail = format!("the function answered {}, which cannot end a request", response.status().as_u16());
        return Err(failed(Failure::new(FailureCode::BadOutput, detail)));
    }
    strip(response.headers_mut());
    Ok(response)
}

/// Takes out what describes the guest's connection and not its answer (RFC 9110, section 7.6.1), and the length, which
/// the listener counts itself.
fn strip(headers: &mut HeaderMap) {
    if !headers.keys().any(belongs_to_connection) {
        return;
    }
    let mut gone: Vec<HeaderName> = headers.keys().filter(|name| belongs_to_connection(name)).cloned().collect();
    for value in headers.get_all(header::CONNECTION) {
        let names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        gone.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
    }
    for name in gone {
        headers.remove(name);
    }
}

fn belongs_to_connection(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::CONTENT_LENGTH
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || name == "keep-alive"
        || name.as_str().starts_with("proxy-")
}

/// Nothing was to be done, and nothing is wrong: whoever sends events need not send this one again.
pub(crate) fn filtered() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn failed(failure: Failure) -> Problem {
    let Failure { code, message, retryable, retry_after } = failure;
    let status = match code {
        FailureCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FailureCode::HostError | FailureCode::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        FailureCode::InputTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureCode::BadInput => StatusCode::UNPROCESSABLE_ENTITY,
        FailureCode::GuestError
        | FailureCode::Memory
        | FailureCode::Fuel
        | FailureCode::Trap
        | FailureCode::BadOutput
        | FailureCode::ImportDenied
        | FailureCode::Denied => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let detail = match code {
        // The message is about the engine's insides, and its trace has it; the caller can only come back.
        FailureCode::HostError => "the engine could not run the function".into(),
        FailureCode::Cancelled => "the engine cut the attempt short".into(),
        _ => message,
    };
    let mut problem = Problem::new(status, code.as_str(), detail);
    problem.retryable = retryable;
    problem.retry_after = retry_after;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        problem.retry_after.get_or_insert(Duration::from_secs(1));
    }
    problem
}

/// The engine gave up and kept the event as a dead letter, so sending it again would only double it.
pub(crate) fn dead(reason: DeadReason, failure: Failure) -> Problem {
    let code = match reason {
        // No attempt was made, so the failure's code says less than the reason.
        DeadReason::DepthExceeded | DeadReason::Incompatible => Some(reason.as_str()),
        _ => None,
    };
    let problem = failed(failure);
    Problem {
        code: code.unwrap_or(problem.code),
        status: if code.is_some() { StatusCode::INTERNAL_SERVER_ERROR } else { problem.status },
        reason: Some(reason.as_str()),
        retryable: false,
        retry_after: None,
        ..problem
    }
}

fn skipped(reason: SkipReason) -> Problem {
    let status = StatusCode::from_u16(reason.status()).expect("the statuses of reasons are HTTP's");
    let problem = Problem::new(status, reason.as_str(), reason.detail());
    match reason.retry_after() {
        Some(delay) => problem.again_after(delay),
        None => problem,
    }
}

/// `Server-Timing: total;dur=<milliseconds>`.
pub(crate) fn server_timing(total: Duration) -> HeaderValue {
    /// Formats without an allocation of its own.
    struct Text {
        bytes: [u8; 40],
        len: usize,
    }
    impl std::fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = self.len + text.len();
            self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
            self.len = end;
            Ok(())
        }
    }
    let micros = u64::try_from(total.as_micros()).unwrap_or(u64::MAX);
    let mut text = Text { bytes: [0; 40], len: 0 };
    write!(text, "total;dur={}.{:03}", micros / 1000, micros % 1000).expect("10 + 17 + 1 + 3 bytes fit into 40");
    HeaderValue::from_bytes(&text.bytes[..text.len]).expect("letters, digits, ';', '=' and '.' are visible")
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::{HttpParts, Shed};

    fn guest(status: u16, headers: &[(&'static str, &str)]) -> trigger_core::Response {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let parts = HttpParts { status: StatusCode::from_u16(status).unwrap(), headers: map };
        trigger_core::Response { body: Bytes::from_static(b"body"), http: Some(Box::new(parts)) }
    }

    #[test]
    fn every_failure_has_its_status() {
        let status = |code| match code {
            FailureCode::Timeout => 504,
            FailureCode::HostError | FailureCode::Cancelled => 503,
            FailureCode::InputTooLarge => 413,
            FailureCode::BadInput => 422,
            _ => 500,
        };
        for &code in FailureCode::ALL {
            let problem = respond(Answer::Failed(Failure::new(code, "message")), Uuid::nil()).unwrap_err();
            assert_eq!(problem.status, status(code), "{code}");
            assert_eq!(problem.code, code.as_str());
            assert_eq!(problem.retryable, Failure::new(code, "").retryable, "{code}");
            assert_eq!(problem.retry_after, (status(code) == 503).then_some(Duration::from_secs(1)), "{code}");
            let told = !matches!(code, FailureCode::HostError | FailureCode::Cancelled);
            assert_eq!(problem.detail == "message", told, "{code}: {}", problem.detail);
        }
    }

    #[test]
    fn a_failure_that_says_when_to_come_back_is_believed() {
        let failure = Failure::new(FailureCode::GuestError, "later").after(Duration::from_secs(9));
        for answer in
            [Answer::Failed(failure.clone()), Answer::Retry { after: Duration::from_secs(2), failure: failure.clone() }]
        {
            let problem = respond(answer, Uuid::nil()).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.retryable), (500, true));
            assert_eq!(problem.retry_after, Some(Duration::from_secs(9)));
        }
        let plain = Failure::new(FailureCode::GuestError, "later");
        let asked = respond(Answer::Retry { after: Duration::from_secs(2), failure: plain }, Uuid::nil()).unwrap_err();
        assert_eq!(asked.retry_after, Some(Duration::from_secs(2)));
    }

    #[test]
    fn every_refusal_has_its_status() {
        for &reason in Shed::ALL {
            let answer = Answer::Shed { reason, retry_after: Duration::from_secs(3) };
            let problem = respond(answer, Uuid::nil()).unwrap_err();
            let expected = match reason {
                Shed::Malformed => (400, None),
                Shed::TooLarge => (413, None),
                Shed::BadInput => (422, None),
                Shed::Unauthenticated => (401, None),
                Shed::Forbidden => (403, None),
                Shed::Backlog | Shed::RateLimited => (429, Some(Duration::from_secs(3))),
                _ => (503, Some(Duration::from_secs(3))),
            };
            assert_eq!((problem.status.as_u16(), problem.retry_after), expected, "{reason}");
            let final_answer = matches!(
                reason,
                Shed::TooLarge | Shed::BadInput | Shed::Unauthenticated | Shed::Forbidden | Shed::Malformed
            );
            assert_eq!((problem.code, problem.retryable), (reason.as_str(), !final_answer));
        }
        for (reason, status) in [(SkipReason::Disabled, 503), (SkipReason::Duplicate, 409)] {
            let problem = respond(Answer::Skipped(reason), Uuid::nil()).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (status, reason.as_str()));
        }
        assert_eq!(respond(Answer::Cancelled, Uuid::nil()).unwrap_err().code, "cancelled");
    }

    #[test]
    fn every_death_has_its_status() {
        for &reason in DeadReason::ALL {
            let failure = Failure::new(FailureCode::Timeout, "too slow").after(Duration::from_secs(1));
            let problem = respond(Answer::Dead { reason, failure }, Uuid::nil()).unwrap_err();
            let expected = match reason {
                DeadReason::DepthExceeded | DeadReason::Incompatible => (500, reason.as_str()),
                _ => (504, "timeout"),
            };
            assert_eq!((problem.status.as_u16(), problem.code), expected, "{reason}");
            assert_eq!(problem.reason, Some(reason.as_str()));
            assert_eq!((problem.retryable, problem.retry_after), (false, None));
        }
    }

    #[test]
    fn a_guests_response_keeps_everything_but_its_connection() {
        let response = from_guest(guest(
            201,
            &[
                ("content-type", "text/plain"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("content-length", "999"),
                ("upgrade", "websocket"),
                ("te", "trailers"),
                ("trailer", "x-sum"),
                ("proxy-authenticate", "basic"),
                ("proxy-connection", "close"),
            ],
        ))
        .unwrap();
        assert_eq!(response.status(), 201);
        let headers: Vec<(&str, &[u8])> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("content-type", &b"text/plain"[..]), ("set-cookie", b"a=1"), ("set-cookie", b"b=2")]);
    }

    #[test]
    fn a_guest_cannot_answer_with_an_interim_status() {
        for status in [100, 101, 103] {
            let problem = from_guest(guest(status, &[])).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (500, "bad_output"));
            assert!(problem.detail.contains(&status.to_string()));
        }
    }

    #[test]
    fn bytes_without_a_type_are_octets() {
        let response = from_guest(trigger_core::Response::from(Bytes::from_static(b"{}"))).unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/octet-stream".parse().unwrap())
        );
        assert!(
            from_guest(guest(200, &[])).unwrap().headers().is_empty(),
            "a guest that sets its own is not corrected"
        );
    }

    #[test]
    fn timing_is_in_milliseconds() {
        for (total, text) in [
            (Duration::ZERO, "total;dur=0.000"),
            (Duration::from_micros(1_234), "total;dur=1.234"),
            (Duration::from_secs(2), "total;dur=2000.000"),
            (Duration::MAX, "total;dur=18446744073709551.615"),
        ] {
            assert_eq!(server_timing(total), text);
        }
    }
}
