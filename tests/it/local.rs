//! `tripline invoke --local`: a module run once, without an engine.

use std::process::Output;

use serde_json::Value;

use crate::support::engine::{Project, workspace};

/// A function that may enqueue thumbnails and nothing else.
const WORK: &str = r#"
[functions.work]
module = "work.wasm"
retry_count = 1
retry_delay_seconds = 7
retry = { jitter = "none" }
env_vars = { SIZE = "320" }
allow = { jobs = ["thumbs"] }
"#;

fn project() -> Project {
    let project = Project::new("", WORK);
    project.guest("work.component.wasm", "work.wasm");
    project
}

/// Runs a verb without a word about any engine.
fn invoke(project: &Project, arguments: &[&str]) -> Output {
    let module = project.path("work.wasm");
    let mut command = project.command(&["invoke", "--local", module.to_str().unwrap()]);
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_module_runs_once_and_tells_what_it_asked_for_and_what_that_needs() {
    let project = project();
    let output =
        invoke(&project, &["enqueue thumbs after=60000 large\nset reminders 7 1000 soon\ncancel-timer reminders 9"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).ends_with("Ok(())\nOk(Cancelled::Unknown)\n"), "{}", stdout(&output));
    let told = stderr(&output);
    for part in [
        "component as job event, attempt 1: ok",
        "host     enqueue thumbs",
        "host     cancel-timer reminders/9",
        "job      thumbs at ",
        "timer    reminders 7 at ",
        r#"it needs allow = { jobs = ["thumbs"], timers = ["reminders"] }"#,
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

#[test]
fn with_a_function_of_the_manifest_its_grants_and_its_retries_count() {
    let project = project();
    // The commands run in the project's directory, where the manifest is.
    let of_function = ["--function", "work"];
    let output = invoke(&project, &[&["enqueue mails x\nenqueue thumbs y", "--json"], &of_function[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let ran: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(ran["body"].as_str().unwrap().starts_with("Error::Denied("), "{ran}");
    assert_eq!((&ran["ok"], &ran["abi"]), (&true.into(), &"component".into()));
    assert_eq!(ran["events"].as_array().unwrap().len(), 1);
    assert_eq!((&ran["events"][0]["trigger"], &ran["events"][0]["payload"]), (&"thumbs".into(), &"y".into()));
    let ops = ran["detail"]["host_ops"].as_array().unwrap();
    assert!(ops[0]["error"].as_str().unwrap().contains("functions.work.allow.jobs"), "{ran}");

    let output = invoke(&project, &[&["fail"], &of_function[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).is_empty());
    let told = stderr(&output);
    assert!(told.contains("failed (guest_error): told to fail"), "{told}");
    assert!(told.contains("an engine would try again after about 7s"), "{told}");
    let output = invoke(&project, &[&["fail", "--attempt", "2"], &of_function[..]].concat());
    assert!(stderr(&output).contains("give it up (retries_exhausted)"), "{}", stderr(&output));

    let output = invoke(&project, &["", "--function", "other"]);
    assert!(stderr(&output).contains(r#"has no function "other", it has work"#), "{}", stderr(&output));
}

#[test]
fn an_event_is_what_one_says_it_is() {
    let project = project();
    let hello = workspace().join("tests/guests/hello-http.wasm");
    let run = |arguments: &[&str]| {
        project.command(&[&["invoke", "--local", hello.to_str().unwrap()], arguments].concat()).output().unwrap()
    };
    let over_http = run(&["-A", "path=/hello", "-A", "method=GET"]);
    assert!(
        stderr(&over_http).starts_with("wasi-http as http event, attempt 1: ok (200 OK)"),
        "{}",
        stderr(&over_http)
    );
    assert!(!over_http.stdout.is_empty());
    let over_cron = run(&["--trigger", "cron", "--attempt", "3", "--json"]);
    assert!(over_cron.status.success(), "{}", stderr(&over_cron));

    let slow = invoke(&project, &["spin", "--timeout", "50ms"]);
    assert!(stderr(&slow).contains("failed (timeout)"), "{}", stderr(&slow));
    for (arguments, expected) in [
        (&["--trigger", "smoke"][..], "expected one of http, websocket"),
        (&["--attempt", "0"], "0 is not in 1.."),
        (&["-A", "path"], "expected name=value"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn entries_last_for_the_attempt_and_nobody_else_is_there() {
    let project = project();
    project.guest("hosts.component.wasm", "work.wasm");
    let lines = "set carts 7 kettle\nget carts 7\nsecret KEY\ninvoke other hello\nhttp GET http://127.0.0.1:9/";
    let output = invoke(&project, &[lines]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (said, told) = (stdout(&output), stderr(&output));
    let said: Vec<&str> = said.lines().collect();
    assert!(said[1].ends_with(" kettle"), "{said:?}");
    assert!(said[2].contains("Denied") && said[3].contains("no engine here") && said[4].contains("Denied"), "{said:?}");
    assert!(told.contains(r#"kv = ["carts"], invoke = ["other"], http = ["http://127.0.0.1:9"]"#), "{told}");
    // Granted, it is still no way to this machine.
    let output = invoke(&project, &["http GET http://127.0.0.1:9/", "--allow-http", "http://127.0.0.1:9"]);
    assert!(stdout(&output).contains("Denied"), "{}", stdout(&output));
    let output = invoke(&project, &["x", "--allow-http", "127.0.0.1"]);
    assert!(stderr(&output).contains("--allow-http: it has no scheme"), "{}", stderr(&output));
}

#[test]
fn what_is_no_function_is_told_apart_from_one_that_fails() {
    let project = project();
    std::fs::write(project.path("work.wasm"), "no module").unwrap();
    let output = invoke(&project, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert!(stderr(&output).starts_with("tripline: not a WebAssembly module or component: "), "{}", stderr(&output));
    std::fs::remove_file(project.path("work.wasm")).unwrap();
    assert!(stderr(&invoke(&project, &[])).contains("cannot read "));
}
