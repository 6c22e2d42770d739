//! Reactors: core modules that export `memory`, `alloc` and `handle`.
//!
//! `alloc(length) -> pointer` gives room for the payload, `handle(pointer, length) -> i64` answers with the pointer in
//! the upper and the length in the lower 32 bits: the same order as its parameters. An answer of no bytes is an answer.
//! A trap is a failure, and so is `proc_exit` where WASI is imported, with the codes of a command.

use std::time::Instant;

use bytes::Bytes;
use trigger_core::{Failure, FailureCode, Response};
use wasmtime::{ExternType, FuncType, Instance, InstancePre, Store, ValType};

use super::call::{Called, Outcome};
use super::command::exited;
use super::component::too_large;
use super::entry::Entry;
use super::failure::classify;
use super::guest::Guest;
use super::shelf::Ready;

pub(super) type Returned = Result<Bytes, Failure>;

/// What a reactor exports.
pub(super) const ALLOC: &str = "alloc";
/// What a reactor exports.
pub(super) const HANDLE: &str = "handle";
/// What every core module with data to share exports.
pub(super) const MEMORY: &str = "memory";

/// Called before anything else, where it is exported (WASI's convention for reactors).
const INITIALIZE: &str = "_initialize";

/// Whether it can be called.
pub(super) fn check(pre: InstancePre<Guest>) -> wasmtime::Result<InstancePre<Guest>> {
    let module = pre.module();
    let signature = |name: &str| match module.get_export(name) {
        Some(ExternType::Func(function)) => Some(function),
        _ => None,
    };
    let is = |function: Option<FuncType>, params: &[ValType], result: &ValType| {
        function.is_some_and(|function| {
            function.params().len() == params.len()
                && function.params().zip(params).all(|(one, other)| ValType::eq(&one, other))
                && function.results().len() == 1
                && function.results().all(|one| ValType::eq(&one, result))
        })
    };
    if !matches!(module.get_export(MEMORY), Some(ExternType::Memory(memory)) if !memory.is_64()) {
        wasmtime::bail!("it does not export a 32-bit `{MEMORY}`");
    }
    if !is(signature(ALLOC), &[ValType::I32], &ValType::I32) {
        wasmtime::bail!("its `{ALLOC}` is not `(length: i32) -> i32`");
    }
    if !is(signature(HANDLE), &[ValType::I32, ValType::I32], &ValType::I64) {
        wasmtime::bail!("its `{HANDLE}` is not `(pointer: i32, length: i32) -> i64`");
    }
    Ok(pre)
}

/// Hands the payload over and takes the answer out, in `before`, an instance that served before, or in one that is
/// made now.
pub(super) async fn call<E: Entry>(
    store: &mut Store<Guest>,
    pre: &InstancePre<Guest>,
    before: Option<Instance>,
    payload: &Bytes,
) -> Called {
    let made = match before {
        Some(instance) => Ok(instance),
        None => E::core(pre, store).await,
    };
    let instance = match made {
        Ok(instance) => instance,
        Err(error) => return Called::without_instance(Outcome::Reactor(Err(error))),
    };
    let ready = Instant::now();
    let result = converse::<E>(store, instance, before.is_none(), payload).await;
    Called::new(ready, Ready::Reactor(instance), Outcome::Reactor(result))
}

async fn converse<E: Entry>(
    store: &mut Store<Guest>,
    instance: Instance,
    is_new: bool,
    payload: &Bytes,
) -> wasmtime::Result<Returned> {
    if is_new && let Some(initialize) = instance.get_func(&mut *store, INITIALIZE) {
        let initialize = initialize.typed::<(), ()>(&*store)?;
        E::call_core(initialize, store, ()).await?;
    }
    let Some(memory) = instance.get_memory(&mut *store, MEMORY) else { wasmtime::bail!("it exports no memory") };
    let alloc = instance.get_typed_func::<u32, u32>(&mut *store, ALLOC)?;
    let handle = instance.get_typed_func::<(u32, u32), u64>(&mut *store, HANDLE)?;
    // More than 4 GiB would have been refused as too large long before.
    let length = u32::try_from(payload.len())?;
    let at = E::call_core(alloc, store, length).await?;
    if memory.write(&mut *store, at as usize, payload).is_err() {
        return Ok(Err(bad(format!("`{ALLOC}` answered {at}, where {length} bytes are not within its memory"))));
    }
    let packed = E::call_core(handle, store, (at, length)).await?;
    let (at, length) = ((packed >> 32) as usize, packed as u32 as usize);
    let limit = store.data().version.definition.max_output_bytes;
    if length as u64 > limit {
        return Ok(Err(too_large(length, limit)));
    }
    let answer = memory.data(&*store).get(at..).and_then(|rest| rest.get(..length));
    Ok(answer
        .map(Bytes::copy_from_slice)
        .ok_or_else(|| bad(format!("`{HANDLE}` answered {length} bytes at {at}, which are not within its memory"))))
}

fn bad(message: String) -> Failure {
    Failure::new(FailureCode::BadOutput, message)
}

/// What the call's end means.
pub(super) fn answer(result: wasmtime::Result<Returned>, guest: &Guest) -> Result<Response, Failure> {
    match result {
        Ok(answer) => answer.map(Response::from),
        Err(error) => Err(exited(&error, guest).unwrap_or_else(|| classify(&error, guest))),
    }
}
