//! The task of one socket: frames in and out, one message at a time to the function, and the end.
//!
//! Everything is polled by one task, so that a peer that takes nothing holds up neither its attempt nor its pings, and a
//! socket that has nothing to say costs one task. What comes is read ahead of the function as far as the queue goes;
//! beyond that nothing is read, and the peer's own buffers fill.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use trigger_core::upgrade::Connection;
use trigger_core::{Answer, BoxFuture, InvocationContext, Shed};

use crate::config::Event;
use crate::endpoint::{Registered, Serving};
use crate::event;
use crate::reply::{self, Reply};
use crate::socket::{Close, Socket};

/// How long a peer may take to answer a close frame, and to take what was sent before it.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How long, and for how many bytes, a socket that broke its protocol is read, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 << 20;

/// Serves a socket until it is closed, then says so to the function.
pub(crate) async fn serve(
    registered: Registered,
    protocol: WebSocketConfig,
    connection: BoxFuture<'static, io::Result<Box<dyn Connection>>>,
) {
    let (endpoint, socket) = (registered.endpoint.clone(), registered.socket.clone());
    let end = match connection.await {
        Ok(io) => {
            let ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(protocol)).await;
            let mut line = Line::new(registered, ws);
            let end = poll_fn(|cx| line.poll(cx)).await;
            line.hang_up(&end).await;
            end
        }
        Err(_) => {
            // The request's connection ended before the response was through.
            drop(registered);
            End::gone("the connection ended")
        }
    };
    let Some(serving) = endpoint.serving() else { return };
    for (event, wanted) in [(Event::Error, end.broken), (Event::Disconnect, true)] {
        if wanted && serving.config.wants(event) {
            let told = event::end(&socket, &serving, event, end.code, &end.reason);
            serving.cx.dispatch.dispatch(told).await;
        }
    }
}

/// How a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    code: u16,
    reason: Box<str>,
    /// Whether something went wrong with it.
    broken: bool,
}

impl End {
    /// It went without a close frame (RFC 6455, section 7.1.5, calls that 1006).
    fn gone(why: &str) -> Self {
        Self { code: CloseCode::Abnormal.into(), reason: why.into(), broken: false }
    }
}

