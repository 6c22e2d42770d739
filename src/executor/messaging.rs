//! `wasmcloud:messaging` components: any event as a message. What its handler publishes to the message's `reply-to` is
//! the answer, an error a failure that may be tried again.

use std::time::Instant;

use trigger_core::{Failure, FailureCode, InvocationContext, Response};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Instance, InstancePre, Lower, types};

use super::call::{Called, Outcome};
use super::component::too_large;
use super::entry::Entry;
use super::failure::{bounded, classify};
use super::guest::Guest;
use super::inspect::MESSAGING_HANDLER;
use super::shelf::Ready;

/// The function of the interface.
const HANDLE: &str = "handle-message";

/// `broker-message` of the WIT, lent to the guest instead of copied twice.
#[derive(ComponentType, Lower)]
#[component(record)]
struct BrokerMessage<'a> {
    subject: &'a str,
    body: &'a [u8],
    #[component(name = "reply-to")]
    reply_to: Option<&'a str>,
}

pub(super) type Returned = Result<(), String>;

/// The component's handler, if it looks as the WIT says as far as its signature tells.
pub(super) fn handler(component: &Component) -> wasmtime::Result<ComponentExportIndex> {
    let exports = component.component_type();
    let name =
        exports.exports(component.engine()).map(|(name, _)| name).find(|name| name.starts_with(MESSAGING_HANDLER));
    let interface = name.and_then(|name| component.get_export_index(None, name));
    match interface.and_then(|interface| component.get_export(Some(&interface), HANDLE)) {
        Some((types::ComponentItem::ComponentFunc(handle), index))
            if handle.params().len() == 1 && handle.results().len() == 1 =>
        {
            Ok(index)
        }
        _ => wasmtime::bail!("its `{HANDLE}` is not `func(msg: broker-message) -> result<_, string>`"),
    }
}

/// Hands the event to the guest as a message, in `before`, an instance that served before, or in one that is made now.
pub(super) async fn call<E: Entry>(
    store: &mut Store<Guest>,
    pre: &InstancePre<Guest>,
    handle: &ComponentExportIndex,
    before: Option<Instance>,
    invocation: &InvocationContext,
) -> Called {
    let made = match before {
        Some(instance) => Ok(instance),
        None => E::component(pre, store).await,
    };
    let instance = match made {
        Ok(instance) => instance,
        Err(error) => return Called::without_instance(Outcome::Messaging(Err(error))),
    };
    let ready = Instant::now();
    let message = BrokerMessage {
        subject: &invocation.subject,
        body: &invocation.payload,
        reply_to: invocation.attribute("reply"),
    };
    let result = match instance.get_typed_func::<(BrokerMessage<'_>,), (Returned,)>(&mut *store, handle) {
        Ok(handle) => E::call(handle, store, (message,)).await,
        Err(error) => Err(error),
    };
    Called::new(ready, Ready::Component(instance), Outcome::Messaging(result.map(|(returned,)| returned)))
}

/// What the handler's end means.
pub(super) fn answer(result: wasmtime::Result<Returned>, guest: &mut Guest) -> Result<Response, Failure> {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(Failure::new(FailureCode::GuestError, bounded(&why))),
        Err(error) => return Err(classify(&error, guest)),
    }
    let (body, limit) = (guest.reply.take().unwrap_or_default(), guest.version.definition.max_output_bytes);
    if body.len() as u64 > limit {
        return Err(too_large(body.len(), limit));
    }
    Ok(Response { body, http: guest.http.take() })
}
