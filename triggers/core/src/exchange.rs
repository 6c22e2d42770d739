//! Bodies that stream, between a caller whose connection is open and a guest that speaks HTTP.

use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that is read while it is written.
pub type StreamedBody = UnsyncBoxBody<Bytes, BodyError>;

/// The two bodies of a request whose function reads the one and writes the other while it runs. Each can be taken
/// once: what has been streamed cannot be tried again.
pub struct Exchange {
    request: Mutex<Option<StreamedBody>>,
    response: Mutex<Option<oneshot::Sender<http::Response<StreamedBody>>>>,
}

impl Exchange {
    /// An exchange for a request with this body. The response arrives as soon as the guest has written its head; it
    /// never does where the attempt ends without one.
    pub fn new(request: StreamedBody) -> (Self, oneshot::Receiver<http::Response<StreamedBody>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { request: Mutex::new(Some(request)), response: Mutex::new(Some(sender)) }, receiver)
    }

    /// The request's body, once.
    pub fn take_request(&self) -> Option<StreamedBody> {
        take(&self.request)
    }

    /// Answers the caller, once. `false` where it was answered before or has gone.
    pub fn respond(&self, response: http::Response<StreamedBody>) -> bool {
        take(&self.response).is_some_and(|sender| sender.send(response).is_ok())
    }
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn body(text: &'static str) -> StreamedBody {
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn each_body_is_taken_once() {
        let (exchange, response) = Exchange::new(body("asked"));
        let asked = exchange.take_request().unwrap().collect().await.unwrap().to_bytes();
        assert_eq!(asked, "asked");
        assert!(exchange.take_request().is_none());
        assert!(exchange.respond(http::Response::new(body("told"))));
        assert!(!exchange.respond(http::Response::new(body("again"))));
        let told = response.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(told, "told");
    }

    #[test]
    fn nobody_is_told_who_has_gone() {
        let (exchange, response) = Exchange::new(body(""));
        drop(response);
        assert!(!exchange.respond(http::Response::new(body(""))));
    }
}
