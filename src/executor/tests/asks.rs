//! What a guest may ask of the host, in every interface: at the limit it is given it, one past it it is told.

use super::*;
use crate::functions::Budget;

/// The components that can be steered.
const COMPONENTS: [&str; 4] = ["steer.component.wat", "steer.command.wat", "steer.messaging.wat", "steer.http.wat"];

/// The core modules that can be.
const MODULES: [&str; 2] = ["steer.wat", "steer.reactor.wat"];

/// What is asked: a function of an interface.
struct Ask {
    /// The interface's import, as `$asked`.
    import: &'static str,
    /// Its function's name.
    function: &'static str,
    /// The same as a core function.
    core: &'static str,
}

const LOG: Ask = Ask {
    import: r#"(import "tripline:function/log@0.1.0" (instance $asked
        (type $levels (enum "trace" "debug" "info" "warn" "error"))
        (export "level" (type $level (eq $levels)))
        (export "write" (func (param "level" $level) (param "message" string)))))"#,
    function: "write",
    core: "(param i32 i32 i32)",
};

const RESPONSE: Ask = Ask {
    import: r#"(import "tripline:function/http-response@0.1.0" (instance $asked
        (export "set" (func
            (param "status" u16) (param "headers" (list (tuple string string))) (result (result (error string)))))))"#,
    function: "set",
    core: "(param i32 i32 i32 i32)",
};

const FIELDS: Ask = Ask {
    import: r#"(import "wasi:http/types@0.2.0" (instance $asked
        (export "fields" (type $fields (sub resource)))
        (export "[constructor]fields" (func (result (own $fields))))))"#,
    function: "[constructor]fields",
    core: "(result i32)",
};

const RANDOM: Ask = Ask {
    import: r#"(import "wasi:random/random@0.2.0" (instance $asked
        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#,
    function: "get-random-bytes",
    core: "(param i64 i32)",
};

impl Ask {
    /// A steered component that does `work` with `$ask` before anything else. Its memory has three lines at 64.
    fn by(&self, component: &str, work: &str) -> Bytes {
        let Self { import, function, core } = self;
        let part = format!(
            r#"(component
            {import}
            (core module $room
                (memory (export "memory") 256)
                (data (i32.const 64) "one\ntwo\nthree\n")
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $room (instantiate $room))
            (core func $ask (canon lower (func $asked "{function}")
                (memory (core memory $room "memory")) (realloc (core func $room "realloc"))))
            (core module $before
                (import "host" "ask" (func $ask {core}))
                (func $work (local $left i32) {work})
                (start $work))
            (core instance (instantiate $before (with "host" (instance (export "ask" (func $ask))))))
            "#
        );
        wat::parse_str(fences::text(component).replacen("(component\n", &part, 1)).unwrap().into()
    }
}

