//! `wasi:config/store`: the definition's `env_vars`.

use super::bindings::{config_draft, config_rc1};
use crate::executor::guest::Guest;

macro_rules! serve {
    ($store:path) => {
        const _: () = {
            use $store as store;
            impl store::Host for Guest {
                fn get(&mut self, key: String) -> Result<Option<String>, store::Error> {
                    Ok(self.version.definition.env_vars.get(&key).cloned())
                }

                fn get_all(&mut self) -> Result<Vec<(String, String)>, store::Error> {
                    let variables = &self.version.definition.env_vars;
                    Ok(variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
                }
            }
        };
    };
}

serve!(config_draft::wasi::config::store);
serve!(config_rc1::wasi::config::store);
