//! Guests that take too much: time, memory, room for answers.

use super::*;

#[tokio::test]
async fn a_payload_may_be_as_large_as_its_limit_and_no_larger() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| definition.max_input_bytes = 1000);
        assert!(rig.call(vec![b'y'; 1000]).await.result.is_ok(), "{abi:?}");
        assert_eq!(rig.code(vec![b'y'; 1001]).await, FailureCode::InputTooLarge, "{abi:?}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_its_limit_and_no_larger() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| definition.max_output_bytes = 1000);
        assert!(rig.call(vec![b'y'; 1000]).await.result.is_ok(), "{abi:?}");
        assert_eq!(rig.code(vec![b'y'; 1001]).await, FailureCode::BadOutput, "{abi:?}");
    }
    let rig = Rig::with(guest("hello-http.wasm"), |definition| definition.max_output_bytes = 1);
    assert_eq!(rig.code("").await, FailureCode::BadOutput);
}

#[tokio::test]
async fn a_length_that_lies_takes_no_memory() {
    let rig = Rig::new(guest("steer.component.wat"));
    // More than the guest has: out of its memory's bounds.
    let mut lie = b"b".to_vec();
    lie.extend(u32::MAX.to_le_bytes());
    assert_eq!(rig.code(lie).await, FailureCode::Trap);
    // What it has, but more than it may hand over: refused before a copy is made.
    let rig = Rig::with(guest("steer.component.wat"), |definition| {
        definition.max_input_bytes = 16 << 20;
        definition.max_output_bytes = 1 << 20;
    });
    let failure = rig.call(vec![b'y'; 12 << 20]).await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::BadOutput);
    assert!(failure.message.contains("at once"), "{failure}");
}

#[tokio::test]
async fn traps_and_refused_memory_are_told_apart() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| definition.memory_limit_mb = 32);
        let trap = rig.call("x").await.result.unwrap_err();
        assert_eq!(trap.code, FailureCode::Trap, "{abi:?}");
        assert!(trap.message.contains("unreachable"), "{abi:?}: {}", trap.message);
        let memory = rig.call("m").await.result.unwrap_err();
        assert_eq!(memory.code, FailureCode::Memory, "{abi:?}");
        assert!(memory.message.contains("32 MiB"), "{abi:?}: {}", memory.message);
    }
    let rig = Rig::with(guest("steer.wat"), |definition| definition.memory_limit_mb = 128);
    assert!(rig.call("m").await.result.is_ok(), "it is not refused what it may have");
}

#[tokio::test]
async fn a_module_that_begins_with_too_much_memory_is_a_memory_failure() {
    let large = wat::parse_str(r#"(module (memory (export "memory") 4096) (func (export "_start")))"#).unwrap();
    let rig = Rig::with(large.into(), |definition| definition.memory_limit_mb = 16);
    assert_eq!(rig.code("").await, FailureCode::Memory);
}

#[tokio::test]
async fn a_deep_recursion_is_a_trap() {
    let deep = wat::parse_str(
        r#"(module (memory (export "memory") 1) (func $deep (call $deep)) (func (export "_start") (call $deep)))"#,
    );
    let failure = Rig::new(deep.unwrap().into()).call("").await.result.unwrap_err();
    assert_eq!(failure.code, FailureCode::Trap);
    assert!(failure.message.contains("stack"), "{failure}");
}

#[tokio::test]
async fn a_guest_that_computes_too_long_is_cut_in_time() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| definition.timeout_seconds = 0.1);
        rig.executor.prepare(&rig.version).await.unwrap();
        for _ in 0..3 {
            let began = Instant::now();
            let attempt = rig.call("s").await;
            assert_eq!(attempt.result.unwrap_err().code, FailureCode::Timeout, "{abi:?}");
            assert!(began.elapsed() >= Duration::from_millis(100), "{abi:?}: {:?}", began.elapsed());
        }
        // It is not held against the next event.
        assert_eq!(rig.call("hello").await.result.unwrap().body, "hello", "{abi:?}");
    }
}

#[tokio::test]
async fn a_guest_that_waits_too_long_is_cut_and_what_it_said_is_kept() {
    let sleeper = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 512) "good night\n")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 512))
                (i32.store (i32.const 4) (i32.const 11))
                (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i32.store (i32.const 144) (i32.const 1))
                (i64.store (i32.const 152) (i64.const 3600000000000))
                (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))))"#,
    );
    let rig = Rig::with(sleeper.unwrap().into(), |definition| definition.timeout_seconds = 0.05);
    let attempt = rig.call("").await;
    assert_eq!(attempt.result.unwrap_err().code, FailureCode::Timeout);
    assert_eq!(attempt.detail.unwrap().logs[0].message, "good night");
}

/// One thread for everything, as if it were the listener's.
#[tokio::test]
async fn a_guest_that_never_returns_holds_its_callers_thread_for_moments_only() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| definition.timeout_seconds = 1.0);
        rig.executor.prepare(&rig.version).await.unwrap();
        let looping = rig.call("s");
        let listening = async {
            let mut turns = 0;
            let until = Instant::now() + Duration::from_millis(900);
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
                turns += 1;
            }
            turns
        };
        let (looped, turns) = tokio::join!(looping, listening);
        assert_eq!(looped.result.unwrap_err().code, FailureCode::Timeout, "{abi:?}");
        assert!(turns > 50, "{abi:?}: the thread had {turns} turns beside the guest");
    }
}

#[tokio::test]
async fn an_attempt_that_is_dropped_gives_its_instance_back() {
    let rig = Rig::configured(
        vec![guest("steer.wat")],
        ExecutorConfig { max_instances: 1, ..ExecutorConfig::default() },
        |definition| definition.timeout_seconds = 60.0,
    );
    rig.executor.prepare(&rig.version).await.unwrap();
    for _ in 0..40 {
        let cut = tokio::time::timeout(Duration::from_millis(15), rig.call("s")).await;
        assert!(cut.is_err());
    }
    // Each of the cut ones ended at its next tick.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(failure) = rig.call("hello").await.result {
        assert!(Instant::now() < deadline, "{failure}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
