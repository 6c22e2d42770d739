//! The host's side of `wit/tripline.wit`: what a guest may ask for.

mod events;
mod functions;
mod http_client;
mod jobs;
mod kv;
mod messaging;
mod questions;
pub(super) mod secrets;
mod sockets;
#[expect(unreachable_pub, reason = "the generated bindings are public, and name its resource")]
pub mod sql;
pub(super) mod standard;
#[cfg(test)]
mod tests;
mod timers;

use std::borrow::Cow;
use std::time::Instant;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use trigger_core::{HttpParts, Kind};

use super::HostOp;
use super::guest::Guest;

/// The interfaces as wasmtime sees them.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from wit/tripline.wit, which has the text")]
pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "function",
        // They ask others. A component that imports none of them is still called without a fiber.
        imports: {
            "tripline:function/jobs.cancel": async,
            "tripline:function/key-value.get": async,
            "tripline:function/key-value.get-entry": async,
            "tripline:function/key-value.set": async,
            "tripline:function/key-value.delete": async,
            "tripline:function/key-value.increment": async,
            "tripline:function/key-value.swap": async,
            "tripline:function/key-value.keys": async,
            "tripline:function/http-client.send": async,
            "tripline:function/functions.invoke": async,
            "tripline:function/timers.cancel": async,
            "tripline:function/sql.query": async,
            "tripline:function/sql.execute": async,
            "tripline:function/sql.begin": async,
            "tripline:function/sql.[method]transaction.query": async,
            "tripline:function/sql.[method]transaction.execute": async,
            "tripline:function/sql.[method]transaction.commit": async,
            "tripline:function/sql.[method]transaction.commit-with-effects": async,
            "tripline:function/sql.[drop]transaction": async,
        },
        with: { "tripline:function/sql.transaction": crate::executor::host::sql::Open },
    });
}

use bindings::tripline::function::{environment, http_response, log, types};

/// The most bytes of headers that a guest may put on an answer.
const MAX_RESPONSE_HEADER_BYTES: usize = 64 << 10;

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => "trace",
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.logs.push(level, &message);
    }
}

impl environment::Host for Guest {
    fn get(&mut self, name: String) -> Option<String> {
        self.version.definition.env_vars.get(&name).cloned()
    }

    fn all(&mut self) -> Vec<(String, String)> {
        self.version.definition.env_vars.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl http_response::Host for Guest {
    fn set(&mut self, status: u16, headers: Vec<(String, String)>) -> Result<(), String> {
        let began = Instant::now();
        let bytes = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let parts = response_parts(status, &headers, bytes);
        let result = match parts {
            Ok(parts) => {
                // Whatever the trigger, so that a guest behaves the same; only those who asked by HTTP have a use for it.
                if self.with_invocation(|invocation| {
                    matches!(invocation.binding.trigger_type, Kind::Http | Kind::Websocket)
                }) {
                    self.http = Some(Box::new(parts));
                }
                Ok(())
            }
            Err(why) => Err(why),
        };
        self.noted("http-response", status.to_string(), began, bytes, result.as_ref().err().cloned());
        result
    }
}

fn response_parts(status: u16, headers: &[(String, String)], bytes: usize) -> Result<HttpParts, String> {
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("{status} is no status that ends a request: expected 200 to 599"))?;
    if bytes > MAX_RESPONSE_HEADER_BYTES {
        return Err(format!("the headers have {bytes} bytes, the limit is {MAX_RESPONSE_HEADER_BYTES}"));
    }
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of {name:?} is no header value"))?;
        map.append(header, value);
    }
    Ok(HttpParts { status, headers: map })
}

impl Guest {
    /// Notes a host operation that took until now.
    fn noted(&mut self, op: &'static str, target: String, began: Instant, bytes: usize, error: Option<String>) {
        let at_micros = began.saturating_duration_since(self.began).as_micros() as u64;
        self.note(HostOp {
            op: Cow::Borrowed(op),
            target,
            at_micros,
            duration_micros: began.elapsed().as_micros() as u64,
            bytes: bytes as u64,
            status: None,
            error,
        });
    }
}
