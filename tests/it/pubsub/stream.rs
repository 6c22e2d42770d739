//! Streams: acknowledged, retried, bounded, handed back; consumers made and taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, Custody, DeadReason, Failure, FailureCode, Refused, Response, Shed, UniqueScope};

use super::{all_settled, client, consumer, put, run, steer, work};
use crate::support::nats::Server;
use crate::support::{eventually, within};

fn guest_error() -> Failure {
    Failure::new(FailureCode::GuestError, "no")
}

#[tokio::test]
async fn a_streams_message_is_acknowledged_after_the_outcome() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = open.clone();
    let dispatch = FakeDispatch::new_async(move |event| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Answer::Ok(Response::from(event.payload))
        })
    });
    let trigger = run(&server, steer(), dispatch).await;
    for number in 0..10 {
        put(&js, number.to_string()).await;
    }
    eventually("all to be under way", async || trigger.seen().len() == 10).await;
    assert_eq!(consumer(&stream).await.unwrap().num_ack_pending, 10, "none is acknowledged before its outcome");
    open.add_permits(3);
    eventually("three acknowledgements", async || consumer(&stream).await.unwrap().num_ack_pending == 7).await;
    open.add_permits(7);
    all_settled(&stream).await;
    assert_eq!(trigger.seen().len(), 10, "each ran once");
    trigger.stop().await;
}

#[tokio::test]
async fn a_retry_comes_after_its_delay_and_counts_and_what_was_not_run_does_not() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    // The engine counts its own failed attempts by the invocation's id; so does this.
    let failed = Arc::new(AtomicU32::new(0));
    let count = failed.clone();
    let dispatch = FakeDispatch::new(move |event| match event.attempt {
        1 => Answer::Cancelled,
        2 => Answer::Shed { reason: Shed::Overload, retry_after: Duration::from_millis(300) },
        3 | 4 => {
            count.fetch_add(1, Ordering::SeqCst);
            Answer::Retry { after: Duration::from_millis(400), failure: guest_error() }
        }
        _ => Answer::Ok(Response::default()),
    });
    let trigger = run(&server, steer(), dispatch).await;
    put(&js, "x").await;
    all_settled(&stream).await;
    let seen = trigger.seen();
    assert_eq!(seen.iter().map(|event| event.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "deliveries");
    assert_eq!(failed.load(Ordering::SeqCst), 2, "failed attempts");
    assert!(seen.iter().all(|event| event.invocation_id == seen[0].invocation_id), "one invocation");
    let waits: Vec<Duration> = seen.windows(2).map(|pair| pair[1].received - pair[0].received).collect();
    for (waited, asked) in waits.iter().zip([0, 300, 400, 400]) {
        assert!(*waited >= Duration::from_millis(asked), "{waits:?}");
    }
}

#[tokio::test]
async fn a_dead_message_is_terminated_and_never_comes_again() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let mut terminated =
        client(&server).await.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.WORK.steer").await.unwrap();
    let dispatch = FakeDispatch::new(|event| match &*event.payload {
        b"poison" => Answer::Dead { reason: DeadReason::Permanent, failure: guest_error() },
        // Longer than the stream waits for an acknowledgement: the server's own clock says when that has passed.
        b"later" if event.attempt == 1 => Answer::Retry { after: Duration::from_millis(1500), failure: guest_error() },
        _ => Answer::Ok(Response::default()),
    });
    let trigger = run(&server, steer(), dispatch).await;
    put(&js, "poison").await;
    put(&js, "good").await;
    put(&js, "later").await;
    all_settled(&stream).await;
    let advisory = within("the server's word", terminated.next()).await.unwrap();
    let advisory: Value = serde_json::from_slice(&advisory.payload).unwrap();
    assert_eq!(advisory["stream_seq"], 1);
    let seen = trigger.seen();
    let came = |payload: &str| seen.iter().filter(|event| event.payload == payload).count();
    assert_eq!((came("poison"), came("good"), came("later")), (1, 1, 2));
}

#[tokio::test]
async fn a_function_may_run_three_times_as_long_as_the_stream_waits() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let dispatch = FakeDispatch::new_async(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Answer::Ok(Response::default())
        })
    });
    let trigger = run(&server, steer(), dispatch).await;
    put(&js, "long").await;
    all_settled(&stream).await;
    assert_eq!(trigger.seen().len(), 1, "it was not delivered again meanwhile");
}

#[tokio::test]
async fn a_message_whose_handler_died_is_delivered_again_as_the_same_invocation() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let dispatch = FakeDispatch::new_async(|event| {
        Box::pin(async move {
            if event.attempt == 1 {
                // As if the process had gone: no answer, and no sign of life.
                panic!("this handler dies on purpose");
            }
            Answer::Ok(Response::default())
        })
    });
    let trigger = run(&server, steer(), dispatch).await;
    put(&js, "x").await;
    all_settled(&stream).await;
    let seen = trigger.seen();
    assert_eq!((seen.len(), seen[1].attempt), (2, 2));
    assert_eq!(seen[0].invocation_id, seen[1].invocation_id);
    assert_eq!(seen[0].idempotency_token(), seen[1].idempotency_token());
    assert_eq!(seen[0].idempotency_token(), "WORK:1");
}

