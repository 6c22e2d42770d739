//! The `[functions.<name>]` sections: as typed, and as meant.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trigger_core::{FailureCode, Step, subject};

use super::triggers::Triggers;
use super::validate::{Found, Validator, below};
use super::{Document, EngineConfig, FunctionConfig, hosts, names, words};
use crate::egress::Grant;
use crate::functions::{Allow, Budget, CircuitBreaker, Definition, Retry, Reuse};
use crate::kinds::{Kinds, inline_schema};

/// The most functions of one manifest.
const MAX_FUNCTIONS: usize = 4096;
/// The longest value of an environment variable, in bytes.
const MAX_VARIABLE_BYTES: usize = 64 << 10;
/// The most variables of a function, and the most patterns of one kind that it is granted.
const MAX_ENTRIES: usize = 1024;

/// The failures that are retried unless a definition excepts them; all others never are.
const RETRIED: [FailureCode; 6] = [
    FailureCode::Timeout,
    FailureCode::Memory,
    FailureCode::Trap,
    FailureCode::Fuel,
    FailureCode::GuestError,
    FailureCode::HostError,
];

/// A function: a module, what calls it, and what holds for its attempts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FunctionSection {
    /// The file of its module, relative to the manifest's directory.
    module: String,
    /// Memory that one attempt may have, in MiB: linear memories together. At most the engine's `max_memory_mb`.
    #[schemars(range(min = 1, max = 4096))]
    memory_limit_mb: u32,
    /// Wall time of one attempt.
    #[schemars(range(min = 0.001, max = 86_400))]
    timeout_seconds: f64,
    /// Whether callers without authentication may run it over HTTP. Where it is false, a route that says nothing else
    /// asks for a token.
    is_public: bool,
    /// Attempts after the first.
    #[schemars(range(min = 0, max = 1000))]
    retry_count: u32,
    /// Delay before the second attempt; `retry` says how the next ones grow. At most `retry.max_delay_seconds`.
    #[schemars(range(min = 0, max = 2_592_000))]
    retry_delay_seconds: f64,
    /// How delays grow, and what is not retried.
    retry: Retry,
    /// The subject that dead letters are published on, beside being kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    dlq_topic: Option<String>,
    /// The guest's environment.
    env_vars: BTreeMap<String, String>,
    /// What the guest may use; everything else is denied.
    allow: Allow,
    /// Attempts of this function that may run at once; only the engine's `max_concurrency` holds where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    concurrency: Option<u32>,
    /// When so many attempts in a row have failed in a way that may pass, no more begin for so long: callers are answered
    /// 503, what is queued waits without using up its retries. Then one attempt probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit_breaker: Option<CircuitBreaker>,
    /// The largest payload that is handed to the guest.
    #[schemars(range(min = 1, max = 268_435_456))]
    max_input_bytes: u64,
    /// The largest answer that is taken from the guest.
    #[schemars(range(min = 0, max = 268_435_456))]
    max_output_bytes: u64,
    /// What the guest may compute in one attempt, in units of fuel: about one an instruction, the same on every machine.
    /// Code that counts is slower; it does not count where this is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    max_fuel: Option<u64>,
    /// What one attempt may use beside what the limits say.
    budget: Budget,
    /// Whether an instance serves more than one attempt, and finds its memory as the last one left it; each attempt has a
    /// fresh instance where this is left out. Not for commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    reuse: Option<Reuse>,
    /// Bytes of responses that one attempt takes over HTTP, together.
    #[schemars(range(min = 0, max = 1_073_741_824))]
    max_outbound_bytes: u64,
    /// Log lines kept of one attempt.
    #[schemars(range(min = 0, max = 100_000))]
    max_log_lines: u32,
    /// Bytes of log kept of one attempt.
    #[schemars(range(min = 0, max = 16_777_216))]
    max_log_bytes: u64,
}

impl Default for FunctionSection {
    fn default() -> Self {
        let definition = Definition::new("", "");
        Self {
            module: String::new(),
            memory_limit_mb: definition.memory_limit_mb,
            timeout_seconds: definition.timeout_seconds,
            is_public: definition.is_public,
            retry_count: definition.retry_count,
            retry_delay_seconds: definition.retry_delay_seconds,
            retry: definition.retry,
            dlq_topic: definition.dlq_topic,
            env_vars: definition.env_vars,
            allow: definition.allow,
            concurrency: definition.concurrency,
            circuit_breaker: definition.circuit_breaker,
            max_input_bytes: definition.max_input_bytes,
            max_output_bytes: definition.max_output_bytes,
            max_fuel: definition.max_fuel,
            budget: definition.budget,
            reuse: definition.reuse,
            max_outbound_bytes: definition.max_outbound_bytes,
            max_log_lines: definition.max_log_lines,
            max_log_bytes: definition.max_log_bytes,
        }
    }
}

