//! WASI commands, as core modules and as components: the payload on stdin, the answer from stdout, the exit code for how
//! it went.

use std::time::Instant;

use trigger_core::{Failure, FailureCode, Response};
use wasmtime::{InstancePre, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

use super::call::{Called, Outcome};
use super::component::too_large;
use super::failure::{bounded, classify};
use super::guest::Guest;

/// `EX_DATAERR` of BSD's `sysexits.h`: the input is wrong, and will be wrong next time.
const EX_DATAERR: i32 = 65;

/// Whether `_start` can be called.
pub(super) fn check(pre: InstancePre<Guest>) -> wasmtime::Result<InstancePre<Guest>> {
    let start = pre.module().get_export("_start");
    let start = start.as_ref().and_then(wasmtime::ExternType::func);
    if start.is_none_or(|start| start.params().len() != 0 || start.results().len() != 0) {
        wasmtime::bail!("its `_start` is not a function without parameters and results");
    }
    Ok(pre)
}

/// Runs the command, which writes its answer into `output`.
pub(super) async fn call(store: &mut Store<Guest>, pre: &InstancePre<Guest>, output: MemoryOutputPipe) -> Called {
    let instance = match pre.instantiate_async(&mut *store).await {
        Ok(instance) => instance,
        Err(error) => return Called::without_instance(Outcome::Command(Err(error), output)),
    };
    let ready = Instant::now();
    let result = match instance.get_typed_func::<(), ()>(&mut *store, "_start") {
        Ok(start) => start.call_async(store, ()).await,
        Err(error) => Err(error),
    };
    Called::once(ready, Outcome::Command(result, output))
}

/// Runs a component's command, which writes its answer into `output`.
pub(super) async fn call_component(
    store: &mut Store<Guest>,
    pre: &CommandPre<Guest>,
    output: MemoryOutputPipe,
) -> Called {
    let command = match pre.instantiate_async(&mut *store).await {
        Ok(command) => command,
        Err(error) => return Called::without_instance(Outcome::Command(Err(error), output)),
    };
    let ready = Instant::now();
    let result = match command.wasi_cli_run().call_run(store).await {
        Ok(Ok(())) => Ok(()),
        // It has no other number to tell.
        Ok(Err(())) => Err(I32Exit(1).into()),
        Err(error) => Err(error),
    };
    Called::once(ready, Outcome::Command(result, output))
}

/// What the command's end means.
pub(super) fn answer(
    result: wasmtime::Result<()>,
    output: MemoryOutputPipe,
    guest: &Guest,
) -> Result<Response, Failure> {
    let limit = guest.version.definition.max_output_bytes;
    let body = output.contents();
    if body.len() as u64 > limit {
        return Err(too_large(format!("more than {limit}"), limit));
    }
    let Err(error) = result else { return Ok(body.into()) };
    match exited(&error, guest) {
        Some(failure) => Err(failure),
        None if error.is::<I32Exit>() => Ok(body.into()),
        None => Err(classify(&error, guest)),
    }
}

/// The failure that a guest declared by its exit code; `None` for 0 and for ends of another kind.
pub(super) fn exited(error: &wasmtime::Error, guest: &Guest) -> Option<Failure> {
    let code = error.downcast_ref::<I32Exit>()?.0;
    if code == 0 {
        return None;
    }
    let said = guest.wasi.as_deref().and_then(|wasi| wasi.last_words());
    let message = match said {
        Some(said) => format!("exit code {code}: {}", bounded(&said)),
        None => format!("exit code {code}"),
    };
    let failure = Failure::new(FailureCode::GuestError, message);
    Some(if code == EX_DATAERR { failure.permanent() } else { failure })
}