#[tokio::test]
async fn no_more_than_max_in_flight_are_taken_from_a_stream() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    for number in 0..60 {
        put(&js, number.to_string()).await;
    }
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now, top) = (running.clone(), most.clone());
    // Nobody goes on until as many run as may: 60 messages are 20 times three.
    let three = Arc::new(tokio::sync::Barrier::new(3));
    let dispatch = FakeDispatch::new_async(move |_| {
        let (now, top, three) = (now.clone(), top.clone(), three.clone());
        Box::pin(async move {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            three.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Answer::Ok(Response::default())
        })
    });
    let mut section = steer();
    section["max_in_flight"] = json!(3);
    section["batch"] = json!(100);
    let trigger = run(&server, section, dispatch).await;
    let mut pending = 0;
    eventually("every message to be settled", async || {
        let Some(info) = consumer(&stream).await else { return false };
        pending = pending.max(info.num_ack_pending);
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    assert_eq!((trigger.seen().len(), most.load(Ordering::SeqCst)), (60, 3));
    // The server may count an acknowledgement only after it has handed out the next message.
    assert!(pending < 30, "{pending} of 60 were handed out at once");
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let cut = Arc::new(AtomicBool::new(false));
    let cutting = cut.clone();
    let stopping = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = stopping.clone();
    let dispatch = FakeDispatch::new_async(move |event| {
        let (cutting, gate) = (cutting.clone(), gate.clone());
        Box::pin(async move {
            let _ = gate.acquire().await;
            match &*event.payload {
                b"1" => {
                    cutting.store(true, Ordering::SeqCst);
                    Answer::Cancelled
                }
                _ => Answer::Ok(Response::default()),
            }
        })
    });
    let mut section = steer();
    section["max_in_flight"] = json!(2);
    section["ack_wait_seconds"] = json!(60);
    let first = run(&server, section.clone(), dispatch).await;
    for number in 0..6 {
        put(&js, number.to_string()).await;
    }
    eventually("two to be under way", async || first.seen().len() == 2).await;
    // They end only once the trigger was asked to stop.
    let asked = first.cx.shutdown.clone();
    tokio::join!(first.stop(), async {
        asked.cancelled().await;
        stopping.add_permits(100);
    });
    assert!(cut.load(Ordering::SeqCst));
    // Long before the stream would have waited for those that were not acknowledged.
    let began = Instant::now();
    let second = run(&server, section, FakeDispatch::echo()).await;
    all_settled(&stream).await;
    assert!(began.elapsed() < Duration::from_secs(30));
    let finished = first.seen().len() - 1;
    assert_eq!(finished + second.seen().len(), 6, "what was finished did not come again, the rest did");
    assert!(second.seen().iter().any(|event| event.payload == "1"));
}

#[tokio::test]
async fn what_is_missing_on_the_server_is_named_and_waited_for() {
    let server = Server::own(true);
    let trigger = run(&server, steer(), FakeDispatch::echo()).await;
    eventually("the missing stream to be named", async || {
        trigger.cx.health.borrow().as_deref().is_some_and(|why| why.contains("no stream \"WORK\""))
    })
    .await;
    let (js, stream) = work(&server).await;
    put(&js, "1").await;
    eventually("its message", async || trigger.seen().len() == 1).await;
    assert_eq!(*trigger.cx.health.borrow(), None);
    all_settled(&stream).await;

    // A consumer that somebody deletes is made again, and begins where the manifest says.
    stream.delete_consumer("steer").await.unwrap();
    eventually("the message again", async || trigger.seen().len() == 2).await;
    put(&js, "2").await;
    eventually("the next message", async || trigger.seen().len() == 3).await;
    trigger.stop().await;
}

#[tokio::test]
async fn a_consumer_that_exists_is_taken_over_and_one_that_cannot_be_is_named() {
    use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull, push};
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    put(&js, "old").await;
    let config = pull::Config {
        durable_name: Some("steer".into()),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        max_deliver: 1,
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let trigger = run(&server, steer(), FakeDispatch::echo()).await;
    put(&js, "new").await;
    eventually("the new message", async || trigger.seen().len() == 1).await;
    assert_eq!(trigger.seen()[0].payload, "new", "its position is kept");
    let info = consumer(&stream).await.unwrap();
    assert_eq!((info.config.max_deliver, info.config.ack_wait), (-1, Duration::from_secs(1)));
    trigger.stop().await;

    let pushes =
        push::Config { durable_name: Some("pushes".into()), deliver_subject: "to.me".into(), ..Default::default() };
    stream.create_consumer(pushes).await.unwrap();
    let refused = run(&server, json!({ "stream": "WORK", "consumer": "pushes" }), FakeDispatch::echo()).await;
    eventually("the reason", async || refused.cx.health.borrow().as_deref().is_some_and(|why| why.contains("pushes")))
        .await;
    refused.stop().await;
}

#[tokio::test]
async fn a_subject_can_be_a_filter_on_a_stream() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let mut section = steer();
    section["subject"] = json!("work.*.wanted");
    let trigger = run(&server, section, FakeDispatch::echo()).await;
    for subject in ["work.a.wanted", "work.a.other", "work.b.wanted"] {
        js.publish(subject, "x".into()).await.unwrap().await.unwrap();
    }
    eventually("both", async || trigger.seen().len() == 2).await;
    all_settled(&stream).await;
    let subjects: Vec<Box<str>> = trigger.seen().iter().map(|event| event.subject.clone()).collect();
    assert_eq!(subjects, ["work.a.wanted".into(), Box::<str>::from("work.b.wanted")]);
}