/// A socket on the line.
struct Line {
    registered: Registered,
    ws: WebSocketStream<Box<dyn Connection>>,
    /// Messages that wait for the one before them.
    queue: VecDeque<(bool, Bytes)>,
    queue_bytes: usize,
    /// The message that the function works on: whether it was text, and what comes of it.
    current: Option<(bool, BoxFuture<'static, Answer>)>,
    /// What the peer's side came to: nothing more is read.
    ended: Option<End>,
    unflushed: bool,
    /// Since when it is being closed from this side.
    closing: Option<Instant>,
    close_sent: bool,
    heard: Instant,
    said: Instant,
    pinged: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Line {
    fn new(registered: Registered, ws: WebSocketStream<Box<dyn Connection>>) -> Self {
        let now = Instant::now();
        Self {
            registered,
            ws,
            queue: VecDeque::new(),
            queue_bytes: 0,
            current: None,
            ended: None,
            unflushed: false,
            closing: None,
            close_sent: false,
            heard: now,
            said: now,
            pinged: None,
            alarm: None,
        }
    }

    fn socket(&self) -> &Arc<Socket> {
        &self.registered.socket
    }

    fn serving(&self) -> Arc<Serving> {
        self.registered.endpoint.serving().expect("a socket is opened by a trigger that runs")
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.socket().task.register(cx.waker());
        let serving = self.serving();
        loop {
            let mut went_on = self.take_answer(cx, &serving);
            went_on |= self.hand_on(&serving);
            went_on |= self.receive(cx, &serving);
            went_on |= self.begin_close(&serving);
            self.send(cx);
            if let Some(end) = self.end() {
                return Poll::Ready(end);
            }
            if !went_on && !self.look_at_the_clock(cx, &serving) {
                return Poll::Pending;
            }
        }
    }

    /// Takes what came of the message that the function worked on.
    fn take_answer(&mut self, cx: &mut Context<'_>, serving: &Serving) -> bool {
        let Some((text, answer)) = &mut self.current else { return false };
        let Poll::Ready(answer) = answer.as_mut().poll(cx) else { return false };
        let reply = reply::of(answer, *text, serving.config.on_failure);
        self.current = None;
        self.said = Instant::now();
        match reply {
            Reply::Frame(frame) => self.socket().put(&frame, &serving.config),
            Reply::Nothing => {}
            Reply::Close(close) => self.socket().close(close),
        }
        true
    }

    /// Hands the next message to the function, once it has done with the one before.
    fn hand_on(&mut self, serving: &Serving) -> bool {
        if self.current.is_some() {
            return false;
        }
        let Some((text, payload)) = self.queue.pop_front() else { return false };
        self.queue_bytes -= payload.len();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        let message = event::message(self.socket(), serving, text, payload);
        self.current = Some((text, dispatch(serving, message)));
        true
    }

    /// Reads frames, as long as there is room for messages.
    fn receive(&mut self, cx: &mut Context<'_>, serving: &Serving) -> bool {
        let config = &serving.config;
        let mut went_on = false;
        while self.ended.is_none() && self.queue.len() < config.queue && self.queue_bytes < config.max_message_bytes {
            let Poll::Ready(read) = Pin::new(&mut self.ws).poll_next(cx) else { break };
            went_on = true;
            self.heard = Instant::now();
            self.pinged = None;
            let message = match read {
                Some(Ok(Message::Text(text))) => (true, Bytes::from(text)),
                Some(Ok(Message::Binary(bytes))) => (false, bytes),
                Some(Ok(Message::Close(frame))) => {
                    // The answer to it is flushed by the reads that follow, the last of which finds the end.
                    self.ended_by_peer(frame, cx);
                    break;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    self.broken(&error, serving);
                    break;
                }
                None => {
                    self.ended = Some(End::gone("the connection ended"));
                    break;
                }
            };
            self.said = self.heard;
            if self.closing.is_some() || !config.wants(Event::Message) {
                // Those that nobody asked for are no events.
                if self.closing.is_some() {
                    serving.cx.dispatch.count_shed(&serving.cx.binding, Shed::Closed, 1);
                }
                continue;
            }
            self.queue_bytes += message.1.len();
            self.queue.push_back(message);
        }
        went_on
    }

    fn ended_by_peer(&mut self, frame: Option<CloseFrame>, cx: &mut Context<'_>) {
        let (code, reason) = match frame {
            Some(CloseFrame { code, reason }) => (code.into(), reason.as_str().into()),
            None => (CloseCode::Status.into(), Box::default()),
        };
        self.ended = Some(End { code, reason, broken: false });
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut self.ws).poll_next(cx) {}
    }

    /// The peer cannot be understood any more, or not be reached.
    fn broken(&mut self, error: &Error, serving: &Serving) {
        let (code, reason, shed) = match error {
            Error::Capacity(_) => (CloseCode::Size, "the message is too large", Some(Shed::TooLarge)),
            Error::Utf8(_) => (CloseCode::Invalid, "the text is no UTF-8", Some(Shed::Malformed)),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.ended = Some(End::gone("the connection ended without a close frame"));
                return;
            }
            Error::Protocol(_) => (CloseCode::Protocol, "a frame breaks the protocol", Some(Shed::Malformed)),
            _ => (CloseCode::Abnormal, "the connection broke", None),
        };
        self.ended = Some(End { code: code.into(), reason: reason.into(), broken: true });
        if let Some(shed) = shed {
            serving.cx.dispatch.count_shed(&serving.cx.binding, shed, 1);
            self.socket().close(Close { code: code.into(), reason: reason.into(), finish: true });
        }
    }

    /// Says goodbye, once what came before has been handled and what was sent before has gone.
    fn begin_close(&mut self, serving: &Serving) -> bool {
        let Some(close) = self.socket().closing() else { return false };
        if !close.finish && !self.queue.is_empty() {
            serving.cx.dispatch.count_shed(&serving.cx.binding, Shed::Closed, self.queue.len() as u64);
            self.queue = VecDeque::new();
            self.queue_bytes = 0;
        }
        if self.closing.is_some() || self.current.is_some() || !self.queue.is_empty() {
            return false;
        }
        self.closing = Some(Instant::now());
        true
    }

