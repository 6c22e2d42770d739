//! The two ways into a guest: on its caller's thread, where nothing can wait, and on a fiber, where it may wait and be
//! moved. What a guest interface does on the way is written once, for both.

use wasmtime::component::{self, ComponentNamedList, Lift, Lower};
use wasmtime::{Store, WasmParams, WasmResults};

use super::guest::Guest;

/// A way into a guest.
pub(super) trait Entry {
    fn component(
        pre: &component::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<component::Instance>> + Send;

    fn core(
        pre: &wasmtime::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<wasmtime::Instance>> + Send;

    fn call<P, R>(
        function: component::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> impl Future<Output = wasmtime::Result<R>> + Send
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static;

    fn call_core<P, R>(
        function: wasmtime::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> impl Future<Output = wasmtime::Result<R>> + Send
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync;
}

/// On this thread: its futures are ready when they are first asked. Less than half of what a fiber costs.
pub(super) struct Here;

impl Entry for Here {
    async fn component(
        pre: &component::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> wasmtime::Result<component::Instance> {
        pre.instantiate(store)
    }

    async fn core(
        pre: &wasmtime::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> wasmtime::Result<wasmtime::Instance> {
        pre.instantiate(store)
    }

    async fn call<P, R>(
        function: component::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        function.call(store, params)
    }

    async fn call_core<P, R>(
        function: wasmtime::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> wasmtime::Result<R>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        function.call(store, params)
    }
}

/// On a fiber.
pub(super) struct OnFiber;

impl Entry for OnFiber {
    async fn component(
        pre: &component::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> wasmtime::Result<component::Instance> {
        pre.instantiate_async(store).await
    }

    async fn core(
        pre: &wasmtime::InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> wasmtime::Result<wasmtime::Instance> {
        pre.instantiate_async(store).await
    }

    async fn call<P, R>(
        function: component::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        function.call_async(store, params).await
    }

    async fn call_core<P, R>(
        function: wasmtime::TypedFunc<P, R>,
        store: &mut Store<Guest>,
        params: P,
    ) -> wasmtime::Result<R>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        function.call_async(store, params).await
    }
}
