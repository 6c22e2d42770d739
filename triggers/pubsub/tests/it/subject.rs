//! Messages of a subject: answered, bounded, drained, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{
    Answer, Custody, Failure, FailureCode, Headers, Message, Refused, Response, Shed, TriggerKind as _,
};
use trigger_pubsub::Pubsub;

use crate::support::{FakeBus, LIMIT, Running, message, run, run_on};

/// A dispatch whose attempts wait for a permit each, and the most that waited at once.
fn gated() -> (Arc<FakeDispatch>, Arc<Semaphore>, Arc<AtomicU32>) {
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let (open, top, now) = (gate.clone(), most.clone(), Arc::new(AtomicU32::new(0)));
    let dispatch = FakeDispatch::new_async(move |_| {
        let (open, top, now) = (open.clone(), top.clone(), now.clone());
        Box::pin(async move {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            open.acquire().await.unwrap().forget();
            now.fetch_sub(1, Ordering::SeqCst);
            Answer::Ok(Response::default())
        })
    });
    (dispatch, gate, most)
}

#[tokio::test]
async fn every_message_is_an_event() {
    let trigger = run(json!({ "subject": "orders.*.created" }), FakeDispatch::echo()).await;
    for number in 0..1000 {
        trigger.bus.send(message(&format!("orders.{number}.created"), &number.to_string()));
        trigger.bus.send(message(&format!("orders.{number}.deleted"), ""));
    }
    eventually("all of them", || trigger.seen().len() == 1000).await;
    let first = &trigger.seen()[0];
    assert_eq!(
        (&*first.subject, first.payload.as_ref(), first.custody),
        ("orders.0.created", &b"0"[..], Custody::Engine)
    );
    assert_eq!((first.attempt, first.depth, first.idempotency_key.as_deref()), (1, 0, None));
    trigger.stop().await;
    assert_eq!(trigger.bus.subscribed(), 0);
}

