//! `table = "…"` on a PostgreSQL server: changes by writers that know nothing of the engine.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{
    apply, balanced, degraded, engine, events, eventually_ok, function, healthy, ok, project, said, unhealthy,
};
use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

const ORDERS: &str = "table = \"public.orders\"";

/// A server with a table.
fn orders() -> Server {
    let server = Server::own();
    server.query("CREATE TABLE orders (id bigint PRIMARY KEY, state text, note text, doc json)").unwrap();
    server
}

fn sql(server: &Server, statements: &str) -> String {
    server.query(statements).unwrap_or_else(|why| panic!("{statements}: {why}"))
}

/// Rows that nobody has taken over.
fn waiting(server: &Server) -> String {
    sql(server, "SELECT count(*) FROM tripline_cdc.changes")
}

#[tokio::test]
async fn changes_of_a_table_by_any_writer_run_a_function_with_old_and_new_row() {
    let server = orders();
    let project = project(server.url(), ORDERS);
    let plan = project.run(&["database", "plan"]);
    let plan = said(&plan.stdout);
    assert!(plan.contains("CREATE TRIGGER") && plan.contains("install  default/steer/database"), "{plan}");
    assert!(sql(&server, "SELECT to_regnamespace('tripline_cdc') IS NULL") == "t", "a plan does nothing");
    apply(&project);
    let _engine = project.serve().await;
    sql(&server, "INSERT INTO orders VALUES (1, 'new', 'it''s \"so\"', '{\"a\": [1]}')");
    sql(&server, "UPDATE orders SET state = 'paid' WHERE id = 1");
    sql(&server, "DELETE FROM orders WHERE id = 1");
    eventually_ok(&project, 3).await;
    let events = events(&project).await;
    let said: Vec<Value> = events.iter().map(|one| json!([one["operation"], one["old"], one["new"]])).collect();
    let row = |state: &str| json!({ "id": 1, "state": state, "note": "it's \"so\"", "doc": { "a": [1] } });
    assert_eq!(
        said,
        [
            json!(["insert", null, row("new")]),
            json!(["update", row("new"), row("paid")]),
            json!(["delete", row("paid"), null])
        ],
        "in order, since they are of one key"
    );
    assert_eq!((&events[0]["schema"], &events[0]["table"]), (&json!("public"), &json!("orders")));
    assert!(events[0]["xid"].is_string() && events[0]["id"].is_string() && events[0]["at"].is_string());
    assert_eq!(waiting(&server), "0");
    assert!(balanced(&project));
}

#[tokio::test]
async fn a_change_of_20_kilobytes_arrives_and_a_bulk_load_does() {
    let server = orders();
    let project = project(server.url(), "table = \"orders\"\noperations = [\"insert\"]\nkey = []");
    apply(&project);
    let _engine = project.serve().await;
    sql(&server, "INSERT INTO orders VALUES (1, 'new', repeat('x', 20000))");
    eventually_ok(&project, 1).await;
    assert_eq!(events(&project).await[0]["new"]["note"].as_str().unwrap().len(), 20_000);
    sql(&server, "INSERT INTO orders SELECT n, 'new' FROM generate_series(2, 2001) n");
    sql(&server, "UPDATE orders SET state = 'paid'; DELETE FROM orders");
    eventually("all of them", async || project.metric("tripline_events_accepted_total", &["steer"]).await >= 2001)
        .await;
    eventually("all to be taken over", async || waiting(&server) == "0").await;
    eventually("all to end", async || project.metric("tripline_queue_depth", &[]).await == 0).await;
    let accepted = project.metric("tripline_events_accepted_total", &["steer"]).await;
    assert_eq!(accepted, 2001, "what is not asked for is not captured");
}

/// A psql that does as it is told, line by line.
struct Session(std::process::Child);

