//! What a request is called: by its caller (`X-Request-Id`), or else by its invocation.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_BYTES: usize = 128;

/// The caller's name for its request, as soon as there is one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(Option<HeaderValue>);

impl RequestId {
    /// Reads the header. One that is too long or not visible ASCII is ignored, as it would end in logs and responses.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(&X_REQUEST_ID).filter(|value| is_visible(value, MAX_BYTES)).cloned())
    }

    /// The caller's name, if it gave one.
    pub(crate) fn given(&self) -> Option<&str> {
        self.0.as_ref().and_then(|value| value.to_str().ok())
    }

    /// Calls the request by its invocation, unless the caller gave it a name.
    pub(crate) fn or(&mut self, invocation_id: Uuid) {
        if self.0.is_none() {
            self.0 = Some(id_value(invocation_id));
        }
    }

    /// The name; a new one where there is none yet.
    pub(crate) fn into_value(self) -> HeaderValue {
        self.0.unwrap_or_else(|| id_value(Uuid::now_v7()))
    }
}

fn id_value(id: Uuid) -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("hexadecimal digits and hyphens are visible")
}

/// Whether a header's value is 1 to `max_bytes` characters of visible ASCII.
pub(crate) fn is_visible(value: &HeaderValue, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_name_is_taken_if_it_is_fit_to_print() {
        let long = "x".repeat(MAX_BYTES);
        let too_long = "x".repeat(MAX_BYTES + 1);
        for (value, taken) in [
            ("request-1", true),
            ("~!{}", true),
            (&long, true),
            (&too_long, false),
            ("", false),
            ("two words", false),
            ("tab\tbed", false),
            ("caf\u{e9}", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&X_REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            let mut id = RequestId::of(&headers);
            assert_eq!(id.given(), taken.then_some(value), "{value:?}");
            let invocation_id = Uuid::now_v7();
            id.or(invocation_id);
            assert_eq!(id.into_value(), if taken { value.to_owned() } else { invocation_id.to_string() });
        }
    }
}
