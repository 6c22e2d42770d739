//! Instances that serve more than one attempt, where a definition asks for it.

use super::super::engine::MAX_MEMORIES;
use super::*;
use crate::functions::Reuse;

fn reused(module: Bytes, change: impl FnOnce(&mut Definition)) -> Rig {
    Rig::with(module, |definition| {
        definition.reuse = Some(Reuse { max_age_seconds: 3600.0, ..Reuse::default() });
        change(definition);
    })
}

/// The guests that count their calls: of `n` calls in one instance the last answers the sum of 1 to `n`.
fn counters() -> Vec<(Abi, Bytes)> {
    echoes().into_iter().filter(|(abi, _)| !matches!(abi, Abi::Command | Abi::CommandComponent)).collect()
}

impl Rig {
    async fn count(&self) -> u32 {
        let body = self.call("c").await.result.unwrap().body;
        u32::from_le_bytes(body[..].try_into().unwrap())
    }

    fn waiting(&self) -> usize {
        self.executor.shelf().len()
    }
}

#[tokio::test]
async fn an_instance_keeps_its_state_where_it_may_and_nowhere_else() {
    for (abi, module) in counters() {
        let fresh = Rig::new(module.clone());
        assert_eq!([fresh.count().await, fresh.count().await, fresh.count().await], [1, 1, 1], "{abi:?}");
        let rig = reused(module, |_| {});
        assert_eq!([rig.count().await, rig.count().await, rig.count().await], [1, 3, 6], "{abi:?}");
        assert_eq!(rig.waiting(), 1, "{abi:?}");
    }
}

#[tokio::test]
async fn an_instance_whose_attempt_failed_is_not_used_again() {
    for (abi, module) in counters() {
        let rig = reused(module, |definition| {
            definition.timeout_seconds = 0.2;
            definition.memory_limit_mb = 16;
            definition.max_output_bytes = 10;
        });
        rig.executor.prepare(&rig.version).await.unwrap();
        for fails in ["x", "s", "m", "more than is taken"] {
            assert_eq!(rig.count().await, 1, "{abi:?}");
            assert!(rig.call(fails).await.result.is_err(), "{abi:?} {fails}");
            assert_eq!(rig.waiting(), 0, "{abi:?} {fails}");
        }
    }
}

