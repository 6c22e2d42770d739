//! The pub/sub trigger on a real NATS server, in front of a dispatch that answers as told.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::stream::{Config as StreamConfig, Stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde_json::{Value, json};
use trigger_core::testing::FakeDispatch;
use trigger_core::{
    Answer, Custody, Failure, FailureCode, InvocationContext, Kind, Response, Shed, Trigger as _, TriggerContext,
    TriggerKind as _,
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

async fn client(server: &Server) -> Client {
    async_nats::connect(server.url()).await.unwrap()
}

async fn publish(client: &Client, subject: &'static str, payload: impl Into<String>) {
    client.publish(subject, Bytes::from(payload.into())).await.unwrap();
}

/// A stream `WORK` of `work.>`.
async fn work(server: &Server) -> (jetstream::Context, Stream) {
    let js = jetstream::new(client(server).await);
    let config = StreamConfig { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    let stream = js.create_stream(config).await.unwrap();
    (js, stream)
}

async fn put(js: &jetstream::Context, payload: impl Into<String>) {
    js.publish("work.item", Bytes::from(payload.into())).await.unwrap().await.unwrap();
}

/// The trigger's consumer, once it is there.
async fn consumer(stream: &Stream) -> Option<Info> {
    let consumer: PullConsumer = stream.get_consumer("steer").await.ok()?;
    Some(consumer.cached_info().clone())
}

async fn all_settled(stream: &Stream) {
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
