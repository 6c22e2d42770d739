//! What guests may use of the engine: `[engine.kv]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
