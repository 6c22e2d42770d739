//! `secrets`: values that the engine has and the definition grants.

use std::time::Instant;

use super::bindings::tripline::function::secrets::{Error, Host};
use super::events::{Refusal, shown};
use crate::executor::Services;
use crate::executor::guest::Guest;
use crate::executor::masks::Masks;
use crate::functions::Definition;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            other => Error::Unavailable(other.to_string()),
        }
    }
}

impl Host for Guest {
    fn get(&mut self, name: String) -> Result<String, Error> {
        let began = Instant::now();
        let result = self.secret(&name);
        self.asked("secret", shown(&name), began, 0, &result);
        Ok(result?)
    }
}

impl Guest {
    fn secret(&self, name: &str) -> Result<String, Refusal> {
        let definition = &self.version.definition;
        if !definition.allow.secrets.iter().any(|granted| granted == name) {
            return Err(self.not_granted("secrets", name));
        }
        let value = self.served.as_ref().and_then(|served| served.services.secrets.get(name));
        let missing = || Refusal::Unavailable(format!("the engine does not have the secret {:?}", shown(name)));
        value.as_deref().map(str::to_owned).ok_or_else(missing)
    }
}

/// What is to be hidden of what a guest says: the secrets that it may know.
pub(in crate::executor) fn masks(definition: &Definition, services: &Services) -> Masks {
    let granted = definition.allow.secrets.iter().filter_map(|name| services.secrets.get(name));
    let values: Vec<_> = granted.collect();
    Masks::of(values.iter().map(|value| &**value))
}
