//! Standard interfaces over the host's own: what was built elsewhere runs here as it is.
//!
//! Their text is in `wit/standard/`. Who imports one of those with resources imports WASI, so there is a table for them.

mod config;
mod keyvalue;
mod logging;
mod messaging;

use wasmtime::component::{HasSelf, Linker};

use crate::executor::guest::Guest;

/// The interfaces as wasmtime sees them, a module for each published version.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from wit/standard, which has the text")]
mod bindings {
    pub(super) mod keyvalue_draft {
        wasmtime::component::bindgen!({
            path: "wit/standard/keyvalue-draft",
            world: "imports",
            imports: { default: async | trappable },
            with: { "wasi:keyvalue/store.bucket": crate::executor::host::standard::keyvalue::Bucket },
        });
    }
    pub(super) mod keyvalue_draft2 {
        wasmtime::component::bindgen!({
            path: "wit/standard/keyvalue-draft2",
            world: "imports",
            imports: { default: async | trappable },
            with: {
                "wasi:keyvalue/store.bucket": crate::executor::host::standard::keyvalue::Bucket,
                "wasi:keyvalue/atomics.cas": crate::executor::host::standard::keyvalue::Cas,
            },
        });
    }
    pub(super) mod config_draft {
        wasmtime::component::bindgen!({ path: "wit/standard/config-draft", world: "imports" });
    }
    pub(super) mod config_rc1 {
        wasmtime::component::bindgen!({ path: "wit/standard/config-rc1", world: "imports" });
    }
    pub(super) mod logging {
        wasmtime::component::bindgen!({ path: "wit/standard/logging", world: "imports" });
    }
    pub(super) mod messaging {
        wasmtime::component::bindgen!({ path: "wit/standard/wasmcloud-messaging", world: "imports" });
    }
}

/// Lets components publish as they do on wasmCloud, which needs no WASI.
pub(in crate::executor) fn add_messaging_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    bindings::messaging::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}

/// Lets components import the others, which are WASI's.
pub(in crate::executor) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    bindings::keyvalue_draft::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    bindings::keyvalue_draft2::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    bindings::config_draft::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    bindings::config_rc1::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    bindings::logging::Imports::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}
