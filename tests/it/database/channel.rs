//! `channel = "…"`: notifications of PostgreSQL.

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::{balanced, degraded, engine, eventually_ok, healthy, lock_holders, ok, project, unhealthy};
use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

const IMAGES: &str = "channel = \"images\"";

fn notify(server: &Server, payload: &str) {
    server.query(&format!("SELECT pg_notify('images', '{payload}')")).unwrap();
}

/// The backends that listen to the channel.
fn listeners(server: &Server) -> Vec<i32> {
    let pids = server.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tripline %'").unwrap();
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_notification_runs_a_function_with_its_payload() {
    let server = Server::own();
    let project = project(server.url(), IMAGES);
    let engine = project.serve().await;
    eventually("the turn to be taken", async || !lock_holders(&server).is_empty()).await;
    notify(&server, "hello");
    notify(&server, "");
    eventually_ok(&project, 2).await;
    notify(&server, "f and why");
    let letters = async || project.admin("/api/v1/dead-letters").await["items"].as_array().unwrap().clone();
    eventually("the dead letter", async || !letters().await.is_empty()).await;
    let id = letters().await[0]["invocation_id"].as_str().unwrap().to_owned();
    let letter = project.json(&["dlq", "show", &id])["data"].to_string();
    for part in ["f and why", "\"images\"", "tripline.postgres.notification", "tripline:database/shop", "pid"] {
        assert!(letter.contains(part), "{part}: {letter}");
    }
    assert!(balanced(&project));
    assert!(engine.stop().await.success());
    assert!(listeners(&server).is_empty(), "nobody listens any more");
}

#[tokio::test]
async fn one_engine_runs_a_notification_and_another_takes_its_turn_over() {
    let server = Server::own();
    let (one, other) = (project(server.url(), IMAGES), project(server.url(), IMAGES));
    let first = one.serve().await;
    eventually("the turn to be taken", async || !lock_holders(&server).is_empty()).await;
    let _second = other.serve().await;
    eventually("both to listen", async || listeners(&server).len() == 2).await;
    for payload in 0..20 {
        notify(&server, &payload.to_string());
    }
    eventually_ok(&one, 20).await;
    assert_eq!(ok(&other).await, 0, "it waits for its turn");
    let holder = lock_holders(&server);
    first.kill();
    eventually("the turn to change", async || {
        let now = lock_holders(&server);
        !now.is_empty() && now != holder
    })
    .await;
    eventually("the gap to be counted", async || other.metric("tripline_source_gaps_total", &[]).await == 1).await;
    notify(&server, "after");
    eventually_ok(&other, 1).await;
}

#[tokio::test]
async fn every_engine_runs_a_notification_where_all_are_asked_for() {
    let server = Server::own();
    let all = "channel = \"images\"\nmode = \"all\"\ndurable = true\nguarantee = \"at_least_once\"";
    let (one, other) = (project(server.url(), all), project(server.url(), all));
    let (_first, _second) = (one.serve().await, other.serve().await);
    eventually("both to hear the same", async || {
        notify(&server, "hello");
        ok(&one).await > 0 && ok(&other).await > 0
    })
    .await;
    let id = one.json(&["traces", "--function", "steer"])["items"][0]["invocation_id"].as_str().unwrap().to_owned();
    assert_eq!(one.json(&["status", &id])["state"], "ok", "a durable one has a row that says how it ended");
}

#[tokio::test]
async fn a_lost_connection_is_a_gap_that_is_counted() {
    let mut server = Server::own();
    let project = project(server.url(), IMAGES);
    let _engine = project.serve().await;
    let gaps = async || project.metric("tripline_source_gaps_total", &["steer"]).await;
    eventually("the turn to be taken", async || !lock_holders(&server).is_empty()).await;
    notify(&server, "before");
    eventually_ok(&project, 1).await;
    assert_eq!(gaps().await, 0);
    server
        .query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tripline %'")
        .unwrap();
    eventually("the gap", async || gaps().await == 1).await;
    healthy(&project).await;
    eventually("the turn to be taken again", async || !lock_holders(&server).is_empty()).await;
    notify(&server, "between");
    eventually_ok(&project, 2).await;

    server.kill();
    unhealthy(&project, "is lost").await;
    assert_eq!(gaps().await, 2, "however often it is tried again");
    server.restart();
    healthy(&project).await;
    eventually("the turn to be taken again", async || !lock_holders(&server).is_empty()).await;
    notify(&server, "after");
    eventually_ok(&project, 3).await;
    assert_eq!(gaps().await, 2);
}

#[tokio::test]
async fn a_connection_that_is_half_open_is_found() {
    let server = Server::own();
    let project = project(server.url(), IMAGES);
    let _engine = project.serve().await;
    eventually("the turn to be taken", async || !lock_holders(&server).is_empty()).await;
    let frozen = Pid::from_raw(listeners(&server)[0]).unwrap();
    kill_process(frozen, Signal::STOP).unwrap();
    let found = async || project.metric("tripline_source_gaps_total", &[]).await == 1;
    eventually("silence to be noticed", found).await;
    // The other end is a process that has not gone: its turn ends with it.
    kill_process(frozen, Signal::CONT).unwrap();
    healthy(&project).await;
    eventually("the turn to be taken again", async || {
        let holder = lock_holders(&server);
        !holder.is_empty() && holder != frozen.as_raw_nonzero().to_string()
    })
    .await;
    notify(&server, "after");
    eventually_ok(&project, 1).await;
}

/// Passes everything on but notifications, as a pooler does that gives each statement another connection.
async fn deaf_pooler(port: u16) -> u16 {
    async fn but_notifications(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        loop {
            let mut head = [0; 5];
            from.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length - 4];
            from.read_exact(&mut body).await?;
            if head[0] != b'A' {
                to.write_all(&[&head[..], &body].concat()).await?;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let tasks = TaskTracker::new();
    let links = tasks.clone();
    tasks.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut asks, answered), (answers, mut asked)) = (client.into_split(), server.into_split());
            links.spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
            links.spawn(but_notifications(answers, answered));
        }
    });
    own
}

