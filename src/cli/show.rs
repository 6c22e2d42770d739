//! The verbs that ask one thing and print it.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::Bytes;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Publish;
use super::client::{Client, encode};
use crate::admin::{FunctionView, Listing, PublishRequest, PublishView, ReloadView, VersionView};

/// Prints a line. A reader that went away (`| head`) is no error.
pub(super) fn line(text: impl AsRef<str>) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", text.as_ref());
}

/// Prints JSON for programs.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table without lines, as wide as the terminal.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header.to_vec());
    table
}

/// Prints a table, or what to say where it has no rows.
pub(super) fn print(table: &Table, when_empty: &str) {
    if table.row_count() == 0 {
        line(when_empty);
    } else {
        line(table.trim_fmt());
    }
}

pub(super) async fn listing<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Listing<T>> {
    client.get(path).await
}

pub(super) async fn reload(client: &Client) -> anyhow::Result<()> {
    let view: ReloadView = client.post("/api/v1/reload", &serde_json::json!({})).await?;
    if client.json {
        return json(&view);
    }
    for (name, version, created) in &view.functions {
        line(format!("{name}@{version}{}", if *created { " (new)" } else { "" }));
    }
    Ok(())
}

/// A payload as it was typed, or standard input for `-`: text where it is text, base64 otherwise.
pub(super) fn payload(typed: String) -> anyhow::Result<(Option<String>, Option<String>)> {
    Ok(self::typed(&bytes(&typed)?))
}

/// A payload as it was typed, or standard input for `-`.
pub(super) fn bytes(typed: &str) -> anyhow::Result<Bytes> {
    if typed != "-" {
        return Ok(Bytes::copy_from_slice(typed.as_bytes()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes.into())
}

/// Bytes for JSON: text where they are text, base64 otherwise.
pub(super) fn typed(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes))),
    }
}

/// Writes bytes as they are. A reader that went away is no error.
pub(super) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Headers as they were typed.
pub(super) fn headers(typed: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let headers = typed.iter().map(|header| match header.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => bail!("header {header:?} is not of the form \"name: value\""),
    });
    headers.collect()
}

pub(super) async fn publish(publish: Publish) -> anyhow::Result<()> {
    let client = Client::new(&publish.remote)?;
    let (payload, payload_base64) = payload(publish.payload)?;
    let headers = headers(&publish.headers)?;
    let request = PublishRequest { subject: publish.subject, payload, payload_base64, headers };
    let view: PublishView = client.post("/api/v1/publish", &request).await?;
    if client.json {
        return json(&view);
    }
    line(format!("published {} bytes on {}", view.bytes, view.subject));
    Ok(())
}

pub(super) async fn functions(client: &Client) -> anyhow::Result<()> {
    let functions: Listing<FunctionView> = listing(client, "/api/v1/functions").await?;
    if client.json {
        return json(&functions);
    }
    let mut table = table(&["FUNCTION", "ABI", "SIZE", "DEPLOYED", "TRIGGERS"]);
    for function in &functions.items {
        let triggers: Vec<String> = function
            .triggers
            .iter()
            .map(|trigger| format!("{} {}", trigger.binding.trigger_type, trigger.description))
            .collect();
        let version = &function.version;
        table.add_row([
            format!("{}@{}", version.name, version.version),
            version.abi.clone(),
            size(version.module_bytes),
            version.created_at.format("%F %T").to_string(),
            triggers.join("\n"),
        ]);
    }
    print(&table, "no functions");
    Ok(())
}

pub(super) async fn versions(client: &Client, function: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/functions/{}/versions", encode(function));
    let versions: Listing<VersionView> = listing(client, &path).await?;
    if client.json {
        return json(&versions);
    }
    let mut table = table(&["VERSION", "SERVES", "DEPLOYED", "SIZE", "DIGEST"]);
    for version in &versions.items {
        table.add_row([
            version.version.to_string(),
            if version.routed { "yes" } else { "" }.to_owned(),
            version.created_at.format("%F %T").to_string(),
            size(version.module_bytes),
            version.digest.clone(),
        ]);
    }
    print(&table, "no versions");
    Ok(())
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A duration in nanoseconds for people.
pub(super) fn duration(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        _ => format!("{:.2} s", nanos as f64 / 1e9),
    }
}
