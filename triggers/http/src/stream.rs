//! Routes whose bodies stream: the function reads its request while it comes and is heard while it speaks.
//!
//! The attempt belongs to the response's body: it runs as the connection takes the response, and is cut when the
//! connection drops it. Nothing is held but what is on its way, so a slow reader slows the function down.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::time::Sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trigger_core::{Answer, BodyError, Exchange, InvocationContext, StreamedBody};

use crate::routes::Route;

/// The body of a response: whole, or on its way from the function.
pub struct ResponseBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Streamed(Box<Streamed>),
}

/// A response under way, and the attempt that it comes from.
struct Streamed {
    body: StreamedBody,
    attempt: Option<BoxFuture<'static, Answer>>,
    has_ended: bool,
    _until_answered: TaskTrackerToken,
}

/// What came first.
pub(crate) enum Begun {
    /// The head of the response; the body follows.
    Response(Response<ResponseBody>),
    /// The end of the attempt: there was no response.
    Ended(Answer),
}

/// Runs the function on what the caller sends, until its response begins.
pub(crate) async fn begin<B>(
    route: std::sync::Arc<Route>,
    in_flight: TaskTrackerToken,
    mut event: InvocationContext,
    method: &Method,
    body: B,
    patience: Duration,
) -> Begun
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let limit = usize::try_from(route.max_body_bytes).unwrap_or(usize::MAX);
    let body = Paced { body: body.map_err(Into::into).boxed_unsync(), patience, sleep: None };
    let body = Limited::new(body, limit).boxed_unsync();
    let (exchange, mut response) = Exchange::new(body);
    event.exchange = Some(std::sync::Arc::new(exchange));
    let tasks = route.cx.tasks.clone();
    let mut attempt: BoxFuture<'static, Answer> = Box::pin(async move { route.cx.dispatch.dispatch(event).await });
    let response = tokio::select! {
        biased;
        Ok(response) = &mut response => response,
        answer = &mut attempt => return Begun::Ended(answer),
    };
    if method == Method::HEAD {
        // The caller has been told everything; the function goes on, and finds that nobody reads on.
        tasks.spawn(async move {
            attempt.await;
            drop(in_flight);
        });
        return Begun::Response(response.map(|_| ResponseBody::default()));
    }
    Begun::Response(response.map(|body| {
        let streamed = Streamed { body, attempt: Some(attempt), has_ended: false, _until_answered: in_flight };
        ResponseBody(Kind::Streamed(Box::new(streamed)))
    }))
}

impl Default for ResponseBody {
    fn default() -> Self {
        Full::default().into()
    }
}

impl From<Full<Bytes>> for ResponseBody {
    fn from(body: Full<Bytes>) -> Self {
        Self(Kind::Whole(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Streamed {
    /// The response ends when its attempt has: only then is it known that nothing is missing.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let failed = || Some(Err("the function failed before its response was complete".into()));
        if let Some(attempt) = &mut self.attempt
            && let Poll::Ready(answer) = attempt.as_mut().poll(cx)
        {
            self.attempt = None;
            if !matches!(answer, Answer::Ok(_)) {
                return Poll::Ready(failed());
            }
        }
        if !self.has_ended {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
                // A body that broke off fails its attempt.
                Poll::Ready(None | Some(Err(_))) => self.has_ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.attempt.as_mut().map(|attempt| attempt.as_mut().poll(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(Answer::Ok(_))) | None => {
                self.attempt = None;
                Poll::Ready(None)
            }
            Some(Poll::Ready(_)) => {
                self.attempt = None;
                Poll::Ready(failed())
            }
        }
    }
}

/// A body whose sender has so long for each piece of it.
struct Paced {
    body: StreamedBody,
    patience: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.sleep = None;
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(cx).map(|()| Some(Err("the caller sent nothing for too long".into())))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
