//! The engine on a real NATS server: `bus = "nats://…"`.

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::support::engine::Project;
use crate::support::nats::Server;
use crate::support::{eventually, within};

const FUNCTIONS: &str = r#"
[functions.steer]
module = "steer.wasm"
retry_count = 1
retry_delay_seconds = 0.05
dlq_topic = "dead.steer"
[[functions.steer.triggers]]
type = "pubsub"
subject = "steer.>"
"#;

fn project(url: &str, functions: &str) -> Project {
    let project = Project::new(&format!("bus = \"{url}\""), functions);
    project.guest("steer.wat", "steer.wasm");
    project
}

#[tokio::test]
async fn any_client_publishes_and_the_dead_letter_arrives_on_its_topic() {
    let server = Server::own(true);
    let project = project(server.url(), FUNCTIONS);
    let _engine = project.serve().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut topic = client.subscribe("dead.steer").await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    client.publish_with_headers("steer.me", headers, Bytes::from_static(b"f")).await.unwrap();
    let dead = within("the dead letter", topic.next()).await.unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&dead.payload).unwrap();
    assert_eq!(envelope["data"]["reason"], "retries_exhausted");
    let headers = dead.headers.unwrap();
    let traceparent = headers.get("traceparent").unwrap().as_str().to_owned();
    assert!(
        traceparent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
        "one trace from the event to its dead letter"
    );
    assert_eq!(headers.get("Tripline-Depth").unwrap().as_str(), "1");
    assert!(headers.get("Nats-Msg-Id").is_some());

    client.publish("steer.me", Bytes::from_static(b"hello")).await.unwrap();
    eventually("the good one", async || project.attempts("steer").await.iter().any(|(_, word)| word == "ok")).await;
    // The function's answer to a request is published to its reply subject.
    let reply = within("the reply", client.request("steer.ask", Bytes::from_static(b"echo"))).await.unwrap();
    assert_eq!(reply.payload, "echo");
}

