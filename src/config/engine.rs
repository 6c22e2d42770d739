//! The `[engine]` section: as typed, and as meant.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trigger_core::Step;

use super::databases::DatabaseSection;
use super::hosts::{self, EgressSection, KvSection, SecretsSection};
use super::housekeeping::{DeadLettersSection, HousekeepingSection};
use super::http::{HttpSection, TlsSection};
use super::validate::{Found, Validator, below};
use super::{BusConfig, EngineConfig, Secret, StoreConfig, Synchronous, TracesConfig, names, servers, words};
use crate::databases;
use crate::kinds::inline_schema;
use crate::store::postgres::{ParseError, PostgresSettings};

/// The engine: where it keeps its state, what it listens on, and its bounds. Taken in at the start; a reload leaves it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EngineSection {
    /// What state is kept in: `sqlite:` and a file; `postgres://user:password@host:5432/database`, which several engines
    /// may share (`?schema=name` for another schema than `tripline`); or `memory`, which forgets everything at the end.
    store: String,
    /// How much of a commit survives a loss of power: `full` is all of it; `normal` commits faster and may lose the
    /// last commits. A crash of the engine alone loses nothing either way.
    synchronous: Synchronous,
    /// What messages go over: `memory` within the process, or NATS as `nats://host:4222` or `tls://host:4222`, several
    /// servers separated by commas, with credentials as `nats://user:password@host`.
    bus: String,
    /// A NATS credentials file (`.creds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    bus_credentials_file: Option<String>,
    /// Address and port of the public listener, for HTTP triggers.
    listen: String,
    /// Address and port of the admin API. Loopback only: it has no authentication.
    admin_listen: String,
    /// The namespace of the manifest's functions.
    namespace: String,
    /// Attempts that may run at once.
    #[schemars(range(min = 1, max = 10_000))]
    max_concurrency: u32,
    /// Events with a waiting source that may wait for a slot; further ones are turned away.
    #[schemars(range(min = 0, max = 1_000_000))]
    max_waiting: u32,
    /// How long one of them waits before it is turned away.
    #[schemars(range(min = 0, max = 3600))]
    max_wait_seconds: f64,
    /// How many functions may cause one another in a chain; an event beyond it becomes a dead letter.
    #[schemars(range(min = 0, max = 1000))]
    max_depth: u32,
    /// How long queued work that an engine has claimed stays its own when it is heard of no more.
    #[schemars(range(min = 1, max = 3600))]
    lease_seconds: f64,
    /// How long a stop waits for attempts under way before it hands them back.
    #[schemars(range(min = 0, max = 3600))]
    drain_seconds: f64,
    /// The most that a function's `memory_limit_mb` may be.
    #[schemars(range(min = 1, max = 4096))]
    max_memory_mb: u32,
    /// The largest module.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    max_module_bytes: u64,
    /// How long the results of accepted invocations can be asked for.
    #[schemars(range(min = 0.001, max = 3650))]
    results_keep_days: f64,
    /// How long dead letters are kept, and how many.
    dead_letters: DeadLettersSection,
    /// When the engine does its own chores.
    housekeeping: HousekeepingSection,
    /// What is kept of attempts.
    traces: TracesSection,
    /// What functions keep under keys.
    kv: KvSection,
    /// Where the secrets of functions are, by name: each `{ env = "VARIABLE" }` or `{ file = "path" }`.
    secrets: SecretsSection,
    /// What guests' requests may reach beside public addresses.
    egress: EgressSection,
    /// The public listener's bounds, and whom it believes.
    http: HttpSection,
    /// The public listener's certificate: with it the listener speaks TLS and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsSection>,
    /// Databases that guests may use and triggers may take events from, by name.
    databases: BTreeMap<String, DatabaseSection>,
}

/// What is kept of attempts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct TracesSection {
    /// The newest records that are held in memory.
    #[schemars(range(min = 1, max = 1_000_000))]
    ring: u32,
    /// Successful attempts that become rows, each second at most; all others always do.
    #[schemars(range(min = 0, max = 1_000_000))]
    ok_rows_per_second: u32,
    /// How long rows are kept.
    #[schemars(range(min = 0.001, max = 3650))]
    keep_days: f64,
    /// How many rows are kept.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    max_rows: u64,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            store: "sqlite:.tripline/state.db".to_owned(),
            synchronous: Synchronous::Full,
            bus: "memory".to_owned(),
            bus_credentials_file: None,
            listen: "127.0.0.1:7070".to_owned(),
            admin_listen: "127.0.0.1:7071".to_owned(),
            namespace: "default".to_owned(),
            max_concurrency: 256,
            max_waiting: 1024,
            max_wait_seconds: 5.0,
            max_depth: 16,
            lease_seconds: 30.0,
            drain_seconds: 30.0,
            max_memory_mb: 1024,
            max_module_bytes: 64 << 20,
            results_keep_days: 1.0,
            dead_letters: DeadLettersSection::default(),
            housekeeping: HousekeepingSection::default(),
            traces: TracesSection::default(),
            kv: KvSection::default(),
            secrets: SecretsSection::default(),
            egress: EgressSection::default(),
            http: HttpSection::default(),
            tls: None,
            databases: BTreeMap::new(),
        }
    }
}

