//! Faults of NATS and of the engine on it, under load: what the server acknowledged to its publisher is run, by
//! whatever happens, and how often is counted.
//!
//! A message tells its function to count under the message's number. That is done at once and in the store, so the
//! counts know every attempt and outlive every crash.

#![allow(clippy::print_stdout, reason = "how often a message ran is worth reading where a test fails")]

mod load;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;

use crate::support::cable::Cable;
use crate::support::engine::{Engine, Project};
use crate::support::eventually;
use crate::support::nats::Server;
use load::{Load, counted};

/// A stream's messages, and a trigger that has nothing to do with NATS.
const FUNCTIONS: &str = r#"
[functions.count]
module = "hosts.wasm"
allow = { kv = ["default"] }
[[functions.count.triggers]]
type = "pubsub"
stream = "WORK"
consumer = "count"
ack_wait_seconds = 2
max_in_flight = 16

[functions.beside]
module = "hosts.wasm"
[[functions.beside.triggers]]
type = "http"
method = "POST"
path = "/beside"
"#;

/// How often the server is killed, and frozen; how often the connection is cut; how often the engine is killed.
const SERVER_KILLS: u32 = 5;
const FREEZES: u32 = 3;
const CUTS: u32 = 3;
const KILLS: u32 = 20;

/// Messages that are published before and after each fault, at least.
const SOME: usize = 40;

/// A server, an engine on it, and somebody who publishes all the while.
struct Story {
    server: Server,
    project: Project,
    js: jetstream::Context,
    load: Load,
}

impl Story {
    /// `trigger` adds keys to the stream's trigger.
    async fn begin(trigger: &str) -> (Self, Engine) {
        let server = Server::own(true);
        let url = server.url().to_owned();
        Self::through(server, &url, trigger).await
    }

    /// The same, where the engine reaches the server at `url`.
    async fn through(server: Server, url: &str, trigger: &str) -> (Self, Engine) {
        let js = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        make_stream(&js).await;
        let functions = FUNCTIONS.replace("max_in_flight = 16", &format!("max_in_flight = 16\n{trigger}"));
        let project = Project::new(&format!("bus = \"{url}\""), &functions);
        project.guest("hosts.component.wasm", "hosts.wasm");
        let engine = project.serve().await;
        let load = Load::start(js.clone());
        let story = Self { server, project, js, load };
        story.load.more(SOME).await;
        (story, engine)
    }

    async fn kill_the_server(&mut self) {
        for _ in 0..SERVER_KILLS {
            self.load.more(SOME).await;
            self.server.kill();
            self.says("no connection to").await;
            self.server.restart();
            self.load.more(SOME).await;
        }
    }

    /// Waits until the stream's trigger says so.
    async fn says(&self, why: &str) {
        eventually(why, async || {
            degraded(&self.project).await.iter().any(|told| told.starts_with("trigger ") && told.contains(why))
        })
        .await;
    }

    async fn healthy(&self) {
        eventually("the engine to be well again", async || degraded(&self.project).await.is_empty()).await;
    }

    /// Waits until every message is settled, and every event has ended.
    async fn settled(&self) {
        eventually("everything to be done", async || {
            let Ok(stream) = self.js.get_stream("WORK").await else { return false };
            let Ok(consumer) = stream.get_consumer::<pull::Config>("count").await else { return false };
            let info = consumer.cached_info();
            let ledger = self.project.admin("/api/v1/ledger").await;
            let ended = |row: &serde_json::Value| row["queued"] == 0 && row["running"] == 0;
            (info.num_pending, info.num_ack_pending) == (0, 0) && ledger["items"].as_array().unwrap().iter().all(ended)
        })
        .await;
    }

    /// Waits until everything has run that is acknowledged by now.
    async fn caught_up(&self) {
        let acknowledged = self.load.acknowledged();
        eventually("what was acknowledged to run", async || {
            let runs = self.runs();
            acknowledged.iter().all(|number| runs.contains_key(number))
        })
        .await;
    }

