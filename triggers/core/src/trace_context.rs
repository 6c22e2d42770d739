//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): 128-bit trace id, 64-bit parent span id, flags.

use std::fmt::Write as _;

/// Where an invocation stands in a distributed trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace that the event belongs to; never 0.
    pub trace_id: u128,
    /// The span that caused the event; 0 where the event starts a trace.
    pub parent_span: u64,
    /// This invocation's own span; never 0.
    pub span_id: u64,
    /// Trace flags; bit 0 is `sampled`.
    pub flags: u8,
    /// `tracestate`, passed on as it came.
    pub state: Option<Box<str>>,
}

/// The longest `tracestate` that is passed on; the specification asks for at least 512 characters.
const MAX_STATE: usize = 1024;

impl TraceContext {
    /// The start of a new trace.
    pub fn new_root() -> Self {
        Self { trace_id: fastrand::u128(1..), parent_span: 0, span_id: fastrand::u64(1..), flags: 1, state: None }
    }

    /// Reads `traceparent` and `tracestate`; `None` for a `traceparent` that is not valid, which then is ignored as
    /// the specification asks.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let bytes = traceparent.trim().as_bytes();
        let separators = bytes.len() >= 55 && bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
        if !separators || (bytes.len() > 55 && (&bytes[..2] == b"00" || bytes[55] != b'-')) {
            return None;
        }
        let hex = |range: std::ops::Range<usize>| -> Option<u128> {
            bytes[range].iter().try_fold(0u128, |value, &byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                Some(value << 4 | u128::from(digit))
            })
        };
        let version = hex(0..2)?;
        let trace_id = hex(3..35)?;
        let parent_span = hex(36..52)? as u64;
        let flags = hex(53..55)? as u8;
        if version == 0xff || trace_id == 0 || parent_span == 0 {
            return None;
        }
        let state = tracestate.filter(|state| !state.is_empty() && state.len() <= MAX_STATE).map(Box::from);
        Some(Self { trace_id, parent_span, span_id: fastrand::u64(1..), flags, state })
    }

    /// Where what this invocation causes stands: a span below this one.
    pub fn child(&self) -> Self {
        Self { parent_span: self.span_id, span_id: fastrand::u64(1..), ..self.clone() }
    }

    /// The `traceparent` to send onwards: this invocation is the parent of what it causes.
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
            .expect("writing to a string cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_traceparent_is_continued() {
        let parsed =
            TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some("a=b")).unwrap();
        assert_eq!(parsed.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parsed.parent_span, 0xb7ad_6b71_6920_3331);
        assert_eq!(parsed.state.as_deref(), Some("a=b"));
        let onwards = parsed.traceparent();
        assert!(onwards.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert!(!onwards.contains("b7ad6b7169203331"), "the parent of what follows is this invocation");
    }

    #[test]
    fn an_invalid_traceparent_is_ignored() {
        for bad in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad, None), None, "{bad:?}");
        }
    }
}
