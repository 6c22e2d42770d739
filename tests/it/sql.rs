//! Guests and SQL databases, over the real binary.

use http::StatusCode;

use crate::support::engine::Project;
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
