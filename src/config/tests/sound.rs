//! Manifests without mistakes mean what they say.

use super::*;
use crate::functions::{Allow, Backoff, Budget, CircuitBreaker, Jitter, Retry, Reuse};
use crate::secrets::SecretSource;
use crate::store::KvLimits;
use serde_json::json;
use trigger_core::FailureCode;

#[test]
fn an_empty_manifest_is_sound_and_has_every_default() {
    let manifest = sound("");
    assert!(manifest.functions.is_empty());
    assert_eq!(manifest.engine, Document::parse("x", "").unwrap().engine());
    let engine = manifest.engine;
    let dispatch = crate::dispatch::Settings::default();
    assert_eq!(
        (engine.max_concurrency, engine.max_waiting, engine.max_wait, engine.max_depth, engine.lease),
        (dispatch.max_concurrency, dispatch.max_waiting, dispatch.max_wait, dispatch.max_depth, dispatch.lease)
    );
    #[cfg(feature = "http")]
    {
        let server = trigger_http::ServerConfig::default();
        let http = engine.http;
        assert_eq!(engine.listen, server.listen);
        assert_eq!(
            (http.max_connections, http.header_read_timeout, http.max_header_bytes, http.body_read_timeout),
            (server.max_connections, server.header_read_timeout, server.max_header_bytes, server.body_read_timeout)
        );
        assert_eq!(http.max_concurrent_streams, server.max_concurrent_streams);
    }
    let traces = crate::traces::WriterSettings::default();
    assert_eq!(engine.traces.ok_rows_per_second, traces.ok_rows_per_second);
}

#[test]
fn every_setting_of_the_engine_can_be_set() {
    let manifest = Document::parse(
        "/project/tripline.toml",
        r#"
        [engine]
        store = "memory"
        synchronous = "normal"
        bus = "nats://one,tls://two:4223"
        bus_credentials_file = "nats.creds"
        listen = "0.0.0.0:80"
        admin_listen = "[::1]:81"
        namespace = "shop"
        max_concurrency = 1
        max_waiting = 2
        max_wait_seconds = 0.5
        max_depth = 3
        lease_seconds = 4
        drain_seconds = 0.25
        max_memory_mb = 5
        max_module_bytes = 6
        results_keep_days = 0.5
        [engine.dead_letters]
        keep_days = 1
        max_rows = 12
        when_full = "keep"
        [engine.housekeeping]
        retention = "1 * * * * *"
        code_cache = "2 * * * * *"
        outbox = "3 * * * * *"
        code_cache_keep_days = 2
        code_cache_max_mb = 3
        [engine.traces]
        ring = 7
        ok_rows_per_second = 8
        keep_days = 2
        max_rows = 9
        [engine.kv]
        max_key_bytes = 12
        max_value_bytes = 13
        max_keys = 14
        max_bytes = 15
        [engine.secrets]
        API_KEY = { env = "SHOP_API_KEY" }
        token = { file = "secrets/token" }
        [engine.egress]
        allow_networks = ["127.0.0.0/8", "fd00::/8"]
        [engine.http]
        max_connections = 10
        header_read_timeout_seconds = 11
        max_header_bytes = 2048
        body_read_timeout_seconds = 1.5
        max_concurrent_streams = 17
        trusted_proxies = ["10.0.0.0/8"]
        client_header = "forwarded"
        proxy_protocol = true
        [engine.tls]
        cert = "cert.pem"
        key = "key.pem"
        client_ca = "/etc/ca.pem"
        [engine.databases.shop]
        url = "sqlite:shop.db"
        read_only = true
        max_connections = 13
        timeout_seconds = 14
        max_rows = 15
        max_bytes = 16
        "#,
    );
    let expected = EngineConfig {
        store: StoreConfig::Memory,
        synchronous: Synchronous::Normal,
        bus: BusConfig::Nats {
            servers: Secret::new("nats://one,tls://two:4223"),
            credentials_file: Some("/project/nats.creds".into()),
        },
        listen: "0.0.0.0:80".parse().unwrap(),
        admin_listen: "[::1]:81".parse().unwrap(),
        namespace: "shop".to_owned(),
        max_concurrency: 1,
        max_waiting: 2,
        max_wait: Duration::from_millis(500),
        max_depth: 3,
        lease: Duration::from_secs(4),
        drain: Duration::from_millis(250),
        max_memory_mb: 5,
        max_module_bytes: 6,
        results_keep: Duration::from_secs(43_200),
        dead_letters: DeadLettersConfig { keep: Duration::from_secs(86_400), max_rows: 12, when_full: WhenFull::Keep },
        housekeeping: HousekeepingConfig {
            retention: "1 * * * * *".to_owned(),
            code_cache: "2 * * * * *".to_owned(),
            outbox: "3 * * * * *".to_owned(),
            code_cache_keep: Duration::from_secs(172_800),
            code_cache_max_bytes: 3 << 20,
        },
        traces: TracesConfig { ring: 7, ok_rows_per_second: 8, keep: Duration::from_secs(172_800), max_rows: 9 },
        kv: KvConfig { max_key_bytes: 12, max_value_bytes: 13, of_namespace: KvLimits { max_keys: 14, max_bytes: 15 } },
        secrets: [
            ("API_KEY".to_owned(), SecretSource::Env("SHOP_API_KEY".to_owned())),
            ("token".to_owned(), SecretSource::File("/project/secrets/token".into())),
        ]
        .into(),
        egress_networks: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        http: HttpConfig {
            max_connections: 10,
            header_read_timeout: Duration::from_secs(11),
            max_header_bytes: 2048,
            body_read_timeout: Duration::from_millis(1500),
            max_concurrent_streams: 17,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            client_header: ClientHeader::Forwarded,
            proxy_protocol: true,
        },
        tls: Some(TlsConfig {
            cert: "/project/cert.pem".into(),
            key: "/project/key.pem".into(),
            client_ca: Some("/etc/ca.pem".into()),
        }),
        databases: [(
            "shop".to_owned(),
            crate::databases::Settings {
                place: crate::databases::Place::Sqlite("/project/shop.db".into()),
                read_only: true,
                max_connections: 13,
                timeout: Duration::from_secs(14),
                bounds: crate::databases::Bounds { max_rows: 15, max_bytes: 16 },
            },
        )]
        .into(),
    };
    assert_eq!(manifest.unwrap().manifest(&kinds()).unwrap_or_else(|report| panic!("{report}")).engine, expected);
}

