//! `invocation`: everything that a guest may ask about the event it works on.

use std::time::Instant;

use super::bindings::tripline::function::invocation;
use crate::executor::guest::Guest;

impl invocation::Host for Guest {
    fn request_id(&mut self) -> String {
        self.with_invocation(|invocation| invocation.request_id().into_owned())
    }

    fn namespace(&mut self) -> String {
        self.version.definition.namespace.clone()
    }

    fn function_name(&mut self) -> String {
        self.version.definition.name.clone()
    }

    fn version(&mut self) -> u32 {
        self.version.number
    }

    fn trigger_id(&mut self) -> String {
        self.with_invocation(|invocation| invocation.binding.trigger_id.to_string())
    }

    fn caller(&mut self) -> Option<String> {
        self.with_invocation(|invocation| invocation.caller.as_deref().map(str::to_owned))
    }

    fn idempotency_token(&mut self) -> String {
        self.with_invocation(|invocation| invocation.idempotency_token().into_owned())
    }

    fn depth(&mut self) -> u32 {
        self.with_invocation(|invocation| invocation.depth)
    }

    fn parent(&mut self) -> Option<String> {
        self.with_invocation(|invocation| invocation.parent.map(|parent| parent.to_string()))
    }

    fn received_at(&mut self) -> u64 {
        self.with_invocation(|invocation| millis(invocation.received_at))
    }

    fn scheduled_at(&mut self) -> Option<u64> {
        self.with_invocation(|invocation| invocation.scheduled_at.map(millis))
    }

    fn remaining(&mut self) -> u64 {
        self.deadline.saturating_duration_since(Instant::now()).as_millis() as u64
    }

    fn headers(&mut self) -> Vec<(String, Vec<u8>)> {
        self.with_invocation(|invocation| {
            invocation.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
        })
    }

    fn header(&mut self, name: String) -> Option<Vec<u8>> {
        self.with_invocation(|invocation| invocation.headers.get(&name).map(<[u8]>::to_vec))
    }

    fn attribute(&mut self, name: String) -> Option<String> {
        self.with_invocation(|invocation| invocation.attribute(&name).map(str::to_owned))
    }

    fn attributes(&mut self) -> Vec<(String, String)> {
        self.with_invocation(|invocation| {
            invocation.attributes.iter().map(|(name, value)| (name.clone().into_owned(), value.clone())).collect()
        })
    }

    fn traceparent(&mut self) -> String {
        self.with_invocation(|invocation| invocation.trace.traceparent())
    }
}

/// Milliseconds since the Unix epoch; a time before it is the epoch.
fn millis(at: chrono::DateTime<chrono::Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}
