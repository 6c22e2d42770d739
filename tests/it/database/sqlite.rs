//! `table = "…"` on a SQLite file: zero servers, and writers in other processes.

use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{apply, balanced, engine, events, eventually_ok, function, healthy, project, said, unhealthy};
use crate::support::engine::Project;
use crate::support::eventually;

const FILE: &str = "sqlite:shop.db";

/// A project with a table in a file.
fn orders(trigger: &str) -> Project {
    let project = project(FILE, trigger);
    let make = "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT, \"a \"\"b\"\"\" REAL, data BLOB)";
    write(&project.path("shop.db"), make);
    project
}

/// What another program does: this process is not the engine's.
fn write(file: &Path, statements: &str) {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection.execute_batch(statements).unwrap_or_else(|why| panic!("{statements}: {why}"));
}

fn count(file: &Path, of: &str) -> i64 {
    let connection = Connection::open(file).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn changes_in_a_file_by_another_process_run_a_function() {
    let project = orders("table = \"orders\"");
    let file = project.path("shop.db");
    let plan = project.run(&["database", "plan"]);
    assert!(said(&plan.stdout).contains("CREATE TRIGGER tripline_1_insert"), "{}", said(&plan.stdout));
    assert_eq!(count(&file, "sqlite_master WHERE name LIKE 'tripline%'"), 0, "a plan does nothing");
    apply(&project);
    let _engine = project.serve().await;
    healthy(&project).await;
    write(&file, "INSERT INTO orders VALUES (1, 'it''s \"new\"', 0.5, x'00ff')");
    write(&file, "UPDATE orders SET state = 'paid' WHERE id = 1; DELETE FROM orders");
    eventually_ok(&project, 3).await;
    let events = events(&project).await;
    let said: Vec<Value> = events.iter().map(|one| json!([one["operation"], one["old"], one["new"]])).collect();
    let row = |state: &str| json!({ "id": 1, "state": state, "a \"b\"": 0.5, "data": "\\x00ff" });
    assert_eq!(
        said,
        [
            json!(["insert", null, row("it's \"new\"")]),
            json!(["update", row("it's \"new\""), row("paid")]),
            json!(["delete", row("paid"), null])
        ]
    );
    assert_eq!((&events[0]["schema"], &events[0]["table"]), (&Value::Null, &json!("orders")));
    assert_eq!(count(&file, "tripline_changes"), 0);
    // Twenty kilobytes, many rows, and what is written while nobody is there.
    write(&file, "INSERT INTO orders (id, state) VALUES (2, printf('%.20000c', 'x'))");
    write(
        &file,
        "WITH n AS (SELECT 3 AS id UNION ALL SELECT id + 1 FROM n WHERE id < 1000) INSERT INTO orders (id) SELECT id FROM n",
    );
    eventually_ok(&project, 1002).await;
    assert!(balanced(&project));
}

#[tokio::test]
async fn what_is_written_to_a_file_while_the_engine_is_away_runs_once_it_is_there() {
    let project = orders("table = \"orders\"\nbatch = 5");
    let file = project.path("shop.db");
    apply(&project);
    for round in 0..4 {
        let engine = project.serve().await;
        for id in 0..50 {
            write(&file, &format!("INSERT INTO orders (id) VALUES ({})", round * 100 + id));
        }
        engine.kill();
        write(&file, &format!("INSERT INTO orders (id) VALUES ({})", round * 100 + 99));
    }
    let _engine = project.serve().await;
    eventually("all to be taken over", async || count(&file, "tripline_changes") == 0).await;
    eventually_ok(&project, 204).await;
    assert!(balanced(&project));
}

#[tokio::test]
async fn only_what_is_asked_for_is_captured_in_a_file() {
    let trigger =
        "table = \"orders\"\noperations = [\"update\"]\ncolumns = [\"state\"]\nwhen = \"new.state <> 'quiet'\"";
    let project = orders(trigger);
    let file = project.path("shop.db");
    apply(&project);
    write(&file, "INSERT INTO orders (id, state) VALUES (1, 'a'); UPDATE orders SET data = x'01'");
    write(&file, "UPDATE orders SET state = 'quiet'; UPDATE orders SET state = 'b'; DELETE FROM orders");
    let _engine = project.serve().await;
    eventually_ok(&project, 1).await;
    assert_eq!(events(&project).await[0]["new"]["state"], "b");
}

#[tokio::test]
async fn a_file_whose_table_changes_asks_to_be_installed_again_and_drop_leaves_nothing() {
    let project = orders("table = \"orders\"");
    let file = project.path("shop.db");
    let _engine = project.serve().await;
    unhealthy(&project, "not installed in database shop: run tripline database apply").await;
    apply(&project);
    healthy(&project).await;
    write(&file, "ALTER TABLE orders ADD COLUMN more TEXT DEFAULT 'x'");
    unhealthy(&project, "installed otherwise than the manifest says").await;
    apply(&project);
    healthy(&project).await;
    write(&file, "INSERT INTO orders (id) VALUES (1)");
    eventually_ok(&project, 1).await;
    assert_eq!(events(&project).await[0]["new"]["more"], "x");
    let output = project.run(&["database", "drop"]);
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    assert_eq!(count(&file, "sqlite_master WHERE name LIKE 'tripline%'"), 0);
    write(&file, "INSERT INTO orders (id) VALUES (2)");
}

#[test]
fn what_a_file_cannot_capture_is_told_and_undone() {
    for (trigger, message) in [
        ("table = \"nothing\"", "there is no table nothing"),
        ("table = \"bare\"", "bare has no primary key"),
        ("table = \"seen\"", "seen is not a table"),
        ("table = \"orders\"\nkey = [\"of\"]", "has no column \"of\"; it has id, state"),
        ("table = \"orders\"\nwhen = \"new.sate = 'x'\"", "the condition is not sound: no such column: new.sate"),
        ("table = \"orders\"\nwhen = \"old.state = 'x'\"", "the condition is not sound: no such column: old.state"),
        ("table = \"orders\"\nwhen = \"true) OR (\"", "the condition is not sound: near"),
    ] {
        let project = orders(trigger);
        let file = project.path("shop.db");
        write(&file, "CREATE TABLE bare (a); CREATE VIEW seen AS SELECT 1 AS a");
        let output = project.run(&["database", "apply"]);
        assert_eq!(output.status.code(), Some(1), "{trigger}");
        assert!(said(&output.stdout).contains(message), "{trigger}: {}", said(&output.stdout));
        assert_eq!(count(&file, "sqlite_master WHERE name LIKE 'tripline%'"), 0);
    }
    let nowhere = project("sqlite:nowhere.db", "table = \"orders\"");
    let output = nowhere.run(&["database", "plan"]);
    assert!(said(&output.stderr).contains("there is no file"), "{}", said(&output.stderr));
}

#[tokio::test]
async fn what_guests_write_to_a_file_carries_its_depth_and_the_outbox_is_not_theirs() {
    let functions = "[functions.write]\nmodule = \"sql.wasm\"\nretry_count = 0\nallow = { sql = [\"shop\"] }\n\
                     [[functions.write.triggers]]\ntype = \"http\"\npath = \"/write\"\n";
    let project = Project::new(
        &format!("max_depth = 1\n{}", engine(FILE)),
        &format!("{functions}{}", function("table = \"orders\"")),
    );
    project.guest("steer.wat", "steer.wasm");
    project.guest("sql.component.wasm", "sql.wasm");
    let file = project.path("shop.db");
    write(&file, "CREATE TABLE orders (id INTEGER PRIMARY KEY)");
    apply(&project);
    let _engine = project.serve().await;
    healthy(&project).await;
    let say = async |lines: &[&str]| {
        project.post("/write", ["shop"].iter().chain(lines).copied().collect::<Vec<_>>().join("\n")).await.text()
    };
    let done = say(&["INSERT INTO orders VALUES (1)", "begin", "INSERT INTO orders VALUES (2)", "commit"]).await;
    assert!(done.contains("committed"), "{done}");
    let failed = say(&["INSERT INTO orders VALUES (1)"]).await;
    assert!(failed.contains("Constraint"), "a statement that fails is undone with its cause: {failed}");
    eventually_ok(&project, 2).await;
    write(&file, "INSERT INTO orders VALUES (3)");
    eventually_ok(&project, 3).await;
    let traces = project.admin("/api/v1/traces?function=steer").await;
    let depths: Vec<u64> =
        traces["items"].as_array().unwrap().iter().map(|row| row["depth"].as_u64().unwrap()).collect();
    assert_eq!(depths, [0, 1, 1], "{traces}");
    assert_eq!(count(&file, "tripline_cause"), 0);
    for denied in [
        "INSERT INTO tripline_changes (trigger, at, operation) VALUES (1, 0, 'insert')",
        "DELETE FROM tripline_changes",
        "DELETE FROM tripline_cause",
        "UPDATE tripline_cause SET cause = '0'",
        "DROP TRIGGER tripline_1_insert",
        "CREATE TRIGGER tripline_x AFTER INSERT ON orders BEGIN DELETE FROM tripline_changes; END",
        "CREATE VIEW tripline_v AS SELECT 1",
        "? WITH tripline_x AS (SELECT definition FROM tripline_installed) SELECT * FROM tripline_x",
        "? WITH tripline_x AS (SELECT trigger FROM tripline_installed) SELECT * FROM tripline_x",
        "? WITH tripline_x AS (SELECT old_row FROM tripline_changes) SELECT * FROM tripline_x",
    ] {
        let said = say(&[denied]).await;
        assert!(said.contains("Denied") || said.contains("no such column"), "{denied}: {said}");
    }
    // A chain that is too long is cut.
    write(
        &file,
        "BEGIN IMMEDIATE; INSERT INTO tripline_cause VALUES ('2'); INSERT INTO orders VALUES (9); \
         DELETE FROM tripline_cause; COMMIT",
    );
    let dead = async || project.admin("/api/v1/dead-letters").await["items"].as_array().unwrap().clone();
    eventually("the chain to be cut", async || dead().await.len() == 1).await;
    assert_eq!(dead().await[0]["reason"], "depth_exceeded");
}

#[tokio::test]
async fn a_change_in_a_file_that_the_engine_will_never_take_is_put_aside() {
    let functions =
        function("table = \"orders\"").replace("retry_count = 0", "retry_count = 0\nmax_input_bytes = 1000");
    let project = Project::new(&engine(FILE), &functions);
    project.guest("steer.wat", "steer.wasm");
    let file = project.path("shop.db");
    write(&file, "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)");
    apply(&project);
    write(&file, "INSERT INTO orders VALUES (1, printf('%.2000c', 'x')), (2, 'y')");
    let _engine = project.serve().await;
    eventually_ok(&project, 1).await;
    eventually("all to be read", async || count(&file, "tripline_changes") == 0).await;
    assert_eq!(count(&file, "tripline_refused WHERE key = '1' AND why LIKE 'the payload has%'"), 1);
    assert!(balanced(&project));
}
