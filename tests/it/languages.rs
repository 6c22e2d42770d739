//! The functions in other languages of `examples/languages`, run by `tripline invoke --local`.
//!
//! Small modules are committed. Those that take megabytes are built by `examples/languages/build.sh`, and their tests are
//! ignored unless they are asked for: `cargo nextest run -p tripline --test it languages --run-ignored all`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tripline::functions::Digest;

use crate::support::engine::{Project, workspace};

/// They all do the same: greet whom the payload names.
fn greets(module: &str) {
    let module = workspace().join(module);
    assert!(module.exists(), "{} is not there: run examples/languages/build.sh", module.display());
    let project = Project::new("", "");

    let greeted = invoke(&project, &module, "Zoë 🎉".as_bytes(), &["-e", "GREETING=Salut", "--json"]);
    let ran: Value = serde_json::from_slice(&greeted.stdout).unwrap_or_else(|_| panic!("{}", stderr(&greeted)));
    assert_eq!(
        (&ran["ok"], &ran["abi"], &ran["body"]),
        (&true.into(), &"component".into(), &"Salut, Zoë 🎉!\n".into())
    );
    let message = &ran["messages"][0];
    assert_eq!((&message["subject"], &message["payload"]), (&"greetings.sent".into(), &"Zoë 🎉".into()), "{ran}");
    let log = &ran["detail"]["logs"][0];
    assert_eq!((&log["level"], &log["message"]), (&"info".into(), &"greeting Zoë 🎉".into()), "{ran}");

    for (payload, why) in
        [(&b""[..], "the payload names nobody to greet"), (b"\xe2\x82", "the payload is no UTF-8 text")]
    {
        let failed = invoke(&project, &module, payload, &[]);
        assert_eq!(failed.status.code(), Some(1));
        let told = stderr(&failed);
        assert!(told.contains(&format!("failed (guest_error): {why}\n")) && told.contains("(permanent)"), "{told}");
    }
}

/// WASI commands greet too, with what those have: the answer on stdout, the log on stderr, an exit code.
fn greets_as_a_command(module: &str) {
    let module = workspace().join(module);
    assert!(module.exists(), "{} is not there: run examples/languages/build.sh", module.display());
    let project = Project::new("", "");

    // More than one read of stdin brings.
    for name in ["Zoë 🎉".to_owned(), "Zoë 🎉".repeat(2_000)] {
        let greeted = invoke(&project, &module, name.as_bytes(), &["-e", "GREETING=Salut", "--json"]);
        let ran: Value = serde_json::from_slice(&greeted.stdout).unwrap_or_else(|_| panic!("{}", stderr(&greeted)));
        assert_eq!(
            (&ran["ok"], &ran["abi"], &ran["body"]),
            (&true.into(), &"command".into(), &format!("Salut, {name}!\n").into())
        );
        let log = &ran["detail"]["logs"][0];
        assert_eq!(log["level"], "stderr", "{ran}");
        assert!(log["message"].as_str().unwrap().starts_with("greeting Zoë 🎉"), "{ran}");
    }

    let failed = invoke(&project, &module, b"", &[]);
    assert_eq!(failed.status.code(), Some(1));
    let told = stderr(&failed);
    let why = "failed (guest_error): exit code 65: the payload names nobody to greet\n";
    assert!(told.contains(why) && told.contains("(permanent)"), "{told}");
}

fn invoke(project: &Project, module: &Path, payload: &[u8], arguments: &[&str]) -> Output {
    let mut command = project.command(&["invoke", "--local", module.to_str().unwrap(), "-", "--timeout", "60s"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(payload).unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_function_in_c_greets() {
    greets("examples/languages/modules/c.wasm");
}

#[test]
fn a_function_in_zig_greets() {
    greets("examples/languages/modules/zig.wasm");
}

#[test]
fn a_function_in_assemblyscript_greets() {
    greets_as_a_command("examples/languages/modules/assemblyscript.wasm");
}

#[test]
#[ignore = "needs its module, 1.1 MB: examples/languages/build.sh javascript"]
fn a_function_in_javascript_greets() {
    greets("target/languages/javascript.wasm");
}

#[test]
#[ignore = "needs its module, 18 MB: examples/languages/build.sh python"]
fn a_function_in_python_greets() {
    greets("target/languages/python.wasm");
}

#[test]
#[ignore = "needs its module, 2.5 MB: examples/languages/build.sh go"]
fn a_function_in_go_greets() {
    greets_as_a_command("target/languages/go.wasm");
}

#[test]
fn committed_modules_in_other_languages_match_their_sources() {
    let lock = std::fs::read_to_string(workspace().join("examples/languages/modules.lock")).unwrap();
    let locked: Vec<(&str, &str)> = lock.lines().map(|line| line.split_once("  ").unwrap()).collect();
    for (digest, path) in &locked {
        let bytes = std::fs::read(workspace().join(path)).unwrap();
        let wrong = format!("{path} was changed: run examples/languages/build.sh --lock");
        assert_eq!(Digest::of(&bytes).to_string(), format!("sha256:{digest}"), "{wrong}");
    }
    for folder in ["modules", "c", "zig", "assemblyscript"].map(|folder| format!("examples/languages/{folder}")) {
        for file in std::fs::read_dir(workspace().join(&folder)).unwrap() {
            let path = file.unwrap().path();
            let listed = locked.iter().any(|(_, listed)| workspace().join(listed) == path);
            assert!(listed, "{} is not in examples/languages/modules.lock", path.display());
        }
    }
}