#[tokio::test]
async fn an_instance_serves_so_many_attempts_and_for_so_long() {
    for (abi, module) in counters() {
        let twice = reused(module.clone(), |definition| definition.reuse.as_mut().unwrap().max_uses = 2);
        assert_eq!([twice.count().await, twice.count().await, twice.count().await], [1, 3, 1], "{abi:?}");
        let briefly = reused(module, |definition| definition.reuse.as_mut().unwrap().max_age_seconds = 0.001);
        for _ in 0..3 {
            assert_eq!(briefly.count().await, 1, "{abi:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        briefly.executor.tidy();
        assert_eq!(briefly.waiting(), 0, "{abi:?}: what is too old does not wait");
    }
}

#[tokio::test]
async fn so_many_instances_wait_and_no_more() {
    let rig = reused(guest("steer.http.wat"), |definition| definition.reuse.as_mut().unwrap().max_concurrent = 2);
    rig.executor.prepare(&rig.version).await.unwrap();
    let seats: Vec<_> = (0..4).map(|_| rig.executor.shelf().take(&rig.version)).collect();
    assert!(seats.iter().all(Option::is_none));
    let invocation = event(Kind::Pubsub, "hello");
    for _ in 0..3 {
        let attempts = futures_util::future::join_all((0..4).map(|_| rig.attempt(&invocation))).await;
        assert!(attempts.iter().all(|attempt| attempt.result.is_ok()));
    }
    assert!(rig.waiting() <= 2, "{}", rig.waiting());
}

#[tokio::test]
async fn what_waits_gives_way_to_what_runs() {
    for (abi, module) in counters() {
        // The pool has room for nine, and for as many memories as nine components may have: a reactor has one.
        let room = if abi == Abi::Reactor { 9 * MAX_MEMORIES as usize } else { 9 };
        let config = ExecutorConfig { max_instances: 1, ..ExecutorConfig::default() };
        let rig = Rig::configured(vec![module], config, |_| {});
        let call = async |version: &Arc<Version>| {
            let deadline = Instant::now() + Duration::from_secs(10);
            rig.executor.attempt(version, &event(Kind::Pubsub, "hello"), deadline, None).await.result.unwrap();
        };
        let versions: Vec<_> = (0..room)
            .map(|_| {
                version(&rig.executor, &rig.source.modules[0], |definition| definition.reuse = Some(Reuse::default()))
            })
            .collect();
        for version in &versions {
            call(version).await;
        }
        assert_eq!(rig.waiting(), room, "{abi:?}");
        call(&rig.version).await;
        assert_eq!(rig.waiting(), room - 1, "{abi:?}: one gave way, and the other was not kept");
    }
}

#[tokio::test]
async fn a_version_that_is_gone_leaves_neither_instances_nor_code() {
    for (abi, module) in counters() {
        let mut rig = reused(module.clone(), |_| {});
        rig.count().await;
        rig.executor.tidy();
        assert_eq!((rig.waiting(), rig.executor.codes()), (1, 1), "{abi:?}: it is used");
        // The next version takes its place.
        let next = numbered(7);
        rig.version = version(&rig.executor, &next, |_| {});
        rig.executor.tidy();
        assert_eq!((rig.waiting(), rig.executor.codes()), (0, 0), "{abi:?}");
    }
}

#[tokio::test]
async fn what_an_instance_has_already_counts() {
    for (abi, module) in counters() {
        let rig = reused(module, |definition| definition.memory_limit_mb = 100);
        let first = rig.call("m").await;
        assert!(first.result.is_ok() && first.memory_peak_bytes > 64 << 20, "{abi:?}");
        assert_eq!(rig.call("hello").await.memory_peak_bytes, first.memory_peak_bytes, "{abi:?}: it has it still");
        assert_eq!(rig.code("m").await, FailureCode::Memory, "{abi:?}");
        assert!(rig.call("m").await.result.is_ok(), "{abi:?}: another one has not");
    }
}

#[tokio::test]
async fn an_instance_goes_from_thread_to_thread() {
    let rig = reused(guest("steer.component.wat"), |_| {});
    let (mut calls, mut was_quick, mut moves) = (0, true, [0, 0]);
    for call in 1..=400_u32 {
        // Now it is trusted on its caller's thread, now it is not.
        if call % 100 == 50 {
            rig.version.pace.overran();
        }
        let is_quick = rig.version.pace.is_quick();
        calls += 1;
        let sum = rig.count().await;
        // A machine that is busy may take longer than a quick call is given: the call begins again in another instance.
        if sum != calls * (calls + 1) / 2 {
            assert_eq!(sum, 1);
            calls = 1;
        } else if is_quick != was_quick {
            moves[usize::from(is_quick)] += 1;
        }
        was_quick = is_quick;
    }
    assert!(moves[0] > 0 && moves[1] > 0, "it was carried over both ways: {moves:?}");
}

#[tokio::test]
async fn what_is_left_open_is_not_carried_over() {
    let rig = reused(guest("steer.http.wat"), |_| {});
    assert_eq!(rig.call("answers").await.result.unwrap().body, "answers");
    assert_eq!(rig.waiting(), 1, "it was closed");
    assert!(rig.call("keeps").await.result.is_ok());
    assert_eq!(rig.waiting(), 0, "it was left open");
}

#[tokio::test]
async fn every_attempt_has_its_own_lines() {
    let says = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (global $calls (mut i32) (i32.const 0))
            (data (i32.const 512) "begun\ncalled\n")
            (func $say (param $at i32) (param $length i32)
                (i32.store (i32.const 0) (local.get $at))
                (i32.store (i32.const 4) (local.get $length))
                (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable))))
            (func (export "_initialize") (call $say (i32.const 512) (i32.const 6)))
            (func (export "alloc") (param i32) (result i32) (i32.const 1024))
            (func (export "handle") (param i32 i32) (result i64) (call $say (i32.const 518) (i32.const 7)) (i64.const 0)))"#,
    );
    let rig = reused(says.unwrap().into(), |_| {});
    let lines = async || {
        let logs = rig.call("").await.detail.unwrap().logs;
        logs.into_iter().map(|line| line.message).collect::<Vec<_>>()
    };
    assert_eq!(lines().await, ["begun", "called"]);
    assert_eq!(lines().await, ["called"], "it begins once");
    assert_eq!(lines().await, ["called"]);
}

#[test]
fn a_command_that_is_to_be_reused_is_refused() {
    let mut definition = Definition::new("default", "function");
    let inspection = |abi| crate::executor::Inspection { abi, imports: Vec::new() };
    assert!(inspection(Abi::Command).suits(&definition).is_ok());
    definition.reuse = Some(Reuse::default());
    for abi in [Abi::Component, Abi::WasiHttp, Abi::Reactor] {
        assert!(inspection(abi).suits(&definition).is_ok());
    }
    for abi in [Abi::Command, Abi::CommandComponent] {
        let refused = inspection(abi).suits(&definition).unwrap_err().to_string();
        assert!(refused.contains("take `reuse` out"), "{refused}");
    }
}
