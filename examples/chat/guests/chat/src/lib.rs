//! A chat room. Whoever opens a socket is in the room of its path, under the name that it brings; what it says goes to
//! everyone there. `POST` to a room is an announcement in it, and `GET /` is the page.

use serde_json::json;
use tripline_guest::sockets::Sockets;
use tripline_guest::{Event, Failure, Response, Trigger};

tripline_guest::handler!(chat);

const PAGE: &str = include_str!("page.html");
const MAX_NAME: usize = 40;

fn chat(event: Event) -> Result<Response, Failure> {
    let sockets = Sockets::of(event.function_name());
    let room = event.param("room").unwrap_or_default();
    match (event.trigger, event.attribute("method").as_deref()) {
        (Trigger::Http, Some("POST")) => {
            say(&sockets, &room, "announcement", event.text()?)?;
            Ok(Response::new("").status(202))
        }
        (Trigger::Http, _) => Ok(Response::from(PAGE).header("content-type", "text/html; charset=utf-8")),
        _ => {
            on_socket(&event, &sockets, &room)?;
            Ok(Response::from(""))
        }
    }
}

fn on_socket(event: &Event, sockets: &Sockets, room: &str) -> Result<(), Failure> {
    let client = event.client().unwrap_or_default();
    if event.attribute("event").as_deref() == Some("connect") {
        let name = name(&event.attribute("query").unwrap_or_default());
        // Refuses the socket.
        let name = name.ok_or_else(|| Failure::permanent(format!("a name of 1 to {MAX_NAME} bytes is needed: ?name=")))?;
        sockets.attach(&client, &name)?;
        sockets.join(&client, room)?;
        return Ok(say(sockets, room, "came", &name)?);
    }
    let kept = sockets.attachment(&client)?.unwrap_or_default();
    let name = String::from_utf8_lossy(&kept);
    let line = json!({ "from": name, "text": event.text()? });
    Ok(sockets.to_room(room, line.to_string())?)
}

/// A line that is nobody's.
fn say(sockets: &Sockets, room: &str, what: &str, text: &str) -> Result<(), tripline_guest::HostError> {
    sockets.to_room(room, json!({ what: text }).to_string())
}

/// `name=` of a query. Letters and digits of ASCII are never encoded, and the page sends no others.
fn name(query: &str) -> Option<String> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name="))?;
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fits.then(|| name.to_owned())
}
