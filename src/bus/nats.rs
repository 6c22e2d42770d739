//! The bus over NATS.
//!
//! The connection is made in the background and made again whenever it is lost; meanwhile the bus says so
//! ([`Bus::degraded`]) and refuses to publish, since what the client library would keep for later is lost with the
//! process and nobody would know. Whoever must not lose a message keeps it and tries again.
//!
//! The connection has a thread of its own: what arrives must be taken from the client library before its queues are
//! full, since it does not say whose message it drops, and guests may keep every other thread busy.

mod config;
mod convert;
mod coverage;
mod peers;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::jetstream::context::PublishErrorKind as AckErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, ConnectOptions, Event, ServerError, jetstream};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use trigger_core::bus::{BusError, MESSAGE_ID_HEADER, Subscription};
use trigger_core::subject::is_reserved;
use trigger_core::{BoxFuture, Bus, Message};

use super::{check, check_subscription, payload_limit};
use coverage::Coverage;

pub use config::{Auth, NatsConfig, ParseError};
pub use peers::NatsPeers;

/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long `connect` waits for the first connection before it goes on without.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

/// A silent connection is found out within three of these: the library gives it up when two went unanswered and the
/// third is due.
const PING: Duration = Duration::from_secs(3);

/// Messages of one subscription that the library may hold until the bus takes them. It reads all that a socket holds in
/// one go, which small messages make hundreds of thousands.
const MAX_BURST: usize = 1 << 20;

/// The longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// A NATS connection, or the wish for one.
pub struct NatsBus {
    client: Client,
    js: jetstream::Context,
    addresses: String,
    coverage: Coverage,
    watched: Arc<Watched>,
    tasks: TaskTracker,
    thread: Thread,
}

/// The connection's own thread.
struct Thread(Option<Runtime>);

