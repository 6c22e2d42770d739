//! Functions, their definitions and versions: what they are, not how they run.

mod registry;
mod versions;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

pub use registry::{Registry, Route};
pub use versions::Versions;

use crate::dispatch::retry::Policy;

/// SHA-256 of a module's bytes: its identity. Written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a digest: expected \"sha256:\" and 64 hexadecimal digits")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NotADigest(text.chars().take(80).collect());
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a function is, beside its module: limits, retry, dead letters, environment, grants.
///
/// The names are those of the manifest, the API's JSON and the store. A version holds one of these for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The function's name, unique in its namespace.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Memory that one attempt may have, in MiB: linear memories together.
    pub memory_limit_mb: u32,
    /// Wall time of one attempt, in seconds.
    pub timeout_seconds: f64,
    /// Whether events without an authenticated caller may run it over HTTP.
    pub is_public: bool,
    /// Attempts after the first.
    pub retry_count: u32,
    /// Delay before the second attempt, in seconds; what follows is `retry`'s business.
    pub retry_delay_seconds: f64,
    /// How delays grow, and what is not retried.
    pub retry: Retry,
    /// Subject that dead letters are published on.
    pub dlq_topic: Option<String>,
    /// The guest's environment.
    pub env_vars: BTreeMap<String, String>,
    /// What the guest may use; everything else answers `denied`.
    pub allow: Allow,
    /// Attempts that may run at once; `None` leaves it to the engine's own limit.
    pub concurrency: Option<u32>,
    /// Whether and when a function that fails is left alone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// The largest payload that is handed to the guest, in bytes.
    pub max_input_bytes: u64,
    /// The largest answer taken from the guest, in bytes.
    pub max_output_bytes: u64,
    /// What the guest may compute in one attempt, in wasmtime's units of fuel: about one an instruction, and the same
    /// on every machine. `None` leaves it uncounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fuel: Option<u64>,
    /// What one attempt may use beside what the limits say.
    #[serde(default, skip_serializing_if = "Budget::is_unlimited")]
    pub budget: Budget,
    /// Whether an instance serves more than one attempt; each has a fresh one where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
    /// The most bytes of responses that one attempt takes over HTTP, together.
    pub max_outbound_bytes: u64,
    /// The most log lines kept of one attempt.
    pub max_log_lines: u32,
    /// The most bytes of log kept of one attempt.
    pub max_log_bytes: u64,
}

impl Definition {
    /// A definition with every default.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            memory_limit_mb: 64,
            timeout_seconds: 10.0,
            is_public: true,
            retry_count: 3,
            retry_delay_seconds: 1.0,
            retry: Retry::default(),
            dlq_topic: None,
            env_vars: BTreeMap::new(),
            allow: Allow::default(),
            concurrency: None,
            circuit_breaker: None,
            max_input_bytes: 8 << 20,
            max_output_bytes: 4 << 20,
            max_fuel: None,
            budget: Budget::default(),
            reuse: None,
            max_outbound_bytes: 8 << 20,
            max_log_lines: 256,
            max_log_bytes: 64 << 10,
        }
    }

    /// The wall time of one attempt.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }

    /// Whether the guest's code counts its fuel.
    pub fn counts_fuel(&self) -> bool {
        self.max_fuel.is_some()
    }

    /// The retry policy that these fields describe.
    pub fn retry_policy(&self) -> Policy {
        Policy {
            retries: self.retry_count,
            delay: Duration::from_secs_f64(self.retry_delay_seconds),
            backoff: self.retry.backoff,
            factor: self.retry.factor,
            max_delay: Duration::from_secs_f64(self.retry.max_delay_seconds),
            jitter: self.retry.jitter,
            max_age: self.retry.max_age_seconds.map(Duration::from_secs_f64),
            except: self.retry.except.clone(),
        }
    }

    /// Digest of the definition's canonical JSON: with the module's digest, the identity of a version.
    pub fn digest(&self) -> Digest {
        let json = serde_json::to_vec(self).expect("a definition has only string keys and finite numbers");
        Digest::of(&json)
    }
}

/// How the delays between attempts grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Always the same delay.
    Fixed,
    /// The delay times the number of failed attempts.
    Linear,
    /// The delay times `factor` to the power of the failed attempts before the last.
    #[default]
    Exponential,
}

/// How a delay is spread, so that what failed together does not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// Not at all.
    None,
    /// Anywhere from three quarters to five quarters of it.
    Quarter,
    /// Anywhere from nothing to all of it.
    #[default]
    Full,
}

