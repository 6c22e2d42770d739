//! The message bus: the same contract in process and over NATS.

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{BoxFuture, Headers};

/// Header that carries an event's depth (see `InvocationContext::depth`).
pub const DEPTH_HEADER: &str = "Tripline-Depth";
/// Header that names the invocation whose guest published the message.
pub const PARENT_HEADER: &str = "Tripline-Parent";
/// Header by which a JetStream stream recognises a message that was published twice.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";

/// One message on a subject.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The subject, without wildcards.
    pub subject: Box<str>,
    /// Where an answer is awaited (request/reply).
    pub reply: Option<Box<str>>,
    /// Its headers.
    pub headers: Headers,
    /// Its bytes.
    pub payload: Bytes,
}

/// Publishes and subscribes.
pub trait Bus: Send + Sync + 'static {
    /// Hands a message over. `Ok` means that the bus has taken it: in process, that every matching subscription has
    /// it; over NATS, that the client has it (a lost connection may still lose it, as core NATS does).
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>>;

    /// Publishes a message that must not be lost: over NATS it waits for the JetStream acknowledgement when a stream
    /// covers the subject, and for the server's answer to a flush otherwise.
    fn publish_durably(&self, message: Message) -> BoxFuture<'_, Result<(), BusError>>;

    /// Subscribes to a subject, wildcards allowed; members of one queue group share the messages.
    fn subscribe(&self, subject: &str, queue_group: Option<&str>) -> BoxFuture<'_, Result<Subscription, BusError>>;

    /// The largest payload that the bus takes, in bytes.
    fn max_payload_bytes(&self) -> usize;

    /// Why the bus cannot do its work at the moment; `None` while it can.
    fn degraded(&self) -> Option<String>;
}

/// Speaks to the engines that share this one's store and its bus. What is heard comes from one of them: nobody else can
/// say it.
pub trait Peers: Send + Sync + 'static {
    /// Says something to all of them, this one included. As with [`Bus::publish`], a lost connection may lose it; what
    /// is said by one engine is heard in its order.
    fn say(&self, said: Bytes) -> BoxFuture<'_, Result<(), BusError>>;

    /// What they say from now on.
    fn listen(&self) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, BusError>>;

    /// The most that can be said at once, in bytes.
    fn max_bytes(&self) -> usize;

    /// Why nobody can be reached at the moment; `None` while they can.
    fn degraded(&self) -> Option<String>;

    /// Messages that were heard and not believed, so far.
    fn forged(&self) -> u64;
}

/// The messages of one subscription. Dropping it unsubscribes.
pub struct Subscription {
    /// The messages; ends after [`stop`](Self::stop) once those already received are taken, or when the bus is gone.
    pub messages: BoxStream<'static, Message>,
    /// Ends the subscription without dropping what was received.
    pub stop: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
    /// How many messages were dropped because this subscription was slow, since it began.
    pub dropped: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// Why the bus did not take a message or a subscription.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// The subject breaks the rules of [`crate::subject`].
    #[error("invalid subject {subject:?}: {why}")]
    InvalidSubject {
        /// The subject.
        subject: String,
        /// What is wrong.
        why: String,
    },
    /// A header cannot be carried as it is. The value is not told, since it may be a secret.
    #[error("invalid header {name:?}: {why}")]
    InvalidHeader {
        /// The header's name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The message is larger than the bus takes.
    #[error("a message of {size} bytes is over the bus's limit of {limit} bytes")]
    TooLarge {
        /// The message's size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The bus is away or its queue is full; trying again may go better.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}
