//! What an attempt used, and what it may.

use super::*;
use crate::functions::Budget;

/// Sleeps for 60 ms, and answers nothing.
const SLEEPER: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 144) (i32.const 1))
        (i64.store (i32.const 152) (i64.const 60000000))
        (if (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)) (then (unreachable)))))"#;

#[tokio::test]
async fn time_on_a_processor_is_counted_and_waiting_is_not() {
    for (abi, module) in echoes() {
        let rig = Rig::with(module, |definition| {
            definition.timeout_seconds = 60.0;
            definition.budget.cpu_ms = Some(30);
        });
        let attempt = rig.call("hello").await;
        assert_eq!(attempt.result.unwrap().body, "hello", "{abi:?}");
        assert!(attempt.cpu > Duration::ZERO, "{abi:?}");
        let attempt = rig.call("s").await;
        let failure = attempt.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::Fuel, "{abi:?}: {failure}");
        assert_eq!(&*failure.message, "the guest used up its budget: 30 ms on a processor");
        assert!(attempt.cpu > Duration::from_millis(30), "{abi:?}: {:?}", attempt.cpu);
    }
    let sleeper = Bytes::from(wat::parse_str(SLEEPER).unwrap());
    let attempt = Rig::with(sleeper, |definition| definition.budget.cpu_ms = Some(30)).call("").await;
    assert!(attempt.result.is_ok(), "{:?}", attempt.result);
    assert!(attempt.run >= Duration::from_millis(60) && attempt.cpu < attempt.run, "{:?}", attempt.cpu);
}

#[tokio::test]
async fn calls_of_the_host_are_added_up_and_end_with_their_budget() {
    let rig = |budget: Budget| {
        work::rig(|definition| {
            work::granted(definition);
            definition.budget = budget;
        })
    };
    let call = async |budget: Budget, times: usize| {
        let (rig, _fakes) = rig(budget);
        rig.call("enqueue thumbs hello\n".repeat(times).trim_end().to_owned()).await
    };
    let unlimited = call(Budget::default(), 200).await;
    assert_eq!(unlimited.effects.events.len(), 200);
    let detail = unlimited.detail.unwrap();
    assert_eq!((detail.host_ops.len(), detail.host_ops_truncated), (128, true));
    let [calls] = &detail.host_calls[..] else { panic!("{:?}", detail.host_calls) };
    assert_eq!((&*calls.op, calls.count, calls.failed, calls.bytes), ("enqueue", 200, 0, 1000));

    for (budget, enough, message) in [
        (Budget { host_calls: Some(3), ..Budget::default() }, 3, "host call 4 of 3"),
        (Budget { host_bytes: Some(10), ..Budget::default() }, 2, "host byte 15 of 10"),
    ] {
        assert!(call(budget, enough).await.result.is_ok(), "{budget:?}");
        let attempt = call(budget, 10).await;
        let failure = attempt.result.unwrap_err();
        assert_eq!((failure.code, attempt.effects.len()), (FailureCode::Fuel, 0), "{failure}");
        assert!(failure.message.ends_with(message), "{failure}");
        assert_eq!(attempt.detail.unwrap().host_calls[0].count, enough as u64 + 1, "it went no further");
    }
}

#[tokio::test]
async fn fuel_that_was_used_is_told() {
    let rig = Rig::with(guest("steer.component.wat"), |definition| definition.max_fuel = Some(1_000_000));
    let used = rig.call("hello").await.fuel_used.unwrap();
    assert!((1..1_000_000).contains(&used), "{used}");
    assert_eq!(rig.call("hello").await.fuel_used, Some(used));
    assert_eq!(Rig::new(guest("steer.component.wat")).call("hello").await.fuel_used, None);
}