impl Default for TracesSection {
    fn default() -> Self {
        Self { ring: 10_000, ok_rows_per_second: 500, keep_days: 7.0, max_rows: 1_000_000 }
    }
}

/// JSON Schema of the section.
pub(super) fn schema() -> Value {
    inline_schema::<EngineSection>()
}

/// What a section means; what is mistaken in it has its default.
pub(super) fn read(section: Option<Value>, directory: &Path, found: &mut Found) -> EngineConfig {
    let mut section = section.unwrap_or_else(|| Value::Object(Map::new()));
    Validator::new(schema()).sift(&mut section, &["engine".into()], found);
    let section = EngineSection::deserialize(&section).unwrap_or_else(|error| {
        found.value(vec!["engine".into()], error.to_string(), "see the manifest's reference");
        EngineSection::default()
    });
    let mut reader = Reader { directory, found };
    reader.read(section)
}

struct Reader<'a> {
    directory: &'a Path,
    found: &'a mut Found,
}

impl Reader<'_> {
    fn read(&mut self, section: EngineSection) -> EngineConfig {
        let defaults = EngineSection::default();
        let traces = &section.traces;
        let (listen, admin_listen) = self.addresses(&section);
        let namespace = match names::check("a namespace", &section.namespace) {
            Ok(()) => section.namespace.clone(),
            Err((message, help)) => {
                self.wrong("namespace", message, help);
                defaults.namespace
            }
        };
        EngineConfig {
            store: self.store(&section.store),
            synchronous: section.synchronous,
            bus: self.bus(&section),
            listen,
            admin_listen,
            namespace,
            max_concurrency: section.max_concurrency as usize,
            max_waiting: section.max_waiting as usize,
            max_wait: seconds(section.max_wait_seconds),
            max_depth: section.max_depth,
            lease: seconds(section.lease_seconds),
            drain: seconds(section.drain_seconds),
            max_memory_mb: section.max_memory_mb,
            max_module_bytes: section.max_module_bytes,
            results_keep: days(section.results_keep_days),
            dead_letters: section.dead_letters.meant(),
            housekeeping: section.housekeeping.meant(|key, message, help| {
                self.found.value(vec!["engine".into(), "housekeeping".into(), key.into()], message, help);
            }),
            traces: TracesConfig {
                ring: traces.ring as usize,
                ok_rows_per_second: traces.ok_rows_per_second,
                keep: days(traces.keep_days),
                max_rows: traces.max_rows,
            },
            kv: section.kv.meant(),
            secrets: hosts::secrets(&section.secrets, self.directory, self.found),
            egress_networks: section.egress.meant(self.found),
            http: section.http.meant(self.found),
            tls: section.tls.as_ref().map(|tls| tls.meant(self.directory)),
            databases: self.databases(&section.databases),
        }
    }

    fn databases(&mut self, typed: &BTreeMap<String, DatabaseSection>) -> BTreeMap<String, databases::Settings> {
        let mut meant = BTreeMap::new();
        for (name, section) in typed {
            let path = |last: Option<Step>| {
                let steps = ["engine".into(), "databases".into(), Step::from(&**name)];
                steps.into_iter().chain(last).collect::<Vec<_>>()
            };
            if let Err((message, help)) = names::check("a database", name) {
                self.found.value(path(None), message, help);
            }
            match section.meant(self.directory) {
                Ok(settings) => drop(meant.insert(name.clone(), settings)),
                Err((message, help)) => self.found.value(path(Some("url".into())), message, help),
            }
        }
        meant
    }

    fn wrong(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.found.value(below(&["engine".into()], [Step::from(key)]), message, help);
    }

    fn store(&mut self, typed: &str) -> StoreConfig {
        let default = || StoreConfig::Sqlite(self.directory.join(".tripline/state.db"));
        let help = "write \"sqlite:\" and a file, like \"sqlite:.tripline/state.db\", or \"memory\", or a PostgreSQL \
                    address like \"postgres://user:password@host/database\"";
        if typed == "memory" {
            return StoreConfig::Memory;
        }
        let default = default();
        match typed.split_once(':') {
            Some(("sqlite", "" | ":memory:")) => self.wrong("store", "the store names no file", help),
            Some(("sqlite", file)) if file.contains('\0') => self.wrong("store", "a file's name cannot hold NUL", help),
            Some(("sqlite", file)) if file.starts_with("//") => {
                let file = file.trim_start_matches('/');
                let help = format!(
                    "write \"sqlite:{file}\" for a file beside the manifest, \"sqlite:/{file}\" for an absolute one"
                );
                self.wrong("store", "the store is a file's path, not a URL", help);
            }
            Some(("sqlite", file)) => return StoreConfig::Sqlite(self.directory.join(file)),
            Some(("postgres" | "postgresql", _)) => match typed.parse::<PostgresSettings>() {
                Ok(_) => return StoreConfig::Postgres(Secret::new(typed)),
                Err(ParseError { message, help }) => self.wrong("store", message, help),
            },
            // What follows a scheme may be a secret.
            Some((scheme, _)) => {
                let scheme = words::quoted(scheme);
                self.wrong("store", format!("there is no store of the kind {scheme}"), help);
            }
            None => self.wrong("store", format!("there is no store {}", words::quoted(typed)), help),
        }
        default
    }

    fn bus(&mut self, section: &EngineSection) -> BusConfig {
        let typed = &section.bus;
        let credentials_file = section.bus_credentials_file.as_ref().map(|file| self.directory.join(file));
        if typed == "memory" {
            if credentials_file.is_some() {
                let help = "set bus to a NATS address, or leave this key out";
                self.wrong("bus_credentials_file", "the bus is \"memory\", which has no credentials", help);
            }
            return BusConfig::Memory;
        }
        match servers::mistake(typed) {
            None => BusConfig::Nats { servers: Secret::new(typed), credentials_file },
            Some((message, help)) => {
                self.wrong("bus", message, help);
                // Which kinds can do what depends on the bus: what was meant is known here all the same.
                let nats = typed.starts_with("nats:") || typed.starts_with("tls:");
                let servers = Secret::new("nats://127.0.0.1:4222");
                if nats { BusConfig::Nats { servers, credentials_file } } else { BusConfig::Memory }
            }
        }
    }

    fn addresses(&mut self, section: &EngineSection) -> (SocketAddr, SocketAddr) {
        let (public_default, admin_default) = (local(7070), local(7071));
        let listen = self.address("listen", &section.listen);
        let admin = self.address("admin_listen", &section.admin_listen);
        if let Some(admin) = admin.filter(|admin| !admin.ip().is_loopback()) {
            let help = "the admin API has no authentication: use 127.0.0.1, and a tunnel or a proxy that authenticates";
            self.wrong("admin_listen", format!("{admin} is not a loopback address"), help);
        }
        let (public, admin) = (listen.unwrap_or(public_default), admin.unwrap_or(admin_default));
        let same_host = public.ip() == admin.ip() || public.ip().is_unspecified();
        if public.port() == admin.port() && public.port() != 0 && same_host {
            let help = "give the admin API a port of its own";
            self.wrong("admin_listen", format!("port {} is that of listen already", admin.port()), help);
        }
        (public, admin)
    }

    fn address(&mut self, key: &str, typed: &str) -> Option<SocketAddr> {
        let parsed = typed.parse().ok();
        if parsed.is_none() {
            let message = format!("{} is not an address and a port", words::quoted(typed));
            self.wrong(key, message, "write them like \"127.0.0.1:7070\" or \"[::1]:7070\"; names are not looked up");
        }
        parsed
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(super) fn seconds(seconds: f64) -> Duration {
    // The schema has bounded it; what it could not is no reason to panic.
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

pub(super) fn days(days: f64) -> Duration {
    seconds(days * 86_400.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_one(key: &str, value: Value) -> (EngineConfig, Vec<String>) {
        let mut found = Found::default();
        let config = read(Some(json!({ key: value })), Path::new("dir"), &mut found);
        let told = found
            .into_vec()
            .into_iter()
            .map(|(problem, _)| format!("{}: {}", trigger_core::display_path(&problem.path), problem.message));
        (config, told.collect())
    }

    #[test]
    fn nothing_need_be_written() {
        let mut found = Found::default();
        let config = read(None, Path::new(""), &mut found);
        assert_eq!(found.len(), 0);
        assert_eq!(config.store, StoreConfig::Sqlite(".tripline/state.db".into()));
        assert_eq!(config.bus, BusConfig::Memory);
        assert_eq!((config.listen, config.admin_listen), (local(7070), local(7071)));
    }

    #[test]
    fn stores_are_memory_files_and_servers() {
        for (typed, store) in [
            ("memory", StoreConfig::Memory),
            ("sqlite:x.db", StoreConfig::Sqlite("dir/x.db".into())),
            ("sqlite:/var/x.db", StoreConfig::Sqlite("/var/x.db".into())),
        ] {
            assert_eq!(read_one("store", json!(typed)), (read_one("store", json!(typed)).0, vec![]));
            assert_eq!(read_one("store", json!(typed)).0.store, store);
        }
        let (config, told) = read_one("store", json!("postgres://me:hunter2@db/x?schema=jobs"));
        assert_eq!(told, Vec::<String>::new());
        assert_eq!(config.store, StoreConfig::Postgres(Secret::new("postgres://me:hunter2@db/x?schema=jobs")));
        assert!(!format!("{config:?}").contains("hunter2"));
        for (typed, message) in [
            ("postgres://me:hunter2@db/x?schema=", "the store's schema is not a name that the engine can use"),
            ("postgresql://db", "the store's address names no database"),
            ("postgres:me:hunter2@db/x", "the store's address has no \"//\" behind its scheme"),
            ("mysql://me:hunter2@db/x", "there is no store of the kind \"mysql\""),
            ("sqlite:", "the store names no file"),
            ("sqlite::memory:", "the store names no file"),
            ("sqlite:///x", "the store is a file's path, not a URL"),
            ("disk", "there is no store \"disk\""),
        ] {
            let (config, told) = read_one("store", json!(typed));
            assert_eq!(told, [format!("engine.store: {message}")]);
            assert_eq!(config.store, StoreConfig::Sqlite("dir/.tripline/state.db".into()));
        }
    }

    #[test]
    fn a_bus_is_memory_or_nats() {
        let servers = Secret::new("nats://host");
        let (config, told) = read_one("bus", json!("nats://host"));
        assert_eq!((config.bus, told), (BusConfig::Nats { servers, credentials_file: None }, vec![]));
        let (config, told) = read_one("bus", json!("carrier-pigeon"));
        assert_eq!(
            (config.bus, told),
            (BusConfig::Memory, vec!["engine.bus: there is no bus \"carrier-pigeon\"".into()])
        );
        let (config, told) = read_one("bus", json!("nats://host:0"));
        assert_eq!(told.len(), 1);
        assert_ne!(config.bus, BusConfig::Memory, "what was meant is known");
        assert_eq!(read_one("bus_credentials_file", json!("x.creds")).1.len(), 1);
    }

    #[test]
    fn chores_have_schedules_and_dead_letters_their_bounds() {
        let (config, told) = read_one("housekeeping", json!({"retention": "*/5 * * * * *", "code_cache_max_mb": 2}));
        assert_eq!(told, Vec::<String>::new());
        assert_eq!(config.housekeeping.retention, "*/5 * * * * *");
        assert_eq!(config.housekeeping.code_cache_max_bytes, 2 << 20);
        let (config, told) = read_one("housekeeping", json!({"outbox": "@daily", "code_cache": "0 0 0 30 2 *"}));
        assert_eq!(
            told,
            [
                "engine.housekeeping.code_cache: \"0 0 0 30 2 *\" never comes",
                "engine.housekeeping.outbox: \"@daily\" has 1 field, a chore's schedule has six",
            ]
        );
        assert_eq!(config.housekeeping.outbox, "30 * * * * *");

        let dead_letters = json!({"keep_days": 1, "max_rows": 7, "when_full": "keep"});
        let (config, told) = read_one("dead_letters", dead_letters);
        assert_eq!(told, Vec::<String>::new());
        let meant = config.dead_letters;
        assert_eq!((meant.keep, meant.max_rows), (Duration::from_secs(86_400), 7));
        assert_eq!(meant.when_full, crate::config::WhenFull::Keep);
        assert_eq!(read_one("dead_letters", json!({"when_full": "refuse"})).1.len(), 1);
    }

    #[test]
    fn the_admin_api_listens_for_this_machine_on_a_port_of_its_own() {
        for (listen, admin, message) in [
            ("0.0.0.0:80", "127.0.0.1:81", None),
            ("127.0.0.1:0", "127.0.0.1:0", None),
            ("192.0.2.1:80", "127.0.0.1:80", None),
            ("127.0.0.1:80", "127.0.0.1:80", Some("port 80 is that of listen already")),
            ("0.0.0.0:80", "127.0.0.1:80", Some("port 80 is that of listen already")),
            ("127.0.0.1:80", "0.0.0.0:81", Some("0.0.0.0:81 is not a loopback address")),
            ("localhost:80", "127.0.0.1:81", Some("\"localhost:80\" is not an address and a port")),
        ] {
            let mut found = Found::default();
            read(Some(json!({ "listen": listen, "admin_listen": admin })), Path::new(""), &mut found);
            let told: Vec<_> = found.into_vec().into_iter().map(|(problem, _)| problem.message).collect();
            assert_eq!(told.iter().map(String::as_str).collect::<Vec<_>>(), message.into_iter().collect::<Vec<_>>());
        }
    }
}
