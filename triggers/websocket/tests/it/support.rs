//! A listener with WebSocket triggers over a fake engine, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Kind, Problems, SocketCommand, SocketEffect, Sockets as _, Trigger as _, TriggerKind as _};
use trigger_http::{Routes, Server, ServerConfig, Trust};
use trigger_websocket::{Hub, Websocket};

/// Longer than anything here takes, shorter than patience.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} for: {what}"),
    }
}

/// A listener, and the sockets that come in by it.
pub(crate) struct Place {
    pub(crate) addr: SocketAddr,
    pub(crate) hub: Arc<Hub>,
    routes: Routes,
}

/// A running trigger.
pub(crate) struct Running {
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        in_time("the trigger to stop", self.ended).await.unwrap();
    }
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::trusting(Trust::default()).await
    }

    /// One that believes what these proxies say.
    pub(crate) async fn trusting(trust: Trust) -> Self {
        let config = ServerConfig { listen: ([127, 0, 0, 1], 0).into(), trust, ..ServerConfig::default() };
        let server = Server::bind(config).await.unwrap();
        let (addr, routes) = (server.local_addr(), server.routes());
        TaskTracker::new().spawn(server.run(CancellationToken::new(), CancellationToken::new()));
        Self { addr, routes, hub: Arc::default() }
    }

    /// Runs a trigger at `/live`, with these keys beside its path.
    pub(crate) async fn run(&self, dispatch: &Arc<FakeDispatch>, keys: Value) -> Running {
        self.run_at("/live", dispatch, keys).await
    }

    pub(crate) async fn run_at(&self, path: &str, dispatch: &Arc<FakeDispatch>, mut keys: Value) -> Running {
        keys["path"] = json!(path);
        let config = serde_json::from_value(keys).unwrap();
        let kind = Websocket::new(self.hub.clone(), Arc::new(self.routes.clone()));
        let mut problems = Problems::new();
        kind.check(&config, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let cx = dispatch.context(Kind::Websocket, "live");
        let shutdown = cx.shutdown.clone();
        let bound = kind.bind(config, cx.binding.clone()).await.unwrap();
        let ended = TaskTracker::new().spawn(async move { bound.run(cx).await.unwrap() });
        // As the supervisor does it: the new one runs before the old one is asked to stop.
        tokio::task::yield_now().await;
        Running { shutdown, ended }
    }

    pub(crate) async fn connect(&self) -> Client {
        self.ask("/live", &[]).await.unwrap()
    }

    /// Asks for a socket; the error is the response's status and its `code` or text.
    pub(crate) async fn ask(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", self.addr).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.addr).await.unwrap();
        match in_time("an answer to the request", tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, response)) => {
                let subprotocol = response.headers().get("sec-websocket-protocol");
                let subprotocol = subprotocol.map(|name| name.to_str().unwrap().to_owned());
                Ok(Client { socket, subprotocol })
            }
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                let text = String::from_utf8_lossy(&body).into_owned();
                let code =
                    serde_json::from_str::<Value>(&text).ok().and_then(|body| Some(body["code"].as_str()?.to_owned()));
                Err((response.status().as_u16(), code.unwrap_or(text)))
            }
            Err(error) => panic!("no answer to the request: {error}"),
        }
    }

    /// Does something to the sockets of the function.
    pub(crate) fn apply(&self, command: SocketCommand) {
        self.hub.apply(SocketEffect { namespace: "default".into(), function: "function".into(), command });
    }
}

/// A client's end of a socket.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) subprotocol: Option<String>,
}

impl Client {
    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        in_time("the socket to take a frame", self.socket.send(message.into())).await.unwrap();
    }

    /// The next frame but pings and pongs; nothing after a close frame.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            match in_time("a frame", self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(error)) => panic!("the socket broke: {error}"),
                None => return None,
            }
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("a text was expected: {other:?}"),
        }
    }

    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The code and reason of the close frame, which is next; then the connection ends.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Some(Message::Close(Some(frame))) => {
                assert_eq!(self.next().await, None);
                (frame.code.into(), frame.reason.to_string())
            }
            other => panic!("a close frame was expected: {other:?}"),
        }
    }
}

/// The events that the engine was given so far: each by its name and an attribute.
pub(crate) fn told(dispatch: &FakeDispatch, attribute: &str) -> Vec<String> {
    let line = |event: &trigger_core::InvocationContext| {
        let name = event.attribute("event").unwrap();
        event.attribute(attribute).map_or(name.to_owned(), |value| format!("{name} {value}"))
    };
    dispatch.seen().iter().map(line).collect()
}

pub(crate) async fn wait_for_events(dispatch: &FakeDispatch, count: usize) {
    eventually("events", || dispatch.seen().len() >= count).await;
}

/// A frame as a client sends it, with a mask of zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
        longer => {
            frame.push(0x80 | 127);
            frame.extend((longer as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The first byte of the next frame, and its payload.
pub(crate) async fn answer(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    in_time("a frame", stream.read_exact(&mut head)).await.unwrap();
    let length = match head[1] {
        126 => u64::from(in_time("its length", stream.read_u16()).await.unwrap()),
        127 => in_time("its length", stream.read_u64()).await.unwrap(),
        short => short.into(),
    };
    let mut payload = vec![0; length as usize];
    in_time("its payload", stream.read_exact(&mut payload)).await.unwrap();
    (head[0], payload)
}

/// The code of the close frame, which is next and the last.
pub(crate) async fn close_code(stream: &mut TcpStream) -> u16 {
    let (first, payload) = answer(stream).await;
    assert_eq!(first, 0x88, "a close frame: {payload:?}");
    ends(stream).await;
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}

/// Waits for the end of a connection, before which nothing comes.
pub(crate) async fn ends(stream: &mut TcpStream) {
    let _it_may_be_closed_already = stream.shutdown().await;
    let mut rest = Vec::new();
    in_time("the end", stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "nothing follows a close frame: {rest:?}");
}
