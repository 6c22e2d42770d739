//! Schedules: what is made after downtime, by several engines, while paused and on demand.

use serde_json::Value;

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

fn manifest(keys: &str) -> String {
    format!("[functions.tick]\nmodule = \"steer.wasm\"\n[[functions.tick.triggers]]\ntype = \"cron\"\n{keys}\n")
}

fn project(engine: &str, keys: &str) -> Project {
    let project = Project::new(engine, &manifest(keys));
    project.guest("steer.wat", "steer.wasm");
    project
}

/// The fires on record, oldest first: `12:00 due`, `12:01-12:05 missed 5`.
fn fires(project: &Project) -> Vec<String> {
    let fires = project.json(&["schedules", "fires", "tick", "--limit", "1000"]);
    let mut told: Vec<String> = fires["items"].as_array().unwrap().iter().map(fire).collect();
    told.reverse();
    told
}

fn fire(row: &Value) -> String {
    let minute = |key: &str| row[key].as_str().unwrap()[11..16].to_owned();
    let due = minute("scheduled_at");
    let what = row["cause"].as_str().or(row["skipped"].as_str()).unwrap();
    match row["count"].as_u64().unwrap() {
        1 => format!("{due} {what}"),
        count => format!("{due}-{} {what} {count}", minute("until")),
    }
}

/// Whether every fire that was made has ended well.
fn all_ran(project: &Project) -> bool {
    let fires = project.json(&["schedules", "fires", "tick", "--limit", "1000"]);
    let made = fires["items"].as_array().unwrap().iter().filter_map(|row| row["invocation_id"].as_str());
    made.into_iter().all(|id| project.json(&["status", id])["state"] == "ok")
}

/// An engine on a virtual clock that stands at this moment of 2027-01-01.
async fn at(project: &Project, time: &str) -> crate::support::engine::Engine {
    project.start_with(&["dev", "--clock", &format!("virtual=2027-01-01T{time}Z")]).await
}

