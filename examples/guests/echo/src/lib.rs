//! Answers with its payload: the least that a typed component can do, so that a benchmark of it measures the engine.

#[cfg(target_arch = "wasm32")]
mod arena;

wit_bindgen::generate!({ path: "../../../wit", world: "function" });

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ARENA: arena::Arena = arena::Arena::new();

struct Echo;
export!(Echo);

impl Guest for Echo {
    fn handle(_cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(payload)
    }
}
