//! Asks the host for what the lines of its payload say, one after another, and answers a line for each:
//!
//! | line | what is asked |
//! | --- | --- |
//! | `get BUCKET KEY` | the entry: `VERSION VALUE`, or `none` |
//! | `set BUCKET KEY VALUE [TTL]` | an entry |
//! | `delete BUCKET KEY` | whether there was one |
//! | `add BUCKET KEY DELTA [TTL]` | the sum |
//! | `swap BUCKET KEY VERSION VALUE` | the entry, if it has this version or, for `-`, if there is none |
//! | `keys BUCKET PREFIX` | the keys |
//! | `secret NAME` | a secret, by itself |
//! | `leak NAME` | a secret, written to the log and told as a failure |
//! | `http METHOD URL [redirects=N] [timeout=MS] [body=B] [HEADER:VALUE …]` | a request: `STATUS BODY` |
//! | `invoke FUNCTION PAYLOAD…` | another function's answer |
//! | `invoke-async FUNCTION PAYLOAD…` | the event's id |
//! | `fail` | a failure that may be tried again |

wit_bindgen::generate!({ path: "../../../wit", world: "function" });

use tripline::function::{functions, http_client, key_value, log, secrets};

struct Hosts;
export!(Hosts);

impl Guest for Hosts {
    fn handle(_cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let text = String::from_utf8(payload).map_err(|_| Failure::Permanent("the payload is no text".into()))?;
        let mut answers = String::new();
        for line in text.lines() {
            answers.push_str(&obey(line)?);
            answers.push('\n');
        }
        Ok(answers.into_bytes())
    }
}

fn obey(line: &str) -> Result<String, Failure> {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    Ok(match next() {
        "get" => match key_value::get_entry(next(), next()) {
            Ok(Some(entry)) => format!("{} {}", entry.version, String::from_utf8_lossy(&entry.value)),
            Ok(None) => "none".into(),
            Err(error) => format!("{error:?}"),
        },
        "set" => {
            let (bucket, key, value, ttl) = (next(), next(), next(), next().parse().ok());
            told(key_value::set(bucket, key, value.as_bytes(), ttl))
        }
        "delete" => told(key_value::delete(next(), next())),
        "add" => {
            let (bucket, key, delta, ttl) = (next(), next(), next().parse().unwrap_or(0), next().parse().ok());
            told(key_value::increment(bucket, key, delta, ttl))
        }
        "swap" => {
            let (bucket, key, expected, value) = (next(), next(), next().parse().ok(), next());
            match key_value::swap(bucket, key, expected, value.as_bytes(), None) {
                Ok(Some(version)) => version.to_string(),
                Ok(None) => "changed".into(),
                Err(error) => format!("{error:?}"),
            }
        }
        "keys" => match key_value::keys(next(), next(), None) {
            Ok(page) => page.keys.join(" "),
            Err(error) => format!("{error:?}"),
        },
        "secret" => told(secrets::get(next())),
        "leak" => {
            let secret = told(secrets::get(next()));
            log::write(log::Level::Info, &format!("the secret is {secret}"));
            return Err(Failure::Permanent(format!("the secret was {secret}")));
        }
        "http" => {
            let mut request = http_client::Request {
                method: next().into(),
                url: next().into(),
                headers: Vec::new(),
                body: Vec::new(),
                timeout: None,
                redirects: 0,
            };
            for word in words {
                match (word.split_once('='), word.split_once(':')) {
                    (Some(("redirects", count)), _) => request.redirects = count.parse().unwrap_or(0),
                    (Some(("timeout", millis)), _) => request.timeout = millis.parse().ok(),
                    (Some(("body", body)), _) => request.body = body.into(),
                    (_, Some((name, value))) => request.headers.push((name.into(), value.as_bytes().to_vec())),
                    _ => {}
                }
            }
            match http_client::send(&request) {
                Ok(response) => format!("{} {}", response.status, String::from_utf8_lossy(&response.body)),
                Err(error) => format!("{error:?}"),
            }
        }
        call @ ("invoke" | "invoke-async") => {
            let function = next();
            let payload: Vec<&str> = words.collect();
            let payload = payload.join(" ").replace(';', "\n").into_bytes();
            let options = functions::Options { content_type: None, headers: Vec::new() };
            match call {
                "invoke" => {
                    let answered = functions::invoke(function, &payload, &options);
                    told(answered.map(|answer| String::from_utf8_lossy(&answer).trim_end().to_owned()))
                }
                _ => told(functions::invoke_async(function, &payload, &options)),
            }
        }
        "fail" => return Err(Failure::Retryable("told to fail".into())),
        other => other.into(),
    })
}

fn told<T: ToString, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |value| value.to_string())
}
