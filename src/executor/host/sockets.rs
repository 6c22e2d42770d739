//! `sockets`: frames to sockets that are open, and what is kept of them. What changes something is held back until the
//! attempt has succeeded, all of it in one order.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use trigger_core::{
    MAX_ATTACHMENT, MAX_CLOSE_REASON, MAX_SOCKET_NAME, MEMBERS_PAGE, SocketCommand, SocketEffect, SocketFrame, Sockets,
    subject,
};
use uuid::Uuid;

use super::bindings::tripline::function::sockets::{self, Error, Frame, Host, Page, Recipients};
use super::events::{Refusal, qualified, shown};
use crate::executor::guest::Guest;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Error::Denied(why),
            Refusal::Unknown(why) => Error::Unknown(why),
            Refusal::Invalid(field, why) => Error::Invalid((field, why)),
            Refusal::TooMany(why) => Error::TooMany(why),
            Refusal::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl Host for Guest {
    fn send(&mut self, function: String, to: Recipients, frame: Frame) -> Result<(), Error> {
        let frame = match frame {
            Frame::Text(text) => SocketFrame::Text(text),
            Frame::Binary(bytes) => SocketFrame::Binary(bytes.into()),
        };
        self.change("socket-send", &function, recipients(to).map(|to| SocketCommand::Send { to, frame }))
    }

    fn close(&mut self, function: String, client: String, code: u16, reason: String) -> Result<(), Error> {
        self.change("socket-close", &function, close(&client, code, reason))
    }

    fn join(&mut self, function: String, client: String, room: String) -> Result<(), Error> {
        let command = named(&client, "room", room).map(|(client, room)| SocketCommand::Join { client, room });
        self.change("socket-join", &function, command)
    }

    fn leave(&mut self, function: String, client: String, room: String) -> Result<(), Error> {
        let command = named(&client, "room", room).map(|(client, room)| SocketCommand::Leave { client, room });
        self.change("socket-leave", &function, command)
    }

    fn tag(&mut self, function: String, client: String, tag: String) -> Result<(), Error> {
        let command = named(&client, "tag", tag).map(|(client, tag)| SocketCommand::Tag { client, tag });
        self.change("socket-tag", &function, command)
    }

    fn untag(&mut self, function: String, client: String, tag: String) -> Result<(), Error> {
        let command = named(&client, "tag", tag).map(|(client, tag)| SocketCommand::Untag { client, tag });
        self.change("socket-untag", &function, command)
    }

    fn members(&mut self, function: String, room: String, cursor: Option<String>) -> Result<Page, Error> {
        let began = Instant::now();
        let result = self.members_of(&function, room, cursor);
        self.asked("socket-members", shown(&function), began, 0, &result);
        Ok(result?)
    }

    fn attachment(&mut self, function: String, client: String) -> Result<Option<Vec<u8>>, Error> {
        let began = Instant::now();
        let result = self.attached_to(&function, &client);
        let bytes = result.as_ref().map_or(0, |bytes| bytes.as_ref().map_or(0, Bytes::len));
        self.asked("socket-attachment", shown(&function), began, bytes, &result);
        Ok(result?.map(Into::into))
    }

    fn attach(&mut self, function: String, client: String, bytes: Vec<u8>) -> Result<(), Error> {
        let command = match bytes.len() {
            0..=MAX_ATTACHMENT => id(&client).map(|client| SocketCommand::Attach { client, bytes: bytes.into() }),
            size => Err(Refusal::invalid("bytes", format!("there are {size}, the limit is {MAX_ATTACHMENT}"))),
        };
        self.change("socket-attach", &function, command)
    }
}

/// Sockets that a guest may reach.
struct Granted {
    sockets: Arc<dyn Sockets>,
    namespace: Box<str>,
    function: Box<str>,
}

impl Guest {
    fn change(
        &mut self,
        op: &'static str,
        function: &str,
        command: Result<SocketCommand, Refusal>,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let bytes = command.as_ref().map_or(0, SocketCommand::bytes);
        let result = command.and_then(|command| self.command(function, command));
        self.asked(op, shown(function), began, bytes, &result);
        Ok(result?)
    }

