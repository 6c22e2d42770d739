//! The executor with real guests.

mod accounts;
mod asks;
mod compiled;
pub(super) mod fakes;
mod fences;
mod hostile;
mod hosts;
mod limits;
mod messaging;
mod outbound;
mod reuse;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use trigger_core::{Binding, BoxFuture, Custody, FailureCode, InvocationContext, Kind};
use uuid::Uuid;

use super::{Abi, Attempt, Executor as _, ExecutorConfig, ModuleError, ModuleSlot, ModuleSource, WasmExecutor};
use crate::functions::{Definition, Digest, Version};

/// Modules in memory, and how often one was asked for.
struct Modules {
    modules: Vec<Bytes>,
    asked: AtomicU32,
}

impl ModuleSource for Modules {
    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.modules.iter().find(|module| Digest::of(module) == digest).cloned();
        Box::pin(async move { found.ok_or_else(|| ModuleError::Unavailable("not here".to_owned())) })
    }
}

/// A guest of `tests/guests`.
fn guest(name: &str) -> Bytes {
    let path = format!("{}/tests/guests/{name}", env!("CARGO_MANIFEST_DIR"));
    wat::parse_file(&path).unwrap_or_else(|error| panic!("{path}: {error}")).into()
}

/// A command of its own, told from others by a number.
fn numbered(number: u32) -> Bytes {
    let text =
        format!(r#"(module (memory (export "memory") 1) (global i32 (i32.const {number})) (func (export "_start")))"#);
    wat::parse_str(text).unwrap().into()
}

struct Rig {
    executor: WasmExecutor,
    source: Arc<Modules>,
    version: Arc<Version>,
}

impl Rig {
    fn new(module: Bytes) -> Self {
        Self::with(module, |_| {})
    }

    fn with(module: Bytes, change: impl FnOnce(&mut Definition)) -> Self {
        Self::configured(vec![module], ExecutorConfig { max_instances: 8, ..ExecutorConfig::default() }, change)
    }

    /// An executor with these modules; the version is of the first.
    fn configured(modules: Vec<Bytes>, config: ExecutorConfig, change: impl FnOnce(&mut Definition)) -> Self {
        let source = Arc::new(Modules { modules, asked: AtomicU32::new(0) });
        let executor = WasmExecutor::new(config, source.clone()).unwrap();
        let version = version(&executor, &source.modules[0], change);
        Self { executor, source, version }
    }

    async fn call(&self, payload: impl Into<Bytes>) -> Attempt {
        self.attempt(&event(Kind::Pubsub, payload)).await
    }

    async fn attempt(&self, invocation: &InvocationContext) -> Attempt {
        let deadline = Instant::now() + self.version.timeout;
        self.executor.attempt(&self.version, invocation, deadline, None).await
    }

    /// The code that a call fails with.
    async fn code(&self, payload: impl Into<Bytes>) -> FailureCode {
        self.call(payload).await.result.expect_err("a failure").code
    }
}

fn version(executor: &WasmExecutor, module: &Bytes, change: impl FnOnce(&mut Definition)) -> Arc<Version> {
    let mut definition = Definition::new("default", "function");
    change(&mut definition);
    let digest = Digest::of(module);
    let abi = executor.inspect(module).unwrap().abi;
    Arc::new(Version::new(Uuid::now_v7(), 1, digest, definition, Arc::new(ModuleSlot::new(digest, abi))))
}

fn event(kind: Kind, payload: impl Into<Bytes>) -> InvocationContext {
    let binding = Binding {
        namespace: "default".into(),
        function_name: "function".into(),
        trigger_id: "trigger".into(),
        trigger_type: kind,
    };
    let mut event = InvocationContext::new(Arc::new(binding), Custody::Caller, payload.into());
    event.subject = "subject".into();
    event.attributes = vec![("reply".into(), "_INBOX.7".into())];
    event
}

/// The interfaces that take bytes, each by a guest that answers what it was given.
fn echoes() -> Vec<(Abi, Bytes)> {
    vec![
        (Abi::Component, guest("steer.component.wat")),
        (Abi::Command, guest("steer.wat")),
        (Abi::CommandComponent, guest("steer.command.wat")),
        (Abi::Messaging, guest("steer.messaging.wat")),
        (Abi::Reactor, guest("steer.reactor.wat")),
        (Abi::WasiHttp, guest("steer.http.wat")),
    ]
}

#[tokio::test]
async fn a_payload_goes_in_and_an_answer_comes_out() {
    for module in [guest("steer.component.wat"), guest("echo.component.wasm")] {
        let rig = Rig::new(module);
        for payload in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![7; 300_000])] {
            let attempt = rig.call(payload.clone()).await;
            assert_eq!(attempt.result.unwrap().body, payload);
            assert!(attempt.memory_peak_bytes >= 1 << 16, "{}", attempt.memory_peak_bytes);
            assert!(attempt.detail.is_none());
        }
    }
}

#[tokio::test]
async fn the_payload_is_stdin_and_stdout_is_the_answer() {
    let rig = Rig::new(guest("steer.wat"));
    assert_eq!(rig.version.module.abi, Abi::Command);
    assert_eq!(rig.call("hello").await.result.unwrap().body, "hello");
    let failed = rig.call("f").await;
    let failure = failed.result.unwrap_err();
    assert_eq!((failure.code, failure.retryable), (FailureCode::GuestError, true));
    assert_eq!(failure.message, "exit code 1: told to fail");
    let detail = failed.detail.unwrap();
    assert_eq!((detail.logs[0].level.as_ref(), detail.logs[0].message.as_str()), ("stderr", "told to fail"));
    let wrong = wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 65))))"#,
    );
    let failure = Rig::new(wrong.unwrap().into()).call("").await.result.unwrap_err();
    assert!(!failure.retryable, "EX_DATAERR says that the input is wrong");
}

