//! What is wrong is told in one clear message with the right exit code, and nothing is half-started.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::engine::Project;

const HELLO: &str = r#"
[functions.steer]
module = "steer.wasm"
[[functions.steer.triggers]]
type = "http"
path = "/"
"#;

fn project(engine: &str, functions: &str) -> Project {
    let project = Project::new(engine, functions);
    project.guest("steer.wat", "steer.wasm");
    project
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn ten_mistakes_are_told_in_one_run() {
    let project = project(
        "bus = \"carrier-pigeon\"\nmax_dept = 3",
        r#"
[functions.one]
module = "missing.wasm"
memory_limit_mb = 0
timeout_seconds = "ten"
retry_coun = 3
dlq_topic = "dead..one"
[[functions.one.triggers]]
type = "http"
path = "no-slash"
[[functions.one.triggers]]
type = "cron"
schedule = "61 * * * *"
[[functions.one.triggers]]
type = "kafka"
[[functions.one.triggers]]
type = "database"
channl = "images"
"#,
    );
    for verb in ["check", "serve"] {
        let output = project.run(&[verb]);
        assert_eq!(output.status.code(), Some(64), "{verb}: {}", stderr(&output));
        let said = stderr(&output);
        for part in [
            "carrier-pigeon",
            "max_dept",
            "missing.wasm",
            "memory_limit_mb",
            "timeout_seconds",
            "retry_coun",
            "dead..one",
            "no-slash",
            "61",
            "kafka",
            "channl",
        ] {
            assert!(said.contains(part), "{verb}: {part:?} is not in\n{said}");
        }
        assert!(!project.path(".tripline").exists(), "nothing was half-started");
    }
    let output = project.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(64));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = report.to_string();
    assert!(text.contains("\"line\""), "{text}");
}

#[test]
fn a_sound_manifest_passes_and_its_schema_is_printed() {
    let project = project("", HELLO);
    let output = project.run(&["check"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = project.run(&["check", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let manifest: toml::Table = std::fs::read_to_string(project.path("tripline.toml")).unwrap().parse().unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let manifest = serde_json::to_value(manifest).unwrap();
    assert!(
        validator.is_valid(&manifest),
        "{:?}",
        validator.iter_errors(&manifest).map(|error| error.to_string()).collect::<Vec<_>>()
    );
    assert!(!validator.is_valid(&serde_json::json!({ "functions": { "one": { "modul": "x" } } })));
}

#[test]
fn modules_that_cannot_run_are_refused_by_name() {
    for (name, text, part) in [
        ("no known export", "(module)", "exports none of the known interfaces"),
        (
            "an import that is not offered",
            r#"(module (import "env" "launch_missiles" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
            "launch_missiles",
        ),
    ] {
        let project = project("", HELLO);
        project.wat(text, "steer.wasm");
        let output = project.run(&["serve"]);
        assert_eq!(output.status.code(), Some(64), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{name}: {}", stderr(&output));
    }
    let project = project("", HELLO);
    std::fs::write(project.path("steer.wasm"), b"not wasm at all").unwrap();
    let output = project.run(&["check"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("not a WebAssembly module"), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let project = project("", HELLO);
    for port in [project.public, project.admin] {
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = project.run(&["serve"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(&port.to_string()), "{}", stderr(&output));
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let project = project("store = \"sqlite:/proc/tripline/state.db\"", HELLO);
    let output = project.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("/proc/tripline"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_second_engine_on_one_store_is_refused_and_the_file_is_private() {
    let project = project("", HELLO);
    let _engine = project.serve().await;
    let state = project.path(".tripline/state.db");
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o077, 0);
    let other = Project::new(&format!("store = \"sqlite:{}\"", state.display()), HELLO);
    other.guest("steer.wat", "steer.wasm");
    let output = other.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("state.db"), "{}", stderr(&output));
}

#[test]
fn a_verb_without_an_engine_says_so() {
    let project = project("", HELLO);
    let output = project.run(&["traces"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no engine answers"), "{}", stderr(&output));
    assert_eq!(project.run(&["tracez"]).status.code(), Some(2));
}

#[tokio::test]
async fn the_admin_api_answers_programs_not_web_pages() {
    let project = project("", HELLO);
    let _engine = project.serve().await;
    for (header, value) in [("origin", "https://evil.example"), ("host", "evil.example")] {
        let request = http::Request::get(format!("http://127.0.0.1:{}/api/v1/traces", project.admin))
            .header(header, value)
            .body(http_body_util::Full::<bytes::Bytes>::default())
            .unwrap();
        let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        assert_eq!(client.request(request).await.unwrap().status(), 403, "{header}");
    }
    let project = project_on("0.0.0.0:0");
    let output = project.run(&["serve"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("loopback"), "{}", stderr(&output));
}

fn project_on(admin: &str) -> Project {
    let project = project("", HELLO);
    let text = std::fs::read_to_string(project.path("tripline.toml")).unwrap();
    let text = text.replace(&format!("127.0.0.1:{}", project.admin), admin);
    std::fs::write(project.path("tripline.toml"), text).unwrap();
    project
}