impl FunctionSection {
    fn definition(self, namespace: &str, name: &str) -> Definition {
        Definition {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            memory_limit_mb: self.memory_limit_mb,
            timeout_seconds: self.timeout_seconds,
            is_public: self.is_public,
            retry_count: self.retry_count,
            retry_delay_seconds: self.retry_delay_seconds,
            retry: self.retry,
            dlq_topic: self.dlq_topic,
            env_vars: self.env_vars,
            allow: self.allow,
            concurrency: self.concurrency,
            circuit_breaker: self.circuit_breaker,
            max_input_bytes: self.max_input_bytes,
            max_output_bytes: self.max_output_bytes,
            max_fuel: self.max_fuel,
            budget: self.budget,
            reuse: self.reuse,
            max_outbound_bytes: self.max_outbound_bytes,
            max_log_lines: self.max_log_lines,
            max_log_bytes: self.max_log_bytes,
        }
    }
}

/// JSON Schema of a section, with `triggers` as one asks for them.
pub(super) fn schema(triggers: Value) -> Value {
    let mut schema = inline_schema::<FunctionSection>();
    // A file has no default, and the codes that may be excepted are fewer than there are.
    schema["required"] = json!(["module"]);
    if let Some(module) = schema["properties"]["module"].as_object_mut() {
        module.remove("default");
        module.insert("minLength".to_owned(), json!(1));
    }
    schema["properties"]["retry"]["properties"]["except"]["items"] =
        json!({ "type": "string", "enum": RETRIED.map(FailureCode::as_str) });
    schema["properties"]["triggers"] = triggers;
    schema
}

/// Every function of a manifest, in the order in which they were written.
pub(super) fn read_all(
    document: &Document,
    sections: Option<&mut Value>,
    engine: &EngineConfig,
    kinds: &Kinds,
    found: &mut Found,
) -> Vec<FunctionConfig> {
    let Some(sections) = sections.and_then(Value::as_object_mut) else { return Vec::new() };
    let mut sections: Vec<(String, Value)> = std::mem::take(sections).into_iter().collect();
    sections.sort_by_key(|(name, _)| document.position_of(&["functions".into(), Step::from(name.as_str())]));
    if let Some((name, _)) = sections.get(MAX_FUNCTIONS) {
        let message = format!("a manifest has at most {MAX_FUNCTIONS} functions, this one has {}", sections.len());
        found.key(vec!["functions".into(), Step::from(name.as_str())], message, "split the project");
        return Vec::new();
    }
    let validator = Validator::new(schema(super::triggers::outline()));
    let mut triggers = Triggers::new(document, kinds, engine);
    let mut functions = Vec::with_capacity(sections.len());
    for (name, section) in sections {
        let path = vec![Step::from("functions"), Step::from(name.as_str())];
        functions.push(read(document, &validator, path, &name, section, engine, &mut triggers, found));
    }
    triggers.find_conflicts(found);
    functions
}

#[expect(clippy::too_many_arguments, reason = "what a manifest's functions share, and this one's own")]
fn read(
    document: &Document,
    validator: &Validator,
    path: Vec<Step>,
    name: &str,
    mut section: Value,
    engine: &EngineConfig,
    triggers: &mut Triggers<'_>,
    found: &mut Found,
) -> FunctionConfig {
    if let Err((message, help)) = names::check("a function", name) {
        found.key(path.clone(), message, help);
    }
    let before = found.len();
    validator.sift(&mut section, &path, found);
    let sections = section.as_object_mut().and_then(|section| section.remove("triggers"));
    let public = section["is_public"].as_bool().unwrap_or(true);
    let triggers = triggers.read(&path, name, public, sections, found);
    let typed = FunctionSection::deserialize(&section).unwrap_or_else(|error| {
        if found.len() == before {
            found.value(path.clone(), error.to_string(), "see the manifest's reference");
        }
        FunctionSection::default()
    });
    let mut checker = Checker { path: &path, found };
    checker.check(&typed, engine);
    let module = document.directory.join(&typed.module);
    if document.on_disk && !typed.module.is_empty() {
        checker.module(&module, engine);
    }
    FunctionConfig { definition: typed.definition(&engine.namespace, name), module, triggers }
}

/// Finds what a schema cannot.
struct Checker<'a> {
    path: &'a [Step],
    found: &'a mut Found,
}

