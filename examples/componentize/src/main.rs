//! Makes a component of a core module that says which world it implements, as modules built with `wit-bindgen` do.
//!
//! It does what `wasm-tools component new` does, so that building the guests needs no tool beside a compiler. It knows
//! no adapters: a module that imports WASI's first preview is refused, not adapted.

use std::path::Path;
use std::process::ExitCode;

use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [module, component] = arguments.as_slice() else {
        eprintln!("usage: componentize MODULE COMPONENT");
        return ExitCode::from(2);
    };
    match componentize(Path::new(module), Path::new(component)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("componentize: {error}");
            ExitCode::FAILURE
        }
    }
}

fn componentize(module: &Path, component: &Path) -> Result<(), String> {
    let core = std::fs::read(module).map_err(|error| format!("cannot read {}: {error}", module.display()))?;
    let encoded = ComponentEncoder::default().validate(true).module(&core).and_then(|mut encoder| encoder.encode());
    // The alternate form tells the causes too.
    let bytes = encoded.map_err(|error| format!("cannot make a component of {}: {error:#}", module.display()))?;
    std::fs::write(component, bytes).map_err(|error| format!("cannot write {}: {error}", component.display()))
}
