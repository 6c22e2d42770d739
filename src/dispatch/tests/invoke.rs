//! Functions that call functions: in their caller's place, and never waiting for it.

use std::sync::OnceLock;
use std::time::Instant;

use super::*;
use crate::executor::Functions;

/// A rig whose function calls itself until it is as deep as its payload says, and answers what it was answered.
async fn recursive(change: impl FnOnce(&mut Definition), settings: Settings) -> Rig {
    let functions: Arc<OnceLock<Arc<Dispatcher>>> = Arc::default();
    let called = functions.clone();
    let executor = NativeExecutor::new(move |invocation: &InvocationContext| {
        let (functions, invocation) = (called.clone(), invocation.clone());
        Box::pin(async move {
            let depth: u32 = std::str::from_utf8(&invocation.payload).unwrap().parse().unwrap();
            if invocation.depth >= depth {
                return native_attempt(Ok(Response::from(Bytes::from_static(b"the bottom"))));
            }
            let dispatcher = functions.get().unwrap();
            let mut event =
                dispatcher.event("default", "function", Custody::Caller, invocation.payload.clone()).unwrap();
            event.caused_by(&invocation);
            let result = match dispatcher.invoke(event, Instant::now() + Duration::from_secs(60)).await {
                Answer::Ok(response) => Ok(response),
                Answer::Failed(failure) => Err(failure),
                other => Err(Failure::new(FailureCode::GuestError, format!("{other:?}"))),
            };
            native_attempt(result)
        })
    });
    let mut definition = definition();
    change(&mut definition);
    let rig = Rig::new(definition, settings, executor).await;
    let _ = functions.set(rig.dispatcher.clone());
    rig
}

fn one_slot() -> Settings {
    Settings { max_concurrency: 1, max_waiting: 0, ..Settings::default() }
}

fn down_to(depth: u32) -> InvocationContext {
    InvocationContext::new(binding(Kind::Pubsub), Custody::Caller, depth.to_string().into())
}

#[tokio::test]
async fn a_call_needs_no_slot_that_its_caller_has() {
    let rig = recursive(|_| {}, one_slot()).await;
    let Answer::Ok(response) = rig.dispatcher.dispatch(down_to(5)).await else { panic!("it ends") };
    assert_eq!(response.body, "the bottom");
    let mut records = rig.ring.recent(100);
    records.reverse();
    let told: Vec<(u32, &str, &str)> =
        records.iter().map(|record| (record.depth, &*record.binding.trigger_id, record.outcome.as_str())).collect();
    assert_eq!(told.len(), 6, "each is an invocation of its own: {told:?}");
    assert_eq!((told[0], told[5]), ((5, "invoke", "ok"), (0, "trigger", "ok")));
    for (inner, outer) in records.iter().zip(&records[1..]) {
        assert_eq!((inner.parent, inner.trace_id), (Some(outer.invocation_id), outer.trace_id));
        assert_eq!(inner.parent_span, outer.span_id);
    }
}

#[tokio::test]
async fn a_function_that_is_full_of_its_own_callers_is_busy_at_once() {
    let rig = recursive(|definition| definition.concurrency = Some(2), one_slot()).await;
    assert!(matches!(rig.dispatcher.dispatch(down_to(1)).await, Answer::Ok(_)));
    let Answer::Failed(failure) = rig.dispatcher.dispatch(down_to(2)).await else { panic!("it is refused") };
    assert!(failure.message.contains("Overload"), "{failure}");
    assert!(matches!(rig.dispatcher.dispatch(down_to(1)).await, Answer::Ok(_)), "what was held was let go of");
}

#[tokio::test]
async fn functions_that_call_each_other_without_end_are_stopped_by_their_depth() {
    let rig = recursive(|_| {}, Settings { max_depth: 4, ..one_slot() }).await;
    let Answer::Failed(failure) = rig.dispatcher.dispatch(down_to(u32::MAX)).await else { panic!("it is stopped") };
    assert_eq!(failure.code, FailureCode::Denied);
    assert!(failure.message.contains("5 functions deep, the limit is 4"), "{failure}");
}

#[tokio::test]
async fn a_private_function_can_be_called_by_a_function() {
    let rig = recursive(|definition| definition.is_public = false, one_slot()).await;
    assert!(matches!(rig.dispatcher.dispatch(down_to(1)).await, Answer::Ok(_)));
}
