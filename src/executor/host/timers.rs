//! `timers`: moments that a guest chooses.

use std::sync::Arc;
use std::time::Instant;

use trigger_core::{NewTimer, Timers};

use super::bindings::tripline::function::timers::{self, Error, Options};
use super::bindings::tripline::function::types::{Cancelled, Moment};
use super::events::{Refusal, conflict, header_bytes, headers, moment, shown};
use crate::executor::guest::{Guest, HeldTimer};

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            Refusal::Unknown(why) => Error::UnknownTimer(why),
            Refusal::Invalid(field, why) => Error::Invalid((field, why)),
            Refusal::TooMany(why) => Error::TooMany(why),
            Refusal::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl timers::Host for Guest {
    fn set(
        &mut self,
        timer: String,
        key: String,
        when: Moment,
        payload: Vec<u8>,
        options: Options,
    ) -> Result<(), Error> {
        let (began, bytes) = (Instant::now(), payload.len());
        let target = target(&timer, &key);
        let result = self.set_timer(timer, key, when, payload, options);
        self.asked("set-timer", target, began, bytes, &result);
        Ok(result?)
    }

    async fn cancel(&mut self, timer: String, key: String) -> Result<Cancelled, Error> {
        let began = Instant::now();
        let result = self.cancel_timer(&timer, &key).await;
        self.asked("cancel-timer", target(&timer, &key), began, 0, &result);
        Ok(result?)
    }
}

impl Guest {
    fn timers(&self) -> Result<Arc<dyn Timers>, Refusal> {
        let timers = self.served.as_ref().and_then(|work| work.services.timers.clone());
        timers.ok_or_else(|| Refusal::Unavailable("this engine has no timers".to_owned()))
    }

    fn set_timer(
        &mut self,
        timer: String,
        key: String,
        when: Moment,
        payload: Vec<u8>,
        options: Options,
    ) -> Result<(), Refusal> {
        self.granted("timers", &self.version.definition.allow.timers, &timer)?;
        let content_type = options.content_type.as_ref().map_or(0, String::len);
        let bytes = payload.len() + header_bytes(&options.headers) + key.len() + content_type;
        self.room(1, bytes).map_err(Refusal::TooMany)?;
        let timers = self.timers()?;
        let work = self.served.as_ref().expect("it has timers");
        let new = NewTimer {
            key: key.as_str().into(),
            run_at: moment("when", when, &work.services)?,
            allow_past: options.allow_past,
            payload: payload.into(),
            content_type: options.content_type.map(Into::into),
            headers: headers(options.headers)?,
            conflict: conflict(options.conflict),
            retry_count: options.retry_count,
            result_ttl_seconds: options.result_ttl_seconds,
        };
        let event = timers.event(&timer, new)?;
        let id = self.hold(event, bytes);
        self.served.as_mut().expect("it has timers").timers.push(HeldTimer { timer, key, id });
        Ok(())
    }

    async fn cancel_timer(&mut self, timer: &str, key: &str) -> Result<Cancelled, Refusal> {
        self.granted("timers", &self.version.definition.allow.timers, timer)?;
        let timers = self.timers()?;
        // What waits in the store is asked first: where that cannot be done, nothing has changed here either.
        let stored = timers.cancel(timer, key).await?.into();
        let work = self.served.as_mut().expect("it has timers");
        let (named, others) = std::mem::take(&mut work.timers)
            .into_iter()
            .partition::<Vec<_>, _>(|held| held.timer == timer && held.key == key);
        work.timers = others;
        let let_go = named.into_iter().filter(|held| self.let_go(held.id)).count();
        Ok(match stored {
            Cancelled::Unknown | Cancelled::Ended if let_go > 0 => Cancelled::Cancelled,
            stored => stored,
        })
    }
}

/// A timer as traces name it.
fn target(timer: &str, key: &str) -> String {
    format!("{}/{}", shown(timer), shown(key))
}
