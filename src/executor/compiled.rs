//! A module as machine code, linked and ready to be instantiated.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wasmtime::component::{Component, ComponentExportIndex, HasSelf, InstancePre};
use wasmtime::{Engine, Module};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::guest::Guest;
use super::host::bindings::Function;
use super::{Abi, ModuleError, ModuleSlot, command, component, host, inspect, messaging, reactor, wasi};

/// Interfaces whose host asks others than the invocation: who imports one is given services, and may wait for them.
const SERVED: &[&str] = &[
    "tripline:function/jobs@",
    "tripline:function/timers@",
    "tripline:function/sql@",
    "tripline:function/sockets@",
    "tripline:function/key-value@",
    "tripline:function/secrets@",
    "tripline:function/http-client@",
    "tripline:function/functions@",
    "wasi:keyvalue/",
    "wasi:http/outgoing-handler@",
];

/// What guests may import.
pub(super) struct Linkers {
    /// The interfaces of `wit/tripline.wit`, and `wasmcloud:messaging` over them: nothing in them waits, but in those
    /// that are `SERVED`.
    ours: wasmtime::component::Linker<Guest>,
    /// Those, WASI 0.2 and the other standard interfaces.
    wide: wasmtime::component::Linker<Guest>,
    /// WASI preview 1, for core modules.
    core: wasmtime::Linker<Guest>,
}

impl Linkers {
    pub(super) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut ours = wasmtime::component::Linker::new(engine);
        let mut wide = wasmtime::component::Linker::new(engine);
        for linker in [&mut ours, &mut wide] {
            Function::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
            host::standard::add_messaging_to_linker(linker)?;
        }
        wasmtime_wasi::p2::add_to_linker_async(&mut wide)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut wide)?;
        host::standard::add_to_linker(&mut wide)?;
        let mut core = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, wasi::command_context)?;
        Ok(Self { ours, wide, core })
    }
}

/// Machine code, by how it is called.
pub(super) enum Code {
    /// A component or core module that was compiled, not yet linked.
    Component(Component),
    /// The same of a core module.
    Core(Module),
}

impl Code {
    pub(super) fn compile(engine: &Engine, abi: Abi, bytes: &[u8]) -> Result<Self, ModuleError> {
        let refused = |error: wasmtime::Error| ModuleError::Compile(format!("{error:#}"));
        match abi.is_component() {
            true => Component::from_binary(engine, bytes).map(Code::Component).map_err(refused),
            false => Module::from_binary(engine, bytes).map(Code::Core).map_err(refused),
        }
    }

    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Code::Component(component) => component.serialize(),
            Code::Core(module) => module.serialize(),
        }
    }

    fn engine(&self) -> &Engine {
        match self {
            Code::Component(component) => component.engine(),
            Code::Core(module) => module.engine(),
        }
    }

    fn image_bytes(&self) -> usize {
        let range = match self {
            Code::Component(component) => component.image_range(),
            Code::Core(module) => module.image_range(),
        };
        range.end.addr() - range.start.addr()
    }
}

/// Linked code.
pub(super) struct Compiled {
    pub(super) linked: Linked,
    /// What its guests are given.
    pub(super) needs: Needs,
    /// The engine that it was compiled for.
    pub(super) engine: Engine,
    /// Size of the machine code's image.
    pub(super) bytes: usize,
    /// When it was last used, on the cache's own clock.
    pub(super) last_used: AtomicU64,
    /// The modules of versions that it was made or found for: one, but for moments.
    users: Mutex<Vec<Weak<ModuleSlot>>>,
}

/// What is instantiated.
pub(super) enum Linked {
    Component { pre: InstancePre<Guest>, handle: ComponentExportIndex },
    Http { pre: ProxyPre<Guest> },
    Command { pre: wasmtime::InstancePre<Guest> },
    CommandComponent { pre: CommandPre<Guest> },
    Messaging { pre: InstancePre<Guest>, handle: ComponentExportIndex },
    Reactor { pre: wasmtime::InstancePre<Guest> },
}