impl Thread {
    fn start() -> std::io::Result<Self> {
        Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build().map(|it| Self(Some(it)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it is dropped").handle()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}

/// What the connection's events told.
#[derive(Default)]
struct Watched {
    last_error: Mutex<Option<String>>,
    /// Woken by the first connection and by the first failure.
    first: Notify,
    /// Messages that the library dropped before the bus saw them.
    slow: AtomicU64,
}

/// The bus cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials file is not there or not one.
    #[error("cannot read the credentials file {path}: {error}")]
    CredentialsFile {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The client library does not take the configuration.
    #[error("cannot set up the connection to NATS: {0}")]
    Options(String),
}

impl NatsBus {
    /// Connects, and goes on trying in the background when the servers are away.
    pub async fn connect(config: NatsConfig) -> Result<Self, ConnectError> {
        let watched = Arc::new(Watched::default());
        let events = watched.clone();
        let options = let_in(ConnectOptions::new(), &config.auth)
            .await?
            .name("tripline")
            .retry_on_initial_connect()
            .ping_interval(PING)
            .request_timeout(Some(ANSWER))
            .subscription_capacity(MAX_BURST)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                events.tell(event);
                std::future::ready(())
            });
        let addresses = config.addresses();
        let thread = Thread::start().map_err(|error| ConnectError::Options(error.to_string()))?;
        let servers = addresses.clone();
        let connecting = thread.handle().spawn(async move { options.connect(&servers).await });
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(ConnectError::Options(error.to_string())),
            Err(error) => return Err(ConnectError::Options(error.to_string())),
        };
        let mut js = jetstream::new(client.clone());
        js.set_timeout(ANSWER);
        let _ = tokio::time::timeout(FIRST_CONNECTION, watched.first.notified()).await;
        let bus = Self {
            client,
            js,
            addresses: addresses.join(", "),
            coverage: Coverage::default(),
            watched,
            tasks: TaskTracker::new(),
            thread,
        };
        if let Some(why) = bus.degraded() {
            tracing::warn!("{why}; trying again until it is there");
        }
        Ok(bus)
    }

    /// A handle to the connection, for what only NATS has.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits until what was published is on its way, before the process ends.
    pub async fn flush(&self) {
        if self.degraded().is_none() && !matches!(tokio::time::timeout(ANSWER, self.client.flush()).await, Ok(Ok(()))) {
            tracing::warn!("messages that were published last may not have reached the NATS server");
        }
    }

    fn connected(&self) -> Result<(), BusError> {
        match self.degraded() {
            None => Ok(()),
            Some(why) => Err(BusError::Unavailable(why)),
        }
    }

    fn ready_to_send(&self, message: &Message) -> Result<(), BusError> {
        check(message, self.client.max_payload())?;
        self.connected()
    }

    async fn send(&self, message: Message) -> Result<(), BusError> {
        let headers = convert::headers(&message.headers)?;
        let Message { subject, reply, payload, .. } = message;
        let client = &self.client;
        let subject = String::from(subject);
        let reply = reply.map(String::from);
        let sending = async {
            match (reply, headers) {
                (None, None) => client.publish(subject, payload).await,
                (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
                (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
                (Some(reply), Some(headers)) => {
                    client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
            }
        };
        // The client's queue is full while a connection hangs; a ping finds that out later.
        match tokio::time::timeout(ANSWER, sending).await {
            Ok(sent) => sent.map_err(|error| {
                BusError::Unavailable(match error.kind() {
                    PublishErrorKind::Send => "the connection to NATS was given up".to_owned(),
                    _ => error.to_string(),
                })
            }),
            Err(_) => Err(BusError::Unavailable("the connection to NATS takes no more messages".to_owned())),
        }
    }

    /// Waits until the server has seen everything that was sent to it before: it reads a connection in order, so once
    /// it has sent a message back, it has seen what went before that. (A request to nobody would be answered sooner, but
    /// not while anybody subscribes to everything.)
    async fn answered(&self) -> Result<(), BusError> {
        let inbox = self.client.new_inbox();
        let round = async {
            let mut echo = self.client.subscribe(inbox.clone()).await.ok()?;
            self.client.publish(inbox, bytes::Bytes::new()).await.ok()?;
            echo.next().await
        };
        match tokio::time::timeout(ANSWER, round).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(BusError::Unavailable("the connection to NATS was given up".to_owned())),
            Err(_) => {
                self.connected()?;
                let seconds = ANSWER.as_secs();
                Err(BusError::Unavailable(format!(
                    "the server did not confirm a message within {seconds} s; the user needs the right to publish and \
                     subscribe to _INBOX.>"
                )))
            }
        }
    }

    async fn keep(&self, message: Message) -> Result<(), BusError> {
        self.ready_to_send(&message)?;
        if self.coverage.covers(&self.js, &message.subject).await? && self.acknowledged(&message).await? {
            return Ok(());
        }
        self.send(message).await?;
        self.answered().await
    }

    /// Publishes into the stream that keeps the subject; `false` if there is none any more.
    async fn acknowledged(&self, message: &Message) -> Result<bool, BusError> {
        let mut publish = PublishMessage::build().payload(message.payload.clone());
        if let Some(headers) = convert::headers(&message.headers)? {
            publish = publish.headers(headers);
        }
        if message.headers.get(MESSAGE_ID_HEADER).is_none() {
            // It also says to those who subscribe to the subject that the reply subject is not theirs to answer.
            publish = publish.message_id(uuid::Uuid::now_v7().to_string());
        }
        let sent = match self.js.send_publish(String::from(message.subject.clone()), publish).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        let Err(error) = sent else { return Ok(true) };
        self.coverage.forget(&message.subject);
        match error.kind() {
            AckErrorKind::StreamNotFound => Ok(false),
            AckErrorKind::MaxPayloadExceeded => {
                Err(BusError::TooLarge { size: message.payload.len(), limit: self.max_payload_bytes() })
            }
            _ => Err(BusError::Unavailable(format!("the stream did not take the message: {error}"))),
        }
    }

    async fn join(&self, pattern: &str, queue_group: Option<&str>) -> Result<Subscription, BusError> {
        let subscribing = async {
            let pattern = pattern.to_owned();
            match queue_group {
                Some(group) => self.client.queue_subscribe(pattern, group.to_owned()).await,
                None => self.client.subscribe(pattern).await,
            }
        };
        let subscriber = tokio::time::timeout(ANSWER, subscribing)
            .await
            .map_err(|_| BusError::Unavailable("the connection to NATS takes no more subscriptions".to_owned()))?
            .map_err(|error| BusError::Unavailable(error.to_string()))?;
        if self.degraded().is_none() {
            // So that what is published from now on arrives. Where the server is away, it is told when it is back.
            let _ = self.answered().await;
        }
        Ok(subscription::forward(self.client(), subscriber, &self.tasks, self.thread.handle()))
    }
}

impl std::fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsBus").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Sets how to be let in.
async fn let_in(options: ConnectOptions, auth: &Auth) -> Result<ConnectOptions, ConnectError> {
    Ok(match auth {
        Auth::None => options,
        Auth::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
        Auth::Token(token) => options.token(token.clone()),
        Auth::CredentialsFile(path) => options
            .credentials_file(path)
            .await
            .map_err(|error| ConnectError::CredentialsFile { path: path.display().to_string(), error })?,
    })
}

/// The pause before a try to connect: none before the first, then doubling with jitter, so that the nodes of a cluster
/// do not come back to a server all at once.
fn pause(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX).min(16);
    let full = Duration::from_millis(20).saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}

impl Watched {
    fn tell(&self, event: Event) {
        match event {
            Event::Connected => {
                *self.last_error.lock() = None;
                self.first.notify_one();
                tracing::info!("connected to NATS");
            }
            Event::Disconnected => tracing::warn!("the connection to NATS was lost"),
            Event::SlowConsumer(_) => {
                // A burst drops thousands: one line for each doubling tells as much.
                let dropped = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
                if dropped.is_power_of_two() {
                    tracing::error!(dropped, "messages were dropped before they could be counted to a subscription");
                }
            }
            Event::ServerError(ServerError::Other(error)) => tracing::error!("the NATS server says: {error}"),
            Event::ServerError(error) => tracing::warn!("{error}"),
            Event::ClientError(error) => {
                *self.last_error.lock() = Some(error.to_string());
                self.first.notify_one();
            }
            Event::LameDuckMode => tracing::info!("the NATS server is going away"),
            Event::Draining | Event::Closed => {}
        }
    }
}

impl Bus for NatsBus {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            self.ready_to_send(&message)?;
            self.send(message).await
        })
    }

    fn publish_durably(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(self.keep(message))
    }

    fn subscribe(&self, subject: &str, queue_group: Option<&str>) -> BoxFuture<'_, Result<Subscription, BusError>> {
        let (subject, queue_group) = (subject.to_owned(), queue_group.map(str::to_owned));
        Box::pin(async move {
            check_subscription(&subject, queue_group.as_deref())?;
            let mut subscription = self.join(&subject, queue_group.as_deref()).await?;
            if subject.starts_with(['*', '>']) {
                let others = |message: &Message| std::future::ready(!is_reserved(&message.subject));
                subscription.messages = subscription.messages.filter(others).boxed();
            }
            Ok(subscription)
        })
    }

    fn max_payload_bytes(&self) -> usize {
        payload_limit(self.client.max_payload())
    }

    fn degraded(&self) -> Option<String> {
        if self.client.connection_state() == State::Connected {
            return None;
        }
        let why = self.watched.last_error.lock().as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        Some(format!("no connection to {}{why}", self.addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_no_further() {
        assert_eq!((pause(0), pause(1)), (Duration::ZERO, Duration::ZERO));
        for attempt in 2..200 {
            let pause = pause(attempt);
            assert!(pause >= Duration::from_millis(10) && pause <= LONGEST_PAUSE, "{attempt}: {pause:?}");
        }
        assert!(pause(usize::MAX) >= LONGEST_PAUSE / 2);
    }

    #[tokio::test]
    async fn a_credentials_file_that_is_not_there_is_named() {
        let mut config: NatsConfig = "nats://127.0.0.1:1".parse().unwrap();
        config.auth = Auth::CredentialsFile("/nowhere/user.creds".into());
        let error = NatsBus::connect(config).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot read the credentials file /nowhere/user.creds: "), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_no_failure_to_start_and_is_told() {
        let config: NatsConfig = "nats://s3cret@127.0.0.1:1".parse().unwrap();
        let bus = NatsBus::connect(config).await.unwrap();
        let why = bus.degraded().unwrap();
        assert!(why.contains("no connection to nats://127.0.0.1:1") && !why.contains("s3cret"), "{why}");
        assert!(!format!("{bus:?}").contains("s3cret"));
        let message = Message { subject: "a".into(), ..Message::default() };
        for refused in [bus.publish(message.clone()).await, bus.publish_durably(message).await] {
            assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
        }
        let subscription = bus.subscribe("a.>", None).await.unwrap();
        (subscription.stop)().await;
    }
}
