//! What `tripline check` says of a manifest, to people and to programs. Prints nothing itself.

use std::fmt::Write as _;

use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::json;

use crate::config::{Manifest, Report};
use crate::kinds::Kinds;
use crate::store::TriggerRow;

/// The most mistakes that are shown to people; programs get all of them.
const MAX_SHOWN: usize = 100;

/// Every mistake with its place in the text, then how many there are.
pub fn failure_text(report: &Report, colours: bool) -> String {
    let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    // Lines are not wrapped: a message that is searched for should be found.
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_wrap_lines(false)
        .without_cause_chain()
        .without_syntax_highlighting();
    let mut text = String::new();
    for mistake in report.mistakes().iter().take(MAX_SHOWN) {
        let mut shown = String::new();
        match handler.render_report(&mut shown, mistake) {
            Ok(()) => text.push_str(&shown),
            Err(_) => drop(write!(text, "  × {mistake}")),
        }
        text.push('\n');
    }
    let count = report.mistakes().len();
    if count > MAX_SHOWN {
        let _infallible = writeln!(text, "… and {} more\n", count - MAX_SHOWN);
    }
    let mistakes = if count == 1 { "mistake" } else { "mistakes" };
    let _infallible = write!(text, "{count} {mistakes} in {}", report.file());
    text
}

/// Every mistake as JSON. `line` and `column` are null where the file could not be read at all.
pub fn failure_json(report: &Report) -> String {
    let place = |number: usize| (number > 0).then_some(number);
    let mistakes: Vec<_> = report
        .mistakes()
        .iter()
        .map(|mistake| {
            json!({
                "line": place(mistake.line),
                "column": place(mistake.column),
                "path": mistake.path,
                "message": mistake.message,
                "help": mistake.help,
            })
        })
        .collect();
    pretty(&json!({ "ok": false, "manifest": report.file(), "mistakes": mistakes }))
}

/// What a sound manifest has.
pub fn success_text(name: &str, manifest: &Manifest, kinds: &Kinds) -> String {
    let triggers: usize = manifest.functions.iter().map(|function| function.triggers.len()).sum();
    let functions = counted(manifest.functions.len(), "function");
    let mut text = format!("{name} is sound: {functions}, {}\n", counted(triggers, "trigger"));
    for function in &manifest.functions {
        let _infallible = writeln!(text, "  {} ({})", function.definition.name, function.module.display());
        for row in &function.triggers {
            let _infallible = writeln!(text, "      {}", line_of(row, kinds));
        }
    }
    text
}

/// What a sound manifest has, as JSON.
pub fn success_json(name: &str, manifest: &Manifest, kinds: &Kinds) -> String {
    let trigger = |row: &TriggerRow| {
        json!({
            "name": row.binding.trigger_id,
            "type": row.binding.trigger_type,
            "description": kinds.describe(row),
        })
    };
    let functions: Vec<_> = manifest
        .functions
        .iter()
        .map(|function| {
            json!({
                "namespace": function.definition.namespace,
                "name": function.definition.name,
                "module": function.module,
                "triggers": function.triggers.iter().map(trigger).collect::<Vec<_>>(),
            })
        })
        .collect();
    pretty(&json!({ "ok": true, "manifest": name, "functions": functions }))
}

fn line_of(row: &TriggerRow, kinds: &Kinds) -> String {
    let kind = row.binding.trigger_type.as_str();
    let line = format!("{kind:<9} {}", kinds.describe(row));
    let name = &*row.binding.trigger_id;
    if name == kind { line } else { format!("{line}  [{name}]") }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;
    use crate::config::fakes::Bell;

    fn kinds() -> Kinds {
        let mut kinds = Kinds::new();
        kinds.add(Bell).unwrap();
        kinds
    }

    fn report(text: &str) -> Report {
        match Document::parse("tripline.toml", text) {
            Ok(document) => document.manifest(&kinds()).unwrap_err(),
            Err(report) => report,
        }
    }

    #[test]
    fn people_see_the_place_what_is_wrong_and_what_would_be_right() {
        let report =
            report("[engine]\nmax_dept = 3\n\n[functions.bell]\nmodule = \"bell.wasm\"\nmemory_limit_mb = 0\n");
        insta::assert_snapshot!(failure_text(&report, false), @r#"
          × engine.max_dept: unknown key
           ╭─[tripline.toml:2:1]
         1 │ [engine]
         2 │ max_dept = 3
           · ────────
         3 │ 
           ╰────
          help: did you mean `max_depth`?

          × functions.bell.memory_limit_mb: expected a whole number from 1 to 4096, found 0
           ╭─[tripline.toml:6:19]
         5 │ module = "bell.wasm"
         6 │ memory_limit_mb = 0
           ·                   ─
           ╰────
          help: Memory that one attempt may have, in MiB: linear memories together. At most the engine's `max_memory_mb`.

        2 mistakes in tripline.toml
        "#);
        assert!(failure_text(&report, true).contains("\u{1b}["));
    }

    #[test]
    fn programs_get_lines_and_columns() {
        let told: serde_json::Value = serde_json::from_str(&failure_json(&report("bus = 1"))).unwrap();
        assert_eq!(told["ok"], false);
        assert_eq!(told["manifest"], "tripline.toml");
        let mistake = &told["mistakes"][0];
        assert_eq!((&mistake["line"], &mistake["column"], &mistake["path"]), (&1.into(), &1.into(), &"bus".into()));
        assert_eq!(mistake["message"], "unknown key");
        let gone = Document::read(std::path::Path::new("/nowhere/tripline.toml")).err().unwrap();
        let told: serde_json::Value = serde_json::from_str(&failure_json(&gone)).unwrap();
        assert!(told["mistakes"][0]["line"].is_null());
        assert!(failure_text(&gone, false).contains("cannot read the manifest"));
    }

    #[test]
    fn a_flood_of_mistakes_is_counted() {
        let text: String = (0..1000).map(|number| format!("key{number} = 1\n")).collect();
        let report = report(&text);
        assert_eq!(report.mistakes().len(), 1000);
        let told = failure_text(&report, false);
        assert!(told.contains("… and 900 more") && told.ends_with("1000 mistakes in tripline.toml"), "{told}");
    }

    #[test]
    fn a_sound_manifest_is_summed_up() {
        let text = "[functions.bell]\nmodule = \"bell.wasm\"\n[[functions.bell.triggers]]\ntype = \"job\"\ntune = \"ding\"\n\
                    [[functions.bell.triggers]]\ntype = \"job\"\ntune = \"dong\"\nname = \"noon\"\n[functions.mute]\n\
                    module = \"m/mute.wasm\"\n";
        let manifest = Document::parse("dir/tripline.toml", text).unwrap().manifest(&kinds()).unwrap();
        insta::assert_snapshot!(success_text("dir/tripline.toml", &manifest, &kinds()), @"
        dir/tripline.toml is sound: 2 functions, 2 triggers
          bell (dir/bell.wasm)
              job       rings ding
              job       rings dong  [noon]
          mute (dir/m/mute.wasm)
        ");
        let told: serde_json::Value =
            serde_json::from_str(&success_json("dir/tripline.toml", &manifest, &kinds())).unwrap();
        assert_eq!(told["ok"], true);
        assert_eq!(
            told["functions"][0]["triggers"][1],
            json!({ "name": "noon", "type": "job", "description": "rings dong" })
        );
        assert_eq!(told["functions"][1]["module"], "dir/m/mute.wasm");
    }
}
