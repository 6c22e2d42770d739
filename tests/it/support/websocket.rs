//! A client's end of a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::engine::{Project, workspace};

const LIMIT: Duration = Duration::from_secs(20);

/// Offers the engine's own subprotocol.
pub const ENVELOPE: (&str, &str) = ("sec-websocket-protocol", "tripline.v1");

pub struct Client(WebSocketStream<TcpStream>);

/// Opens a socket; the error is the status of the refusal.
pub async fn open(project: &Project, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
    let mut request = format!("ws://127.0.0.1:{}{path}", project.public).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(("127.0.0.1", project.public)).await.unwrap();
    match tokio::time::timeout(LIMIT, tokio_tungstenite::client_async(request, stream)).await.expect("an answer") {
        Ok((socket, _)) => Ok(Client(socket)),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub async fn next(&mut self) -> Message {
        tokio::time::timeout(LIMIT, self.0.next()).await.expect("a frame in time").expect("a frame").unwrap()
    }

    pub async fn text(&mut self) -> String {
        self.next().await.into_text().unwrap().to_string()
    }

    /// The next frame that is an envelope of this type; those before it are passed over.
    pub async fn told(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            let told: Value = match message.to_text() {
                Ok(text) if message.is_text() => serde_json::from_str(text).unwrap(),
                _ => continue,
            };
            if told["type"] == kind {
                return told;
            }
        }
    }

    /// The code of the close frame, which is next.
    pub async fn closed(&mut self) -> u16 {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("a close frame was expected: {other:?}"),
        }
    }
}

/// The example's function, whose sockets speak `tripline.v1` where they ask for it. `engine` adds settings.
pub fn chat(engine: &str) -> Project {
    let source = workspace().join("examples/chat");
    let text = std::fs::read_to_string(source.join("tripline.toml")).unwrap();
    let project = Project::new(engine, &text);
    std::fs::create_dir(project.path("modules")).unwrap();
    std::fs::copy(source.join("modules/chat.wasm"), project.path("modules/chat.wasm")).unwrap();
    project
}
