//! Every way in which a manifest can be mistaken, each with its place, what is wrong and what would be right.

use super::*;

#[test]
fn ten_mistakes_are_ten_messages_in_order_of_position() {
    let text = r#"
[engine]
bus = "carrier-pigeon"
max_dept = 3

[functions.one]
module = "one.wasm"
memory_limit_mb = 0
timeout_seconds = "ten"
retry_coun = 3
dlq_topic = "dead..one"

[[functions.one.triggers]]
type = "job"
tune = "silence"
strokes = 13

[[functions.one.triggers]]
type = "kafka"

[[functions.one.triggers]]
type = "database"
channel = "images"
"#;
    let report = manifest(text).unwrap_err();
    assert_eq!(report.mistakes().len(), 10);
    insta::assert_snapshot!(report, @r#"
    tripline.toml:3:7: engine.bus: there is no bus "carrier-pigeon" (write "memory", or NATS servers like "nats://127.0.0.1:4222", separated by commas)
    tripline.toml:4:1: engine.max_dept: unknown key (did you mean `max_depth`?)
    tripline.toml:8:19: functions.one.memory_limit_mb: expected a whole number from 1 to 4096, found 0 (Memory that one attempt may have, in MiB: linear memories together. At most the engine's `max_memory_mb`.)
    tripline.toml:9:19: functions.one.timeout_seconds: expected a number from 0.001 to 86400, found "ten" (Wall time of one attempt.)
    tripline.toml:10:1: functions.one.retry_coun: unknown key (did you mean `retry_count`?)
    tripline.toml:11:13: functions.one.dlq_topic: "dead..one" is not a subject: it has an empty token (two dots in a row, or a dot at an end) (write words with dots between them: "dead.orders")
    tripline.toml:15:8: functions.one.triggers[0].tune: no bell plays silence (leave the trigger out)
    tripline.toml:16:11: functions.one.triggers[0].strokes: expected a whole number from 1 to 12, found 13 (How often.)
    tripline.toml:19:8: functions.one.triggers[1].type: there is no trigger kind "kafka" (this build has "http", "websocket", "pubsub", "cron", "timer" and "job")
    tripline.toml:22:8: functions.one.triggers[2].type: the trigger kind "database" is not in this build (this build has "http", "websocket", "pubsub", "cron", "timer" and "job")
    "#);
}

#[test]
fn a_text_that_is_no_toml_is_one_mistake_at_its_place() {
    for (text, place) in [("a = \n b = 1\n", "1:5"), ("[functions.one\nmodule = 1", "1:15"), ("a = 1\na = 2\n", "2:1")]
    {
        let told = told(text);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(place), "{told:?}");
    }
}

#[test]
fn every_kind_resolves_even_where_the_build_lacks_it() {
    let kinds = real_kinds();
    for kind in Kind::ALL {
        let text = with_function(&format!("[[functions.one.triggers]]\ntype = \"{kind}\""));
        let told = match Document::parse("tripline.toml", &text).unwrap().manifest(&kinds) {
            Ok(_) => String::new(),
            Err(report) => report.to_string(),
        };
        assert!(!told.contains("there is no trigger kind"), "{told}");
        let refused = told.contains(&format!("the trigger kind \"{kind}\" is not in this build"));
        assert_eq!(refused, !kinds.has(kind), "{told}");
    }
    let told = told(&with_function("[[functions.one.triggers]]\ntype = \"jobs\""));
    assert!(told[0].contains("there is no trigger kind \"jobs\""), "{told:?}");
}

#[test]
fn triggers_that_exclude_each_other_are_told_across_functions() {
    let text = with_bell("tune = \"ding\"") + &with_bell("tune = \"ding\"").replace("one", "two");
    assert_eq!(
        told(&text),
        ["8:1 functions.two.triggers[0]: conflicts with the trigger job of one (line 3): both ring ding"]
    );
}

#[cfg(feature = "http")]
#[test]
fn the_same_route_twice_is_refused() {
    let route = |path: &str| format!("[[functions.one.triggers]]\ntype = \"http\"\npath = \"{path}\"\n");
    let told = told(&with_function(&[route("/a/{id}"), route("/b"), route("/a/{number}")].concat()));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("9:1 functions.one.triggers[2]: conflicts with the trigger http of one (line 3)"),
        "{told:?}"
    );
}

