//! What somebody writes who calls a guest by wasmtime alone: a store with a limit, an instance, the call.

#![allow(missing_docs, reason = "generated from wit/tripline.wit, where the documentation is")]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use trigger_core::InvocationContext;
use tripline::executor::Abi;
use wasmtime::component::{
    self, Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower, ResourceTable,
};
use wasmtime::{Engine, Module, ResourceLimiter, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

mod guest {
    wasmtime::component::bindgen!({ path: "wit", world: "function" });
}

const MAX_ANSWER: usize = 1 << 20;

/// What a careful user of wasmtime would have: a limit on memory, and WASI where the guest imports it.
pub(crate) struct Host {
    table: ResourceTable,
    wasi: Option<WasiCtx>,
    core: Option<WasiP1Ctx>,
    http: WasiHttpCtx,
    hooks: NoRequests,
    reply: Vec<u8>,
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 64 << 20)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: self.wasi.as_mut().expect("given"), table: &mut self.table }
    }
}

struct NoRequests;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Message {
    subject: String,
    body: Vec<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

/// An instance that may serve again.
pub(crate) enum Ready {
    Component(guest::Function),
    Http(Proxy),
    Messaging(component::Instance),
    Reactor(wasmtime::Instance),
}

enum Linked {
    Component(guest::FunctionPre<Host>),
    Http(ProxyPre<Host>),
    Messaging(InstancePre<Host>, ComponentExportIndex),
    Reactor(wasmtime::InstancePre<Host>),
    Command(wasmtime::InstancePre<Host>),
    CommandComponent(CommandPre<Host>),
}

pub(crate) struct Bare {
    engine: Engine,
    linked: Linked,
}

/// What is kept from call to call, where it is.
pub(crate) type Kept = Option<(Store<Host>, Ready)>;

impl Bare {
    pub(crate) fn new(engine: &Engine, abi: Abi, module: &[u8]) -> Self {
        let linked = match abi {
            Abi::Command | Abi::Reactor => {
                let module = Module::new(engine, module).expect("it compiles");
                let mut linker = wasmtime::Linker::new(engine);
                wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut Host| {
                    host.core.as_mut().expect("given")
                })
                .expect("WASI");
                let pre = linker.instantiate_pre(&module).expect("only WASI is imported");
                if abi == Abi::Command { Linked::Command(pre) } else { Linked::Reactor(pre) }
            }
            _ => {
                let component = Component::new(engine, module).expect("it compiles");
                let mut linker = Linker::new(engine);
                if matches!(abi, Abi::WasiHttp | Abi::CommandComponent) {
                    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
                    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).expect("WASI");
                }
                if abi == Abi::Messaging {
                    linker
                        .instance("wasmcloud:messaging/consumer@0.2.0")
                        .and_then(|mut consumer| {
                            consumer.func_wrap(
                                "publish",
                                |mut store: wasmtime::StoreContextMut<'_, Host>, (message,): (Message,)| {
                                    store.data_mut().reply = message.body;
                                    Ok((Ok::<(), String>(()),))
                                },
                            )
                        })
                        .expect("the consumer");
                }
                if abi == Abi::Component {
                    linker.define_unknown_imports_as_traps(&component).expect("only types are imported");
                }
                let pre = linker.instantiate_pre(&component).expect("nothing else is imported");
                match abi {
                    Abi::Component => Linked::Component(guest::FunctionPre::new(pre).expect("a typed component")),
                    Abi::WasiHttp => Linked::Http(ProxyPre::new(pre).expect("a proxy")),
                    Abi::Messaging => {
                        let handler = component.get_export_index(None, "wasmcloud:messaging/handler@0.2.0");
                        let handle = component.get_export_index(handler.as_ref(), "handle-message");
                        Linked::Messaging(pre, handle.expect("a handler"))
                    }
                    _ => Linked::CommandComponent(CommandPre::new(pre).expect("a command")),
                }
            }
        };
        Self { engine: engine.clone(), linked }
    }

    fn store(&self, wasi: Option<WasiCtx>, core: Option<WasiP1Ctx>) -> Store<Host> {
        let host = Host {
            table: ResourceTable::new(),
            wasi,
            core,
            http: WasiHttpCtx::new(),
            hooks: NoRequests,
            reply: Vec::new(),
        };
        let mut store = Store::new(&self.engine, host);
        store.limiter(|host| host);
        store.set_epoch_deadline(1_000_000);
        store
    }

    /// Calls the guest: in what is kept, if it may be, or in a new instance.
    pub(crate) async fn call(&self, event: &InvocationContext, kept: Option<&mut Kept>) -> Bytes {
        match kept {
            Some(kept) => {
                let (answer, used) = self.run(event, kept.take()).await;
                *kept = used;
                answer
            }
            None => self.run(event, None).await.0,
        }
    }

    async fn run(&self, event: &InvocationContext, taken: Kept) -> (Bytes, Kept) {
        let payload = event.payload.clone();
        match &self.linked {
            Linked::Component(pre) => {
                let (mut store, function) = match taken {
                    Some((store, Ready::Component(function))) => (store, function),
                    _ => {
                        let mut store = self.store(None, None);
                        let function = pre.instantiate(&mut store).expect("an instance");
                        (store, function)
                    }
                };
                let cx = guest::tripline::function::types::Context {
                    invocation_id: event.invocation_id.to_string(),
                    trigger: guest::tripline::function::types::TriggerKind::Job,
                    subject: event.subject.to_string(),
                    content_type: None,
                    attempt: 1,
                };
                let answer = function.call_handle(&mut store, &cx, &payload).expect("no trap").expect("no failure");
                (answer.into(), Some((store, Ready::Component(function))))
            }
            Linked::Http(pre) => {
                let (mut store, proxy) = match taken {
                    Some((store, Ready::Http(proxy))) => (store, proxy),
                    _ => {
                        let mut store = self.store(Some(WasiCtx::builder().build()), None);
                        let proxy = pre.instantiate_async(&mut store).await.expect("an instance");
                        (store, proxy)
                    }
                };
                let body = Full::new(payload).map_err(|never| -> Error { match never {} });
                let request = http::Request::builder().method("POST").uri("http://localhost/").body(body);
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let mut view = store.data_mut().http();
                let request = view.new_incoming_request(Scheme::Http, request.expect("a request")).expect("a resource");
                let out = store.data_mut().http().new_response_outparam(sender).expect("a resource");
                let handler = proxy.wasi_http_incoming_handler();
                let (ended, answer) = tokio::join!(handler.call_handle(&mut store, request, out), async {
                    let response = receiver.await.expect("an answer").expect("a response");
                    response.into_body().collect().await.expect("a body").to_bytes()
                });
                ended.expect("no trap");
                (answer, Some((store, Ready::Http(proxy))))
            }
            Linked::Messaging(pre, handle) => {
                let (mut store, instance) = match taken {
                    Some((store, Ready::Messaging(instance))) => (store, instance),
                    _ => {
                        let mut store = self.store(None, None);
                        let instance = pre.instantiate_async(&mut store).await.expect("an instance");
                        (store, instance)
                    }
                };
                let handle = instance.get_typed_func::<(Message,), (Result<(), String>,)>(&mut store, handle);
                let message = Message {
                    subject: event.subject.to_string(),
                    body: payload.to_vec(),
                    reply_to: event.attribute("reply").map(str::to_owned),
                };
                let ended = handle.expect("a handler").call_async(&mut store, (message,)).await;
                ended.expect("no trap").0.expect("no failure");
                let answer = std::mem::take(&mut store.data_mut().reply);
                (answer.into(), Some((store, Ready::Messaging(instance))))
            }
            Linked::Reactor(pre) => {
                let (mut store, instance) = match taken {
                    Some((store, Ready::Reactor(instance))) => (store, instance),
                    _ => {
                        let mut store = self.store(None, Some(WasiCtx::builder().build_p1()));
                        let instance = pre.instantiate_async(&mut store).await.expect("an instance");
                        (store, instance)
                    }
                };
                let memory = instance.get_memory(&mut store, "memory").expect("a memory");
                let alloc = instance.get_typed_func::<u32, u32>(&mut store, "alloc").expect("alloc");
                let handle = instance.get_typed_func::<(u32, u32), u64>(&mut store, "handle").expect("handle");
                let at = alloc.call_async(&mut store, payload.len() as u32).await.expect("no trap");
                memory.write(&mut store, at as usize, &payload).expect("room");
                let packed = handle.call_async(&mut store, (at, payload.len() as u32)).await.expect("no trap");
                let (at, length) = ((packed >> 32) as usize, packed as u32 as usize);
                let answer = Bytes::copy_from_slice(&memory.data(&store)[at..at + length]);
                (answer, Some((store, Ready::Reactor(instance))))
            }
            Linked::Command(pre) => {
                let output = MemoryOutputPipe::new(MAX_ANSWER);
                let wasi = WasiCtx::builder().stdin(MemoryInputPipe::new(payload)).stdout(output.clone()).build_p1();
                let mut store = self.store(None, Some(wasi));
                let instance = pre.instantiate_async(&mut store).await.expect("an instance");
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("a command");
                start.call_async(&mut store, ()).await.expect("no trap");
                (output.contents(), None)
            }
            Linked::CommandComponent(pre) => {
                let output = MemoryOutputPipe::new(MAX_ANSWER);
                let wasi = WasiCtx::builder().stdin(MemoryInputPipe::new(payload)).stdout(output.clone()).build();
                let mut store = self.store(Some(wasi), None);
                let command = pre.instantiate_async(&mut store).await.expect("an instance");
                command.wasi_cli_run().call_run(&mut store).await.expect("no trap").expect("no failure");
                (output.contents(), None)
            }
        }
    }
}
