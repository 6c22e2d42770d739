//! A frame on its way to sockets: made once, whoever gets it.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use trigger_core::SocketFrame;
use uuid::Uuid;

use crate::mark::Mark;

/// Bytes for everyone, and the same in an envelope for those who speak `tripline.v1`.
#[derive(Debug)]
pub(crate) struct Frame {
    plain: Option<Message>,
    place: Option<Place>,
    envelope: OnceLock<Message>,
}

/// Where a frame stands among those of its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) room: Box<str>,
    pub(crate) seq: Arc<Mark>,
}

/// What those who speak `tripline.v1` are told (README.md has the table).
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Told<'a> {
    Welcome {
        client: Uuid,
    },
    Message {
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<&'a Mark>,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    Joined {
        room: &'a str,
        seq: &'a Mark,
    },
    Missed {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
    },
    Join {
        room: &'a str,
        client: Uuid,
    },
    Leave {
        room: &'a str,
        client: Uuid,
    },
}

impl Told<'_> {
    fn message(&self) -> Message {
        Message::text(serde_json::to_string(self).expect("strings and numbers become JSON"))
    }

    /// A frame for those alone who speak `tripline.v1`.
    pub(crate) fn frame(&self) -> Arc<Frame> {
        Arc::new(Frame { plain: None, place: None, envelope: OnceLock::from(self.message()) })
    }
}

impl Frame {
    pub(crate) fn new(frame: SocketFrame, place: Option<Place>) -> Arc<Self> {
        let plain = match frame {
            SocketFrame::Text(text) => Message::Text(Utf8Bytes::from(text)),
            SocketFrame::Binary(bytes) => Message::Binary(bytes),
        };
        Self::plain(plain, place)
    }

    pub(crate) fn plain(plain: Message, place: Option<Place>) -> Arc<Self> {
        Arc::new(Self { plain: Some(plain), place, envelope: OnceLock::new() })
    }

    /// Bytes that it keeps, whatever it is sent as.
    pub(crate) fn len(&self) -> usize {
        self.plain.as_ref().or(self.envelope.get()).map_or(0, Message::len)
    }

    /// Whether those who speak `tripline.v1`, or those who do not, are sent it.
    pub(crate) fn is_for(&self, enveloped: bool) -> bool {
        enveloped || self.plain.is_some()
    }

    /// What is sent; nothing where it is for others.
    pub(crate) fn message(&self, enveloped: bool) -> Option<Message> {
        match enveloped {
            true => Some(self.envelope.get_or_init(|| self.in_envelope()).clone()),
            false => self.plain.clone(),
        }
    }

    fn in_envelope(&self) -> Message {
        let (text, base64) = match &self.plain {
            Some(Message::Text(text)) => (Some(text.as_str()), None),
            Some(Message::Binary(bytes)) => (None, Some(BASE64.encode(bytes))),
            _ => (None, None),
        };
        let place = self.place.as_ref();
        let (room, seq) = (place.map(|place| &*place.room), place.map(|place| &*place.seq));
        Told::Message { room, seq, text, base64 }.message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_says_where_its_frame_stands_and_is_made_once() {
        let place = Place { room: "lobby".into(), seq: Arc::new(Mark::alone(7)) };
        let frame = Frame::new(SocketFrame::Text("hi \"you\"".into()), Some(place));
        let told = frame.message(true).unwrap();
        assert_eq!(told.to_text().unwrap(), r#"{"type":"message","room":"lobby","seq":7,"text":"hi \"you\""}"#);
        let again = frame.message(true).unwrap().into_data();
        assert_eq!(again.as_ptr(), told.into_data().as_ptr(), "whoever is next gets the same bytes");
        assert_eq!(frame.message(false).unwrap(), Message::text("hi \"you\""));
        let bytes = Frame::new(SocketFrame::Binary(vec![0, 255].into()), None).message(true).unwrap();
        assert_eq!(bytes.to_text().unwrap(), r#"{"type":"message","base64":"AP8="}"#);
        let joined = Told::Joined { room: "lobby", seq: &Mark::alone(3) }.frame();
        assert!(joined.message(false).is_none(), "nobody else is told");
        assert_eq!(joined.message(true).unwrap().to_text().unwrap(), r#"{"type":"joined","room":"lobby","seq":3}"#);
    }
}