    /// Sends what waits. A peer that takes nothing now is sent the rest when it does.
    fn send(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(ready) = Pin::new(&mut self.ws).poll_ready(cx) {
            let message = match self.socket().pop() {
                Some(frame) => frame.message(self.socket().enveloped),
                None => self.goodbye(),
            };
            let Some(message) = message else { break };
            self.said = Instant::now();
            self.unflushed = true;
            if ready.and_then(|()| Pin::new(&mut self.ws).start_send(message)).is_err() {
                self.unsendable();
                return;
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.ws).poll_flush(cx)
        {
            self.unflushed = false;
            if flushed.is_err() {
                self.unsendable();
            }
        }
    }

    /// The close frame, when its time has come.
    fn goodbye(&mut self) -> Option<Message> {
        let close = self.socket().closing().filter(|_| self.closing.is_some() && !self.close_sent)?;
        self.close_sent = true;
        let reason = Utf8Bytes::from(String::from(close.reason));
        Some(Message::Close(Some(CloseFrame { code: close.code.into(), reason })))
    }

    /// Nothing can be sent any more: after the peer's own close frame that is as it should be.
    fn unsendable(&mut self) {
        self.unflushed = false;
        self.close_sent = true;
        let broken = || End { code: CloseCode::Abnormal.into(), reason: "the connection broke".into(), broken: true };
        self.ended.get_or_insert_with(broken);
    }

    /// How it ended, once everything that came has been handled and everything that can be sent has been.
    fn end(&self) -> Option<End> {
        if self.current.is_some() || !self.queue.is_empty() {
            return None;
        }
        let closed = self.socket().closing();
        let ours = |broken| closed.clone().map(|close| End { code: close.code, reason: close.reason, broken });
        let given_up = self.closing.is_some_and(|since| since.elapsed() >= CLOSE_WAIT);
        match &self.ended {
            // The peer's answer to our close frame ends what we closed.
            Some(end) if end.broken && closed.is_some() => {
                ((self.close_sent && !self.unflushed) || given_up).then(|| ours(true).unwrap_or_else(|| end.clone()))
            }
            Some(end) => Some(if self.close_sent { ours(false).unwrap_or_else(|| end.clone()) } else { end.clone() }),
            None => given_up.then(|| ours(false).unwrap_or_else(|| End::gone("the connection ended"))),
        }
    }

    /// Does what is due; whether something was.
    fn look_at_the_clock(&mut self, cx: &mut Context<'_>, serving: &Serving) -> bool {
        loop {
            let Some((due, what)) = self.due(serving) else { return false };
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            // One that rings too early is set anew then, and not with every frame.
            if due < alarm.deadline() {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return false;
            }
            if Instant::now() < due {
                alarm.as_mut().reset(due);
                continue;
            }
            self.alarm = None;
            match what {
                Due::GiveUp => {}
                Due::Idle => self.socket().close(Close {
                    code: CloseCode::Away.into(),
                    reason: "nothing was said for too long".into(),
                    finish: true,
                }),
                Due::Ping if self.pinged.is_some() => self.ended = Some(End::gone("a ping was not answered")),
                Due::Ping => {
                    self.pinged = Some(Instant::now());
                    if let Poll::Ready(Ok(())) = Pin::new(&mut self.ws).poll_ready(cx) {
                        self.unflushed = true;
                        let _what_is_wrong_is_found_by_the_flush =
                            Pin::new(&mut self.ws).start_send(Message::Ping(Bytes::new()));
                    }
                }
            }
            return true;
        }
    }

    /// What is due next, and when.
    fn due(&self, serving: &Serving) -> Option<(Instant, Due)> {
        if let Some(since) = self.closing {
            return Some((since + CLOSE_WAIT, Due::GiveUp));
        }
        if self.ended.is_some() {
            return None;
        }
        let ping = serving.config.ping_interval().map(|every| (self.pinged.unwrap_or(self.heard) + every, Due::Ping));
        // Who waits for an answer is not idle.
        let idle =
            serving.config.idle_timeout().filter(|_| self.current.is_none() && self.socket().closing().is_none());
        let idle = idle.map(|after| (self.said + after, Due::Idle));
        ping.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    /// Leaves the others and lets go of the connection. A peer that broke the protocol is likely to be sending still: a
    /// socket closed now would be reset, and it would never read why.
    async fn hang_up(self, end: &End) {
        let Line { registered, mut ws, .. } = self;
        drop(registered);
        if !end.broken || end.code == u16::from(CloseCode::Abnormal) {
            return;
        }
        let linger = async {
            let io = ws.get_mut();
            io.shutdown().await?;
            let (mut bytes, mut left) = (vec![0; 4 << 10], LINGER_BYTES);
            while left > 0 {
                match io.read(&mut bytes).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        let _either_it_has_read_or_it_never_will = tokio::time::timeout(LINGER, linger).await;
    }
}

/// What a socket's alarm is set for.
enum Due {
    Ping,
    Idle,
    GiveUp,
}

fn dispatch(serving: &Serving, event: InvocationContext) -> BoxFuture<'static, Answer> {
    let dispatch = serving.cx.dispatch.clone();
    Box::pin(async move { dispatch.dispatch(event).await })
}
