//! From the engine's answer to the message that a requester gets: the one table of codes (README.md prints it).
//!
//! Errors carry the two headers of NATS's service protocol (ADR-32), so that clients which know it see a failure
//! without knowing this engine; the numbers are HTTP's.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use trigger_core::{Accepted, Answer, DeadReason, Failure, FailureCode, Headers, HttpParts, Refused, Shed, SkipReason};
use uuid::Uuid;

/// What went wrong, for people.
const ERROR: &str = "Nats-Service-Error";
/// What went wrong, as a number.
const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// What went wrong, as the engine's own word.
const CODE: &str = "Tripline-Error";
/// Which invocation answers.
const INVOCATION: &str = "Tripline-Invocation";
/// The status that the function chose.
const STATUS: &str = "Tripline-Status";

/// The longest text in a header; the payload has all of it.
const MAX_HEADER_TEXT: usize = 512;

/// Headers and payload of a reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: Headers,
    pub(crate) payload: Bytes,
}

/// What a requester is told of an answer.
pub(crate) fn answered(answer: Answer, invocation_id: Uuid) -> Reply {
    match answer {
        Answer::Ok(response) => output(response.body, response.http, invocation_id),
        Answer::Failed(failure) => failed(failure).reply(invocation_id),
        // Asked of sources that deliver again; a requester can ask again itself.
        Answer::Retry { after, mut failure } => {
            failure.retry_after.get_or_insert(after);
            failed(failure).reply(invocation_id)
        }
        Answer::Kept(_) => receipt(Accepted::new(invocation_id)),
        Answer::Dead { reason, failure } => dead(reason, failure).reply(invocation_id),
        Answer::Skipped(reason) => skipped(reason).reply(invocation_id),
        Answer::Shed { reason, retry_after } => shed(reason, reason.detail().into(), retry_after).reply(invocation_id),
        Answer::Cancelled => failed(Failure::new(FailureCode::Cancelled, "")).reply(invocation_id),
    }
}

/// What a sender is told when its message is kept.
pub(crate) fn receipt(accepted: Accepted) -> Reply {
    #[derive(Serialize)]
    struct Receipt {
        invocation_id: Uuid,
        duplicate: bool,
    }
    let Accepted { invocation_id, duplicate, .. } = accepted;
    let payload = serde_json::to_vec(&Receipt { invocation_id, duplicate }).expect("an id and a flag serialize");
    let headers = vec![header(INVOCATION, invocation_id.to_string()), header("Content-Type", "application/json")];
    Reply { headers: Headers::List(headers), payload: payload.into() }
}

/// What a sender is told when its message could not be kept.
pub(crate) fn refused(refused: &Refused, invocation_id: Uuid) -> Reply {
    shed(refused.reason, refused.message.clone(), refused.retry_after).reply(invocation_id)
}

/// What a requester is told when the bus does not carry the answer.
pub(crate) fn too_large(why: String, invocation_id: Uuid) -> Reply {
    failed(Failure::new(FailureCode::BadOutput, why)).reply(invocation_id)
}

/// The function's own answer: its bytes, and the status and headers that it chose.
fn output(payload: Bytes, http: Option<Box<HttpParts>>, invocation_id: Uuid) -> Reply {
    let mut list = vec![header(INVOCATION, invocation_id.to_string())];
    if let Some(parts) = http {
        let status = parts.status.as_u16();
        list.push(header(STATUS, status.to_string()));
        if parts.status.is_client_error() || parts.status.is_server_error() {
            list.push(header(ERROR_CODE, status.to_string()));
            list.push(header(ERROR, parts.status.canonical_reason().unwrap_or("the function answered an error")));
        }
        // What NATS cannot carry stays behind: a header is a hint, the bytes are the answer.
        list.extend(parts.headers.iter().filter_map(|(name, value)| {
            let own = name.as_str().starts_with("nats-") || name.as_str().starts_with("tripline-");
            let of_connection =
                matches!(name.as_str(), "connection" | "content-length" | "keep-alive" | "te" | "trailer")
                    || matches!(name.as_str(), "transfer-encoding" | "upgrade");
            let text = std::str::from_utf8(value.as_bytes()).ok()?.trim();
            (!own && !of_connection).then(|| header(name.as_str(), text))
        }));
    }
    Reply { headers: Headers::List(list), payload }
}

