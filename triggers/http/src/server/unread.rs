//! Notices a request body that was not read to its end, so that the connection can be closed without cutting off the
//! response that says why.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};

/// Whether a request of the connection left a part of its body unread.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The body, watched; one that is empty from the start needs no watch.
    pub(super) fn watch(&self, body: Incoming) -> Watched {
        let unread = (!body.is_end_stream()).then(|| self.clone());
        Watched { body, unread }
    }
}

/// A body that says so when it is dropped before its end.
pub(super) struct Watched {
    body: Incoming,
    unread: Option<Unread>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.unread = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(unread) = &self.unread {
            unread.0.store(true, Ordering::Relaxed);
        }
    }
}
