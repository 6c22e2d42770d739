//! Typed components: `handle` of the world in `wit/tripline.wit`.

use std::time::{Duration, Instant};

use trigger_core::{Failure, FailureCode, InvocationContext, Kind, Response};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Instance, InstancePre, Lower, types};

use super::call::{Called, Outcome};
use super::entry::Entry;
use super::failure::{bounded, classify};
use super::guest::Guest;
use super::host::bindings::tripline::function::types as wit;
use super::inspect::HANDLE;
use super::shelf::Ready;

/// `context` of the WIT, lent to the guest instead of copied twice.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Context<'a> {
    #[component(name = "invocation-id")]
    invocation_id: &'a str,
    trigger: wit::TriggerKind,
    subject: &'a str,
    #[component(name = "content-type")]
    content_type: Option<&'a str>,
    attempt: u32,
}

pub(super) type Returned = Result<Vec<u8>, wit::Failure>;

impl<'a> Context<'a> {
    fn new(invocation: &'a InvocationContext, id: &'a str) -> Self {
        Self {
            invocation_id: id,
            trigger: kind(invocation.binding.trigger_type),
            subject: &invocation.subject,
            content_type: invocation.content_type.as_deref(),
            attempt: invocation.attempt,
        }
    }
}

fn kind(kind: Kind) -> wit::TriggerKind {
    match kind {
        Kind::Http => wit::TriggerKind::Http,
        Kind::Websocket => wit::TriggerKind::Websocket,
        Kind::Cron => wit::TriggerKind::Cron,
        Kind::Database => wit::TriggerKind::Database,
        Kind::Pubsub => wit::TriggerKind::Pubsub,
        Kind::Timer => wit::TriggerKind::Timer,
        Kind::Job => wit::TriggerKind::Job,
    }
}

/// Whether `handle` looks as the WIT says, as far as its signature tells before there is an instance.
pub(super) fn check(component: &Component) -> wasmtime::Result<()> {
    let engine = component.engine();
    let exports = component.component_type();
    let Some(types::ComponentItem::ComponentFunc(handle)) = exports.get_export(engine, HANDLE).map(|item| item.ty)
    else {
        wasmtime::bail!("its `{HANDLE}` is not a function");
    };
    if handle.params().len() != 2 || handle.results().len() != 1 {
        wasmtime::bail!("its `{HANDLE}` is not `func(cx: context, payload: list<u8>) -> result<list<u8>, failure>`");
    }
    Ok(())
}

/// Calls the guest, in `before`, an instance that served before, or in one that is made now.
pub(super) async fn call<E: Entry>(
    store: &mut Store<Guest>,
    pre: &InstancePre<Guest>,
    handle: &ComponentExportIndex,
    before: Option<Instance>,
    invocation: &InvocationContext,
) -> Called {
    let mut id = uuid::Uuid::encode_buffer();
    let id = &*invocation.invocation_id.hyphenated().encode_lower(&mut id);
    let made = match before {
        Some(instance) => Ok(instance),
        None => E::component(pre, store).await,
    };
    let instance = match made {
        Ok(instance) => instance,
        Err(error) => return Called::without_instance(Outcome::Component(Err(error))),
    };
    let ready = Instant::now();
    let result = match instance.get_typed_func::<(Context<'_>, &[u8]), (Returned,)>(&mut *store, handle) {
        Ok(handle) => E::call(handle, store, (Context::new(invocation, id), &invocation.payload)).await,
        Err(error) => Err(error),
    };
    Called::new(ready, Ready::Component(instance), Outcome::Component(result.map(|(returned,)| returned)))
}

/// What the guest's answer means.
pub(super) fn answer(result: wasmtime::Result<Returned>, guest: &mut Guest) -> Result<Response, Failure> {
    let body = match result {
        Ok(Ok(body)) => body,
        Ok(Err(failure)) => return Err(said(failure)),
        Err(error) => return Err(classify(&error, guest)),
    };
    let limit = guest.version.definition.max_output_bytes;
    if body.len() as u64 > limit {
        return Err(too_large(body.len(), limit));
    }
    Ok(Response { body: body.into(), http: guest.http.take() })
}

/// The answer is larger than the definition allows.
pub(super) fn too_large(size: impl std::fmt::Display, limit: u64) -> Failure {
    Failure::new(FailureCode::BadOutput, format!("the guest's answer has {size} bytes, its limit is {limit}"))
}

/// The failure that a guest declared.
fn said(failure: wit::Failure) -> Failure {
    let error = |message: String| Failure::new(FailureCode::GuestError, bounded(&message));
    match failure {
        wit::Failure::Retryable(message) => error(message),
        wit::Failure::Permanent(message) => error(message).permanent(),
        wit::Failure::RetryAfter((message, millis)) => error(message).after(Duration::from_millis(millis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_says_how_it_failed_and_what_should_follow() {
        let retryable = said(wit::Failure::Retryable("busy".into()));
        assert_eq!((retryable.code, retryable.retryable, &*retryable.message), (FailureCode::GuestError, true, "busy"));
        assert!(!said(wit::Failure::Permanent("never".into())).retryable);
        let later = said(wit::Failure::RetryAfter(("later".into(), 1500)));
        assert_eq!((later.retryable, later.retry_after), (true, Some(Duration::from_millis(1500))));
        let long = said(wit::Failure::Retryable("é".repeat(100_000)));
        assert!(long.message.len() <= super::super::failure::MAX_MESSAGE);
        let bell = said(wit::Failure::Retryable("a\x1b[2Jb".into()));
        assert!(!bell.message.contains('\x1b'), "a message does not move a terminal's cursor");
    }
}