    /// The sockets of a function, if the definition grants them and there can be any.
    fn sockets_of(&self, function: &str) -> Result<Granted, Refusal> {
        let definition = &self.version.definition;
        let name = qualified(&definition.namespace, function);
        subject::check_subject(&name)
            .map_err(|why| Refusal::invalid("function", format!("{:?}: {why}", shown(function))))?;
        let grants = &definition.allow.sockets;
        if !grants.iter().any(|grant| subject::matches(&qualified(&definition.namespace, grant), &name)) {
            return Err(self.not_granted("sockets", function));
        }
        let sockets = self.served.as_ref().and_then(|served| served.services.sockets.clone());
        let sockets = sockets.ok_or_else(|| Refusal::Unavailable("this engine has no sockets".to_owned()))?;
        match name.split_once('.') {
            Some((namespace, called)) if sockets.serves(namespace, called) => {
                Ok(Granted { sockets, namespace: namespace.into(), function: called.into() })
            }
            _ => Err(Refusal::Unknown(format!("no function {:?} has sockets", shown(function)))),
        }
    }

    /// Holds back what is to be done to sockets.
    fn command(&mut self, function: &str, command: SocketCommand) -> Result<(), Refusal> {
        let Granted { namespace, function, .. } = self.sockets_of(function)?;
        let bytes = command.bytes();
        self.room(1, bytes).map_err(Refusal::TooMany)?;
        self.effect_bytes += bytes;
        self.effects.sockets.push(SocketEffect { namespace, function, command });
        Ok(())
    }

    fn members_of(&self, function: &str, room: String, cursor: Option<String>) -> Result<Page, Refusal> {
        let Granted { sockets, namespace, function } = self.sockets_of(function)?;
        let room = name("room", room)?;
        let after = cursor.map(|cursor| {
            cursor.parse().map_err(|_| Refusal::invalid("cursor", "it is none that an earlier call answered"))
        });
        let members = sockets.members(&namespace, &function, &room, after.transpose()?);
        let more = members.len() >= MEMBERS_PAGE;
        let cursor = members.last().filter(|_| more).map(|last| last.client.to_string());
        let member = |member: trigger_core::SocketMember| sockets::Member {
            client: member.client.to_string(),
            caller: member.caller.map(String::from),
        };
        Ok(Page { members: members.into_iter().map(member).collect(), cursor })
    }

    /// What is kept with a socket, or will be if this attempt succeeds.
    fn attached_to(&self, function: &str, client: &str) -> Result<Option<Bytes>, Refusal> {
        let Granted { sockets, namespace, function } = self.sockets_of(function)?;
        let client = id(client)?;
        let Some(kept) = sockets.attachment(&namespace, &function, client) else { return Ok(None) };
        let own = self.effects.sockets.iter().rev().find_map(|effect| match &effect.command {
            SocketCommand::Attach { client: to, bytes }
                if *to == client && effect.namespace == namespace && effect.function == function =>
            {
                Some(bytes.clone())
            }
            _ => None,
        });
        Ok(Some(own.unwrap_or(kept)))
    }
}

fn id(client: &str) -> Result<Uuid, Refusal> {
    client.parse().map_err(|_| Refusal::invalid("client", format!("{:?} is the id of no socket", shown(client))))
}

/// The name of a room or a tag.
fn name(field: &str, name: String) -> Result<Box<str>, Refusal> {
    match name.len() {
        1..=MAX_SOCKET_NAME => Ok(name.into()),
        bytes => Err(Refusal::invalid(field, format!("its name has {bytes} bytes, expected 1 to {MAX_SOCKET_NAME}"))),
    }
}

fn named(client: &str, field: &str, called: String) -> Result<(Uuid, Box<str>), Refusal> {
    Ok((id(client)?, name(field, called)?))
}

fn recipients(to: Recipients) -> Result<trigger_core::Recipients, Refusal> {
    Ok(match to {
        Recipients::Client(client) => trigger_core::Recipients::Client(id(&client)?),
        Recipients::Room(room) => trigger_core::Recipients::Room(name("room", room)?),
        Recipients::Tag(tag) => trigger_core::Recipients::Tag(name("tag", tag)?),
        Recipients::Everyone => trigger_core::Recipients::Everyone,
    })
}

fn close(client: &str, code: u16, reason: String) -> Result<SocketCommand, Refusal> {
    if !matches!(code, 1000 | 1001 | 1008 | 1011..=1013 | 3000..=4999) {
        let why = format!("{code} is none that says goodbye: expected 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999");
        return Err(Refusal::invalid("code", why));
    }
    if reason.len() > MAX_CLOSE_REASON {
        let why = format!("it has {} bytes, the limit is {MAX_CLOSE_REASON}", reason.len());
        return Err(Refusal::invalid("reason", why));
    }
    Ok(SocketCommand::Close { client: id(client)?, code, reason: reason.into() })
}