#[cfg(feature = "http")]
#[test]
fn what_is_mistaken_about_callers_is_told() {
    for (lines, expected) in [
        ("auth = { type = \"tokens\" }", "auth.type: expected \"none\", \"basic\""),
        ("auth = {}", "auth.type: this key is missing"),
        ("auth = \"token\"", "auth: expected a table, found \"token\""),
        ("auth = { type = \"basic\" }", "auth.secrets: no secret is named"),
        ("auth = { type = \"basic\", secrets = [\"X\"] }", "auth.secrets[0]: the engine has no secret \"X\""),
        ("auth = { type = \"none\", scopes = [\"a\"] }", "auth.scopes: type = \"none\" has no use for it"),
    ] {
        let told =
            told(&with_function(&format!("[[functions.one.triggers]]\ntype = \"http\"\npath = \"/a\"\n{lines}")));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("functions.one.triggers[0].{expected}")), "{told:?}");
    }
}

#[cfg(feature = "http")]
#[test]
fn a_private_functions_routes_ask_for_a_token_and_are_never_open() {
    let route = |auth: &str| {
        with_function(&format!("is_public = false\n[[functions.one.triggers]]\ntype = \"http\"\npath = \"/a\"\n{auth}"))
    };
    let auth = |text: &str| sound(text).functions[0].triggers[0].config["auth"].clone();
    assert_eq!(auth(&route("")), serde_json::json!({ "type": "token" }));
    assert_eq!(auth(&route("auth = { type = \"token\", scopes = [\"a\"] }"))["scopes"], serde_json::json!(["a"]));
    let told = told(&route("auth = { type = \"none\" }"));
    assert!(told[0].contains("triggers[0].auth.type: everybody may call"), "{told:?}");
    let public = with_function("[[functions.one.triggers]]\ntype = \"http\"\npath = \"/a\"");
    assert_eq!(auth(&public), serde_json::Value::Null);
}

#[test]
fn too_many_are_refused_before_they_cost_much() {
    let functions: String = (0..5000).map(|number| format!("[functions.f{number}]\nmodule = \"m\"\n")).collect();
    assert_eq!(told(&functions).len(), 1);
    assert!(told(&functions)[0].contains("at most 4096 functions, this one has 5000"));
    let bells: String =
        (0..5000).map(|number| format!("[[functions.one.triggers]]\ntype = \"job\"\ntune = \"{number}\"\n")).collect();
    let told = told(&with_function(&bells));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("at most 4096 triggers"), "{told:?}");
}