#[tokio::test]
async fn a_new_consumer_begins_where_it_is_told_to() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    for number in 1..=5 {
        put(&js, number.to_string()).await;
    }
    let third = stream.get_raw_message(3).await.unwrap().time.to_rfc3339();
    for (consumer, start) in
        [("by-sequence", json!({ "start_sequence": 3 })), ("by-time", json!({ "start_time": third }))]
    {
        let mut section = json!({ "stream": "WORK", "consumer": consumer });
        section.as_object_mut().unwrap().extend(start.as_object().unwrap().clone());
        let trigger = run(&server, section, FakeDispatch::echo()).await;
        eventually("the last three", async || trigger.seen().len() == 3).await;
        let mut payloads: Vec<_> = trigger.seen().iter().map(|event| event.payload.clone()).collect();
        payloads.sort();
        assert_eq!(payloads, ["3", "4", "5"], "{consumer}");
        trigger.stop().await;
    }
}

#[tokio::test]
async fn a_confirmed_acknowledgement_asks_the_stream_for_its_word() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let mut told = client(&server).await.subscribe("$JS.ACK.>").await.unwrap();
    for double_ack in [false, true] {
        let mut section = steer();
        section["double_ack"] = json!(double_ack);
        let trigger = run(&server, section, FakeDispatch::echo()).await;
        put(&js, "x").await;
        let acknowledged = within("the acknowledgement", told.next()).await.unwrap();
        assert_eq!((&acknowledged.payload[..], acknowledged.reply.is_some()), (&b"+ACK"[..], double_ack));
        all_settled(&stream).await;
        trigger.stop().await;
    }
}

#[tokio::test]
async fn a_message_that_is_kept_is_acknowledged_once_it_is_and_not_before() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let dispatch = FakeDispatch::echo();
    let away =
        Refused { reason: Shed::StoreUnavailable, message: "away".into(), retry_after: Duration::from_millis(200) };
    *dispatch.refuse.lock().unwrap() = Some(away);
    let mut section = steer();
    section.as_object_mut().unwrap().extend(
        json!({ "durable": true, "ordering_key": { "header": "Order" }, "dedup_key": { "pointer": "/id" },
                "dedup_window_seconds": 60, "max_backlog": 7 })
        .as_object()
        .unwrap()
        .clone(),
    );
    let trigger = run(&server, section, dispatch.clone()).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Order", "seven");
    js.publish_with_headers("work.item", headers, r#"{"id": 5}"#.into()).await.unwrap().await.unwrap();
    eventually("a second delivery", async || {
        consumer(&stream).await.is_some_and(|info| info.num_redelivered == 1 && info.num_ack_pending == 1)
    })
    .await;
    *dispatch.refuse.lock().unwrap() = None;
    all_settled(&stream).await;
    let event = dispatch.accepted().remove(0);
    let terms = event.terms.as_ref().unwrap();
    let unique = terms.unique.as_ref().unwrap();
    assert_eq!(&*terms.ordering.as_ref().unwrap().key, "seven");
    assert_eq!((&*unique.key, unique.scope), ("5", UniqueScope::Period(60)));
    assert_eq!((event.custody, event.attempt), (Custody::Engine, 1), "its attempts are the store's to count");
    let (stream_name, rest) = event.idempotency_key.as_deref().unwrap().split_once(":1:").unwrap();
    assert_eq!((stream_name, event.attribute("timestamp").is_some()), ("WORK", rest.parse::<i64>().is_ok()));
    assert_eq!(dispatch.gates()[0].1.max_backlog, Some(7));
    assert_eq!(consumer(&stream).await.unwrap().config.max_ack_pending, 1, "no second one before the first is kept");
    assert!(trigger.seen().is_empty());
    trigger.stop().await;
}
