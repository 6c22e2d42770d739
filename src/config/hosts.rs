//! What guests may use of the engine: `[engine.kv]`, `[engine.secrets]`, `[engine.egress]`.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trigger_core::Network;

use super::validate::Found;
use super::{names, words};
use crate::secrets::SecretSource;
use crate::store::KvLimits;

/// What functions keep under keys.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KvSection {
    /// The longest key.
    #[schemars(range(min = 1, max = 2048))]
    max_key_bytes: u32,
    /// The largest value.
    #[schemars(range(min = 0, max = 8_388_608))]
    max_value_bytes: u32,
    /// Keys of a namespace.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    max_keys: u64,
    /// Bytes of a namespace's keys and values together.
    #[schemars(range(min = 0, max = 1_099_511_627_776u64))]
    max_bytes: u64,
}

impl Default for KvSection {
    fn default() -> Self {
        Self { max_key_bytes: 512, max_value_bytes: 1 << 20, max_keys: 100_000, max_bytes: 256 << 20 }
    }
}

impl KvSection {
    pub(super) fn meant(&self) -> KvConfig {
        KvConfig {
            max_key_bytes: self.max_key_bytes as usize,
            max_value_bytes: self.max_value_bytes as usize,
            of_namespace: KvLimits { max_keys: self.max_keys, max_bytes: self.max_bytes },
        }
    }
}

impl Default for KvConfig {
    fn default() -> Self {
        KvSection::default().meant()
    }
}

/// Limits of what functions keep under keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvConfig {
    /// The longest key, in bytes.
    pub max_key_bytes: usize,
    /// The largest value, in bytes.
    pub max_value_bytes: usize,
    /// What a namespace may have.
    pub of_namespace: KvLimits,
}

/// Where secrets are, by name.
pub(super) type SecretsSection = BTreeMap<String, SecretSection>;

/// Where a secret is: one of the two.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretSection {
    /// A variable of the engine's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<String>,
    /// A file, relative to the manifest's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// The sources of a section; what is mistaken is left out.
pub(super) fn secrets(section: &SecretsSection, directory: &Path, found: &mut Found) -> BTreeMap<String, SecretSource> {
    let mut sources = BTreeMap::new();
    for (name, section) in section {
        let path = vec!["engine".into(), "secrets".into(), name.as_str().into()];
        if let Err((message, help)) = names::check_variable(name) {
            found.key(path, message.replace("a variable", "a secret"), help);
            continue;
        }
        let source = match section {
            SecretSection { env: Some(env), file: None } => SecretSource::Env(env.clone()),
            SecretSection { env: None, file: Some(file) } => SecretSource::File(directory.join(file)),
            _ => {
                let help = "write { env = \"VARIABLE\" } or { file = \"path\" }";
                found.value(path, "a secret is in a variable or in a file", help);
                continue;
            }
        };
        sources.insert(name.clone(), source);
    }
    sources
}

/// What is wrong with naming a secret that the engine does not have: the message, and what would be right.
pub(super) fn missing(name: &str, secrets: &BTreeMap<String, SecretSource>) -> Option<(String, String)> {
    if secrets.contains_key(name) {
        return None;
    }
    let help = match words::suggestion(name, secrets.keys().map(String::as_str)) {
        Some(known) => format!("did you mean \"{known}\"?"),
        None => "say where it is in [engine.secrets]".to_owned(),
    };
    Some((format!("the engine has no secret {}", words::quoted(name)), help))
}

/// Finds secrets that are not where they are said to be.
pub(super) fn look_for(secrets: &BTreeMap<String, SecretSource>, found: &mut Found) {
    for (name, source) in secrets {
        if let Err(why) = source.read() {
            let path = vec!["engine".into(), "secrets".into(), name.as_str().into()];
            found.value(path, format!("the secret {name} cannot be read: {why}"), "set it, or correct its place");
        }
    }
}

/// What guests' requests may reach beside public addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EgressSection {
    /// Networks that are not the public's and may be reached all the same, as `address/bits`.
    allow_networks: Vec<String>,
}

impl EgressSection {
    pub(super) fn meant(&self, found: &mut Found) -> Vec<Network> {
        networks(&self.allow_networks, ["egress", "allow_networks"], found)
    }
}

/// The networks of a list in the `[engine]` section; what is none is left out.
pub(super) fn networks(typed: &[String], key: [&'static str; 2], found: &mut Found) -> Vec<Network> {
    let mut networks = Vec::new();
    for (index, text) in typed.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(why) => {
                let path = vec!["engine".into(), key[0].into(), key[1].into(), index.into()];
                let message = format!("{} is not a network: {why}", words::quoted(text));
                found.value(path, message, "write it like \"10.1.0.0/16\" or \"fd00::/8\"");
            }
        }
    }
    networks
}
