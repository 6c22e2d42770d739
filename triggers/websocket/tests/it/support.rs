//! A listener with WebSocket triggers over a fake engine, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Kind, Problems, SocketCommand, SocketEffect, Sockets as _, Trigger as _, TriggerKind as _};
use trigger_http::{Routes, Server, ServerConfig};
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
        let config = ServerConfig { listen: ([127, 0, 0, 1], 0).into(), ..ServerConfig::default() };
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
