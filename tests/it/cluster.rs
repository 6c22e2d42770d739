//! Engines that share a store and a bus have their sockets together.

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::support::engine::{Engine, Project};
use crate::support::websocket::{Client, ENVELOPE, chat, open};
use crate::support::{eventually, nats, postgres, within};

/// Engines of one store and one bus, which know of each other, each with the chat example.
struct Cluster {
    _store: postgres::Server,
    bus: nats::Server,
    engines: Vec<(Project, Option<Engine>)>,
}

impl Cluster {
    async fn of(number: usize) -> Self {
        let (store, bus) = (postgres::Server::own(), nats::Server::own(false));
        let settings = format!("store = \"{}\"\nbus = \"{}\"", store.url(), bus.url());
        let mut engines = Vec::new();
        for _ in 0..number {
            let project = chat(&settings);
            let engine = project.serve().await;
            engines.push((project, Some(engine)));
        }
        let cluster = Self { _store: store, bus, engines };
        cluster.know_each_other(number - 1).await;
        cluster
    }

    fn project(&self, index: usize) -> &Project {
        &self.engines[index].0
    }

    /// Waits until each engine that runs hears of so many others.
    async fn know_each_other(&self, others: usize) {
        for (project, _) in self.engines.iter().filter(|(_, engine)| engine.is_some()) {
            eventually("the engines to know each other", async || {
                project.metric("tripline_socket_peers", &["tripline_socket_peers "]).await == others as u64
            })
            .await;
        }
    }

    async fn open(&self, index: usize, name: &str, resume: Option<&str>) -> Client {
        let resume = resume.map(|seq| format!("&resume_from=lobby:{seq}")).unwrap_or_default();
        let path = format!("/rooms/lobby?name={name}{resume}");
        open(self.project(index), &path, &[ENVELOPE]).await.unwrap()
    }

    async fn announce(&self, index: usize, text: &str) {
        assert_eq!(self.project(index).post("/rooms/lobby", text.to_owned()).await.status, 202);
    }
}

/// Waits for a line; what was told before it and since the last one, by type and text, and its number.
async fn until(client: &mut Client, line: &str) -> (Vec<String>, String) {
    let mut told = Vec::new();
    loop {
        let one: serde_json::Value = serde_json::from_str(&client.text().await).unwrap();
        let text = one["text"].as_str().unwrap_or_default();
        told.push(format!("{} {text}", one["type"].as_str().unwrap()).trim_end().to_owned());
        if text.contains(line) {
            return (told, one["seq"].as_str().expect("a number of several engines is text").to_owned());
        }
    }
}

