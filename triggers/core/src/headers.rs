//! An event's headers, kept in the form in which they arrived.

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Headers of an event: repeated names keep every value, values are bytes.
///
/// HTTP's map is moved in as it is, since copying every header of every request would cost more than most guests;
/// messages bring a list, whose names keep their case.
#[derive(Clone, Debug, Default)]
pub enum Headers {
    /// No headers.
    #[default]
    None,
    /// The headers of an HTTP request.
    Http(Box<HeaderMap>),
    /// The headers of a message.
    List(Vec<(String, Bytes)>),
}

impl Headers {
    /// Every pair of name and value, repeated names included.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&str, &[u8])> + '_> {
        match self {
            Headers::None => Box::new(std::iter::empty()),
            Headers::Http(map) => Box::new(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))),
            Headers::List(list) => Box::new(list.iter().map(|(name, value)| (name.as_str(), value.as_ref()))),
        }
    }

    /// The first value of `name`, compared without case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match self {
            Headers::None => None,
            Headers::Http(map) => map.get(name).map(|value| value.as_bytes()),
            Headers::List(list) => {
                list.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_ref())
            }
        }
    }

    /// The first value of `name` as text, if it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match self {
            Headers::None => true,
            Headers::Http(map) => map.is_empty(),
            Headers::List(list) => list.is_empty(),
        }
    }
}

/// A value as it is stored: text where it is text, else base64.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredValue {
    Text(String),
    Binary { base64: String },
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.collect_seq(self.iter().map(|(name, value)| {
            let value = match std::str::from_utf8(value) {
                Ok(text) => StoredValue::Text(text.to_owned()),
                Err(_) => StoredValue::Binary { base64: base64::engine::general_purpose::STANDARD.encode(value) },
            };
            (name.to_owned(), value)
        }))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let pairs = Vec::<(String, StoredValue)>::deserialize(deserializer)?;
        if pairs.is_empty() {
            return Ok(Headers::None);
        }
        let list = pairs
            .into_iter()
            .map(|(name, value)| match value {
                StoredValue::Text(text) => Ok((name, Bytes::from(text))),
                StoredValue::Binary { base64 } => base64::engine::general_purpose::STANDARD
                    .decode(base64)
                    .map(|bytes| (name, Bytes::from(bytes)))
                    .map_err(serde::de::Error::custom),
            })
            .collect::<Result<_, D::Error>>()?;
        Ok(Headers::List(list))
    }
}