const EVERYTHING: &str = r#"
    [engine.secrets]
    API_KEY = { env = "SHOP_API_KEY" }
    [functions.one]
    module = "modules/one.wasm"
    memory_limit_mb = 1
    timeout_seconds = 0.5
    is_public = false
    retry_count = 2
    retry_delay_seconds = 3
    retry = { backoff = "linear", factor = 4, max_delay_seconds = 5.5, jitter = "quarter", max_age_seconds = 6, except = ["trap", "timeout"] }
    dlq_topic = "dead.one"
    env_vars = { SIZE = "320", EMPTY = "" }
    allow = { publish = ["orders.*.created", "thumbs.>"], jobs = ["thumbnails", "mail.*"], timers = ["reminders"], sql = ["shop"], kv = ["default", "sessions.*"], secrets = ["API_KEY"], http = ["https://api.example.com"], invoke = ["two", "billing.*"], sockets = ["chat"] }
    concurrency = 7
    circuit_breaker = { failures = 17, open_seconds = 1.5 }
    max_input_bytes = 8
    max_output_bytes = 9
    max_outbound_bytes = 12
    max_fuel = 1_000_000
    budget = { cpu_ms = 20, host_calls = 30, host_bytes = 40 }
    reuse = { max_uses = 50, max_age_seconds = 60, max_concurrent = 70 }
    max_log_lines = 10
    max_log_bytes = 11
"#;

