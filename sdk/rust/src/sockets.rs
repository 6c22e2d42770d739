//! Sockets of functions with a WebSocket trigger, as the definition's `allow.sockets` grants.
//!
//! What changes something is done when the attempt succeeds, in the order in which it was asked for.
//!
//! ```no_run
//! use tripline_guest::sockets::Sockets;
//! use tripline_guest::{Event, Failure};
//!
//! tripline_guest::handler!(chat);
//!
//! fn chat(event: Event) -> Result<Vec<u8>, Failure> {
//!     let chat = Sockets::of("chat");
//!     match event.attribute("event").as_deref() {
//!         Some("connect") => chat.join(&event.client().unwrap_or_default(), "lobby")?,
//!         Some("message") => chat.to_room("lobby", event.text()?)?,
//!         _ => {}
//!     }
//!     Ok(Vec::new())
//! }
//! ```

use crate::bindings::tripline::function::sockets;
use crate::{HostError, Reason};

/// A member of a room.
pub use crate::bindings::tripline::function::sockets::Member;

/// The sockets of one function.
#[derive(Clone, Debug)]
pub struct Sockets(String);

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Frame::Text(text.to_owned())
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Frame::Text(text)
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Frame::Binary(bytes)
    }
}

impl Sockets {
    /// The sockets of a function: `name` in this function's namespace, `namespace.name` in another.
    pub fn of(function: impl Into<String>) -> Self {
        Self(function.into())
    }

    /// Sends a frame to one socket. One that is gone by then is told nothing.
    ///
    /// # Errors
    ///
    /// [`Denied`](Reason::Denied) where the function's sockets are not granted, [`Unknown`](Reason::Unknown) where it has
    /// none, [`Invalid`](Reason::Invalid) naming a field, [`TooLarge`](Reason::TooLarge) over what an attempt may ask for,
    /// [`Unavailable`](Reason::Unavailable) where the engine has no sockets.
    pub fn to_client(&self, client: &str, frame: impl Into<Frame>) -> Result<(), HostError> {
        self.send(sockets::Recipients::Client(client.to_owned()), frame.into())
    }

    /// Sends a frame to every member of a room.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn to_room(&self, room: &str, frame: impl Into<Frame>) -> Result<(), HostError> {
        self.send(sockets::Recipients::Room(room.to_owned()), frame.into())
    }

    /// Sends a frame to every socket with a tag.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn to_tag(&self, tag: &str, frame: impl Into<Frame>) -> Result<(), HostError> {
        self.send(sockets::Recipients::Tag(tag.to_owned()), frame.into())
    }

    /// Sends a frame to every socket of the function.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn to_everyone(&self, frame: impl Into<Frame>) -> Result<(), HostError> {
        self.send(sockets::Recipients::Everyone, frame.into())
    }

    fn send(&self, to: sockets::Recipients, frame: Frame) -> Result<(), HostError> {
        let frame = match frame {
            Frame::Text(text) => sockets::Frame::Text(text),
            Frame::Binary(bytes) => sockets::Frame::Binary(bytes),
        };
        sockets::send(&self.0, &to, &frame).map_err(refused)
    }

    /// Closes a socket, with 1000, 1001, 1008, 1011 to 1013 or a code from 3000 to 4999.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn close(&self, client: &str, code: u16, reason: &str) -> Result<(), HostError> {
        sockets::close(&self.0, client, code, reason).map_err(refused)
    }

    /// Makes a socket a member of a room.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn join(&self, client: &str, room: &str) -> Result<(), HostError> {
        sockets::join(&self.0, client, room).map_err(refused)
    }

    /// Takes it out of the room again.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn leave(&self, client: &str, room: &str) -> Result<(), HostError> {
        sockets::leave(&self.0, client, room).map_err(refused)
    }

    /// Gives a socket a tag.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn tag(&self, client: &str, tag: &str) -> Result<(), HostError> {
        sockets::tag(&self.0, client, tag).map_err(refused)
    }

    /// Takes the tag away again.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn untag(&self, client: &str, tag: &str) -> Result<(), HostError> {
        sockets::untag(&self.0, client, tag).map_err(refused)
    }

    /// Who is in a room now, in the order of their ids.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn members(&self, room: &str) -> Result<Vec<Member>, HostError> {
        let (mut members, mut cursor) = (Vec::new(), None);
        loop {
            let page = sockets::members(&self.0, room, cursor.as_deref()).map_err(refused)?;
            members.extend(page.members);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(members);
            }
        }
    }

    /// What is kept with a socket, as this attempt would leave it; nothing where the socket is not here.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn attachment(&self, client: &str) -> Result<Option<Vec<u8>>, HostError> {
        sockets::attachment(&self.0, client).map_err(refused)
    }

    /// Keeps up to 16 KiB with a socket until it is closed.
    ///
    /// # Errors
    ///
    /// Those of [`to_client`](Self::to_client).
    pub fn attach(&self, client: &str, bytes: impl AsRef<[u8]>) -> Result<(), HostError> {
        sockets::attach(&self.0, client, bytes.as_ref()).map_err(refused)
    }
}

fn refused(error: sockets::Error) -> HostError {
    match error {
        sockets::Error::Denied(why) => HostError::new(Reason::Denied, why),
        sockets::Error::Unknown(why) => HostError::new(Reason::Unknown, why),
        sockets::Error::Invalid((field, why)) => HostError::new(Reason::Invalid, format!("{field}: {why}")),
        sockets::Error::TooMany(why) => HostError::new(Reason::TooLarge, why),
        sockets::Error::Unavailable(why) => HostError::new(Reason::Unavailable, why),
    }
}
