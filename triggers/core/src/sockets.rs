//! Sockets that are open, as those see them who have something to tell them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a room or a tag, in bytes.
pub const MAX_SOCKET_NAME: usize = 128;

/// The most that is kept for a socket by who attached it, in bytes.
pub const MAX_ATTACHMENT: usize = 16 << 10;

/// The longest reason of a close frame, in bytes (RFC 6455, section 5.5).
pub const MAX_CLOSE_REASON: usize = 123;

/// Members of a room that are told at once.
pub const MEMBERS_PAGE: usize = 1000;

/// Reaches the sockets of functions, whoever asks for it.
pub trait Sockets: Send + Sync + 'static {
    /// Whether a function has a WebSocket trigger here: without one nobody will ever be reached.
    fn serves(&self, namespace: &str, function: &str) -> bool;

    /// Does it now. A socket that is gone is told nothing, as one that goes while a frame is on its way.
    fn apply(&self, effect: SocketEffect);

    /// Who is in a room, in the order of their ids, after this one: at most [`MEMBERS_PAGE`].
    fn members(&self, namespace: &str, function: &str, room: &str, after: Option<Uuid>) -> Vec<SocketMember>;

    /// How this engine is with others that have sockets of the same functions; `None` where it is alone.
    fn others(&self) -> Option<SocketPeers> {
        None
    }

    /// What was attached to a socket; `None` where the socket is not here, and empty where nothing was.
    fn attachment(&self, namespace: &str, function: &str, client: Uuid) -> Option<Bytes>;
}

/// Something to be done to the sockets of a function.
#[derive(Clone, Debug)]
pub struct SocketEffect {
    /// The function's namespace.
    pub namespace: Box<str>,
    /// The function's name.
    pub function: Box<str>,
    /// What is done.
    pub command: SocketCommand,
}

/// What can be done to sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketCommand {
    /// Sends a frame.
    Send {
        /// Whom to.
        to: Recipients,
        /// What.
        frame: SocketFrame,
    },
    /// Closes a socket.
    Close {
        /// Which one.
        client: Uuid,
        /// By which code of RFC 6455.
        code: u16,
        /// Why, in at most [`MAX_CLOSE_REASON`] bytes.
        reason: Box<str>,
    },
    /// Makes a socket a member of a room.
    Join {
        /// Which one.
        client: Uuid,
        /// The room.
        room: Box<str>,
    },
    /// Takes it out again.
    Leave {
        /// Which one.
        client: Uuid,
        /// The room.
        room: Box<str>,
    },
    /// Gives a socket a tag.
    Tag {
        /// Which one.
        client: Uuid,
        /// The tag.
        tag: Box<str>,
    },
    /// Takes it away again.
    Untag {
        /// Which one.
        client: Uuid,
        /// The tag.
        tag: Box<str>,
    },
    /// Keeps bytes with a socket, in place of those that were kept before.
    Attach {
        /// Which one.
        client: Uuid,
        /// At most [`MAX_ATTACHMENT`] of them.
        bytes: Bytes,
    },
}

impl SocketCommand {
    /// Whether names, bytes and codes are within their bounds.
    pub fn is_within_bounds(&self) -> bool {
        let is_name = |name: &str| (1..=MAX_SOCKET_NAME).contains(&name.len());
        match self {
            SocketCommand::Send { to: Recipients::Room(name) | Recipients::Tag(name), .. } => is_name(name),
            SocketCommand::Send { .. } => true,
            SocketCommand::Close { code, reason, .. } => {
                matches!(code, 1000 | 1001 | 1008 | 1011..=1013 | 3000..=4999) && reason.len() <= MAX_CLOSE_REASON
            }
            SocketCommand::Join { room: name, .. }
            | SocketCommand::Leave { room: name, .. }
            | SocketCommand::Tag { tag: name, .. }
            | SocketCommand::Untag { tag: name, .. } => is_name(name),
            SocketCommand::Attach { bytes, .. } => bytes.len() <= MAX_ATTACHMENT,
        }
    }

    /// The one socket that it is about, if it is about one.
    pub fn client(&self) -> Option<Uuid> {
        match self {
            SocketCommand::Send { to: Recipients::Client(client), .. }
            | SocketCommand::Close { client, .. }
            | SocketCommand::Join { client, .. }
            | SocketCommand::Leave { client, .. }
            | SocketCommand::Tag { client, .. }
            | SocketCommand::Untag { client, .. }
            | SocketCommand::Attach { client, .. } => Some(*client),
            SocketCommand::Send { .. } => None,
        }
    }

    /// Bytes that it brings.
    pub fn bytes(&self) -> usize {
        match self {
            SocketCommand::Send { frame: SocketFrame::Text(text), .. } => text.len(),
            SocketCommand::Send { frame: SocketFrame::Binary(bytes), .. } | SocketCommand::Attach { bytes, .. } => {
                bytes.len()
            }
            _ => 0,
        }
    }
}

/// Whom a frame is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipients {
    /// One socket.
    Client(Uuid),
    /// Every member of a room.
    Room(Box<str>),
    /// Every socket with this tag.
    Tag(Box<str>),
    /// Every socket of the function.
    Everyone,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketFrame {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketMember {
    /// The socket.
    pub client: Uuid,
    /// Who authenticated it, where somebody did.
    pub caller: Option<Box<str>>,
}

/// How an engine is with others that have sockets of the same functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketPeers {
    /// Engines that are heard of now.
    pub alive: usize,
    /// Messages of theirs that were heard and not believed, or could not be read, so far.
    pub refused: u64,
    /// Messages of this engine that could not be said, so far.
    pub unsaid: u64,
    /// How often something that another engine had said was never heard, so far.
    pub missed: u64,
}
