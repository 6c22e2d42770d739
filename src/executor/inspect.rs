//! A look at a module's bytes: how it is called, and what it wants. Compiles nothing.

use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, ExternalKind, Parser, Payload, TypeBounds, Validator, WasmFeatures,
};

use super::{Abi, Inspection, ModuleError, reactor};

/// The export of the world in `wit/tripline.wit`.
pub(super) const HANDLE: &str = "handle";

/// The interface that an HTTP component exports, in any of its compatible versions.
const INCOMING_HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// The interface that a component exports which handles messages, in any of its compatible versions.
pub(super) const MESSAGING_HANDLER: &str = "wasmcloud:messaging/handler@0.2.";

/// The interface that a component's command exports, in any of its compatible versions.
const RUN: &str = "wasi:cli/run@0.2.";

/// Interfaces that components may import. `@` stands before the version: releases of one minor version are compatible.
const OFFERED: &[&str] = &[
    "tripline:function/types@0.1.",
    "tripline:function/log@0.1.",
    "tripline:function/invocation@0.1.",
    "tripline:function/environment@0.1.",
    "tripline:function/messaging@0.1.",
    "tripline:function/jobs@0.1.",
    "tripline:function/timers@0.1.",
    "tripline:function/sql@0.1.",
    "tripline:function/sockets@0.1.",
    "tripline:function/key-value@0.1.",
    "tripline:function/secrets@0.1.",
    "tripline:function/http-client@0.1.",
    "tripline:function/functions@0.1.",
    "tripline:function/http-response@0.1.",
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    // There are no directories in them.
    "wasi:filesystem/",
    "wasi:http/types@0.2.",
    "wasi:http/outgoing-handler@0.2.",
    "wasmcloud:messaging/types@0.2.",
    "wasmcloud:messaging/consumer@0.2.",
];

/// Drafts of interfaces that components may import. No two drafts are compatible.
const DRAFTS: &[&str] = &[
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/store@0.2.0-rc.1",
    "wasi:logging/logging@0.1.0-draft",
];

/// The module whose functions core modules may import: WASI preview 1.
pub(super) const PREVIEW1: &str = "wasi_snapshot_preview1";

/// What preview 1 has (WASI `preview1` witx). Files and sockets are among them and find nothing.
const PREVIEW1_FUNCTIONS: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "environ_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_get",
    "fd_prestat_dir_name",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "sched_yield",
    "random_get",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Looks at a module of at most `limit` bytes.
pub(super) fn inspect(module: &[u8], limit: u64, features: WasmFeatures) -> Result<Inspection, ModuleError> {
    if module.len() as u64 > limit {
        return Err(ModuleError::TooLarge { size: module.len() as u64, limit });
    }
    let malformed = |error: wasmparser::BinaryReaderError| ModuleError::Malformed(error.to_string());
    if !Parser::is_core_wasm(module) && !Parser::is_component(module) {
        let seen = module.get(..4).unwrap_or(module).escape_ascii();
        return Err(ModuleError::Malformed(format!("it begins with \"{seen}\" and not with \"\\x00asm\"")));
    }
    Validator::new_with_features(features).validate_all(module).map_err(malformed)?;
    let surface = Surface::of(module).map_err(malformed)?;
    let imports = || surface.imports.iter().map(Import::to_string).collect();
    let Some(abi) = surface.abi() else {
        return Err(ModuleError::NoKnownExport { imports: imports(), exports: surface.exports });
    };
    let denied: Vec<String> =
        surface.imports.iter().filter(|import| !import.is_offered()).map(Import::to_string).collect();
    if !denied.is_empty() {
        return Err(ModuleError::ImportDenied { imports: denied });
    }
    Ok(Inspection { abi, imports: imports() })
}

/// What can be seen of a module from outside.
#[derive(Default)]
struct Surface {
    component: bool,
    imports: Vec<Import>,
    exports: Vec<String>,
    /// Exports that are functions or instances, by which an interface is known.
    callable: Vec<String>,
}

/// One import: an interface of a component, or a core module's function.
#[derive(PartialEq, Eq)]
enum Import {
    Interface(String),
    Core { module: String, name: String, function: bool },
}

impl std::fmt::Display for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Import::Interface(name) => f.write_str(name),
            Import::Core { module, name, .. } => write!(f, "{module}::{name}"),
        }
    }
}

impl Import {
    fn is_offered(&self) -> bool {
        match self {
            Import::Interface(name) if DRAFTS.contains(&name.as_str()) => true,
            Import::Interface(name) => OFFERED.iter().any(|offered| {
                // WASI 0.2 is offered; 0.1 and 0.3 have the same names.
                name.starts_with(offered) && (!offered.ends_with('/') || name.contains("@0.2."))
            }),
            Import::Core { module, name, function } => {
                *function && module == PREVIEW1 && PREVIEW1_FUNCTIONS.contains(&name.as_str())
            }
        }
    }
}

