//! The definition's `env_vars`.

use crate::bindings::tripline::function::environment;

/// The value of a variable.
pub fn get(name: &str) -> Option<String> {
    environment::get(name)
}

/// Every variable.
pub fn all() -> Vec<(String, String)> {
    environment::all()
}