/// The `retry` table of a definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How delays grow: `exponential` (default), `linear` or `fixed`.
    pub backoff: Backoff,
    /// What an exponential delay is multiplied by each time. Default 2.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The longest delay, in seconds. Default 300.
    #[schemars(range(min = 0.0, max = 2_592_000.0))]
    pub max_delay_seconds: f64,
    /// How delays are spread: `full` (default), `quarter` or `none`.
    pub jitter: Jitter,
    /// No attempt begins later than this many seconds after the event arrived. Unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 31_536_000.0))]
    pub max_age_seconds: Option<f64>,
    /// Failure codes that are never retried: `timeout`, `memory`, `trap`, `fuel`, `guest_error`, `host_error`.
    #[schemars(with = "Vec<String>")]
    pub except: Vec<trigger_core::FailureCode>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff: Backoff::Exponential,
            factor: 2.0,
            max_delay_seconds: 300.0,
            jitter: Jitter::Full,
            max_age_seconds: None,
            except: Vec::new(),
        }
    }
}

/// The `allow` table of a definition: what the guest may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Subjects that it may publish on; wildcards as in subscriptions.
    pub publish: Vec<String>,
    /// Queues whose jobs it may enqueue and cancel; wildcards as in subscriptions.
    pub jobs: Vec<String>,
    /// Names under which it may set and cancel timers; wildcards as in subscriptions.
    pub timers: Vec<String>,
    /// Databases of `engine.databases` that it may use; wildcards as in subscriptions.
    pub sql: Vec<String>,
    /// Buckets of entries that it may read and write; wildcards as in subscriptions.
    pub kv: Vec<String>,
    /// Functions that it may call: `name` in its own namespace, `namespace.name` in another; wildcards as in
    /// subscriptions.
    pub invoke: Vec<String>,
    /// Functions whose sockets it may reach: `name` in its own namespace, `namespace.name` in another; wildcards as in
    /// subscriptions.
    pub sockets: Vec<String>,
    /// Secrets that it is told, by name.
    pub secrets: Vec<String>,
    /// Whom it may send requests to: a scheme, a host (`*.` before it for all that end so) and perhaps a port.
    pub http: Vec<String>,
}

/// The `budget` table of a definition: an attempt that uses more of something ends with `fuel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Time on a processor, in milliseconds: waiting does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub cpu_ms: Option<u64>,
    /// Host operations, as a trace lists them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub host_calls: Option<u64>,
    /// Bytes that go with host operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_u64))]
    pub host_bytes: Option<u64>,
}

impl Budget {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Whether calls of the host are limited.
    pub fn counts_calls(&self) -> bool {
        self.host_calls.is_some() || self.host_bytes.is_some()
    }

    /// The time on a processor.
    pub fn cpu(&self) -> Option<Duration> {
        self.cpu_ms.map(Duration::from_millis)
    }
}

/// The `reuse` table of a definition: a guest finds its memory as its last attempt left it, if that one succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reuse {
    /// Attempts that one instance serves. Default 1000.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_uses: u32,
    /// How old an instance may be when an attempt begins, in seconds. Default 60.
    #[schemars(range(min = 0.001, max = 86_400.0))]
    pub max_age_seconds: f64,
    /// Instances that may wait for an attempt. Default 16.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: u32,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { max_uses: 1000, max_age_seconds: 60.0, max_concurrent: 16 }
    }
}

/// The `circuit_breaker` table of a definition: a function that fails again and again is left alone for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Attempts in a row that fail, in a way that may pass, before no more begin. Default 5.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub failures: u32,
    /// How long none begins then, in seconds; after that one probes. Default 30.
    #[schemars(range(min = 0.001, max = 86_400.0))]
    pub open_seconds: f64,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failures: 5, open_seconds: 30.0 }
    }
}

/// An immutable pair of module and definition.
#[derive(Debug)]
pub struct Version {
    /// Identity of the function, kept over all its versions.
    pub function_id: Uuid,
    /// Number of the version, from 1.
    pub number: u32,
    /// The module's digest.
    pub digest: Digest,
    /// The definition.
    pub definition: Definition,
    /// The definition's retry policy, computed once.
    pub retry: Policy,
    /// `definition.timeout()`, computed once.
    pub timeout: Duration,
    /// The module, and its compiled form once somebody needed it.
    pub module: Arc<crate::executor::ModuleSlot>,
    /// Whether its guest has been quick of late.
    pub pace: crate::executor::Pace,
}

impl Version {
    /// A version of a function.
    pub fn new(
        function_id: Uuid,
        number: u32,
        digest: Digest,
        definition: Definition,
        module: Arc<crate::executor::ModuleSlot>,
    ) -> Self {
        let retry = definition.retry_policy();
        let timeout = definition.timeout();
        Self { function_id, number, digest, definition, retry, timeout, module, pace: crate::executor::Pace::default() }
    }
}