#[tokio::test]
async fn no_more_than_max_in_flight_run_at_once() {
    let (dispatch, gate, most) = gated();
    let trigger = run(json!({ "subject": "a", "max_in_flight": 3 }), dispatch).await;
    for _ in 0..50 {
        trigger.bus.send(message("a", ""));
    }
    eventually("three to run", || trigger.seen().len() == 3).await;
    gate.add_permits(50);
    eventually("all to have run", || trigger.seen().len() == 50).await;
    trigger.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_stop_takes_nothing_more_and_answers_what_was_received() {
    let (dispatch, gate, _) = gated();
    let trigger = run(json!({ "subject": "a", "max_in_flight": 2 }), dispatch).await;
    for _ in 0..10 {
        trigger.bus.send(message("a", ""));
    }
    eventually("two to run", || trigger.seen().len() == 2).await;
    trigger.cx.shutdown.cancel();
    eventually("the subscription to end", || {
        gate.add_permits(1);
        trigger.bus.subscribed() == 0
    })
    .await;
    trigger.bus.send(message("a", "too late"));
    gate.add_permits(100);
    trigger.stop().await;
    assert_eq!(trigger.seen().len(), 10);
    assert!(trigger.seen().iter().all(|event| event.payload.is_empty()));
}

#[tokio::test]
async fn what_the_bus_dropped_is_counted_once() {
    let bus = Arc::new(FakeBus::default());
    let trigger = run_on(bus.clone(), json!({ "subject": "a" }), FakeDispatch::echo()).await;
    bus.dropped.store(5, Ordering::SeqCst);
    eventually("the first loss", || trigger.dispatch.shed() == [(Shed::SlowConsumer, 5)]).await;
    bus.dropped.store(7, Ordering::SeqCst);
    trigger.stop().await;
    assert_eq!(trigger.dispatch.shed(), [(Shed::SlowConsumer, 5), (Shed::SlowConsumer, 2)]);
}

#[tokio::test]
async fn a_bus_that_is_away_is_waited_for_and_told() {
    let bus = Arc::new(FakeBus::default());
    bus.go_away(true);
    let trigger = run_on(bus.clone(), json!({ "subject": "a" }), FakeDispatch::echo()).await;
    eventually("it to say so", || trigger.health().as_deref() == Some("the bus is away")).await;
    bus.go_away(false);
    eventually("the subscription", || bus.subscribed() == 1).await;
    bus.send(message("a", ""));
    eventually("its message", || trigger.seen().len() == 1).await;
    eventually("health", || trigger.health().is_none()).await;
    bus.go_away(true);
    eventually("it to say so again", || trigger.health().is_some()).await;
    trigger.stop().await;

    let waiting = run_on(bus, json!({ "subject": "a" }), FakeDispatch::echo()).await;
    waiting.stop().await;
}

#[tokio::test]
async fn a_bus_that_ends_the_subscription_ends_the_run() {
    let trigger = run(json!({ "subject": "a" }), FakeDispatch::echo()).await;
    trigger.bus.end();
    eventually("the reason", || trigger.health().as_deref() == Some("ended: the bus ended the subscription")).await;
}

async fn ask(trigger: &Running, payload: &str) -> Message {
    trigger.bus.request(message("ask", payload)).await
}

#[tokio::test]
async fn a_request_is_answered_once_whatever_becomes_of_it() {
    let dispatch = FakeDispatch::new(|event| match &*event.payload {
        b"fail" => Answer::Failed(Failure::new(FailureCode::GuestError, "no such order")),
        b"too large" => Answer::Failed(Failure::new(FailureCode::InputTooLarge, "too large")),
        b"large answer" => Answer::Ok(Response::from(Bytes::from(vec![b'x'; LIMIT + 1]))),
        b"cut" => Answer::Cancelled,
        payload => Answer::Ok(Response::from(Bytes::copy_from_slice(payload))),
    });
    let trigger = run(json!({ "subject": "ask" }), dispatch).await;
    let echoed = ask(&trigger, "hello").await;
    assert_eq!((echoed.payload.as_ref(), echoed.headers.get_str("Nats-Service-Error")), (&b"hello"[..], None));
    for (payload, code, word) in [
        ("fail", "500", "guest_error"),
        ("too large", "413", "input_too_large"),
        ("large answer", "500", "bad_output"),
        ("cut", "503", "cancelled"),
    ] {
        let reply = ask(&trigger, payload).await;
        assert_eq!(reply.headers.get_str("Nats-Service-Error-Code"), Some(code), "{payload}");
        assert_eq!(reply.headers.get_str("Tripline-Error"), Some(word), "{payload}");
    }
    assert!(trigger.seen().iter().all(|event| event.custody == Custody::Caller));
    let ids: Vec<String> = trigger.seen().iter().map(|event| event.invocation_id.to_string()).collect();
    assert_eq!(echoed.headers.get_str("Tripline-Invocation"), Some(&*ids[0]));
    trigger.stop().await;
}

#[tokio::test]
async fn a_reply_subject_that_awaits_something_else_is_left_alone() {
    let identified = Headers::List(vec![("Nats-Msg-Id".into(), Bytes::from_static(b"1"))]);
    for (section, headers) in
        [(json!({ "subject": "ask" }), identified), (json!({ "subject": "ask", "reply": false }), Headers::None)]
    {
        let trigger = run(section, FakeDispatch::echo()).await;
        let listener = run_on(trigger.bus.clone(), json!({ "subject": "reply.>" }), FakeDispatch::echo()).await;
        trigger.bus.send(Message { reply: Some("reply.here".into()), headers, ..message("ask", "x") });
        eventually("the event", || trigger.seen().len() == 1).await;
        trigger.stop().await;
        assert_eq!(trigger.seen()[0].custody, Custody::Engine);
        assert!(listener.seen().is_empty());
    }
}

fn store_is_away() -> Refused {
    Refused { reason: Shed::StoreUnavailable, message: "the store is away".into(), retry_after: Duration::from_secs(1) }
}

#[tokio::test]
async fn a_durable_message_is_kept_or_its_sender_is_told() {
    let trigger = run(json!({ "subject": "ask", "durable": true }), FakeDispatch::echo()).await;
    let headers = Headers::List(vec![("nats-msg-id".into(), Bytes::from_static(b"1"))]);
    trigger.bus.send(Message { headers: headers.clone(), ..message("ask", "event") });
    trigger.bus.send(Message { headers, ..message("ask", "event") });
    let receipt = ask(&trigger, "other").await;
    let accepted = trigger.dispatch.accepted();
    assert_eq!(accepted.len(), 2, "the same id is the same event");
    assert_eq!(accepted[0].idempotency_key.as_deref(), Some("1"));
    let receipt: Value = serde_json::from_slice(&receipt.payload).unwrap();
    assert_eq!(receipt, json!({ "invocation_id": accepted[1].invocation_id, "duplicate": false }));

    *trigger.dispatch.refuse.lock().unwrap() = Some(store_is_away());
    let told = ask(&trigger, "x").await;
    assert_eq!(told.headers.get_str("Tripline-Error"), Some("store_unavailable"));
    assert_eq!(told.headers.get_str("Retry-After"), Some("1"));
    trigger.bus.send(message("ask", "held"));
    eventually("it to say so", || trigger.health().is_some_and(|why| why.contains("the store is away"))).await;
    *trigger.dispatch.refuse.lock().unwrap() = None;
    eventually("the held message", || trigger.dispatch.accepted().iter().any(|event| event.payload == "held")).await;
    eventually("health", || trigger.health().is_none()).await;
    assert!(trigger.seen().is_empty(), "nothing is run before it is kept");
    trigger.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_store_that_is_away() {
    let trigger = run(json!({ "subject": "a", "durable": true }), FakeDispatch::echo()).await;
    *trigger.dispatch.refuse.lock().unwrap() = Some(store_is_away());
    trigger.bus.send(message("a", "x"));
    eventually("it to say so", || trigger.health().is_some()).await;
    trigger.stop().await;
}

#[tokio::test]
async fn depth_parent_and_trace_arrive_with_the_message() {
    let trigger = run(json!({ "subject": "a" }), FakeDispatch::echo()).await;
    let parent = "0197a3a0-0000-7000-8000-000000000001";
    let list = [
        ("Tripline-Depth", "4"),
        ("Tripline-Parent", parent),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
    ];
    let list = list.map(|(name, value)| (name.to_owned(), Bytes::from_static(value.as_bytes())));
    trigger.bus.send(Message { headers: Headers::List(list.into()), ..message("a", "") });
    eventually("the event", || trigger.seen().len() == 1).await;
    let event = &trigger.seen()[0];
    assert_eq!((event.depth, event.parent.unwrap().to_string().as_str()), (4, parent));
    assert_eq!((event.trace.parent_span, event.trace.state.as_deref()), (0xb7ad_6b71_6920_3331, Some("a=b")));
    trigger.stop().await;
}

#[tokio::test]
async fn what_was_not_checked_is_refused_by_name_when_it_is_bound() {
    let binding = FakeDispatch::echo().context(trigger_core::Kind::Pubsub, "messages").binding;
    for (kind, section, message) in [
        (Pubsub::new(Arc::new(FakeBus::default()), None), json!({ "subject": "a..b" }), "is not valid"),
        (Pubsub::new(Arc::new(FakeBus::default()), None), json!({ "stream": "S", "consumer": "c" }), "needs bus"),
        (Pubsub::checks_only(true), json!({ "stream": "S", "consumer": "c" }), "needs bus"),
        (Pubsub::checks_only(false), json!({ "subject": "a" }), "no bus"),
    ] {
        let config = serde_json::from_value(section).unwrap();
        let error = kind.bind(config, binding.clone()).await.err().unwrap().to_string();
        assert!(error.starts_with("default/function/messages: ") && error.contains(message), "{error}");
    }
}