fn advance(project: &Project, by: &str) {
    let output = project.run(&["clock", "advance", by]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn after_downtime_exactly_the_fires_of_the_policy_are_made() {
    for (missed, expected) in [
        ("\"skip\"", vec!["12:05 due", "12:10 due", "12:15-13:10 missed 12", "13:15 due"]),
        ("\"one\"", vec!["12:05 due", "12:10 due", "12:15-13:05 missed 11", "13:10 catch_up", "13:15 due"]),
        (
            "{ max = 3 }",
            vec![
                "12:05 due",
                "12:10 due",
                "12:15-12:55 missed 9",
                "13:00 catch_up",
                "13:05 catch_up",
                "13:10 catch_up",
                "13:15 due",
            ],
        ),
        (
            "{ max = 100, window_seconds = 600 }",
            vec!["12:05 due", "12:10 due", "12:15-13:00 missed 10", "13:05 catch_up", "13:10 catch_up", "13:15 due"],
        ),
    ] {
        let project = project("", &format!("schedule = \"*/5 * * * *\"\nmissed = {missed}"));
        let engine = at(&project, "12:01:00").await;
        advance(&project, "10m");
        engine.kill();
        let _engine = at(&project, "13:12:00").await;
        advance(&project, "5m");
        assert_eq!(fires(&project), expected, "{missed}");
        eventually("every fire to run", async || all_ran(&project)).await;
    }
}

#[tokio::test]
async fn a_paused_schedule_makes_no_fires_and_each_has_its_row() {
    let project = project("", "schedule = \"*/10 * * * *\"");
    let _engine = at(&project, "12:01:00").await;
    assert!(project.run(&["schedules", "pause", "tick", "--note", "maintenance"]).status.success());
    let listed = project.json(&["schedules", "list"])["items"][0].clone();
    assert_eq!(listed["paused"]["note"], "maintenance");
    advance(&project, "75m");
    assert!(project.run(&["schedules", "resume", "default/tick/cron"]).status.success());
    advance(&project, "10m");
    assert_eq!(fires(&project), ["12:10-12:50 paused 5", "13:00-13:10 paused 2", "13:20 due"]);
}

#[tokio::test]
async fn a_fire_can_be_asked_for_now_and_for_a_past_range_once() {
    let project = project("", "schedule = \"*/10 * * * *\"\nmissed = \"skip\"");
    let engine = at(&project, "12:01:00").await;
    advance(&project, "10m");
    engine.kill();
    let _engine = at(&project, "13:01:30").await;
    advance(&project, "10m");
    assert_eq!(fires(&project), ["12:10 due", "12:20-13:00 missed 5", "13:10 due"]);
    let backfill = |dry: bool| {
        let range = ["--from", "2027-01-01T12:00:00Z", "--to", "2027-01-01T12:40:00Z"];
        let mut arguments = vec!["schedules", "backfill", "tick"];
        arguments.extend(range);
        arguments.extend(dry.then_some("--dry-run"));
        let view = project.json(&arguments);
        (view["fires"].as_array().unwrap().len(), view["made_before"].as_u64().unwrap())
    };
    assert_eq!(backfill(true), (4, 1), "12:00, 12:20, 12:30 and 12:40; 12:10 was made");
    assert_eq!(backfill(false), (4, 1));
    assert_eq!(backfill(false), (0, 5), "a second one finds nothing to do");
    let run = project.json(&["schedules", "run", "tick"]);
    let id = run["invocation_id"].as_str().unwrap().to_owned();
    eventually("it to run", async || project.json(&["status", &id])["state"] == "ok").await;
    let status = project.json(&["status", &id]);
    let payload: Value = serde_json::from_str(status["body"].as_str().unwrap()).unwrap();
    assert_eq!(payload["cause"], "manual");
    eventually("every fire to run", async || all_ran(&project)).await;
    let causes = |cause: &str| fires(&project).iter().filter(|fire| fire.ends_with(cause)).count();
    assert_eq!((causes("backfill"), causes("manual"), causes("due")), (4, 1, 2));
}

#[tokio::test]
async fn what_overlaps_is_skipped_with_a_row() {
    // The first fire fails and waits for its retry: as long as it does, it has not ended.
    let project = Project::new(
        "",
        "[functions.tick]\nmodule = \"fails.wasm\"\nretry_count = 1\nretry_delay_seconds = 1500\n\
         retry = { jitter = \"none\", max_delay_seconds = 3600 }\n\
         [[functions.tick.triggers]]\ntype = \"cron\"\nschedule = \"*/10 * * * *\"\noverlap = \"skip\"\n",
    );
    project.wat("(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))", "fails.wasm");
    let _engine = at(&project, "12:01:00").await;
    advance(&project, "35m");
    assert_eq!(fires(&project), ["12:10 due", "12:20 overlap", "12:30 overlap"]);
}

#[tokio::test]
async fn a_schedule_whose_fire_dies_pauses_itself_and_says_which() {
    let project = Project::new(
        "",
        "[functions.tick]\nmodule = \"fails.wasm\"\nretry_count = 0\n\
         [[functions.tick.triggers]]\ntype = \"cron\"\nschedule = \"*/10 * * * *\"\npause_on_failure = true\n",
    );
    project.wat("(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))", "fails.wasm");
    let _engine = at(&project, "12:01:00").await;
    advance(&project, "10m");
    eventually("the pause", async || !project.json(&["schedules", "list"])["items"][0]["paused"].is_null()).await;
    let dead = project.json(&["dlq", "list"])["items"][0]["invocation_id"].as_str().unwrap().to_owned();
    let note = project.json(&["schedules", "list"])["items"][0]["paused"]["note"].as_str().unwrap().to_owned();
    assert!(note.contains(&dead), "{note}");
    advance(&project, "40m");
    assert!(project.run(&["schedules", "resume", "tick"]).status.success());
    advance(&project, "10m");
    assert_eq!(fires(&project), ["12:10 due", "12:20-12:50 paused 4", "13:00 due"]);
}

#[tokio::test]
async fn two_engines_make_each_fire_once_and_one_goes_on_when_the_other_is_killed() {
    let server = Server::own();
    let of = || project(&format!("store = \"{}\"\nlease_seconds = 2", server.url()), "schedule = \"* * * * * *\"");
    let (one, other) = (of(), of());
    let killed = one.serve().await;
    let _other = other.serve().await;
    let count = || server.query("SELECT count(*) FROM tripline.fires").unwrap().parse::<usize>().unwrap();
    eventually("some fires", async || count() >= 4).await;
    killed.kill();
    let before = count();
    eventually("more fires", async || count() >= before + 4).await;
    let made = "SELECT count(*), count(DISTINCT scheduled_at), \
                extract(epoch FROM max(scheduled_at) - min(scheduled_at))::bigint + 1, sum(count) FROM tripline.fires";
    let row = server.query(made).unwrap();
    let numbers: Vec<u64> = row.split('|').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[0], numbers[1], "no instant has two: {row}");
    assert_eq!(numbers[2], numbers[3], "none has none: {row}");
}

#[tokio::test]
async fn the_next_instants_are_told_of_a_trigger_and_of_a_schedule_that_is_given() {
    let project = project("", "schedule = [\"0 9 * * *\", \"30 2 * * *\"]\ntimezone = \"Europe/Paris\"");
    let given = [
        "schedules",
        "next",
        "--schedule",
        "30 2 * * *",
        "--timezone",
        "Europe/Paris",
        "-n",
        "2",
        "--after",
        "2026-03-28T12:00:00Z",
    ];
    let instants = project.json(&given);
    assert_eq!(
        (&instants["items"][0]["local"], &instants["items"][1]["local"]),
        (&"2026-03-29T03:00:00+02:00".into(), &"2026-03-30T02:30:00+02:00".into())
    );
    let output = project.run(&["schedules", "next", "--schedule", "0 0 30 2 *"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"0 0 30 2 *\" never comes"));

    let _engine = at(&project, "12:00:00").await;
    let instants = project.json(&["schedules", "next", "tick", "-n", "2"]);
    assert_eq!(instants["items"][0]["local"], "2027-01-02T02:30:00+01:00");
    let unknown = project.run(&["schedules", "next", "tock"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is: default/tick/cron"));
}
