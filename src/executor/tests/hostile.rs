//! Modules and guests that were made to do harm: a refusal or a failure with a code, and never a panic.

use proptest::prelude::*;

use super::*;

/// Every interface's guest as bytes.
fn corpus() -> Vec<Bytes> {
    let mut corpus: Vec<Bytes> = echoes().into_iter().map(|(_, module)| module).collect();
    corpus.extend(["echo.component.wasm", "hello-http.wasm", "work.component.wasm"].map(guest));
    corpus
}

/// Looks at a module, compiles and calls it if it may be: as a deploy and an event would.
fn run(executor: &WasmExecutor, source: &Loose, module: Vec<u8>) {
    let module = Bytes::from(module);
    let Ok(inspection) = executor.inspect(&module) else { return };
    let digest = Digest::of(&module);
    *source.0.lock().unwrap() = module;
    let mut definition = Definition::new("default", "function");
    (definition.timeout_seconds, definition.memory_limit_mb) = (0.2, 16);
    let slot = Arc::new(ModuleSlot::new(digest, inspection.abi));
    let version = Arc::new(Version::new(Uuid::now_v7(), 1, digest, definition, slot));
    let deadline = Instant::now() + Duration::from_secs(10);
    let event = event(Kind::Pubsub, "hello");
    let call = executor.attempt(&version, &event, deadline, None);
    let attempt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(call);
    if let Err(failure) = attempt.result {
        assert!(!failure.message.contains("the engine failed"), "the host panicked: {failure}");
    }
}

/// The one module that is asked for.
#[derive(Default)]
struct Loose(std::sync::Mutex<Bytes>);

impl ModuleSource for Loose {
    fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
        let module = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(module) })
    }
}

fn loose() -> (WasmExecutor, Arc<Loose>) {
    let source = Arc::new(Loose::default());
    let config = ExecutorConfig { max_instances: 1, max_cached_modules: 4, ..ExecutorConfig::default() };
    (WasmExecutor::new(config, source.clone()).unwrap(), source)
}

/// A change to a module's bytes.
#[derive(Clone, Debug)]
enum Harm {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// A count or a length that is larger than everything.
    Huge(prop::sample::Index),
    /// A part of it once more, somewhere else.
    Twice(prop::sample::Index, prop::sample::Index, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        1 => index().prop_map(Harm::Cut),
        6 => (index(), 1..=u8::MAX).prop_map(|(at, bits)| Harm::Flip(at, bits)),
        2 => index().prop_map(Harm::Huge),
        1 => (index(), index(), 1..64_usize).prop_map(|(from, to, length)| Harm::Twice(from, to, length)),
    ]
}

impl Harm {
    fn befall(&self, module: &mut Vec<u8>) {
        if module.is_empty() {
            return;
        }
        match self {
            Harm::Cut(at) => module.truncate(at.index(module.len())),
            Harm::Flip(at, bits) => {
                let at = at.index(module.len());
                module[at] ^= bits;
            }
            Harm::Huge(at) => {
                let at = at.index(module.len());
                module.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            Harm::Twice(from, to, length) => {
                let from = from.index(module.len());
                let part = module[from..module.len().min(from + length)].to_vec();
                let to = to.index(module.len());
                module.splice(to..to, part);
            }
        }
    }
}

#[test]
fn a_module_that_was_tampered_with_is_refused_or_fails() {
    let (executor, source) = loose();
    let corpus = corpus();
    let harms = prop::collection::vec(harm(), 1..4);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(which in 0..corpus.len(), harms in harms)| {
        let mut module = corpus[which].to_vec();
        harms.iter().for_each(|harm| harm.befall(&mut module));
        run(&executor, &source, module);
    });
}

/// The failure of a command that does this at its start.
async fn started(fields: &str, start: &str) -> Result<(), FailureCode> {
    let text = format!(
        r#"(module {fields} (memory (export "memory") 1) (func $start {start}) (start $start) (func (export "_start")))"#
    );
    let rig = Rig::with(wat::parse_str(text).unwrap().into(), |definition| definition.timeout_seconds = 0.2);
    rig.call("").await.result.map(drop).map_err(|failure| failure.code)
}

#[tokio::test]
async fn what_a_module_does_when_it_is_made_is_bounded_too() {
    assert_eq!(started("", "").await, Ok(()));
    assert_eq!(started("", "(loop $for_ever (br $for_ever))").await, Err(FailureCode::Timeout));
    assert_eq!(started("", "(unreachable)").await, Err(FailureCode::Trap));
    assert_eq!(started("", "(call $start)").await, Err(FailureCode::Trap));
    assert_eq!(started("(table 1 funcref) (elem (i32.const 7) 0)", "").await, Err(FailureCode::Trap));
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let (executor, source) = loose();
    for depth in [100, 5_000] {
        let blocks = [&b"\x02\x40".repeat(depth)[..], &b"\x0b".repeat(depth)].concat();
        let mut body = vec![0];
        body.extend(blocks);
        body.push(0x0b);
        run(&executor, &source, command(&body));
        let nested = ["(component ".repeat(depth.min(500)), ")".repeat(depth.min(500))].concat();
        if let Ok(nested) = wat::parse_str(nested) {
            run(&executor, &source, nested);
        }
    }
}