#[tokio::test]
async fn a_dead_letter_waits_in_the_outbox_until_the_bus_takes_it() {
    let mut server = Server::own(true);
    let functions = format!(
        "{FUNCTIONS}\n[[functions.steer.triggers]]\ntype = \"http\"\nmethod = \"POST\"\npath = \"/later\"\nmode = \"async\"\n"
    );
    let project = project(server.url(), &functions);
    let _engine = project.serve().await;
    server.kill();
    project.post("/later", "f").await;
    eventually("the dead letter", async || {
        project.json(&["dlq", "list"])["items"][0]["published"] == serde_json::json!(false)
    })
    .await;
    server.restart();
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut topic = client.subscribe("dead.steer").await.unwrap();
    client.flush().await.unwrap();
    within("the dead letter on its topic", topic.next()).await.unwrap();
    eventually("the list to say so", async || {
        project.json(&["dlq", "list"])["items"][0]["published"] == serde_json::json!(true)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_away_at_start_is_waited_for() {
    let mut server = Server::own(true);
    server.kill();
    let project = project(server.url(), FUNCTIONS);
    let _engine = project.serve().await;
    let ready = project.admin("/health/ready").await;
    assert!(ready["degraded"].to_string().contains("bus"), "{ready}");
    server.restart();
    let client = async_nats::connect(server.url()).await.unwrap();
    eventually("a message to run", async || {
        client.publish("steer.me", Bytes::from_static(b"hello")).await.unwrap();
        !project.attempts("steer").await.is_empty()
    })
    .await;
    eventually("health to recover", async || project.admin("/health/ready").await["degraded"] == serde_json::json!([]))
        .await;
}

#[tokio::test]
async fn jetstream_messages_survive_kill_9_of_the_engine() {
    let server = Server::own(true);
    let client = async_nats::connect(server.url()).await.unwrap();
    let js = async_nats::jetstream::new(client.clone());
    let config = async_nats::jetstream::stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    let functions = FUNCTIONS.replace(
        "subject = \"steer.>\"",
        "stream = \"WORK\"\nconsumer = \"steer\"\nack_wait_seconds = 2\nmax_in_flight = 8",
    );
    let project = project(server.url(), &functions);
    let engine = project.serve().await;
    for number in 0..300 {
        js.publish("work.item", Bytes::from(format!("item {number}"))).await.unwrap().await.unwrap();
        if number == 150 {
            engine.signal(rustix::process::Signal::KILL);
        }
    }
    drop(engine);
    let _engine = project.serve().await;
    let mut stream = js.get_stream("WORK").await.unwrap();
    eventually("every message to be acknowledged", async || {
        let mut consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer("steer").await.unwrap();
        let info = consumer.info().await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    assert_eq!(stream.info().await.unwrap().state.messages, 300);

    // One that fails is delivered again by the server, and given up on by the policy.
    js.publish("work.item", Bytes::from_static(b"f")).await.unwrap().await.unwrap();
    eventually("the dead letter", async || !project.json(&["dlq", "list"])["items"].as_array().unwrap().is_empty())
        .await;
    let dead = &project.json(&["dlq", "list"])["items"][0];
    assert_eq!((&dead["attempts"], &dead["reason"]), (&2.into(), &"retries_exhausted".into()));
    let id = dead["invocation_id"].as_str().unwrap();
    let shown = project.json(&["dlq", "show", id]);
    assert_eq!(shown["data"]["position"]["stream"], "WORK");
    assert_eq!(shown["data"]["position"]["sequence"], "301");
}

#[tokio::test]
async fn a_stream_that_is_kept_has_an_order_by_key_and_a_key_that_fails_is_held_up_alone() {
    let server = Server::own(true);
    let js = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = async_nats::jetstream::stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        ..Default::default()
    };
    let stream = js.create_stream(config).await.unwrap();
    let functions = FUNCTIONS
        .replace(
            "subject = \"steer.>\"",
            "stream = \"WORK\"\nconsumer = \"steer\"\nack_wait_seconds = 1\ndurable = true\nordering_key = { subject_token = 2 }\n\
             dedup_key = { header = \"Order-Id\" }",
        )
        .replace("retry_delay_seconds = 0.05", "retry_delay_seconds = 8\nretry = { jitter = \"none\" }");
    let project = project(server.url(), &functions);
    let engine = project.serve().await;
    let put = async |subject: &str, id: &str, payload: String| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Order-Id", id);
        js.publish_with_headers(subject.to_owned(), headers, payload.into()).await.unwrap().await.unwrap();
    };
    put("work.poison", "p", "f".to_owned()).await;
    eventually("the first attempt", async || project.attempts("steer").await == [(1, "retry".to_owned())]).await;
    engine.kill();
    for number in 0..20 {
        put("work.poison", &format!("p{number}"), format!("poison {number}")).await;
        for key in ["a", "b"] {
            // Each is sent twice: the second one is the first.
            put(&format!("work.{key}"), &format!("{key}{number}"), format!("{key} {number}")).await;
            put(&format!("work.{key}"), &format!("{key}{number}"), format!("{key} {number} again")).await;
        }
    }
    let _engine = project.serve().await;
    let mut consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer("steer").await.unwrap();
    eventually("everything to be done", async || {
        let info = consumer.info().await.unwrap();
        (info.num_pending, info.num_ack_pending) == (0, 0)
            && project.metric("tripline_queue_depth", &[]).await == 0
            && project.metric("tripline_dead_letters", &[]).await == 1
            && project.metric("tripline_ledger_drift", &[]).await == 0
    })
    .await;
    // Each message ran once, and its duplicate did not.
    let ledger = &project.json(&["ledger"])["items"][0];
    let ended = ledger["ended"].as_array().unwrap();
    let ok = ended.iter().find(|end| end["outcome"] == "ok").unwrap();
    assert_eq!(ok["count"], 60, "{ledger}");
    let traces = project.admin("/api/v1/traces?function=steer&limit=1000").await;
    let mut ran: Vec<(String, String)> = traces["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|trace| trace["outcome"] == "ok")
        .map(|trace| (trace["started_at"].as_str().unwrap().to_owned(), trace["subject"].as_str().unwrap().to_owned()))
        .collect();
    ran.sort();
    let died = traces["items"].as_array().unwrap().iter().find(|trace| trace["outcome"] == "dead").unwrap();
    let first_behind = ran.iter().find(|(_, subject)| subject == "work.poison").unwrap();
    let died = died["started_at"].as_str().unwrap();
    assert!(*first_behind.0 >= *died, "its key waited for it, over its retries: {first_behind:?} {died}");
    assert!(*ran[0].0 < *died && ran[0].1 != "work.poison", "the others did not: {:?} {died}", ran[0]);
}

#[tokio::test]
async fn doctor_names_what_of_a_stream_cannot_hold_what_is_promised() {
    use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
    let server = Server::own(true);
    let js = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let loose = Config {
        name: "LOOSE".into(),
        subjects: vec!["loose.>".into()],
        storage: StorageType::Memory,
        discard: DiscardPolicy::Old,
        max_messages: 100,
        ..Default::default()
    };
    js.create_stream(loose).await.unwrap();
    let functions = format!(
        "{FUNCTIONS}\n[[functions.steer.triggers]]\ntype = \"pubsub\"\nstream = \"LOOSE\"\nconsumer = \"c\"\n\
         [[functions.steer.triggers]]\ntype = \"pubsub\"\nstream = \"GONE\"\nconsumer = \"c\"\n"
    );
    let project = project(server.url(), &functions);
    let engine = project.serve().await;
    eventually("the missing stream to be noticed", async || {
        project.admin("/api/v1/triggers").await["items"][2]["degraded"].is_string()
    })
    .await;
    let output = project.run(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    for found in [
        "default/steer/pubsub-2: stream \"LOOSE\" is kept in memory: a restart of the server loses its messages\n    keep it in files",
        "default/steer/pubsub-2: stream \"LOOSE\" drops its oldest messages over 100 messages, run or not\n    refuse new",
        "default/steer/pubsub-3: the server has no stream \"GONE\"",
    ] {
        assert!(told.contains(found), "{told}");
    }
    assert!(!told.contains("steer/pubsub:"), "nothing is found of a subject: {told}");
    assert!(engine.stop().await.success());

    let sound = self::project(server.url(), FUNCTIONS);
    let _engine = sound.serve().await;
    let output = sound.run(&["doctor"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sound.json(&["doctor"])["items"], serde_json::json!([]));
}
