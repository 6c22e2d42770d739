//! Messages to and from the client library.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use trigger_core::bus::BusError;
use trigger_core::{Headers, Message};

/// A received message.
pub(super) fn received(message: async_nats::Message) -> Message {
    let headers = match &message.headers {
        Some(map) if !map.is_empty() => {
            let mut list = Vec::with_capacity(map.len());
            for (name, values) in map.iter() {
                let name: &str = name.as_ref();
                list.extend(values.iter().map(|value| {
                    let value: &[u8] = value.as_ref();
                    (name.to_owned(), Bytes::copy_from_slice(value))
                }));
            }
            Headers::List(list)
        }
        _ => Headers::None,
    };
    Message {
        subject: message.subject.as_str().into(),
        reply: message.reply.map(|reply| reply.as_str().into()),
        headers,
        payload: message.payload,
    }
}

/// Headers to send; `None` where there are none.
pub(super) fn headers(headers: &Headers) -> Result<Option<HeaderMap>, BusError> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let invalid = |why: &str| BusError::InvalidHeader { name: name.to_owned(), why: why.to_owned() };
        let value = std::str::from_utf8(value).map_err(|_| invalid("its value is not UTF-8"))?;
        let value: HeaderValue = value.parse().map_err(|_| invalid("its value has a line break"))?;
        let key: HeaderName = name.parse().map_err(|_| invalid("its name has characters that NATS does not take"))?;
        map.append(key, value);
    }
    Ok(Some(map))
}
