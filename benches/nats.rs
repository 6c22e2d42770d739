//! NATS through tripline beside the bare client library: the same server, the same messages, one run, interleaved.
//!
//! See `benches/README.md` for how to run it and what it needs.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]
#![allow(clippy::disallowed_methods, reason = "the bare client is not the engine")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use support::{Process, Tripline, find, free_port, median, spread, workspace};

const CORE: &str = r#"
[functions.core]
module = "GUESTS/echo.component.wasm"
[[functions.core.triggers]]
type = "pubsub"
subject = "bench.core"
"#;

const JETSTREAM: &str = r#"
[functions.jetstream]
module = "GUESTS/echo.component.wasm"
[[functions.jetstream.triggers]]
type = "pubsub"
stream = "BENCH"
consumer = "tripline"
batch = 100
"#;

#[tokio::main]
async fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let setting =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (rounds, messages) = (setting("ROUNDS", 5), setting("MESSAGES", 60_000));
    let in_venv = workspace().join(".ci/venv/bin/nats-server");
    let program = find("NATS_SERVER", "nats-server").unwrap_or(in_venv);
    let port = free_port();
    let data = workspace().join("target/bench/nats");
    let _ = std::fs::remove_dir_all(&data);
    std::fs::create_dir_all(&data).expect("a directory for the server");
    let _server = Process(
        Command::new(&program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts: tests/run installs it, or set NATS_SERVER"),
    );
    let url = format!("nats://127.0.0.1:{port}");
    let options = async_nats::ConnectOptions::new().subscription_capacity(4 << 20).retry_on_initial_connect();
    let client = options.connect(&url).await.expect("a client");
    client.flush().await.expect("the server answers");
    let engine = format!("bus = \"{url}\"");

    let tripline = Tripline::start("nats-core", &engine, CORE);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_core(&url, &client, messages).await);
        ours.push(core(&client, &tripline, messages).await);
    }
    println!("NATS core, 128 B, {messages} messages; messages/s, median (min..max)");
    println!("  bare subscriber           {}", spread(&bare));
    println!("  tripline → component      {}", spread(&ours));
    println!("  ratio {:.3}", median(ours) / median(bare));
    drop(tripline);

    let js = jetstream::new(client.clone());
    let stream = js
        .create_stream(stream::Config { name: "BENCH".into(), subjects: vec!["bench.js".into()], ..Default::default() })
        .await
        .expect("a stream");
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        stream.purge().await.expect("an empty stream");
        fill(&js, messages).await;
        bare.push(bare_pull(&stream, round, messages).await);
        let tripline = Tripline::start("nats-js", &engine, "");
        // The consumer is created by the trigger; the manifest is taken in once the clock runs.
        ours.push(pull(&tripline, &engine, messages).await);
        drop(tripline);
        let _ = stream.delete_consumer("tripline").await;
    }
    println!("JetStream pull + ack, batch 100, 128 B, {messages} messages; messages/s, median (min..max)");
    println!("  bare pull + ack           {}", spread(&bare));
    println!("  tripline → component      {}", spread(&ours));
    println!("  ratio {:.3}", median(ours) / median(bare));
}

fn payload() -> Bytes {
    Bytes::from(vec![b'x'; 128])
}

async fn publish(client: &async_nats::Client, subject: &'static str, messages: usize) {
    let payload = payload();
    for _ in 0..messages {
        client.publish(subject, payload.clone()).await.expect("the client takes it");
    }
    client.flush().await.expect("the server has them");
}

async fn bare_core(url: &str, client: &async_nats::Client, messages: usize) -> f64 {
    let receiver = async_nats::ConnectOptions::new().subscription_capacity(4 << 20);
    let receiver = receiver.connect(url).await.expect("a second client");
    let mut subscription = receiver.subscribe("bench.bare").await.expect("a subscription");
    // One message of its own: once it is back, the server knows the subscription.
    receiver.publish("bench.bare", payload()).await.expect("the client takes it");
    subscription.next().await.expect("a message");
    let began = Instant::now();
    let publishing = publish(client, "bench.bare", messages);
    let receiving = async {
        for _ in 0..messages {
            subscription.next().await.expect("a message");
        }
    };
    tokio::join!(publishing, receiving);
    messages as f64 / began.elapsed().as_secs_f64()
}

async fn core(client: &async_nats::Client, tripline: &Tripline, messages: usize) -> f64 {
    let ended = || {
        tripline.metric("tripline_invocations_total", "outcome=\"ok\"")
            + tripline.metric("tripline_invocations_total", "outcome=\"shed\"")
    };
    let before = ended();
    let shed_before = tripline.metric("tripline_invocations_total", "outcome=\"shed\"");
    let began = Instant::now();
    publish(client, "bench.core", messages).await;
    while ended() - before < messages as f64 {
        assert!(began.elapsed() < Duration::from_secs(120), "messages are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed().as_secs_f64();
    let shed = tripline.metric("tripline_invocations_total", "outcome=\"shed\"") - shed_before;
    if shed > 0.0 {
        println!("  ({shed} messages were shed)");
    }
    (messages as f64 - shed) / took
}

async fn fill(js: &jetstream::Context, messages: usize) {
    let payload = payload();
    let mut acks = Vec::with_capacity(256);
    for _ in 0..messages {
        acks.push(js.publish("bench.js", payload.clone()).await.expect("the client takes it"));
        if acks.len() == 256 {
            for ack in acks.drain(..) {
                ack.await.expect("the stream has it");
            }
        }
    }
    for ack in acks {
        ack.await.expect("the stream has it");
    }
}

async fn bare_pull(stream: &stream::Stream, round: usize, messages: usize) -> f64 {
    let name = format!("bare-{round}");
    let consumer = stream
        .create_consumer(pull::Config { durable_name: Some(name.clone()), ..Default::default() })
        .await
        .expect("a consumer");
    let began = Instant::now();
    let mut batches =
        consumer.stream().max_messages_per_batch(100).messages().await.expect("a subscription").take(messages);
    while let Some(message) = batches.next().await {
        message.expect("a message").ack().await.expect("an ack");
    }
    let rate = messages as f64 / began.elapsed().as_secs_f64();
    let _ = stream.delete_consumer(&name).await;
    rate
}

async fn pull(tripline: &Tripline, engine: &str, messages: usize) -> f64 {
    let manifest = format!(
        "[engine]\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\n{engine}\n{}",
        tripline.public,
        tripline.admin,
        JETSTREAM.replace("GUESTS", &workspace().join("tests/guests").display().to_string())
    );
    std::fs::write(tripline.directory.join("tripline.toml"), manifest).expect("the manifest is written");
    let began = Instant::now();
    let reloaded = Command::new(env!("CARGO_BIN_EXE_tripline"))
        .args(["reload", "--admin", &format!("http://127.0.0.1:{}", tripline.admin)])
        .stdout(Stdio::null())
        .status()
        .expect("tripline runs");
    assert!(reloaded.success(), "the manifest is taken in");
    while tripline.metric("tripline_invocations_total", "outcome=\"ok\"") < messages as f64 {
        assert!(began.elapsed() < Duration::from_secs(120), "messages are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    messages as f64 / began.elapsed().as_secs_f64()
}
