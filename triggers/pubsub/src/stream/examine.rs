//! What of a stream or its consumer cannot hold what is promised of its messages.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use trigger_core::Finding;

use crate::config::StreamSettings;

/// How long the server has to tell about a stream.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server says of the stream now.
pub(crate) async fn examine(client: &Client, settings: &StreamSettings) -> Vec<Finding> {
    let stream = &settings.stream;
    let js = jetstream::new(client.clone());
    let told = tokio::time::timeout(PATIENCE, js.get_stream(stream)).await;
    match told {
        Ok(Ok(found)) => of_stream(&found.cached_info().config),
        Ok(Err(error)) => {
            let message = format!("the server does not tell about stream {stream:?}: {error}");
            vec![Finding::new(message, "make the stream, or correct its name")]
        }
        Err(_) => {
            let message = format!("the server did not tell about stream {stream:?} within {} s", PATIENCE.as_secs());
            vec![Finding::new(message, "see to the server, or to the way there")]
        }
    }
}

/// What of a stream's configuration may lose messages before they are run.
fn of_stream(config: &Config) -> Vec<Finding> {
    let name = &config.name;
    let mut findings = Vec::new();
    let mut find = |message: String, help: &str| findings.push(Finding::new(message, help));
    if config.storage == StorageType::Memory {
        find(
            format!("stream {name:?} is kept in memory: a restart of the server loses its messages"),
            "keep it in files (storage: file)",
        );
    } else if config.num_replicas <= 1 {
        find(
            format!("stream {name:?} is on one server, which acknowledges before its disk has a message"),
            "keep it on three servers (num_replicas: 3), or set sync_interval: always on that one",
        );
    }
    if config.no_ack {
        find(
            format!("stream {name:?} acknowledges nothing: its publishers cannot know what it has"),
            "let it acknowledge (no_ack: false)",
        );
    }
    if config.retention == RetentionPolicy::Limits || config.discard == DiscardPolicy::Old {
        let limits = [
            (config.max_messages > 0).then(|| format!("{} messages", config.max_messages)),
            (config.max_bytes > 0).then(|| format!("{} bytes", config.max_bytes)),
            (config.max_messages_per_subject > 0)
                .then(|| format!("{} messages a subject", config.max_messages_per_subject)),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        if config.discard == DiscardPolicy::Old && !limits.is_empty() {
            find(
                format!("stream {name:?} drops its oldest messages over {}, run or not", limits.join(", ")),
                "refuse new ones instead (discard: new), or make room for the longest standstill",
            );
        }
    }
    if !config.max_age.is_zero() {
        let age = humantime::format_duration(config.max_age);
        find(
            format!("stream {name:?} drops messages that are older than {age}, run or not"),
            "keep them for longer than the longest standstill",
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> Config {
        Config { name: "S".to_owned(), num_replicas: 3, discard: DiscardPolicy::New, ..Config::default() }
    }

    #[test]
    fn what_may_lose_messages_is_found() {
        assert_eq!(of_stream(&safe()), []);
        for (config, found) in [
            (Config { storage: StorageType::Memory, ..safe() }, "kept in memory"),
            (Config { num_replicas: 1, ..safe() }, "on one server"),
            (Config { no_ack: true, ..safe() }, "acknowledges nothing"),
            (
                Config { discard: DiscardPolicy::Old, max_messages: 5, max_bytes: 7, ..safe() },
                "over 5 messages, 7 bytes, run or not",
            ),
            (
                Config {
                    discard: DiscardPolicy::Old,
                    max_messages_per_subject: 1,
                    retention: RetentionPolicy::WorkQueue,
                    ..safe()
                },
                "over 1 messages a subject",
            ),
            (Config { max_age: Duration::from_secs(3600), ..safe() }, "older than 1h"),
        ] {
            let findings = of_stream(&config);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].message.contains(found), "{findings:?}");
        }
        let bounded = Config { max_messages: 5, ..safe() };
        assert_eq!(of_stream(&bounded), [], "what is full refuses new messages, which their publishers are told");
    }
}