impl Checker<'_> {
    fn wrong(&mut self, steps: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.found.value(below(self.path, steps.iter().map(|step| Step::from(*step))), message, help);
    }

    fn check(&mut self, typed: &FunctionSection, engine: &EngineConfig) {
        if typed.memory_limit_mb > engine.max_memory_mb {
            let (limit, most) = (typed.memory_limit_mb, engine.max_memory_mb);
            let help = format!("lower it, or raise max_memory_mb in [engine] to {limit}");
            self.wrong(&["memory_limit_mb"], format!("{limit} is more than the engine's max_memory_mb, {most}"), help);
        }
        if typed.retry_delay_seconds > typed.retry.max_delay_seconds {
            let (delay, most) = (typed.retry_delay_seconds, typed.retry.max_delay_seconds);
            let message = format!("the first delay of {delay} s is longer than the longest one, {most} s");
            self.wrong(&["retry_delay_seconds"], message, "lower it, or raise retry.max_delay_seconds");
        }
        if let Some(topic) = &typed.dlq_topic
            && let Err(why) = subject::check_subject(topic)
        {
            let message = format!("{} is not a subject: {why}", words::quoted(topic));
            self.wrong(&["dlq_topic"], message, "write words with dots between them: \"dead.orders\"");
        }
        self.grants("publish", "subjects", &typed.allow.publish, "orders.*.created");
        self.grants("jobs", "queues", &typed.allow.jobs, "mail.*");
        self.grants("timers", "timers", &typed.allow.timers, "reminders.*");
        self.grants("sql", "databases", &typed.allow.sql, "shop");
        self.grants("kv", "buckets", &typed.allow.kv, "sessions.*");
        self.grants("invoke", "functions", &typed.allow.invoke, "billing.*");
        self.grants("sockets", "functions", &typed.allow.sockets, "chat");
        self.hosts(&typed.allow.http);
        self.secrets(&typed.allow.secrets, engine);
        self.environment(&typed.env_vars);
    }

    /// What one key of `allow` grants: `what` by patterns, such as `example`.
    fn grants(&mut self, key: &'static str, what: &str, patterns: &[String], example: &str) {
        if patterns.len() > MAX_ENTRIES {
            let message = format!("a function has at most {MAX_ENTRIES} patterns, this one has {}", patterns.len());
            return self.wrong(&["allow", key], message, "use wildcards");
        }
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(why) = subject::check_pattern(pattern) {
                let path = below(self.path, ["allow".into(), key.into(), index.into()]);
                let message = format!("{} is not a pattern of {what}: {why}", words::quoted(pattern));
                let help = format!("\"*\" stands for one word, \">\" for all that follow: \"{example}\"");
                self.found.value(path, message, help);
            }
        }
    }

    /// Whom requests may be sent to.
    fn hosts(&mut self, grants: &[String]) {
        if grants.len() > MAX_ENTRIES {
            let message = format!("a function has at most {MAX_ENTRIES} grants, this one has {}", grants.len());
            return self.wrong(&["allow", "http"], message, "use wildcards");
        }
        for (index, grant) in grants.iter().enumerate() {
            if let Err(why) = grant.parse::<Grant>() {
                let path = below(self.path, ["allow".into(), "http".into(), index.into()]);
                let help = "write a scheme, a host and perhaps a port: \"https://api.example.com\", \"http://*.internal:8080\"";
                self.found.value(path, format!("{} cannot be granted: {why}", words::quoted(grant)), help);
            }
        }
    }

    /// Whether the engine has what is granted.
    fn secrets(&mut self, names: &[String], engine: &EngineConfig) {
        for (index, name) in names.iter().enumerate() {
            if let Some((message, help)) = hosts::missing(name, &engine.secrets) {
                let path = below(self.path, ["allow".into(), "secrets".into(), index.into()]);
                self.found.value(path, message, help);
            }
        }
    }

    fn environment(&mut self, variables: &BTreeMap<String, String>) {
        if variables.len() > MAX_ENTRIES {
            let message = format!("a function has at most {MAX_ENTRIES} variables, this one has {}", variables.len());
            return self.wrong(&["env_vars"], message, "put them together");
        }
        for (name, value) in variables {
            if let Err((message, help)) = names::check_variable(name) {
                let path = below(self.path, ["env_vars".into(), Step::from(name.as_str())]);
                self.found.key(path, message, help);
            }
            if value.len() > MAX_VARIABLE_BYTES {
                let message = format!("the value has {} bytes, the limit is {MAX_VARIABLE_BYTES}", value.len());
                self.wrong(&["env_vars", name], message, "put what is large into the module");
            } else if value.contains('\0') {
                self.wrong(
                    &["env_vars", name],
                    "the value holds a NUL",
                    "a variable's value ends at a NUL: leave it out",
                );
            }
        }
    }

    /// Whether there is a module. What is in it is the executor's to judge.
    fn module(&mut self, file: &std::path::Path, engine: &EngineConfig) {
        let shown = file.display();
        match std::fs::metadata(file) {
            Err(error) => {
                let help = "build it, or name the file that it is in; paths begin at the manifest's directory";
                self.wrong(&["module"], format!("module {shown}: {error}"), help);
            }
            Ok(metadata) if !metadata.is_file() => {
                self.wrong(&["module"], format!("module {shown} is not a file"), "name the file that the module is in");
            }
            Ok(metadata) if metadata.len() > engine.max_module_bytes => {
                let (bytes, most) = (metadata.len(), engine.max_module_bytes);
                let message = format!("module {shown} has {bytes} bytes, the limit is {most}");
                self.wrong(&["module"], message, "build it for size, or raise max_module_bytes in [engine]");
            }
            Ok(_) => {}
        }
    }
}

/// A section's name and place in a schema of many: what its table is called.
pub(super) fn sections(function: Value) -> Value {
    let mut sections = Map::new();
    sections.insert("type".to_owned(), json!("object"));
    sections.insert("description".to_owned(), json!("The functions, each a table `[functions.<name>]`."));
    sections.insert("propertyNames".to_owned(), json!({ "pattern": names::NAME_PATTERN }));
    sections.insert("additionalProperties".to_owned(), function);
    Value::Object(sections)
}
