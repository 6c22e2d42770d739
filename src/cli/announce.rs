//! What a starting engine says: where it listens, what is live, and what to try.

use std::net::SocketAddr;

use trigger_core::Kind;

use super::show::line;
use crate::config::{BusConfig, StoreConfig};
use crate::engine::Engine;
use crate::store::TriggerRow;

/// Where the engine can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The public listener, where this build has HTTP triggers.
    pub public: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Prints the start-up lines.
pub fn announce(engine: &Engine, addresses: Addresses) {
    line(format!("tripline {} · {}", env!("CARGO_PKG_VERSION"), engine.manifest().display()));
    let scheme = if engine.config.tls.is_some() { "https" } else { "http" };
    if let Some(public) = addresses.public {
        line(format!("  listening on {scheme}://{public}"));
    }
    line(format!("  admin API on http://{}", addresses.admin));
    line(format!("  store        {}", store_label(&engine.config.store)));
    line(format!("  bus          {}", bus_label(engine)));
    line(format!("  executor     {}", engine.executor.describe()));
    if engine.clock.virtual_time().is_some() {
        let now = super::clock::moment(engine.clock.now());
        line(format!("  clock        virtual, stands at {now} until `tripline clock advance` moves it"));
    }
    line("");
    let triggers = engine.triggers();
    let mut routes = engine.registry.all();
    routes.sort_by_key(|route| route.version.load().definition.name.clone());
    for route in routes {
        let version = route.version.load();
        let name = &version.definition.name;
        line(format!("  {name}@{} ({})", version.number, version.module.abi.as_str()));
        for trigger in triggers.iter().filter(|trigger| *trigger.row.binding.function_name == **name) {
            let state = trigger.degraded.as_ref().map(|why| format!("  [degraded: {why}]")).unwrap_or_default();
            line(format!(
                "      {:<9} {}{state}",
                trigger.row.binding.trigger_type.as_str(),
                engine.describe(&trigger.row)
            ));
        }
    }
    line("");
    line("  try:");
    let rows: Vec<&TriggerRow> = triggers.iter().map(|trigger| &trigger.row).collect();
    for suggestion in suggestions(&rows, addresses, scheme) {
        line(format!("    {suggestion}"));
    }
    line("");
}

fn store_label(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Memory => "SQLite in memory: nothing survives a restart".to_owned(),
        StoreConfig::Sqlite(path) => format!("SQLite, {}", path.display()),
        // The address may hold a password.
        StoreConfig::Postgres(address) => format!("PostgreSQL, {address}"),
    }
}

fn bus_label(engine: &Engine) -> String {
    let bus = match engine.config.bus {
        BusConfig::Memory => "in process",
        // The address may hold credentials.
        BusConfig::Nats { .. } => "NATS",
    };
    match engine.bus.degraded() {
        Some(why) => format!("{bus} [degraded: {why}]"),
        None => bus.to_owned(),
    }
}

/// Commands that work here: one for each kind of trigger that is live, then where to look.
fn suggestions(triggers: &[&TriggerRow], addresses: Addresses, scheme: &str) -> Vec<String> {
    let first = |kind: Kind| triggers.iter().find(|row| row.binding.trigger_type == kind);
    let admin =
        if addresses.admin.port() == 7071 { String::new() } else { format!(" --admin http://{}", addresses.admin) };
    let mut suggestions = Vec::new();
    if let (Some(row), Some(public)) = (first(Kind::Http), addresses.public) {
        let path = row.config["path"].as_str().unwrap_or("/");
        suggestions.push(format!("curl -i {}{scheme}://{public}{}", method_option(row), fill(path)));
    }
    // One that ends in `>` is often about what other functions leave behind.
    let subjects = || triggers.iter().filter_map(|row| row.config["subject"].as_str());
    if let Some(subject) = subjects().find(|subject| !subject.ends_with('>')).or_else(|| subjects().next()) {
        let subject = subject.replace(['*', '>'], "1");
        suggestions.push(format!("tripline publish {subject} '{{\"hello\":\"world\"}}'{admin}"));
    }
    suggestions.push(format!("tripline traces{admin}"));
    if suggestions.len() < 3 {
        suggestions.push(format!("tripline functions{admin}"));
    }
    suggestions
}

fn method_option(row: &TriggerRow) -> String {
    let method = match &row.config["method"] {
        serde_json::Value::String(method) => method.clone(),
        serde_json::Value::Array(methods) => methods.first().and_then(|one| one.as_str()).unwrap_or("GET").to_owned(),
        _ => "GET".to_owned(),
    };
    match method.as_str() {
        "GET" | "ANY" => String::new(),
        "POST" | "PUT" | "PATCH" => format!("-X {method} -H 'content-type: application/json' -d '{{\"amount\": 5}}' "),
        other => format!("-X {other} "),
    }
}

/// A path with something in place of its parameters.
fn fill(path: &str) -> String {
    path.split('/')
        .map(|segment| if segment.starts_with('{') && segment.ends_with('}') { "42" } else { segment })
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_filled_in() {
        assert_eq!(fill("/orders/{id}/items/{*rest}"), "/orders/42/items/42");
        assert_eq!(fill("/"), "/");
    }
}
