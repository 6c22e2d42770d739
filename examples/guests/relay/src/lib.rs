//! Handles messages as components for wasmCloud do, with nothing of ours. Each line of a message says what to do:
//!
//! | line | what is done |
//! | --- | --- |
//! | `publish SUBJECT TEXT` | the text is published |
//! | `ask SUBJECT TEXT` | the same, with a subject for answers |
//! | `request SUBJECT TEXT` | an answer is waited for |
//! | `tell` | what is known of the message is answered |
//! | `reply TEXT` | the text is answered |
//!
//! What cannot be done is its failure.

wit_bindgen::generate!({
    path: "../../../wit/standard/wasmcloud-messaging",
    inline: "
        package tripline:relay;
        world relay {
            import wasmcloud:messaging/consumer@0.2.0;
            export wasmcloud:messaging/handler@0.2.0;
        }
    ",
    world: "tripline:relay/relay",
    generate_all,
});

use exports::wasmcloud::messaging::handler::Guest;
use wasmcloud::messaging::consumer;
use wasmcloud::messaging::types::BrokerMessage;

struct Relay;
export!(Relay);

impl Guest for Relay {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let text = String::from_utf8(message.body).map_err(|_| "the message is no text")?;
        let answer = |text: &str| match &message.reply_to {
            Some(reply_to) => publish(reply_to, text, None),
            None => Err("nobody waits for an answer".into()),
        };
        for line in text.lines() {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (subject, said) = rest.split_once(' ').unwrap_or((rest, ""));
            match verb {
                "publish" => publish(subject, said, None)?,
                "ask" => publish(subject, said, Some("answers".into()))?,
                "request" => drop(consumer::request(subject, said.as_bytes(), 1000)?),
                "tell" => answer(&format!("{} {:?}", message.subject, message.reply_to))?,
                "reply" => answer(rest)?,
                _ => return Err(format!("{line:?} is not known")),
            }
        }
        Ok(())
    }
}

fn publish(subject: &str, text: &str, reply_to: Option<String>) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: subject.into(), body: text.into(), reply_to })
}