    /// How often each message was run.
    fn runs(&self) -> BTreeMap<u32, u32> {
        let path = self.project.path(".tripline/state.db");
        let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut counts =
            store.prepare("SELECT CAST(key AS TEXT), CAST(value AS TEXT) FROM kv WHERE bucket = 'default'").unwrap();
        let number = |text: String| text.parse().unwrap();
        let rows = counts.query_map([], |row| Ok((number(row.get(0)?), number(row.get(1)?)))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Nothing that was acknowledged is lost, no message was run more often than `most` times, the books balance, and the
    /// engine works as ever.
    async fn end(&mut self, most: u32) {
        self.healthy().await;
        let next = self.load.stop().await;
        self.settled().await;
        let (acknowledged, runs) = (self.load.acknowledged(), self.runs());
        let lost: Vec<_> = acknowledged.iter().filter(|number| !runs.contains_key(number)).collect();
        assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), acknowledged.len());
        let often: Vec<_> = runs.iter().filter(|(_, times)| **times > most).collect();
        assert!(often.is_empty(), "run more than {most} times: {often:?}");
        assert_eq!(self.project.metric("tripline_dead_letters", &[]).await, 0);

        // Nothing of the fault is left: what comes now runs once.
        for number in next..next + 20 {
            self.js.publish("work.after", counted(number)).await.unwrap().await.unwrap();
        }
        self.settled().await;
        let after = self.runs();
        assert!((next..next + 20).all(|number| after.get(&number) == Some(&1)), "{:?}", after.range(next..));
        self.healthy().await;
        let ledger = self.project.json(&["ledger"]);
        assert!(ledger["items"].as_array().unwrap().iter().all(|row| row["drift"] == 0), "{ledger}");
        let doubles: u32 = runs.values().map(|times| times - 1).sum();
        println!("{} acknowledged, {} run, {doubles} times too often", acknowledged.len(), runs.len());
    }
}

/// What the engine says is wrong.
async fn degraded(project: &Project) -> Vec<String> {
    serde_json::from_value(project.admin("/health/ready").await["degraded"].clone()).unwrap()
}