#[tokio::test]
async fn what_is_said_on_one_engine_reaches_the_sockets_of_all() {
    let cluster = Cluster::of(3).await;
    let mut ann = cluster.open(0, "ann", None).await;
    let ann_id = ann.told("welcome").await["client"].clone();
    until(&mut ann, "ann").await;
    let mut bob = cluster.open(1, "bob", None).await;
    let bob_id = bob.told("welcome").await["client"].clone();
    assert_eq!(ann.told("join").await["client"], bob_id, "who joins elsewhere is told here");
    until(&mut ann, "bob").await;
    until(&mut bob, "bob").await;
    ann.send("hello").await;
    until(&mut bob, r#"{"from":"ann","text":"hello"}"#).await;
    // A function on an engine without sockets.
    cluster.announce(2, "lunch").await;
    until(&mut bob, "lunch").await;
    cluster.announce(2, "coffee").await;
    let (told, _) = until(&mut bob, "coffee").await;
    let lunches = told.iter().filter(|told| told.contains("lunch"));
    assert_eq!(lunches.count(), 0, "each comes once");
    drop(ann);
    assert_eq!(bob.told("leave").await["client"], ann_id);

    // A new engine is told who is there, and who comes to it is told of by the others.
    let mut late = cluster.open(2, "late", None).await;
    let late_id = late.told("welcome").await["client"].clone();
    assert_eq!(bob.told("join").await["client"], late_id);
    drop(bob);
    assert_eq!(late.told("leave").await["client"], bob_id);
}

#[tokio::test]
async fn who_comes_back_on_another_engine_misses_nothing_though_its_own_was_killed() {
    let mut cluster = Cluster::of(3).await;
    let mut ann = cluster.open(0, "ann", None).await;
    let ann_id = ann.told("welcome").await["client"].clone();
    let mut bob = cluster.open(1, "bob", None).await;
    until(&mut ann, "bob").await;
    cluster.announce(2, "one").await;
    let (_, had) = until(&mut ann, "one").await;
    until(&mut bob, "one").await;

    cluster.engines[0].1.take().unwrap().kill();
    cluster.announce(1, "two").await;
    cluster.announce(2, "three").await;
    let mut back = cluster.open(2, "ann", Some(&had)).await;
    let (mut lines, mut had) = (Vec::new(), String::new());
    while lines.len() < 2 {
        let told: serde_json::Value = serde_json::from_str(&back.text().await).unwrap();
        assert_ne!(told["type"], "missed", "{told}");
        let line = told["text"].as_str().filter(|text| text.contains("announcement"));
        if let Some(line) = line {
            lines.push(line.to_owned());
            had = told["seq"].as_str().unwrap().to_owned();
        }
    }
    lines.sort_unstable();
    assert_eq!(lines, [r#"{"announcement":"three"}"#, r#"{"announcement":"two"}"#]);
    // The dead one's sockets are members until it is known to be dead, and no longer.
    assert_eq!(bob.told("leave").await["client"], ann_id);
    cluster.know_each_other(1).await;

    // An engine that began later knows nothing of what was said before, and says so.
    let (project, engine) = &mut cluster.engines[0];
    *engine = Some(project.serve().await);
    cluster.know_each_other(2).await;
    cluster.announce(1, "four").await;
    until(&mut back, "four").await;
    let mut elsewhere = cluster.open(0, "ann", Some(&had)).await;
    elsewhere.told("missed").await;
    elsewhere.told("joined").await;
}

#[tokio::test]
async fn a_bus_that_was_away_costs_nobody_a_line_that_is_not_told_as_missed() {
    let mut cluster = Cluster::of(2).await;
    let mut ann = cluster.open(0, "ann", None).await;
    until(&mut ann, "ann").await;
    let mut bob = cluster.open(1, "bob", None).await;
    until(&mut ann, "bob").await;
    until(&mut bob, "bob").await;
    cluster.bus.kill();
    bob.send("while it is away").await;
    until(&mut bob, "while it is away").await;
    cluster.bus.restart();
    loop {
        let told: serde_json::Value = serde_json::from_str(&ann.text().await).unwrap();
        let heard = told["text"].as_str().is_some_and(|text| text.contains("while it is away"));
        if heard || told["type"] == "missed" {
            break;
        }
    }
    cluster.know_each_other(1).await;
    eventually("lines to go through again", async || {
        bob.send("again").await;
        until(&mut bob, "again").await;
        let told: serde_json::Value = serde_json::from_str(&ann.text().await).unwrap();
        told["text"].as_str().is_some_and(|text| text.contains("again"))
    })
    .await;
}

#[tokio::test]
async fn what_strangers_and_guests_say_on_the_engines_subject_is_not_believed() {
    let cluster = Cluster::of(2).await;
    let client = async_nats::connect(cluster.bus.url()).await.unwrap();
    let mut said = client.subscribe("_TRIPLINE.>").await.unwrap();
    let beat = within("an engine to speak", said.next()).await.unwrap();
    let refused = async || {
        cluster.project(0).metric("tripline_socket_peers_lost_total", &["refused"]).await
            + cluster.project(1).metric("tripline_socket_peers_lost_total", &["refused"]).await
    };
    assert_eq!(refused().await, 0);
    let mut forged = beat.payload.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    for payload in [Bytes::from(forged), Bytes::new(), Bytes::from(vec![0xff; 500_000])] {
        client.publish(beat.subject.clone(), payload).await.unwrap();
    }
    eventually("them to be refused by both", async || refused().await == 6).await;
    // Not even what an engine did say is believed again, once it has said more.
    let mut ann = cluster.open(0, "ann", None).await;
    until(&mut ann, "ann").await;
    cluster.announce(1, "hear").await;
    until(&mut ann, "hear").await;
    client.publish(beat.subject.clone(), beat.payload).await.unwrap();
    eventually("it to be refused by the one that did not say it", async || refused().await == 7).await;
    cluster.announce(1, "still there").await;
    until(&mut ann, "still there").await;

    for arguments in [&["publish", "_TRIPLINE.sockets", "x"][..], &["publish", "_TRIPLINE", "x"]] {
        let output = cluster.project(0).run(arguments);
        assert!(!output.status.success(), "{output:?}");
    }
}
