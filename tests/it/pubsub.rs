//! The pub/sub trigger on a real NATS server, in front of a dispatch that answers as told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde_json::{Value, json};
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    Answer, Custody, DeadReason, Failure, FailureCode, InvocationContext, Kind, Response, Shed, Trigger as _,
    TriggerContext, TriggerKind as _,
};
use trigger_pubsub::{Config, Pubsub};
use tripline::bus::NatsBus;

use crate::support::nats::Server;
use crate::support::{eventually, within};

/// A trigger that runs.
struct Running {
    cx: TriggerContext,
    dispatch: Arc<FakeDispatch>,
}

/// A bus, and the kind over it.
async fn kind(server: &Server) -> Pubsub {
    let bus = Arc::new(NatsBus::connect(server.url().parse().unwrap()).await.unwrap());
    let nats = bus.clone();
    Pubsub::new(bus, Some(Arc::new(move || nats.client())))
}

async fn run_on(kind: &Pubsub, section: &Value, dispatch: Arc<FakeDispatch>) -> Running {
    let cx = dispatch.context(Kind::Pubsub, "messages");
    let config: Config = serde_json::from_value(section.clone()).unwrap();
    let trigger = kind.bind(config, cx.binding.clone()).await.unwrap();
    let run = cx.clone();
    cx.tasks.spawn(async move { trigger.run(run).await.unwrap() });
    Running { cx, dispatch }
}

async fn run(server: &Server, section: Value, dispatch: Arc<FakeDispatch>) -> Running {
    run_on(&kind(server).await, &section, dispatch).await
}

impl Running {
    /// Asks it to stop, and waits until everything it took is answered.
    async fn stop(&self) {
        self.cx.shutdown.cancel();
        self.cx.tasks.close();
        within("the trigger to stop", self.cx.tasks.wait()).await;
    }

    fn seen(&self) -> Vec<InvocationContext> {
        self.dispatch.seen()
    }
}

fn guest_error() -> Failure {
    Failure::new(FailureCode::GuestError, "no")
}

async fn client(server: &Server) -> Client {
    async_nats::connect(server.url()).await.unwrap()
}

async fn publish(client: &Client, subject: &'static str, payload: impl Into<String>) {
    client.publish(subject, Bytes::from(payload.into())).await.unwrap();
}

/// A stream `WORK` of `work.>`.
async fn work(server: &Server) -> (jetstream::Context, stream::Stream) {
    let js = jetstream::new(client(server).await);
    let config = stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    let stream = js.create_stream(config).await.unwrap();
    (js, stream)
}

async fn put(js: &jetstream::Context, payload: impl Into<String>) {
    js.publish("work.item", Bytes::from(payload.into())).await.unwrap().await.unwrap();
}

/// The trigger's consumer, once it is there.
async fn consumer(stream: &stream::Stream) -> Option<Info> {
    let consumer: PullConsumer = stream.get_consumer("steer").await.ok()?;
    Some(consumer.cached_info().clone())
}

async fn all_settled(stream: &stream::Stream) {
    eventually("every message to be settled", async || {
        consumer(stream).await.is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    })
    .await;
}

fn steer() -> Value {
    json!({ "stream": "WORK", "consumer": "steer", "ack_wait_seconds": 1 })
}

#[tokio::test]
async fn a_message_reaches_the_function_as_it_was_sent() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let of_subject = run(&server, json!({ "subject": "work.*.>" }), FakeDispatch::echo()).await;
    let of_stream = run(&server, steer(), FakeDispatch::echo()).await;
    let mut headers = HeaderMap::new();
    headers.append("X-Many", "one");
    headers.append("X-Many", "two");
    headers.insert("Content-Type", "application/octet-stream");
    headers.insert("Nats-Msg-Id", "id-1");
    headers.insert("Tripline-Depth", "2");
    headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let payload = Bytes::from_static(b"\x00\xff");
    let ack = js.publish_with_headers("work.a.b", headers, payload.clone()).await.unwrap().await.unwrap();
    all_settled(&stream).await;
    eventually("the subject's message", async || of_subject.seen().len() == 1).await;
    let [of_subject, of_stream] = [&of_subject.seen()[0], &of_stream.seen()[0]];
    for event in [of_subject, of_stream] {
        assert_eq!((&*event.subject, &event.payload), ("work.a.b", &payload));
        assert_eq!(event.content_type.as_deref(), Some("application/octet-stream"));
        assert_eq!((event.idempotency_key.as_deref(), event.depth, event.attempt), (Some("id-1"), 2, 1));
        assert_eq!(event.trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        let many: Vec<&[u8]> = event.headers.iter().filter(|(name, _)| *name == "X-Many").map(|(_, v)| v).collect();
        assert_eq!(many, [&b"one"[..], b"two"]);
    }
    assert_eq!((of_subject.custody, of_stream.custody), (Custody::Engine, Custody::Source));
    for (name, value) in [("stream", "WORK"), ("consumer", "steer"), ("sequence", "1"), ("delivered", "1")] {
        assert_eq!(of_stream.attribute(name), Some(value), "{name}");
    }
    let stored = stream.get_raw_message(ack.sequence).await.unwrap();
    let timestamp: chrono::DateTime<chrono::Utc> = of_stream.attribute("timestamp").unwrap().parse().unwrap();
    assert_eq!(timestamp, stored.time);
}

