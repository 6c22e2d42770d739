//! `functions`: what a guest has other functions do.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use trigger_core::{Answer, Custody, InvocationContext, subject};

use super::bindings::tripline::function::functions::{Error, Failed, Host, Options};
use super::events::{Refusal, header_bytes, headers, qualified, shown};
use crate::executor::Functions;
use crate::executor::guest::Guest;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            Refusal::Unknown(why) => Error::UnknownFunction(why),
            Refusal::Invalid(field, why) => Error::Invalid((field, why)),
            Refusal::TooMany(why) => Error::TooMany(why),
            Refusal::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl Host for Guest {
    async fn invoke(&mut self, function: String, payload: Vec<u8>, options: Options) -> Result<Vec<u8>, Error> {
        let (began, bytes) = (Instant::now(), payload.len());
        let prepared = self.call(&function, Custody::Caller, payload, options);
        let answered = match prepared {
            Ok((functions, mut event)) => {
                self.with_invocation(|invocation| event.caused_by(invocation));
                told(functions.invoke(event, self.deadline).await)
            }
            Err(refusal) => Err(refusal.into()),
        };
        let error = answered.as_ref().err().map(summary);
        self.noted("invoke", shown(&function), began, bytes, error);
        answered
    }

    fn invoke_async(&mut self, function: String, payload: Vec<u8>, options: Options) -> Result<String, Error> {
        let (began, bytes) = (Instant::now(), payload.len());
        let size = bytes + header_bytes(&options.headers);
        let held = self.room(1, size).map_err(Refusal::TooMany).and_then(|()| {
            let (_, event) = self.call(&function, Custody::Engine, payload, options)?;
            Ok(self.hold(event, size))
        });
        self.asked("invoke-async", shown(&function), began, bytes, &held);
        Ok(held?.to_string())
    }
}

/// The answer in the guest's words.
fn told(answer: Answer) -> Result<Vec<u8>, Error> {
    match answer {
        Answer::Ok(response) => Ok(response.body.into()),
        Answer::Failed(failure)
        | Answer::Dead { failure, .. }
        | Answer::Retry { failure, .. }
        | Answer::Kept(failure) => Err(Error::Failed(Failed {
            code: failure.code.as_str().to_owned(),
            message: failure.message.into_owned(),
            retryable: failure.retryable,
        })),
        Answer::Shed { reason, .. } => Err(Error::Busy(reason.detail().to_owned())),
        Answer::Skipped(reason) => Err(Error::Unavailable(reason.detail().to_owned())),
        Answer::Cancelled => Err(Error::Unavailable("the call was cut".to_owned())),
    }
}

fn summary(error: &Error) -> String {
    match error {
        Error::Denied(why) => format!("denied: {why}"),
        Error::UnknownFunction(why) => format!("unknown: {why}"),
        Error::Invalid((field, why)) => format!("invalid {field}: {why}"),
        Error::Busy(why) => format!("busy: {why}"),
        Error::Failed(failed) => format!("{}: {}", failed.code, failed.message),
        Error::TooMany(why) => format!("too many: {why}"),
        Error::Unavailable(why) => format!("unavailable: {why}"),
    }
}

impl Guest {
    /// An event for another function, if it may be called.
    fn call(
        &self,
        function: &str,
        custody: Custody,
        payload: Vec<u8>,
        options: Options,
    ) -> Result<(Arc<dyn Functions>, InvocationContext), Refusal> {
        let definition = &self.version.definition;
        let name = qualified(&definition.namespace, function);
        subject::check_subject(&name)
            .map_err(|why| Refusal::invalid("function", format!("{:?}: {why}", shown(function))))?;
        let grants = &definition.allow.invoke;
        if !grants.iter().any(|grant| subject::matches(&qualified(&definition.namespace, grant), &name)) {
            return Err(self.not_granted("invoke", function));
        }
        let functions = self.served.as_ref().and_then(|served| served.services.functions.get()?.upgrade());
        let functions =
            functions.ok_or_else(|| Refusal::Unavailable("this engine has no other functions".to_owned()))?;
        let headers = headers(options.headers)?;
        let unknown = || Refusal::Unknown(format!("there is no function {:?}", shown(function)));
        let (namespace, called) = name.split_once('.').ok_or_else(unknown)?;
        let mut event = functions.event(namespace, called, custody, Bytes::from(payload)).ok_or_else(unknown)?;
        event.caller = Some(format!("function:{}.{}", definition.namespace, definition.name).into());
        event.subject = name.as_str().into();
        event.content_type = options.content_type.map(Into::into);
        event.headers = headers;
        Ok((functions, event))
    }
}
