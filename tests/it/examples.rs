//! The example project does what its README says, and its committed modules are what their sources say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use tripline::functions::Digest;

use crate::support::engine::{Project, workspace};
use crate::support::eventually;

/// The example, with ports of its own and every schedule as written.
fn quickstart() -> Project {
    let project = Project::new("", "");
    let source = workspace().join("examples/quickstart");
    let text = std::fs::read_to_string(source.join("tripline.toml")).unwrap();
    let text = text
        .replace("127.0.0.1:7070", &format!("127.0.0.1:{}", project.public))
        .replace("127.0.0.1:7071", &format!("127.0.0.1:{}", project.admin));
    std::fs::write(project.path("tripline.toml"), text).unwrap();
    std::fs::create_dir(project.path("modules")).unwrap();
    for entry in std::fs::read_dir(source.join("modules")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), project.path("modules").join(entry.file_name())).unwrap();
    }
    project
}

#[tokio::test]
async fn the_quickstart_says_what_is_live_and_does_what_its_readme_says() {
    let project = quickstart();
    let _engine = project.start("dev").await;
    eventually("the start-up lines", async || said(&project).contains("try:")).await;
    for part in ["orders@1", "receipts@1", "POST /orders/{id}", "orders.*.created", "@every 15s", "GET /hello", "curl "]
    {
        assert!(said(&project).contains(part), "{part:?} is not in\n{}", said(&project));
    }

    let order = r#"{"item": "kettle", "amount": 4200}"#;
    let answer = project.post("/orders/7", order).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.json()["id"], "7");
    eventually("the receipt", async || project.attempts("receipts").await == [(1, "ok".to_owned())]).await;
    let receipt = &project.admin("/api/v1/traces?function=receipts").await["items"][0];
    let orders = &project.admin("/api/v1/traces?function=orders").await["items"][0];
    assert_eq!(receipt["parent"], orders["invocation_id"], "the message says what caused it");
    assert_eq!(receipt["trace_id"], orders["trace_id"]);
    let ops = |trace: &serde_json::Value| -> Vec<String> {
        let ops = trace["detail"]["host_ops"].as_array().unwrap().iter();
        ops.map(|op| format!("{} {}", op["op"].as_str().unwrap(), op["target"].as_str().unwrap())).collect()
    };
    assert_eq!(ops(orders), ["set-timer reminders/7", "publish orders.7.created", "http-response 201"]);
    assert_eq!(ops(receipt), ["cancel-timer reminders/7"]);
    assert_eq!(project.json(&["timers", "list", "reminders"])["items"], serde_json::json!([]));
    let answer = project.post("/orders/8", r#"{"item": "kettle"}"#).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);

    // A failure, its end, and its repair.
    project.post("/orders/9", r#"{"item": "sample", "amount": 0}"#).await;
    eventually("the dead letter", async || !dead_letters(&project).is_empty()).await;
    let id = dead_letters(&project)[0].clone();
    let attempts: Vec<(u64, String)> = project.attempts("receipts").await.split_off(1);
    let words: Vec<&str> = attempts.iter().map(|(_, word)| word.as_str()).collect();
    assert_eq!(words, ["retry", "retry", "retry", "dead"]);
    eventually("the alert", async || !project.attempts("alerts").await.is_empty()).await;
    let manifest = project.path("tripline.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("FREE_ORDERS = \"no\"", "FREE_ORDERS = \"yes\"")).unwrap();
    eventually("the repaired version", async || {
        project.json(&["versions", "receipts"])["items"][0]["version"] == serde_json::json!(2)
    })
    .await;
    project.json(&["dlq", "redrive", &id]);
    eventually("the receipt after all", async || {
        project.attempts("receipts").await.last().is_some_and(|(_, word)| word == "ok")
    })
    .await;
    assert!(dead_letters(&project).is_empty());

    // Each in its own way.
    project.run(&["publish", "orders.10.created", r#"{"item": "poison"}"#]);
    eventually("poison to die at once", async || !dead_letters(&project).is_empty()).await;
    let shown = project.json(&["dlq", "list"]);
    assert_eq!((&shown["items"][0]["reason"], &shown["items"][0]["attempts"]), (&"permanent".into(), &1.into()));
    project.run(&["publish", "orders.11.created", r#"{"item": "slow"}"#]);
    eventually("slow to say when", async || {
        let traces = project.admin("/api/v1/traces?function=receipts").await;
        traces["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["retry_delay_ms"].as_u64().is_some_and(|ms| ms >= 2000))
    })
    .await;

    project.post("/orders/12", r#"{"item": "fail", "amount": 1}"#).await;
    eventually("to be reminded of an order without a receipt", async || {
        let traces = project.admin("/api/v1/traces?function=reminders").await;
        traces["items"].as_array().unwrap().iter().any(|row| row["subject"] == "reminders/12")
    })
    .await;

    let answer = project.get("/hello?name=Ada").await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "Hello, Ada!\n"));
    let answer = project.http(Method::POST, "/report", &[], "two lines\nof text").await;
    assert!(answer.text().contains("2 lines, 4 words"), "{}", answer.text());
    let answer = project.post("/report", "fail").await;
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"guest_error".into()));
    eventually("the schedule to fire", async || {
        let traces = project.admin("/api/v1/traces?function=report").await;
        traces["items"].as_array().unwrap().iter().any(|row| row["trigger_type"] == "cron")
    })
    .await;
}

#[tokio::test]
async fn a_failing_consumer_of_dead_letters_is_no_loop() {
    let project = quickstart();
    let manifest = project.path("tripline.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    // It is subscribed to the topic that its own dead letters go to.
    let text = text.replace("env_vars = { FAIL = \"0\" }", "env_vars = { FAIL = \"1\" }\ndlq_topic = \"dead.alerts\"");
    std::fs::write(&manifest, text.replace("[engine]", "[engine]\nmax_depth = 4")).unwrap();
    let _engine = project.serve().await;
    project.run(&["publish", "orders.10.created", r#"{"item": "poison"}"#]);
    eventually("the chain to be cut", async || {
        project.json(&["dlq", "list"])["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|dead| dead["reason"] == "depth_exceeded")
    })
    .await;
    let alerts = project.attempts("alerts").await;
    assert_eq!(alerts.len(), 5, "four attempts, and one refusal that nobody is told about: {alerts:?}");
}

/// What the engine printed.
fn said(project: &Project) -> String {
    std::fs::read_to_string(project.path("out")).unwrap_or_default()
}

fn dead_letters(project: &Project) -> Vec<String> {
    let listed = project.json(&["dlq", "list", "--function", "receipts"]);
    let items = listed["items"].as_array().unwrap();
    items.iter().map(|dead| dead["invocation_id"].as_str().unwrap().to_owned()).collect()
}

/// The files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string().trim_start_matches("sha256:").to_owned()
}

#[test]
fn committed_modules_match_their_sources() {
    let lock: toml::Table =
        std::fs::read_to_string(workspace().join("examples/modules.lock")).unwrap().parse().unwrap();
    let modules = lock["module"].as_array().unwrap();
    let mut listed = Vec::new();
    for module in modules {
        let text = |key: &str| module[key].as_str().unwrap();
        let path = workspace().join(text("path"));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(hex(&bytes), text("sha256"), "{} was changed: run examples/build.sh", text("path"));
        let sources = workspace().join(text("sources"));
        let mut inputs = files(&sources.join("src"));
        inputs.extend(files(&workspace().join("sdk/rust/src")));
        inputs.extend(files(&workspace().join("wit")));
        inputs.push(sources.join("Cargo.toml"));
        inputs.push(workspace().join("examples/Cargo.toml"));
        inputs.push(workspace().join("examples/Cargo.lock"));
        inputs.push(workspace().join("sdk/rust/Cargo.toml"));
        let lines: BTreeMap<String, String> = inputs
            .iter()
            .map(|input| {
                let relative = input.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
                (relative, hex(&std::fs::read(input).unwrap()))
            })
            .collect();
        let text_of_sources: String = lines.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
        let digest = hex(text_of_sources.as_bytes());
        assert_eq!(digest, text("sources_sha256"), "the sources of {} changed: run examples/build.sh", text("path"));
        listed.push(path);
    }
    for directory in ["examples/chat/modules", "examples/quickstart/modules", "tests/guests"] {
        for file in files(&workspace().join(directory)) {
            if file.extension().is_some_and(|extension| extension == "wasm") {
                assert!(listed.contains(&file), "{} is not in examples/modules.lock", file.display());
            }
        }
    }
}

#[test]
fn every_test_that_the_features_name_exists() {
    let features = std::fs::read_to_string(workspace().join("docs/features.md")).unwrap();
    let sources: String = ["src", "sdk", "triggers", "tests"]
        .iter()
        .flat_map(|directory| files(&workspace().join(directory)))
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let missing: Vec<&str> = features
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "docs/features.md names tests that are not there: {missing:?}");
}
