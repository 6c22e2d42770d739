//! What a function answers.

use crate::Failure;
use crate::bindings::tripline::function::http_response;

/// An answer: bytes, and where it goes out over HTTP its status and headers. For other triggers the bytes are the
/// result, and the rest is without effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    body: Vec<u8>,
    status: Option<u16>,
    headers: Vec<(String, String)>,
}

impl Response {
    /// An answer of these bytes.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// An answer in JSON, with its content type. A value that cannot be written as JSON is a permanent failure.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        match serde_json::to_vec(value) {
            Ok(body) => Ok(Self::new(body).header("content-type", "application/json")),
            Err(error) => Err(Failure::permanent(format!("the answer cannot be written as JSON: {error}"))),
        }
    }

    /// Sets the status of an HTTP answer, from 200 to 599; 200 where it is not set.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a header to an HTTP answer.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Gives the engine the head and answers the body. A head that HTTP cannot carry is a permanent failure.
    pub(crate) fn hand_over(self) -> Result<Vec<u8>, Failure> {
        if self.status.is_some() || !self.headers.is_empty() {
            http_response::set(self.status.unwrap_or(200), &self.headers).map_err(Failure::permanent)?;
        }
        Ok(self.body)
    }
}

impl From<()> for Response {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Vec<u8>> for Response {
    fn from(body: Vec<u8>) -> Self {
        Self::new(body)
    }
}

impl From<String> for Response {
    fn from(body: String) -> Self {
        Self::new(body)
    }
}

impl From<&str> for Response {
    fn from(body: &str) -> Self {
        Self::new(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_alone_need_no_engine() {
        assert_eq!(Response::from("é").hand_over().unwrap(), "é".as_bytes());
        assert_eq!(Response::from(()).hand_over().unwrap(), b"");
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_says_what_it_is() {
        let response = Response::json(&[1, 2]).unwrap().status(201);
        assert_eq!((&*response.body, response.status), (&b"[1,2]"[..], Some(201)));
        assert_eq!(response.headers, [("content-type".to_owned(), "application/json".to_owned())]);
    }
}
