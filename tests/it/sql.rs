//! Guests and SQL databases, over the real binary.

use http::StatusCode;

use crate::support::engine::Project;
use crate::support::eventually;
use crate::support::postgres::Server;

/// One function for each database, and one that nothing is granted to.
const FUNCTIONS: &str = r#"
[functions.shop]
module = "sql.wasm"
allow = { sql = ["file", "server", "nowhere"] }
[[functions.shop.triggers]]
type = "http"
path = "/shop"

[functions.stranger]
module = "sql.wasm"
[[functions.stranger.triggers]]
type = "http"
path = "/stranger"
"#;

fn project(server: &Server) -> Project {
    let engine = format!(
        "[engine.databases.file]\nurl = \"sqlite:shop.db\"\n[engine.databases.server]\nurl = {:?}\n",
        server.url()
    );
    let project = Project::new(&engine, FUNCTIONS);
    project.guest("sql.component.wasm", "sql.wasm");
    project
}

async fn say(project: &Project, path: &str, lines: &[&str]) -> Vec<String> {
    let answer = project.post(path, lines.join("\n")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.text().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn guests_use_the_databases_that_they_are_granted() {
    let server = Server::shared();
    let project = project(&server);
    let engine = project.serve().await;
    let table = format!("t_{}", uuid::Uuid::now_v7().simple());
    for (database, first, second) in [("file", "?1", "?2"), ("server", "$1", "$2")] {
        let create = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, name TEXT)");
        let insert = format!("INSERT INTO {table} VALUES ({first}, {second})");
        let one = format!("{insert} | 1 | kettle");
        let two = format!("{insert} | 2 | pot'; --");
        let count = format!("? SELECT count(*) FROM {table}");
        let said = say(&project, "/shop", &[database, &create, &one, "begin", &two, "forget", &count]).await;
        assert_eq!(said[1..], ["1", "begun", "1", "forgotten", "[Value::Integer(1)]"], "{database}");
        let select = format!("? SELECT name FROM {table} WHERE id = {first} | 2");
        let said = say(&project, "/shop", &[database, "begin", &two, "commit", &one, &select]).await;
        assert_eq!(said[..3], ["begun", "1", "committed"]);
        assert!(said[3].starts_with("Constraint: "), "{}", said[3]);
        assert_eq!(said[4], "[Value::Text(\"pot'; --\")]");
        // An attempt that fails with a transaction open leaves nothing of it, and one that is whole stays.
        let failed =
            project.post("/shop", [database, "begin", &format!("DELETE FROM {table}"), "fail"].join("\n")).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(say(&project, "/shop", &[database, &count]).await, ["[Value::Integer(2)]"], "{database}");
    }
    let said = say(&project, "/stranger", &["file", "? SELECT 1"]).await;
    assert_eq!(
        said,
        ["Denied: denied: the definition does not grant \"file\": add it to functions.stranger.allow.sql"]
    );
    let said = say(&project, "/shop", &["nowhere", "? SELECT 1"]).await;
    assert!(said[0].starts_with("Unknown: the engine has no database \"nowhere\""), "{}", said[0]);

    let traces = project.json(&["traces", "--function", "shop"]);
    let id = traces["items"].as_array().unwrap().last().unwrap()["invocation_id"].as_str().unwrap().to_owned();
    let shown = String::from_utf8(project.run(&["traces", "show", &id]).stdout).unwrap();
    assert!(shown.contains("sql-execute file") && shown.contains("sql-begin file"), "{shown}");
    assert!(!shown.contains("kettle") && !engine.log().contains("kettle"), "no statement is in a trace or a log");
}

#[tokio::test]
async fn a_database_that_is_set_wrong_is_told_at_its_place_without_its_password() {
    let project = Project::new("[engine.databases.shop]\nurl = \"mysql://me:hunter2@db/x\"\n", "");
    let output = project.run(&["check"]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("neither a file nor a PostgreSQL server") && told.contains("url"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_guests_transaction_enqueues_with_what_it_writes_both_or_neither() {
    let server = Server::own();
    let engine = format!("store = {:?}\n[engine.databases.shop]\nurl = {:?}\n", server.url(), server.url());
    let functions = r#"
[functions.shop]
module = "sql.wasm"
timeout_seconds = 60
allow = { sql = ["shop"] }
[[functions.shop.triggers]]
type = "http"
path = "/shop"

[functions.mail]
module = "steer.wasm"
[[functions.mail.triggers]]
type = "job"
queue = "mail"
"#;
    let project = Project::new(&engine, functions);
    project.guest("sql.component.wasm", "sql.wasm");
    project.guest("steer.wat", "steer.wasm");
    let engine = project.serve().await;
    server.query("CREATE TABLE orders (id bigint)").unwrap();
    let order =
        ["shop", "begin", "INSERT INTO orders VALUES ($1) | 7", "SELECT tripline.enqueue('mail', $1) | order 7"];
    let said = say(&project, "/shop", &[&order[..], &["forget"]].concat()).await;
    assert_eq!(said[3], "forgotten");
    let said = say(&project, "/shop", &[&order[..], &["commit"]].concat()).await;
    assert_eq!(said[3], "committed");
    eventually("the job", async || project.attempts("mail").await.len() == 1).await;
    assert_eq!(server.query("SELECT count(*) FROM orders").as_deref(), Ok("1"));

    // The engine dies between the two statements and the commit: neither is there when it comes back.
    let asleep = async || {
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%'";
        server.query(sleeps).as_deref() == Ok("1")
    };
    let dying = [&order[..], &["SELECT pg_sleep(30)", "commit"]].concat().join("\n");
    let asked = project.try_post("/shop", dying);
    let killed = async {
        eventually("the transaction", asleep).await;
        engine.kill();
    };
    let (answer, ()) = tokio::join!(asked, killed);
    assert!(answer.is_none(), "it was not told that it was done");
    let _engine = project.serve().await;
    let said = say(&project, "/shop", &[&order[..], &["commit"]].concat()).await;
    assert_eq!(said[3], "committed");
    let mails = || {
        let ledger = project.json(&["ledger"]);
        let rows = ledger["items"].as_array().unwrap();
        let mail = rows.iter().find(|row| row["function_name"] == "mail").unwrap().clone();
        ["accepted", "queued", "running", "drift"].map(|key| mail[key].as_i64().unwrap())
    };
    eventually("the second job", async || mails() == [2, 0, 0, 0]).await;
    assert_eq!(server.query("SELECT count(*) FROM orders").as_deref(), Ok("2"));
}
