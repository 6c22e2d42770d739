//! One socket as others see it: a place to put frames, and what is known of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use trigger_core::Attribute;
use uuid::Uuid;

use crate::config::{Config, SlowConsumer};
use crate::frame::Frame;

/// Bytes that may wait until a socket takes them, beside one frame of any size.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) id: Uuid,
    /// The path that it was opened on, as it was sent.
    pub(crate) path: Box<str>,
    /// What the request that opened it was about.
    pub(crate) attributes: Box<[Attribute]>,
    /// Who opened it, where its trigger asked for a proof or its connection has shown a certificate.
    pub(crate) caller: Option<Box<str>>,
    /// Whether it speaks `tripline.v1`.
    pub(crate) enveloped: bool,
    outbox: Mutex<Outbox>,
    /// The socket's task.
    pub(crate) task: AtomicWaker,
}

/// What waits for the socket's task.
#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    close: Option<Close>,
    attachment: Bytes,
}

/// How a socket is closed from this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) reason: Box<str>,
    /// Whether messages that came before it are still handled.
    pub(crate) finish: bool,
}

impl Close {
    /// Nothing that waits is handled any more.
    pub(crate) fn now(code: CloseCode, reason: &str) -> Self {
        Self { code: code.into(), reason: reason.into(), finish: false }
    }

    /// What came already is handled and answered first.
    pub(crate) fn away() -> Self {
        Self { code: CloseCode::Away.into(), reason: "the path is no longer served here".into(), finish: true }
    }
}

impl Socket {
    pub(crate) fn new(path: &str, attributes: Vec<Attribute>, enveloped: bool) -> Self {
        Self {
            id: Uuid::now_v7(),
            path: path.into(),
            attributes: attributes.into(),
            caller: None,
            enveloped,
            outbox: Mutex::default(),
            task: AtomicWaker::new(),
        }
    }

    /// Puts a frame behind those that wait, and wakes the socket's task.
    pub(crate) fn push(&self, frame: &Arc<Frame>, config: &Config) {
        self.put(frame, config);
        self.task.wake();
    }

    /// Puts a frame behind those that wait. A socket that does not take them is treated as its trigger says.
    pub(crate) fn put(&self, frame: &Arc<Frame>, config: &Config) {
        if !frame.is_for(self.enveloped) {
            return;
        }
        let mut outbox = self.outbox.lock();
        if outbox.close.as_ref().is_some_and(|close| !close.finish) {
            return;
        }
        while outbox.is_full(frame.len(), config.send_queue) {
            match config.slow_consumer {
                SlowConsumer::Close => {
                    outbox.frames = VecDeque::new();
                    outbox.bytes = 0;
                    outbox.close = Some(Close::now(CloseCode::Again, "frames arrive faster than they are taken"));
                    return;
                }
                SlowConsumer::DropOldest => drop(outbox.pop()),
            }
        }
        outbox.bytes += frame.len();
        outbox.frames.push_back(frame.clone());
    }

    /// The frame that has waited longest.
    pub(crate) fn pop(&self) -> Option<Arc<Frame>> {
        self.outbox.lock().pop()
    }

    /// Closes it once what waits has been sent; the first reason holds.
    pub(crate) fn close(&self, close: Close) {
        self.outbox.lock().close.get_or_insert(close);
        self.task.wake();
    }

    /// How it is to be closed, if it is.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.outbox.lock().close.clone()
    }

    pub(crate) fn attach(&self, bytes: Bytes) {
        self.outbox.lock().attachment = bytes;
    }

    pub(crate) fn attachment(&self) -> Bytes {
        self.outbox.lock().attachment.clone()
    }
}

impl Outbox {
    fn is_full(&self, bytes: usize, frames: usize) -> bool {
        !self.frames.is_empty() && (self.frames.len() >= frames || self.bytes + bytes > MAX_WAITING_BYTES)
    }

    fn pop(&mut self) -> Option<Arc<Frame>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        if self.frames.is_empty() {
            // A socket that has nothing to say holds nothing.
            self.frames = VecDeque::new();
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trigger_core::SocketFrame;

    fn config(slow_consumer: &str) -> Config {
        let json = serde_json::json!({ "path": "/", "send_queue": 2, "slow_consumer": slow_consumer });
        serde_json::from_value(json).unwrap()
    }

    fn push(socket: &Socket, config: &Config, texts: &[&str]) {
        for text in texts {
            socket.push(&Frame::new(SocketFrame::Text((*text).to_owned()), None), config);
        }
    }

    fn waiting(socket: &Socket) -> Vec<String> {
        std::iter::from_fn(|| socket.pop()).map(|frame| frame.message(false).unwrap().to_string()).collect()
    }

    #[test]
    fn a_socket_that_takes_nothing_is_closed() {
        let (socket, config) = (Socket::new("/", Vec::new(), false), config("close"));
        push(&socket, &config, &["1", "2"]);
        assert_eq!(socket.closing(), None);
        push(&socket, &config, &["3", "4"]);
        assert_eq!(socket.closing().unwrap().code, 1013);
        assert!(waiting(&socket).is_empty(), "nobody takes them");
    }

    #[test]
    fn or_never_gets_what_has_waited_longest() {
        let (socket, config) = (Socket::new("/", Vec::new(), false), config("drop_oldest"));
        push(&socket, &config, &["1", "2", "3"]);
        assert_eq!((waiting(&socket), socket.closing()), (vec!["2".to_owned(), "3".to_owned()], None));
        let large = "x".repeat(MAX_WAITING_BYTES);
        push(&socket, &config, &["1", &large]);
        assert_eq!(waiting(&socket), [large], "one frame may always wait");
    }

    #[test]
    fn the_first_reason_to_close_holds() {
        let (socket, config) = (Socket::new("/", Vec::new(), false), config("close"));
        push(&socket, &config, &["1"]);
        socket.close(Close::away());
        socket.close(Close::now(CloseCode::Policy, "too late"));
        push(&socket, &config, &["2"]);
        let sent = vec!["1".to_owned(), "2".to_owned()];
        assert_eq!((socket.closing(), waiting(&socket)), (Some(Close::away()), sent), "what came is still answered");
        let socket = Socket::new("/", Vec::new(), false);
        socket.close(Close::now(CloseCode::Error, "failed"));
        push(&socket, &config, &["1"]);
        assert!(waiting(&socket).is_empty());
    }
}