/// What a component imports that is more than its invocation's own; core modules ask nobody.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    /// WASI: it may wait.
    pub(super) wasi: bool,
    /// What is `SERVED`: it is given services, and may wait for them.
    pub(super) served: bool,
    /// Interfaces that show it the invocation.
    pub(super) invocation: bool,
}

impl Needs {
    fn of(code: &Code) -> Self {
        let component = match code {
            Code::Component(component) => component,
            Code::Core(module) => {
                let wasi = module.imports().any(|import| import.module() == inspect::PREVIEW1);
                return Self { wasi, ..Self::default() };
            }
        };
        Self {
            wasi: imports(component, "wasi:"),
            served: SERVED.iter().any(|interface| imports(component, interface)),
            invocation: imports(component, "tripline:") || imports(component, "wasmcloud:"),
        }
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Compiled {
    pub(super) fn link(linkers: &Linkers, abi: Abi, code: &Code) -> Result<Self, ModuleError> {
        let needs = Needs::of(code);
        let linked = match (abi, code) {
            (Abi::Component, Code::Component(component)) => {
                link_component(if needs.wasi { &linkers.wide } else { &linkers.ours }, component)
            }
            (Abi::WasiHttp, Code::Component(component)) => {
                linkers.wide.instantiate_pre(component).and_then(ProxyPre::new).map(|pre| Linked::Http { pre })
            }
            (Abi::Messaging, Code::Component(component)) => linkers
                .wide
                .instantiate_pre(component)
                .and_then(|pre| Ok(Linked::Messaging { pre, handle: messaging::handler(component)? })),
            (Abi::CommandComponent, Code::Component(component)) => {
                let pre = linkers.wide.instantiate_pre(component).and_then(CommandPre::new);
                pre.map(|pre| Linked::CommandComponent { pre })
            }
            (Abi::Reactor, Code::Core(module)) => {
                linkers.core.instantiate_pre(module).and_then(reactor::check).map(|pre| Linked::Reactor { pre })
            }
            (Abi::Command, Code::Core(module)) => {
                linkers.core.instantiate_pre(module).and_then(command::check).map(|pre| Linked::Command { pre })
            }
            _ => return Err(ModuleError::Compile(format!("it is not called as a {}", abi.as_str()))),
        };
        let linked = linked.map_err(|error| ModuleError::Compile(format!("{error:#}")))?;
        Ok(Self {
            linked,
            needs,
            engine: code.engine().clone(),
            bytes: code.image_bytes(),
            last_used: AtomicU64::new(0),
            users: Mutex::default(),
        })
    }

    /// Whether neither what it imports nor the way it is called can make its guests wait.
    pub(super) fn never_waits(&self) -> bool {
        let by_its_nature =
            matches!(self.linked, Linked::Component { .. } | Linked::Messaging { .. } | Linked::Reactor { .. });
        by_its_nature && !self.needs.wasi && !self.needs.served
    }

    /// Notes whose code it is.
    pub(super) fn used_by(&self, user: &Weak<ModuleSlot>) {
        let mut users = self.users.lock();
        if !users.iter().any(|known| known.ptr_eq(user)) {
            users.retain(|known| known.strong_count() > 0);
            users.push(user.clone());
        }
    }

    /// Whether a version with its module is alive.
    pub(super) fn is_used(&self) -> bool {
        self.users.lock().iter().any(|user| user.strong_count() > 0)
    }

    pub(super) fn touch(&self, now: u64) {
        // Written only when it changes, so that threads with the same module do not fight over the line.
        if self.last_used.load(Ordering::Relaxed) != now {
            self.last_used.store(now, Ordering::Relaxed);
        }
    }
}

fn link_component(linker: &wasmtime::component::Linker<Guest>, component: &Component) -> wasmtime::Result<Linked> {
    let pre = linker.instantiate_pre(component)?;
    let handle = component
        .get_export_index(None, inspect::HANDLE)
        .ok_or_else(|| wasmtime::format_err!("it does not export `{}`", inspect::HANDLE))?;
    component::check(component)?;
    Ok(Linked::Component { pre, handle })
}

fn imports(component: &Component, prefix: &str) -> bool {
    component.component_type().imports(component.engine()).any(|(name, _)| name.starts_with(prefix))
}
