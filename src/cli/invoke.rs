//! `tripline invoke`: a function of a running engine by its name, or a module here (`--local`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use trigger_core::{Headers, InvocationContext, Kind};

use super::Remote;
use super::client::{Client, encode};
use super::show::{self, duration, size};
use crate::admin::invoke::{InvokeRequest, InvokedView};
use crate::config::{Document, EngineConfig, Manifest};
use crate::dispatch::retry::Decision;
use crate::egress::Grant;
use crate::executor::{Abi, Attempt, Effects, HostOp};
use crate::functions::Definition;
use crate::kinds::Kinds;
use crate::local::{self, Local, Ran};

/// What to run, and for which event. The answer goes to standard output, everything about it to standard error. Exit
/// code 1 where the attempt failed.
#[derive(Debug, Args)]
pub struct Invoke {
    /// The function's name, unless a module is run here; then the payload, `-` for standard input.
    #[arg(value_names = ["FUNCTION", "PAYLOAD"], num_args = 0..=2)]
    pub words: Vec<String>,
    /// The module to run here, without an engine: what it publishes, enqueues and sets is shown and goes nowhere.
    #[arg(long, value_name = "MODULE")]
    pub local: Option<PathBuf>,
    /// Have a running engine keep the event and run it later, with the function's retries, instead of now and once.
    #[arg(long, conflicts_with = "local")]
    pub later: bool,
    /// Take limits, grants and environment from this function of the manifest. Without it everything that goes nowhere
    /// is granted, and what was used is told.
    #[arg(long, value_name = "NAME", requires = "local")]
    pub function: Option<String>,
    /// The manifest, or the directory that it lies in.
    #[arg(long, default_value = "tripline.toml", requires = "function")]
    pub manifest: PathBuf,
    /// The kind of trigger that the event came in by. By default `http` for a `wasi:http` component, `job` otherwise.
    #[arg(long, value_name = "KIND", value_parser = kind, requires = "local")]
    pub trigger: Option<Kind>,
    /// What the event is about: a path, a subject, a schedule's name. By default `/` over HTTP.
    #[arg(long, default_value = "")]
    pub subject: String,
    /// Media type of the payload.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A header, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// What the trigger says of the event, `name=value`: `method=POST`, `param.id=7`; may be repeated.
    #[arg(short = 'A', long = "attribute", value_name = "NAME=VALUE", value_parser = pair, requires = "local")]
    pub attributes: Vec<(String, String)>,
    /// Let it send requests to this scheme, host and perhaps port, as in `allow.http`; may be repeated. They are sent.
    #[arg(long, value_name = "URL", requires = "local")]
    pub allow_http: Vec<String>,
    /// A variable of the environment, `name=value`, beside or in place of the function's own; may be repeated.
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE", value_parser = pair, requires = "local")]
    pub env: Vec<(String, String)>,
    /// Number of the attempt.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: u32,
    /// Who called.
    #[arg(long, requires = "local")]
    pub caller: Option<String>,
    /// The event's identity, by which a duplicate is known.
    #[arg(long, value_name = "KEY", requires = "local")]
    pub idempotency_key: Option<String>,
    /// Wall time of the attempt, in place of the function's: 500ms, 10s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "local")]
    pub timeout: Option<Duration>,
    /// The engine, where a function is called by its name, and the form of the answer.
    #[command(flatten)]
    pub remote: Remote,
}