/// An error, before it is headers and payload.
struct Problem {
    status: u16,
    code: &'static str,
    reason: Option<&'static str>,
    detail: Cow<'static, str>,
    retryable: bool,
    retry_after: Option<Duration>,
}

impl Problem {
    fn reply(self, invocation_id: Uuid) -> Reply {
        #[derive(Serialize)]
        struct Payload<'a> {
            status: u16,
            code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            detail: &'a str,
            invocation_id: Uuid,
            retryable: bool,
        }
        let Problem { status, code, reason, detail, retryable, retry_after } = self;
        let payload = Payload { status, code, reason, detail: &detail, invocation_id, retryable };
        let payload = serde_json::to_vec(&payload).expect("words, numbers and an id serialize");
        let mut list = vec![
            header(ERROR_CODE, status.to_string()),
            header(ERROR, one_line(&detail)),
            header(CODE, code),
            header(INVOCATION, invocation_id.to_string()),
            header("Content-Type", "application/problem+json"),
        ];
        if let Some(after) = retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            list.push(header("Retry-After", seconds.to_string()));
        }
        Reply { headers: Headers::List(list), payload: payload.into() }
    }
}

fn failed(failure: Failure) -> Problem {
    let Failure { code, message, retryable, retry_after } = failure;
    let status = match code {
        FailureCode::Timeout => 504,
        FailureCode::HostError | FailureCode::Cancelled => 503,
        FailureCode::InputTooLarge => 413,
        FailureCode::BadInput => 422,
        FailureCode::GuestError
        | FailureCode::Memory
        | FailureCode::Fuel
        | FailureCode::Trap
        | FailureCode::BadOutput
        | FailureCode::ImportDenied
        | FailureCode::Denied => 500,
    };
    let detail = match code {
        // The message is about the engine's insides, and its trace has it; the requester can only come back.
        FailureCode::HostError => "the engine could not run the function".into(),
        FailureCode::Cancelled => "the engine cut the attempt short".into(),
        _ => message,
    };
    let retry_after = if status == 503 { retry_after.or(Some(Duration::from_secs(1))) } else { retry_after };
    Problem { status, code: code.as_str(), reason: None, detail, retryable, retry_after }
}

/// The engine gave up and kept the event, so sending it again would only double it.
fn dead(reason: DeadReason, failure: Failure) -> Problem {
    let problem = Problem { reason: Some(reason.as_str()), retryable: false, retry_after: None, ..failed(failure) };
    match reason {
        // No attempt was made, so the failure's code says less than the reason.
        DeadReason::DepthExceeded | DeadReason::Incompatible => {
            Problem { status: 500, code: reason.as_str(), ..problem }
        }
        _ => problem,
    }
}

fn skipped(reason: SkipReason) -> Problem {
    let retry_after = reason.retry_after();
    Problem {
        status: reason.status(),
        code: reason.as_str(),
        reason: None,
        detail: reason.detail().into(),
        retryable: retry_after.is_some(),
        retry_after,
    }
}

fn shed(reason: Shed, detail: Cow<'static, str>, retry_after: Duration) -> Problem {
    let retryable = reason.retryable();
    let retry_after = retryable.then_some(retry_after);
    Problem { status: reason.status(), code: reason.as_str(), reason: None, detail, retryable, retry_after }
}

fn header(name: &str, value: impl Into<String>) -> (String, Bytes) {
    (name.to_owned(), Bytes::from(value.into()))
}

