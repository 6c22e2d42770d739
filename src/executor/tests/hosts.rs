//! What components ask the host for, by our interfaces and by standard ones.

use super::*;
use crate::config::KvConfig;
use crate::executor::{KeyValues, Machine, Services};
use crate::secrets::{SecretSource, Secrets};
use crate::store::sqlite::{SqliteSettings, SqliteStore};

/// An executor with every service, for the guest of this name.
fn rig(module: &str, change: impl FnOnce(&mut Definition)) -> Rig {
    let store = Arc::new(SqliteStore::open(SqliteSettings::memory()).unwrap());
    let secrets = Secrets::new([("PATH".to_owned(), SecretSource::Env("PATH".to_owned()))].into());
    let services = Services {
        kv: Some(KeyValues { store, limits: KvConfig::default() }),
        secrets: Arc::new(secrets),
        ..Services::default()
    };
    let source = Arc::new(Modules { modules: vec![guest(module)], asked: AtomicU32::new(0) });
    let config = ExecutorConfig { max_instances: 8, ..ExecutorConfig::default() };
    let executor = WasmExecutor::on(Machine::new(config).unwrap(), source.clone(), services).unwrap();
    let version = version(&executor, &source.modules[0], change);
    Rig { executor, source, version }
}

fn lines(attempt: &Attempt) -> Vec<String> {
    let body = &attempt.result.as_ref().unwrap().body;
    std::str::from_utf8(body).unwrap().lines().map(str::to_owned).collect()
}

async fn ask(rig: &Rig, said: &str) -> Vec<String> {
    lines(&rig.call(said.to_owned()).await)
}

fn buckets(definition: &mut Definition) {
    definition.allow.kv = vec!["default".to_owned(), "sessions.*".to_owned()];
}

#[tokio::test]
async fn a_component_keeps_entries_over_its_attempts() {
    let rig = rig("hosts.component.wasm", buckets);
    let first = rig.call("set sessions.a k one\nadd default n 5\nfail").await;
    assert_eq!(first.result.unwrap_err().code, FailureCode::GuestError);
    let ops = first.detail.unwrap().host_ops;
    let ops: Vec<(&str, &str, u64)> = ops.iter().map(|op| (op.op.as_ref(), op.target.as_str(), op.bytes)).collect();
    assert_eq!(ops, [("kv-set", "sessions.a/k", 3), ("kv-increment", "default/n", 0)]);
    let answers = ask(&rig, "get sessions.a k\nadd default n -7\nget default k\nkeys default \nget other k").await;
    assert!(answers[0].ends_with(" one"), "written at once, although the attempt failed: {answers:?}");
    assert_eq!(answers[1..4], ["-2", "none", "n"]);
    assert!(answers[4].contains("Denied") && answers[4].contains("allow.kv"), "{answers:?}");
    let version = answers[0].split(' ').next().unwrap();
    let swaps = format!("swap sessions.a k - x\nswap sessions.a k {version} two\nswap sessions.a k {version} late");
    let answers = ask(&rig, &swaps).await;
    assert_eq!((answers[0].as_str(), answers[2].as_str()), ("changed", "changed"));
    assert!(answers[1].parse::<u64>().is_ok());
    assert_eq!(ask(&rig, "delete sessions.a k\ndelete sessions.a k").await, ["true", "false"]);
}

#[tokio::test]
async fn components_built_for_wasi_keyvalue_run_as_they_are() {
    let rig = rig("standard.component.wasm", buckets);
    for draft in ["draft", "draft2"] {
        let said = "D set  k one\nD get default k\nD exists  missing\nD add default n 3\nD add default n 4\n\
                    D many sessions.a x y\nD keys sessions.a\nD delete  k\nD get  k\nD delete  n\nD get other k\n\
                    D add sessions.a y x";
        let answers = ask(&rig, &said.replace('D', draft)).await;
        assert_eq!(answers[..6], ["()", "one", "false", "3", "7", "1 none 2"], "{draft}");
        assert_eq!(answers[6..10], ["y", "()", "none", "()"], "{draft}");
        assert!(answers[10].contains("AccessDenied"), "{answers:?}");
    }
    assert_eq!(ask(&rig, "draft2 swap default s first\ndraft get default s").await, ["true first true", "again"]);
}

#[tokio::test]
async fn components_built_for_wasi_config_and_wasi_logging_run_as_they_are() {
    let rig = rig("standard.component.wasm", |definition| {
        definition.env_vars.insert("SIZE".into(), "320".into());
    });
    let attempt = rig.call("config SIZE\nconfig PATH\nlog shop all is well\nlog  plain").await;
    assert_eq!(lines(&attempt), ["320 of 1", "none of 1", "logged", "logged"]);
    let logs = attempt.detail.unwrap().logs;
    let logs: Vec<(&str, &str)> = logs.iter().map(|line| (line.level.as_ref(), line.message.as_str())).collect();
    assert_eq!(logs, [("error", "shop: all is well"), ("error", "plain")]);
}

#[tokio::test]
async fn a_secret_is_in_nothing_that_is_kept_of_an_attempt() {
    let path = std::env::var("PATH").unwrap();
    let rig = rig("hosts.component.wasm", |definition| {
        definition.allow.secrets = vec!["PATH".to_owned()];
    });
    let answers = ask(&rig, "secret PATH\nsecret HOME").await;
    assert_eq!(answers[0], path);
    assert!(answers[1].contains("Denied") && answers[1].contains("allow.secrets"), "{answers:?}");
    let leaked = rig.call("leak PATH").await;
    assert_eq!(leaked.result.as_ref().unwrap_err().message, "the secret was ***");
    assert_eq!(leaked.detail.as_ref().unwrap().logs[0].message, "the secret is ***");
    assert!(!format!("{leaked:?}").contains(&path));
}

#[tokio::test]
async fn an_instance_that_serves_again_still_tells_no_secret() {
    let rig = rig("hosts.component.wasm", |definition| {
        definition.allow.secrets = vec!["PATH".to_owned()];
        definition.reuse = Some(crate::functions::Reuse::default());
    });
    for _ in 0..2 {
        assert_eq!(ask(&rig, "secret PATH").await.len(), 1);
        assert_eq!(rig.executor.shelf().len(), 1);
    }
    let leaked = rig.call("leak PATH").await;
    assert_eq!(leaked.result.unwrap_err().message, "the secret was ***");
    assert_eq!(leaked.detail.unwrap().logs[0].message, "the secret is ***");
}

#[tokio::test]
async fn what_is_handed_to_the_host_in_one_go_is_bounded_before_it_is_copied() {
    let rig = rig("hosts.component.wasm", |definition| {
        definition.max_input_bytes = 32 << 20;
        definition.memory_limit_mb = 256;
        definition.allow.kv = vec!["carts".to_owned()];
    });
    let set = |bytes: usize| format!("set carts 7 {}", "x".repeat(bytes));
    // As much as an attempt may cause: the interface's own limit is told.
    let told = rig.call(set(8 << 20)).await;
    assert!(lines(&told)[0].contains("the limit is 1048576"), "{}", lines(&told)[0]);
    // More is not even looked at.
    let failure = rig.call(set(9 << 20)).await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::BadOutput);
    assert!(failure.message.starts_with("the guest handed over more than 8454144 bytes"), "{}", failure.message);
}
