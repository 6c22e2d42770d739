//! Whole manifests: what is meant by them, and every way to be mistaken.

mod bad;
mod reference;
mod sound;

use super::fakes::Bell;
use super::*;
use trigger_core::Kind;

/// What exists for tests, and what this build has of the real kinds.
pub(super) fn kinds() -> Kinds {
    let mut kinds = real_kinds();
    kinds.add(Bell).unwrap();
    kinds
}

/// The kinds of this build, with nothing behind them, but jobs: their word is the fake kind's.
pub(super) fn real_kinds() -> Kinds {
    #[cfg_attr(
        not(any(feature = "http", feature = "pubsub", feature = "cron", feature = "timer")),
        expect(unused_mut, reason = "there is nothing to add")
    )]
    let mut kinds = Kinds::new();
    #[cfg(feature = "http")]
    kinds.add(trigger_http::Http::default()).unwrap();
    #[cfg(feature = "websocket")]
    {
        let listener = std::sync::Arc::new(trigger_http::Routes::default());
        kinds.add(trigger_websocket::Websocket::new(Default::default(), listener)).unwrap();
    }
    #[cfg(feature = "pubsub")]
    kinds.add(trigger_pubsub::Pubsub::checks_only(true)).unwrap();
    #[cfg(feature = "cron")]
    kinds.add(trigger_cron::Cron::default()).unwrap();
    #[cfg(feature = "timer")]
    kinds.add(trigger_timer::Timer::default()).unwrap();
    kinds
}

fn manifest(text: &str) -> Result<Manifest, Report> {
    Document::parse("tripline.toml", text)?.manifest(&kinds())
}

fn sound(text: &str) -> Manifest {
    manifest(text).unwrap_or_else(|report| panic!("{report}"))
}

fn told(text: &str) -> Vec<String> {
    let report = manifest(text).expect_err(text);
    report.mistakes().iter().map(|one| format!("{}:{} {one}", one.line, one.column)).collect()
}

/// A manifest of one function with these lines below its module.
fn with_function(lines: &str) -> String {
    format!("[functions.one]\nmodule = \"one.wasm\"\n{lines}\n")
}

/// A manifest of one function with a bell.
fn with_bell(lines: &str) -> String {
    with_function(&format!("[[functions.one.triggers]]\ntype = \"job\"\n{lines}"))
}

#[test]
fn secrets_are_in_nothing_that_is_printed() {
    let text = "[engine]\nbus = \"nats://me:hunter2@host\"\nstore = \"postgres://me:hunter2@db\"\n\
                secrets = { A = \"hunter2\", B = { env = 4711 } }\n\
                [functions.one]\nmodule = 5\nenv_vars = { KEY = \"hunter2\", PIN = 4711, 2BAD = \"hunter2\" }\n";
    let document = Document::parse("tripline.toml", text).unwrap();
    let config = document.engine();
    assert_eq!(config.bus, BusConfig::Nats { servers: Secret::new("nats://me:hunter2@host"), credentials_file: None });
    let report = document.manifest(&kinds()).unwrap_err();
    assert_eq!(report.mistakes().len(), 7, "{report}");
    let broken = Document::parse("tripline.toml", &text.replace("4711", "4711,,")).err().unwrap();
    for printed in [
        format!("{config:?}"),
        format!("{report:?}"),
        report.to_string(),
        crate::cli::check::failure_text(&report, false),
        crate::cli::check::failure_json(&report),
        format!("{broken:?}"),
        crate::cli::check::failure_text(&broken, false),
    ] {
        assert!(!printed.contains("hunter2") && !printed.contains("4711"), "{printed}");
    }
}