/// Text as a header takes it: one line of bounded length.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_HEADER_TEXT).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.headers.get_str(name)
    }

    fn payload(reply: &Reply) -> serde_json::Value {
        serde_json::from_slice(&reply.payload).unwrap()
    }

    #[test]
    fn every_failure_has_its_number() {
        for &code in FailureCode::ALL {
            let expected = match code {
                FailureCode::Timeout => "504",
                FailureCode::HostError | FailureCode::Cancelled => "503",
                FailureCode::InputTooLarge => "413",
                FailureCode::BadInput => "422",
                _ => "500",
            };
            let reply = answered(Answer::Failed(Failure::new(code, "what\r\nhappened ")), Uuid::nil());
            assert_eq!((text(&reply, ERROR_CODE), text(&reply, CODE)), (Some(expected), Some(code.as_str())));
            let told = text(&reply, ERROR).unwrap();
            assert!(!told.contains(['\r', '\n']) && told.trim() == told, "{told:?}");
            let inside = matches!(code, FailureCode::HostError | FailureCode::Cancelled);
            assert_eq!(payload(&reply)["detail"] == "what\r\nhappened ", !inside, "{code}");
            assert_eq!(payload(&reply)["retryable"], Failure::new(code, "").retryable, "{code}");
        }
    }

    #[test]
    fn refusals_and_deaths_say_whether_to_come_back() {
        for &reason in Shed::ALL {
            let reply = answered(Answer::Shed { reason, retry_after: Duration::from_millis(1500) }, Uuid::nil());
            let expected = match reason {
                Shed::TooLarge => ("413", None),
                Shed::Malformed => ("400", None),
                Shed::BadInput => ("422", None),
                Shed::Unauthenticated => ("401", None),
                Shed::Forbidden => ("403", None),
                Shed::Backlog | Shed::RateLimited => ("429", Some("2")),
                _ => ("503", Some("2")),
            };
            assert_eq!((text(&reply, ERROR_CODE).unwrap(), text(&reply, "Retry-After")), expected, "{reason}");
        }
        for &reason in DeadReason::ALL {
            let failure = Failure::new(FailureCode::Timeout, "too slow").after(Duration::from_secs(1));
            let reply = answered(Answer::Dead { reason, failure }, Uuid::nil());
            let own = matches!(reason, DeadReason::DepthExceeded | DeadReason::Incompatible);
            let expected = if own { ("500", reason.as_str()) } else { ("504", "timeout") };
            assert_eq!((text(&reply, ERROR_CODE).unwrap(), text(&reply, CODE).unwrap()), expected);
            assert_eq!(
                (&payload(&reply)["retryable"], &payload(&reply)["reason"]),
                (&false.into(), &reason.as_str().into())
            );
            assert_eq!(text(&reply, "Retry-After"), None);
        }
        for (reason, status) in [(SkipReason::Disabled, "503"), (SkipReason::Duplicate, "409")] {
            assert_eq!(text(&answered(Answer::Skipped(reason), Uuid::nil()), ERROR_CODE), Some(status));
        }
        let failure = Failure::new(FailureCode::GuestError, "later");
        let asked = answered(Answer::Retry { after: Duration::from_secs(2), failure }, Uuid::nil());
        assert_eq!(text(&asked, "Retry-After"), Some("2"));
    }

    #[test]
    fn an_output_is_no_error_unless_the_function_says_so() {
        let plain = answered(Answer::Ok(Bytes::from_static(b"42").into()), Uuid::nil());
        assert_eq!((plain.payload.as_ref(), text(&plain, ERROR_CODE)), (&b"42"[..], None));
        for (status, error) in [(200, None), (404, Some("404")), (500, Some("500"))] {
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", http::HeaderValue::from_static("text/plain"));
            headers.insert("nats-msg-id", http::HeaderValue::from_static("forged"));
            headers.insert("x-bytes", http::HeaderValue::from_bytes(b"\xff").unwrap());
            let parts = HttpParts { status: http::StatusCode::from_u16(status).unwrap(), headers };
            let response = trigger_core::Response { body: Bytes::new(), http: Some(Box::new(parts)) };
            let reply = answered(Answer::Ok(response), Uuid::nil());
            assert_eq!(text(&reply, STATUS), Some(status.to_string().as_str()));
            assert_eq!((text(&reply, ERROR_CODE), text(&reply, "content-type")), (error, Some("text/plain")));
            assert_eq!((text(&reply, "nats-msg-id"), text(&reply, "x-bytes")), (None, None));
        }
    }

    #[test]
    fn a_receipt_names_the_invocation() {
        let kept = answered(Answer::Kept(Failure::new(FailureCode::Timeout, "")), Uuid::max());
        assert_eq!(payload(&kept), serde_json::json!({ "invocation_id": Uuid::max(), "duplicate": false }));
    }
}