/// A command with this body of `_start`.
fn command(body: &[u8]) -> Vec<u8> {
    fn number(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = (number & 0x7f) as u8;
            number >>= 7;
            bytes.push(if number > 0 { low | 0x80 } else { low });
            if number == 0 {
                return bytes;
            }
        }
    }
    let section = |id: u8, content: &[u8]| [&[id][..], &number(content.len()), content].concat();
    let code = [&[1][..], &number(body.len()), body].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\0\0"),
        section(3, b"\x01\0"),
        section(7, b"\x01\x06_start\0\0"),
        section(10, &code),
    ]
    .concat()
}

#[tokio::test]
async fn a_hundred_thousand_headers_are_a_failure() {
    let rig = Rig::with(guest("steer.http.wat"), |definition| definition.timeout_seconds = 60.0);
    let failure = rig.call("H").await.result.unwrap_err();
    assert!(matches!(failure.code, FailureCode::Trap | FailureCode::BadOutput), "{failure}");
}

#[tokio::test]
async fn pointers_into_nowhere_are_told_to_the_guest_or_end_it() {
    let calls = [
        "(call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8))",
        "(call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 8))",
        "(call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 65535))",
        "(call $write (i32.const 77) (i32.const 0) (i32.const 1) (i32.const 8))",
        "(call $read (i32.const 0) (i32.const 65532) (i32.const 1) (i32.const 8))",
        "(call $random (i32.const 65530) (i32.const 100))",
        "(call $random (i32.const 0) (i32.const -1))",
        "(call $environ (i32.const -1) (i32.const -1))",
        "(call $poll (i32.const -64) (i32.const -64) (i32.const 1000000) (i32.const 0))",
    ];
    for call in calls {
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "\f0\ff\00\00\ff\ff\ff\ff")
                (func (export "alloc") (param i32) (result i32) (i32.const 1024))
                (func (export "handle") (param i32 i32) (result i64) (drop {call}) (i64.const 0)))"#
        );
        let rig = Rig::with(wat::parse_str(text).unwrap().into(), |definition| {
            definition.timeout_seconds = 5.0;
            definition.env_vars = [("NAME".to_owned(), "value".to_owned())].into();
        });
        if let Err(failure) = rig.call("").await.result {
            assert_eq!(failure.code, FailureCode::Trap, "{call}: {failure}");
        }
    }
}

#[tokio::test]
async fn text_that_is_none_is_a_failure() {
    let bad = std::fs::read_to_string(format!("{}/tests/guests/steer.component.wat", env!("CARGO_MANIFEST_DIR")));
    let bad = bad.unwrap().replace(r#""told to fail""#, r#""told\ff\fe fail""#);
    let failure = Rig::new(wat::parse_str(bad).unwrap().into()).call("p").await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::Trap, "{failure}");
    assert!(failure.message.contains("utf-8"), "{failure}");
}

/// The `wasi:http` guest with one piece of its text in the place of another.
fn http_guest(replace: &str, with: &str) -> Rig {
    let text = std::fs::read_to_string(format!("{}/tests/guests/steer.http.wat", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(text.contains(replace), "{replace}");
    // Who waited for it would wait for as long as this.
    Rig::with(wat::parse_str(text.replacen(replace, with, 1)).unwrap().into(), |definition| {
        definition.timeout_seconds = 60.0;
    })
}

#[tokio::test]
async fn a_response_that_never_comes_is_not_waited_for() {
    let silent = http_guest("(local $first i32)\n", "(local $first i32)\n(return)\n");
    let failure = silent.call("hello").await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::BadOutput);
    assert!(failure.message.contains("without a response"), "{failure}");
}

#[tokio::test]
async fn a_body_that_is_never_finished_is_not_waited_for_and_is_no_answer() {
    let finish = "(call $finish (local.get $answer) (i32.const 0) (i32.const 0) (i32.const 0))";
    let put = "(call $put (local.get $output) (local.get $at) (local.get $length) (i32.const 0))";
    let put_and_return = format!("{put} (return)");
    for (what, replace, with) in [
        ("it keeps the body", finish, ""),
        ("it keeps the body's stream too", put, &put_and_return),
        ("it never asks for the stream", "(call $write (local.get $answer) (i32.const 0))", "(return)"),
        ("it drops the body", finish, "(call $drop_answer (local.get $answer))"),
    ] {
        let failure = http_guest(replace, with).call("hello").await.result.expect_err(what);
        assert_eq!(failure.code, FailureCode::BadOutput, "{what}: {failure}");
        assert!(failure.message.contains("broke off"), "{what}: {failure}");
    }
}

#[tokio::test]
async fn a_guest_that_traps_with_half_an_answer_has_given_none() {
    let put = "(call $put (local.get $output) (local.get $at) (local.get $length) (i32.const 0))";
    let put_and_trap = format!("{put} (unreachable)");
    let finish = "(call $finish (local.get $answer) (i32.const 0) (i32.const 0) (i32.const 0))";
    let finish_and_trap = format!("{finish} (unreachable)");
    for (when, replace, with) in [
        ("after the head", "(call $write (local.get $answer) (i32.const 0))", "(unreachable)"),
        ("within the body", put, &put_and_trap),
        ("after the end", finish, &finish_and_trap),
    ] {
        let failure = http_guest(replace, with).call("hello").await.result.expect_err(when);
        assert_eq!(failure.code, FailureCode::Trap, "{when}: {failure}");
    }
}