#[tokio::test]
async fn engines_of_one_queue_group_share_a_subject() {
    let server = Server::shared();
    let section = json!({ "subject": "orders.*.created", "queue_group": "billing" });
    let one = run(&server, section.clone(), FakeDispatch::echo()).await;
    let other = run(&server, section, FakeDispatch::echo()).await;
    let everything = run(&server, json!({ "subject": "orders.>" }), FakeDispatch::echo()).await;
    let client = client(&server).await;
    for _ in 0..200 {
        publish(&client, "orders.7.created", "").await;
        publish(&client, "orders.7.deleted", "").await;
    }
    eventually("every message", async || everything.seen().len() == 400).await;
    eventually("each order once", async || one.seen().len() + other.seen().len() == 200).await;
    assert!(one.seen().len() > 20 && other.seen().len() > 20);
}

#[tokio::test]
async fn a_request_is_answered_with_the_output_or_with_an_error() {
    let server = Server::own(false);
    let dispatch = FakeDispatch::new(|event| match &*event.payload {
        b"fail" => Answer::Failed(Failure::new(FailureCode::Timeout, "too\nslow")),
        b"large" => Answer::Ok(Response::from(Bytes::from(vec![0; 2 << 20]))),
        b"full" => Answer::Shed { reason: Shed::Overload, retry_after: Duration::from_secs(3) },
        payload => Answer::Ok(Response::from(Bytes::copy_from_slice(payload))),
    });
    let trigger = run(&server, json!({ "subject": "ask.>" }), dispatch).await;
    let client = client(&server).await;
    let ask =
        async |payload: &'static str| within("the reply", client.request("ask.me", payload.into())).await.unwrap();
    let output = ask("hello").await;
    assert_eq!(output.payload, "hello");
    assert!(output.headers.unwrap().get("Nats-Service-Error").is_none());
    for (payload, number, word) in
        [("fail", "504", "timeout"), ("large", "500", "bad_output"), ("full", "503", "overload")]
    {
        let reply = ask(payload).await;
        let headers = reply.headers.unwrap();
        assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), number);
        assert_eq!(headers.get("Tripline-Error").unwrap().as_str(), word);
        let problem: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!((&problem["code"], &problem["status"].to_string()), (&json!(word), &number.to_owned()));
    }
    assert!(trigger.seen().iter().all(|event| event.custody == Custody::Caller));
}

#[tokio::test]
async fn a_publisher_that_awaits_a_streams_acknowledgement_gets_that() {
    let server = Server::own(true);
    let (js, _stream) = work(&server).await;
    let trigger = run(&server, json!({ "subject": "work.>" }), FakeDispatch::echo()).await;
    let silent = run(&server, json!({ "subject": "work.>", "reply": false }), FakeDispatch::echo()).await;
    for number in 0..50 {
        let message = jetstream::message::PublishMessage::build().message_id(format!("id-{number}"));
        js.send_publish("work.item", message).await.unwrap().await.unwrap();
    }
    eventually("all of them", async || trigger.seen().len() == 50 && silent.seen().len() == 50).await;
    assert!(trigger.seen().iter().chain(&silent.seen()).all(|event| event.custody == Custody::Engine));
}

#[tokio::test]
async fn a_durable_message_is_committed_and_its_sender_gets_a_receipt() {
    let server = Server::own(false);
    let dispatch = FakeDispatch::echo();
    let trigger = run(&server, json!({ "subject": "keep", "durable": true }), dispatch.clone()).await;
    let client = client(&server).await;
    let reply = within("the receipt", client.request("keep", "event".into())).await.unwrap();
    let receipt: Value = serde_json::from_slice(&reply.payload).unwrap();
    let accepted = dispatch.accepted();
    assert_eq!(receipt, json!({ "invocation_id": accepted[0].invocation_id, "duplicate": false }));
    assert_eq!((accepted[0].custody, trigger.seen().len()), (Custody::Engine, 0));

    // A store that is away: a sender who waits is told, a message without one is held until it is kept.
    *dispatch.refuse.lock().unwrap() = Some(trigger_core::Refused {
        reason: Shed::StoreUnavailable,
        message: "the store is away".into(),
        retry_after: Duration::from_secs(1),
    });
    let told = within("the refusal", client.request("keep", "event".into())).await.unwrap();
    assert_eq!(told.headers.unwrap().get("Tripline-Error").unwrap().as_str(), "store_unavailable");
    publish(&client, "keep", "held").await;
    eventually("the trigger to say so", async || {
        trigger.cx.health.borrow().as_deref().is_some_and(|why| why.contains("the store is away"))
    })
    .await;
    *dispatch.refuse.lock().unwrap() = None;
    eventually("the held message", async || dispatch.accepted().iter().any(|event| event.payload == "held")).await;
    eventually("health", async || trigger.cx.health.borrow().is_none()).await;
    trigger.stop().await;
    assert_eq!(dispatch.accepted().len(), 2);
}

