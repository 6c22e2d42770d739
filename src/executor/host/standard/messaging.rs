//! `wasmcloud:messaging/consumer`: messages as our own `messaging` publishes them, by the same grants, held back until
//! the attempt has succeeded. What goes to the subject on which its event's sender waits is the answer, and needs no
//! grant.

use std::time::Instant;

use super::bindings::messaging::wasmcloud::messaging::{consumer, types};
use crate::executor::guest::Guest;
use crate::executor::host::bindings::tripline::function::messaging as ours;
use crate::executor::host::events::SHOWN;
use crate::executor::host::messaging::told;
use crate::executor::logs::prefix;

impl types::Host for Guest {}

impl consumer::Host for Guest {
    /// Who waits for a message's answer holds a slot for as long as somebody else likes; a function is called instead.
    fn request(&mut self, subject: String, body: Vec<u8>, _: u32) -> Result<types::BrokerMessage, String> {
        let shown = prefix(&subject, SHOWN).to_owned();
        let why = format!(
            "denied: wasmcloud:messaging/consumer.request is not offered (to {shown:?}): publish, or call a function"
        );
        self.noted("request", shown, Instant::now(), body.len(), Some(why.clone()));
        Err(why)
    }

    fn publish(&mut self, message: types::BrokerMessage) -> Result<(), String> {
        if self.with_invocation(|event| event.attribute("reply") == Some(&message.subject)) {
            return self.reply(message);
        }
        if message.reply_to.is_some() {
            let why =
                "denied: a message that is published here has no reply-to: nobody would hear the answer".to_owned();
            let shown = prefix(&message.subject, SHOWN).to_owned();
            self.noted("publish", shown, Instant::now(), message.body.len(), Some(why.clone()));
            return Err(why);
        }
        let message = ours::Message { subject: message.subject, headers: Vec::new(), payload: message.body };
        ours::Host::publish(self, message).map_err(|error| told(&error))
    }
}

impl Guest {
    /// Keeps the answer: the first, as whoever waits would take it.
    fn reply(&mut self, message: types::BrokerMessage) -> Result<(), String> {
        let refused = self.reply.is_some().then(|| "denied: the message has been answered".to_owned());
        let shown = prefix(&message.subject, SHOWN).to_owned();
        self.noted("reply", shown, Instant::now(), message.body.len(), refused.clone());
        match refused {
            Some(why) => Err(why),
            None => {
                self.reply = Some(message.body.into());
                Ok(())
            }
        }
    }
}