#[tokio::test]
async fn a_component_that_runs_is_a_command() {
    let rig = Rig::new(guest("steer.command.wat"));
    assert_eq!(rig.version.module.abi, Abi::CommandComponent);
    for payload in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![7; 300_000])] {
        assert_eq!(rig.call(payload.clone()).await.result.unwrap().body, payload);
    }
    let failed = rig.call("f").await;
    let detail = failed.detail.unwrap();
    assert_eq!((detail.logs[0].level.as_ref(), detail.logs[0].message.as_str()), ("stderr", "told to fail"));
    for (payload, code, retryable) in [("f", 1, true), ("e", 1, true), ("d", 65, false)] {
        let failure = rig.call(payload).await.result.unwrap_err();
        assert_eq!((failure.code, failure.retryable), (FailureCode::GuestError, retryable), "{payload}");
        assert_eq!(&*failure.message, format!("exit code {code}: told to fail"));
    }
}

#[tokio::test]
async fn an_http_guest_answers_requests_and_events() {
    let rig = Rig::new(guest("hello-http.wasm"));
    assert_eq!(rig.version.module.abi, Abi::WasiHttp);
    let mut request = event(Kind::Http, "");
    request.attributes = vec![("method".into(), "GET".into()), ("path".into(), "/".into())];
    for event in [request, event(Kind::Cron, "tick")] {
        let response = rig.attempt(&event).await.result.unwrap();
        assert_eq!(response.http.unwrap().status, 200);
        assert!(!response.body.is_empty());
    }
}

#[tokio::test]
async fn every_attempt_begins_with_fresh_memory_and_globals() {
    for module in ["steer.component.wat", "steer.reactor.wat"] {
        let rig = Rig::new(guest(module));
        for _ in 0..20 {
            assert_eq!(&rig.call("c").await.result.unwrap().body[..], 1u32.to_le_bytes(), "{module}");
        }
    }
}

#[tokio::test]
async fn a_reactor_is_given_bytes_and_answers_bytes() {
    let rig = Rig::new(guest("steer.reactor.wat"));
    assert_eq!(rig.version.module.abi, Abi::Reactor);
    for payload in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![7; 300_000])] {
        assert_eq!(rig.call(payload.clone()).await.result.unwrap().body, payload);
    }
    assert_eq!(rig.call("n").await.result.unwrap().body, "", "an answer of no bytes is an answer");
    let outside = rig.call("o").await.result.unwrap_err();
    assert_eq!(outside.code, FailureCode::BadOutput);
    assert!(outside.message.contains("not within its memory"), "{outside}");
    let wild = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const -4))
            (func (export "handle") (param i32 i32) (result i64) (i64.const 0)))"#,
    );
    let failure = Rig::new(wild.unwrap().into()).call("hello").await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::BadOutput);
    let swapped = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32 i32) (result i32) (i32.const 0)))"#,
    );
    let rig = Rig::new(swapped.unwrap().into());
    let error = rig.executor.prepare(&rig.version).await.unwrap_err().to_string();
    assert!(error.contains("-> i64"), "{error}");
}

#[tokio::test]
async fn a_declared_failure_arrives_with_what_should_follow() {
    let rig = Rig::new(guest("steer.component.wat"));
    let permanent = rig.call("p").await.result.unwrap_err();
    assert_eq!(
        (permanent.code, permanent.retryable, &*permanent.message),
        (FailureCode::GuestError, false, "told to fail")
    );
    let later = rig.call("l").await.result.unwrap_err();
    assert_eq!(later.retry_after, Some(Duration::from_millis(1500)));
}

/// Asks for the time, writes to both streams, and then echoes.
#[tokio::test]
async fn a_guest_that_may_wait_is_answered_and_heard() {
    let sleeper = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 512) "awake\n")
            (func (export "_start")
                (if (call $time (i32.const 0) (i64.const 1) (i32.const 64)) (then (unreachable)))
                (if (i64.eqz (i64.load (i32.const 64))) (then (unreachable)))
                (if (call $random (i32.const 72) (i32.const 8)) (then (unreachable)))
                (i32.store8 (i32.const 136) (i32.const 0))
                (i32.store (i32.const 144) (i32.const 1))
                (i64.store (i32.const 152) (i64.const 30000000))
                (if (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)) (then (unreachable)))
                (i32.store (i32.const 0) (i32.const 512))
                (i32.store (i32.const 4) (i32.const 6))
                (if (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
                (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))))"#,
    );
    let rig = Rig::new(sleeper.unwrap().into());
    let attempt = rig.call("").await;
    assert_eq!(attempt.result.unwrap().body, "awake\n");
    assert!(attempt.run >= Duration::from_millis(30), "{:?}", attempt.run);
    assert_eq!(attempt.detail.unwrap().logs[0].message, "awake");
}

#[tokio::test]
async fn a_native_handler_has_a_deadline_too() {
    let executor = super::native::NativeExecutor::new(|_| Box::pin(std::future::pending()));
    let rig = Rig::new(guest("steer.wat"));
    let deadline = Instant::now() + Duration::from_millis(10);
    let attempt = executor.attempt(&rig.version, &event(Kind::Job, ""), deadline, None).await;
    assert_eq!(attempt.result.unwrap_err().code, FailureCode::Timeout);
}