impl Session {
    fn open(server: &Server) -> Self {
        let psql = std::fs::read_dir("/usr/lib/postgresql")
            .ok()
            .and_then(|all| all.flatten().map(|one| one.path().join("bin/psql")).find(|path| path.exists()));
        let mut command = Command::new(psql.unwrap_or_else(|| "psql".into()));
        Self(command.args(["-X", "-q", server.url()]).stdin(Stdio::piped()).spawn().unwrap())
    }

    fn say(&mut self, line: &str) {
        use std::io::Write as _;
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_transaction_that_began_first_and_commits_last_is_not_lost() {
    let server = orders();
    let project = project(server.url(), ORDERS);
    apply(&project);
    let _engine = project.serve().await;
    let mut late = Session::open(&server);
    late.say("BEGIN; INSERT INTO orders VALUES (1, 'late');");
    let begun = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE '%late%'";
    eventually("it to begin", async || sql(&server, begun) == "1").await;
    for id in 2..12 {
        sql(&server, &format!("INSERT INTO orders VALUES ({id}, 'early')"));
    }
    eventually_ok(&project, 10).await;
    late.say("COMMIT;");
    late.end();
    eventually_ok(&project, 11).await;
    assert_eq!(events(&project).await[10]["new"]["state"], "late");
    sql(&server, "BEGIN; INSERT INTO orders VALUES (99, 'undone'); ROLLBACK; INSERT INTO orders VALUES (100, 'last')");
    eventually_ok(&project, 12).await;
}

#[tokio::test]
async fn only_what_is_asked_for_is_captured() {
    let server = orders();
    let trigger = "table = \"orders\"\noperations = [\"update\", \"insert\", \"delete\"]\ncolumns = [\"state\", \"doc\"]\n\
                   when = \"coalesce(new.state, old.state) <> 'quiet' -- or not\"";
    let project = project(server.url(), trigger);
    apply(&project);
    let _engine = project.serve().await;
    for statement in [
        "INSERT INTO orders VALUES (1, 'quiet', 'a', '{}'), (2, 'loud', 'a', '{}')",
        "UPDATE orders SET note = 'b'",
        "UPDATE orders SET state = state",
        "UPDATE orders SET doc = '{\"b\": 1}'",
        "UPDATE orders SET state = 'louder' WHERE id = 2",
        "DELETE FROM orders",
    ] {
        sql(&server, statement);
    }
    eventually_ok(&project, 4).await;
    let said: Vec<String> = events(&project).await.iter().map(|one| one["operation"].to_string()).collect();
    assert_eq!(said, ["\"insert\"", "\"update\"", "\"update\"", "\"delete\""]);
    assert_eq!(waiting(&server), "0");
}

#[tokio::test]
async fn nothing_is_lost_while_engine_or_server_are_away() {
    let mut server = orders();
    let project = project(server.url(), ORDERS);
    apply(&project);
    let engine = project.serve().await;
    sql(&server, "INSERT INTO orders VALUES (1)");
    eventually_ok(&project, 1).await;
    engine.kill();
    sql(&server, "INSERT INTO orders SELECT n FROM generate_series(2, 50) n");
    assert_eq!(waiting(&server), "49");
    let _engine = project.serve().await;
    eventually_ok(&project, 50).await;
    sql(&server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tripline %'");
    sql(&server, "INSERT INTO orders SELECT n FROM generate_series(51, 60) n");
    eventually_ok(&project, 60).await;
    server.kill();
    unhealthy(&project, "changes wait in the database").await;
    server.restart();
    sql(&server, "INSERT INTO orders SELECT n FROM generate_series(61, 70) n");
    eventually_ok(&project, 70).await;
    healthy(&project).await;
    assert_eq!(waiting(&server), "0");
    assert!(balanced(&project));
}

/// Kills the engine again and again while changes come: each of them runs, and none becomes two events.
#[tokio::test]
async fn an_engine_that_is_killed_in_the_middle_makes_no_second_event() {
    const CHANGES: usize = 600;
    let server = orders();
    let project = project(server.url(), "table = \"orders\"\nbatch = 7\nkey = []");
    apply(&project);
    let mut written = 0;
    for _ in 0..6 {
        let engine = project.serve().await;
        for _ in 0..100 {
            written += 1;
            sql(&server, &format!("INSERT INTO orders VALUES ({written})"));
        }
        engine.kill();
    }
    assert_eq!(written, CHANGES);
    let _engine = project.serve().await;
    eventually("all to be taken over", async || waiting(&server) == "0").await;
    let settled = async || {
        let row = project.json(&["ledger"])["items"][0].clone();
        row["queued"] == 0 && row["running"] == 0
    };
    eventually("all to end", settled).await;
    assert_eq!(ok(&project).await, CHANGES);
    assert!(balanced(&project));
}

#[tokio::test]
async fn engines_share_a_table_and_each_change_runs_once_in_the_order_of_its_key() {
    let server = orders();
    for key in ["", "key = []"] {
        let store = format!("store = \"{}?schema=store_{}\"\n", server.url(), key.len());
        let made = || {
            let project = Project::new(
                &format!("{store}{}", engine(&format!("{}?schema=s{}", server.url(), key.len()))),
                &function(&format!("{ORDERS}\noperations = [\"insert\", \"update\"]\nbatch = 3\n{key}")),
            );
            project.guest("steer.wat", "steer.wasm");
            project
        };
        let (one, other) = (made(), made());
        apply(&one);
        let (first, second) = (one.serve().await, other.serve().await);
        sql(&server, "DELETE FROM orders; INSERT INTO orders SELECT n, '0' FROM generate_series(1, 5) n");
        for step in 1..30 {
            sql(&server, &format!("UPDATE orders SET state = '{step}'"));
        }
        eventually_ok(&one, 150).await;
        if key.is_empty() {
            let mut states: Vec<Vec<u64>> = vec![Vec::new(); 6];
            for event in in_order(&one).await {
                let id = event["new"]["id"].as_u64().unwrap() as usize;
                states[id].push(event["new"]["state"].as_str().unwrap().parse().unwrap());
            }
            assert!(states[1..].iter().all(|seen| *seen == (0..30).collect::<Vec<u64>>()), "{states:?}");
        }
        assert!(first.stop().await.success() && second.stop().await.success());
        let dropped = one.run(&["database", "drop", "--discard"]);
        assert!(dropped.status.success(), "{}", said(&dropped.stderr));
    }
}

/// The events of both engines by the moment at which their attempts began: their traces are in the store they share.
async fn in_order(project: &Project) -> Vec<Value> {
    let traces = project.admin("/api/v1/traces?function=steer&limit=1000").await;
    let mut rows = traces["items"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row["started_at"].as_str().unwrap().to_owned());
    let body = |row: &Value| {
        let status = project.json(&["status", row["invocation_id"].as_str().unwrap()]);
        serde_json::from_str(status["body"].as_str().unwrap()).unwrap()
    };
    rows.iter().map(body).collect()
}

#[tokio::test]
async fn what_is_not_installed_is_told_and_works_when_it_is() {
    let server = orders();
    let project = project(server.url(), ORDERS);
    let _engine = project.serve().await;
    unhealthy(&project, "not installed in database shop: run tripline database apply").await;
    apply(&project);
    healthy(&project).await;
    sql(&server, "INSERT INTO orders VALUES (1)");
    eventually_ok(&project, 1).await;
    // The table is made again, and its triggers are gone with the old one.
    sql(&server, "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)");
    unhealthy(&project, "installed otherwise than the manifest says").await;
    let plan = project.json(&["database", "plan"]);
    assert_eq!(plan["databases"][0]["steps"][0]["action"], "upgrade", "{plan}");
    apply(&project);
    healthy(&project).await;
    sql(&server, "INSERT INTO orders VALUES (2)");
    eventually_ok(&project, 2).await;
    let plan = project.json(&["database", "plan"]);
    assert_eq!(plan["databases"][0]["steps"][0]["action"], "keep", "{plan}");
}

#[tokio::test]
async fn dev_installs_by_itself() {
    let server = orders();
    let project = project(server.url(), ORDERS);
    let _engine = project.start("dev").await;
    eventually("it to be installed", async || {
        server.query("SELECT count(*) FROM tripline_cdc.installed").as_deref() == Ok("1")
    })
    .await;
    sql(&server, "INSERT INTO orders VALUES (1)");
    eventually_ok(&project, 1).await;
}

#[tokio::test]
async fn drop_leaves_nothing_and_loses_nothing_unasked() {
    let server = orders();
    let project = project(server.url(), ORDERS);
    apply(&project);
    sql(&server, "INSERT INTO orders VALUES (1)");
    let output = project.run(&["database", "drop"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stdout).contains("say --discard"), "{}", said(&output.stdout));
    assert_eq!(waiting(&server), "1");
    let output = project.run(&["database", "drop", "--discard"]);
    assert!(output.status.success(), "{}", said(&output.stderr));
    assert_eq!(sql(&server, "SELECT to_regnamespace('tripline_cdc') IS NULL"), "t");
    assert_eq!(sql(&server, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), "0");
    sql(&server, "INSERT INTO orders VALUES (2)");
    // A trigger that the manifest has no more is removed by apply.
    apply(&project);
    project.manifest(&engine(server.url()), &function("channel = \"images\""));
    let output = project.run(&["database", "apply", "--database", "shop"]);
    assert!(said(&output.stdout).contains("remove"), "{}", said(&output.stdout));
    assert_eq!(sql(&server, "SELECT to_regnamespace('tripline_cdc') IS NULL"), "t");
}

#[tokio::test]
async fn what_cannot_be_captured_is_told_with_what_would_mend_it() {
    let server = orders();
    sql(&server, "CREATE TABLE bare (a int); CREATE VIEW seen AS SELECT 1 AS a; CREATE ROLE app LOGIN");
    let base = server.url().replace("postgres@", "app@");
    for (url, trigger, message) in [
        (server.url(), "table = \"nothing\"", "there is no table public.nothing"),
        (server.url(), "table = \"seen\"", "public.seen is not a table"),
        (server.url(), "table = \"bare\"", "public.bare has no primary key"),
        (server.url(), "table = \"orders\"\ncolumns = [\"sate\"]", "has no column \"sate\"; it has id, state"),
        (server.url(), "table = \"orders\"\nkey = [\"of\"]", "has no column \"of\""),
        (server.url(), "table = \"orders\"\nwhen = \"new.sate = 'x'\"", "the condition is not sound: column new.sate"),
        (server.url(), "table = \"orders\"\nwhen = \"true) OR (\"", "the condition is not sound: syntax error"),
        (base.as_str(), "table = \"orders\"", "GRANT CREATE ON DATABASE postgres TO app"),
        (base.as_str(), "table = \"orders\"", "GRANT TRIGGER ON \"public\".\"orders\" TO app"),
    ] {
        let project = project(url, trigger);
        let output = project.run(&["database", "apply"]);
        assert_eq!(output.status.code(), Some(1), "{trigger}");
        let told = said(&output.stdout);
        assert!(told.contains(message), "{trigger}: {told}{}", said(&output.stderr));
    }
    assert_eq!(sql(&server, "SELECT to_regnamespace('tripline_cdc') IS NULL"), "t", "nothing is half done");
    // Who installed it has rights that the one who reads lacks.
    apply(&project(server.url(), ORDERS));
    let project = project(&base, ORDERS);
    let _engine = project.serve().await;
    unhealthy(&project, "GRANT USAGE ON SCHEMA").await;
    sql(&server, "GRANT USAGE ON SCHEMA tripline_cdc TO app");
    unhealthy(&project, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES").await;
    sql(&server, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tripline_cdc TO app");
    healthy(&project).await;
    // And who writes needs none.
    sql(&server, "GRANT INSERT ON orders TO app; SET ROLE app; INSERT INTO orders VALUES (1)");
    eventually_ok(&project, 1).await;
    assert_eq!(degraded(&project).await, "[]");
}

/// A function that changes the table whose changes run it.
#[tokio::test]
async fn a_function_that_changes_its_own_table_is_stopped_and_writers_are_not() {
    let server = orders();
    let functions = "[functions.loop]\nmodule = \"sql.wasm\"\nretry_count = 0\nallow = { sql = [\"shop\"] }\n\
                     [[functions.loop.triggers]]\ntype = \"http\"\npath = \"/write\"\n\
                     [functions.steer]\nmodule = \"steer.wasm\"\nretry_count = 0\n\
                     [[functions.steer.triggers]]\ntype = \"database\"\ndatabase = \"shop\"\ntable = \"orders\"\n";
    let project = Project::new(&format!("max_depth = 1\n{}", engine(server.url())), functions);
    project.guest("steer.wat", "steer.wasm");
    project.guest("sql.component.wasm", "sql.wasm");
    apply(&project);
    let _engine = project.serve().await;
    healthy(&project).await;
    let write = |lines: &'static str| project.post("/write", lines);
    assert!(write("shop\nINSERT INTO orders VALUES (1)").await.text().contains('1'));
    assert!(write("shop\nbegin\nINSERT INTO orders VALUES (2)\ncommit").await.text().contains("committed"));
    eventually_ok(&project, 2).await;
    let depths = "SELECT count(*) FROM tripline_cdc.changes WHERE cause IS NOT NULL";
    let traces = project.admin("/api/v1/traces?limit=100").await;
    let of = |function: &str| {
        let items = traces["items"].as_array().unwrap();
        items.iter().filter(|row| row["function"] == function).cloned().collect::<Vec<_>>()
    };
    assert!(of("steer").iter().all(|row| row["depth"] == 1), "{traces}");
    assert_eq!(sql(&server, depths), "0");
    // As if by a function two steps down: over the limit.
    sql(&server, "SET tripline.cause = '2'; INSERT INTO orders VALUES (3)");
    let dead = async || project.admin("/api/v1/dead-letters").await["items"].as_array().unwrap().clone();
    eventually("the chain to be cut", async || dead().await.len() == 1).await;
    assert_eq!(dead().await[0]["reason"], "depth_exceeded");
    sql(&server, "INSERT INTO orders VALUES (4)");
    eventually_ok(&project, 3).await;
    assert_eq!(ok(&project).await, 3);
}

#[tokio::test]
async fn a_change_that_the_engine_will_never_take_is_put_aside_and_holds_up_nobody() {
    let server = orders();
    let functions = function(ORDERS).replace("retry_count = 0", "retry_count = 0\nmax_input_bytes = 1000");
    let project = Project::new(&engine(server.url()), &functions);
    project.guest("steer.wat", "steer.wasm");
    apply(&project);
    sql(&server, "INSERT INTO orders VALUES (1), (2); UPDATE orders SET note = repeat('x', 2000) WHERE id = 1");
    sql(&server, "INSERT INTO orders VALUES (3)");
    let _engine = project.serve().await;
    eventually_ok(&project, 3).await;
    eventually("all to be read", async || waiting(&server) == "0").await;
    let aside = sql(&server, "SELECT operation, key, length(new_row) > 2000, why FROM tripline_cdc.refused");
    assert!(aside.starts_with("update|1|t|the payload has"), "{aside}");
    assert_eq!(project.metric("tripline_invocations_total", &["shed", "too_large"]).await, 1);
    assert!(balanced(&project));
}