impl Surface {
    fn of(module: &[u8]) -> wasmparser::Result<Self> {
        let mut surface = Self { component: Parser::is_component(module), ..Self::default() };
        // Components hold modules and components; what those export and import is their own affair.
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                _ if depth > 0 => {}
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let function =
                            matches!(import.ty, wasmparser::TypeRef::Func(_) | wasmparser::TypeRef::FuncExact(_));
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        surface.imports.push(Import::Core { module, name, function });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            surface.callable.push(export.name.to_owned());
                        }
                        surface.exports.push(export.name.to_owned());
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        let import = import?;
                        // A type that equals another is a name and nothing to be given.
                        if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                            surface.imports.push(Import::Interface(import.name.name.to_owned()));
                        }
                    }
                }
                Payload::ComponentExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if matches!(export.kind, ComponentExternalKind::Func | ComponentExternalKind::Instance) {
                            surface.callable.push(export.name.name.to_owned());
                        }
                        surface.exports.push(export.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    fn is_reactor(&self) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|name| name == wanted);
        has(&self.exports, reactor::MEMORY)
            && [reactor::ALLOC, reactor::HANDLE].iter().all(|wanted| has(&self.callable, wanted))
    }

    fn abi(&self) -> Option<Abi> {
        let exports = |wanted: &dyn Fn(&str) -> bool| self.callable.iter().any(|name| wanted(name));
        match self.component {
            true if exports(&|name| name == HANDLE) => Some(Abi::Component),
            true if exports(&|name| name.starts_with(INCOMING_HANDLER)) => Some(Abi::WasiHttp),
            true if exports(&|name| name.starts_with(MESSAGING_HANDLER)) => Some(Abi::Messaging),
            true if exports(&|name| name.starts_with(RUN)) => Some(Abi::CommandComponent),
            false if exports(&|name| name == "_start") => Some(Abi::Command),
            false if self.is_reactor() => Some(Abi::Reactor),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Result<Inspection, ModuleError> {
        let features = WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL;
        inspect(&wat::parse_str(text).unwrap(), 1 << 20, features)
    }

    #[test]
    fn modules_are_known_by_what_they_export() {
        let command = look(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
        assert_eq!(command.abi, Abi::Command);
        for (path, abi) in [
            ("echo.component.wasm", Abi::Component),
            ("hello-http.wasm", Abi::WasiHttp),
            ("steer.command.wat", Abi::CommandComponent),
            ("steer.messaging.wat", Abi::Messaging),
        ] {
            let path = format!("{}/tests/guests/{path}", env!("CARGO_MANIFEST_DIR"));
            let features = WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL;
            let inspection = inspect(&wat::parse_file(&path).unwrap(), 1 << 20, features).unwrap();
            assert_eq!(inspection.abi, abi, "{path}");
        }
        let reactor = r#"(module (memory (export "memory") 1) (func (export "alloc")) (func (export "handle")))"#;
        assert_eq!(look(reactor).unwrap().abi, Abi::Reactor);
        let error = look(r#"(module (import "env" "log" (func)) (func (export "run")) (memory (export "memory") 1))"#);
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("it exports run, memory and imports env::log"), "{error}");
        let error = look("(component)").unwrap_err().to_string();
        assert!(error.ends_with("it exports nothing and imports nothing"), "{error}");
        // A name alone is no function.
        assert!(look(r#"(module (memory (export "_start") 1))"#).is_err());
    }

    #[test]
    fn every_import_that_is_not_offered_is_named() {
        let error = look(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "fd_teleport" (func))
                (import "env" "memory" (memory 1))
                (func (export "_start")))"#,
        )
        .unwrap_err();
        let ModuleError::ImportDenied { imports } = error else { panic!("{error}") };
        assert_eq!(imports, ["wasi_snapshot_preview1::fd_teleport", "env::memory"]);
        let error = look(
            r#"(component
                (import "wasi:sockets/tcp@0.2.0" (instance))
                (import "wasi:clocks/wall-clock@0.2.6" (instance))
                (import "wasi:clocks/wall-clock@0.3.0" (instance))
                (import "tripline:function/log@0.1.0" (instance))
                (import "tripline:function/teleport@0.1.0" (instance))
                (core module $m (func (export "handle")))
                (core instance $i (instantiate $m))
                (func (export "handle") (canon lift (core func $i "handle"))))"#,
        )
        .unwrap_err();
        let ModuleError::ImportDenied { imports } = error else { panic!("{error}") };
        assert_eq!(
            imports,
            ["wasi:sockets/tcp@0.2.0", "wasi:clocks/wall-clock@0.3.0", "tripline:function/teleport@0.1.0"]
        );
    }

    #[test]
    fn bytes_that_are_no_module_are_told_what_is_wrong() {
        for bytes in [&b""[..], b"\0as", b"not wasm at all", b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f"] {
            let error = inspect(bytes, 1 << 20, WasmFeatures::default()).unwrap_err();
            assert!(matches!(error, ModuleError::Malformed(_)), "{error}");
        }
        let error = inspect(&[0; 100], 99, WasmFeatures::default()).unwrap_err();
        assert!(matches!(error, ModuleError::TooLarge { size: 100, limit: 99 }));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_and_never_panic(
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            component in proptest::prelude::any::<bool>(),
        ) {
            let mut bytes = if component { b"\0asm\x0d\0\x01\0".to_vec() } else { b"\0asm\x01\0\0\0".to_vec() };
            bytes.extend(tail);
            let features = WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL;
            let _ = inspect(&bytes, 1 << 20, features);
        }
    }
}