fn kind(word: &str) -> Result<Kind, String> {
    Kind::parse(word).ok_or_else(|| {
        let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("expected one of {}", words.join(", "))
    })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the module and tells what came of it. `kinds` are those that a manifest's triggers are of.
pub async fn run(
    invoke: Invoke,
    kinds: impl FnOnce(&EngineConfig) -> anyhow::Result<Kinds>,
) -> anyhow::Result<ExitCode> {
    let Some(path) = invoke.local.clone() else { return by_name(&invoke).await };
    let payload = match &*invoke.words {
        [] => "",
        [payload] => payload,
        _ => bail!("a module that is run here takes one payload"),
    };
    let module = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let local = Local::new(module.into(), definition(&invoke, &path, kinds)?).await?;
    let event = event(&invoke, payload, &local)?;
    let ran = local.run(&event).await;
    if invoke.remote.json {
        show::json(&as_json(&local, &ran))?;
    } else {
        tell(&local, &event, &ran, invoke.function.is_none());
    }
    Ok(if ran.attempt.result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Calls a function of a running engine.
async fn by_name(invoke: &Invoke) -> anyhow::Result<ExitCode> {
    let (name, payload) = match &*invoke.words {
        [] => bail!("name a function of a running engine, or a module by --local"),
        [name] => (name, ""),
        [name, payload, ..] => (name, &**payload),
    };
    let (payload, payload_base64) = show::typed(&show::bytes(payload)?);
    let request = InvokeRequest {
        payload,
        payload_base64,
        content_type: invoke.content_type.clone(),
        headers: show::headers(&invoke.headers)?,
        later: invoke.later,
    };
    let client = Client::new(&invoke.remote)?;
    let path = format!("/api/v1/functions/{}/invoke", encode(name));
    let view: InvokedView = client.post(&path, &request).await?;
    if client.json {
        show::json(&view)?;
    } else {
        let failure = view.failure.iter().map(|failure| format!(" ({}): {}", failure.code, failure.message));
        say(format!("{} {}{}", view.invocation_id, view.outcome, failure.collect::<String>()));
        let encoded = view.body_base64.as_deref().map(|body| base64::engine::general_purpose::STANDARD.decode(body));
        let body = encoded.transpose()?.or(view.body.map(String::into_bytes)).unwrap_or_default();
        use std::io::Write as _;
        let _reader_went_away = std::io::stdout().lock().write_all(&body);
    }
    Ok(if matches!(&*view.outcome, "ok" | "queued") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn definition(
    invoke: &Invoke,
    module: &Path,
    kinds: impl FnOnce(&EngineConfig) -> anyhow::Result<Kinds>,
) -> anyhow::Result<Definition> {
    let mut definition = match &invoke.function {
        None => {
            let name = module.file_stem().map_or("function".into(), |stem| stem.to_string_lossy().into_owned());
            Definition { allow: local::allow_all(), ..Definition::new("default", name) }
        }
        Some(name) => {
            let path = &invoke.manifest;
            let path = if path.is_dir() { path.join("tripline.toml") } else { path.clone() };
            let document = Document::read(&path)?;
            let Manifest { functions, .. } = document.manifest(&kinds(&document.engine())?)?;
            let known: Vec<String> = functions.iter().map(|function| function.definition.name.clone()).collect();
            match functions.into_iter().find(|function| function.definition.name == *name) {
                Some(function) => function.definition,
                None => bail!("{} has no function {name:?}, it has {}", path.display(), known.join(", ")),
            }
        }
    };
    if let Some(wrong) = invoke.allow_http.iter().find_map(|grant| grant.parse::<Grant>().err()) {
        bail!("--allow-http: {wrong}");
    }
    definition.allow.http.extend(invoke.allow_http.iter().cloned());
    definition.env_vars.extend(invoke.env.iter().cloned());
    if let Some(timeout) = invoke.timeout {
        definition.timeout_seconds = timeout.as_secs_f64();
    }
    Ok(definition)
}

fn event(invoke: &Invoke, payload: &str, local: &Local) -> anyhow::Result<InvocationContext> {
    let kind = invoke.trigger.unwrap_or(if local.abi() == Abi::WasiHttp { Kind::Http } else { Kind::Job });
    let mut event = local.event(kind, show::bytes(payload)?);
    event.subject = match (&*invoke.subject, kind) {
        ("", Kind::Http) => "/".into(),
        (subject, _) => subject.into(),
    };
    event.content_type = invoke.content_type.as_deref().map(Into::into);
    let headers = show::headers(&invoke.headers)?;
    event.headers = Headers::List(headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect());
    event.attributes = invoke.attributes.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect();
    event.attempt = invoke.attempt;
    event.caller = invoke.caller.as_deref().map(Into::into);
    event.idempotency_key = invoke.idempotency_key.as_deref().map(Into::into);
    event.adopt_lineage();
    Ok(event)
}

/// What a dispatcher would do next.
fn next(decision: Decision) -> String {
    match decision {
        Decision::Retry(delay) => {
            format!("an engine would try again after about {}", humantime::format_duration(delay))
        }
        Decision::Dead(reason) => format!("an engine would give it up ({reason})"),
    }
}

/// Writes a line about the attempt to standard error: standard output has the answer.
fn say(text: impl AsRef<str>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

fn tell(local: &Local, event: &InvocationContext, ran: &Ran, grants: bool) {
    let attempt = &ran.attempt;
    let outcome = match &attempt.result {
        Ok(response) => match &response.http {
            Some(http) => format!("ok ({})", http.status),
            None => "ok".to_owned(),
        },
        Err(failure) => format!("failed ({}): {}", failure.code, failure.message),
    };
    say(format!(
        "{} as {} event, attempt {}: {outcome}",
        local.abi().as_str(),
        event.binding.trigger_type,
        event.attempt
    ));
    if let Some(decision) = ran.decision {
        say(format!("  next     {}", next(decision)));
    }
    let nanos = |duration: Duration| self::duration(duration.as_nanos() as u64);
    say(format!("  phases   instantiate {} · run {}", nanos(attempt.instantiate), nanos(attempt.run)));
    let output = attempt.result.as_ref().map_or(0, |response| response.body.len());
    let (input, output) = (size(event.payload.len() as u64), size(output as u64));
    say(format!("  sizes    in {input} · out {output} · memory {}", size(attempt.memory_peak_bytes)));
    if let Ok(response) = &attempt.result {
        for (name, value) in response.http.iter().flat_map(|http| http.headers.iter()) {
            say(format!("  header   {name}: {}", value.as_bytes().escape_ascii()));
        }
    }
    if let Some(detail) = &attempt.detail {
        super::traces::detail_lines(detail).iter().for_each(say);
    }
    effect_lines(&attempt.effects).iter().for_each(say);
    if let Some(needed) = needed(attempt).filter(|_| grants) {
        say(format!("  it needs {needed}"));
    }
    if let Ok(response) = &attempt.result {
        show::raw(&response.body);
    }
}

/// What would be released, a line each.
fn effect_lines(effects: &Effects) -> Vec<String> {
    let text = |payload: &Bytes| payload.escape_ascii().to_string().chars().take(200).collect::<String>();
    let messages =
        effects.messages.iter().map(|message| format!("  publish  {} {}", message.subject, text(&message.payload)));
    let events = effects.events.iter().map(|event| {
        let at = event.scheduled_at.map(|at| format!(" at {}", at.format("%F %T%.3f"))).unwrap_or_default();
        let (kind, name, key) = (event.binding.trigger_type, &event.binding.trigger_id, &event.subject);
        let key = if key.is_empty() { String::new() } else { format!(" {key}") };
        format!("  {:<8} {name}{key}{at} {}", kind.as_str(), text(&event.payload))
    });
    messages.chain(events).collect()
}

/// The grants without which it would have been denied what it asked for.
fn needed(attempt: &Attempt) -> Option<String> {
    let effects = &attempt.effects;
    let ops = attempt.detail.as_ref().map_or(&[][..], |detail| &detail.host_ops);
    let targets = |is: fn(&HostOp) -> bool| ops.iter().filter(move |op| is(op)).map(|op| op.target.clone());
    let bucket = |target: String| target.split('/').next().unwrap_or_default().to_owned();
    let of_kind = |kind: Kind| {
        let events = effects.events.iter().filter(move |event| event.binding.trigger_type == kind);
        events.map(|event| event.binding.trigger_id.to_string()).collect()
    };
    let publish = effects.messages.iter().map(|message| message.subject.to_string()).collect();
    let lists: [(&str, BTreeSet<String>); 7] = [
        ("publish", publish),
        ("jobs", of_kind(Kind::Job)),
        ("timers", of_kind(Kind::Timer)),
        ("kv", targets(|op| op.op.starts_with("kv-")).map(bucket).collect()),
        ("invoke", targets(|op| op.op.starts_with("invoke")).collect()),
        ("sockets", targets(|op| op.op.starts_with("socket-")).collect()),
        ("http", targets(|op| op.op == "http").collect()),
    ];
    let used = lists.iter().filter(|(_, names)| !names.is_empty());
    let lists: Vec<String> = used.map(|(key, names)| format!("{key} = {:?}", Vec::from_iter(names))).collect();
    (!lists.is_empty()).then(|| format!("allow = {{ {} }}", lists.join(", ")))
}

fn as_json(local: &Local, ran: &Ran) -> Value {
    let attempt = &ran.attempt;
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (answer, failure) = match &attempt.result {
        Ok(response) => (Some(response), None),
        Err(failure) => (None, Some(failure)),
    };
    let headers = |headers: &http::HeaderMap| -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().escape_ascii().to_string())).collect()
    };
    let body = answer.map(|response| show::typed(&response.body));
    let messages = attempt.effects.messages.iter().map(|message| {
        let (payload, payload_base64) = show::typed(&message.payload);
        json!({ "subject": message.subject, "payload": payload, "payload_base64": payload_base64 })
    });
    let events = attempt.effects.events.iter().map(|event| {
        let (payload, payload_base64) = show::typed(&event.payload);
        json!({
            "type": event.binding.trigger_type.as_str(), "trigger": event.binding.trigger_id, "key": event.subject,
            "scheduled_at": event.scheduled_at, "payload": payload, "payload_base64": payload_base64,
        })
    });
    json!({
        "abi": local.abi().as_str(),
        "ok": answer.is_some(),
        "body": body.as_ref().and_then(|(text, _)| text.clone()),
        "body_base64": body.and_then(|(_, base64)| base64),
        "status": answer.and_then(|response| response.http.as_ref()).map(|http| http.status.as_u16()),
        "headers": answer.and_then(|response| response.http.as_ref()).map(|http| headers(&http.headers)),
        "failure": failure,
        "next": ran.decision.map(next),
        "instantiate_ms": millis(attempt.instantiate),
        "run_ms": millis(attempt.run),
        "memory_peak_bytes": attempt.memory_peak_bytes,
        "detail": attempt.detail,
        "messages": messages.collect::<Vec<_>>(),
        "events": events.collect::<Vec<_>>(),
    })
}
