//! Jobs, timers and progress asked for by a component.

use trigger_core::{Cancelled, Progress};

use super::fakes::Fakes;
use super::*;
use crate::executor::Machine;

pub(super) fn rig(change: impl FnOnce(&mut Definition)) -> (Rig, Arc<Fakes>) {
    let fakes = Arc::new(Fakes::default());
    let source = Arc::new(Modules { modules: vec![guest("work.component.wasm")], asked: AtomicU32::new(0) });
    let config = ExecutorConfig { max_instances: 2, ..ExecutorConfig::default() };
    let executor = WasmExecutor::on(Machine::new(config).unwrap(), source.clone(), fakes.services()).unwrap();
    let version = version(&executor, &source.modules[0], change);
    (Rig { executor, source, version }, fakes)
}

pub(super) fn granted(definition: &mut Definition) {
    definition.allow.jobs = vec!["thumbs".to_owned()];
    definition.allow.timers = vec!["reminders".to_owned()];
}

fn lines(attempt: &Attempt) -> Vec<String> {
    let body = &attempt.result.as_ref().unwrap().body;
    std::str::from_utf8(body).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_component_enqueues_and_sets_and_takes_back() {
    let (rig, fakes) = rig(granted);
    *fakes.answer.lock().unwrap() = Some(Cancelled::Asked);
    let said = "enqueue thumbs key=a after=50 hello\nset reminders 7 1000 again\ncancel-timer reminders 8\n\
                enqueue thumbs\ncancel-job last";
    let attempt = rig.call(said).await;
    let answers = lines(&attempt);
    let events = &attempt.effects.events;
    assert_eq!(events.len(), 2, "{answers:?}");
    assert_eq!((answers[0].parse().ok(), answers[1].as_str()), (Some(events[0].invocation_id), "Ok(())"));
    assert_eq!((answers[2].as_str(), answers[4].as_str()), ("Ok(Cancelled::Asked)", "Ok(Cancelled::Cancelled)"));
    assert_eq!((&events[0].payload[..], &events[1].payload[..]), (&b"hello"[..], &b"again"[..]));
    assert_eq!(*fakes.cancelled.lock().unwrap(), ["reminders/8"]);
    let ops = attempt.detail.unwrap().host_ops;
    let ops: Vec<(&str, &str)> = ops.iter().map(|op| (op.op.as_ref(), op.target.as_str())).collect();
    assert_eq!(ops[..3], [("enqueue", "thumbs"), ("set-timer", "reminders/7"), ("cancel-timer", "reminders/8")]);
}

#[tokio::test]
async fn a_component_is_denied_what_its_definition_does_not_grant() {
    let (rig, fakes) = rig(|_| {});
    let attempt = rig.call("enqueue thumbs\nset reminders 7 0\ncancel-timer reminders 7").await;
    for line in lines(&attempt) {
        assert!(line.contains("Denied") && line.contains("functions.function.allow."), "{line}");
    }
    assert!(attempt.effects.is_empty() && fakes.cancelled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_failed_attempt_asked_for_is_dropped() {
    let (rig, _) = rig(granted);
    let attempt = rig.call("enqueue thumbs hello\nset reminders 7 0\nfail").await;
    assert_eq!(attempt.result.unwrap_err().code, FailureCode::GuestError);
    assert!(attempt.effects.is_empty());
    assert_eq!(attempt.detail.unwrap().host_ops.len(), 2, "its trace still tells of it");
}

#[tokio::test]
async fn progress_is_told_while_the_guest_runs() {
    let (rig, _) = rig(|definition| definition.timeout_seconds = 60.0);
    let (sender, mut told) = tokio::sync::watch::channel(Progress::default());
    let event = event(Kind::Job, "progress 40 two of five\nspin");
    let deadline = Instant::now() + Duration::from_secs(60);
    tokio::select! {
        _ = rig.executor.attempt(&rig.version, &event, deadline, Some(sender)) => panic!("it spins"),
        changed = told.changed() => changed.unwrap(),
    }
    assert_eq!(*told.borrow(), Progress { percent: 40.0, note: "two of five".to_owned() });
}

#[tokio::test]
async fn a_panic_of_the_host_ends_the_call_that_it_was_for_and_no_other() {
    let (rig, _) = rig(|definition| definition.allow.jobs = vec!["thumbs".to_owned(), "mistake".to_owned()]);
    // More of them than there are instances: each gives its own back.
    for _ in 0..10 {
        let (panicked, other) =
            tokio::join!(rig.call("enqueue thumbs hello\nenqueue mistake secret"), rig.call("enqueue thumbs hello"),);
        let failure = panicked.result.unwrap_err();
        assert_eq!((failure.code, failure.retryable), (FailureCode::HostError, true));
        assert_eq!(&*failure.message, "the engine failed while it ran the guest");
        assert!(panicked.effects.is_empty());
        assert_eq!((other.result.is_ok(), other.effects.events.len()), (true, 1));
    }
    assert_eq!(rig.executor.panics(), 10);
}