#[tokio::test]
async fn a_pooler_that_drops_notifications_is_named() {
    let server = Server::own();
    let port = server.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
    let pooler = deaf_pooler(port).await;
    let project = project(&format!("postgres://postgres@127.0.0.1:{pooler}/postgres?sslmode=disable"), IMAGES);
    let _engine = project.serve().await;
    unhealthy(&project, "PgBouncer in transaction mode").await;
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_and_holds_up_nobody_else() {
    let server = Server::own();
    let base = server.url().strip_suffix("/postgres").unwrap();
    let trigger = |name: &str| {
        format!("[[functions.steer.triggers]]\ntype = \"database\"\ndatabase = \"{name}\"\nchannel = \"images\"\n")
    };
    let nowhere = "[engine.databases.gone]\nurl = \"postgres://me:hunter2@127.0.0.1:1/shop\"\n";
    let unknown = format!("[engine.databases.unknown]\nurl = \"{base}/unknown\"\n");
    let functions = format!(
        "[functions.steer]\nmodule = \"steer.wasm\"\n{}{}{}",
        trigger("gone"),
        trigger("unknown"),
        trigger("shop")
    );
    let project = Project::new(&format!("{}{nowhere}{unknown}", engine(server.url())), &functions);
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    unhealthy(&project, "cannot be reached").await;
    unhealthy(&project, "database \\\"unknown\\\" does not exist").await;
    eventually("the turn to be taken", async || !lock_holders(&server).is_empty()).await;
    notify(&server, "hello");
    eventually_ok(&project, 1).await;
    assert!(!degraded(&project).await.contains("hunter2") && !engine.log().contains("hunter2"));
}

#[test]
fn a_trigger_whose_database_cannot_do_it_is_refused_by_check() {
    let sqlite = project("sqlite:shop.db", IMAGES);
    let output = sqlite.run(&["check"]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("a SQLite database has no channels"), "{told}");
    let bare = project("postgres://me:hunter2@db/shop", "channel = \"a\"\nguarantee = \"at_least_once\"");
    let told = String::from_utf8_lossy(&bare.run(&["check"]).stderr).into_owned();
    assert!(told.contains("at most once") && !told.contains("hunter2"), "{told}");
    let own = Project::new(
        "",
        "[functions.steer]\nmodule = \"steer.wasm\"\n\
         [[functions.steer.triggers]]\ntype = \"database\"\ntable = \"orders\"\n",
    );
    let told = String::from_utf8_lossy(&own.run(&["check"]).stderr).into_owned();
    assert!(told.contains("the engine's store is not PostgreSQL"), "{told}");
}
