//! What a guest may have of the machine, in every interface: at the limit it has it, one past it it is told.

use super::*;

/// The guests that can be steered, with the tables, table elements and instances that they have of their own.
const STEERED: [(&str, usize, usize, usize); 6] = [
    ("steer.component.wat", 0, 0, 1),
    ("steer.wat", 0, 0, 1),
    ("steer.command.wat", 0, 0, 2),
    ("steer.reactor.wat", 0, 0, 1),
    ("steer.messaging.wat", 0, 0, 2),
    ("steer.http.wat", 1, 9, 3),
];

pub(super) fn text(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/guests/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A steered guest with more `fields` in its core module, which does `work` before anything else.
fn altered(name: &str, fields: &str, work: &str) -> Bytes {
    changed(&text(name), fields, work)
}

/// The same with a guest's text.
pub(super) fn changed(text: &str, fields: &str, work: &str) -> Bytes {
    let (before, after) = text.split_once("(local $first i32)\n").expect("the variable that the work begins behind");
    let (fields_before, function) = before.split_at(before.rfind("(func (export").expect("the function that does it"));
    let text = format!("{fields_before}{fields}\n{function}(local $first i32)\n{work}\n{after}");
    wat::parse_str(text).unwrap().into()
}

async fn refusal(rig: &Rig) -> String {
    rig.executor.prepare(&rig.version).await.expect_err("a refusal").to_string()
}

#[tokio::test]
async fn memory_is_given_up_to_the_last_page() {
    for (name, ..) in STEERED {
        let grown_to = |pages: u32| {
            let grow = format!("(memory.grow (i32.sub (i32.const {pages}) (memory.size)))");
            let module = altered(name, "", &format!("(if (i32.eq {grow} (i32.const -1)) (then (unreachable)))"));
            Rig::with(module, |definition| definition.memory_limit_mb = 2)
        };
        let attempt = grown_to(32).call("hello").await;
        assert_eq!(attempt.result.unwrap().body, "hello", "{name}");
        assert_eq!(attempt.memory_peak_bytes, 2 << 20, "{name}");
        assert_eq!(grown_to(33).code("hello").await, FailureCode::Memory, "{name}");
    }
}

#[tokio::test]
async fn tables_are_given_up_to_the_last_element() {
    for (name, _, own, _) in STEERED {
        let grown_to = |elements: usize| {
            let grow = format!("(table.grow $t (ref.null func) (i32.const {}))", elements - own);
            let check = format!("(if (i32.eq {grow} (i32.const -1)) (then (unreachable)))");
            Rig::new(altered(name, "(table $t 0 funcref)", &check))
        };
        assert_eq!(grown_to(100_000).call("hello").await.result.unwrap().body, "hello", "{name}");
        let failure = grown_to(100_001).call("hello").await.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::Memory, "{name}");
        assert!(failure.message.contains("100001 table elements"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn tables_and_memories_are_counted_before_anything_runs() {
    for (name, own, ..) in STEERED {
        let with = |tables: usize, memories: usize| {
            let fields = ["(table 1 funcref)\n".repeat(tables), "(memory 1)\n".repeat(memories)].concat();
            Rig::new(altered(name, &fields, ""))
        };
        assert_eq!(with(8 - own, 3).call("hello").await.result.unwrap().body, "hello", "{name}");
        let refused = refusal(&with(9 - own, 0)).await;
        assert!(refused.contains("table") && refused.contains('8'), "{name}: {refused}");
        let refused = refusal(&with(0, 4)).await;
        assert!(refused.contains("memories") && refused.contains('4'), "{name}: {refused}");
    }
}

#[tokio::test]
async fn the_instances_of_a_component_are_counted_before_anything_runs() {
    for (name, _, _, own) in
        STEERED.into_iter().filter(|(name, ..)| *name != "steer.wat" && *name != "steer.reactor.wat")
    {
        let text = text(name);
        let with = |instances: usize| {
            let more = "(core instance (instantiate $tiny))\n".repeat(instances);
            let text = text.replacen("(component\n", &format!("(component\n(core module $tiny)\n{more}"), 1);
            Rig::new(wat::parse_str(text).unwrap().into())
        };
        assert_eq!(with(64 - own).call("hello").await.result.unwrap().body, "hello", "{name}");
        let refused = refusal(&with(65 - own)).await;
        assert!(refused.contains("instances") && refused.contains("64"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_stack_that_overflows_is_a_trap_with_its_name() {
    for (name, ..) in STEERED {
        let deep = "(func $deep (param $left i32)
            (if (local.get $left) (then (call $deep (i32.sub (local.get $left) (i32.const 1))))))";
        let to = |depth: i32| Rig::new(altered(name, deep, &format!("(call $deep (i32.const {depth}))")));
        assert_eq!(to(1000).call("hello").await.result.unwrap().body, "hello", "{name}");
        let failure = to(-1).call("hello").await.result.unwrap_err();
        assert_eq!(failure.code, FailureCode::Trap, "{name}");
        assert!(failure.message.contains("call stack exhausted"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn fuel_is_the_same_every_time_and_one_unit_less_is_too_little() {
    for (name, ..) in STEERED {
        let count_down = "(loop $again
            (global.set $left (i32.sub (global.get $left) (i32.const 1))) (br_if $again (global.get $left)))";
        let first = Rig::new(altered(name, "(global $left (mut i32) (i32.const 1000))", count_down));
        let with = |fuel: u64| {
            version(&first.executor, &first.source.modules[0], |definition| {
                definition.max_fuel = Some(fuel);
            })
        };
        let call = async |fuel: u64| {
            let deadline = Instant::now() + Duration::from_secs(10);
            first.executor.attempt(&with(fuel), &event(Kind::Pubsub, "hello"), deadline, None).await
        };
        assert_eq!(call(1_000_000).await.result.unwrap().body, "hello", "{name}");
        let (mut too_little, mut enough) = (0, 1_000_000);
        while enough - too_little > 1 {
            let fuel = (too_little + enough) / 2;
            match call(fuel).await.result {
                Ok(_) => enough = fuel,
                Err(_) => too_little = fuel,
            }
        }
        assert!(enough > 1000, "{name}: {enough}");
        for _ in 0..5 {
            assert!(call(enough).await.result.is_ok(), "{name}");
            let failure = call(too_little).await.result.unwrap_err();
            assert_eq!(failure.code, FailureCode::Fuel, "{name}");
            assert_eq!(&*failure.message, format!("the guest used up its fuel, {too_little} units (max_fuel)"));
        }
        // A guest that never ends has its fuel's end before its time's.
        let deadline = Instant::now() + Duration::from_secs(60);
        let looping = first.executor.attempt(&with(10_000_000), &event(Kind::Pubsub, "s"), deadline, None).await;
        assert_eq!(looping.result.unwrap_err().code, FailureCode::Fuel, "{name}");
        // Who has no limit is not counted.
        assert_eq!(first.call("hello").await.result.unwrap().body, "hello", "{name}");
    }
}