/// The stream `WORK` of `work.>`.
async fn make_stream(js: &jetstream::Context) {
    let config =
        jetstream::stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    js.create_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_loses_nothing_when_its_server_is_killed_again_and_again() {
    let (mut story, _engine) = Story::begin("").await;
    story.kill_the_server().await;
    // A message that was run runs again where the server had not kept its acknowledgement.
    story.end(1 + SERVER_KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_stream_loses_and_doubles_nothing_when_its_server_is_killed_again_and_again() {
    let (mut story, _engine) = Story::begin("durable = true").await;
    story.kill_the_server().await;
    story.end(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_frozen_for_longer_than_it_waits_loses_nothing() {
    let (mut story, _engine) = Story::begin("").await;
    for _ in 0..FREEZES {
        story.server.signal(Signal::STOP);
        // Longer than it waits for an acknowledgement.
        tokio::time::sleep(Duration::from_secs(3)).await;
        story.server.signal(Signal::CONT);
        story.load.more(SOME).await;
    }
    story.end(1 + FREEZES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_or_goes_dead_is_noticed_and_made_again() {
    let server = Server::own(true);
    let cable = Cable::to(server.url().rsplit(':').next().unwrap().parse().unwrap()).await;
    let (mut story, _engine) = Story::through(server, &format!("nats://127.0.0.1:{}", cable.port), "").await;
    for _ in 0..CUTS {
        cable.cut();
        story.says("no connection to").await;
        story.load.more(SOME).await;
        cable.mend();
        story.healthy().await;
        story.load.more(SOME).await;
    }
    cable.go_dead();
    story.load.more(SOME).await;
    story.says("no connection to").await;
    assert_eq!(story.project.post("/beside", "x").await.text(), "x\n", "others are unaffected");
    cable.mend();
    story.end(1 + CUTS + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_loses_nothing_when_the_engine_is_killed_again_and_again() {
    let (mut story, mut engine) = Story::begin("").await;
    for _ in 0..KILLS {
        let ran = story.runs().len();
        eventually("some messages to run", async || story.runs().len() >= ran + 10).await;
        engine.kill();
        story.load.more(10).await;
        engine = story.project.serve().await;
    }
    story.end(1 + KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_somebody_deletes_is_told_and_made_again() {
    let (mut story, engine) = Story::begin("").await;
    story.js.get_stream("WORK").await.unwrap().delete_consumer("count").await.unwrap();
    // It may be made again before anybody looks; the log remembers. Where nothing was asked of the consumer at that
    // moment, the next request finds nobody.
    let told = ["degraded: the consumer was deleted", "degraded: the consumer does not answer"];
    eventually("the loss to be told", async || told.iter().any(|told| engine.log().contains(told))).await;
    story.healthy().await;
    story.load.more(SOME).await;
    // The new one begins with the stream's first message.
    story.end(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_somebody_purges_or_deletes_is_told_and_pulled_from_again() {
    let (mut story, _engine) = Story::begin("").await;
    story.js.get_stream("WORK").await.unwrap().purge().await.unwrap();
    story.load.forget().await;
    story.load.more(SOME).await;
    story.caught_up().await;

    story.js.delete_stream("WORK").await.unwrap();
    story.says("the server has no stream \"WORK\"").await;
    assert_eq!(story.project.post("/beside", "x").await.text(), "x\n", "others are unaffected");
    make_stream(&story.js).await;
    story.load.forget().await;
    story.load.more(SOME).await;
    // It counts from 1 again, and its messages are others.
    story.end(1).await;
}

#[tokio::test]
async fn a_function_that_runs_three_times_as_long_as_the_stream_waits_runs_once() {
    let server = Server::own(true);
    let js = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    make_stream(&js).await;
    let functions = FUNCTIONS.replace(
        "module = \"hosts.wasm\"\nallow = { kv = [\"default\"] }",
        "module = \"steer.wasm\"\ntimeout_seconds = 6.5\nretry_count = 0",
    );
    let project = Project::new(&format!("bus = \"{}\"", server.url()), &functions);
    project.guest("hosts.component.wasm", "hosts.wasm");
    project.guest("steer.wat", "steer.wasm");
    let _engine = project.serve().await;
    // It computes until its time is over.
    js.publish("work.item", "s".into()).await.unwrap().await.unwrap();
    let stream = js.get_stream("WORK").await.unwrap();
    eventually("its end to be told", async || {
        let consumer: PullConsumer = stream.get_consumer("count").await.unwrap();
        let info = consumer.cached_info();
        // Delivered once, and acknowledged.
        (info.num_pending, info.num_ack_pending, info.delivered.consumer_sequence) == (0, 0, 1)
    })
    .await;
    assert_eq!(project.attempts("count").await, [(1, "dead".to_owned())]);
    let dead = &project.json(&["dlq", "list"])["items"];
    assert_eq!((dead.as_array().unwrap().len(), &dead[0]["attempts"]), (1, &1.into()), "{dead}");
}

#[tokio::test]
async fn a_subject_that_the_stream_does_not_keep_is_told_and_others_go_on() {
    let server = Server::own(true);
    let js = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    make_stream(&js).await;
    let other = "\n[[functions.count.triggers]]\ntype = \"pubsub\"\nname = \"other\"\nstream = \"WORK\"\n\
                 consumer = \"other\"\nsubject = \"orders.*\"\n";
    let project = Project::new(&format!("bus = \"{}\"", server.url()), &format!("{FUNCTIONS}{other}"));
    project.guest("hosts.component.wasm", "hosts.wasm");
    let _engine = project.serve().await;
    let mut told = Vec::new();
    eventually("the reason", async || {
        told = degraded(&project).await;
        !told.is_empty()
    })
    .await;
    assert!(told.len() == 1 && told[0].starts_with("trigger default/count/other: "), "{told:?}");
    assert!(told[0].contains("keeps none of \"orders.*\"") && told[0].contains("work.>"), "{told:?}");
    js.publish("work.item", counted(1)).await.unwrap().await.unwrap();
    eventually("the other trigger's message", async || project.attempts("count").await == [(1, "ok".to_owned())]).await;
    // Whoever has the stream keep it is understood.
    let config = jetstream::stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into(), "orders.>".into()],
        ..Default::default()
    };
    js.update_stream(config).await.unwrap();
    js.publish("orders.paid", counted(2)).await.unwrap().await.unwrap();
    // The trigger without a subject gets it too.
    eventually("the order to run twice", async || project.attempts("count").await.len() == 3).await;
    assert!(degraded(&project).await.is_empty());
}

#[tokio::test]
async fn an_engine_that_a_server_does_not_let_in_says_so_and_others_go_on() {
    let server = Server::with(true, &["--user", "me", "--pass", "right"]);
    let address = server.url().strip_prefix("nats://").unwrap();
    let project = Project::new(&format!("bus = \"nats://me:wr0ng@{address}\""), FUNCTIONS);
    project.guest("hosts.component.wasm", "hosts.wasm");
    let engine = project.serve().await;
    eventually("the trigger to say why", async || {
        let told = degraded(&project).await;
        told.iter().any(|told| told.starts_with("trigger default/count") && told.contains("authorization violation"))
    })
    .await;
    assert_eq!(project.post("/beside", "x").await.text(), "x\n");
    let shown = format!("{:?}{}", degraded(&project).await, engine.log());
    assert!(!shown.contains("wr0ng"), "{shown}");
}