#[test]
fn a_secret_that_is_not_where_it_is_said_to_be_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tripline.toml");
    let text = "[engine.secrets]\nONE = { env = \"TRIPLINE_NO_SUCH_VARIABLE\" }\nTWO = { file = \"two\" }\n";
    std::fs::write(&path, text).unwrap();
    let read = || Document::read(&path).unwrap().manifest(&kinds());
    let told = read().unwrap_err().to_string();
    assert!(
        told.contains("engine.secrets.ONE: the secret ONE cannot be read: the variable TRIPLINE_NO_SUCH"),
        "{told}"
    );
    assert!(told.contains("engine.secrets.TWO: the secret TWO cannot be read: the file "), "{told}");
    std::fs::write(directory.path().join("two"), "hunter2\n").unwrap();
    let told = read().unwrap_err().to_string();
    assert!(!told.contains("TWO") && !told.contains("hunter2"), "{told}");
    assert!(manifest(text).is_ok(), "a text alone is not looked up");
}

#[test]
fn a_file_is_read_within_its_limit_and_its_modules_are_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tripline.toml");
    let read = || Document::read(&path).and_then(|document| document.manifest(&kinds()));
    let told = || read().unwrap_err().to_string();
    assert!(told().contains("cannot read the manifest: No such file"), "{}", told());
    std::fs::write(&path, "#".repeat(MAX_MANIFEST_BYTES as usize + 1)).unwrap();
    assert!(told().contains("larger than 4194304 bytes"), "{}", told());
    std::fs::write(&path, b"a = 1\n# \xff\n").unwrap();
    assert!(told().contains("not UTF-8 text (line 2)"), "{}", told());
    std::fs::write(&path, "[functions.one]\nmodule = \"one.wasm\"\n").unwrap();
    assert!(told().contains("one.wasm: No such file"), "{}", told());
    std::fs::create_dir(directory.path().join("one.wasm")).unwrap();
    assert!(told().contains("one.wasm is not a file"), "{}", told());
    std::fs::remove_dir(directory.path().join("one.wasm")).unwrap();
    std::fs::write(directory.path().join("one.wasm"), b"1234").unwrap();
    assert_eq!(read().unwrap().functions[0].module, directory.path().join("one.wasm"));
    std::fs::write(&path, "[engine]\nmax_module_bytes = 3\n[functions.one]\nmodule = \"one.wasm\"\n").unwrap();
    assert!(told().contains("has 4 bytes, the limit is 3"), "{}", told());
}

#[test]
fn what_others_find_is_told_at_its_place() {
    let document = Document::parse("tripline.toml", &with_function("")).unwrap();
    let path = vec!["functions".into(), "one".into(), "module".into()];
    let report = document.report(vec![Problem { path, message: "it is stale".to_owned(), help: None }]);
    assert_eq!(report.to_string(), "tripline.toml:2:10: functions.one.module: it is stale");
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    /// Pieces that manifests are made of, so that what comes together is often nearly one.
    fn pieces() -> impl Strategy<Value = String> {
        let words = [
            "[engine]\n",
            "[functions.one]\n",
            "[[functions.one.triggers]]\n",
            "[functions.one.env_vars]\n",
            "module",
            "type",
            "tune",
            "bus",
            "store",
            "name",
            "env_vars",
            "retry",
            "allow",
            "publish",
            "triggers",
            "functions",
            "engine",
            " = ",
            "\"job\"",
            "\"http\"",
            "\"memory\"",
            "\"nats://a:b@c\"",
            "{",
            "}",
            "[",
            "]",
            ",",
            "\n",
            ".",
            "0",
            "-1",
            "1e9",
            "nan",
            "true",
            "\"",
            "'",
            "\"\"\"",
            "#",
            "é",
            "\0",
            "2027-01-01",
            "max_depth",
            "timeout_seconds",
        ];
        prop::collection::vec(prop::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in prop_oneof![pieces(), "\\PC{0,80}", ".{0,40}"]) {
            match Document::parse("tripline.toml", &text) {
                Err(report) => {
                    prop_assert_eq!(report.mistakes().len(), 1);
                    let _ = crate::cli::check::failure_text(&report, false);
                }
                Ok(document) => {
                    let engine = document.engine();
                    match document.manifest(&kinds()) {
                        Ok(manifest) => prop_assert_eq!(manifest.engine, engine),
                        Err(report) => {
                            prop_assert!(!report.mistakes().is_empty());
                            let _ = crate::cli::check::failure_text(&report, false);
                        }
                    }
                }
            }
        }
    }
}
