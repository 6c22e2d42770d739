//! One harness: triggers over a fake engine, a listener on a port of its own, and a caller that speaks bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, Kind, Response, Trigger as _, TriggerContext, TriggerKind as _};
use trigger_http::{Bound, Http, Routes, Server, ServerConfig};

/// Longer than anything here takes, shorter than patience.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Starts a task that someone waits for.
pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    TaskTracker::new().spawn(task)
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} for: {what}"),
    }
}

/// Binds a trigger from its section of the manifest.
pub(crate) async fn bind(routes: &Routes, cx: &TriggerContext, section: Value) -> Bound {
    let config = serde_json::from_value(section).unwrap();
    let kind = Http::new(routes.clone());
    let mut problems = trigger_core::Problems::new();
    kind.check(&config, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    kind.bind(config, cx.binding.clone()).await.unwrap()
}

/// A running trigger.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    pub(crate) ended: JoinHandle<()>,
}

pub(crate) async fn run(routes: &Routes, dispatch: &Arc<FakeDispatch>, trigger_id: &str, section: Value) -> Running {
    let cx = dispatch.context(Kind::Http, trigger_id);
    let shutdown = cx.shutdown.clone();
    let bound = bind(routes, &cx, section).await;
    let ended = spawn(async move { bound.run(cx).await.unwrap() });
    Running { shutdown, ended }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        in_time("the trigger to stop", self.ended).await.unwrap();
    }
}

/// A table with one trigger, without a listener.
pub(crate) async fn table(dispatch: &Arc<FakeDispatch>, section: Value) -> Routes {
    let routes = Routes::default();
    run(&routes, dispatch, "trigger", section).await;
    routes
}

/// A running listener.
pub(crate) struct Listener {
    pub(crate) addr: std::net::SocketAddr,
    pub(crate) routes: Routes,
    pub(crate) shutdown: CancellationToken,
    pub(crate) force: CancellationToken,
    pub(crate) ended: JoinHandle<()>,
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig { listen: ([127, 0, 0, 1], 0).into(), ..ServerConfig::default() }
}

pub(crate) async fn listen(config: ServerConfig) -> Listener {
    let server = Server::bind(config).await.unwrap();
    let (shutdown, force) = (CancellationToken::new(), CancellationToken::new());
    Listener {
        addr: server.local_addr(),
        routes: server.routes(),
        shutdown: shutdown.clone(),
        force: force.clone(),
        ended: spawn(server.run(shutdown, force)),
    }
}

/// A listener with one trigger.
pub(crate) async fn serve(config: ServerConfig, dispatch: &Arc<FakeDispatch>, section: Value) -> Listener {
    let listener = listen(config).await;
    run(&listener.routes, dispatch, "trigger", section).await;
    listener
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The problem's code; checks that the problem is whole.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["retryable"].is_boolean());
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Asks the table, without a socket.
pub(crate) async fn ask(routes: &Routes, request: Request<Full<Bytes>>) -> Reply {
    let response = in_time("a response", routes.handle(request)).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

pub(crate) fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

/// What a caller may speak over.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A caller's end of a connection.
pub(crate) struct Caller {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
}

impl Caller {
    pub(crate) async fn connect(listener: &Listener) -> Self {
        Self::over(TcpStream::connect(listener.addr).await.unwrap())
    }

    pub(crate) fn over(socket: impl Socket + 'static) -> Self {
        Self { socket: Box::new(socket), buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("the socket to take bytes", self.socket.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends what a peer that may have closed already may refuse to take.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        in_time("the socket to take bytes", self.socket.write_all(bytes.as_ref())).await
    }

    pub(crate) async fn close_sending_side(&mut self) {
        self.try_close_sending_side().await.unwrap();
    }

    /// The same where the peer may have closed already.
    pub(crate) async fn try_close_sending_side(&mut self) -> std::io::Result<()> {
        self.socket.shutdown().await
    }

    async fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let read = in_time("the head of a response", self.socket.read_buf(&mut self.buffer)).await;
            assert_ne!(read.expect("a response"), 0, "closed after {:?}", String::from_utf8_lossy(&self.buffer));
        };
        let text: Vec<u8> = self.buffer.drain(..end).collect();
        let mut lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        let status_line = std::str::from_utf8(lines.next().unwrap()).unwrap();
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|&byte| byte == b':').unwrap();
            let name = http::HeaderName::from_bytes(&line[..colon]).unwrap();
            headers.append(name, http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).unwrap());
        }
        Reply { status, headers, body: Bytes::new() }
    }

    /// The next response; one to HEAD has no body whatever its length says.
    pub(crate) async fn reply_to_head(&mut self) -> Reply {
        self.head().await
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length {
            let read = in_time("the body of a response", self.socket.read_buf(&mut self.buffer)).await;
            assert_ne!(read.expect("a body"), 0, "closed within the body");
        }
        reply.body = self.buffer.drain(..length).collect();
        reply
    }

    /// The next response, or nothing if the connection was closed before its first byte.
    pub(crate) async fn reply_or_close(&mut self) -> Option<Reply> {
        if self.buffer.is_empty() {
            match in_time("a response or the end", self.socket.read_buf(&mut self.buffer)).await {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                read => read.expect("a response"),
            };
        }
        Some(self.reply().await)
    }

    /// Sends a request and reads its response.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.send(request).await;
        self.reply().await
    }

    /// Waits until the other side has closed, whatever comes before.
    pub(crate) async fn drained(&mut self) -> Vec<u8> {
        loop {
            match in_time("the connection to be closed", self.socket.read_buf(&mut self.buffer)).await {
                Ok(0) => return std::mem::take(&mut self.buffer),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return std::mem::take(&mut self.buffer);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether the connection ends, in whatever way, without an answer.
    pub(crate) async fn refused(&mut self) -> bool {
        !matches!(in_time("an answer or the end", self.socket.read_buf(&mut self.buffer)).await, Ok(1..))
    }

    /// Waits until the other side has closed; nothing may come before.
    pub(crate) async fn closed(&mut self) {
        assert!(self.buffer.is_empty(), "{:?}", String::from_utf8_lossy(&self.buffer));
        match in_time("the connection to be closed", self.socket.read_buf(&mut self.buffer)).await {
            Ok(0) => {}
            Ok(_) => panic!("more came: {:?}", String::from_utf8_lossy(&self.buffer)),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

/// A dispatch that answers when the gate opens.
pub(crate) fn gated() -> (Arc<FakeDispatch>, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let waits = gate.clone();
    let dispatch = FakeDispatch::new_async(move |event| {
        let gate = waits.clone();
        Box::pin(async move {
            gate.notified().await;
            Answer::Ok(Response::from(event.payload))
        })
    });
    (dispatch, gate)
}

/// A dispatch that never answers, and a flag that says whether its future was dropped.
pub(crate) fn stuck() -> (Arc<FakeDispatch>, Arc<AtomicBool>) {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let dispatch = FakeDispatch::new_async(move |_| {
        let guard = OnDrop(flag.clone());
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    });
    (dispatch, dropped)
}