/// Lines below a function's module (or, with an `engine:` in front, below `[engine]`), and what is said of them.
const BAD: &[(&str, &str)] = &[
    // What is no section at all.
    ("top:engine = 5", "engine: expected a table, found 5"),
    ("top:functions = []", "functions: expected a table, found an array"),
    ("top:functions.one = 5", "functions.one: expected a table, found 5"),
    ("top:[[functions.one]]", "functions.one: expected a table, found an array"),
    ("top:engin = {}", "engin: unknown key (did you mean `engine`?)"),
    // Numbers that are none, or too large, or not finite.
    ("engine:max_depth = \"three\"", "engine.max_depth: expected a whole number from 0 to 1000, found \"three\""),
    ("engine:max_depth = 1.5", "engine.max_depth: expected a whole number from 0 to 1000, found 1.5"),
    ("engine:max_depth = -1", "engine.max_depth: expected a whole number from 0 to 1000, found -1"),
    ("engine:lease_seconds = nan", "engine.lease_seconds: the number is not finite"),
    ("engine:max_module_bytes = 99999999999999999999", "engine.max_module_bytes: the number has too many digits"),
    ("timeout_seconds = 0", "functions.one.timeout_seconds: expected a number from 0.001 to 86400, found 0"),
    ("timeout_seconds = inf", "functions.one.timeout_seconds: the number is not finite"),
    ("memory_limit_mb = 4097", "functions.one.memory_limit_mb: expected a whole number from 1 to 4096, found 4097"),
    ("retry_count = 1001", "functions.one.retry_count: expected a whole number from 0 to 1000, found 1001"),
    ("retry_delay_seconds = -1", "functions.one.retry_delay_seconds: expected a number from 0 to 2592000, found -1"),
    ("retry = { factor = 0.5 }", "functions.one.retry.factor: expected a number from 1 to 100, found 0.5"),
    ("concurrency = 0", "functions.one.concurrency: expected a whole number from 1 to 10000, found 0"),
    // Words.
    ("engine:synchronous = \"half\"", "engine.synchronous: expected \"full\" or \"normal\", found \"half\""),
    (
        "retry = { backoff = \"cubic\" }",
        "functions.one.retry.backoff: expected \"fixed\", \"linear\" or \"exponential\", found \"cubic\"",
    ),
    (
        "retry = { except = [\"trap\", \"denied\"] }",
        "functions.one.retry.except[1]: expected \"timeout\", \"memory\", \"trap\", \"fuel\", \"guest_error\" or \"host_error\", found \"denied\"",
    ),
    ("is_public = \"yes\"", "functions.one.is_public: expected true or false, found \"yes\""),
    ("retry = 3", "functions.one.retry: expected a table, found 3"),
    // Keys.
    ("engine:max_dept = 3", "engine.max_dept: unknown key (did you mean `max_depth`?)"),
    ("engine:traces = { rings = 3 }", "engine.traces.rings: unknown key (did you mean `ring`?)"),
    ("engine:http = { tls = true }", "engine.http.tls: unknown key (known here: body_read_timeout_seconds, "),
    ("retry = { cout = 3 }", "functions.one.retry.cout: unknown key (known here: "),
    ("allow = { publsh = [] }", "functions.one.allow.publsh: unknown key (did you mean `publish`?)"),
    ("name = \"one\"", "functions.one.name: unknown key (known here: "),
    // What belongs together.
    ("memory_limit_mb = 1100", "functions.one.memory_limit_mb: 1100 is more than the engine's max_memory_mb, 1024"),
    (
        "retry_delay_seconds = 301",
        "functions.one.retry_delay_seconds: the first delay of 301 s is longer than the longest",
    ),
    (
        "engine:bus_credentials_file = \"x\"",
        "engine.bus_credentials_file: the bus is \"memory\", which has no credentials",
    ),
    ("engine:listen = \"127.0.0.1:7071\"", "engine.admin_listen: port 7071 is that of listen already"),
    ("engine:admin_listen = \"0.0.0.0:1\"", "engine.admin_listen: 0.0.0.0:1 is not a loopback address"),
    ("engine:listen = \"7070\"", "engine.listen: \"7070\" is not an address and a port"),
    ("engine:namespace = \"My Shop\"", "engine.namespace: a namespace cannot be called \"My Shop\""),
    ("engine:store = \"postgres://db\"", "engine.store: the store's address names no database"),
    ("engine:bus = \"carrier-pigeon\"", "engine.bus: there is no bus \"carrier-pigeon\""),
    // Subjects.
    ("dlq_topic = \"dead.>\"", "functions.one.dlq_topic: \"dead.>\" is not a subject: wildcard"),
    ("dlq_topic = \"\"", "functions.one.dlq_topic: \"\" is not a subject: it is empty"),
    (
        "allow = { publish = [\"a.b\", \"a..b\"] }",
        "functions.one.allow.publish[1]: \"a..b\" is not a pattern of subjects",
    ),
    ("allow = { publish = \"a.b\" }", "functions.one.allow.publish: expected an array of strings, found \"a.b\""),
    ("allow = { jobs = [\"mail..x\"] }", "functions.one.allow.jobs[0]: \"mail..x\" is not a pattern of queues"),
    ("allow = { timers = [\"\"] }", "functions.one.allow.timers[0]: \"\" is not a pattern of timers"),
    ("allow = { kv = [\"a b\"] }", "functions.one.allow.kv[0]: \"a b\" is not a pattern of buckets"),
    ("allow = { secrets = [\"API_KEY\"] }", "functions.one.allow.secrets[0]: the engine has no secret \"API_KEY\""),
    ("engine:secrets = { 2A = { env = \"A\" } }", "engine.secrets.2A: a secret cannot be called \"2A\""),
    ("engine:secrets = { A = \"hunter2\" }", "engine.secrets.A: expected a table, found a string"),
    ("engine:secrets = { A = {} }", "engine.secrets.A: a secret is in a variable or in a file"),
    (
        "engine:secrets = { A = { env = \"A\", file = \"a\" } }",
        "engine.secrets.A: a secret is in a variable or in a file",
    ),
    (
        "allow = { http = [\"https://a\", \"api.example.com\"] }",
        "functions.one.allow.http[1]: \"api.example.com\" cannot be granted: it has no scheme",
    ),
    (
        "engine:egress = { allow_networks = [\"10.0.0.0\"] }",
        "engine.egress.allow_networks[0]: \"10.0.0.0\" is not a network",
    ),
    ("allow = { invoke = [\"a..b\"] }", "functions.one.allow.invoke[0]: \"a..b\" is not a pattern of functions"),
    // The environment. What is set there is repeated nowhere.
    ("env_vars = { A = 1234 }", "functions.one.env_vars.A: expected a string, found a number"),
    ("env_vars = { A = [\"x\"] }", "functions.one.env_vars.A: expected a string, found an array"),
    ("env_vars = { 2A = \"\" }", "functions.one.env_vars.2A: a variable cannot be called \"2A\""),
    ("env_vars = { A = \"\\u0000\" }", "functions.one.env_vars.A: the value holds a NUL"),
    ("env_vars = [\"A=1\"]", "functions.one.env_vars: expected a table, found an array"),
    // Names and modules.
    (
        "[functions.\"Two Words\"]\nmodule = \"x\"",
        "functions.Two Words: a function cannot be called \"Two Words\" (use ",
    ),
    ("[functions.two]", "functions.two.module: this key is missing (The file of its module"),
    ("[functions.two]\nmodule = \"\"", "functions.two.module: expected a string that is not empty, found \"\""),
    // Triggers.
    (
        "[functions.one.triggers]\ntype = \"job\"",
        "functions.one.triggers: expected an array, found a table (What calls ",
    ),
    ("triggers = [5]", "functions.one.triggers[0]: expected a table, found 5"),
    ("[[functions.one.triggers]]", "functions.one.triggers[0].type: this key is missing (this build has "),
    ("triggers = [{ type = 5 }]", "functions.one.triggers[0].type: expected a trigger kind, found 5"),
    ("triggers = [{ type = \"kafka\" }]", "functions.one.triggers[0].type: there is no trigger kind \"kafka\""),
    ("triggers = [{ type = \"jbo\" }]", "there is no trigger kind \"jbo\" (did you mean \"job\"?"),
    ("triggers = [{ type = \"job\" }]", "functions.one.triggers[0].tune: this key is missing (What is played.)"),
    (
        "triggers = [{ type = \"job\", tun = \"a\" }]",
        "functions.one.triggers[0].tun: unknown key (did you mean `tune`?)",
    ),
    (
        "triggers = [{ type = \"job\", tunes = \"a\" }]",
        "functions.one.triggers[0].tunes: unknown key (did you mean `tune`?)",
    ),
    ("engin = { bus = 5 }", "functions.one.engin: unknown key"),
    ("triggers = [{ type = \"job\", tune = \"silence\" }]", "functions.one.triggers[0].tune: no bell plays silence"),
    (
        "triggers = [{ type = \"job\", tune = \"a\", strokes = 13 }]",
        "functions.one.triggers[0].strokes: expected a whole number from 1 to 12, found 13 (How often.)",
    ),
    (
        "triggers = [{ type = \"job\", tune = \"a\", name = \"A\" }]",
        "functions.one.triggers[0].name: a trigger cannot be called \"A\"",
    ),
    (
        "triggers = [{ type = \"job\", tune = \"a\" }, { type = \"job\", tune = \"b\", name = \"job\" }]",
        "functions.one.triggers[1].name: the function has another trigger that is called \"job\"",
    ),
    ("triggers = [nan]", "functions.one.triggers[0]: the number is not finite"),
    ("env_vars.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p = 1", "functions.one.env_vars.a: expected a string, found a table"),
];

#[test]
fn every_bad_manifest_has_a_test() {
    for (lines, expected) in BAD {
        let text = match (lines.strip_prefix("top:"), lines.strip_prefix("engine:")) {
            (Some(lines), _) => lines.to_owned(),
            (_, Some(lines)) => format!("[engine]\n{lines}\n{}", with_function("")),
            (None, None) => with_function(lines),
        };
        let report = manifest(&text).expect_err(&text);
        let found = report.to_string();
        assert!(found.contains(expected), "{lines}\nexpected: {expected}\nfound:    {found}");
        // One mistake is one message, but for what lies deeper than anything is kept.
        let deep = lines.contains(".o.p");
        assert!(report.mistakes().len() == 1 || deep, "{lines}: {found}");
        assert!(report.mistakes().iter().all(|mistake| mistake.help.is_some() && mistake.line > 0), "{report:?}");
    }
}