#[tokio::test]
async fn what_a_slow_function_misses_of_a_subject_is_counted() {
    const SENT: u64 = 70_000;
    let server = Server::own(false);
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = open.clone();
    let dispatch = FakeDispatch::new_async(move |_| {
        let gate = gate.clone();
        Box::pin(async move {
            let _ = gate.acquire().await;
            Answer::Ok(Response::default())
        })
    });
    let trigger = run(&server, json!({ "subject": "much", "max_in_flight": 2 }), dispatch.clone()).await;
    let client = client(&server).await;
    for _ in 0..SENT {
        publish(&client, "much", "").await;
    }
    client.flush().await.unwrap();
    let shed = || dispatch.shed().iter().map(|(_, events)| events).sum::<u64>();
    eventually("the loss to be counted", async || shed() >= SENT - 65_536 - 3).await;
    assert!(dispatch.shed().iter().all(|(reason, _)| *reason == Shed::SlowConsumer));
    assert_eq!(trigger.seen().len(), 2, "no more run at once than may");
    open.add_permits(SENT as usize);
    eventually("every message to have run or been counted", async || trigger.seen().len() as u64 + shed() == SENT)
        .await;
    trigger.stop().await;
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
        _ => Answer::Ok(Response::default()),
    });
    let trigger = run(&server, steer(), dispatch).await;
    put(&js, "poison").await;
    put(&js, "good").await;
    all_settled(&stream).await;
    use futures_util::StreamExt as _;
    let advisory = within("the server's word", terminated.next()).await.unwrap();
    let advisory: Value = serde_json::from_slice(&advisory.payload).unwrap();
    assert_eq!(advisory["stream_seq"], 1);
    // Longer than the stream waits for an acknowledgement.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(trigger.seen().len(), 2);
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
    let dispatch = FakeDispatch::new_async(move |_| {
        let (now, top) = (now.clone(), top.clone());
        Box::pin(async move {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
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
    assert!(pending <= 3, "{pending} were handed out at once");
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest() {
    let server = Server::own(true);
    let (js, stream) = work(&server).await;
    let cut = Arc::new(AtomicBool::new(false));
    let cutting = cut.clone();
    let dispatch = FakeDispatch::new_async(move |event| {
        let cutting = cutting.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
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
    first.stop().await;
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
async fn a_restart_of_the_server_loses_no_message() {
    let mut server = Server::own(true);
    let (js, _) = work(&server).await;
    let kind = kind(&server).await;
    let of_stream = run_on(&kind, &steer(), FakeDispatch::echo()).await;
    let of_subject = run_on(&kind, &json!({ "subject": "core.>" }), FakeDispatch::echo()).await;
    for number in 0..100 {
        put(&js, number.to_string()).await;
    }
    server.kill();
    eventually("both triggers to say so", async || {
        [&of_stream, &of_subject].iter().all(|trigger| trigger.cx.health.borrow().is_some())
    })
    .await;
    server.restart();
    let (js, client) = (jetstream::new(client(&server).await), client(&server).await);
    for number in 100..200 {
        put(&js, number.to_string()).await;
    }
    let stream = js.get_stream("WORK").await.unwrap();
    all_settled(&stream).await;
    let mut payloads: Vec<u32> = of_stream
        .seen()
        .iter()
        .map(|event| String::from_utf8(event.payload.to_vec()).unwrap().parse().unwrap())
        .collect();
    payloads.sort_unstable();
    payloads.dedup();
    assert_eq!(payloads, (0..200).collect::<Vec<_>>());
    eventually("the subject to be subscribed again", async || {
        publish(&client, "core.a", "x").await;
        !of_subject.seen().is_empty()
    })
    .await;
    eventually("health", async || [&of_stream, &of_subject].iter().all(|trigger| trigger.cx.health.borrow().is_none()))
        .await;
    of_stream.stop().await;
    of_subject.stop().await;
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
async fn a_server_that_is_away_at_first_is_no_failure_to_bind() {
    let mut server = Server::own(true);
    let (js, _stream) = work(&server).await;
    put(&js, "1").await;
    server.kill();
    let kind = kind(&server).await;
    let of_stream = run_on(&kind, &steer(), FakeDispatch::echo()).await;
    let of_subject = run_on(&kind, &json!({ "subject": "core" }), FakeDispatch::echo()).await;
    for trigger in [&of_stream, &of_subject] {
        eventually("the trigger to say so", async || trigger.cx.health.borrow().is_some()).await;
    }
    server.restart();
    let client = client(&server).await;
    eventually("both to work", async || {
        publish(&client, "core", "x").await;
        !of_stream.seen().is_empty() && !of_subject.seen().is_empty()
    })
    .await;
    for trigger in [&of_stream, &of_subject] {
        eventually("health", async || trigger.cx.health.borrow().is_none()).await;
        trigger.stop().await;
    }
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
