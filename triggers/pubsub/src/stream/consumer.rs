//! The durable consumer: made if it is not there, set to what the manifest says if it is.

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy as From, FromConsumer as _};
use async_nats::jetstream::context::GetStreamErrorKind;
use trigger_core::subject;

use crate::config::{DeliverPolicy, Start, StreamSettings};

/// Sees to it that the consumer exists and is what `settings` say. The error says what stands in the way.
pub(super) async fn prepare(client: &Client, settings: &StreamSettings) -> Result<(), String> {
    let (name, stream_name) = (&settings.consumer, &settings.stream);
    let js = jetstream::new(client.clone());
    let stream = js.get_stream(stream_name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(ref error) if error.code() == 404 => {
            format!("the server has no stream {stream_name:?}; make it, or correct its name")
        }
        _ => format!("the server does not tell about stream {stream_name:?}: {error}"),
    })?;
    let existing = match stream.consumer_info(name).await {
        Ok(info) => Some(info),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(format!("the server does not tell about consumer {name:?}: {error}")),
    };
    let config = match existing {
        None => wanted(Config::default(), settings, true),
        Some(info) => {
            let config = Config::try_from_consumer_config(info.config)
                .map_err(|_| format!("consumer {name:?} of stream {stream_name:?} pushes; choose another name"))?;
            if config.ack_policy != AckPolicy::Explicit {
                return Err(format!(
                    "consumer {name:?} of stream {stream_name:?} does not acknowledge each message; choose another name"
                ));
            }
            let wanted = wanted(config.clone(), settings, false);
            if wanted == config {
                return Ok(());
            }
            wanted
        }
    };
    let kept = &stream.cached_info().config;
    if let Some(filter) = settings.filter.as_deref().filter(|filter| keeps_none(kept, filter)) {
        let subjects = kept.subjects.join(", ");
        return Err(format!("stream {stream_name:?} keeps none of {filter:?}; its subjects are {subjects}"));
    }
    stream
        .create_consumer(config)
        .await
        .map(|_| ())
        .map_err(|error| format!("the server does not take consumer {name:?} of stream {stream_name:?}: {error}"))
}

/// Whether no message that a stream takes in can match a filter, which the server does not mind. Where it gets messages
/// from other streams or changes their subjects, nobody can say.
fn keeps_none(stream: &jetstream::stream::Config, filter: &str) -> bool {
    let from_others = stream.mirror.is_some() || stream.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    !from_others
        && stream.subject_transform.is_none()
        && !stream.subjects.iter().any(|pattern| subject::overlap(pattern, filter))
}

fn is_not_found(error: &jetstream::context::ConsumerInfoError) -> bool {
    use jetstream::context::ConsumerInfoErrorKind;
    match error.kind() {
        ConsumerInfoErrorKind::NotFound => true,
        ConsumerInfoErrorKind::JetStream(error) => error.code() == 404,
        _ => false,
    }
}

/// The consumer as it must be. What the manifest does not speak of stays as it is.
fn wanted(mut config: Config, settings: &StreamSettings, new: bool) -> Config {
    config.durable_name = Some(settings.consumer.clone());
    config.ack_policy = AckPolicy::Explicit;
    config.ack_wait = settings.ack_wait;
    config.filter_subject = settings.filter.clone().unwrap_or_default();
    config.filter_subjects.clear();
    // The engine decides when to give up, and writes a dead letter then: a stream that stops by itself writes none.
    config.max_deliver = -1;
    config.backoff.clear();
    // Messages that wait for their retry count as pending and must not hold up the others, unless their order counts:
    // then none is delivered, to whichever engine, before the last one is settled.
    let is_ordered = settings.keeping.as_ref().is_some_and(|(keeping, _)| keeping.is_ordered());
    config.max_ack_pending = if is_ordered { 1 } else { -1 };
    config.headers_only = false;
    config.max_batch = 0;
    config.max_bytes = 0;
    config.max_expires = std::time::Duration::ZERO;
    if new {
        config.deliver_policy = match settings.start {
            Start::Policy(DeliverPolicy::All) => From::All,
            Start::Policy(DeliverPolicy::New) => From::New,
            Start::Policy(DeliverPolicy::Last) => From::Last,
            Start::Policy(DeliverPolicy::LastPerSubject) => From::LastPerSubject,
            Start::Sequence(start_sequence) => From::ByStartSequence { start_sequence },
            Start::Time(time) => From::ByStartTime { start_time: time },
        };
        config.description = Some("pulled by a Tripline trigger".to_owned());
    }
    config
}