#[test]
fn every_field_of_a_definition_can_be_set() {
    let expected = Definition {
        name: "one".to_owned(),
        namespace: "default".to_owned(),
        memory_limit_mb: 1,
        timeout_seconds: 0.5,
        is_public: false,
        retry_count: 2,
        retry_delay_seconds: 3.0,
        retry: Retry {
            backoff: Backoff::Linear,
            factor: 4.0,
            max_delay_seconds: 5.5,
            jitter: Jitter::Quarter,
            max_age_seconds: Some(6.0),
            except: vec![FailureCode::Trap, FailureCode::Timeout],
        },
        dlq_topic: Some("dead.one".to_owned()),
        env_vars: [("SIZE", "320"), ("EMPTY", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        allow: Allow {
            publish: vec!["orders.*.created".to_owned(), "thumbs.>".to_owned()],
            jobs: vec!["thumbnails".to_owned(), "mail.*".to_owned()],
            timers: vec!["reminders".to_owned()],
            sql: vec!["shop".to_owned()],
            kv: vec!["default".to_owned(), "sessions.*".to_owned()],
            secrets: vec!["API_KEY".to_owned()],
            http: vec!["https://api.example.com".to_owned()],
            invoke: vec!["two".to_owned(), "billing.*".to_owned()],
            sockets: vec!["chat".to_owned()],
        },
        concurrency: Some(7),
        circuit_breaker: Some(CircuitBreaker { failures: 17, open_seconds: 1.5 }),
        max_input_bytes: 8,
        max_output_bytes: 9,
        max_fuel: Some(1_000_000),
        budget: Budget { cpu_ms: Some(20), host_calls: Some(30), host_bytes: Some(40) },
        reuse: Some(Reuse { max_uses: 50, max_age_seconds: 60.0, max_concurrent: 70 }),
        max_outbound_bytes: 12,
        max_log_lines: 10,
        max_log_bytes: 11,
    };
    let manifest = sound(EVERYTHING);
    assert_eq!(manifest.functions.len(), 1);
    assert_eq!(manifest.functions[0].definition, expected);
    assert_eq!(manifest.functions[0].module, PathBuf::from("modules/one.wasm"));
    // Whoever adds a field to the definition is reminded of the manifest, and the other way round.
    let fields = serde_json::to_value(&expected).unwrap();
    let mut fields: Vec<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
    let schema = schema(&kinds());
    let section = &schema["properties"]["functions"]["additionalProperties"]["properties"];
    let mut keys: Vec<&str> = section.as_object().unwrap().keys().map(String::as_str).collect();
    fields.retain(|field| !["name", "namespace"].contains(field));
    keys.retain(|key| !["module", "triggers"].contains(key));
    fields.sort_unstable();
    keys.sort_unstable();
    assert_eq!(fields, keys);
}

#[test]
fn a_function_means_its_definition() {
    let [written, default] = [EVERYTHING, &with_function("")].map(|text| sound(text).functions[0].definition.clone());
    let policy = written.retry_policy();
    assert_eq!(written.timeout(), Duration::from_millis(500));
    assert_eq!((policy.retries, policy.delay, policy.factor), (2, Duration::from_secs(3), 4.0));
    assert_eq!(policy.max_age, Some(Duration::from_secs(6)));
    assert_eq!(default, Definition::new("default", "one"), "what is not written has the definition's own default");
    let reread: Definition = serde_json::from_value(serde_json::to_value(&written).unwrap()).unwrap();
    assert_eq!(reread, written);
    let whole = sound(&with_function("timeout_seconds = 2.0")).functions[0].definition.digest();
    let same = sound(&with_function("timeout_seconds = 2")).functions[0].definition.digest();
    assert_eq!(whole, same, "one version, however the number is written");
}

#[test]
fn functions_come_in_the_order_in_which_they_were_written() {
    let manifest = sound("functions.c.module = \"c\"\n[functions.b]\nmodule = \"b\"\n[functions.a]\nmodule = \"a\"\n");
    let names: Vec<&str> = manifest.functions.iter().map(|function| function.definition.name.as_str()).collect();
    assert_eq!(names, ["c", "b", "a"]);
}

#[test]
fn triggers_are_named_by_their_kind_and_number_unless_they_have_a_name() {
    let bell = |lines: &str| format!("[[functions.one.triggers]]\ntype = \"job\"\n{lines}\n");
    let text = with_function(
        &[bell("tune = \"a\""), bell("tune = \"b\"\nname = \"noon\""), bell("tune = \"c\"\nstrokes = 3")].concat(),
    );
    let function = sound(&format!("engine.namespace = \"shop\"\n{text}")).functions.remove(0);
    let paths: Vec<String> = function.triggers.iter().map(|row| row.binding.path()).collect();
    assert_eq!(paths, ["shop/one/job", "shop/one/noon", "shop/one/job-3"]);
    assert!(function.triggers.iter().all(|row| row.binding.trigger_type == Kind::Job));
    assert_eq!(function.triggers[1].config, json!({ "tune": "b" }), "the kind's own keys alone");
    assert_eq!(kinds().describe(&function.triggers[2]), "rings c 3 times");
}

#[test]
fn a_function_may_listen_to_its_own_dead_letters_topic() {
    // The depth guard ends such a chain; a manifest that asks for it is sound.
    assert_eq!(
        sound(&with_bell("tune = \"dead.one\"").replace("[[", "dlq_topic = \"dead.one\"\n[[")).functions.len(),
        1
    );
}

#[cfg(all(feature = "http", feature = "pubsub", feature = "cron"))]
#[test]
fn the_schema_takes_the_quickstart_and_refuses_what_is_mistaken() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/tripline.toml")).unwrap();
    let value = source::parse(&text).value;
    assert_eq!(sound(&text).functions.len(), 6);
    let schema = schema(&real_kinds());
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert_eq!(errors, [""; 0]);
    for bad in [
        json!({ "functions": { "one": { "modul": "x" } } }),
        json!({ "functions": { "one": {} } }),
        json!({ "functions": { "One": { "module": "x" } } }),
        json!({ "functions": { "one": { "module": "x", "triggers": [{ "type": "kafka" }] } } }),
        json!({ "functions": { "one": { "module": "x", "triggers": [{ "type": "http" }] } } }),
        json!({ "functions": { "one": { "module": "x", "triggers": [{ "path": "/" }] } } }),
        json!({ "functions": { "one": { "module": "x", "triggers": [{ "type": "http", "path": "/", "pth": 1 }] } } }),
        json!({ "engine": { "max_dept": 1 } }),
        json!({ "engines": {} }),
    ] {
        assert!(!validator.is_valid(&bad), "{bad}");
    }
    let named = json!({ "type": "http", "path": "/", "name": "front" });
    assert!(validator.is_valid(&json!({ "functions": { "one": { "module": "x", "triggers": [named] } } })));
}