/// `ask` so many times.
fn times(count: usize, ask: &str) -> String {
    format!(
        "(local.set $left (i32.const {count}))
        (loop $again {ask} (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"
    )
}

/// A steered core module that does `work` with `$ask` of WASI before anything else.
fn asking(module: &str, function: &str, core: &str, fields: &str, work: &str) -> Bytes {
    let import = format!("(module\n(import \"wasi_snapshot_preview1\" \"{function}\" (func $ask {core}))\n");
    fences::changed(&fences::text(module).replacen("(module\n", &import, 1), fields, work)
}

#[tokio::test]
async fn every_interfaces_log_lines_are_kept_up_to_their_number_and_their_bytes() {
    let written = "(call $ask (i32.const 2) (i32.const 64) (i32.const 3))
        (call $ask (i32.const 2) (i32.const 68) (i32.const 3))
        (call $ask (i32.const 2) (i32.const 72) (i32.const 5))";
    // A vector of one piece, at 512, and the piece.
    let piece = r#"(data (i32.const 512) "\08\02\00\00\0e\00\00\00one\ntwo\nthree\n")"#;
    let said = "(drop (call $ask (i32.const 2) (i32.const 512) (i32.const 1) (i32.const 768)))";
    let core = "(param i32 i32 i32 i32) (result i32)";
    let guests = COMPONENTS.map(|name| (name, LOG.by(name, written))).into_iter();
    let guests = guests.chain(MODULES.map(|name| (name, asking(name, "fd_write", core, piece, said))));
    for (name, module) in guests {
        for (lines, bytes, kept, truncated) in [
            (3, 11, &["one", "two", "three"][..], false),
            (2, 11, &["one", "two"], true),
            (3, 10, &["one", "two", "thre"], true),
        ] {
            let rig = Rig::with(module.clone(), |definition| {
                (definition.max_log_lines, definition.max_log_bytes) = (lines, bytes);
            });
            let attempt = rig.call("hello").await;
            assert_eq!(attempt.result.unwrap().body, "hello", "{name}: who says much is not thereby wrong");
            let detail = attempt.detail.unwrap();
            let logs: Vec<&str> = detail.logs.iter().map(|line| line.message.as_str()).collect();
            assert_eq!((&logs[..], detail.logs_truncated), (kept, truncated), "{name}");
        }
    }
}

#[tokio::test]
async fn every_component_hands_over_so_much_in_one_go_and_no_more() {
    for name in COMPONENTS {
        let handing = |bytes: usize| {
            Rig::new(LOG.by(name, &format!("(call $ask (i32.const 2) (i32.const 0) (i32.const {bytes}))")))
        };
        assert_eq!(handing(8_454_144).call("hello").await.result.unwrap().body, "hello", "{name}");
        let failure = handing(8_454_145).call("hello").await.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::BadOutput, "{name}: {failure}");
        assert!(failure.message.starts_with("the guest handed over more than 8454144 bytes"), "{name}: {failure}");
        // More than there is.
        assert_eq!(handing(u32::MAX as usize).code("hello").await, FailureCode::Trap, "{name}");
    }
}

#[tokio::test]
async fn every_components_calls_of_the_host_end_with_their_budget() {
    for name in COMPONENTS {
        // What is published as the answer is a call too.
        let own = usize::from(name == "steer.messaging.wat");
        let set = "(call $ask (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 512))";
        let calling = |count: usize| {
            Rig::with(RESPONSE.by(name, &times(count, set)), |definition| {
                definition.budget = Budget { host_calls: Some(10), ..Budget::default() };
            })
        };
        assert_eq!(calling(10 - own).call("hello").await.result.unwrap().body, "hello", "{name}");
        let failure = calling(11 - own).call("hello").await.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::Fuel, "{name}: {failure}");
        assert!(failure.message.ends_with("host call 11 of 10"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn every_components_resources_are_given_up_to_their_number() {
    // What each of them holds at most of its own at once: streams, and what requests and responses are made of.
    for (name, own) in COMPONENTS.into_iter().zip([0, 2, 0, 5]) {
        let holding = |count: usize| Rig::new(FIELDS.by(name, &times(count, "(drop (call $ask))")));
        assert_eq!(holding(10_000 - own).call("hello").await.result.unwrap().body, "hello", "{name}");
        let failure = holding(10_001 - own).call("hello").await.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::Trap, "{name}");
        assert!(failure.message.contains("resource table"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn every_interface_gives_so_many_random_bytes_at_once_and_no_more() {
    let guests = |bytes: usize| {
        let asked = format!("(call $ask (i64.const {bytes}) (i32.const 0))");
        let called = format!(
            "(drop (memory.grow (i32.const 20)))
            (if (call $ask (i32.const 262144) (i32.const {bytes})) (then (unreachable)))"
        );
        let core = "(param i32 i32) (result i32)";
        let components = COMPONENTS.map(|name| (name, RANDOM.by(name, &asked))).into_iter();
        components.chain(MODULES.map(|name| (name, asking(name, "random_get", core, "", &called))))
    };
    for (name, module) in guests(1 << 20) {
        assert_eq!(Rig::new(module).call("hello").await.result.unwrap().body, "hello", "{name}");
    }
    for (name, module) in guests((1 << 20) + 1) {
        assert_eq!(Rig::new(module).code("hello").await, FailureCode::Trap, "{name}");
    }
}
